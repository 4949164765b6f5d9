//! Pictures beyond the inline ones: the test card, and ways to the user's own machine (`:serve`, `:get`).

use std::io::Write;
use std::path::{Path, PathBuf};

use super::repl::Repl;
use super::reporter::Reporter;
use super::serve::{self, Server};
use super::worker::{Answer, Request};
use crate::term::graphics::card;
use crate::term::probe::{Protocol, Typing};
use crate::term::reach;
use crate::term::style::Role;

/// Shows the test card in the protocol that was chosen and in each other one that the terminal claims.
pub fn test_card(reporter: &mut Reporter, typing: Typing) {
    let caps = reporter.caps(typing).clone();
    if caps.protocol == Protocol::None {
        let text = format!("no picture can be shown here: {}", caps.reason);
        return reporter.remark(Role::Warn, &text);
    }
    let mut all = vec![caps.protocol];
    all.extend(caps.claims.iter().copied().filter(|p| *p != caps.protocol));
    for protocol in all {
        let why = match protocol == caps.protocol {
            true => format!("chosen: {}", caps.reason),
            false => "claimed by the terminal; SCUMBLE_GRAPHICS chooses it".to_string(),
        };
        reporter.out(&format!("{}  ({why})", protocol.name()));
        reporter.draw(&card::card(), Some(protocol));
        reporter.draw(&card::small(), Some(protocol));
    }
    let colors = if caps.truecolor { "smooth" } else { "in steps (256 colors)" };
    reporter.out(&format!(
        "The gradients should be {colors}, the ring round and at its square on all four\n\
         sides, the fine lines even (gray in half-blocks), the 16 x 16 pixels of the last\n\
         picture sharp squares."
    ));
    if let Some(advice) = &caps.advice {
        reporter.remark(Role::Hint, advice);
    }
}

/// `:serve`, `:serve PORT`, `:serve stop`.
pub(super) fn serve(repl: &mut Repl, text: &str) {
    if text == "stop" {
        let text = match repl.server.take() {
            Some(_) => "stopped: the address is dead",
            None => "nothing is served; :serve starts it",
        };
        return repl.reporter.remark(Role::Dim, text);
    }
    let port = match text {
        "" => 0,
        text => match text.parse::<u16>() {
            Ok(port) if port >= 1024 => port,
            _ => {
                let text = format!("{text} is no port; :serve, :serve 8123 (1024 to 65535), or :serve stop");
                return repl.reporter.remark(Role::Warn, &text);
            }
        },
    };
    let goes_on = |s: &Server| (port == 0 || port == s.port()) && s.folder() == repl.settings.out;
    if !repl.server.as_ref().is_some_and(goes_on) {
        // Another folder for who named no port: ssh may forward the one of before.
        let port = repl.server.as_ref().map(Server::port).filter(|_| port == 0).unwrap_or(port);
        // The old one first, which may have the port.
        repl.server = None;
        match Server::start(&repl.settings.out, port) {
            Ok(server) => repl.server = Some(server),
            Err(e) => {
                let text = format!("nothing can be served: {e}; :serve without a number takes a free port");
                return repl.reporter.remark(Role::Error, &text);
            }
        }
    }
    let Some(server) = &repl.server else { return };
    let lines = format!(
        "on your machine   {}\nin your browser   {}\nThis shows the pictures in {} to whoever has the address, until :serve stop or \
         the end of this session.",
        server.forward(),
        server.address(),
        server.folder().display(),
    );
    repl.reporter.out(&lines);
}

/// `:get x`: a variable that is an Image, or a file.
pub(super) fn get(repl: &mut Repl, name: &str) {
    let path = match repl.worker.call(Request::Keep(name.to_string())) {
        Ok((Answer::Kept(Ok(Some(path))), snapshot)) => {
            repl.update(snapshot);
            repl.reporter.saved_beside(&path);
            path
        }
        Ok((Answer::Kept(Err(report)), _)) => return repl.reporter.report(&report),
        _ => match file(repl, name) {
            Some(path) => path,
            None => {
                let text = format!(
                    "there is no variable and no file {name}; :vars lists the variables, the files are in {}",
                    repl.settings.out.display()
                );
                return repl.reporter.remark(Role::Warn, &text);
            }
        },
    };
    let caps = repl.reporter.caps(Typing::Keep).clone();
    let size = std::fs::metadata(&path).map(|m| m.len()).unwrap_or(u64::MAX);
    if reach::takes_files(&caps) && size <= reach::MOST_SENT {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let name = path.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default();
                let escape = reach::file(&name, &bytes);
                let mut out = std::io::stdout().lock();
                let sent = out.write_all(escape.as_bytes()).and_then(|()| out.flush());
                drop(out);
                repl.reporter.note(sent);
                let text = format!("{name} was handed to your terminal: look in its downloads. By hand:");
                repl.reporter.remark(Role::Dim, &text);
            }
            Err(e) => return repl.reporter.remark(Role::Error, &format!("{}: {e}", path.display())),
        }
    }
    repl.reporter.out(&serve::copy_line(&path));
}

/// A file by its name, here or in the folder of results.
fn file(repl: &Repl, name: &str) -> Option<PathBuf> {
    [PathBuf::from(name), repl.settings.out.join(name)].into_iter().find(|p: &PathBuf| Path::is_file(p))
}
