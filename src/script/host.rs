//! [`Host`]: what bindings reach of their session: settings, events, the cancel token, budgets, files, the model.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use image::RgbImage;
use rhai::{Dynamic, EvalAltResult, Position};

use super::costs::Cost;
use super::errors::Stop;
use super::files::Policy;
use super::options::Resolved;
use super::sources::Sources;
use super::tracking::{Gradient, Tracking};
use crate::engine::device;
use crate::engine::error::Error;
use crate::engine::latent::Latent;
use crate::engine::observe::{Cancel, Event, Observer, Silent};
use crate::report::plain;

/// Rhai operations without an engine call after which a loop counts as endless.
const OPERATIONS: u64 = 100_000_000;

/// Time without an engine call after which a loop counts as endless: operations on long values take longer than others.
const IDLE: Duration = Duration::from_secs(120);

/// Bytes by which a script's own values may grow between two engine calls.
const GROWTH: u64 = 1 << 30;

/// Lines that one cell or recipe may print.
pub const MAX_LINES: usize = 200_000;

/// Bytes that one cell or recipe may print.
pub const MAX_PRINTED: usize = 32 << 20;

/// Characters of a note.
const LONGEST_NOTE: usize = 2_000;

/// Files that one cell or recipe may save.
pub const MAX_FILES: usize = 10_000;

/// Bytes that one cell or recipe may save.
pub const MAX_SAVED: u64 = 16 << 30;

/// Wishes for memory that are held against what the machine has left, which costs a look into `/proc`.
const LARGE: u64 = 64 << 20;

static ALLOCATED: OnceLock<fn() -> u64> = OnceLock::new();

/// Gives the host a way to ask how many bytes the process holds (a counting allocator). The first call counts.
pub fn set_memory_probe(probe: fn() -> u64) {
    let _ = ALLOCATED.set(probe);
}

/// Bytes that the process holds, if a probe was given.
pub fn allocated() -> Option<u64> {
    ALLOCATED.get().map(|probe| probe())
}

/// How a session is set up. The fields are the command line's flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--model`: name, folder, file or hub id.
    pub model: String,
    /// `--device`: auto, cpu, cuda[:n], metal.
    pub device: String,
    /// `--dtype`: f32, f16, bf16.
    pub dtype: String,
    /// `--out`: where results go.
    pub out: PathBuf,
    /// `--allow-read`.
    pub allow_read: Vec<PathBuf>,
    /// `--allow-write`.
    pub allow_write: Vec<PathBuf>,
    /// `--max-memory`, bytes.
    pub max_memory: Option<u64>,
    /// `--max-time`.
    pub max_time: Option<Duration>,
    /// `--threads`.
    pub threads: Option<usize>,
    /// `--no-init`: do not run init files.
    pub no_init: bool,
    /// Whether a person types the cells: every path they type may be read.
    pub interactive: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            model: "emoji".into(),
            device: "auto".into(),
            dtype: "f32".into(),
            out: "out".into(),
            allow_read: Vec::new(),
            allow_write: Vec::new(),
            max_memory: None,
            max_time: None,
            threads: None,
            no_init: false,
            interactive: false,
        }
    }
}

/// The recipe that runs now.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Its name: the stem of result files.
    pub name: String,
    /// Its text, if it is not a built-in one (for the record in saved pictures).
    pub source: Option<String>,
    /// The options as they were resolved, for the record in saved pictures.
    pub options: Option<Resolved>,
}

/// One session's state as bindings see it.
pub struct Host {
    settings: RefCell<Rc<Settings>>,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
    operations: Cell<u64>,
    limit: Cell<u64>,
    base: Cell<u64>,
    worked_at: Cell<Instant>,
    deadline: Cell<Option<Instant>>,
    /// Why this run is being ended: natives that call back may swallow the error on its way.
    stopped: RefCell<Option<Stop>>,
    accesses: Cell<u32>,
    lines: Cell<usize>,
    printed: Cell<usize>,
    saved_bytes: Cell<u64>,
    /// The name under which results are saved, and the options of the recipe.
    pub running: RefCell<Running>,
    /// Which files may be read and written.
    pub policy: RefCell<Policy>,
    /// Texts for carets.
    pub sources: RefCell<Sources>,
    /// Functions that scripts of this session defined.
    pub defined: RefCell<Vec<String>>,
    /// Files whose import is not finished.
    pub importing: RefCell<Vec<PathBuf>>,
    /// Files written since the cell or recipe began.
    pub saved: RefCell<Vec<PathBuf>>,
    /// The latent of the last step: what an interruption leaves.
    last: RefCell<Option<Latent>>,
    /// The gradients that are being computed, one inside the other.
    gradients: RefCell<Vec<Rc<Gradient>>>,
    /// Warnings that were given since the cell or recipe began.
    warned: RefCell<Vec<String>>,
    /// Whether the error on its way is one of usage (exit code 2).
    pub usage: Cell<bool>,
    /// The model last loaded, by what it was loaded from.
    pub models: super::bind::Models,
}

