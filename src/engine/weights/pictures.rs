//! The pictures that ship with the program: real ones, to use as layouts and inputs.

use std::borrow::Cow;

use super::folder::Folder;
use crate::engine::error::Result;

/// Their names, sorted: "bus-flat.png", ... Empty when the models folder is not there.
pub fn names() -> Vec<String> {
    let folder = Folder::shipped().map(|f| f.sub("pictures"));
    let names = folder.map(|f| f.files()).unwrap_or_default();
    names.into_iter().filter(|n| n.ends_with(".png")).collect()
}

/// The bytes of one of them. `None` if no picture of that name ships.
pub fn bytes(name: &str) -> Result<Option<Cow<'static, [u8]>>> {
    let Ok(folder) = Folder::shipped().map(|f| f.sub("pictures")) else { return Ok(None) };
    if folder.has(name) { folder.read(name).map(Some) } else { Ok(None) }
}
