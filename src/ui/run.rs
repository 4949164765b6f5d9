//! One request from start to end: what runs, its events, Ctrl-C, its outcome, the exit code.

use std::time::{Duration, Instant};

use super::interrupt::Interrupts;
use super::reporter::{Mode, Reporter};
use super::worker::{self, Answer, Message, Number, Request, Worker};
use crate::report::{Exit, Report};
use crate::script::Snapshot;
use crate::term::style::Role;
use crate::term::tty::Quiet;

/// How long a run that was told to end by SIGTERM or SIGHUP may take to end its step.
const GRACE: Duration = Duration::from_secs(20);
/// Longest time to save a latent after that. Both together are shorter than the patience of `interrupt`.
const RESCUE: Duration = Duration::from_secs(8);
/// Longest wait between two looks at the signals.
const LOOK: Duration = Duration::from_millis(50);

/// The exit code of a request, and the state of the session after it.
pub struct Finished {
    /// 0, or as the contract of the command line says.
    pub code: u8,
    /// For completion; `None` if the evaluation thread is gone or did not stop.
    pub snapshot: Option<Snapshot>,
    /// Whether scumble itself failed, and not the script.
    pub fault: bool,
    /// Of a benchmark: the time of each turn.
    pub times: Vec<Duration>,
}

impl Finished {
    fn new(code: u8, snapshot: Option<Snapshot>, fault: bool) -> Finished {
        Finished { code, snapshot, fault, times: Vec::new() }
    }
}

/// Runs a request that evaluates something to its end.
pub fn run(worker: &Worker, interrupts: &Interrupts, reporter: &mut Reporter, request: Request) -> Finished {
    run_until(worker, interrupts, reporter, request, &mut || false)
}

/// The same, stopped without a word as soon as `until` says so, which is asked now and then.
pub fn run_until(
    worker: &Worker,
    interrupts: &Interrupts,
    reporter: &mut Reporter,
    request: Request,
    until: &mut dyn FnMut() -> bool,
) -> Finished {
    let recipe = match &request {
        Request::Run(recipe, _) => Some(recipe.as_str()),
        _ => None,
    };
    reporter.begin(recipe, worker.looking());
    // The results of a recipe are files: it goes on when nobody reads stdout. All that other code has to give is text.
    let only_text = matches!(request, Request::Eval(_)) && reporter.mode() != Mode::Terminal;
    // Echo off: what is typed meanwhile waits for the prompt and does not tear the progress line.
    let quiet = (reporter.mode() == Mode::Terminal).then(Quiet::enter).flatten();
    interrupts.begin();
    let finished = match worker.ask(request) {
        Some(number) => follow(worker, interrupts, reporter, (number, only_text), until),
        None => gone(reporter),
    };
    interrupts.end();
    drop(quiet);
    reporter.finish(finished.code);
    finished
}

/// Follows the request of that number until it ends. `only_text`: it is stopped as soon as nobody reads its output.
fn follow(
    worker: &Worker,
    interrupts: &Interrupts,
    reporter: &mut Reporter,
    (number, only_text): (Number, bool),
    until: &mut dyn FnMut() -> bool,
) -> Finished {
    let mut told = 0;
    let mut leaving: Option<Instant> = None;
    let mut abandoned = false;
    let mut fault = false;
    loop {
        match worker.next(LOOK) {
            Ok(Some(Message::Event(event))) => {
                worker::fault("ui", &event);
                reporter.event(event);
            }
            Ok(Some(Message::Answer(n, answer, snapshot))) if n == number => {
                let mut times = Vec::new();
                let result = match answer {
                    Answer::Done(result) => result.map(Some),
                    Answer::Times(result) => result.map(|found| {
                        times = found;
                        None
                    }),
                    _ => Ok(None),
                };
                let code = match result {
                    Ok(outcome) => {
                        outcome.iter().for_each(|o| reporter.outcome(o));
                        0
                    }
                    // We stopped it ourselves, as nobody wants the output: no news.
                    Err(report) if abandoned && report.exit == Exit::Interrupted => 0,
                    Err(report) if report.exit == Exit::Interrupted && interrupts.exit().is_some() => {
                        reporter.remark(Role::Warn, "stopped: this process was told to end");
                        report.exit.code()
                    }
                    Err(report) => {
                        fault = report.kind == "internal";
                        reporter.report(&report);
                        report.exit.code()
                    }
                };
                let code = interrupts.exit().unwrap_or(code);
                return Finished { times, ..Finished::new(code, Some(snapshot), fault) };
            }
            // Of an earlier one, whose end nobody waited for.
            Ok(Some(Message::Answer(..))) => {}
            Ok(None) => reporter.tick(),
            Err(_) => return gone(reporter),
        }
        if interrupts.count() > told {
            told = interrupts.count();
            let text = match told {
                1 => "stopping after this step (Ctrl-C twice more in a row quits at once)",
                _ => "still stopping (Ctrl-C once more quits at once)",
            };
            reporter.remark(Role::Warn, text);
        }
        // Counted anew after a pause.
        told = told.min(interrupts.count());
        if !abandoned && ((only_text && reporter.is_unread()) || until()) {
            abandoned = true;
            worker.cancel().set();
        }
        if let Some(code) = interrupts.exit()
            && leaving.get_or_insert_with(Instant::now).elapsed() > GRACE
        {
            return Finished::new(code, None, fault);
        }
    }
}

/// Saves the last latent before the process ends on a signal, and says where. What runs may have been given up: it is not
/// waited for long.
pub fn rescue(worker: &Worker, reporter: &mut Reporter) {
    if let Some(path) = worker.rescue(RESCUE) {
        reporter.remark(Role::Warn, &format!("the last latent was saved: {}", path.display()));
    }
}

fn gone(reporter: &mut Reporter) -> Finished {
    let report =
        Report::new("internal", "the evaluation thread ended: a fault of scumble, not of the script")
            .hint("start again, and please report it with what you ran");
    reporter.report(&report);
    Finished::new(1, None, true)
}