impl Host {
    /// The state of a new session.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>, cancel: Cancel) -> Self {
        let policy = Policy::new(&settings);
        Host {
            settings: RefCell::new(Rc::new(settings)),
            observer,
            cancel,
            operations: Cell::new(0),
            limit: Cell::new(OPERATIONS),
            base: Cell::new(0),
            worked_at: Cell::new(Instant::now()),
            deadline: Cell::new(None),
            stopped: RefCell::default(),
            accesses: Cell::new(0),
            lines: Cell::new(0),
            printed: Cell::new(0),
            saved_bytes: Cell::new(0),
            running: RefCell::default(),
            policy: RefCell::new(policy),
            sources: RefCell::default(),
            defined: RefCell::default(),
            importing: RefCell::default(),
            saved: RefCell::default(),
            last: RefCell::default(),
            gradients: RefCell::default(),
            warned: RefCell::default(),
            usage: Cell::new(false),
            models: Default::default(),
        }
    }

    /// A host that runs nothing: for the catalogue and for checks.
    pub fn idle() -> Self {
        Self::new(Settings::default(), Arc::new(Silent), Cancel::default())
    }

    /// The settings.
    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Takes other settings; from now on results go to their folder. What is loaded stays as it was loaded.
    pub fn set_settings(&self, settings: Settings) {
        self.policy.borrow_mut().follow(&settings);
        self.settings.replace(Rc::new(settings));
    }

    /// The cancel token, for engine calls.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whom engine calls report to.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.observer)
    }

    /// Sends an event. Its text comes from a script: what a terminal would obey is made visible first.
    pub fn emit(&self, event: Event) {
        self.observer.event(match event {
            // The steps inside a loss are many, and go back and forth: what computes the gradient counts its own.
            Event::Step { label, .. } if label != "chain" && self.is_tracking() => return,
            Event::Loss { .. } if self.is_tracking() => return,
            Event::Print(text) => {
                // A flood is ended by the next operation; until then it is dropped.
                self.lines.set(self.lines.get() + 1);
                self.printed.set(self.printed.get().saturating_add(text.len()));
                if self.flooded() {
                    return;
                }
                Event::Print(plain(&text).into_owned())
            }
            Event::Warn(text) => {
                let text: String = text.chars().take(LONGEST_NOTE).collect();
                Event::Warn(plain(&text).into_owned())
            }
            Event::Picture { picture, caption } => {
                Event::Picture { picture, caption: plain(&caption).replace('\n', " ") }
            }
            other => other,
        });
    }

    fn flooded(&self) -> bool {
        self.lines.get() > MAX_LINES || self.printed.get() > MAX_PRINTED
    }

    /// Says that a gradient is being computed, until the guard is dropped.
    pub fn track(&self, gradient: Gradient) -> Tracking<'_> {
        Tracking::begin(&self.gradients, gradient)
    }

    /// Whether a gradient is being computed.
    pub fn is_tracking(&self) -> bool {
        !self.gradients.borrow().is_empty()
    }

    /// The gradients that are being computed, the innermost last.
    pub fn gradients(&self) -> Vec<Rc<Gradient>> {
        self.gradients.borrow().clone()
    }

    /// The gradient that is being computed, the innermost.
    pub fn gradient(&self) -> Option<Rc<Gradient>> {
        self.gradients.borrow().last().cloned()
    }

    /// Warns, unless this was said before in the same cell or recipe.
    pub fn warn_once(&self, text: &str) {
        if !self.warned.borrow().iter().any(|w| w == text) {
            self.warned.borrow_mut().push(text.to_string());
            self.emit(Event::Warn(text.to_string()));
        }
    }

    /// Shows a picture.
    pub fn show(&self, picture: Arc<RgbImage>, caption: impl Into<String>) {
        self.emit(Event::Picture { picture, caption: caption.into() });
    }

    /// An error if one more file of that many bytes is more than a run may save. Call it before the file is written.
    pub fn may_save(&self, op: &str, bytes: u64) -> Result<(), Error> {
        let all = self.saved_bytes.get().saturating_add(bytes);
        if self.saved.borrow().len() < MAX_FILES && all <= MAX_SAVED {
            self.saved_bytes.set(all);
            return Ok(());
        }
        Err(Error::new(crate::engine::Kind::Budget, op, "this run has saved too many files")
            .expected(format!(
                "at most {MAX_FILES} files and {}",
                super::types::size(usize::try_from(MAX_SAVED).unwrap_or(usize::MAX))
            ))
            .hint("grid(pictures) puts many into one file"))
    }

    /// Notes a written file.
    pub fn note_saved(&self, path: &Path) {
        self.saved.borrow_mut().push(path.to_path_buf());
        self.emit(Event::Saved(path.to_path_buf()));
    }

    /// Keeps the latent of a step, for the case that the run is stopped.
    pub fn keep(&self, z: &Latent) {
        // Without the graph, which would outlive its gradient.
        self.last.replace(Latent::new(z.tensor().detach()).ok());
    }

    /// The latent of the last step, taken out.
    pub fn take_last(&self) -> Option<Latent> {
        self.last.borrow_mut().take()
    }

    /// The name of the recipe that runs or ran last.
    pub fn stopped_name(&self) -> String {
        self.running.borrow().name.clone()
    }

    /// Starts the budgets of a cell or recipe.
    pub fn begin(&self) {
        self.worked();
        self.usage.set(false);
        self.warned.borrow_mut().clear();
        self.saved.borrow_mut().clear();
        self.saved_bytes.set(0);
        self.lines.set(0);
        self.printed.set(0);
        self.stopped.replace(None);
        self.last.replace(None);
        self.deadline.set(self.settings().max_time.map(|t| Instant::now() + t));
    }

    /// Says that an engine call was made: the script is not in an endless loop.
    pub fn worked(&self) {
        self.operations.set(0);
        self.worked_at.set(Instant::now());
        if let Some(held) = allocated() {
            self.base.set(held);
        }
    }

    /// Sets after how many operations without an engine call a loop counts as endless.
    pub fn set_operation_limit(&self, limit: u64) {
        self.limit.set(limit);
    }

    /// Bytes that the process may hold: `--max-memory`, else what the cgroup or the machine has.
    pub fn memory_limit(&self) -> Option<u64> {
        static MACHINE: OnceLock<Option<u64>> = OnceLock::new();
        self.settings().max_memory.or_else(|| *MACHINE.get_or_init(device::memory_limit))
    }

    /// An error if a call would hold more than fits: what lies in main memory against that budget, what lies on the GPU against
    /// what is free there. Call it before a large tensor is made.
    pub fn reserve_cost(&self, op: &str, cost: Cost) -> Result<(), Error> {
        // The driver is asked only where its answer counts.
        self.reserve_both(op, cost, if cost.gpu > 0 { device::gpu_memory_free() } else { None })
    }

    /// The same for `bytes` on a device.
    pub fn reserve_on(&self, op: &str, bytes: u64, device: &candle_core::Device) -> Result<(), Error> {
        self.reserve_cost(op, Cost::on(bytes, !device.is_cpu()))
    }

    /// `free`: what the GPU has left. `None`: it does not say, or its memory is the machine's.
    fn reserve_both(&self, op: &str, cost: Cost, free: Option<u64>) -> Result<(), Error> {
        match free {
            Some(free) if cost.gpu > free => {
                Err(Error::new(crate::engine::Kind::Budget, op, "this would not fit into the GPU's memory")
                    .expected(format!("at most {} more: what is free", bytes_text(free)))
                    .got(format!("{} more wanted", bytes_text(cost.gpu)))
                    .hint("take a smaller size or n, --dtype f16, or free values: :free NAME"))
            }
            Some(_) => self.reserve(op, cost.main),
            None => self.reserve(op, cost.main.saturating_add(cost.gpu)),
        }
    }

    /// An error if `bytes` more in main memory would pass the memory budget, or are more than the machine has left.
    pub fn reserve(&self, op: &str, bytes: u64) -> Result<(), Error> {
        let size = bytes_text;
        let held = allocated().unwrap_or(0);
        let refused = |expected: String| {
            Error::new(crate::engine::Kind::Budget, op, "this would pass the memory budget")
                .expected(expected)
                .got(format!("{} held, {} more wanted", size(held), size(bytes)))
                .hint("take a smaller size or n, or give a larger --max-memory")
        };
        if let Some(limit) = self.memory_limit().filter(|l| held.saturating_add(bytes) > *l) {
            return Err(refused(format!("at most {} in all", size(limit))));
        }
        if bytes < LARGE {
            return Ok(());
        }
        match device::memory_available() {
            Some(free) if bytes > free => Err(refused(format!("at most {} more: what is free", size(free)))
                .hint("take a smaller size or n, or free memory: :free NAME")),
            _ => Ok(()),
        }
    }

    /// Whether the variables in sight should be walked again (see [`super::depth`]). Asked at every access to one.
    pub fn is_walk_due(&self) -> bool {
        let n = self.accesses.get() + 1;
        let due = n >= super::depth::INTERVAL;
        self.accesses.set(if due { 0 } else { n });
        due
    }

    /// Notes why the run is ended, and makes the error that ends it: one that no script can catch.
    pub fn stop(&self, stop: Stop) -> Box<EvalAltResult> {
        let token = Dynamic::from(stop.clone());
        self.stopped.replace(Some(stop));
        EvalAltResult::ErrorTerminated(token, Position::NONE).into()
    }

    /// Why the run was ended, if it was: taken out.
    pub fn take_stopped(&self) -> Option<Stop> {
        self.stopped.take()
    }

    /// The deadline's stop, if it has passed.
    pub fn out_of_time(&self) -> Option<Stop> {
        let deadline = self.deadline.get()?;
        (Instant::now() >= deadline).then(|| Stop::Time(self.settings().max_time.unwrap_or_default()))
    }

    /// When the time is used up, if there is a limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    /// Called by Rhai for every operation: whether to stop.
    pub fn progress(&self) -> Option<Dynamic> {
        let stop = self.look()?;
        self.stopped.replace(Some(stop.clone()));
        Some(Dynamic::from(stop))
    }

    fn look(&self) -> Option<Stop> {
        let n = self.operations.get() + 1;
        self.operations.set(n);
        if self.cancel.is_set() {
            return Some(self.out_of_time().unwrap_or(Stop::Cancelled));
        }
        if n > self.limit.get() {
            return Some(Stop::Operations(n));
        }
        if self.flooded() {
            return Some(Stop::Output);
        }
        if let Some(held) = allocated() {
            let grown = held.saturating_sub(self.base.get());
            if grown > GROWTH {
                return Some(Stop::Memory { held: grown, limit: GROWTH });
            }
            if let Some(limit) = self.memory_limit().filter(|l| held > *l) {
                return Some(Stop::Memory { held, limit });
            }
        }
        if n.is_multiple_of(256) {
            let idle = self.worked_at.get().elapsed() > IDLE;
            return self.out_of_time().or(idle.then_some(Stop::Operations(n)));
        }
        None
    }
}

fn bytes_text(bytes: u64) -> String {
    super::types::size(usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU of 1 GiB beside a budget of 8 GiB, and the other way round.
    #[test]
    fn each_memory_has_a_budget_of_its_own() {
        let settings = Settings { max_memory: Some(8 << 30), ..Settings::default() };
        let host = Host::new(settings, Arc::new(Silent), Cancel::default());
        let gib = |main: u64, gpu: u64| Cost { main: main << 30, gpu: gpu << 30 };
        let say = |cost: Cost, free: Option<u64>| host.reserve_both("op", cost, free.map(|f| f << 30));
        assert!(say(Cost { main: 32 << 20, gpu: 0 }, Some(0)).is_ok());
        let error = say(gib(0, 2), Some(1)).unwrap_err();
        assert!(error.message().contains("GPU's memory") && error.got_text() == Some("2.00 GiB more wanted"));
        let error = say(gib(9, 0), Some(80)).unwrap_err();
        assert!(error.message().contains("memory budget"), "{error}");
        assert!(say(gib(0, 9), Some(80)).is_ok());
        let error = say(gib(0, 9), None).unwrap_err();
        assert!(error.message().contains("memory budget"), "{error}");
    }
}
