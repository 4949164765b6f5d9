//! Which files a script may read and write, and how results are written: atomically, never over something.
//!
//! Paths on the command line and typed at the prompt are readable. A path that a recipe computes must lie below the
//! working directory or an `--allow-read` folder; writing goes below `--out` or an `--allow-write` folder. Links are
//! resolved before the test, so they cannot lead out; pipes and devices are no files.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use tempfile::NamedTempFile;

use super::catalog::nearest;
use super::host::Settings;
use crate::engine::error::{Error, Result};

/// Endings that make a string a picture's file name.
pub const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "gif"];

/// Highest number tried for `NAME-N.EXT`.
const NUMBERS: usize = 100_000;

/// Folders inside each other in a path that is written.
const LEVELS: usize = 64;

/// What may be read and written.
#[derive(Clone, Debug)]
pub struct Policy {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    out: PathBuf,
    granted: HashSet<PathBuf>,
    typed: bool,
}

impl Policy {
    /// From the flags; the working directory is taken now.
    pub fn new(settings: &Settings) -> Self {
        let mut read = vec![absolute(Path::new("."))];
        read.extend(settings.allow_read.iter().map(|p| absolute(p)));
        read.extend(settings.allow_write.iter().map(|p| absolute(p)));
        let out = absolute(&settings.out);
        read.push(out.clone());
        let mut write = vec![out.clone()];
        write.extend(settings.allow_write.iter().map(|p| absolute(p)));
        Policy { read, write, out, granted: HashSet::new(), typed: false }
    }

    /// Takes the folders of other settings; files that were named stay readable.
    pub fn follow(&mut self, settings: &Settings) {
        let granted = std::mem::take(&mut self.granted);
        *self = Policy { granted, typed: self.typed, ..Policy::new(settings) };
    }

    /// The same, and everything below one more folder may be read.
    pub fn and_below(&self, folder: &Path) -> Self {
        let mut policy = self.clone();
        policy.read.push(absolute(folder));
        policy
    }

    /// Lets one file be read: it was named on the command line.
    pub fn grant(&mut self, path: &Path) {
        if let Ok(real) = path.canonicalize() {
            self.granted.insert(real);
        }
    }

    /// Whether code typed by a person runs now (the prompt, `-e`): it may read everything.
    pub fn set_typed(&mut self, typed: bool) {
        self.typed = typed;
    }

    /// Whether a typed cell runs now.
    pub fn is_typed(&self) -> bool {
        self.typed
    }

    /// The real path of a file that may be read. Errors: it is not there; it lies outside. Of what lies outside nothing
    /// is told, not even whether it is there.
    pub fn readable(&self, op: &str, path: &Path) -> Result<PathBuf> {
        let real = path.canonicalize();
        if self.typed {
            return real.map_err(|e| missing(op, path, &e));
        }
        match real {
            Ok(real) if self.granted.contains(&real) || self.may_read(&real) => Ok(real),
            Err(e) if self.may_read(&existing_part(path)) => Err(missing(op, path, &e)),
            _ => Err(self.unreadable(op, path)),
        }
    }

    fn may_read(&self, real: &Path) -> bool {
        self.read.iter().any(|root| root.canonicalize().is_ok_and(|root| real.starts_with(root)))
    }

    fn unreadable(&self, op: &str, path: &Path) -> Error {
        let full = lexical(&absolute(path));
        let inside = self.read.iter().any(|root| full.starts_with(lexical(root)));
        let error = Error::file(op, path, "a script may not read outside the working directory")
            .expected("a path below the working directory or an --allow-read folder");
        if inside {
            return error
                .got("a link that leads out of it")
                .hint("--allow-read with the folder that it leads to");
        }
        error
            .got(full.display().to_string())
            .hint(format!("--allow-read {}", full.parent().unwrap_or(&full).display()))
    }

    /// [`Policy::readable`], and the same of everything that links below the folder lead to (three levels, as a model
    /// has them).
    pub fn readable_tree(&self, op: &str, path: &Path) -> Result<PathBuf> {
        let real = self.readable(op, path)?;
        if !self.typed {
            self.links(op, &real, 3)?;
        }
        Ok(real)
    }

    fn links(&self, op: &str, folder: &Path, levels: usize) -> Result<()> {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().take(10_000) {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_symlink() {
                self.readable(op, &entry.path())?;
            }
            if levels > 0 && entry.path().is_dir() {
                self.links(op, &entry.path(), levels - 1)?;
            }
        }
        Ok(())
    }

