//! What each of Rhai's errors means, in the words of this program, and what to do about it.

use rhai::{Dynamic, EvalAltResult, Map, ParseErrorType};

use super::errors::{Context, Stop};
use super::{catalog, check, types};
use crate::report::{Exit, Report};

/// A report of the innermost error, without its place.
pub fn leaf(error: EvalAltResult, cx: &Context) -> Report {
    use EvalAltResult as E;
    match error {
        E::ErrorRuntime(value, _) => thrown(&value),
        E::ErrorTerminated(token, _) => stopped(token.try_cast::<Stop>().unwrap_or(Stop::Cancelled)),
        E::ErrorParsing(kind, _) => parse_report(&kind, cx),
        E::ErrorFunctionNotFound(signature, _) => not_found(&signature, cx),
        E::ErrorVariableNotFound(name, _) => unknown_variable(&name, cx),
        E::ErrorDotExpr(text, _) => dot(&text),
        E::ErrorIndexingType(text, _) => {
            let ty = plain_types(text.split(" [").next().unwrap_or(&text));
            match text.contains(" = ") {
                true => Report::new("value", format!("{ty} cannot be changed with [ ] ="))
                    .hint("values never change: functions return new ones"),
                false => Report::new("value", format!("{ty} cannot be indexed with [ ]")),
            }
        }
        E::ErrorModuleNotFound(name, _) => unknown_module(&name),
        E::ErrorStackOverflow(_) => Report::new("budget", "functions call each other too deeply")
            .expected(format!("at most {} calls inside each other", super::engine::CALL_LEVELS))
            .hint("does a function call itself without an end? A loop has no such limit"),
        E::ErrorTooManyOperations(_) => stopped(Stop::Operations(0)),
        E::ErrorDataTooLarge(what, _) => too_large(&what),
        E::ErrorMismatchDataType(want, got, _) => Report::new("value", "a value has the wrong type")
            .expected(plain_types(&want))
            .got(plain_types(&got)),
        E::ErrorMismatchOutputType(want, got, _) => {
            Report::new("value", "a function returned the wrong type")
                .expected(plain_types(&want))
                .got(plain_types(&got))
        }
        E::ErrorArrayBounds(len, i, _) => {
            Report::new("value", format!("there is no element {i} in a list of {len}")).expected(
                if len == 0 { "a list that is not empty".into() } else { format!("0 to {}", len - 1) },
            )
        }
        E::ErrorStringBounds(len, i, _) => {
            Report::new("value", format!("there is no character {i} in a string of {len}"))
        }
        E::ErrorFor(_) => Report::new("value", "for cannot go through this value")
            .expected("a range (0..10), a list, or a string")
            .hint("for i in 0..s.len { ... }"),
        E::ErrorDataRace(what, _) => {
            let what = if what.is_empty() { "a captured variable" } else { what.as_str() };
            Report::new("value", format!("{what} is in use by a call that is not finished"))
                .hint("call it as a function: map(list, |x| ... list ...); or give the closure a copy: let y = x; |z| ... y ...")
        }
        E::ErrorAssignmentToConstant(name, _) => Report::new("value", format!("{name} is a constant"))
            .hint(format!("declare it with let {name} = ...")),
        E::ErrorArithmetic(text, _) => Report::new("value", text),
        E::ErrorSystem(text, inner) => {
            let text = if text.is_empty() { inner.to_string() } else { text };
            Report::new("internal", text)
        }
        other => Report::new("value", other.to_string()),
    }
}

/// `throw` of a map made by [`throw`], of a user's own map, or of anything else.
fn thrown(value: &Dynamic) -> Report {
    if value.is_unit() {
        return Report::new("thrown", or_silent(String::new()));
    }
    let Some(map) = value.read_lock::<Map>() else {
        let text = value.clone().into_string().unwrap_or_else(|_| types::line(value));
        return Report::new("thrown", or_silent(text));
    };
    let text = |key: &str| {
        map.get(key)
            .filter(|v| !v.is_unit())
            .map(|v| v.clone().into_string().unwrap_or_else(|_| types::line(v)))
    };
    let message = text("message").unwrap_or_else(|| types::line(value));
    let title = match text("op") {
        Some(op) if !message.starts_with(&format!("{op}:")) => format!("{op}: {message}"),
        _ => or_silent(message),
    };
    let mut report = Report::new(text("kind").unwrap_or_else(|| "thrown".into()), title);
    report.expected = text("expected");
    report.got = text("got");
    report.hint = text("hint");
    report
}

