//! `:watch` and `run --watch`: a recipe runs again whenever its file is saved. The session, and with it the model, stays.
//!
//! The files are looked at now and then: that works on every file system, those of a network included, and whatever way an
//! editor saves. What was written is taken as whole once it has not changed for a moment.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::interrupt::Interrupts;
use super::reporter::{Mode, Reporter};
use super::run::{self, Finished};
use super::worker::{Request, Worker};
use crate::report::{Exit, Report};
use crate::script::{Snapshot, recipes};
use crate::term::style::Role;
use crate::term::tty::Quiet;

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_millis(50);
/// How long a file must rest before it counts as written.
const REST: Duration = Duration::from_millis(150);
/// After this time a file that is not there is told.
const MISSING: Duration = Duration::from_secs(2);

/// A file as it was seen last: when it was written, its size, and which file it is (editors put a new one in its place).
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = path.metadata().ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// Files that are looked at.
struct Files {
    /// The recipe's own file is the first.
    all: Vec<(PathBuf, Stamp)>,
    /// What changed, as it is now, and since when.
    moving: Option<(Vec<Stamp>, Instant)>,
    told_missing: bool,
    looked: Instant,
}

impl Files {
    /// The recipe's file, scripts beside it, which it may import, and files that its options name.
    fn of(recipe: &Path, args: &[(String, String)]) -> Files {
        let mut all = vec![recipe.to_path_buf()];
        let folder = recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = std::fs::read_dir(folder).into_iter().flatten().flatten().take(1000).map(|e| e.path());
        all.extend(beside.filter(|p| p.extension().is_some_and(|e| e == "rhai") && !same(p, recipe)));
        all.extend(args.iter().map(|(_, value)| PathBuf::from(value)).filter(|p| p.is_file()));
        let all = all.into_iter().map(|p| (p.clone(), stamp(&p))).collect();
        Files { all, moving: None, told_missing: false, looked: Instant::now() }
    }

    /// The file that was written since the last call, once it is whole.
    fn changed(&mut self) -> Option<PathBuf> {
        // Asked at every step of a run: that many looks would be too many.
        if self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        let now: Vec<Stamp> = self.all.iter().map(|(p, _)| stamp(p)).collect();
        let first =
            self.all.iter().zip(&now).find(|((_, seen), now)| seen != *now).map(|((p, _), _)| p.clone());
        let Some(path) = first else {
            self.moving = None;
            return None;
        };
        match &self.moving {
            Some((seen, since)) if *seen == now => {
                // Gone, or empty: an editor is about to write it.
                let whole = now.first().is_some_and(|s| s.is_some_and(|(_, length, _)| length > 0));
                if !whole || since.elapsed() < REST {
                    return None;
                }
            }
            _ => {
                self.moving = Some((now, Instant::now()));
                return None;
            }
        }
        self.moving = None;
        self.told_missing = false;
        self.all.iter_mut().zip(now).for_each(|((_, seen), now)| *seen = now);
        Some(path)
    }

    /// The recipe's file, if it has been gone for some time: once.
    fn missing(&mut self) -> Option<PathBuf> {
        let (path, _) = self.all.first()?;
        let gone = self.moving.as_ref().is_some_and(|(now, since)| {
            now.first().is_some_and(Option::is_none) && since.elapsed() > MISSING
        });
        (gone && !std::mem::replace(&mut self.told_missing, true)).then(|| path.clone())
    }
}

fn same(a: &Path, b: &Path) -> bool {
    a.file_name() == b.file_name()
}

