//! A terminal for the program: a pseudo-terminal that a test types into and reads from.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl::{Getter, Setter, ioctl, opcode};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::program::{Room, until, wait};

const LONG: Duration = Duration::from_secs(60);

/// A process that leads a session of its own on a terminal of its own.
pub struct Terminal {
    keyboard: Option<File>,
    /// Where the program's end can be opened.
    path: String,
    pub child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    /// When the last of it came.
    arrived: Arc<Mutex<Instant>>,
    /// Window sizes, rows and columns, and how much had been written when each came.
    sizes: Vec<(usize, (u16, u16))>,
    /// Whether the terminal goes away.
    gone: Arc<AtomicBool>,
    /// Whether nothing is read.
    stalled: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    /// What a test has looked at already.
    seen: usize,
}

/// Rows and columns of a new terminal.
const SIZE: (u16, u16) = (40, 100);

fn winsize((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Both ends of a new pseudo-terminal, and the path of the second. `None`: the system has none to give.
fn open() -> Option<(File, File, String)> {
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
    let path = format!("/dev/pts/{number}");
    let theirs = both().open(&path).ok()?;
    tcsetwinsize(&ours, winsize(SIZE)).ok()?;
    Some((ours, theirs, path))
}

impl Terminal {
    /// The program on a terminal that shows no pictures and is not asked whether it could.
    pub fn start(room: &Room, args: &[&str]) -> Option<Terminal> {
        let mut command = room.command(args);
        command.env("SCUMBLE_GRAPHICS", "none").env("SCUMBLE_MARKS", "off");
        Terminal::run(command)
    }

    /// Any command on a terminal. `None`, with a word about it: the system has no terminal to give.
    pub fn run(command: Command) -> Option<Terminal> {
        Terminal::with(command, true)
    }

    /// The same; whether it is the process's controlling terminal is said.
    pub fn with(mut command: Command, controlling: bool) -> Option<Terminal> {
        let Some((ours, theirs, path)) = open() else {
            eprintln!("no pseudo-terminal can be had here: not tested");
            return None;
        };
        for (name, value) in [("TERM", "xterm-256color"), ("NO_COLOR", "1")] {
            if command.get_envs().all(|(n, _)| n != name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::from(theirs.try_clone().unwrap()));
        command.stdout(Stdio::from(theirs.try_clone().unwrap())).stderr(Stdio::from(theirs));
        // SAFETY: two system calls and no allocation, as between fork and exec only such may be.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                if controlling {
                    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shared) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        let arrived = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&arrived);
        let gone = Arc::new(AtomicBool::new(false));
        let leave = Arc::clone(&gone);
        let stalled = Arc::new(AtomicBool::new(false));
        let stalls = Arc::clone(&stalled);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            while !leave.load(Ordering::SeqCst) {
                if stalls.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                match poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&wait)) {
                    Ok(0) => continue,
                    Ok(_) => {}
                    Err(_) => break,
                }
                match reader.read(&mut buffer) {
                    Ok(n) if n > 0 => {
                        *clock.lock().unwrap() = Instant::now();
                        shared.lock().unwrap().extend_from_slice(&buffer[..n]);
                    }
                    _ => break,
                }
            }
        });
        let (keyboard, reader) = (Some(ours), Some(reader));
        let sizes = vec![(0, SIZE)];
        Some(Terminal { keyboard, path, child, screen, arrived, sizes, gone, stalled, reader, seen: 0 })
    }

    fn keyboard(&self) -> &File {
        self.keyboard.as_ref().unwrap()
    }

    /// Presses keys, all at once.
    pub fn types(&mut self, keys: &str) {
        self.keyboard().write_all(keys.as_bytes()).unwrap();
    }

    /// Presses keys and waits until something came and then, for `quiet`, nothing more; how long after the keys the last of
    /// it came.
    #[allow(dead_code, reason = "for the benchmark of the prompt")]
    pub fn settles(&mut self, keys: &str, quiet: Duration) -> Duration {
        let typed = Instant::now();
        self.types(keys);
        let last = || *self.arrived.lock().unwrap();
        until("an answer that ends", LONG, || last() > typed && last().elapsed() > quiet);
        last() - typed
    }

    /// Waits until something stands on the screen and, for `quiet`, nothing more came; when the last of it came.
    #[allow(dead_code, reason = "for the benchmark of the prompt")]
    pub fn settled(&mut self, quiet: Duration) -> Instant {
        let last = || *self.arrived.lock().unwrap();
        until("something that ends", LONG, || {
            !self.screen.lock().unwrap().is_empty() && last().elapsed() > quiet
        });
        last()
    }

    /// Gives the window another size.
    pub fn resizes(&mut self, rows: u16, columns: u16) {
        self.sizes.push((self.screen.lock().unwrap().len(), (rows, columns)));
        tcsetwinsize(self.keyboard(), winsize((rows, columns))).unwrap();
    }

    /// The terminal goes away, as a window that is closed.
    pub fn hangs_up(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        self.reader.take().unwrap().join().unwrap();
        self.keyboard = None;
    }

    /// Takes nothing from now on, as a line that hangs, and has no room for anything either.
    #[allow(dead_code, reason = "for some tests")]
    pub fn stalls(&mut self) {
        self.stalled.store(true, Ordering::SeqCst);
        // The reader may be at work.
        std::thread::sleep(Duration::from_millis(100));
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
        let mut end = File::options().write(true).custom_flags(flags).open(&self.path).unwrap();
        // What is written is seen by nobody. At last byte by byte.
        for size in [4096, 64, 1] {
            while end.write(&vec![0u8; size]).is_ok_and(|n| n > 0) {}
        }
    }

    /// Takes everything again.
    #[allow(dead_code, reason = "for some tests")]
    pub fn flows(&mut self) {
        self.stalled.store(false, Ordering::SeqCst);
    }

    /// What a person sees: all lines, those that were scrolled away first.
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.screen.lock().unwrap().clone();
        let (rows, columns) = self.sizes[0].1;
        let mut parser = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 2000);
        let mut at = 0;
        for (begin, (rows, columns)) in &self.sizes[1..] {
            parser.process(&bytes[at..*begin]);
            let (rows, columns) = ((*rows).try_into().unwrap(), (*columns).try_into().unwrap());
            parser.screen_mut().set_size(rows, columns);
            at = *begin;
        }
        parser.process(&bytes[at..]);
        let columns = parser.screen().size().1.get();
        parser.screen_mut().set_scrollback(usize::MAX);
        let mut lines: Vec<String> = Vec::new();
        loop {
            let left = parser.screen().scrollback();
            let rows = parser.screen().rows(0, columns).map(|r| r.trim_end().to_string());
            if left == 0 {
                lines.extend(rows);
                break;
            }
            lines.extend(rows.take(1));
            parser.screen_mut().set_scrollback(left - 1);
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// What stands on the screen, line by line, without what ends lines.
    pub fn screen(&self) -> Vec<String> {
        let size = |n: u16| std::num::NonZero::new(n).unwrap();
        let mut parser = vt100::Parser::new(size(40), size(100), 0);
        parser.process(&self.screen.lock().unwrap());
        let rows = parser.screen().rows(0, 100).map(|l| l.trim_end().to_string());
        let mut rows: Vec<String> = rows.collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// Waits until the last line of the screen is this. What was written so far counts as seen.
    pub fn ends_with(&mut self, wanted: &str) {
        let holds = || self.screen().last().is_some_and(|l| l == wanted);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(wanted, LONG, holds))).is_err() {
            panic!("{wanted:?} is not the last line:\n{}", self.screen().join("\n"));
        }
        self.seen = self.screen.lock().unwrap().len();
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

    /// Waits until a text stands on the screen: what is drawn anew are only the cells that differ.
    pub fn sees(&self, wanted: &str) {
        until(wanted, LONG, || self.lines().iter().any(|l| l.contains(wanted)));
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
        tcgetattr(self.keyboard()).unwrap().local_modes.contains(LocalModes::ECHO)
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
