//! Numbers as lines, drawn as text.

use rhai::{Array, Dynamic, Map};

use super::tensor::Tensor;
use crate::engine::chart::{self, Line, Look};
use crate::engine::error::{Error, Result};
use crate::script::args::{Arg, Opts};
use crate::script::registry::Registry;
use crate::script::types;

/// Most values of one line.
const MOST: usize = 1_000_000;

fn numbers(name: &str, value: &Dynamic) -> Result<Vec<f64>> {
    let bad = |got: &Dynamic| {
        Error::value("plot", format!("{name} cannot be drawn"))
            .expected("a list of numbers, or a map of such lists")
            .got(types::got(got))
    };
    let values = if let Some(t) = value.read_lock::<Tensor>() {
        t.0.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?
    } else {
        let list = value.read_lock::<Array>().ok_or_else(|| bad(value))?;
        list.iter().map(|v| f64::read(v).map_err(|_| bad(v))).collect::<Result<_>>()?
    };
    if values.len() > MOST {
        return Err(Error::value("plot", format!("{name} has too many values"))
            .expected(format!("at most {MOST}"))
            .got(values.len().to_string()));
    }
    Ok(values)
}

fn lines(value: &Dynamic) -> Result<Vec<Line>> {
    let Some(map) = value.read_lock::<Map>() else {
        return Ok(vec![Line { name: String::new(), values: numbers("the value", value)? }]);
    };
    map.iter().map(|(name, v)| Ok(Line { name: name.to_string(), values: numbers(name, v)? })).collect()
}

/// Whether the locale says that there is nothing beyond ASCII. One that says nothing is taken for UTF-8, as today's are.
fn is_ascii() -> bool {
    let said =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os).find(|v| !v.is_empty());
    said.is_some_and(|v| {
        let v = v.to_string_lossy().to_lowercase();
        !v.contains("utf-8") && !v.contains("utf8")
    })
}

fn look(o: &Opts) -> Result<Look> {
    Ok(Look {
        width: o.or("width", 72usize)?,
        height: o.or("height", 12usize)?,
        title: o.or("title", String::new())?,
        log: o.or("log", false)?,
        ascii: o.or("ascii", is_ascii())?,
    })
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.def(
        "plot(values)",
        "Draws numbers as a line of text, to be printed: a list, a Tensor, or a map of several lists, each with a mark of its own. \
         At the prompt it shows itself. Values that are no finite numbers leave gaps.",
    )
    .option("width", "integer", "columns in all; 72")
    .option("height", "integer", "rows of the drawing; 12")
    .option("title", "string", "a line above it")
    .option("log", "true|false", "a logarithmic scale; what is not above 0 leaves gaps")
    .option("ascii", "true|false", "no characters beyond ASCII; as the locale says")
    .example("plot([3, 1, 2], #{ width: 20, height: 2, ascii: true }).len() > 40 // => true")
    .example("print(plot(#{ fast: [1, 0.1, 0.01], slow: [1, 0.5, 0.25] }, #{ log: true, height: 5 }));")
    .example("plot(\"dog\") // error: a list of numbers")
    .see(&["table", "minimize", "save_table"])
    .work()
    .bind(|values: Dynamic, o: Opts| -> Result<String> { chart::draw(&lines(&values)?, &look(&o)?) });
}