    /// The bytes of a file that may be read, at most `most`. A pipe or a device is refused, not waited for.
    /// Errors: not there, outside, no file, too long.
    pub fn read(&self, op: &str, path: &Path, most: u64) -> Result<Vec<u8>> {
        let real = self.readable(op, path)?;
        let bad = |e: std::io::Error| Error::file(op, path, e);
        let file = open_at_once(&real).map_err(bad)?;
        let facts = file.metadata().map_err(bad)?;
        if facts.is_dir() {
            let wanted = if op == "open" { "a picture" } else { "a file" };
            return Err(Error::file(op, path, format!("this is a folder, not {wanted}")));
        }
        if !facts.is_file() {
            return Err(Error::file(op, path, "this is a device or a pipe, not a file"));
        }
        // Between the test and the opening somebody may have put a link in the place of a folder.
        if !same_file(&real, &facts) || self.readable(op, &real)? != real {
            return Err(Error::file(op, path, "the file was replaced while it was being opened"));
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(bad)?;
        if bytes.len() as u64 > most {
            return Err(Error::file(op, path, "the file is too long").expected(format!(
                "at most {}",
                super::types::size(usize::try_from(most).unwrap_or(usize::MAX))
            )));
        }
        Ok(bytes)
    }

    /// Where a file of that name goes: relative names below `--out`, folders are made, links do not lead out.
    pub fn writable(&self, op: &str, path: &Path) -> Result<PathBuf> {
        sensible_name(op, path)?;
        let refused = |real: &Path| {
            Error::file(op, path, "a script may only write below --out and --allow-write")
                .expected(format!("a path below {}", self.out.display()))
                .got(real.display().to_string())
                .hint("give a plain name, or --allow-write FOLDER")
        };
        let full = lexical(&absolute(path));
        let wanted = if path.is_absolute() || self.write.iter().any(|root| full.starts_with(lexical(root))) {
            full
        } else {
            lexical(&self.out.join(path))
        };
        let Some(root) = self.write.iter().find(|root| wanted.starts_with(lexical(root))) else {
            return Err(refused(&wanted));
        };
        std::fs::create_dir_all(root).map_err(|e| cannot_write(op, root, &e))?;
        let real_root = root.canonicalize().map_err(|e| cannot_write(op, root, &e))?;
        let rest = wanted.strip_prefix(lexical(root)).unwrap_or(&wanted);
        let mut real = real_root.clone();
        let mut parts = rest.components().peekable();
        while let Some(part) = parts.next() {
            real.push(part);
            if parts.peek().is_none() {
                break;
            }
            if real.symlink_metadata().is_ok() {
                real = real.canonicalize().map_err(|e| cannot_write(op, &real, &e))?;
                if !self.write.iter().any(|r| r.canonicalize().is_ok_and(|r| real.starts_with(r))) {
                    return Err(refused(&real));
                }
            } else {
                std::fs::create_dir(&real).map_err(|e| cannot_write(op, &real, &e))?;
            }
        }
        if real == real_root {
            return Err(Error::file(op, path, "this is a folder, not a file name"));
        }
        Ok(real)
    }

    /// Writes `bytes` as a new file `NAME.EXT`, or `NAME-2.EXT`, ... : whole or not at all, over nothing.
    /// Returns the path as the user would type it. Errors: outside, no space, no permission.
    pub fn write_new(&self, op: &str, path: &Path, bytes: &[u8]) -> Result<PathBuf> {
        let (real, mut file) = self.written(op, path, bytes)?;
        for n in 1..NUMBERS {
            let target = numbered(&real, n);
            match file.persist_noclobber(&target) {
                Ok(_) => return Ok(shown(&target)),
                Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => file = e.file,
                Err(e) => return Err(cannot_write(op, &target, &e.error)),
            }
        }
        Err(Error::file(op, &real, "there are too many results of this name").hint("give another --out"))
    }

    /// Writes `bytes` in the place of a file that the same run wrote: whole or not at all. Errors: as [`Policy::write_new`].
    pub fn write_again(&self, op: &str, path: &Path, bytes: &[u8]) -> Result<()> {
        let (real, file) = self.written(op, path, bytes)?;
        file.persist(&real).map(|_| ()).map_err(|e| cannot_write(op, &real, &e.error))
    }

    /// The real path that a file shall have, and its bytes under a passing name in the same folder.
    fn written(&self, op: &str, path: &Path, bytes: &[u8]) -> Result<(PathBuf, NamedTempFile)> {
        let real = self.writable(op, path)?;
        let dir = real.parent().unwrap_or(Path::new(".")).to_path_buf();
        let mut file = builder().tempfile_in(&dir).map_err(|e| cannot_write(op, &real, &e))?;
        file.write_all(bytes)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| cannot_write(op, &real, &e))?;
        // While the file was written somebody may have put a link in the place of the folder.
        if dir.canonicalize().ok().as_ref() != Some(&dir) {
            return Err(Error::file(op, path, "the folder was replaced while the file was being written"));
        }
        Ok((real, file))
    }
}

/// Opens without waiting for the other end of a pipe.
fn open_at_once(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits().cast_signed());
    }
    options.open(path)
}

/// Whether the path still names the file that was opened.
fn same_file(path: &Path, opened: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        path.symlink_metadata().is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino()))
    }
    #[cfg(not(unix))]
    {
        path.is_file() && opened.is_file()
    }
}

/// The real path of the longest part of a path that is there.
fn existing_part(path: &Path) -> PathBuf {
    let full = absolute(path);
    full.ancestors().find_map(|p| p.canonicalize().ok()).unwrap_or(full)
}

