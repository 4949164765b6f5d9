//! The init file that a folder brings along runs only if its text is trusted: who downloads a folder has not read it.
//!
//! Trust belongs to one file with one text. What is kept is the text itself rather than a hash of it: comparing the whole
//! cannot be deceived, and these files are short.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Where a folder's own init file lies in it.
pub const FILE: &str = ".scumble/init.rhai";

/// Whether a folder's init file may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was trusted, and is as it was then.
    Trusted,
    /// It was trusted with another text.
    Changed,
    /// It was never trusted.
    New,
}

/// A folder's init file as it was read: what is trusted and what runs is this text, whatever becomes of the file.
#[derive(Clone, Debug)]
pub struct FolderInit {
    path: PathBuf,
    /// The script.
    pub text: String,
}

impl FolderInit {
    /// Reads the init file of a folder. `None` if it has none. Errors: it cannot be read.
    pub fn read(folder: &Path) -> io::Result<Option<FolderInit>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Some(FolderInit { text: std::fs::read_to_string(&path)?, path: path.canonicalize()? }))
    }

    fn key(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether it may run, by the list of trusted files at `store`. A list that cannot be read trusts nothing.
    pub fn standing(&self, store: Option<&Path>) -> Standing {
        match store.and_then(load).unwrap_or_default().get(&self.key()) {
            Some(Value::String(text)) if *text == self.text => Standing::Trusted,
            Some(_) => Standing::Changed,
            None => Standing::New,
        }
    }

    /// Enters it into the list. Errors: the list cannot be written.
    pub fn trust(&self, store: Option<&Path>) -> io::Result<()> {
        let store = store.ok_or_else(|| io::Error::other("there is no home folder"))?;
        let folder = store.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut list = load(store).unwrap_or_default();
        list.insert(self.key(), Value::String(self.text.clone()));
        // Whole or not at all, and only for its owner's eyes.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{:#}", Value::Object(list))?;
        file.persist(store)?;
        Ok(())
    }
}

fn load(store: &Path) -> Option<Map<String, Value>> {
    serde_json::from_str(&std::fs::read_to_string(store).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_for_one_text_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("state/trusted.json");
        let write = |folder: &str, text: &str| {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(folder.join(".scumble")).unwrap();
            std::fs::write(folder.join(FILE), text).unwrap();
            FolderInit::read(&folder).unwrap().unwrap()
        };
        assert!(FolderInit::read(dir.path()).unwrap().is_none());
        let first = write("a", "let x = 1");
        assert_eq!(first.standing(Some(&store)), Standing::New);
        first.trust(Some(&store)).unwrap();
        assert_eq!(first.standing(Some(&store)), Standing::Trusted);
        assert_eq!(write("b", "let x = 1").standing(Some(&store)), Standing::New, "another folder");
        let changed = write("a", "let x = 2");
        assert_eq!(changed.standing(Some(&store)), Standing::Changed);
        changed.trust(Some(&store)).unwrap();
        assert_eq!(changed.standing(Some(&store)), Standing::Trusted);
        assert_eq!(first.standing(Some(&store)), Standing::Changed, "the earlier text");
        std::fs::write(&store, "no list").unwrap();
        assert_eq!(changed.standing(Some(&store)), Standing::New);
        assert!(changed.trust(None).is_err());
        assert_eq!(changed.standing(None), Standing::New);
    }
}