/// A title for an error that says nothing.
fn or_silent(text: String) -> String {
    if text.trim().is_empty() { "the script threw an error without a message".into() } else { text }
}

fn stopped(stop: Stop) -> Report {
    match stop {
        Stop::Cancelled => Report::new("cancelled", "by you; the session and its variables are kept").exit(Exit::Interrupted),
        Stop::Operations(n) => Report::new("budget", "this looks like an endless loop")
            .expected("work for the model now and then")
            .got(format!("{} million operations without any", n / 1_000_000))
            .hint("does the loop's condition ever become false? Pictures and latents have functions of their own: see scumble doc"),
        Stop::Time(limit) => Report::new("budget", "the time is used up")
            .expected(format!("at most {} s (--max-time)", types::number(limit.as_secs_f64())))
            .hint("take fewer steps or a larger --max-time"),
        Stop::Memory { held, limit } => Report::new("budget", "the script holds too much memory")
            .expected(format!("at most {}", types::size(limit as usize)))
            .got(types::size(held as usize))
            .hint("does a list grow without end? Set what is no longer needed to (), or give a larger --max-memory"),
        Stop::Deep => Report::new("budget", "values lie inside each other too deeply")
            .expected(format!("at most {} levels of lists, maps and closures", super::depth::MAX_DEPTH))
            .hint("does a list hold itself, or a closure the closure before it, round after round?"),
        Stop::Many => Report::new("budget", "the script holds too many values")
            .hint("numbers by the million belong into a Latent or an Image"),
        Stop::Output => Report::new("budget", "the script prints too much")
            .expected(format!(
                "at most {} lines or {}",
                super::host::MAX_LINES,
                types::size(super::host::MAX_PRINTED)
            ))
            .hint("print now and then: if i % 100 == 0 { print(i); }"),
    }
}

fn too_large(what: &str) -> Report {
    let what = what.to_lowercase();
    let (thing, limit) = if what.contains("string") {
        ("a string", format!("{} characters", super::engine::MAX_STRING))
    } else if what.contains("map") {
        ("a map", format!("{} fields", super::engine::MAX_LIST))
    } else {
        ("a list", format!("{} values", super::engine::MAX_LIST))
    };
    Report::new("budget", format!("{thing} grew too large"))
        .expected(format!("at most {limit}"))
        .hint("does it grow in a loop without end? Numbers by the million belong into a Latent or an Image")
}

fn not_found(signature: &str, cx: &Context) -> Report {
    let (name, args) = signature.split_once(" (").unwrap_or((signature, ""));
    if name.trim().is_empty() {
        return Report::new("missing", "the name of a function is empty").hint("Fn(\"blend\"), or |x| ...");
    }
    let args: Vec<String> =
        args.trim_end_matches(')').split(", ").filter(|a| !a.is_empty()).map(plain_types).collect();
    if name.starts_with("anon$") {
        return Report::new("value", "a closure was called with the wrong number of values")
            .got(format!("{} values: {}", args.len(), args.join(", ")))
            .hint("a closure must take what its caller gives: see ?name of the function that calls it");
    }
    if let Some(report) = operator(name, &args) {
        return report;
    }
    check::unknown_call(name, args.len(), cx.names).unwrap_or_else(|| {
        Report::new("value", format!("{name} does not take these values")).got(args.join(", "))
    })
}

fn operator(name: &str, args: &[String]) -> Option<Report> {
    let symbolic = name.chars().all(|c| !c.is_alphanumeric() && c != '_');
    if !symbolic || args.is_empty() {
        return None;
    }
    let text = match args {
        [a, b] => format!("{a} {name} {b} is not defined"),
        [a] => format!("{name}{a} is not defined"),
        _ => format!("{name} is not defined here"),
    };
    let report = Report::new("value", text);
    if let [a] = args {
        return Some(if name == "-" { report.hint(format!("-1 * {}", a.to_lowercase())) } else { report });
    }
    let ways: Vec<String> = catalog::lookup(name).iter().map(|e| e.usage()).collect();
    Some(if ways.is_empty() { report } else { report.expected(ways.join("; ")) })
}

