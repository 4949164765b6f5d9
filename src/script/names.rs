//! The names that a script makes or brings in, read from its syntax tree: what [`super::check`] holds calls against.

use std::collections::{BTreeMap, HashMap, HashSet};

use rhai::{AST, ASTNode, Engine, Expr, Position, ScriptFuncDef, Stmt};

use super::catalog::nearest;
use super::modules;
use crate::report::Report;

/// Functions of a module: name and number of arguments, with the keys of the options map that each takes last.
pub type Module = BTreeMap<(String, usize), Vec<String>>;

/// What a script makes and brings in.
#[derive(Default)]
pub struct Names {
    /// Keys of map literals: closures in maps are called like methods.
    pub fields: HashSet<String>,
    /// Modules by the name that the script gives them, the library's under their own. `None`: its functions are not known.
    pub modules: HashMap<String, Option<Module>>,
    /// The script's own functions.
    pub own: Module,
    /// Variables that hold the recipe's options.
    pub options: HashSet<String>,
    /// Bodies of functions with a parameter called like one of [`Names::options`].
    shadows: Vec<(String, Position, Position)>,
    /// Imports of modules that are not there.
    pub missing: Vec<(Position, Report)>,
}

impl Names {
    /// Reads a compiled text. `source` is its file, beside which modules are looked for; `options` the variable that holds
    /// the recipe's options.
    pub fn read(ast: &AST, source: &str, options: Option<&str>) -> Names {
        let mut names = Names { own: functions(ast), ..Names::default() };
        for (name, text) in modules::LIBRARY {
            names.modules.insert((*name).to_string(), parse(text));
        }
        names.options.extend(options.map(str::to_string));
        let mut made: HashMap<String, usize> = HashMap::new();
        ast.walk(&mut |path: &[ASTNode]| {
            match path.last() {
                Some(ASTNode::Expr(Expr::Map(map, _))) => {
                    names.fields.extend(map.0.iter().map(|(k, _)| k.name.to_string()));
                }
                Some(ASTNode::Stmt(Stmt::Import(x, position))) => {
                    names.import(&x.0, x.1.name.as_str(), source, *position);
                }
                Some(ASTNode::Stmt(Stmt::Var(x, ..))) => {
                    *made.entry(x.0.name.to_string()).or_default() += 1;
                    // `let p = o;` is another name for the options.
                    if matches!(&x.1, Expr::Variable(v, ..) if names.options.contains(v.1.as_str())) {
                        names.options.insert(x.0.name.to_string());
                    }
                }
                _ => {}
            }
            true
        });
        // A name that is made twice may hold anything.
        names.options.retain(|n| made.get(n) == Some(&1));
        for f in ast.iter_fn_def().filter(|f| !f.name.contains('$')) {
            let (start, end) = (f.body.start_position(), f.body.end_position());
            let shadowed = f.params.iter().filter(|p| names.options.contains(p.as_str()));
            names.shadows.extend(shadowed.map(|p| (p.to_string(), start, end)));
        }
        names
    }

    /// Whether a variable at a place holds the recipe's options.
    pub fn holds_options(&self, name: &str, at: Position) -> bool {
        let hidden = |(n, start, end): &(String, Position, Position)| n == name && *start <= at && at <= *end;
        self.options.contains(name) && !self.shadows.iter().any(hidden)
    }

    fn import(&mut self, path: &Expr, alias: &str, source: &str, position: Position) {
        let Expr::StringConstant(path, at) = path else {
            self.modules.insert(alias.to_string(), None);
            return;
        };
        let module = match modules::text_of(source, path) {
            Some(text) => text.and_then(|t| parse(&t)),
            None => {
                let report = Report::new("missing", format!("there is no module {path}"));
                let library = modules::names();
                let report = match nearest(path, library.iter().map(String::as_str)) {
                    Some(near) => report.hint(format!("did you mean {near}?")),
                    None => report.expected(format!(
                        "a .rhai file beside the script, or one of {}",
                        library.join(", ")
                    )),
                };
                self.missing.push((if at.is_none() { position } else { *at }, report));
                None
            }
        };
        if !alias.is_empty() {
            self.modules.insert(alias.to_string(), module);
        }
    }
}

/// The functions of a text; `None` if it cannot be read.
fn parse(text: &str) -> Option<Module> {
    let mut engine = Engine::new_raw();
    super::engine::limits(&mut engine);
    engine.set_strict_variables(false);
    engine.compile(text).ok().map(|ast| functions(&ast))
}

/// The functions, each with the keys that its last parameter may have, where it says so:
/// `defaults(options, #{ steps: 30 })`.
fn functions(ast: &AST) -> Module {
    let mut calls: Vec<(Position, String, Vec<String>)> = Vec::new();
    ast.walk(&mut |path: &[ASTNode]| {
        let (call, at) = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, at)) | ASTNode::Stmt(Stmt::FnCall(call, at))) => {
                (call, *at)
            }
            _ => return true,
        };
        if let ("defaults", [Expr::Variable(v, ..), Expr::Map(map, _)]) = (call.name.as_str(), &call.args[..])
        {
            calls.push((at, v.1.to_string(), map.0.iter().map(|(k, _)| k.name.to_string()).collect()));
        }
        true
    });
    let keys = |f: &ScriptFuncDef| -> Vec<String> {
        let inside = |at: &Position| f.body.start_position() <= *at && *at <= f.body.end_position();
        let last = f.params.last().map_or("", |p| p.as_str());
        calls.iter().filter(|(at, v, _)| v == last && inside(at)).flat_map(|(_, _, k)| k.clone()).collect()
    };
    let named = ast.iter_fn_def().filter(|f| !f.name.contains('$'));
    named.map(|f| ((f.name.to_string(), f.params.len()), keys(f))).collect()
}
