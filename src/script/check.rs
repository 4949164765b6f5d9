//! Finding mistakes without running: unknown functions and wrong argument counts (Rhai notices neither before the line
//! runs), unknown option fields, unknown keys of options maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, Position, Stmt};

use super::catalog::{self, What, nearest};
use super::errors::{Context, from_parse};
use super::names::Names;
use super::options::Recipe;
use super::sources::Sources;
use crate::report::Report;

/// Names of functions with the numbers of arguments they take, the receiver included.
pub type Functions = BTreeMap<String, BTreeSet<usize>>;

/// Words that look like calls but belong to the language.
pub const LANGUAGE: [&str; 11] = [
    "call",
    "curry",
    "Fn",
    "eval",
    "type_of",
    "is_shared",
    "is_def_var",
    "is_def_fn",
    "print",
    "debug",
    "exit",
];

/// Every function that a session's engine knows from the start, the standard ones of Rhai included. They are the same
/// for every session: `engine` is asked once.
pub fn functions(engine: &Engine) -> &'static Functions {
    static KNOWN: OnceLock<Functions> = OnceLock::new();
    KNOWN.get_or_init(|| list(engine))
}

fn list(engine: &Engine) -> Functions {
    let mut functions = Functions::new();
    let json = engine.gen_fn_metadata_to_json(true).unwrap_or_default();
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
    for f in parsed["functions"].as_array().into_iter().flatten() {
        let (Some(name), Some(n)) = (f["name"].as_str(), f["numParams"].as_u64()) else { continue };
        functions.entry(name.to_string()).or_default().insert(n as usize);
    }
    functions
}

/// What is wrong with a call of `name` with `count` arguments (receiver included): no such function, or another number
/// of arguments. `None` if the catalogue knows such a call. `names` are the script's own functions and variables.
pub fn unknown_call(name: &str, count: usize, names: &[String]) -> Option<Report> {
    let entries: Vec<_> = catalog::lookup(name)
        .into_iter()
        .filter(|e| e.name == name && matches!(e.what, What::Function | What::Method))
        .collect();
    if entries.iter().any(|e| e.arity().contains(&count)) {
        return None;
    }
    if let Some(entry) = entries.first() {
        let receiver = usize::from(entry.what == What::Method);
        let given = count.saturating_sub(receiver);
        let ways: Vec<String> = entries.iter().map(|e| e.usage()).collect();
        return Some(
            Report::new("value", format!("{name}: wrong number of arguments"))
                .expected(ways.join("; "))
                .got(format!("{given} argument{}", if given == 1 { "" } else { "s" }))
                .hint(format!("see ?{name}")),
        );
    }
    let report = Report::new("missing", format!("{name}: there is no such function"));
    let properties: Vec<_> = catalog::lookup(name).into_iter().filter(|e| e.what == What::Property).collect();
    if let Some(p) = properties.first() {
        return Some(report.hint(format!("{name} is a property: write {} without ( )", p.call)));
    }
    let library =
        catalog::all().iter().filter(|e| e.what == What::Library && e.name == name).map(|e| e.path()).next();
    if let Some(path) = library {
        return Some(report.hint(format!("did you mean {path}?")));
    }
    if standard().iter().any(|n| n == name) || LANGUAGE.contains(&name) {
        let report = Report::new("value", format!("{name} does not take these values"));
        let many = matches!(name, "print" | "debug") && count > 1;
        return Some(if many { report.hint("one value: print(`${a} ${b}`)") } else { report });
    }
    let known = catalog::all().iter().filter(|e| e.what != What::Operator).map(|e| e.name.as_str());
    let standard = standard();
    let all = names.iter().map(String::as_str).chain(known).chain(standard.iter().map(String::as_str));
    Some(match nearest(name, all) {
        Some(near) => report.hint(format!("did you mean {near}?")),
        None => report.hint("scumble doc lists all functions; ?word searches them"),
    })
}

/// Names of Rhai's standard functions.
pub fn standard() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let names = list(&Engine::new()).into_keys();
        names.filter(|n| n.starts_with(|c: char| c.is_alphabetic()) && !n.contains('$')).collect()
    })
}

