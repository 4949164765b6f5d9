//! [`Session`]: one person's variables, functions and history of cells, evaluated one after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use rhai::{AST, Dynamic, Engine, Expr, ModuleResolver, Position, Scope, Stmt};

use super::check::{self, Functions};
use super::errors::{Context, from_eval, from_parse};
use super::host::{Host, Running, Settings};
use super::options::{self, Column, Recipe, Val};
use super::watchdog::Watchdog;
use super::{bind, catalog, complete, engine, recipes, scan, types};
use crate::engine::latent::Latent;
use crate::engine::observe::{Cancel, Observer};
use crate::engine::trajectory::Trajectory;
use crate::engine::weights::embedding::Embedding;
use crate::engine::weights::model::Model;
use crate::report::{Exit, Report};

/// Characters of a prompt that are looked at for completion.
const PROMPT: usize = 2000;

/// What a cell or a recipe gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The value's display line, unless it is nothing or was hidden with `;`.
    pub text: Option<String>,
    /// The pictures of a value that is an Image (pictures that the script showed itself came as events).
    pub pictures: Vec<Arc<RgbImage>>,
    /// Files that were written.
    pub saved: Vec<PathBuf>,
}

/// A variable as `:vars` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type as scripts call it.
    pub kind: String,
    /// Its display line.
    pub detail: String,
    /// Bytes it keeps alive.
    pub bytes: usize,
}

/// A cell that worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its number, as errors name it.
    pub number: usize,
    /// Its text.
    pub text: String,
}

/// A model that the session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// What it was loaded for: the device.
    pub device: String,
    /// Bytes of its weights.
    pub bytes: usize,
    /// The variables that hold it.
    pub variables: Vec<String>,
}

/// What completion needs to know of a session. Plain data: may cross threads.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Variables: name and type.
    pub variables: Vec<(String, String)>,
    /// Functions that cells defined: name and parameters.
    pub functions: Vec<(String, Vec<String>)>,
    /// Words of the prompts that variables hold, the newest variable's first; some of them, if there are many.
    pub words: Vec<String>,
}

/// One person's session. Lives on the thread that made it, which needs a large stack ([`super::thread`]).
pub struct Session {
    engine: Engine,
    host: Rc<Host>,
    scope: Scope<'static>,
    known: &'static Functions,
    count: usize,
    cells: Vec<Done>,
    functions: Vec<(String, Vec<String>)>,
}

