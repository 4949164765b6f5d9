//! The script host from outside: documented examples, one behavior per file under tests/rhai, the reference page.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use scumble::engine::observe::{Cancel, Event, Observer};
use scumble::report::Report;
use scumble::script::{Outcome, Session, Settings, catalog, thread};

/// Keeps what it hears.
#[derive(Default)]
pub struct Ear(pub Mutex<Vec<Event>>);

impl Observer for Ear {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Ear {
    pub fn printed(&self) -> String {
        let events = self.0.lock().unwrap();
        let lines = events.iter().filter_map(|e| match e {
            Event::Print(text) => Some(text.clone()),
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A session that writes below `out`.
pub fn session(out: &Path) -> (Session, Arc<Ear>) {
    session_on(None, out)
}

/// The same, on another model than the usual one.
pub fn session_on(model: Option<&str>, out: &Path) -> (Session, Arc<Ear>) {
    let ear = Arc::new(Ear::default());
    let mut settings = Settings { out: out.to_path_buf(), no_init: true, ..Settings::default() };
    if let Some(model) = model {
        settings.model = model.into();
    }
    let session = Session::new(settings, Arc::clone(&ear) as Arc<dyn Observer>, Cancel::default());
    session.set_operation_limit(300_000);
    (session, ear)
}

/// What the last lines `// => text` and `// error: text` of a code expect.
fn expectation(code: &str) -> Option<(&str, &str)> {
    let last = code.lines().last()?;
    let ok = last.split_once("// => ").map(|(_, text)| ("value", text.trim()));
    ok.or_else(|| last.split_once("// error: ").map(|(_, text)| ("error", text.trim())))
}

fn verdict(code: &str, result: Result<Outcome, Box<Report>>) -> Result<(), String> {
    match (expectation(code), result) {
        (None | Some(("value", _)), Err(e)) => Err(e.render(false, 100)),
        (Some(("value", want)), Ok(o)) if o.text.as_deref() != Some(want) => {
            Err(format!("expected {want}, got {:?}", o.text))
        }
        (Some(("error", want)), Err(e)) if !e.render(false, 500).contains(want) => Err(e.render(false, 500)),
        (Some(("error", want)), Ok(o)) => Err(format!("expected the error {want}, got {:?}", o.text)),
        _ => Ok(()),
    }
}

#[test]
fn every_documented_example_runs() {
    let failed = thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut failed = Vec::new();
        for entry in catalog::all() {
            let (mut session, _) = session(dir.path());
            for code in &entry.examples {
                let result = session.eval(code);
                if let Err(why) = verdict(code, result) {
                    failed.push(format!("{}\n{code}\n{why}", entry.path()));
                }
            }
        }
        failed
    });
    assert!(failed.is_empty(), "{} examples fail:\n\n{}", failed.len(), failed.join("\n\n"));
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rhai");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "rhai"));
    files.sort();
    files
}

/// `// expect: text` lines are printed lines (and last the value) in order; an `// error: text` line is part of the
/// error. `// ---` separates cells.
fn run_file(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let wanted: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("// expect: ")).collect();
    let errors: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("// error: ")).collect();
    if wanted.is_empty() && errors.is_empty() {
        return Err("the file expects nothing".into());
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut session, ear) = session(dir.path());
    let mut said = Vec::new();
    let mut failures = Vec::new();
    for cell in text.split("\n// ---\n") {
        let result = session.eval(cell);
        said.extend(std::mem::take(&mut *ear.0.lock().unwrap()).into_iter().filter_map(|e| match e {
            Event::Print(text) => Some(text),
            _ => None,
        }));
        match result {
            Ok(outcome) => said.extend(outcome.text),
            Err(report) => failures.push(report.render(false, 200)),
        }
    }
    if wanted.is_empty() {
        said.clear();
    }
    if said != wanted {
        return Err(format!("expected {wanted:#?}\ngot {said:#?}\n{}", failures.join("\n")));
    }
    let all = failures.join("\n");
    if errors.is_empty() && !all.is_empty() {
        return Err(all);
    }
    match errors.iter().find(|e| !all.contains(**e)) {
        Some(missing) => Err(format!("no error says {missing:?}:\n{all}")),
        None => Ok(()),
    }
}

#[test]
fn scripts_behave_as_their_comments_say() {
    let files = files();
    assert!(files.len() >= 20, "the scripts were found");
    let failed: Vec<String> = thread::run(|| {
        files
            .iter()
            .filter_map(|p| {
                run_file(p).err().map(|why| format!("{}\n{why}", p.file_name().unwrap().display()))
            })
            .collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn the_reference_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let made = catalog::reference_markdown();
    if std::env::var_os("SCUMBLE_UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "docs/reference.md is old: SCUMBLE_UPDATE=1 cargo test --release reference");
}

#[test]
fn print_goes_to_the_observer() {
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut session, ear) = session(dir.path());
        session.eval("print(\"a\"); print([1, 0.5]);").unwrap();
        assert_eq!(ear.printed(), "a\n[1, 0.5]");
    });
}

static HELD: AtomicU64 = AtomicU64::new(0);

#[test]
fn the_memory_budget_ends_scripts_and_refuses_large_batches() {
    scumble::script::set_memory_probe(|| HELD.load(Ordering::SeqCst));
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            out: dir.path().to_path_buf(),
            max_memory: Some(100 << 20),
            no_init: true,
            ..Settings::default()
        };
        let mut session = Session::new(settings, Arc::new(Ear::default()), Cancel::default());
        session.eval("let m = load(); m.noise(0, #{ n: 2 });").unwrap();
        let e = session.eval("m.noise(0, #{ n: 64 })").unwrap_err();
        assert_eq!(e.kind, "budget");
        assert!(e.to_string().contains("--max-memory"), "{e}");
        // With the budget all but used up, whatever would make something is refused before it does.
        let setup = "let text = m.encode(\"a dog\"); let z = m.noise(0, #{ n: 2 }); let p = open(\"dog-flat.png\"); let s = m.schedule(4);";
        session.eval(setup).unwrap();
        HELD.store((100 << 20) - 1000, Ordering::SeqCst);
        for code in [
            "m.noise(0)",
            "m.encode(p)",
            "m.encode(p, #{ size: 128 })",
            "m.decode(z)",
            "m.predict(z, 1, text)",
            "m.guided(z, 1, text, text, 2)",
            "m.predict(z, 1, text, #{ features: [\"middle 0\"] })",
            "m.similarity(p, p)",
            "s.step(z, z, 0)",
            "s.back(z, z, 0)",
            "s.add_noise(z, z, 0)",
            "blend(z, z, 0.5)",
            "blend(z, z, p)",
            "blend(text, text, 0.5)",
            "p.resize(32, 32)",
            "p.fit(32, 32)",
            "p.resize(9000, 9000)",
            "grid([p, p])",
            "show([p, p])",
            "save([p, p], \"x\")",
            "attention().record().heat(\"dog\", #{ size: 999 })",
            "z + z",
            "z * 2",
            "open(\"dog-flat.png\").resize(64, 65)",
        ] {
            let e = session.eval(code).unwrap_err();
            assert_eq!(e.kind, "budget", "{code}: {e}");
        }
        HELD.store(200 << 20, Ordering::SeqCst);
        let e = session.eval("let i = 0; loop { i += 1; }").unwrap_err();
        assert!(e.title.contains("holds too much memory"), "{e}");
        HELD.store(0, Ordering::SeqCst);
        session.eval("1 + 1").unwrap();
    });
}

