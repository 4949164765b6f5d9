//! From what was asked for to the values a recipe runs with.

use std::path::Path;

use super::{Resolved, Spec, Val};
use crate::engine::diffusion::guidance::{EXAMPLE, Guidance};
use crate::engine::weights::defaults::Defaults;
use crate::report::{Exit, Report};
use crate::script::bind::guidance::from_value;
use crate::script::catalog::nearest;
use crate::script::files::is_file_like;
use crate::script::{files, types};

/// The measured defaults of the loaded model, for one recipe.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// The heading ("emoji").
    pub name: String,
    /// Option and value.
    pub values: Vec<(String, Val)>,
    /// Example option sets.
    pub examples: Vec<Vec<(String, Val)>>,
}

impl Column {
    /// The column of the model that `spec` names; `None` if nothing was measured on it.
    pub fn of_model(spec: &str, recipe: &str) -> Option<Column> {
        Some(Column::of(&Defaults::for_model(spec).ok().flatten()?, recipe))
    }

    /// The column of measured defaults, for one recipe.
    pub fn of(defaults: &Defaults, recipe: &str) -> Column {
        let mut values: Vec<(String, Val)> = Vec::new();
        for part in [recipe, "common"] {
            for (name, value) in defaults.recipes.get(part).into_iter().flatten() {
                if !values.iter().any(|(n, _)| n == name) {
                    values.push((name.clone(), Val::from_json(value)));
                }
            }
        }
        let fields = |set: &std::collections::BTreeMap<String, serde_json::Value>| {
            set.iter().map(|(k, v)| (k.clone(), Val::from_json(v))).collect()
        };
        let examples = defaults.examples.get(recipe).into_iter().flatten().map(fields).collect();
        Column { name: defaults.column.clone(), values, examples }
    }

