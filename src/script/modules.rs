//! The library: Rhai modules that come with the program, and the user's own.
//!
//! Library modules are registered under their names, so `prompt::words(...)` works on every line without `import`
//! (Rhai forgets imports between the cells of a prompt). A `.rhai` file in the user's library folder
//! (`~/.config/scumble/lib`) joins them; a file of the same name replaces one that comes with the program.
//! `import "name" as n` looks beside the running script first, then in the user's library.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use rhai::{AST, Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared};

use super::catalog::{Entry, Param, What};
use super::host::Host;
use crate::engine::error::Error;
use crate::engine::observe::Event;

/// Longest script file, bytes.
pub const MAX_TEXT: u64 = 4 << 20;

/// Modules that come with the program: name and text. A module may call those above it.
pub const LIBRARY: &[(&str, &str)] = &[
    ("lgp", include_str!("../../stdlib/lgp.rhai")),
    ("fuse", include_str!("../../stdlib/fuse.rhai")),
    ("heat", include_str!("../../stdlib/heat.rhai")),
    ("inversion", include_str!("../../stdlib/inversion.rhai")),
    ("losses", include_str!("../../stdlib/losses.rhai")),
    ("mix", include_str!("../../stdlib/mix.rhai")),
    ("prompt", include_str!("../../stdlib/prompt.rhai")),
    ("sample", include_str!("../../stdlib/sample.rhai")),
    ("sheet", include_str!("../../stdlib/sheet.rhai")),
    ("stats", include_str!("../../stdlib/stats.rhai")),
    ("train", include_str!("../../stdlib/train.rhai")),
    ("study", include_str!("../../stdlib/study.rhai")),
    ("p2p", include_str!("../../stdlib/p2p.rhai")),
    ("report", include_str!("../../stdlib/report.rhai")),
    ("report_heat", include_str!("../../stdlib/report_heat.rhai")),
    ("report_imagic", include_str!("../../stdlib/report_imagic.rhai")),
    ("report_disentangle", include_str!("../../stdlib/report_disentangle.rhai")),
    ("report_sketch", include_str!("../../stdlib/report_sketch.rhai")),
    ("report_dreambooth", include_str!("../../stdlib/report_dreambooth.rhai")),
    ("report_magicfusion", include_str!("../../stdlib/report_magicfusion.rhai")),
    ("report_prompt2prompt", include_str!("../../stdlib/report_prompt2prompt.rhai")),
    ("report_invert", include_str!("../../stdlib/report_invert.rhai")),
];

/// The folder of the user's own modules.
pub fn user_folder() -> Option<PathBuf> {
    dirs::config_dir().map(|d| d.join("scumble").join("lib"))
}

/// Names of all modules that come with the program.
pub fn names() -> Vec<String> {
    LIBRARY.iter().map(|(n, _)| (*n).to_string()).collect()
}

/// Functions of the library: module, function, number of parameters.
pub fn functions() -> Vec<(String, String, usize)> {
    documented().into_iter().map(|e| (e.owner.unwrap_or_default(), e.name, e.params.len())).collect()
}

/// Registers the library and the user's modules, and sets up `import`.
pub fn install(engine: &mut Engine, host: &Rc<Host>) {
    engine.set_module_resolver(Resolver::new(host));
    let mut list: Vec<(String, String, String)> =
        LIBRARY.iter().map(|(n, t)| ((*n).into(), format!("stdlib/{n}.rhai"), (*t).into())).collect();
    if !host.settings().no_init {
        for (name, path, text) in user_modules() {
            list.retain(|(n, _, _)| *n != name);
            list.push((name, path, text));
        }
    }
    for (name, source, text) in list {
        match build(engine, host, &source, &text) {
            Ok(module) => {
                engine.register_static_module(&name, module);
            }
            Err(e) => host.emit(Event::Warn(format!("the module {name} cannot be used: {e}"))),
        }
    }
}