/// Runs a recipe, and again after each change, until Ctrl-C or a signal. `done` gets the session's state after each run.
/// Returns the exit code. Errors (exit code 2): there is no such recipe, or it is built in and has no file.
pub fn watch(
    worker: &Worker,
    interrupts: &Interrupts,
    reporter: &mut Reporter,
    (recipe, args): (&str, &[(String, String)]),
    mut done: impl FnMut(Snapshot),
) -> Result<u8, Report> {
    let path = recipes::file_of(recipe)?.ok_or_else(|| {
        Report::usage(format!("{recipe} is built in: it has no file that could change"))
            .hint(format!(":edit {recipe} makes a copy in this folder; watch that"))
    })?;
    let name = path.display().to_string();
    let mut files = Files::of(&path, args);
    loop {
        let mut next = None;
        let request = Request::Run(name.clone(), args.to_vec());
        let Finished { code, snapshot, .. } =
            run::run_until(worker, interrupts, reporter, request, &mut || {
                next = next.take().or_else(|| files.changed());
                next.is_some()
            });
        if let Some(snapshot) = snapshot {
            done(snapshot);
        }
        reporter.last_word(0);
        // Interrupted, unless by a change. Ctrl-C may come when the run has just ended by itself.
        if interrupts.exit().is_some() || (next.is_none() && code == Exit::Interrupted.code()) {
            return Ok(code);
        }
        if interrupts.count() > 0 {
            return Ok(Exit::Interrupted.code());
        }
        if next.is_none() {
            reporter
                .remark(Role::Dim, &format!("watching {name}: saving it runs it again, Ctrl-C ends this"));
            next = wait(interrupts, reporter, &mut files);
        }
        let Some(changed) = next else {
            return Ok(interrupts.exit().unwrap_or(Exit::Interrupted.code()));
        };
        // New files beside it may be imported now.
        let told = std::mem::replace(&mut files, Files::of(&path, args)).all;
        for (path, seen) in &mut files.all {
            if let Some((_, before)) = told.iter().find(|(p, _)| p == path) {
                *seen = *before;
            }
        }
        reporter.remark(Role::Good, &format!("{} was saved", changed.display()));
    }
}

/// Waits for a change. `None`: Ctrl-C, or a signal.
fn wait(interrupts: &Interrupts, reporter: &mut Reporter, files: &mut Files) -> Option<PathBuf> {
    // What is typed meanwhile is for the prompt; Ctrl-C is a signal.
    let _quiet = (reporter.mode() == Mode::Terminal).then(Quiet::enter).flatten();
    interrupts.begin();
    let changed = loop {
        if interrupts.count() > 0 || interrupts.exit().is_some() {
            break None;
        }
        if let Some(path) = files.changed() {
            break Some(path);
        }
        if let Some(path) = files.missing() {
            reporter
                .remark(Role::Warn, &format!("{} is gone: it runs when it is there again", path.display()));
        }
        std::thread::sleep(LOOK);
    };
    interrupts.end();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found within a second.
    fn found(files: &mut Files) -> Option<PathBuf> {
        let end = Instant::now() + Duration::from_millis(600);
        while Instant::now() < end {
            if let Some(path) = files.changed() {
                return Some(path);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    #[test]
    fn a_change_is_found_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rhai");
        let beside = dir.path().join("b.rhai");
        std::fs::write(&path, "1").unwrap();
        std::fs::write(&beside, "1").unwrap();
        let mut files = Files::of(&path, &[]);
        assert_eq!(found(&mut files), None);
        std::fs::write(&path, "22").unwrap();
        assert_eq!(found(&mut files), Some(path.clone()));
        assert_eq!(found(&mut files), None, "once");
        // Vim's way: the old file is moved away, and a new one written.
        std::fs::rename(&path, dir.path().join("a.rhai~")).unwrap();
        assert_eq!(found(&mut files), None, "nothing runs while it is gone");
        std::fs::write(&path, "").unwrap();
        assert_eq!(found(&mut files), None, "nor while it is empty");
        std::fs::write(&path, "22").unwrap();
        assert_eq!(found(&mut files), Some(path.clone()));
        // Others': a new file is put in its place.
        std::fs::write(dir.path().join("new"), "22").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(found(&mut files), Some(path));
        std::fs::write(&beside, "22").unwrap();
        assert_eq!(found(&mut files), Some(beside));
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rhai");
        std::fs::write(&path, "1").unwrap();
        let mut files = Files::of(&path, &[]);
        let mut file = std::fs::File::create(&path).unwrap();
        for _ in 0..10 {
            file.write_all(b"part ").unwrap();
            assert_eq!(files.changed(), None);
            std::thread::sleep(Duration::from_millis(40));
        }
        assert!(found(&mut files).is_some());
    }
}
