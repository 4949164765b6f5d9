//! Runs one input through everything that reads scripts, and says what is wrong with us (not with the input).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scumble::engine::observe::{Cancel, Event, Observer};
use scumble::report::Report;
use scumble::script::host::Host;
use scumble::script::{Session, Settings, Snapshot, catalog, check, complete, engine, recipes, scan};

use super::{Input, Way};

/// Inputs of a session before it is made anew; the variables are made anew more often.
const SESSION: u64 = 400;
const VARIABLES: u64 = 25;

/// Longest time that an input may take, the stop after [`TIME`] included; a busy machine is slow without a fault of ours.
const SLOW: Duration = Duration::from_secs(20);

/// When an input is stopped.
const TIME: Duration = Duration::from_millis(25);

const PRELUDE: &str = "let m = load(\"emoji\"); let s = m.schedule(3); let z = m.noise(0); let zz = m.noise(1, #{ n: 2 }); \
    let text = m.encode(\"a dog\"); let p = open(\"dog-flat.png\"); let a = attention().record(); let list = [3, 1, 2]; \
    let map = #{ a: 1, b: \"x\" }; let f = |q| q; let x = 0.5; let i = 1; let word = \"dog\";";

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes every panic, caught ones too: a native that panics is a fault even where its cell goes on.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(info.to_string());
    }));
}

/// Whether a terminal would obey something in a text.
fn obeyed(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
}

#[derive(Default)]
struct Ear(Mutex<Option<String>>);

impl Observer for Ear {
    fn event(&self, event: Event) {
        let (Event::Print(text) | Event::Warn(text) | Event::Picture { caption: text, .. }) = event else {
            return;
        };
        if obeyed(&text) {
            *self.0.lock().unwrap() = Some(format!("an event holds control characters: {text:?}"));
        }
    }
}

/// Runs inputs one after the other. Lives on a thread with a large stack.
pub struct Judge {
    folder: PathBuf,
    session: Session,
    ear: Arc<Ear>,
    cancel: Cancel,
    alarm: Alarm,
    checker: Checker,
    count: u64,
    /// How many inputs gave a value, failed while they ran, were no scripts, were stopped.
    pub tally: [u64; 4],
}

/// Stops what runs after [`TIME`], as Ctrl-C would.
#[derive(Clone, Default)]
struct Alarm(Arc<Mutex<Option<(Instant, Cancel)>>>);

impl Alarm {
    fn start() -> Alarm {
        let alarm = Alarm::default();
        let watched = alarm.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(4));
                let mut armed = watched.0.lock().unwrap();
                if armed.as_ref().is_some_and(|(at, _)| Instant::now() > *at)
                    && let Some((_, cancel)) = armed.take()
                {
                    cancel.set();
                }
            }
        });
        alarm
    }

    fn arm(&self, cancel: &Cancel) {
        *self.0.lock().unwrap() = Some((Instant::now() + TIME, cancel.clone()));
    }

    fn disarm(&self, cancel: &Cancel) {
        self.0.lock().unwrap().take();
        cancel.clear();
    }
}

struct Checker {
    engine: rhai::Engine,
    known: &'static check::Functions,
}

impl Judge {
    /// One that writes below `folder`.
    pub fn new(folder: &Path) -> Judge {
        let engine = engine::create(&Rc::new(Host::idle()));
        let known = check::functions(&engine);
        let (session, ear, cancel) = session(folder);
        let checker = Checker { engine, known };
        Judge {
            folder: folder.to_path_buf(),
            session,
            ear,
            cancel,
            alarm: Alarm::start(),
            checker,
            count: 0,
            tally: [0; 4],
        }
    }