    /// The value for an option.
    pub fn get(&self, name: &str) -> Option<&Val> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

/// The values of all options: given ones, then the example's, then the model's, then the recipe's own.
///
/// `typed` values come from the command line as text. `shipped` tells which picture names come with the program.
/// Errors (exit code 2): an unknown option, a value of the wrong type or out of range; (exit code 1) a missing file.
pub fn resolve(
    recipe: &str,
    specs: &[Spec],
    examples: &[Vec<(String, Val)>],
    column: Option<&Column>,
    model: &str,
    given: &[(String, Val)],
    shipped: &dyn Fn(&str) -> bool,
) -> Result<Resolved, Report> {
    let mut seen: Vec<&str> = Vec::new();
    for (name, _) in given {
        if seen.contains(&name.as_str()) {
            return Err(Report::usage(format!("{recipe}: {name} is given twice")));
        }
        seen.push(name);
        if !specs.iter().any(|s| &s.name == name) {
            return Err(unknown(recipe, name, specs));
        }
    }
    let find =
        |set: &[(String, Val)], name: &str| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let example = match find(given, "example") {
        Some(v) => pick_example(recipe, &v, examples, column)?,
        None => Vec::new(),
    };
    let mut values = Vec::with_capacity(specs.len());
    for spec in specs {
        let value = find(given, &spec.name)
            .or_else(|| find(&example, &spec.name))
            .or_else(|| column.and_then(|c| c.get(&spec.name).cloned()))
            .unwrap_or_else(|| spec.default.clone());
        let value = fit(recipe, spec, value)?;
        check_file(recipe, spec, &value, shipped)?;
        values.push((spec.name.clone(), value));
    }
    let given = given.iter().map(|(name, _)| name.clone()).collect();
    Ok(Resolved { recipe: recipe.into(), model: model.into(), values, given })
}

fn unknown(recipe: &str, name: &str, specs: &[Spec]) -> Report {
    let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let report = Report::usage(format!("{recipe} has no option {name}")).expected(names.join(" "));
    let flags = ["model", "device", "dtype", "out", "threads"];
    if flags.contains(&name) {
        return report.hint(format!("{name} is a flag: --{name} VALUE"));
    }
    match nearest(name, names) {
        Some(near) => report.hint(format!("did you mean {near}?")),
        None => report.hint(format!("scumble run {recipe} --help")),
    }
}

fn pick_example(
    recipe: &str,
    value: &Val,
    examples: &[Vec<(String, Val)>],
    column: Option<&Column>,
) -> Result<Vec<(String, Val)>, Report> {
    let list = column.map(|c| &c.examples[..]).filter(|e| !e.is_empty()).unwrap_or(examples);
    match value.number().map(|x| x as usize) {
        Some(0) => Ok(Vec::new()),
        Some(i) if i <= list.len() => Ok(list[i - 1].clone()),
        _ => Err(Report::usage(format!("{recipe} has no example {value}"))
            .expected(format!("0 to {}", list.len()))
            .hint(format!("scumble run {recipe} --help lists the examples"))),
    }
}

/// Converts to the option's type and checks the range.
fn fit(recipe: &str, spec: &Spec, value: Val) -> Result<Val, Report> {
    let wrong = |value: &Val| {
        Report::usage(format!("{recipe}: {} cannot be {value}", spec.name))
            .expected(spec.takes())
            .got(types::got(&value.to_dynamic()))
            .hint(format!("scumble run {recipe} --help"))
    };
    if spec.is_cfg() {
        return cfg(recipe, spec, &value).unwrap_or_else(|| Err(wrong(&value)));
    }
    let value = match (&spec.default, value) {
        (Val::Int(_), v @ Val::List(_)) if spec.name == "size" => return size(v, &wrong),
        (Val::Int(_), Val::Float(x)) if x == x.trunc() && x.abs() < 9e15 => Val::Int(x as i64),
        (Val::Float(_), Val::Int(i)) => Val::Float(i as f64),
        (Val::None, v) => v,
        (Val::Text(_), Val::Int(i)) => Val::Text(i.to_string()),
        (Val::Text(_), Val::Float(x)) => Val::Text(x.to_string()),
        (Val::Text(_), Val::Bool(b)) => Val::Text(b.to_string()),
        (want, v) if std::mem::discriminant(want) == std::mem::discriminant(&v) => v,
        (_, v) => return Err(wrong(&v)),
    };
    if let (Some((lo, hi)), Some(x)) = (spec.range, value.number())
        && !(lo..=hi).contains(&x)
    {
        return Err(out_of_range(recipe, spec, (lo, hi), &value));
    }
    if let (false, Some(text)) = (spec.choices.is_empty(), value.text())
        && !spec.choices.iter().any(|c| c == text)
    {
        let report = wrong(&value);
        return Err(match nearest(text, spec.choices.iter().map(String::as_str)) {
            Some(near) => report.hint(format!("did you mean {near}?")),
            None => report,
        });
    }
    Ok(value)
}

fn out_of_range(recipe: &str, spec: &Spec, (lo, hi): (f64, f64), value: &Val) -> Report {
    let range = match spec.default {
        Val::Int(_) if hi >= 1e15 => format!("{lo} or more"),
        Val::Int(_) => format!("{lo} to {hi}"),
        _ => format!("{} to {}", types::number(lo), types::number(hi)),
    };
    let mut report = Report::usage(format!("{recipe}: {} is out of range", spec.name));
    report.kind = "value".into();
    report.expected(range).got(value.to_string()).hint(format!("{}: {}", spec.name, spec.doc))
}

/// Guidance in one form: a number, or the text of an interval. `None`: a value of another kind.
fn cfg(recipe: &str, spec: &Spec, value: &Val) -> Option<Result<Val, Report>> {
    let (scale, value) = match from_value(&value.to_dynamic())? {
        Ok(Guidance::Constant(scale)) => (scale, Val::Float(scale)),
        Ok(Guidance::Interval { scale, low, high }) => {
            (scale, Val::Text(Guidance::Interval { scale, low, high }.to_string()))
        }
        Ok(Guidance::Levels(_)) => return None,
        Err(e) => {
            let mut report = Report::usage(format!("{recipe}: {}", e.message())).expected(spec.takes());
            report.kind = "value".into();
            let report = report.got(e.got_text().map_or_else(|| value.to_string(), str::to_string));
            return Some(Err(report.hint(format!("cfg={}", e.hint_text().unwrap_or(EXAMPLE)))));
        }
    };
    Some(match spec.range {
        Some((lo, hi)) if !(lo..=hi).contains(&scale) => Err(out_of_range(recipe, spec, (lo, hi), &value)),
        _ => Ok(value),
    })
}

fn size(value: Val, wrong: &dyn Fn(&Val) -> Report) -> Result<Val, Report> {
    let ok = match &value {
        Val::List(list) => {
            list.len() == 2 && list.iter().all(|v| matches!(v, Val::Int(i) if (8..=8192).contains(i)))
        }
        _ => false,
    };
    if ok { Ok(value) } else { Err(wrong(&value).expected("pixels, or [width, height] of 8 to 8192")) }
}

/// A string that names a file must name one that is there: it is never taken for a prompt.
/// Options that name a model, which `load` looks for: a folder, a file, or a name with a / in it that is neither.
const MODELS: [&str; 2] = ["model", "expert"];

fn check_file(recipe: &str, spec: &Spec, value: &Val, shipped: &dyn Fn(&str) -> bool) -> Result<(), Report> {
    let named = value.text().filter(|t| is_file_like(t) && !MODELS.contains(&spec.name.as_str()));
    let Some(text) = named else { return Ok(()) };
    if Path::new(text).exists() || shipped(text) {
        return Ok(());
    }
    let policy = files::Policy::new(&Default::default());
    let hint =
        policy.readable(&spec.name, Path::new(text)).err().and_then(|e| e.hint_text().map(str::to_string));
    let report = Report::new("file", format!("{recipe}: {} names a file that is not there", spec.name))
        .exit(Exit::Script)
        .expected("an existing file, or words without / and without a picture's ending")
        .got(text);
    Err(report.hint(hint.unwrap_or_else(|| "relative paths start in the working directory".into())))
}

#[cfg(test)]
mod tests {
    use super::super::{Opt, common};
    use super::*;