fn unknown_variable(name: &str, cx: &Context) -> Report {
    let report = Report::new("missing", format!("there is no variable {name}"));
    if let Some(near) = catalog::nearest(name, cx.names.iter().map(String::as_str)) {
        return report.hint(format!("did you mean {near}?"));
    }
    if catalog::all().iter().any(|e| e.name == name) {
        return report.hint(format!("{name} is a function: call it with ( ), or see ?{name}"));
    }
    report.hint(format!(
        "let {name} = ... first; a fn cannot see variables outside it: pass them as arguments or write a closure |x| ..."
    ))
}

fn unknown_module(name: &str) -> Report {
    let names: Vec<String> = super::modules::names();
    let report = Report::new("missing", format!("there is no module {name}"));
    match catalog::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => report.hint(format!("did you mean {near}?")),
        None if names.is_empty() => report,
        None => report.hint(format!("the library has {}", names.join(", "))),
    }
}

/// "Unknown property 'x' - a getter is not registered for type 'T'".
fn dot(text: &str) -> Report {
    let quoted: Vec<&str> = text.split('\'').skip(1).step_by(2).collect();
    match (text, &quoted[..]) {
        (t, [name, ty]) if t.starts_with("Unknown property") => unknown_property(name, &plain_types(ty)),
        (t, [name, ty, ..]) if t.starts_with("No writable") => {
            Report::new("value", format!("{}.{name} cannot be set", plain_types(ty)))
                .hint("values never change: functions return new ones")
        }
        _ => Report::new("value", text.to_string()),
    }
}

/// An unknown property of a type, with the nearest and the whole list.
pub fn unknown_property(name: &str, ty: &str) -> Report {
    let (message, list, hint) = property_facts(name, ty);
    let mut report = Report::new("missing", format!("{ty}: {message}"));
    report.expected = list;
    report.hint = hint;
    report
}

/// Message, the properties there are, and a hint.
pub fn property_facts(name: &str, ty: &str) -> (String, Option<String>, Option<String>) {
    let members: Vec<_> = catalog::all()
        .iter()
        .filter(|e| e.owner.as_deref().is_some_and(|o| o.split('|').any(|t| t == ty)))
        .collect();
    let properties: Vec<&str> =
        members.iter().filter(|e| e.what == catalog::What::Property).map(|e| e.name.as_str()).collect();
    let hint = if members.iter().any(|e| e.name == name && e.what == catalog::What::Method) {
        Some(format!("{name} is a function: write .{name}(...)"))
    } else {
        catalog::nearest(name, members.iter().map(|e| e.name.as_str())).map(|n| format!("did you mean {n}?"))
    };
    let list = (!properties.is_empty()).then(|| properties.join(", "));
    (format!("there is no property {name}"), list, hint)
}

/// A report of a parse error, without its place.
pub fn parse_report(kind: &ParseErrorType, cx: &Context) -> Report {
    use ParseErrorType as P;
    match kind {
        P::VariableUndefined(name) => unknown_variable(name, cx),
        P::ModuleUndefined(name) => unknown_module(name),
        P::UnexpectedEOF => Report::new("syntax", "the script ends too early")
            .hint("is a ), ] or } missing, or the right side of an operator?"),
        P::MissingToken(token, what) => Report::new("syntax", format!("{token} is missing {what}")),
        P::Reserved(word) => {
            Report::new("syntax", format!("{word} is a word of the language")).hint("take another name")
        }
        P::LiteralTooLarge(..) => too_large("string"),
        P::ExprTooDeep => {
            Report::new("syntax", "the expression is nested too deeply").hint("name a part of it with let")
        }
        other => {
            let text = other.to_string();
            let mut chars = text.chars();
            let text =
                chars.next().map_or(String::new(), |c| c.to_lowercase().collect::<String>() + chars.as_str());
            Report::new("syntax", text)
        }
    }
}

/// Rhai's type names in the words of our messages.
pub fn plain_types(text: &str) -> String {
    match text.trim() {
        "i64" => "integer".into(),
        "f64" => "number".into(),
        "bool" => "true or false".into(),
        "()" => "nothing".into(),
        "&str | ImmutableString | String" | "string" => "string".into(),
        "array" => "list".into(),
        "map" => "map".into(),
        "Fn" => "function".into(),
        "char" => "character".into(),
        "range" | "range=" => "range".into(),
        other => other.rsplit("::").next().unwrap_or(other).to_string(),
    }
}
