//! Pictures: reading, showing, saving, laying out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::image::RgbImage;
use candle_core::Device;
use rhai::Dynamic;

use crate::engine::error::{Error, Result};
use crate::engine::image::{Picture, grid};
use crate::engine::nets::mlp::Mlp;
use crate::engine::observe::Event;
use crate::engine::weights::model::Model;
use crate::engine::weights::pictures as shipped;
use crate::record::{Record, png};
use crate::script::args::{Arg, Either, Opts};
use crate::script::files::{PICTURES, is_file_like};
use crate::script::host::Host;
use crate::script::options::Options;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

impl Handle for Picture {
    const NAME: &'static str = "Image";

    fn detail(&self) -> String {
        let many = if self.n() == 1 { String::new() } else { format!("{} of ", self.n()) };
        format!("{many}{}x{}", self.width(), self.height())
    }

    fn bytes(&self) -> usize {
        self.tensor().elem_count() * self.tensor().dtype().size_in_bytes()
    }
}

/// Largest picture file that is read, bytes.
const MAX_FILE: u64 = 256 << 20;

pub(super) fn open(host: &Host, name: &str) -> Result<Picture> {
    let path = Path::new(name);
    if name.trim().is_empty() {
        return Err(Error::value("open", "the file name is empty").hint("open(\"dog-flat.png\")"));
    }
    if !path.exists()
        && let Some(bytes) = shipped::bytes(name)?
    {
        return Picture::from_bytes(&bytes, name, &Device::Cpu);
    }
    // Messages name the file as it was written, not its real path.
    let bytes = host.policy.borrow().read("open", path, MAX_FILE).map_err(|e| {
        let names = shipped::names();
        match crate::script::catalog::nearest(name, names.iter().map(String::as_str)) {
            Some(near) if !path.exists() => e.hint(format!("did you mean {near}, which comes with scumble?")),
            _ => e,
        }
    })?;
    // A small file may hold a huge picture: its size is read, and held against the budget, before its pixels are.
    let (w, h) = Picture::size_in(&bytes, name)?;
    host.reserve("open", crate::script::costs::picture(u64::from(w), u64::from(h), 1))?;
    Picture::from_bytes(&bytes, name, &Device::Cpu)
}

/// How the pictures of this run are made again.
fn record(host: &Host) -> Record {
    let running = host.running.borrow();
    let mut record = Record { recipe: running.name.clone(), ..Record::default() };
    if let Some(options) = &running.options {
        record.options = options.values.iter().map(|(k, v)| (k.clone(), v.to_json())).collect();
        record.model = options.model.clone();
    }
    record.source = running.source.clone();
    if let Some((model, device)) = host.models.last() {
        record.model = model.name().to_string();
        record.fingerprint = model.fingerprint().to_string();
        record.device = device;
    }
    record
}

pub(super) fn write(host: &Host, op: &str, picture: &RgbImage, path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none_or(|n| n.to_string_lossy().trim().is_empty()) {
        return Err(Error::value(op, "the file name is empty").hint("save(picture, \"name\")"));
    }
    let named = match path.extension() {
        None => path.with_extension("png"),
        Some(ext) if ext.eq_ignore_ascii_case("png") => path.to_path_buf(),
        Some(ext) if PICTURES.iter().any(|p| ext.eq_ignore_ascii_case(p)) => {
            return Err(Error::value(
                op,
                "pictures are saved as PNG, which keeps the record of how they were made",
            )
            .expected("a name that ends in .png, or has no ending")
            .got(path.display().to_string()));
        }
        Some(_) => PathBuf::from(format!("{}.png", path.display())),
    };
    let bytes = png::encode(picture, Some(&record(host)))?;
    host.may_save(op, bytes.len() as u64)?;
    let saved = host.policy.borrow().write_new(op, &named, &bytes)?;
    host.note_saved(&saved);
    Ok(saved)
}

/// An Image, or a list of Images of any sizes.
type Pictures = Either<Picture, Vec<Picture>>;

fn all(pictures: &Pictures) -> Result<Vec<RgbImage>> {
    match pictures {
        Either::Left(p) => p.to_rgbs(),
        Either::Right(list) => Ok(list.iter().map(Picture::to_rgbs).collect::<Result<Vec<_>>>()?.concat()),
    }
}

fn sheet(pictures: &Pictures) -> Result<Arc<RgbImage>> {
    let list = all(pictures)?;
    if let [one] = &list[..] {
        return Ok(Arc::new(one.clone()));
    }
    Ok(Arc::new(grid(&list, None, &[])?))
}

fn show(host: &Host, value: &Dynamic, caption: Option<String>) -> Result<()> {
    if !Pictures::accepts(value) {
        host.emit(Event::Print(types::line(value)));
        return Ok(());
    }
    let pictures = Pictures::read(value).map_err(|m| {
        Error::value("show", "this cannot be shown as a picture").expected(m.expected).got(types::got(value))
    })?;
    host.show(sheet(&pictures)?, caption.unwrap_or_default());
    Ok(())
}