    fn specs() -> Vec<Spec> {
        let opt = |default: Val, range| Opt { default, range, choices: Vec::new(), doc: "a doc".into() };
        let mut specs = vec![
            opt(Val::Float(0.5), Some((0.0, 1.0))).named("nu"),
            opt(Val::Text("a dog".into()), None).named("layout"),
            Opt { choices: vec!["lerp".into(), "slerp".into()], ..opt(Val::Text("lerp".into()), None) }
                .named("mode"),
        ];
        specs.extend(common());
        specs
    }

    fn run(given: &[(&str, Val)]) -> Result<Resolved, Report> {
        let given: Vec<_> = given.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        let column = Column {
            name: "emoji".into(),
            values: vec![("nu".into(), Val::Float(0.8)), ("steps".into(), Val::Int(30))],
            examples: vec![],
        };
        let examples = vec![vec![("layout".to_string(), Val::Text("a corgi".into()))]];
        resolve("mix", &specs(), &examples, Some(&column), "emoji", &given, &|n| n == "dog-flat.png")
    }

    #[test]
    fn the_order_is_given_example_model_recipe() {
        let r = run(&[("example", Val::Int(1)), ("steps", Val::Int(10))]).unwrap();
        assert_eq!(r.get("steps"), Some(&Val::Int(10)));
        assert_eq!(r.get("layout"), Some(&Val::Text("a corgi".into())));
        assert_eq!(r.get("nu"), Some(&Val::Float(0.8)));
        assert_eq!(r.get("cfg"), Some(&Val::Float(7.5)));
    }

    #[test]
    fn the_command_names_what_was_given() {
        let r = run(&[("steps", Val::Int(10)), ("layout", Val::Text("it's".into()))]).unwrap();
        assert_eq!(r.command(Path::new("out")), r"scumble run mix layout='it'\''s' steps=10");
        let r = Resolved { model: "a folder".into(), ..run(&[]).unwrap() };
        assert_eq!(r.command(Path::new("docs")), "scumble run mix --model 'a folder' --out docs");
    }

