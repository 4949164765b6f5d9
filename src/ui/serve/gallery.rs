//! The pictures of a folder, and the page that shows them.

use std::fs::{DirEntry, FileType};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::term::reach::encoded;

/// Folders below the folder that are looked into.
const DEPTH: usize = 3;
/// Most pictures on the page.
const MOST: usize = 2000;

/// One picture.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// Its path below the folder, with `/`.
    pub name: String,
    changed: SystemTime,
}

/// The type of a picture's file. `None`: this is not one that is served.
pub(super) fn kind(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

/// The pictures below a folder, the newest first, and how many there are: the oldest of very many are left out.
pub(super) fn pictures(folder: &Path) -> (Vec<Picture>, usize) {
    let mut all = Vec::new();
    collect(folder, "", DEPTH, &mut all);
    all.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.name.cmp(&b.name)));
    let count = all.len();
    all.truncate(MOST);
    (all, count)
}

/// The file of a picture by its name below a folder; also of one that is too old for the page. Each part of the name is
/// looked up in a listing, by the rules of [`pictures`]: no path is put together from what somebody asks for.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folder = folder.to_path_buf();
    let mut parts = name.split('/').peekable();
    for _ in 0..=DEPTH {
        let part = parts.next()?;
        let entry = entries(&folder).find(|e| e.name == part)?;
        match parts.peek() {
            Some(_) if entry.kind.is_dir() => folder = entry.path,
            None if is_picture(&entry) => return Some(entry.path),
            _ => return None,
        }
    }
    None
}

/// Something in a folder.
struct Entry {
    name: String,
    path: PathBuf,
    /// Of a link, that it is one.
    kind: FileType,
    listed: DirEntry,
}

/// What is looked at in a folder: nothing hidden, and no names that are no text, which cannot be asked for.
fn entries(folder: &Path) -> impl Iterator<Item = Entry> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    all.filter_map(|listed| {
        let (kind, name) = (listed.file_type().ok()?, listed.file_name().into_string().ok()?);
        (!name.starts_with('.')).then(|| Entry { name, path: listed.path(), kind, listed })
    })
}

/// Whether it is a picture's file. Links are none: what they point to lies elsewhere.
fn is_picture(entry: &Entry) -> bool {
    entry.kind.is_file() && kind(&entry.name).is_some()
}

fn collect(folder: &Path, prefix: &str, depth: usize, all: &mut Vec<Picture>) {
    for entry in entries(folder) {
        let name = format!("{prefix}{}", entry.name);
        if entry.kind.is_dir() && depth > 0 {
            collect(&entry.path, &format!("{name}/"), depth - 1, all);
        } else if is_picture(&entry) {
            let changed =
                entry.listed.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Picture { name, changed });
        }
    }
}

/// The page; `count` is how many pictures there are in all. Addresses on it are relative, so that the token stands in none of
/// them.
pub(super) fn page(pictures: &[Picture], count: usize) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>scumble</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>\
         body{background:#18181c;color:#ddd;font:14px sans-serif;margin:1.5em}a{color:#9cf}\
         main{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;max-width:100%}\
         img{display:block;min-width:128px;max-width:100%;image-rendering:pixelated}</style>",
    );
    let count = match count {
        1 => "1 picture".into(),
        n if n > pictures.len() => format!("{} of {n} pictures", pictures.len()),
        n => format!("{n} pictures"),
    };
    out.push_str(&format!("<p>{count}, the newest first. Reload the page for more.</p><main>"));
    for picture in pictures {
        let (address, name) = (encoded(&picture.name), escaped(&picture.name));
        out.push_str(&format!(
            "<figure><a href=\"./{address}\"><img loading=\"lazy\" src=\"./{address}\" alt=\"\"></a>\
             <figcaption>{name}</figcaption></figure>\n"
        ));
    }
    out.push_str("</main></html>\n");
    out
}

/// Text for a page.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_of_the_folder_are_listed_the_newest_first() {
        let room = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = room.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for name in ["out/old.png", "out/z.safetensors", "out/.hidden.png", "secret.png", "out/a/sheet.webp"]
        {
            write(name);
        }
        let folder = room.path().join("out");
        std::os::unix::fs::symlink(room.path().join("secret.png"), folder.join("link.png")).unwrap();
        std::os::unix::fs::symlink(room.path(), folder.join("up")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        write("out/<new>.png");
        let (all, count) = pictures(&folder);
        let names: Vec<&str> = all.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[0], "<new>.png");
        assert!(names.contains(&"a/sheet.webp"));
        let page = page(&all, count);
        assert!(page.contains("src=\"./%3Cnew%3E.png\"") && page.contains("&lt;new&gt;.png"), "{page}");
        assert!(page.contains("3 pictures"));
        for listed in names {
            assert!(find(&folder, listed).is_some_and(|p| p.is_file()), "{listed}");
        }
        for absent in
            ["link.png", "up/secret.png", "up/out/old.png", ".hidden.png", "../secret.png", "a", "", "/"]
        {
            assert_eq!(find(&folder, absent), None, "{absent}");
        }
        for absent in ["a/../old.png", "a//sheet.webp", "./old.png", "z.safetensors", "old.png/"] {
            assert_eq!(find(&folder, absent), None, "{absent}");
        }
        // As deep as the page goes, and no deeper.
        write("out/1/2/3/deep.png");
        write("out/1/2/3/4/deeper.png");
        assert!(find(&folder, "1/2/3/deep.png").is_some() && find(&folder, "1/2/3/4/deeper.png").is_none());
        assert_eq!(pictures(&folder).1, 4);
    }

    #[test]
    fn of_very_many_the_newest_are_shown_and_all_can_be_had() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (SystemTime::UNIX_EPOCH, SystemTime::now());
        for i in 0..MOST + 40 {
            let file = std::fs::File::create(folder.path().join(format!("{i}.png"))).unwrap();
            file.set_modified(if i % 50 == 0 { new } else { old }).unwrap();
        }
        let (shown, count) = pictures(folder.path());
        assert_eq!((shown.len(), count), (MOST, MOST + 40));
        assert!(shown[..40].iter().all(|p| p.changed > old), "the newest come first");
        assert!((0..MOST + 40).step_by(31).all(|i| find(folder.path(), &format!("{i}.png")).is_some()));
        assert!(page(&shown, count).contains("2000 of 2040 pictures"));
    }
}
