//! The history file. A thread of its own reads and writes it: a home folder on a network may take its time, may be full,
//! read-only or locked by another session, and the prompt waits for none of that.
//!
//! The format is rustyline's second one: `#V2`, then an entry a line, with line feeds and backslashes escaped. An entry is
//! appended by one write to the end, so that sessions side by side keep each other's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const VERSION: &str = "#V2";
/// Longest wait for a lock. After it the file is written without: an append does no harm.
const LOCK: Duration = Duration::from_millis(300);
/// How long the end of a session waits for what is not written yet.
const CLOSE: Duration = Duration::from_millis(1000);
/// Bytes at the end of the file that are read.
const MOST: u64 = 32 << 20;

enum Job {
    Append(String),
    End(Sender<()>),
}

/// The main thread's end.
pub struct Keeper {
    jobs: Option<Sender<Job>>,
    entries: Receiver<Vec<String>>,
    trouble: Receiver<String>,
    waiting: bool,
}

impl Keeper {
    /// Begins to read the file. `None`, or no entries to keep: nothing is read or written.
    pub fn open(file: Option<PathBuf>, keep: usize) -> Keeper {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, entries) = channel();
        let (worries, trouble) = channel();
        let wanted = file.filter(|_| keep > 0);
        let started = wanted.is_some_and(|path| {
            let work = move || serve(&path, keep, &inbox, &outbox, &worries);
            std::thread::Builder::new().name("history".into()).spawn(work).is_ok()
        });
        Keeper { jobs: started.then_some(jobs), entries, trouble, waiting: started }
    }

    /// The entries of the file, the oldest first: once, as soon as they have been read.
    pub fn entries(&mut self, wait: Duration) -> Option<Vec<String>> {
        if !self.waiting {
            return None;
        }
        let entries = self.entries.recv_timeout(wait).ok();
        self.waiting = entries.is_none();
        entries
    }

    /// Adds an entry to the file, some time soon.
    pub fn append(&self, entry: &str) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job::Append(entry.to_string()));
        }
    }

    /// Why entries cannot be kept: once.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.try_recv().ok()
    }

    /// Waits, not for long, until everything is written.
    pub fn close(self) {
        let (done, end) = channel();
        if self.jobs.is_some_and(|jobs| jobs.send(Job::End(done)).is_ok()) {
            let _ = end.recv_timeout(CLOSE);
        }
    }
}

fn serve(
    path: &Path,
    keep: usize,
    inbox: &Receiver<Job>,
    entries: &Sender<Vec<String>>,
    trouble: &Sender<String>,
) {
    let mut found = read(path).unwrap_or_default();
    let too_many = found.len() > keep + keep / 4;
    found.drain(..found.len().saturating_sub(keep));
    if too_many {
        let _ = shorten(path, keep);
    }
    let _ = entries.send(found);
    let mut told = false;
    let mut lock = true;
    while let Ok(job) = inbox.recv() {
        match job {
            Job::Append(entry) => {
                if let Err(e) = append(path, &entry, &mut lock)
                    && !std::mem::replace(&mut told, true)
                {
                    let _ = trouble.send(format!("{}: {e}", path.display()));
                }
            }
            Job::End(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// The entries of a file; none if there is no file. Errors: it cannot be read, or is none.
fn read(path: &Path) -> std::io::Result<Vec<String>> {
    if !path.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let lines = bytes.split(|b| *b == b'\n').filter_map(|l| std::str::from_utf8(l).ok());
    Ok(lines.filter(|l| !l.is_empty() && *l != VERSION).map(unescape).collect())
}

/// Appends one entry.
fn append(path: &Path, entry: &str, lock: &mut bool) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Anything but a file (a pipe somebody made there) would block.
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "this is no file"));
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if *lock {
        *lock = locked(&file);
        // Another session has put a shorter file in its place meanwhile.
        if *lock && path.metadata().is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() != m.ino())) {
            file = OpenOptions::new().read(true).append(true).open(path)?;
            *lock = locked(&file);
        }
    }
    let mut text = String::new();
    let length = file.metadata()?.len();
    if length == 0 {
        text.push_str(&format!("{VERSION}\n"));
    } else {
        // What broke off there (a disk that was full) must not swallow this entry.
        let mut last = [b'\n'];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            text.push('\n');
        }
    }
    text.push_str(&escape(entry));
    text.push('\n');
    file.write_all(text.as_bytes())
}