/// A file name that a listing can show and that makes no endless chain of folders.
fn sensible_name(op: &str, path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) || crate::report::plain(&text) != text {
        return Err(Error::value(op, "a file name may not hold control characters")
            .got(format!("{text:?}"))
            .hint("letters, digits, - and _"));
    }
    if path.components().count() > LEVELS {
        return Err(Error::value(op, "the path has too many folders").expected(format!("at most {LEVELS}")));
    }
    Ok(())
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".scumble-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}

fn numbered(path: &Path, n: usize) -> PathBuf {
    if n == 1 {
        return path.to_path_buf();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension() {
        Some(ext) => path.with_file_name(format!("{stem}-{n}.{}", ext.to_string_lossy())),
        None => path.with_file_name(format!("{stem}-{n}")),
    }
}

/// Relative to the working directory where it lies below it.
fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|d| d.canonicalize());
    here.ok()
        .and_then(|d| path.strip_prefix(d).ok().map(Path::to_path_buf))
        .unwrap_or_else(|| path.to_path_buf())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// `a/./b/../c` → `a/c`, without looking at the disk.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn missing(op: &str, path: &Path, e: &std::io::Error) -> Error {
    if e.kind() != std::io::ErrorKind::NotFound {
        return Error::file(op, path, e);
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name().unwrap_or_default().to_string_lossy().to_string();
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| {
            entries.flatten().take(1000).map(|e| e.file_name().to_string_lossy().to_string()).collect()
        })
        .unwrap_or_default();
    let error = Error::file(op, path, "there is no such file");
    match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!(
            "did you mean {}?",
            dir.join(near).strip_prefix(".").unwrap_or(&dir.join(near)).display()
        )),
        None if path.is_absolute() => error.hint("check the path"),
        None => error.hint("relative paths start in the working directory"),
    }
}

fn cannot_write(op: &str, path: &Path, e: &std::io::Error) -> Error {
    let error = Error::file(op, path, format!("cannot be written: {e}"));
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            error.hint("the disk is full: make room, or give --out on another disk")
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            error.hint("give an --out folder that you may write to")
        }
        _ => error,
    }
}

/// Whether a string names a file: it holds a path separator or ends in a picture's extension.
pub fn is_file_like(text: &str) -> bool {
    let separator = text.contains('/') || (cfg!(windows) && text.contains('\\'));
    let ending = text
        .rsplit_once('.')
        .is_some_and(|(stem, ext)| !stem.is_empty() && PICTURES.iter().any(|p| ext.eq_ignore_ascii_case(p)));
    separator || ending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(dir: &Path) -> Policy {
        let settings = Settings { out: dir.join("out"), ..Settings::default() };
        Policy { read: vec![dir.to_path_buf(), dir.join("out")], ..Policy::new(&settings) }
    }

    #[test]
    fn strings_that_name_files() {
        for yes in ["a.png", "dir/a", "A.JPG", "./x", "x.webp"] {
            assert!(is_file_like(yes), "{yes}");
        }
        for no in ["a dog", "a dog.", "v1.5", ".png", "png", ""] {
            assert!(!is_file_like(no), "{no}");
        }
    }

    #[test]
    fn reading_outside_needs_a_grant() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = outside.path().join("a.png");
        std::fs::write(&file, b"x").unwrap();
        let mut p = policy(inside.path());
        let e = p.readable("open", &file).unwrap_err();
        assert!(e.hint_text().unwrap().starts_with("--allow-read"));
        p.grant(&file);
        assert!(p.readable("open", &file).is_ok());
        let mut p = policy(inside.path());
        p.set_typed(true);
        assert!(p.readable("open", &file).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_cannot_lead_out() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        let p = policy(inside.path());
        assert!(p.readable("open", &inside.path().join("link/secret")).is_err());
        std::fs::create_dir(inside.path().join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("out/link")).unwrap();
        let e = p.write_new("save", Path::new("link/x.png"), b"x").unwrap_err();
        assert!(e.message().contains("only write below"), "{e}");
        assert!(!outside.path().join("x.png").exists());
        for way in ["../x.png", "a/../../x.png", "/tmp/scumble-no/x.png"] {
            assert!(p.write_new("save", Path::new(way), b"x").is_err(), "{way}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let p = policy(dir.path());
        let names: Vec<_> =
            (0..3).map(|i| p.write_new("save", Path::new("a/cat.png"), &[i]).unwrap()).collect();
        let names: Vec<_> =
            names.iter().map(|n| n.file_name().unwrap().to_string_lossy().to_string()).collect();
        assert_eq!(names, ["cat.png", "cat-2.png", "cat-3.png"]);
        assert_eq!(std::fs::read(dir.path().join("out/a/cat-2.png")).unwrap(), [1]);
        let left: Vec<_> = std::fs::read_dir(dir.path().join("out/a")).unwrap().collect();
        assert_eq!(left.len(), 3, "no temporary file is left");
    }

    #[test]
    fn a_missing_file_names_its_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sketch.png"), b"x").unwrap();
        let e = policy(dir.path()).readable("open", &dir.path().join("sketsh.png")).unwrap_err();
        assert!(e.hint_text().unwrap().ends_with("sketch.png?"), "{e}");
    }
}