impl Session {
    /// An empty session. Events go to `observer`; `cancel` stops what runs.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>, cancel: Cancel) -> Session {
        let host = Rc::new(Host::new(settings, observer, cancel));
        let engine = engine::create(&host);
        let known = check::functions(&engine);
        let mut scope = recipes::scope();
        scope.push("ans", Dynamic::UNIT);
        Session { engine, host, scope, known, count: 0, cells: Vec::new(), functions: Vec::new() }
    }

    /// Evaluates one cell. Its value becomes `ans`; a cell that ends in `;` shows nothing.
    pub fn eval(&mut self, code: &str) -> Result<Outcome, Box<Report>> {
        self.count += 1;
        let name = format!("cell {}", self.count);
        self.host.running.replace(Running {
            name: "cell".into(),
            source: Some(code.to_string()),
            options: None,
        });
        self.host.policy.borrow_mut().set_typed(true);
        let mut scope = std::mem::take(&mut self.scope);
        let result = self.evaluate(&name, code, &mut scope, true);
        self.scope = prune(scope);
        let value = result.map_err(|report| Box::new(self.keep_last(report)))?;
        self.cells.push(Done { number: self.count, text: code.trim_end().to_string() });
        let hidden = scan::ends_with_semicolon(code);
        let outcome = self.outcome(&value, hidden).map_err(Box::new)?;
        if !value.is_unit() {
            self.set_ans(value);
        }
        Ok(outcome)
    }

    /// A stopped cell leaves its last latent in `ans`: nothing is lost.
    fn keep_last(&mut self, report: Report) -> Report {
        if report.exit != Exit::Interrupted && !matches!(&*report.kind, "budget" | "internal") {
            return report;
        }
        match self.host.take_last() {
            Some(z) if report.kind == "internal" => {
                self.set_ans(Dynamic::from(z));
                let hint = report.hint.clone().unwrap_or_default();
                report.hint(format!("{hint}; ans holds the latent of the last step"))
            }
            Some(z) => {
                self.set_ans(Dynamic::from(z));
                report.hint("ans holds the latent of the last step: m.decode(ans) shows it")
            }
            None => report,
        }
    }

    /// Sets `ans`. Where a cell has made a constant of it, a new one hides the old: changing that would be a panic.
    fn set_ans(&mut self, value: Dynamic) {
        if self.scope.is_constant("ans") == Some(true) {
            self.scope.push_dynamic("ans", value);
        } else {
            self.scope.set_value("ans", value);
        }
    }

    /// Saves the latent of the last step as OUT/NAME-latent.safetensors (tensor `latent`, f32), for a process that must
    /// end; where a stopped cell has left it in `ans` already, that. `None` if there is none, or it cannot be written.
    pub fn rescue(&self) -> Option<PathBuf> {
        let z = self.host.take_last().or_else(|| self.scope.get_value::<Latent>("ans"))?;
        let name = match self.host.stopped_name() {
            name if name.is_empty() => "scumble".into(),
            name => name,
        };
        let bytes = bind::latent_file(&z).ok()?;
        let path = PathBuf::from(format!("{name}-latent.safetensors"));
        self.host.policy.borrow().write_new("rescue", &path, &bytes).ok()
    }

    /// Saves a variable that is an Image as OUT/NAME.png. `None`: there is no such variable.
    /// Errors: it is not an Image, or cannot be written.
    pub fn keep_picture(&mut self, name: &str) -> Result<Option<PathBuf>, Box<Report>> {
        let Some(value) = self.scope.get(name) else { return Ok(None) };
        let kind = types::name(value);
        if kind != "Image" {
            let report = Report::new("type", format!("{name} cannot be fetched as a picture"));
            let mut report =
                report.hint("m.decode(z) makes an Image of a Latent; files are fetched by their name");
            (report.expected, report.got) = (Some("an Image".into()), Some(kind));
            return Err(Box::new(report));
        }
        let mut scope = std::mem::take(&mut self.scope);
        let saved = self.evaluate(":get", &format!("save({name}, \"{name}.png\")"), &mut scope, false);
        self.scope = prune(scope);
        Ok(Some(PathBuf::from(saved.map_err(Box::new)?.to_string())))
    }

    /// Runs a recipe (a built-in name, or a file) with values as typed on the command line.
    /// It has its own variables: those of the session stay as they are.
    pub fn run(&mut self, recipe: &str, args: &[(String, String)]) -> Result<Outcome, Box<Report>> {
        self.run_recipe(recipe, args).map_err(|report| {
            // A process that ends on a signal saves the latent instead: see `rescue`.
            Box::new(if self.host.settings().interactive { self.keep_last(report) } else { report })
        })
    }

    fn run_recipe(&mut self, name: &str, args: &[(String, String)]) -> Result<Outcome, Report> {
        let recipe = recipes::find(name)?;
        let source =
            recipe.path.as_ref().map_or_else(|| format!("{}.rhai", recipe.name), |p| p.display().to_string());
        self.host.policy.borrow_mut().set_typed(false);
        let given = self.read_args(&recipe, args)?;
        let model = self.host.settings().model.clone();
        let column = Column::of_model(&model, &recipe.name);
        let resolved = options::resolve(
            &recipe.name,
            &recipe.specs,
            &recipe.examples,
            column.as_ref(),
            &model,
            &given,
            &bind::is_shipped,
        )?;
        let mut mistakes = check::check(&self.engine, self.known, &source, &recipe.text, &recipes::scope());
        if !mistakes.is_empty() {
            let more = mistakes.len() - 1;
            let mut first = mistakes.remove(0);
            if more > 0 {
                first.trace.push(format!("{more} more: scumble check {name}"));
            }
            return Err(first);
        }
        let map: rhai::Map = given.iter().map(|(k, v)| (k.as_str().into(), v.to_dynamic())).collect();
        let mut scope = Scope::new();
        scope.push("args", map);
        let own = recipe.path.is_some().then(|| recipe.text.clone());
        self.host.running.replace(Running {
            name: recipe.name.clone(),
            source: own,
            options: Some(resolved),
        });
        let result = self.evaluate(&source, &recipe.text, &mut scope, false);
        let value = result?;
        self.outcome(&value, scan::ends_with_semicolon(&recipe.text))
    }

    /// The command line's values; files among them may be read by the recipe.
    fn read_args(&self, recipe: &Recipe, args: &[(String, String)]) -> Result<Vec<(String, Val)>, Report> {
        args.iter()
            .map(|(name, text)| {
                let is_text =
                    recipe.specs.iter().any(|s| &s.name == name && matches!(s.default, Val::Text(_)));
                let value = if is_text {
                    Val::Text(text.clone())
                } else {
                    Val::from_command_line(text).map_err(|e| {
                        Report::usage(format!("{}: the value of {name} cannot be read: {e}", recipe.name))
                            .expected("a number, true, false, [...], #{...}, or plain text")
                            .got(text.clone())
                    })?
                };
                grant(&self.host, &value);
                Ok((name.clone(), value))
            })
            .collect()
    }

    fn outcome(&self, value: &Dynamic, hidden: bool) -> Result<Outcome, Report> {
        let mut outcome = Outcome { saved: self.host.saved.borrow().clone(), ..Outcome::default() };
        if !hidden && !value.is_unit() {
            // A text of several lines (a table, a diff) is shown as it is.
            let text = value.read_lock::<rhai::ImmutableString>().filter(|t| t.contains('\n'));
            let text = text.map_or_else(|| types::line(value), |t| t.to_string());
            outcome.text = Some(crate::report::plain(&text).into_owned());
            outcome.pictures = bind::pictures(value).map_err(|e| super::errors::from_engine(&e))?;
        }
        Ok(outcome)
    }

    fn evaluate(
        &mut self,
        name: &str,
        code: &str,
        scope: &mut Scope<'static>,
        cell: bool,
    ) -> Result<Dynamic, Report> {
        self.host.sources.borrow_mut().add(name, code);
        let ast = self.compile(name, code, scope)?;
        if ast.has_functions() {
            // Each cell's functions are a module of their own: later definitions win, and an error is shown in the
            // cell that defined the function.
            self.note_functions(&ast);
            self.engine.register_global_module(ast.shared_lib().clone());
        }
        self.guarded(name, scope, |session, scope| {
            if cell {
                session.keep_imports(&ast)?;
            }
            session.engine.eval_ast_with_scope::<Dynamic>(scope, &ast)
        })
        .map(Dynamic::flatten)
    }

    /// Runs something within the budgets of a cell. Its errors become reports, its panics too.
    fn guarded<T>(
        &mut self,
        name: &str,
        scope: &mut Scope<'static>,
        work: impl FnOnce(&mut Self, &mut Scope<'static>) -> Result<T, Box<rhai::EvalAltResult>>,
    ) -> Result<T, Report> {
        self.host.begin();
        let watch = Watchdog::start(&self.host);
        let result = catch_unwind(AssertUnwindSafe(|| work(self, scope)));
        let timed_out = watch.finish();
        // A native that calls back may have swallowed the error that ends the run.
        let result = match (result, self.host.take_stopped()) {
            (Ok(Ok(_)), Some(stop)) => Ok(Err(self.host.stop(stop))),
            (result, _) => result,
        };
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let names = self.names(scope);
                let sources = self.host.sources.borrow();
                let cx = Context { sources: &sources, current: name, names: &names };
                let mut report = from_eval(*error, &cx);
                if timed_out && report.exit == Exit::Interrupted {
                    let limit = self.host.settings().max_time.unwrap_or_default();
                    report.exit = Exit::Script;
                    report.kind = "budget".into();
                    report.title = format!("the time is used up: --max-time {} s", limit.as_secs_f64());
                    report.hint = Some("take fewer steps, or a larger --max-time".into());
                }
                if self.host.usage.get() {
                    report.exit = Exit::Usage;
                }
                Err(report)
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
                let title = format!("scumble itself failed: {}", text.unwrap_or_default());
                let mut report = Report::new("internal", title).hint(
                    "a fault of scumble, not of the script: please report these lines and what you ran",
                );
                report.got = crate::report::place_of_panic();
                Err(report)
            }
        }
    }

    fn compile(&self, name: &str, code: &str, scope: &Scope) -> Result<AST, Report> {
        let mut ast = self.engine.compile_with_scope(scope, code).map_err(|e| {
            let names = self.names(scope);
            let sources = self.host.sources.borrow();
            from_parse(&e, &Context { sources: &sources, current: name, names: &names })
        })?;
        ast.set_source(name);
        self.host.sources.borrow_mut().add_closures(name, &ast);
        Ok(ast)
    }

    fn names(&self, scope: &Scope) -> Vec<String> {
        let variables = scope.iter_raw().map(|(n, _, _)| n.to_string());
        variables.chain(self.functions.iter().map(|(n, _)| n.clone())).collect()
    }

    fn note_functions(&mut self, ast: &AST) {
        for f in ast.iter_fn_def().filter(|f| !f.name.starts_with("anon$")) {
            let name = f.name.to_string();
            self.functions.retain(|(n, _)| *n != name);
            self.functions.push((name.clone(), f.params.iter().map(|p| p.to_string()).collect()));
            self.host.defined.borrow_mut().push(name);
        }
    }

    /// `import "x" as y` at the prompt: Rhai forgets it at the end of the cell, so `y` becomes a static module.
    fn keep_imports(&mut self, ast: &AST) -> Result<(), Box<rhai::EvalAltResult>> {
        for stmt in ast.statements() {
            let Stmt::Import(x, position) = stmt else { continue };
            let (Expr::StringConstant(path, _), alias) = (&x.0, &x.1) else { continue };
            if !alias.name.is_empty() {
                let module = self.resolve(path, *position)?;
                self.engine.register_static_module(alias.name.as_str(), module);
            }
        }
        Ok(())
    }

    fn resolve(&self, path: &str, position: Position) -> Result<Rc<rhai::Module>, Box<rhai::EvalAltResult>> {
        super::modules::Resolver::new(&self.host).resolve(&self.engine, None, path, position)
    }

    /// The variables there are, without `args` and an empty `ans`.
    pub fn variables(&self) -> Vec<Variable> {
        oldest_first(&self.scope)
            .into_iter()
            .filter(|(name, _, value)| *name != "args" && !(*name == "ans" && value.is_unit()))
            .map(|(name, _, value)| Variable {
                name: name.into(),
                kind: types::name(value),
                detail: crate::report::plain(&types::line(value)).into_owned(),
                bytes: types::bytes(value),
            })
            .collect()
    }

    /// A variable's value, as it is now. `None` if there is no such variable.
    pub(super) fn value_of(&self, name: &str) -> Option<Dynamic> {
        self.scope.get(name).filter(|_| name != "args").map(Dynamic::flatten_clone)
    }

    /// What bindings reach.
    pub(super) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Evaluates code once to warm up and `n` times more; the time of each of these. On a GPU the time ends when its work
    /// has ended. What the code defines is forgotten, what it changes stays.
    pub fn bench(&mut self, n: usize, code: &str) -> Result<Vec<Duration>, Box<Report>> {
        self.count += 1;
        let name = format!("cell {}", self.count);
        self.host.policy.borrow_mut().set_typed(true);
        self.host.sources.borrow_mut().add(&name, code);
        let mut scope = std::mem::take(&mut self.scope);
        let length = scope.len();
        let times = self.compile(&name, code, &scope).and_then(|ast| {
            self.guarded(&name, &mut scope, |session, scope| {
                let mut times = Vec::with_capacity(n);
                for turn in 0..=n {
                    let started = Instant::now();
                    drop(session.engine.eval_ast_with_scope::<Dynamic>(scope, &ast)?);
                    if let Some((model, _)) = session.host.models.last() {
                        let _ = model.device().synchronize();
                    }
                    if turn > 0 {
                        times.push(started.elapsed());
                    }
                    scope.rewind(length);
                    if session.host.cancel().is_set() {
                        return Err(session.host.stop(super::errors::Stop::Cancelled));
                    }
                }
                Ok(times)
            })
        });
        scope.rewind(length);
        self.scope = prune(scope);
        times.map_err(Box::new)
    }

    /// The models that are in memory: the one loaded last, and what variables hold.
    pub fn models(&self) -> Vec<Held> {
        let mut all: Vec<Held> = Vec::new();
        let mut note = |model: &Model, device: String, variable: Option<&str>| {
            let found = all.iter().position(|h| h.name == model.name() && h.bytes == model.bytes());
            let at = found.unwrap_or_else(|| {
                let (name, bytes) = (model.name().to_string(), model.bytes());
                all.push(Held { name, device, bytes, variables: Vec::new() });
                all.len() - 1
            });
            if let Some(held) = all.get_mut(at) {
                held.variables.extend(variable.map(String::from));
            }
        };
        if let Some((model, device)) = self.host.models.last() {
            note(&model, device, None);
        }
        for (name, _, value) in oldest_first(&self.scope) {
            if let Some(model) = value.read_lock::<Model>() {
                note(&model, format!("{:?}", model.device().location()).to_lowercase(), Some(name));
            }
        }
        all
    }

    /// Takes other settings, for what runs from now on.
    pub fn configure(&self, settings: Settings) {
        self.host.set_settings(settings);
    }

    /// Drops a variable's value. `false` if there is no such variable.
    pub fn free(&mut self, name: &str) -> bool {
        if name == "ans" {
            self.set_ans(Dynamic::UNIT);
            return true;
        }
        if name == "args" || !self.scope.contains(name) {
            return false;
        }
        let kept: Vec<_> = oldest_first(&self.scope)
            .into_iter()
            .filter(|(n, _, _)| *n != name)
            .map(|(n, c, v)| (n.to_string(), c, v.clone()))
            .collect();
        let mut scope = Scope::new();
        for (n, constant, v) in kept {
            if constant {
                scope.push_constant_dynamic(n, v);
            } else {
                scope.push_dynamic(n, v);
            }
        }
        self.scope = scope;
        self.host.models.forget();
        true
    }

    /// Names, types and words for completion.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            variables: oldest_first(&self.scope)
                .into_iter()
                .map(|(n, _, v)| (n.to_string(), types::name(v)))
                .collect(),
            functions: self.functions.clone(),
            words: complete::words(self.scope.iter_raw().filter_map(|(_, _, value)| prompt(value))),
        }
    }

    /// The cells that succeeded, in order.
    pub fn cells(&self) -> &[Done] {
        &self.cells
    }

    /// The Rhai source of a function that a cell or the library defined.
    pub fn source_of(&self, function: &str) -> Option<String> {
        let library = catalog::lookup(function).into_iter().find_map(|e| e.source.clone());
        let cell = || {
            let start = format!("fn {function}(");
            self.cells.iter().rev().find(|c| c.text.contains(&start)).map(|c| c.text.clone())
        };
        library.or_else(cell)
    }

    /// For tests: after how many operations without an engine call a loop counts as endless.
    pub fn set_operation_limit(&self, limit: u64) {
        self.host.set_operation_limit(limit);
    }
}