/// Takes the lock, if it can be had soon. It goes with the file. A file system without locks has none to wait for.
fn locked(file: &File) -> bool {
    let end = Instant::now() + LOCK;
    loop {
        match file.try_lock() {
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20))
            }
            Err(_) => return false,
        }
    }
}

/// Keeps the last entries only, if no other session holds the file.
fn shorten(path: &Path, keep: usize) -> std::io::Result<()> {
    // A link stays one: the file that it means is replaced, where that lies.
    let path = &path.canonicalize()?;
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    if file.try_lock().is_err() {
        return Ok(());
    }
    let entries = read(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    let mut text = format!("{VERSION}\n");
    for entry in &entries[entries.len().saturating_sub(keep)..] {
        text.push_str(&escape(entry));
        text.push('\n');
    }
    new.write_all(text.as_bytes())?;
    new.persist(path)?;
    Ok(())
}

fn escape(entry: &str) -> String {
    entry.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(c) = letters.next() {
        match (c, letters.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('\\')) => out.push('\\'),
            (c, _) => {
                out.push(c);
                continue;
            }
        }
        letters.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn kept(path: &Path, keep: usize) -> Vec<String> {
        Keeper::open(Some(path.to_path_buf()), keep).entries(LONG).unwrap()
    }

    #[test]
    fn entries_of_several_lines_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/history.txt");
        let all = ["let x = 1", "fn f() {\n    \"a\\nb\"\n}", "\\", "\\n", "ä猫"];
        let mut keeper = Keeper::open(Some(path.clone()), 100);
        assert_eq!(keeper.entries(LONG), Some(vec![]));
        assert_eq!(keeper.entries(LONG), None, "once");
        all.iter().for_each(|e| keeper.append(e));
        keeper.close();
        assert_eq!(kept(&path, 100), all);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        // A broken end, and what is no text.
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"\xff\xfe\nbroken of")
            .unwrap();
        let keeper = Keeper::open(Some(path.clone()), 100);
        keeper.append("after");
        keeper.close();
        assert_eq!(kept(&path, 100)[5..], ["broken of", "after"]);
    }

    #[test]
    fn sessions_side_by_side_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.txt");
        let write = |who: usize| {
            let keeper = Keeper::open(Some(path.clone()), 10_000);
            (0..100).for_each(|i| keeper.append(&format!("session {who}\nentry {i}")));
            keeper.close();
        };
        std::thread::scope(|s| (0..4).for_each(|who| drop(s.spawn(move || write(who)))));
        let mut all = kept(&path, 10_000);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 400);
    }

    #[test]
    fn a_long_file_is_shortened_once_it_is_a_quarter_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.txt");
        let lines = |n: usize| (0..n).map(|i| format!("{i}\n")).collect::<String>();
        std::fs::write(&path, format!("#V2\n{}", lines(12))).unwrap();
        assert_eq!(kept(&path, 10).len(), 10);
        assert_eq!(read(&path).unwrap().len(), 12);
        std::fs::write(&path, format!("#V2\n{}", lines(13))).unwrap();
        assert_eq!(kept(&path, 10)[0], "3");
        assert_eq!(read(&path).unwrap().len(), 10);
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, real) = (dir.path().join("history.txt"), dir.path().join("elsewhere/kept.txt"));
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::fs::write(&real, "#V2\n1\n2\n3\n4\n").unwrap();
        std::os::unix::fs::symlink("elsewhere/kept.txt", &path).unwrap();
        assert_eq!(kept(&path, 2), ["3", "4"]);
        assert!(path.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "#V2\n3\n4\n");
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.txt");
        std::fs::write(&path, "#V2\nold\n").unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let started = Instant::now();
        assert_eq!(kept(&path, 1), ["old"]);
        let keeper = Keeper::open(Some(path.clone()), 10);
        (0..20).for_each(|i| keeper.append(&format!("{i}")));
        keeper.close();
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(kept(&path, 100).len(), 21);
    }

    #[test]
    fn where_nothing_can_be_written_that_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut keeper = Keeper::open(Some(dir.path().join("file/history.txt")), 10);
        assert_eq!(keeper.entries(LONG), Some(vec![]));
        (0..3).for_each(|_| keeper.append("x"));
        let (done, end) = channel();
        keeper.jobs.as_ref().unwrap().send(Job::End(done)).unwrap();
        end.recv_timeout(LONG).unwrap();
        assert!(keeper.trouble().is_some_and(|t| t.contains("history.txt")));
        assert_eq!(keeper.trouble(), None);
        let mut off = Keeper::open(None, 10);
        off.append("x");
        assert_eq!(off.entries(LONG), None);
        off.close();
    }
}
