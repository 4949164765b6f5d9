//! The evaluation thread: owns the session, with the large stack that deep scripts need.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::engine::device;
use crate::engine::memory;
use crate::engine::observe::{Cancel, Event, Observer};
use crate::report::Report;
use crate::script::thread::STACK;
use crate::script::view::View;
use crate::script::{Done, Held, Outcome, Session, Settings, Snapshot, Variable, catalog, scan};

/// The thread's name. The panic hook knows it: its panics are caught and reported with the cell.
pub const NAME: &str = "evaluation";

/// Messages that may wait for the main thread. A script that prints faster than the terminal can show is slowed down
/// instead of filling the memory.
const WAITING: usize = 256;

/// Time between two looks at an answer that comes another way.
const LOOK: Duration = Duration::from_millis(5);

/// What the terminal asks the session to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Evaluate one cell.
    Eval(String),
    /// Evaluate code that many times, for the time it takes.
    Bench(usize, String),
    /// Run a recipe with values as typed.
    Run(String, Vec<(String, String)>),
    /// List the variables.
    Variables,
    /// Forget a variable.
    Free(String),
    /// The source of a function that a cell or the library defined.
    Source(String),
    /// The cells that worked.
    Cells,
    /// The models in memory.
    Models,
    /// Take other settings.
    Configure(Box<Settings>),
    /// Forget everything: a new session.
    Reset,
    /// Save the last latent to a file, and say where to somebody who may not read messages: a signal, a panic.
    RescueFor(Sender<Option<PathBuf>>),
    /// Save a variable that is an Image to a file of its name.
    Keep(String),
    /// What there is to see in variables.
    View(Vec<String>),
    /// The picture of a level of the run that a variable holds.
    Level(String, usize),
    /// Save a picture that is looked at under a name.
    SavePicture(Arc<RgbImage>, String),
}

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    /// Of `Eval` and `Run`.
    Done(Result<Outcome, Box<Report>>),
    /// Of `Bench`: the time of each turn.
    Times(Result<Vec<Duration>, Box<Report>>),
    /// Of `Variables`.
    Variables(Vec<Variable>),
    /// Of `Free`: whether there was such a variable.
    Freed(bool),
    /// Of `Source`.
    Source(Option<String>),
    /// Of `Cells`.
    Cells(Vec<Done>),
    /// Of `Models`.
    Models(Vec<Held>),
    /// Of `Reset` and `Configure`.
    Ready,
    /// Of `Keep`: where it was saved; `None` if there is no such variable.
    Kept(Result<Option<PathBuf>, Box<Report>>),
    /// Of `View`.
    Seen(Result<Box<View>, Box<Report>>),
    /// Of `Level`.
    Decoded(String, usize, Result<Arc<RgbImage>, Box<Report>>),
    /// Of `SavePicture`.
    Saved(Result<PathBuf, Box<Report>>),
}

/// What reaches the main thread.
#[derive(Debug)]
pub enum Message {
    /// Something happened while a request runs.
    Event(Event),
    /// The request of that number ended; the snapshot is for completion.
    Answer(Number, Answer, Snapshot),
}

/// Which request: they are counted, so that an answer that nobody waited for is not taken for that of the next one.
pub type Number = u64;

/// Names of compute threads begin so. Their panics are caught and reported with the cell that they served.
pub const COMPUTE: &str = "compute";

/// Freed bytes that stay with the process between requests, so that the next one starts quickly.
const IDLE: usize = 256 << 20;

/// Whether, and how often, the main thread wants to see what is being made. Clones share it.
#[derive(Clone, Debug)]
pub struct Looking(Arc<Look>);

#[derive(Debug)]
struct Look {
    begun: Instant,
    /// Milliseconds between two pictures; 0: none.
    period: AtomicU64,
    /// When the last one was made, in milliseconds.
    last: AtomicU64,
}

impl Default for Looking {
    fn default() -> Self {
        Looking(Arc::new(Look { begun: Instant::now(), period: AtomicU64::new(0), last: AtomicU64::new(0) }))
    }
}

impl Looking {
    /// Wants a picture every `period`, or none.
    pub fn set(&self, period: Option<Duration>) {
        let period = period.map_or(0, |p| p.as_millis().max(1) as u64);
        self.0.period.store(period, Ordering::Relaxed);
    }

    /// Whether one is wanted now. A yes starts the clock anew.
    pub fn due(&self) -> bool {
        let period = self.0.period.load(Ordering::Relaxed);
        // Counted from 1: nothing was made at 0.
        let now = self.0.begun.elapsed().as_millis() as u64 + 1;
        let last = self.0.last.load(Ordering::Relaxed);
        let due = period > 0 && (last == 0 || now.saturating_sub(last) >= period);
        if due {
            self.0.last.store(now, Ordering::Relaxed);
        }
        due
    }
}

