//! Text that is taller than the screen, a screen at a time.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::keys::{Input, Key, Keyboard};
use super::tty;

/// Shows a text through a pager if it needs one. `choice` is `auto`, `off` or a command line; `auto` is `$PAGER`, or less, or
/// a simple one of our own. `false`: it fits on the screen, or there is no screen: print it.
pub fn show(text: &str, choice: &str) -> bool {
    let (columns, rows) = tty::size();
    let terminal = tty::is_terminal_in() && tty::is_terminal_out() && tty::is_foreground() && !tty::is_dumb();
    if choice == "off" || !terminal || lines(text, columns) < usize::from(rows) {
        return false;
    }
    match command(choice) {
        Some(line) => through(&line, text) || more(text, columns, rows),
        None => more(text, columns, rows),
    }
}

/// Rows that a text takes; escapes are taken for text, so it may be too many.
fn lines(text: &str, columns: u16) -> usize {
    let columns = usize::from(columns.max(1));
    text.lines().map(|l| l.chars().count().div_ceil(columns).max(1)).sum()
}

/// The command line of the pager. `None`: our own.
fn command(choice: &str) -> Option<String> {
    if choice != "auto" {
        return Some(choice.to_string());
    }
    if let Some(pager) = std::env::var("PAGER").ok().filter(|p| !p.trim().is_empty()) {
        return Some(pager);
    }
    on_path("less").then(|| "less -RFX".to_string())
}

/// Whether there is a program of that name.
pub fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Through another program, by the shell, as its command line may have options. `false`: it could not be started.
fn through(line: &str, text: &str) -> bool {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).stdin(Stdio::piped());
    // Colors, and no clearing of the screen, if the line does not say otherwise itself.
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "RFX");
    }
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut pipe) = child.stdin.take() {
        // Who leaves early does not want the rest.
        let _ = pipe.write_all(text.as_bytes()).and_then(|()| pipe.write_all(b"\n"));
    }
    // 127: the shell found no such program.
    child.wait().is_ok_and(|status| status.code() != Some(127))
}

/// A screen, then a key: space for the next one, Enter for a line, q to leave.
fn more(text: &str, columns: u16, rows: u16) -> bool {
    let Some(_keys) = tty::Keys::enter() else { return false };
    let mut keyboard = Keyboard::default();
    let mut out = std::io::stdout().lock();
    let page = usize::from(rows.max(2)) - 1;
    let mut room = page;
    for line in text.lines() {
        let height = lines(line, columns).max(1);
        if height > room && room < page {
            let _ = out.write_all(b"-- more: space, Enter, q --").and_then(|()| out.flush());
            let key = key(&mut keyboard);
            let _ = out.write_all(b"\r\x1b[K").and_then(|()| out.flush());
            match key {
                Some(Key::Char(' ' | 'f') | Key::PageDown) => room = page,
                Some(Key::Enter | Key::Down | Key::Char('j')) => room = height,
                _ => return true,
            }
        }
        room = room.saturating_sub(height);
        if writeln!(out, "{line}").is_err() {
            return true;
        }
    }
    let _ = out.flush();
    true
}

/// Waits for a key. `None`: the terminal is gone.
fn key(keyboard: &mut Keyboard) -> Option<Key> {
    loop {
        match keyboard.next(Duration::from_secs(1)) {
            Input::Key(key) => return Some(key),
            Input::Nothing => {}
            Input::Gone => return None,
        }
    }
}

/// The editor's command line: `choice`, or for `auto` `$VISUAL`, `$EDITOR`, what is there. `None`: nothing is.
pub fn editor(choice: &str) -> Option<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|e| !e.trim().is_empty());
    if choice != "auto" {
        return Some(choice.to_string());
    }
    let there = || ["vi", "nano", "emacs"].into_iter().find(|e| on_path(e)).map(String::from);
    named("VISUAL").or_else(|| named("EDITOR")).or_else(there)
}

/// Opens a file in an editor and waits until it is left. Errors: it cannot be started, or ended with an error.
pub fn edit(editor: &str, file: &Path) -> Result<(), String> {
    // The shell takes the editor's own options apart; the file's name needs no quotes this way.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the editor ({editor}) ended with {status}")),
        Err(e) => Err(format!("the editor ({editor}) cannot be started: {e}")),
    }
}