#[test]
fn completion_knows_the_words_of_prompts() {
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut session, _) = session(dir.path());
        session.eval("let m = load(); let text = m.encode(\"a dog, running\");").unwrap();
        assert_eq!(session.snapshot().words, ["a", "dog", "running"]);
        session.eval("let a = m.sample(\"a cat\", #{ steps: 1 });").unwrap();
        assert_eq!(session.snapshot().words, ["a", "cat", "dog", "running"], "the newest first");
    });
}

#[test]
fn variables_are_listed_and_freed() {
    thread::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut session, _) = session(dir.path());
        for _ in 0..3 {
            session.eval("let z = load().noise(0); const k = 2;").unwrap();
        }
        session.eval("fn mine(a, b) { a }").unwrap();
        let names: Vec<_> = session.variables().into_iter().map(|v| (v.name, v.kind, v.bytes)).collect();
        assert_eq!(names, [("z".into(), "Latent".into(), 4096), ("k".into(), "integer".to_string(), 0)]);
        assert_eq!(session.snapshot().functions, [("mine".to_string(), vec!["a".into(), "b".into()])]);
        assert!(session.source_of("mine").unwrap().contains("fn mine"));
        assert!(session.source_of("sample::picture").unwrap().starts_with("fn picture"));
        assert!(session.free("z") && !session.free("z") && !session.free("args"));
        assert!(session.eval("z").is_err());
        assert_eq!(session.eval("k").unwrap().text.unwrap(), "2");
        assert_eq!(session.cells().len(), 5, "failed cells are not kept");
    });
}