    /// What an input shows to be wrong with us.
    pub fn judge(&mut self, input: &Input) -> Result<Snapshot, String> {
        if self.count.is_multiple_of(SESSION) && self.count > 0 {
            (self.session, self.ear, self.cancel) = session(&self.folder);
        }
        // An input may have defined a function `open` of its own, which is its right: a new session has none.
        if self.count.is_multiple_of(VARIABLES) && self.sound(PRELUDE, None).is_err() {
            (self.session, self.ear, self.cancel) = session(&self.folder);
            self.sound(PRELUDE, None)?;
        }
        self.count += 1;
        let text = &input.text;
        let start = Instant::now();
        for report in check::check(&self.checker.engine, self.checker.known, "fuzz", text, &recipes::scope())
        {
            shown(&report)?;
        }
        self.alarm.arm(&self.cancel);
        let result = match &input.way {
            Way::Cell => self.session.eval(text),
            Way::Recipe(args) => {
                let file = self.folder.join("fuzz.rhai");
                std::fs::write(&file, text).map_err(|e| e.to_string())?;
                let name = file.display().to_string();
                if let Ok(recipe) = recipes::find(&name) {
                    let help = recipes::help(&recipe, None);
                    if obeyed(&help) {
                        return Err(format!("the help holds control characters: {help:?}"));
                    }
                }
                self.session.run(&name, args)
            }
        };
        self.alarm.disarm(&self.cancel);
        self.tally[match &result {
            Ok(_) => 0,
            Err(e) if matches!(e.kind.as_str(), "syntax") => 2,
            Err(e) if matches!(e.kind.as_str(), "cancelled" | "budget") => 3,
            Err(_) => 1,
        }] += 1;
        match result {
            Ok(outcome) if outcome.text.as_deref().is_some_and(obeyed) => {
                return Err(format!("the value's line holds control characters: {:?}", outcome.text));
            }
            Err(report) => {
                shown(&report)?;
                if report.kind == "internal" {
                    return Err(format!("an internal error: {report}"));
                }
            }
            Ok(_) => {}
        }
        if let Some(panic) = PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop() {
            return Err(format!("a panic: {panic}"));
        }
        if let Some(wrong) = self.ear.0.lock().unwrap().take() {
            return Err(wrong);
        }
        if start.elapsed() > SLOW {
            return Err(format!("it took {:?}", start.elapsed()));
        }
        self.session.variables();
        self.sound("1 + 1", Some("2"))?;
        Ok(self.session.snapshot())
    }

    /// The session still does what it should.
    fn sound(&mut self, code: &str, wanted: Option<&str>) -> Result<(), String> {
        match self.session.eval(code) {
            Ok(outcome) if outcome.text.as_deref() == wanted => Ok(()),
            Ok(outcome) => Err(format!("afterwards, {code} gives {:?}", outcome.text)),
            Err(report) => Err(format!("afterwards, {code} fails: {report}")),
        }
    }
}

fn session(folder: &Path) -> (Session, Arc<Ear>, Cancel) {
    let (ear, cancel) = (Arc::new(Ear::default()), Cancel::default());
    let settings = Settings {
        out: folder.join("out"),
        no_init: true,
        max_memory: Some(700 << 20),
        ..Settings::default()
    };
    let session = Session::new(settings, Arc::clone(&ear) as Arc<dyn Observer>, cancel.clone());
    session.set_operation_limit(20_000);
    (session, ear, cancel)
}

fn shown(report: &Report) -> Result<(), String> {
    for width in [20, 100] {
        let text = report.render(false, width);
        if obeyed(&text) {
            return Err(format!("a report holds control characters: {text:?}"));
        }
        if text.len() > 100_000 {
            return Err(format!("a report has {} bytes", text.len()));
        }
    }
    if report.title.trim().is_empty() {
        return Err("a report says nothing".into());
    }
    Ok(())
}

/// What the prompt's own thread does with a text that is being typed; it has a smaller stack.
pub fn typed(text: &str, snapshot: &Snapshot) -> Result<(), String> {
    let work = std::panic::AssertUnwindSafe(|| type_in(text, snapshot));
    std::panic::catch_unwind(work).map_err(|_| {
        let panic = PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        format!("a panic while it is typed: {}", panic.unwrap_or_default())
    })
}

fn type_in(text: &str, snapshot: &Snapshot) {
    let _ = scan::completeness(text);
    let _ = scan::ends_with_semicolon(text);
    let _ = scan::classes(text, &|name| name.len().is_multiple_of(2));
    let half = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(i, _)| i);
    for at in [half, text.len()] {
        // A path in a string is completed from the disk: not what is being tested here.
        if !text[..at].contains('/') {
            let _ = complete::complete(text, at, snapshot);
            let _ = complete::signature_hint(text, at, snapshot);
        }
    }
    let word = text.split_whitespace().next().unwrap_or_default();
    if word.len() < 40 {
        let _ = catalog::help(word, 80);
    }
}