    #[test]
    fn values_are_converted_to_the_options_type() {
        let r = run(&[("nu", Val::Int(1)), ("steps", Val::Float(20.0)), ("negative", Val::Int(7))]).unwrap();
        assert_eq!(r.get("nu"), Some(&Val::Float(1.0)));
        assert_eq!(r.get("steps"), Some(&Val::Int(20)));
        assert_eq!(r.get("negative"), Some(&Val::Text("7".into())));
        let r = run(&[("size", Val::List(vec![Val::Int(64), Val::Int(96)]))]).unwrap();
        assert_eq!(r.get("size").unwrap().to_string(), "[64, 96]");
    }

    #[test]
    fn what_is_wrong_is_a_usage_error_with_a_way_out() {
        let e = run(&[("nu", Val::Int(3))]).unwrap_err();
        assert_eq!(
            (e.exit, e.expected.as_deref(), e.got.as_deref()),
            (Exit::Usage, Some("0.0 to 1.0"), Some("3.0"))
        );
        let e = run(&[("steps", Val::Int(0))]).unwrap_err();
        assert_eq!((e.exit, e.expected.as_deref()), (Exit::Usage, Some("1 to 1000")));
        let e = run(&[("sede", Val::Int(3))]).unwrap_err();
        assert_eq!((e.exit, e.hint.as_deref()), (Exit::Usage, Some("did you mean seed?")));
        let e = run(&[("nu", Val::Text("much".into()))]).unwrap_err();
        assert_eq!((e.exit, e.expected.as_deref()), (Exit::Usage, Some("number 0.0..1.0")));
        let e = run(&[("mode", Val::Text("slep".into()))]).unwrap_err();
        assert_eq!(e.hint.as_deref(), Some("did you mean slerp?"));
        let e = run(&[("example", Val::Int(2))]).unwrap_err();
        assert_eq!((e.exit, e.expected.as_deref()), (Exit::Usage, Some("0 to 1")));
        let e = run(&[("model", Val::Text("x".into()))]).unwrap_err();
        assert_eq!(e.hint.as_deref(), Some("model is a flag: --model VALUE"));
    }

    #[test]
    fn guidance_may_be_an_interval() {
        let get = |v: Val| run(&[("cfg", v)]).unwrap().get("cfg").cloned().unwrap();
        assert_eq!(get(Val::Int(3)), Val::Float(3.0));
        assert_eq!(get(Val::Text("3".into())), Val::Float(3.0));
        assert_eq!(get(Val::Text("7@.2..0.80".into())), Val::Text("7@0.2..0.8".into()));
        let map = Val::Map(vec![("scale".into(), Val::Int(7)), ("low".into(), Val::Float(0.2))]);
        assert_eq!(get(map), Val::Text("7@0.2..1".into()));
        let bad = |v: Val| run(&[("cfg", v)]).unwrap_err();
        let e = bad(Val::Text("7@0.8..0.2".into()));
        assert_eq!((e.exit, e.hint.as_deref()), (Exit::Usage, Some("cfg=7@0.2..0.8")));
        assert!(e.title.contains("reversed"), "{e}");
        let e = bad(Val::Text("700@0.2..0.8".into()));
        assert_eq!((e.exit, e.expected.as_deref()), (Exit::Usage, Some("0.0 to 100.0")));
        let e = bad(Val::Text("much".into()));
        assert_eq!((e.exit, e.expected.as_deref()), (Exit::Usage, Some("number 0.0..100.0[@low..high]")));
        for v in [Val::Bool(true), Val::List(vec![Val::Int(7)]), Val::Map(vec![("size".into(), Val::Int(7))])]
        {
            assert_eq!(bad(v).exit, Exit::Usage);
        }
    }

    #[test]
    fn a_missing_file_is_never_a_prompt() {
        let e = run(&[("layout", Val::Text("nowhere.png".into()))]).unwrap_err();
        assert_eq!(e.kind, "file");
        assert!(run(&[("layout", Val::Text("dog-flat.png".into()))]).is_ok());
        assert!(run(&[("layout", Val::Text("Cargo.toml".into()))]).is_ok());
        assert!(run(&[("layout", Val::Text("a dog".into()))]).is_ok());
    }
}
