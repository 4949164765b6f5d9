//! Small networks as values: made, run, trained, saved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rhai::{Dynamic, FnPtr, Map, NativeCallContext};

use super::tensor::Tensor;
use super::training::{self, Asked, Trained, follow};
use crate::engine::error::{Error, Result};
use crate::engine::nets::mlp::{Mlp, Running};
use crate::engine::train::{About, State};
use crate::engine::weights::folder::Folder;
use crate::engine::weights::model::Model;
use crate::engine::weights::read::TensorFile;
use crate::script::args::Opts;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};
use crate::script::values::Fail;

/// Longest file of a network, bytes.
const MAX_FILE: u64 = 1 << 30;

impl Handle for Mlp {
    const NAME: &'static str = "Mlp";

    fn detail(&self) -> String {
        let widths: Vec<String> = self.widths().iter().map(ToString::to_string).collect();
        let mode = if self.is_training() { "train" } else { "eval" };
        format!("{}  {} weights  {mode}", widths.join("-"), self.count())
    }

    fn bytes(&self) -> usize {
        Mlp::bytes(self)
    }
}

/// Saves it below --out.
pub(super) fn save(host: &Host, net: &Mlp, path: &Path) -> Result<PathBuf> {
    let named = match path.extension() {
        None => path.with_extension("safetensors"),
        Some(e) if e.eq_ignore_ascii_case("safetensors") => path.to_path_buf(),
        Some(_) => {
            return Err(Error::value("save", "networks are saved as safetensors")
                .expected("a name that ends in .safetensors, or has no ending")
                .got(path.display().to_string()));
        }
    };
    let bytes = net.encode()?;
    host.may_save("save", bytes.len() as u64)?;
    let saved = host.policy.borrow().write_new("save", &named, &bytes)?;
    host.note_saved(&saved);
    Ok(saved)
}

fn load(host: &Host, name: &str, m: Option<&Model>) -> Result<Mlp> {
    let path = Path::new(name);
    let shipped = Folder::shipped().map(|f| f.sub("predictors"));
    let file = match shipped {
        Ok(folder) if !path.exists() && folder.has(&format!("{name}.safetensors")) => {
            let files = folder.weights(name)?;
            files.into_iter().next().ok_or_else(|| Error::missing("load_mlp", format!("{name} is empty")))?
        }
        _ => {
            // Through the reader that refuses links, pipes and what is too long; then by its real path.
            let policy = host.policy.borrow();
            policy.read("load_mlp", path, MAX_FILE)?;
            TensorFile::open(&policy.readable("load_mlp", path)?).map_err(|e| e.op("load_mlp"))?
        }
    };
    let net = Mlp::decode(&file)?;
    let Some(m) = m else { return Ok(net) };
    let about = |key: &str| net.about().get(key).cloned().unwrap_or_default();
    if about("fingerprint") != m.fingerprint() {
        let whose =
            if about("model").is_empty() { "no model in particular".to_string() } else { about("model") };
        return Err(Error::value("load_mlp", format!("{name} was trained for another model"))
            .expected(format!("one trained for {}", m.name()))
            .got(whose)
            .hint("scumble run train_lgp trains one for this model"));
    }
    Ok(net)
}

/// A network in training: what its runs see of the batches is kept from step to step.
struct Net {
    net: Mlp,
    seen: RefCell<Option<Rc<RefCell<Running>>>>,
}

impl Trained for Net {
    const FORM: &'static str = "two: |net, i| ...";
    const WHAT: &'static str = "the network";
    const EXAMPLE: &'static str = "use the closure's net, not the one outside: |net, i| mse(net.run(x), y)";
    const HINT: &'static str = "every layer must have a part in the loss";

    fn value(&self, state: &State, values: &[candle_core::Tensor]) -> Result<Dynamic> {
        let (net, seen) = self.net.with_params(values)?.with_statistics(state.kept())?.watched();
        *self.seen.borrow_mut() = Some(seen);
        Ok(Dynamic::from(net))
    }

    fn kept(&self) -> Result<Option<Vec<candle_core::Tensor>>> {
        let kept = self.seen.borrow().as_ref().map(|seen| {
            let all = self.net.with_running(seen).statistics();
            all.into_iter().map(|(_, t)| t).collect()
        });
        Ok(kept)
    }
}

fn tune(
    host: &Host,
    cx: &NativeCallContext,
    net: &Mlp,
    o: &Opts,
    loss: &FnPtr,
) -> std::result::Result<Mlp, Fail> {
    if host.is_tracking() {
        return Err(Error::value("tune", "a network cannot be tuned inside of a gradient").into());
    }
    let asked = Asked::read(host, o, 1e-4)?;
    host.reserve("tune", net.bytes() as u64 * 8)?;
    let net = net.clone().training(true);
    let fresh = State::new("tune", net.params().to_vec(), asked.optimizer.clone())?.keeping(net.statistics());
    let widths: Vec<String> = net.widths().iter().map(ToString::to_string).collect();
    let about: About = [("network", net.fingerprint()?), ("widths", widths.join("-"))]
        .into_iter()
        .map(|(k, v)| (k.to_string(), v))
        .collect();
    let trained = Net { net, seen: RefCell::default() };
    let state = follow(host, cx, &trained, fresh, asked, about, loss)?;
    let net = trained.net.with_params(state.values())?.with_statistics(state.kept())?;
    Ok(net.training(false))
}

