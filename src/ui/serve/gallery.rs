//! The pictures of a folder, and the page that shows them.

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
    /// The file.
    pub path: PathBuf,
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

/// All pictures below a folder, the newest first. Links are left out: what they point to lies elsewhere.
pub(super) fn pictures(folder: &Path) -> Vec<Picture> {
    let mut all = Vec::new();
    collect(folder, "", DEPTH, &mut all);
    all.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.name.cmp(&b.name)));
    all
}

fn collect(folder: &Path, prefix: &str, depth: usize, all: &mut Vec<Picture>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Names that are no text cannot be asked for.
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        if all.len() >= MOST || name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        if kind.is_dir() && depth > 0 {
            collect(&path, &format!("{prefix}{name}/"), depth - 1, all);
        } else if kind.is_file() && self::kind(&name).is_some() {
            let changed = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            all.push(Picture { name: format!("{prefix}{name}"), path, changed });
        }
    }
}

/// The page. Addresses on it are relative, so that the token stands in none of them.
pub(super) fn page(pictures: &[Picture]) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>scumble</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>\
         body{background:#18181c;color:#ddd;font:14px sans-serif;margin:1.5em}a{color:#9cf}\
         main{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;max-width:100%}\
         img{display:block;min-width:128px;max-width:100%;image-rendering:pixelated}</style>",
    );
    let count = if pictures.len() == 1 { "1 picture".into() } else { format!("{} pictures", pictures.len()) };
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
        let all = pictures(&folder);
        let names: Vec<&str> = all.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[0], "<new>.png");
        assert!(names.contains(&"a/sheet.webp"));
        let page = page(&all);
        assert!(page.contains("src=\"./%3Cnew%3E.png\"") && page.contains("&lt;new&gt;.png"), "{page}");
        assert!(page.contains("3 pictures"));
    }
}