/// Compiles and walks a text. `engine` is a session's engine (its functions and modules are the known ones).
/// Returns what is wrong, in the order of the text.
pub fn check(
    engine: &Engine,
    known: &Functions,
    source: &str,
    text: &str,
    scope: &rhai::Scope,
) -> Vec<Report> {
    let mut sources = Sources::default();
    sources.add(source, text);
    let names: Vec<String> = scope.iter_raw().map(|(n, _, _)| n.to_string()).collect();
    let cx = Context { sources: &sources, current: source, names: &names };
    let ast = match engine.compile_with_scope(scope, text) {
        Ok(ast) => ast,
        Err(e) => return vec![from_parse(&e, &cx)],
    };
    let recipe = Recipe::read(source, None, text, &ast);
    let mut found = match &recipe {
        Ok(_) => Vec::new(),
        Err(e) => vec![Report::clone(e).at(sources.get(source), e.span)],
    };
    let variable = recipe.as_ref().ok().and_then(|r| r.variable.as_deref());
    let script = Names::read(&ast, source, variable);
    found.extend(walk(&ast, known, recipe.as_ref().ok(), script).into_iter().map(|(position, report)| {
        let span = sources.span(source, position);
        report.at(sources.get(source), span)
    }));
    found.sort_by_key(|r| r.span.map(|s| (s.line, s.column)));
    found.dedup();
    found
}

/// Walks a compiled text. Returns mistakes with their places.
fn walk(ast: &AST, known: &Functions, recipe: Option<&Recipe>, mut script: Names) -> Vec<(Position, Report)> {
    let mut found = std::mem::take(&mut script.missing);
    let walker = Walker { known, script, recipe };
    ast.walk(&mut |path: &[ASTNode]| {
        if let Some(node) = path.last() {
            walker.node(node, &mut found);
        }
        true
    });
    found
}

struct Walker<'a> {
    known: &'a Functions,
    script: Names,
    recipe: Option<&'a Recipe>,
}