fn user_modules() -> Vec<(String, String, String)> {
    let Some(entries) = user_folder().and_then(|d| std::fs::read_dir(d).ok()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "rhai")).collect();
    paths.sort();
    paths
        .into_iter()
        .filter_map(|p| {
            let text = std::fs::read_to_string(&p).ok()?;
            Some((p.file_stem()?.to_string_lossy().to_string(), p.display().to_string(), text))
        })
        .collect()
}

/// Compiles a text into a module whose functions know where they come from.
pub fn build(
    engine: &Engine,
    host: &Host,
    source: &str,
    text: &str,
) -> Result<Shared<Module>, Box<EvalAltResult>> {
    host.sources.borrow_mut().add(source, text);
    let mut ast = engine.compile(text).map_err(|e| {
        let inner = EvalAltResult::ErrorParsing(*e.0, e.1);
        Box::new(EvalAltResult::ErrorInModule(source.into(), inner.into(), Position::NONE))
    })?;
    ast.set_source(source);
    host.sources.borrow_mut().add_closures(source, &ast);
    let mut module = Module::eval_ast_as_new(Scope::new(), &ast, engine)
        .map_err(|e| Box::new(EvalAltResult::ErrorInModule(source.into(), e, Position::NONE)))?;
    module.set_id(source);
    Ok(module.into())
}

/// `import`: beside the script, then the user's library, then the program's.
pub struct Resolver {
    host: Rc<Host>,
}

impl Resolver {
    /// The resolver of a session.
    pub fn new(host: &Rc<Host>) -> Self {
        Resolver { host: Rc::clone(host) }
    }
}

impl ModuleResolver for Resolver {
    fn resolve(
        &self,
        engine: &Engine,
        source: Option<&str>,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let not_found = || Box::new(EvalAltResult::ErrorModuleNotFound(path.into(), position));
        let bare = path.strip_prefix("std/").unwrap_or(path);
        for file in candidates(source, path) {
            if file.is_file() {
                let own = [user_folder(), source.map(Path::new).and_then(Path::parent).map(folder)];
                let policy = match own.into_iter().flatten().find(|folder| lies_in(&file, folder)) {
                    Some(folder) => self.host.policy.borrow().and_below(&folder),
                    None => self.host.policy.borrow().clone(),
                };
                let bytes = policy.read("import", &file, MAX_TEXT).map_err(super::errors::throw)?;
                let real = file.canonicalize().unwrap_or_else(|_| file.clone());
                let _open = Opened::new(&self.host, &real, path)?;
                let text = String::from_utf8(bytes).map_err(|_| {
                    super::errors::throw(Error::file("import", &file, "this is not a text").expected("UTF-8"))
                })?;
                return build(engine, &self.host, &file.display().to_string(), &text);
            }
        }
        let (_, text) = LIBRARY.iter().find(|(n, _)| *n == bare).ok_or_else(not_found)?;
        build(engine, &self.host, &format!("stdlib/{bare}.rhai"), text)
    }
}

/// The text of the module that an import in `source` means, for checks: read, never run. `None`: there is none;
/// `Some(None)`: it is there, and what is wrong with it is told when it is imported.
pub fn text_of(source: &str, path: &str) -> Option<Option<String>> {
    if let Some(file) = candidates(Some(source), path).into_iter().find(|f| f.is_file()) {
        let short = file.metadata().is_ok_and(|m| m.len() <= MAX_TEXT);
        return Some(short.then(|| std::fs::read_to_string(&file).ok()).flatten());
    }
    let bare = path.strip_prefix("std/").unwrap_or(path);
    LIBRARY.iter().find(|(n, _)| *n == bare).map(|(_, t)| Some((*t).to_string()))
}

fn candidates(source: Option<&str>, path: &str) -> Vec<PathBuf> {
    let name = if path.ends_with(".rhai") { path.to_string() } else { format!("{path}.rhai") };
    let beside = source.map(Path::new).and_then(Path::parent).map(|d| d.join(&name));
    let user = user_folder().map(|d| d.join(&name));
    beside.into_iter().chain([PathBuf::from(&name)]).chain(user).collect()
}