fn about(map: &Map) -> Result<BTreeMap<String, String>> {
    let text = |(k, v): (&rhai::Identifier, &Dynamic)| {
        let plain = v.is_string() || v.is_int() || v.is_float() || v.is_bool();
        if plain {
            return Ok((k.to_string(), v.to_string()));
        }
        Err(Error::value("with_about", format!("{k} cannot be {}", types::got(v)))
            .expected("text, a number, true or false")
            .got(types::got(v)))
    };
    map.iter().map(text).collect()
}

/// Binds them.
pub fn register(r: &mut Registry) {
    const N: &str = "let net = mlp([2, 8, 1], #{ seed: 1 });\n";
    let example = |code: &str| format!("{N}{code}");
    r.group("Small networks", "Perceptrons on rows, as values: training makes new ones.");
    r.def(
        "mlp(widths)",
        "A perceptron: inputs, hidden layers, outputs. After each hidden layer ReLU and batch normalization; layers begin as \
         torch's Linear does (other random numbers).",
    )
    .option("batch_norm", "true|false", "true")
    .option("seed", "integer", "of the first weights; 0")
    .example("mlp([2, 8, 1]) // => Mlp 2-8-1  49 weights  train")
    .example("mlp([2]) // error: there is no network of these widths")
    .see(&["run", "tune", "rows"])
    .bind(|widths: Vec<usize>, o: Opts| Mlp::new(&widths, o.or("batch_norm", true)?, o.or("seed", 0u64)?));
    r.def(
        "net.run(x)",
        "Rows [n, inputs] to rows [n, outputs], with gradients to rows and weights. In training a batch is normalized by itself, \
         in use by the running means that training has left.",
    )
    .example(&example("net.run(tensor([1, 2, 3, 4], [2, 2])).shape // => [2, 1]"))
    .example(&example("net.run(tensor([1, 2, 3])) // error: do not fit this network"))
    .see(&["mlp", "inference", "rows"])
    .work()
    .bind(|net: Mlp, x: Tensor| Ok::<_, Error>(Tensor(net.run(&x.0)?)));
    r.def("net.inference()", "The same network in use: normalized by running means.")
        .example(&example("net.inference() // => Mlp 2-8-1  49 weights  eval"))
        .see(&["train", "run"])
        .bind(|net: Mlp| net.training(false));
    r.def("net.train()", "The same network in training: a batch is normalized by itself.")
        .example(&example("net.inference().train() // => Mlp 2-8-1  49 weights  train"))
        .see(&["inference", "tune"])
        .bind(|net: Mlp| net.training(true));
    r.def("net.half()", "The same network with weights in half precision, in which `save` keeps them.")
        .example(&example("net.half().widths // => [2, 8, 1]"))
        .see(&["save"])
        .bind(|net: Mlp| net.half());
    let host = r.host();
    let tune_def = r.def(
        "net.tune(options, |net, i| loss)",
        "A new network whose weights have followed the gradient of a loss, by Adam or another optimizer; running means follow what \
         the closure's runs see, as torch's do. The result is in use (`inference`). Draw what is random from the step `i`: then a run \
         that goes on from its checkpoint is the same, bit for bit, as one that never stopped. A run that is stopped keeps its last \
         good state, in `file` or as NAME-tune.safetensors.",
    );
    training::options(tune_def, "1e-4")
        .example(
            "let x = tensor([0, 0, 0, 1, 1, 0, 1, 1], [4, 2]);\nlet y = tensor([0, 1, 1, 0], [4, 1]);\n\
         let net = mlp([2, 16, 1]).tune(#{ steps: 300, lr: 0.02 }, |net, i| mse(net.run(x), y));\n\
         mse(net.run(x), y).mean < 0.05 // => true",
        )
        .example(&example(
            "net.tune(#{ steps: 1 }, |n, i| sum(tensor([1]))) // error: does not depend on the network",
        ))
        .see(&["mlp", "run", "save"])
        .work()
        .bind(move |cx: &NativeCallContext, net: Mlp, o: Opts, loss: FnPtr| tune(&host, cx, &net, &o, &loss));
    let host = r.host();
    r.def(
        "load_mlp(name)",
        "A network that was saved, ready for use: a file, or one that comes with the model (`edges`). With `model`, one that was \
         trained for another model is refused.",
    )
    .option("model", "Model", "whose it must be")
    .example(&example("let path = save(net, \"net\");\nload_mlp(path) // => Mlp 2-8-1  49 weights  eval"))
    .example("load_mlp(\"dog-flat\") // error: load_mlp")
    .see(&["save", "mlp"])
    .work()
    .bind(move |name: String, o: Opts| load(&host, &name, o.get::<Model>("model")?.as_ref()));
    r.def(
        "net.with_about(map)",
        "The same network with more that is known of it, which `save` keeps: texts and numbers.",
    )
    .example(&example("net.with_about(#{ polarity: \"dark\" }).about.polarity // => \"dark\""))
    .see(&["about", "save"])
    .bind(|net: Mlp, map: Map| Ok::<_, Error>(net.with_about(about(&map)?)));
    r.prop("net.about", "What is known of it, as texts: what it was trained for.")
        .example(&example("net.about // => #{}"))
        .see(&["with_about"])
        .bind(|net: Mlp| {
            net.about().iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Map>()
        });
    r.prop("net.widths", "Inputs, hidden layers, outputs.")
        .example(&example("net.widths // => [2, 8, 1]"))
        .see(&["mlp"])
        .bind(|net: Mlp| net.widths().to_vec());
    r.prop("m.fingerprint", "A number of its weights, as text: the same weights have the same.")
        .example("load(\"emoji\").fingerprint != \"\" // => true")
        .see(&["load_mlp"])
        .bind(|m: Model| m.fingerprint().to_string());
}
