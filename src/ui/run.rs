//! One request from start to end: what runs, its events, Ctrl-C, its outcome, the exit code.

use std::time::{Duration, Instant};

use super::interrupt::Interrupts;
use super::reporter::{Mode, Reporter};
use super::worker::{Answer, Message, Request, Worker};
use crate::report::Report;
use crate::script::session::Snapshot;
use crate::term::style::Role;
use crate::term::tty::Quiet;

/// How long a stopped run may take to end its step before we leave without it.
const GRACE: Duration = Duration::from_secs(20);

/// The exit code of a request, and the state of the session after it.
pub struct Finished {
    /// 0, or as the contract of the command line says.
    pub code: u8,
    /// For completion; `None` if the thread is gone.
    pub snapshot: Option<Snapshot>,
}

/// Runs a request to its end.
pub fn run(worker: &Worker, interrupts: &Interrupts, reporter: &mut Reporter, request: Request) -> Finished {
    let started = Instant::now();
    interrupts.begin();
    reporter.begin();
    // Echo off: what is typed meanwhile waits for the prompt and does not tear the progress line.
    let quiet = (reporter.mode() == Mode::Terminal).then(Quiet::enter).flatten();
    let sent = worker.ask(request);
    let finished = if sent { follow(worker, interrupts, reporter) } else { gone(reporter) };
    drop(quiet);
    interrupts.end();
    let told = reporter.finish();
    if !told
        && reporter.mode() == Mode::Terminal
        && started.elapsed() > Duration::from_secs(1)
        && finished.code == 0
    {
        let text = super::progress::duration(started.elapsed());
        reporter.remark(Role::Dim, &text);
    }
    finished
}

fn follow(worker: &Worker, interrupts: &Interrupts, reporter: &mut Reporter) -> Finished {
    let mut told = 0;
    let mut leaving: Option<Instant> = None;
    loop {
        let message = match worker.next(Duration::from_millis(50)) {
            Ok(message) => message,
            Err(_) => return gone(reporter),
        };
        match message {
            Some(Message::Event(event)) => reporter.event(&event),
            Some(Message::Answer(Answer::Done(result), snapshot)) => {
                let code = match result {
                    Ok(outcome) => {
                        reporter.outcome(&outcome);
                        0
                    }
                    Err(report) => {
                        reporter.report(&report);
                        report.exit.code()
                    }
                };
                return Finished { code: interrupts.exit().unwrap_or(code), snapshot: Some(snapshot) };
            }
            Some(Message::Answer(_, snapshot)) => return Finished { code: 0, snapshot: Some(snapshot) },
            None => {}
        }
        let count = interrupts.count();
        if count > told {
            told = count;
            let text = if count == 1 {
                "stopping after this step (Ctrl-C twice more to quit at once)"
            } else {
                "still stopping (once more to quit at once)"
            };
            reporter.remark(Role::Warn, text);
        }
        if let Some(code) = interrupts.exit()
            && leaving.get_or_insert_with(Instant::now).elapsed() > GRACE
        {
            return Finished { code, snapshot: None };
        }
    }
}

/// Saves the last latent before the process ends on a signal, and says where.
pub fn rescue(worker: &Worker, reporter: &mut Reporter) {
    if let Ok((Answer::Rescued(Some(path)), _)) = worker.call(Request::Rescue, |_| {}) {
        reporter.remark(Role::Warn, &format!("the last latent was saved: {}", path.display()));
    }
}

fn gone(reporter: &mut Reporter) -> Finished {
    let report =
        Report::new("internal", "the evaluation thread ended: a fault of scumble, not of the script")
            .hint("start again; please report it with what you ran");
    reporter.report(&report);
    Finished { code: 1, snapshot: None }
}