struct Forward {
    out: SyncSender<Message>,
    looking: Looking,
}

impl Observer for Forward {
    fn looks(&self) -> bool {
        self.looking.due()
    }

    fn event(&self, event: Event) {
        fault("evaluation", &event);
        // A step that nobody had time to look at may be left out; everything else waits. Where the other end is gone,
        // there is nobody to tell.
        let passing = match event {
            Event::Step { done, total, .. } => done < total,
            Event::Loss { .. } | Event::Preview { .. } => true,
            _ => false,
        };
        if passing {
            let _ = self.out.try_send(Message::Event(event));
        } else {
            let _ = self.out.send(Message::Event(event));
        }
    }
}

/// The main thread's end.
pub struct Worker {
    requests: Sender<(Number, Request)>,
    /// The number of the last request.
    last: Cell<Number>,
    messages: Receiver<Message>,
    cancel: Cancel,
    looking: Looking,
}

/// The evaluation thread ended, which only a fault of ours can make it do.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Worker {
    /// Starts the thread; the session is made there at once, while the prompt appears.
    /// Errors: the system has no thread for us.
    pub fn start(settings: Settings, cancel: &Cancel) -> std::io::Result<Worker> {
        let (requests, inbox) = channel();
        let (outbox, messages) = sync_channel::<Message>(WAITING);
        let token = cancel.clone();
        let looking = Looking::default();
        let looked = looking.clone();
        std::thread::Builder::new()
            .name(NAME.into())
            .stack_size(STACK)
            .spawn(move || serve(settings, &token, &inbox, &outbox, &looked))?;
        let rescuer = Rescuer { requests: requests.clone(), cancel: cancel.clone() };
        RESCUER.lock().unwrap_or_else(PoisonError::into_inner).replace(rescuer);
        Ok(Worker { requests, last: Cell::default(), messages, cancel: cancel.clone(), looking })
    }

    /// The token that stops what runs.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// What the evaluation thread asks before it makes a picture of what it works on.
    pub fn looking(&self) -> Looking {
        self.looking.clone()
    }

    /// Sends a request; its messages end with a [`Message::Answer`] of the number that is returned. Answers of other numbers
    /// are of earlier requests whose end was not waited for. `None` if the thread is gone.
    pub fn ask(&self, request: Request) -> Option<Number> {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.requests.send((number, request)).ok().map(|()| number)
    }

    /// The next message, `None` if none came in time. Errors: the thread is gone.
    pub fn next(&self, wait: Duration) -> Result<Option<Message>, Gone> {
        match self.messages.recv_timeout(wait) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
        }
    }

    /// Asks something that runs no script, and waits for the answer.
    pub fn call(&self, request: Request) -> Result<(Answer, Snapshot), Gone> {
        let number = self.ask(request).ok_or(Gone)?;
        loop {
            match self.messages.recv() {
                Ok(Message::Answer(n, answer, snapshot)) if n == number => return Ok((answer, snapshot)),
                Ok(_) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Saves the last latent; where to, if there was one. Waits at most `wait`: what runs may never end. Messages that come
    /// meanwhile are thrown away, so that a full channel holds nobody up.
    pub fn rescue(&self, wait: Duration) -> Option<PathBuf> {
        let (sender, answer) = channel();
        self.requests.send((0, Request::RescueFor(sender))).ok()?;
        let end = Instant::now() + wait;
        loop {
            match answer.try_recv() {
                Ok(saved) => return saved,
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if Instant::now() > end => return None,
                Err(TryRecvError::Empty) => {}
            }
            if self.next(LOOK).is_err() {
                return answer.try_recv().ok()?;
            }
        }
    }
}

/// The way to the evaluation thread for those who are not the main thread, or come after that one failed.
struct Rescuer {
    requests: Sender<(Number, Request)>,
    cancel: Cancel,
}

static RESCUER: Mutex<Option<Rescuer>> = Mutex::new(None);

/// Stops what runs and saves its last latent, from any thread; where to, if there was one. Waits at most `wait`.
pub fn rescue(wait: Duration) -> Option<PathBuf> {
    let (sender, answer) = channel();
    {
        let rescuer = RESCUER.lock().unwrap_or_else(PoisonError::into_inner);
        let rescuer = rescuer.as_ref()?;
        rescuer.cancel.set();
        rescuer.requests.send((0, Request::RescueFor(sender))).ok()?;
    }
    answer.recv_timeout(wait).ok()?
}

/// `SCUMBLE_FAULT=evaluation` or `ui` makes that thread panic at a run's third step, `stuck` makes the evaluation never
/// return from it, so that tests can look at what is left then: the terminal, the latent, the message.
#[allow(clippy::panic, reason = "only where the environment asks for it")]
pub(super) fn fault(thread: &str, event: &Event) {
    static ASKED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("SCUMBLE_FAULT").ok());
    if let (Event::Step { done: 3.., .. }, Some(asked)) = (event, &*ASKED) {
        if asked == "stuck" && thread == "evaluation" {
            eprintln!("SCUMBLE_FAULT={asked}");
            loop {
                std::thread::park();
            }
        }
        if asked == thread {
            panic!("SCUMBLE_FAULT={asked}");
        }
    }
}

fn serve(
    mut settings: Settings,
    cancel: &Cancel,
    inbox: &Receiver<(Number, Request)>,
    outbox: &SyncSender<Message>,
    looking: &Looking,
) {
    device::lead_pool(settings.threads.unwrap_or_else(device::threads), COMPUTE);
    let fresh = |settings: &Settings| {
        let forward = Forward { out: outbox.clone(), looking: looking.clone() };
        Session::new(settings.clone(), Arc::new(forward), cancel.clone())
    };
    let mut session = fresh(&settings);
    // The tables that highlighting and completion read are made here, before the first key needs them.
    let _ = (catalog::all().len(), scan::is_function("load"));
    while let Ok((number, request)) = inbox.recv() {
        let answer = match request {
            Request::Eval(code) => Answer::Done(session.eval(&code)),
            Request::Run(recipe, args) => Answer::Done(session.run(&recipe, &args)),
            Request::Variables => Answer::Variables(session.variables()),
            Request::Free(name) => Answer::Freed(session.free(&name)),
            Request::Source(name) => Answer::Source(session.source_of(&name)),
            Request::Cells => Answer::Cells(session.cells().to_vec()),
            Request::Bench(n, code) => Answer::Times(session.bench(n, &code)),
            Request::Models => Answer::Models(session.models()),
            Request::Configure(changed) => {
                settings = *changed;
                session.configure(settings.clone());
                Answer::Ready
            }
            Request::Reset => {
                session = fresh(&settings);
                Answer::Ready
            }
            Request::RescueFor(other) => {
                let _ = other.send(session.rescue());
                continue;
            }
            Request::Keep(name) => Answer::Kept(session.keep_picture(&name)),
            Request::View(names) => Answer::Seen(session.view(&names).map(Box::new)),
            Request::Level(name, i) => {
                let picture = session.view_level(&name, i);
                Answer::Decoded(name, i, picture)
            }
            Request::SavePicture(picture, name) => Answer::Saved(session.view_save(&picture, &name)),
        };
        // Where nobody reads any more, somebody may still want the latent.
        let _ = outbox.send(Message::Answer(number, answer, session.snapshot()));
        memory::trim(IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker whose other end answers at once, and evaluates nothing.
    fn worker(
        other: impl FnOnce(Receiver<(Number, Request)>, SyncSender<Message>) + Send + 'static,
    ) -> Worker {
        let (requests, inbox) = channel();
        let (outbox, messages) = sync_channel(WAITING);
        std::thread::spawn(move || other(inbox, outbox));
        let (cancel, looking) = (Cancel::default(), Looking::default());
        Worker { requests, last: Cell::default(), messages, cancel, looking }
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_taken_for_the_next_one() {
        let worker = worker(|inbox, outbox| {
            for (number, request) in inbox {
                let answer = match request {
                    Request::Free(_) => Answer::Freed(true),
                    Request::Source(name) => Answer::Source(Some(name)),
                    _ => Answer::Ready,
                };
                outbox.send(Message::Answer(number, answer, Snapshot::default())).unwrap();
            }
        });
        // Nobody waits for this one.
        let given_up = worker.ask(Request::Free("x".into())).unwrap();
        for name in ["a", "b"] {
            let Ok((Answer::Source(found), _)) = worker.call(Request::Source(name.into())) else {
                panic!("the answer is that of another request")
            };
            assert_eq!(found.as_deref(), Some(name));
        }
        assert_ne!(worker.ask(Request::Reset), Some(given_up));
    }

    #[test]
    fn who_wants_the_latent_waits_for_nobody_who_is_stuck() {
        let stuck = worker(|inbox, _outbox| {
            let _request = inbox.recv();
            std::thread::sleep(Duration::from_secs(60));
        });
        let started = Instant::now();
        assert_eq!(stuck.rescue(Duration::from_millis(50)), None);
        assert!(started.elapsed() < Duration::from_secs(30));
        // One that has more to say than anybody reads.
        let talks = worker(|inbox, outbox| {
            let _request = inbox.recv();
            for i in 0..2 * WAITING {
                let _ = outbox.send(Message::Event(Event::Print(i.to_string())));
            }
            if let Ok((_, Request::RescueFor(other))) = inbox.recv() {
                other.send(Some(PathBuf::from("saved"))).unwrap();
            }
        });
        talks.ask(Request::Reset).unwrap();
        assert_eq!(talks.rescue(Duration::from_secs(30)), Some(PathBuf::from("saved")));
    }
}