fn lies_in(file: &Path, folder: &Path) -> bool {
    match (folder.canonicalize(), file.canonicalize()) {
        (Ok(folder), Ok(file)) => file.starts_with(folder),
        _ => false,
    }
}

/// The folder of a file name: `.` for a bare one.
fn folder(parent: &Path) -> PathBuf {
    if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_path_buf() }
}

/// A file that is being imported: one that imports itself, directly or through others, would never end.
struct Opened<'a>(&'a Host);

impl<'a> Opened<'a> {
    fn new(host: &'a Host, file: &Path, path: &str) -> Result<Self, Box<EvalAltResult>> {
        let mut open = host.importing.borrow_mut();
        if open.iter().any(|f| f == file) {
            let chain: Vec<String> = open.iter().map(|f| f.display().to_string()).collect();
            return Err(super::errors::throw(
                Error::value("import", format!("{path} imports itself"))
                    .got(format!("{} -> {}", chain.join(" -> "), file.display()))
                    .hint("move what both need into a third file"),
            ));
        }
        open.push(file.to_path_buf());
        Ok(Opened(host))
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.importing.borrow_mut().pop();
    }
}

/// Catalogue entries of the library's functions, from their doc comments.
pub fn documented() -> Vec<Entry> {
    let mut engine = Engine::new_raw();
    super::engine::limits(&mut engine);
    // Only read here: the modules that a module calls are not registered.
    engine.set_strict_variables(false);
    let entries = LIBRARY.iter().flat_map(|(name, text)| {
        // A module that does not compile is found by its own test.
        engine.compile(text).map(|ast| entries(name, text, &ast)).unwrap_or_default()
    });
    entries.collect()
}

fn entries(module: &str, text: &str, ast: &AST) -> Vec<Entry> {
    let mut found: Vec<(usize, Entry)> = ast
        .iter_fn_def()
        .filter(|f| !f.name.starts_with("anon$") && !f.access.is_private())
        .map(|f| {
            let comments: Vec<&str> = f.comments.iter().map(|c| c.as_str()).collect();
            let (doc, examples) = split_doc(&comments.join("\n"));
            let params: Vec<Param> = f
                .params
                .iter()
                .map(|p| Param { name: p.to_string(), ty: "any".into(), optional: false })
                .collect();
            let list: Vec<&str> = f.params.iter().map(|p| p.as_str()).collect();
            let line = f.body.start_position().line().unwrap_or(0);
            let entry = Entry {
                name: f.name.to_string(),
                owner: Some(module.into()),
                what: What::Library,
                call: format!("{module}::{}({})", f.name, list.join(", ")),
                params,
                returns: String::new(),
                doc,
                options: Vec::new(),
                examples,
                related: Vec::new(),
                group: "Library".into(),
                source: Some(function_text(text, line)),
            };
            (line, entry)
        })
        .collect();
    found.sort_by_key(|(line, _)| *line);
    found.into_iter().map(|(_, e)| e).collect()
}

/// Text and fenced examples of a doc comment.
fn split_doc(comment: &str) -> (String, Vec<String>) {
    let (mut doc, mut examples, mut code) = (Vec::new(), Vec::new(), None::<Vec<&str>>);
    for line in comment.lines() {
        let line = line.trim_start().trim_start_matches('/');
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.trim_start().starts_with("```") {
            match code.take() {
                Some(lines) => examples.push(lines.join("\n")),
                None => code = Some(Vec::new()),
            }
        } else if let Some(lines) = &mut code {
            lines.push(line);
        } else {
            doc.push(line);
        }
    }
    (doc.join("\n").trim().to_string(), examples)
}

/// The function around a line: from its `fn` to the closing brace at the line's beginning.
fn function_text(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let start = (0..line.min(lines.len())).rev().find(|i| lines[*i].starts_with("fn ")).unwrap_or(0);
    let end = (start..lines.len()).find(|i| lines[*i].starts_with('}')).unwrap_or(lines.len() - 1);
    lines[start..=end].join("\n")
}
