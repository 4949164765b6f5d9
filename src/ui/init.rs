//! What runs before the first prompt: the user's own init file, then the one of the working folder if it is trusted.

use super::folders;
use super::repl::Repl;
use super::trust::{FILE, FolderInit, Standing};
use super::worker::{Answer, Request};
use crate::term::style::Role;

/// Runs the init files. `:save` leaves them out.
pub(super) fn run(repl: &mut Repl) {
    if repl.settings.no_init {
        return;
    }
    own(repl);
    of_folder(repl);
    repl.own_cells = cells(repl);
}

/// How many cells have worked so far.
fn cells(repl: &Repl) -> usize {
    match repl.worker.call(Request::Cells) {
        Ok((Answer::Cells(cells), _)) => cells.len(),
        _ => 0,
    }
}

/// The user's own init file: who can write there can do anything else, too.
fn own(repl: &mut Repl) {
    let Some(file) = folders::init_file().filter(|f| f.is_file()) else { return };
    match std::fs::read_to_string(&file) {
        Ok(code) => evaluate(repl, &file.display().to_string(), &code),
        Err(e) => repl.reporter.remark(Role::Warn, &format!("note: {}: {e}", file.display())),
    }
}

fn of_folder(repl: &mut Repl) {
    let Some(init) = read(repl) else { return };
    let why = match init.standing(folders::trusted_file().as_deref()) {
        Standing::Trusted => return evaluate(repl, FILE, &init.text),
        Standing::Changed => "it changed since you trusted it",
        Standing::New => "it came with this folder",
    };
    let text = format!("note: {FILE} was not run: {why}. Read it, then type :trust to run it");
    repl.reporter.remark(Role::Warn, &text);
}

/// `:trust`: this text of this folder's init file runs now, and at each start.
pub(super) fn trust(repl: &mut Repl) {
    let Some(init) = read(repl) else {
        let text = format!("there is no {FILE} in this folder: nothing to trust");
        return repl.reporter.remark(Role::Warn, &text);
    };
    let store = folders::trusted_file();
    if init.standing(store.as_deref()) == Standing::Trusted && !repl.settings.no_init {
        return repl
            .reporter
            .remark(Role::Dim, &format!("{FILE} is trusted already: it runs at each start here"));
    }
    if let Err(e) = init.trust(store.as_deref()) {
        let text = format!("note: that you trust {FILE} cannot be remembered, so it runs this once: {e}");
        repl.reporter.remark(Role::Warn, &text);
    }
    let first = cells(repl) == repl.own_cells;
    evaluate(repl, FILE, &init.text);
    if first {
        repl.own_cells = cells(repl);
    }
}

/// The init file of the working folder, if it has one.
fn read(repl: &mut Repl) -> Option<FolderInit> {
    match std::env::current_dir().and_then(|folder| FolderInit::read(&folder)) {
        Ok(init) => init,
        Err(e) => {
            repl.reporter.remark(Role::Warn, &format!("note: {FILE} was not run: {e}"));
            None
        }
    }
}

fn evaluate(repl: &mut Repl, name: &str, code: &str) {
    repl.reporter.remark(Role::Dim, &format!("running {name}; --no-init leaves it out"));
    // An init file has no value to show; on a line of its own, as the text may end in a comment.
    repl.evaluate(Request::Eval(format!("{code}\n;")));
}