impl Walker<'_> {
    fn node(&self, node: &ASTNode, found: &mut Vec<(Position, Report)>) {
        match node {
            ASTNode::Stmt(Stmt::FnCall(call, pos)) | ASTNode::Expr(Expr::FnCall(call, pos)) => {
                self.call(call, *pos, false, found);
            }
            ASTNode::Expr(Expr::MethodCall(call, pos)) => self.call(call, *pos, true, found),
            ASTNode::Expr(Expr::Dot(x, ..)) => self.field(&x.lhs, &x.rhs, found),
            _ => {}
        }
    }

    fn call(&self, call: &FnCallExpr, pos: Position, method: bool, found: &mut Vec<(Position, Report)>) {
        let name = call.name.as_str();
        if call.is_operator_call()
            || !name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            || name.contains('$')
        {
            return;
        }
        if name == "Fn" && !method {
            return self.pointer(call, found);
        }
        if LANGUAGE.contains(&name) || (method && self.script.fields.contains(name)) {
            return;
        }
        if call.is_qualified() {
            return self.qualified(call, pos, found);
        }
        let count = call.args.len() + usize::from(method);
        let own = self.script.own.get(&(name.to_string(), call.args.len()));
        let native = self.known.get(name).is_some_and(|n| n.contains(&count));
        if own.is_none() && !native {
            found.push((pos, self.explain(name, call.args.len(), count)));
        }
        match own {
            Some(keys) => wrong_keys(call, name, keys, found),
            None => self.keys(call, found),
        }
    }

    fn explain(&self, name: &str, given: usize, count: usize) -> Report {
        let own: BTreeSet<usize> =
            self.script.own.keys().filter(|(n, _)| n == name).map(|(_, count)| *count).collect();
        let counts = if own.is_empty() { self.known.get(name) } else { Some(&own) };
        let receiver = if own.is_empty() { count - given } else { 0 };
        if let (Some(counts), true) =
            (counts, !own.is_empty() || catalog::lookup(name).iter().all(|e| e.name != name))
        {
            let list: Vec<String> = counts.iter().map(|n| n.saturating_sub(receiver).to_string()).collect();
            return Report::new("value", format!("{name}: wrong number of arguments"))
                .expected(format!("{} argument{}", list.join(" or "), if list == ["1"] { "" } else { "s" }))
                .got(given.to_string());
        }
        let names: Vec<String> = self.script.own.keys().map(|(n, _)| n.clone()).collect();
        unknown_call(name, count, &names)
            .unwrap_or_else(|| Report::new("value", format!("{name}: wrong number of arguments")))
    }

    fn qualified(&self, call: &FnCallExpr, pos: Position, found: &mut Vec<(Position, Report)>) {
        let module = call.namespace.to_string().trim_end_matches("::").to_string();
        // Modules that the user added, or whose text cannot be read, are not known before they are loaded.
        let Some(Some(here)) = self.script.modules.get(&module) else { return };
        let (name, count) = (call.name.as_str(), call.args.len());
        if let Some(keys) = here.get(&(name.to_string(), count)) {
            return wrong_keys(call, &format!("{module}::{name}"), keys, found);
        }
        let counts: Vec<String> =
            here.keys().filter(|(f, _)| f == name).map(|(_, n)| n.to_string()).collect();
        let report = if counts.is_empty() {
            let report = Report::new("missing", format!("{module}::{name}: there is no such function"));
            match nearest(name, here.keys().map(|(f, _)| f.as_str())) {
                Some(near) => report.hint(format!("did you mean {module}::{near}?")),
                None => report.expected(here.keys().map(|(f, _)| f.as_str()).collect::<Vec<_>>().join(", ")),
            }
        } else {
            Report::new("value", format!("{module}::{name}: wrong number of arguments"))
                .expected(format!(
                    "{} argument{}",
                    counts.join(" or "),
                    if counts == ["1"] { "" } else { "s" }
                ))
                .got(count.to_string())
        };
        found.push((pos, report));
    }

    /// `Fn("blned")`: a function by its name.
    fn pointer(&self, call: &FnCallExpr, found: &mut Vec<(Position, Report)>) {
        let [Expr::StringConstant(name, at)] = &call.args[..] else { return };
        let own = self.script.own.keys().any(|(n, _)| n == name.as_str());
        let known = self.known.contains_key(name.as_str()) || LANGUAGE.contains(&name.as_str());
        if own || known || !name.starts_with(|c: char| c.is_alphabetic() || c == '_') || name.contains('$') {
            return;
        }
        found.push((*at, self.explain(name, 0, 0)));
    }

    /// Keys of a literal options map at the end of a call of a documented function.
    fn keys(&self, call: &FnCallExpr, found: &mut Vec<(Position, Report)>) {
        let Some(Expr::Map(map, _)) = call.args.last() else { return };
        let entries: Vec<_> =
            catalog::lookup(&call.name).into_iter().filter(|e| !e.options.is_empty()).collect();
        if entries.is_empty() {
            return;
        }
        let known: Vec<String> =
            entries.iter().flat_map(|e| e.options.iter().map(|o| o.name.clone())).collect();
        if !map.0.is_empty() {
            wrong_keys(call, &call.name, &known, found);
        }
    }

    /// `o.sede`, where `o` holds the recipe's options.
    fn field(&self, lhs: &Expr, rhs: &Expr, found: &mut Vec<(Position, Report)>) {
        let (Some(recipe), Expr::Variable(v, _, at)) = (self.recipe, lhs) else { return };
        if !self.script.holds_options(&v.1, *at) {
            return;
        }
        let first = match rhs {
            Expr::Dot(x, ..) | Expr::Index(x, ..) => &x.lhs,
            other => other,
        };
        let Expr::Property(p, pos) = first else { return };
        let names: Vec<&str> = recipe.specs.iter().map(|s| s.name.as_str()).chain(["model"]).collect();
        let name = p.2.as_str();
        if names.contains(&name) {
            return;
        }
        let report = Report::new("option", format!("there is no option {name}")).expected(names.join(" "));
        found.push((
            *pos,
            match nearest(name, names) {
                Some(near) => report.hint(format!("did you mean {near}?")),
                None => report.hint("add it to the map of options(...)"),
            },
        ));
    }
}

/// Keys of a literal options map at the end of a call that the function does not know (`known` is empty: it does not say).
fn wrong_keys(call: &FnCallExpr, name: &str, known: &[String], found: &mut Vec<(Position, Report)>) {
    let Some(Expr::Map(map, _)) = call.args.last() else { return };
    if known.is_empty() {
        return;
    }
    for (key, _) in map.0.iter().filter(|(k, _)| !known.iter().any(|n| n == k.name.as_str())) {
        let report = Report::new("option", format!("{name}: there is no option {}", key.name))
            .expected(known.join(", "));
        let report = match nearest(&key.name, known.iter().map(String::as_str)) {
            Some(near) => report.hint(format!("did you mean {near}?")),
            None => report.hint(format!("see ?{name}")),
        };
        found.push((key.pos, report));
    }
}