/// The prompt of a value that has one, as far as somebody may want to type words of it.
fn prompt(value: &Dynamic) -> Option<String> {
    let text = value.read_lock::<Embedding>().map(|text| text.prompt().to_string());
    let text =
        text.or_else(|| value.read_lock::<Trajectory>().map(|t| t.steering().text.prompt().to_string()));
    text.map(|t| t.chars().take(PROMPT).collect())
}

/// The entries of a scope; Rhai's own iterator begins with the newest.
fn oldest_first<'a>(scope: &'a Scope) -> Vec<(&'a str, bool, &'a Dynamic)> {
    let mut entries: Vec<_> = scope.iter_raw().collect();
    entries.reverse();
    entries
}

/// A second `let z` does not replace the first in a scope, which would keep both alive (and with them the memory of
/// latents and models). Values are moved, not cloned: a long list would be copied after every cell.
fn prune(mut scope: Scope<'static>) -> Scope<'static> {
    let mut names: Vec<(String, bool)> = Vec::new();
    for (name, constant, _) in oldest_first(&scope) {
        names.retain(|(n, _)| n != name);
        names.push((name.to_string(), constant));
    }
    let mut pruned = Scope::new();
    for (name, constant) in names {
        if constant {
            let value = scope.get(&name).cloned().unwrap_or_default();
            pruned.push_constant_dynamic(name, value);
        } else {
            let value = scope.get_mut(&name).map(std::mem::take).unwrap_or_default();
            pruned.push_dynamic(name, value);
        }
    }
    pruned
}

/// Lets every file in a value be read.
fn grant(host: &Host, value: &Val) {
    match value {
        Val::Text(t) if super::files::is_file_like(t) => host.policy.borrow_mut().grant(t.as_ref()),
        Val::List(list) => list.iter().for_each(|v| grant(host, v)),
        Val::Map(fields) => fields.iter().for_each(|(_, v)| grant(host, v)),
        _ => {}
    }
}