fn lay_out(list: Vec<Picture>, o: &Opts) -> Result<Picture> {
    let pictures = all(&Either::Right(list))?;
    let labels = o.or::<Vec<Dynamic>>("labels", Vec::new())?;
    let labels: Vec<String> =
        labels.iter().map(|l| l.clone().into_string().unwrap_or_else(|_| types::line(l))).collect();
    if !labels.is_empty() && labels.len() != pictures.len() {
        return Err(Error::value("grid", "there must be one label per picture")
            .expected(format!("{} labels", pictures.len()))
            .got(labels.len().to_string()));
    }
    Picture::sheet_of(&pictures, o.get("columns")?, &labels)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Pictures", "RGB pictures: read, made, laid out, shown, saved.");
    let host = r.host();
    r.def(
        "open(path)",
        "Reads a picture: PNG, JPEG or WebP; transparency is laid over white. Looks on disk first, then among the pictures \
         that come with scumble.",
    )
    .example("open(\"dog-flat.png\") // => Image 64x64")
    .example("open(\"dog-flatt.png\") // error: did you mean dog-flat.png")
    .see(&["encode", "is_file", "show"])
    .work()
    .bind(move |path: String| open(&host, &path));
    r.def(
        "is_file(text)",
        "Whether a text names a file: it holds a path separator or ends in a picture's extension. Recipes tell a picture from \
         a prompt by it.",
    )
    .example("[is_file(\"dog.png\"), is_file(\"a dog\")] // => [true, false]")
    .see(&["open", "options"])
    .bind(|text: String| is_file_like(&text));
    let host = r.host();
    r.def(
        "show(x, caption)",
        "Shows a picture, or several as a grid, in the terminal; other values as a line. The caption may be left out.",
    )
    .example("show(open(\"dog-flat.png\"), \"a dog\");")
    .see(&["save", "finish", "grid"])
    .work()
    .bind(move |x: Dynamic, caption: Option<String>| show(&host, &x, caption));
    let host = r.host();
    r.def(
        "save(x, path)",
        "Saves a picture (several as a grid) as PNG below --out, with the record of how it was made. Nothing is overwritten: \
         NAME.png, then NAME-2.png. A tuned model is saved as NAME.safetensors: its LoRA (names of peft and diffusers), the weights \
         that changed, the vectors of new tokens; `m.with_weights(path)` reads it. So is an Mlp, for `load_mlp(path)`. Returns the path.",
    )
    .example("let path = save(open(\"dog-flat.png\"), \"copies/dog\");\npath.ends_with(\".png\") // => true")
    .example("save(open(\"dog-flat.png\"), \"/etc/dog.png\") // error: may only write below")
    .see(&["show", "finish"])
    .work()
    .bind(move |x: Either<Pictures, Either<Model, Mlp>>, path: String| -> Result<String> {
        let saved = match x {
            Either::Left(x) => write(&host, "save", sheet(&x)?.as_ref(), Path::new(&path))?,
            Either::Right(Either::Left(m)) => super::tune::save(&host, &m, Path::new(&path))?,
            Either::Right(Either::Right(net)) => super::mlp::save(&host, &net, Path::new(&path))?,
        };
        Ok(saved.display().to_string())
    });
    let host = r.host();
    r.def(
        "finish(picture, o)",
        "The end of a recipe: shows the picture and saves it as OUT/RECIPE.png with the recipe's options.",
    )
    .example("let o = options(args, #{});\nfinish(open(\"dog-flat.png\"), o);")
    .see(&["show", "save", "options"])
    .work()
    .bind(move |picture: Pictures, _o: Options| -> Result<()> {
        let sheet = sheet(&picture)?;
        let name = host.running.borrow().name.clone();
        // Shown first: a disk that is full still leaves the picture on the screen, and the path is the last line.
        host.show(Arc::clone(&sheet), "");
        write(&host, "finish", &sheet, Path::new(&format!("{name}.png")))?;
        Ok(())
    });
    r.def("grid(pictures)", "Lays pictures out as one: row by row, with labels under them if given.")
        .option("columns", "integer", "pictures in a row; near square if not said")
        .option("labels", "[string]", "one per picture")
        .example("let dog = open(\"dog-flat.png\");\ngrid([dog, dog], #{ columns: 2 }) // => Image 130x64")
        .example("grid([], #{ colums: 2 }) // error: did you mean columns?")
        .see(&["show", "save"])
        .work()
        .bind(|list: Vec<Picture>, o: Opts| lay_out(list, &o));
    r.prop("p.width", "Width in pixels.")
        .example("open(\"dog-flat.png\").width // => 64")
        .bind(|p: Picture| p.width());
    r.prop("p.height", "Height in pixels.")
        .example("open(\"dog-flat.png\").height // => 64")
        .bind(|p: Picture| p.height());
    r.prop("p.n", "How many pictures there are.")
        .example("open(\"dog-flat.png\").n // => 1")
        .bind(|p: Picture| p.n());
    r.def("p.pick(i)", "Picture `i` of several, counted from 0.")
        .example("open(\"dog-flat.png\").pick(0).n // => 1")
        .bind(|p: Picture, i: usize| p.index(i));
    r.def("p.resize(width, height)", "Scaled to that size (Lanczos).")
        .example("open(\"dog-flat.png\").resize(32, 16) // => Image 32x16")
        .see(&["fit"])
        .bind(|p: Picture, w: usize, h: usize| p.resize(w, h));
    r.def("p.fit(width, height)", "Cropped around the center to that shape, then scaled to it.")
        .example("open(\"dog-flat.png\").fit(64, 32) // => Image 64x32")
        .see(&["resize", "encode"])
        .bind(|p: Picture, w: usize, h: usize| p.fit(w, h));
}
