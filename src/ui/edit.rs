//! `:edit`: a cell, a function, a recipe or a file in the user's own editor.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::actions;
use super::repl::Repl;
use super::worker::{Answer, Request};
use crate::script::recipes;
use crate::term::style::Role;
use crate::term::{pager, tty};

/// What is opened.
enum What {
    /// Code that is evaluated when the editor is left.
    Code(String),
    /// A file, which is checked then.
    File(PathBuf),
}

/// Opens what a name means. `None` if the name means nothing; that is told.
fn find(repl: &mut Repl, name: &str) -> Option<What> {
    if name.is_empty() {
        return Some(What::Code(repl.numbered.last().map(|(_, text)| text.clone()).unwrap_or_default()));
    }
    if let Ok(number) = name.parse::<usize>() {
        return repl.cell(number).map(What::Code);
    }
    let path = Path::new(name);
    if name.ends_with(".rhai") || path.components().count() > 1 || path.is_file() {
        return Some(What::File(path.to_path_buf()));
    }
    if let Ok((Answer::Source(Some(text)), _)) = repl.worker.call(Request::Source(name.to_string())) {
        return Some(What::Code(text));
    }
    if let Some(text) = recipes::built_in(name) {
        return copy(repl, name, text).map(What::File);
    }
    match recipes::file_of(name) {
        Ok(Some(path)) => Some(What::File(path)),
        _ => {
            let text =
                format!("nothing is called {name}: give a cell's number, a function, a recipe or a file");
            repl.reporter.remark(Role::Warn, &text);
            None
        }
    }
}

/// A built-in recipe as a file of the user's own, in this folder.
fn copy(repl: &mut Repl, name: &str, text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(format!("{name}.rhai"));
    match actions::write_new(&path, text) {
        Ok(()) => {
            let text =
                format!("{name} is built in: this is a copy, {0}. Run it with :run {0}", path.display());
            repl.reporter.remark(Role::Dim, &text);
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => {
            repl.reporter.remark(Role::Error, &format!("{}: {e}", path.display()));
            return None;
        }
    }
    Some(path)
}

/// Does it.
pub(super) fn edit(repl: &mut Repl, name: &str) {
    let Some(editor) = pager::editor(repl.config.get("editor")) else {
        let text = "no editor was found: set EDITOR, or :set editor COMMAND";
        return repl.reporter.remark(Role::Warn, text);
    };
    match find(repl, name) {
        Some(What::Code(text)) => code(repl, &editor, &text),
        Some(What::File(path)) => file(repl, &editor, &path),
        None => {}
    }
}

fn open(repl: &mut Repl, editor: &str, path: &Path) -> bool {
    let opened = pager::edit(editor, path);
    if let Err(why) = &opened {
        // It may have left the terminal in a mode of its own.
        tty::mend();
        repl.reporter.remark(Role::Error, why);
    }
    opened.is_ok()
}

fn file(repl: &mut Repl, editor: &str, path: &Path) {
    if !open(repl, editor, path) || !path.is_file() {
        return;
    }
    let name = path.display().to_string();
    if name.ends_with(".rhai") {
        actions::check(repl, &[name]);
    }
}

fn code(repl: &mut Repl, editor: &str, text: &str) {
    let file = tempfile::Builder::new().prefix("scumble-").suffix(".rhai").tempfile();
    let written = file.and_then(|mut file| {
        // Editors end files with a line feed.
        let end = if text.is_empty() { "" } else { "\n" };
        file.write_all(format!("{text}{end}").as_bytes()).map(|()| file)
    });
    let file = match written {
        Ok(file) => file,
        Err(e) => {
            return repl.reporter.remark(Role::Error, &format!("no temporary file can be written: {e}"));
        }
    };
    if !open(repl, editor, file.path()) {
        return;
    }
    // By its name: an editor may have put another file there.
    let edited = match std::fs::read_to_string(file.path()) {
        Ok(edited) => edited,
        Err(e) => return repl.reporter.remark(Role::Error, &format!("what was written cannot be read: {e}")),
    };
    match edited.trim_end() {
        "" => repl.reporter.remark(Role::Dim, "nothing was written: nothing runs"),
        same if same == text.trim_end() => {
            repl.reporter.remark(Role::Dim, "not changed: not run (:again runs it)");
        }
        code => repl.enter(code),
    }
}
