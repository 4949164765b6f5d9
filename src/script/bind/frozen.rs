//! Networks from the user's own folders that are only read: depth, likeness of subjects, captions.

use std::path::Path;

use crate::engine::caption::Captioner;
use crate::engine::device;
use crate::engine::error::{Error, Result};
use crate::engine::frozen::{Depth, Dino};
use crate::engine::image::Picture;
use crate::script::args::{Either, Opts};
use crate::script::bind::Tensor;
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types::Handle;

impl Handle for Dino {
    const NAME: &'static str = "Dino";

    fn detail(&self) -> String {
        format!("{} features", self.width())
    }

    fn bytes(&self) -> usize {
        Dino::bytes(self)
    }
}

impl Handle for Depth {
    const NAME: &'static str = "Depth";

    fn detail(&self) -> String {
        if self.is_metric() { "metres" } else { "relative" }.to_string()
    }

    fn bytes(&self) -> usize {
        Depth::bytes(self)
    }
}

impl Handle for Captioner {
    const NAME: &'static str = "Captioner";

    fn detail(&self) -> String {
        "BLIP".to_string()
    }

    fn bytes(&self) -> usize {
        Captioner::bytes(self)
    }
}

/// Bytes of the weights in a file, or in the files of a folder that a network may be read from.
fn stored(path: &Path) -> u64 {
    let weights = |p: &Path| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    // A link counts as what it leads to.
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    if !path.is_dir() {
        return size(path);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|p| weights(p)).map(|p| size(&p)).fold(0, u64::saturating_add)
}

/// Loads a folder that may be read, on the session's device. Errors: more weights than there is room for, as they are read and as
/// they are kept.
pub(super) fn load<T>(
    host: &Host,
    op: &str,
    name: &str,
    f: impl FnOnce(&Path, &candle_core::Device) -> Result<T>,
) -> Result<T> {
    if name.trim().is_empty() {
        return Err(Error::value(op, "the folder's name is empty").expected("a folder or file of weights"));
    }
    let path = host.policy.borrow().readable_tree(op, Path::new(name))?;
    let (device, _) = device::open(&host.settings().device)?;
    host.reserve_on(op, stored(&path).saturating_mul(2), &device)?;
    f(&path, &device).map_err(|e| e.op(op))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Helpers", "Frozen networks from folders of yours: nothing is downloaded.");
    let host = r.host();
    r.def(
        "load_depth(folder)",
        "Loads Depth Anything from a transformers folder (depth-anything/Depth-Anything-V2-Small-hf and its like).",
    )
    .example("load_depth(\"no-such-folder\") // error: no-such-folder")
    .see(&["depth", "map"])
    .work()
    .bind(move |folder: String| load(&host, "load_depth", &folder, Depth::load));
    r.def(
        "d.depth(picture)",
        "The depth of a picture as a grey picture: near is white, far is black, each picture over its own range.",
    )
    .example("load_depth(\"no-such-folder\").depth(open(\"dog-flat.png\")) // error: no-such-folder")
    .see(&["load_depth", "map"])
    .work()
    .bind(|d: Depth, picture: Picture| d.picture(&picture));
    r.def(
        "d.map(picture)",
        "The depth of every pixel as a Tensor [n, 1, h, w]: metres of a metric model, else without a unit, large where it is near.",
    )
    .example("load_depth(\"no-such-folder\").map(open(\"dog-flat.png\")) // error: no-such-folder")
    .see(&["load_depth", "depth"])
    .work()
    .bind(|d: Depth, picture: Picture| d.map(&picture).map(Tensor));
    let host = r.host();
    r.def(
        "load_dino(folder)",
        "Loads DINOv2 from a transformers folder (facebook/dinov2-small and its like): its features tell whether pictures show \
         the same subject, where CLIP's tell whether they fit the same words.",
    )
    .example("load_dino(\"no-such-folder\") // error: no-such-folder")
    .see(&["similarity", "features"])
    .work()
    .bind(move |folder: String| load(&host, "load_dino", &folder, Dino::load));
    r.def(
        "d.similarity(picture, other)",
        "How alike the subjects of two pictures are: the cosine of their DINOv2 features. One number, or a list for several \
         pictures; `other` counts with its first.",
    )
    .example("load_dino(\"no-such-folder\").similarity(open(\"dog-flat.png\"), open(\"cat-flat.png\")) // error: no-such-folder")
    .see(&["load_dino", "features"])
    .work()
    .bind(|d: Dino, picture: Picture, other: Picture| -> Result<Either<f64, Vec<f64>>> {
        let all = d.similarity(&picture, &other)?;
        Ok(if let [one] = all[..] { Either::Left(one) } else { Either::Right(all) })
    });
    r.def("d.features(picture)", "DINOv2's class token of every picture, a Tensor [n, width].")
        .example("load_dino(\"no-such-folder\").features(open(\"dog-flat.png\")) // error: no-such-folder")
        .see(&["load_dino", "similarity"])
        .work()
        .bind(|d: Dino, picture: Picture| d.features(&picture).map(Tensor));
    let host = r.host();
    r.def(
        "load_captioner(folder)",
        "Loads BLIP from a transformers folder with tokenizer.json (Salesforce/blip-image-captioning-base and its like).",
    )
    .example("load_captioner(\"no-such-folder\") // error: no-such-folder")
    .see(&["caption"])
    .work()
    .bind(move |folder: String| load(&host, "load_captioner", &folder, Captioner::load));
    let host = r.host();
    r.def("c.caption(picture)", "What a picture shows, in words: the likeliest next word at every place.")
        .option("begin", "string", "the caption's first words: \"a picture of\"")
        .option("most", "integer", "most tokens after them; 30")
        .example(
            "load_captioner(\"no-such-folder\").caption(open(\"dog-flat.png\")) // error: no-such-folder",
        )
        .see(&["load_captioner"])
        .work()
        .bind(move |c: Captioner, picture: Picture, o: Opts| {
            let begin = o.get::<String>("begin")?.unwrap_or_default();
            c.caption(&picture, &begin, o.or("most", 30usize)?, host.cancel())
        });
}
