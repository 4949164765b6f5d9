//! A terminal for the program: a pseudo-terminal that a test types into and reads from.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl::{Getter, Setter, ioctl, opcode};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::program::{Room, until, wait};

const LONG: Duration = Duration::from_secs(60);

/// A process that leads a session of its own on a terminal of its own.
pub struct Terminal {
    keyboard: File,
    pub child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    /// What a test has looked at already.
    seen: usize,
    /// Whether the other end was let go.
    gone: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Both ends of a new pseudo-terminal. `None`: the system has none to give.
fn open() -> Option<(File, File)> {
    let both = || {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits() as i32);
        options
    };
    let ours = both().open("/dev/ptmx").ok()?;
    // SAFETY: TIOCSPTLCK reads an int.
    unsafe { ioctl(&ours, Setter::<{ opcode::write::<i32>(b'T', 0x31) }, i32>::new(0)) }.ok()?;
    // SAFETY: TIOCGPTN writes an unsigned int.
    let number = unsafe { ioctl(&ours, Getter::<{ opcode::read::<u32>(b'T', 0x30) }, u32>::new()) }.ok()?;
    let theirs = both().open(format!("/dev/pts/{number}")).ok()?;
    tcsetwinsize(&ours, Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).ok()?;
    Some((ours, theirs))
}

impl Terminal {
    /// The program on a terminal that shows no pictures and is not asked whether it could.
    pub fn start(room: &Room, args: &[&str]) -> Option<Terminal> {
        let mut command = room.command(args);
        command.env("SCUMBLE_GRAPHICS", "none");
        Terminal::run(command)
    }

    /// Any command on a terminal. `None`, with a word about it: the system has no terminal to give.
    pub fn run(mut command: Command) -> Option<Terminal> {
        let Some((ours, theirs)) = open() else {
            eprintln!("no pseudo-terminal can be had here: not tested");
            return None;
        };
        command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
        command.stdin(Stdio::from(theirs.try_clone().unwrap()));
        command.stdout(Stdio::from(theirs.try_clone().unwrap())).stderr(Stdio::from(theirs));
        // SAFETY: two system calls and no allocation, as between fork and exec only such may be.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shared) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        let gone = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&gone);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            while !ended.load(Ordering::SeqCst) {
                if poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&moment)) == Ok(0) {
                    continue;
                }
                match reader.read(&mut buffer) {
                    Ok(n) if n > 0 => shared.lock().unwrap().extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
        });
        Some(Terminal { keyboard: ours, child, screen, seen: 0, gone, reader: Some(reader) })
    }

    /// Closes the terminal, as a connection that is lost does. Nothing can be typed or read afterwards.
    pub fn hangs_up(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        self.reader.take().map(JoinHandle::join);
        self.keyboard = File::open("/dev/null").unwrap();
    }

    /// Presses keys, all at once.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that was written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).to_string()
    }

    /// Waits for a text after what was waited for before; what was written up to its end.
    pub fn shows(&mut self, wanted: &str) -> String {
        let mut found = None;
        let holds = || {
            let screen = self.screen.lock().unwrap();
            let new = &screen[self.seen..];
            found =
                new.windows(wanted.len()).position(|w| w == wanted.as_bytes()).map(|at| at + wanted.len());
            found.is_some()
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(wanted, LONG, holds))).is_err() {
            panic!("{wanted:?} did not come:\n{}", self.text());
        }
        let end = self.seen + found.unwrap();
        let text = String::from_utf8_lossy(&self.screen.lock().unwrap()[self.seen..end]).to_string();
        self.seen = end;
        text
    }

    /// Waits for the prompt.
    pub fn prompts(&mut self) -> String {
        self.shows("scumble> ")
    }

    /// Types a line at the prompt, waits for the next prompt; what was written meanwhile.
    pub fn enters(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        // The line editor writes the prompt anew with each key. The line after it is the program's.
        self.shows("\r\n");
        self.prompts()
    }

    /// Whether typed keys are echoed.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the end; the exit code.
    pub fn ends(&mut self) -> i32 {
        wait(&mut self.child, LONG)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
