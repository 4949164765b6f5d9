//! Networks from the user's own files that draw maps: masks by SAM, edges by HED or PiDiNet.

use rhai::{Array, Dynamic, Map};

use super::frozen::load;
use crate::engine::detector::Detector;
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::nets::sam::{Corners, Point};
use crate::engine::segment::Segmenter;
use crate::script::args::{Arg, Opts};
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

impl Handle for Segmenter {
    const NAME: &'static str = "Segmenter";

    fn detail(&self) -> String {
        format!("SAM  {0}x{0}", self.side())
    }

    fn bytes(&self) -> usize {
        Segmenter::bytes(self)
    }
}

impl Handle for Detector {
    const NAME: &'static str = "Edges";

    fn detail(&self) -> String {
        self.name().to_string()
    }

    fn bytes(&self) -> usize {
        Detector::bytes(self)
    }
}

/// How places are written.
const PLACES: &str =
    "[x, y], [[x, y], ...], or #{ points: [...], out: [...], box: [left, top, right, bottom] }, in pixels";

fn bad(what: impl Into<String>, got: &Dynamic) -> Error {
    Error::value("segment", what.into()).expected(PLACES).got(types::got(got))
}

/// A list of numbers, if it is one.
fn numbers(value: &Dynamic) -> Option<Vec<f64>> {
    value.read_lock::<Array>()?.iter().map(|v| f64::read(v).ok()).collect()
}

/// A point, or a list of points.
fn points(value: &Dynamic, inside: bool) -> Result<Vec<Point>> {
    let point = |v: &Dynamic| match numbers(v).as_deref() {
        Some([x, y]) => Some(Point { x: *x, y: *y, inside }),
        _ => None,
    };
    if let Some(one) = point(value) {
        return Ok(vec![one]);
    }
    let list = value.read_lock::<Array>().ok_or_else(|| bad("these are no points", value))?;
    list.iter().map(|v| point(v).ok_or_else(|| bad("this is no point", v))).collect()
}

fn places(value: &Dynamic) -> Result<(Vec<Point>, Option<Corners>)> {
    let Some(map) = value.read_lock::<Map>() else { return Ok((points(value, true)?, None)) };
    let (mut all, mut corners) = (Vec::new(), None);
    for (key, v) in map.iter() {
        match key.as_str() {
            "points" => all.extend(points(v, true)?),
            "out" => all.extend(points(v, false)?),
            "box" => {
                let sides = numbers(v).and_then(|l| <[f64; 4]>::try_from(l).ok());
                corners = Some(sides.ok_or_else(|| bad("this is no box", v))?);
            }
            other => {
                let near = crate::script::catalog::nearest(other, ["points", "out", "box"]);
                let error = bad(format!("a place has no field {other}"), value);
                return Err(match near {
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error,
                });
            }
        }
    }
    Ok((all, corners))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    let host = r.host();
    r.def(
        "load_segmenter(folder)",
        "Loads SAM, segment anything, from a transformers folder (facebook/sam-vit-base and its like): masks of what lies at some \
         points or in a box.",
    )
    .example("load_segmenter(\"no-such-folder\") // error: no-such-folder")
    .see(&["segment", "masks"])
    .work()
    .bind(move |folder: String| load(&host, "load_segmenter", &folder, Segmenter::load));
    let host = r.host();
    r.def(
        "s.segment(picture, at)",
        "The mask of what lies at some places of a picture, white on black, of the picture's size. `at` is a point [x, y] in pixels \
         from the upper left corner, several points, or #{ points, out, box }: points inside, points that must stay outside, a box \
         [left, top, right, bottom]. Of three masks (a part, more, the whole) the one that the network thinks best. The picture is \
         looked at once: other places on it cost little. Save it for `mask=` of inpaint, sdedit, magicfusion; `.tensor` blends.",
    )
    .option("mask", "integer", "a certain mask: 0 the network's single answer, 1 to 3 from part to whole")
    .example("load_segmenter(\"no-such-folder\").segment(open(\"dog-flat.png\"), [32, 40]) // error: no-such-folder")
    .see(&["masks", "load_segmenter", "blend"])
    .work()
    .bind(move |s: Segmenter, picture: Picture, at: Dynamic, o: Opts| -> Result<Picture> {
        let (points, corners) = places(&at)?;
        let Some(i) = o.get::<i64>("mask")? else {
            return Ok(s.best(&picture, &points, corners, host.cancel())?.picture);
        };
        if !(0..=3).contains(&i) {
            return Err(Error::value("segment", "option mask is out of range").expected("0 to 3").got(i.to_string()));
        }
        let all = s.masks(&picture, &points, corners, host.cancel())?;
        let one = all.into_iter().nth(i as usize);
        one.map(|m| m.picture).ok_or_else(|| Error::missing("segment", format!("there is no mask {i}")))
    });
    let host = r.host();
    r.def(
        "s.masks(picture, at)",
        "All four masks for some places, as `segment` takes them: a list of #{ mask, score }, the network's single answer first, then \
         from a part to the whole. `score` is the overlap (IoU) with the truth that it expects, about 0 to 1.",
    )
    .example("load_segmenter(\"no-such-folder\").masks(open(\"dog-flat.png\"), [32, 40]) // error: no-such-folder")
    .see(&["segment"])
    .work()
    .bind(move |s: Segmenter, picture: Picture, at: Dynamic| -> Result<Vec<Map>> {
        let (points, corners) = places(&at)?;
        let all = s.masks(&picture, &points, corners, host.cancel())?;
        let entry = |m: crate::engine::segment::Mask| {
            Map::from([("mask".into(), Dynamic::from(m.picture)), ("score".into(), m.score.into())])
        };
        Ok(all.into_iter().map(entry).collect())
    });
    let host = r.host();
    r.def(
        "load_edges(path)",
        "Loads a network that finds edges: HED as ControlNet's annotator has it (ControlNetHED), or PiDiNet (table5_pidinet, as \
         trained or converted), a .safetensors file of yours or the folder it lies in.",
    )
    .example("load_edges(\"no-such-file.safetensors\") // error: no-such-file")
    .see(&["edges"])
    .work()
    .bind(move |path: String| load(&host, "load_edges", &path, Detector::load));
    r.def(
        "e.edges(picture)",
        "The edges of pictures as a network sees them, white on black, in shades of how sure it is. It has no gradient.",
    )
    .option("threshold", "number", "from where a pixel is white, all others black; 0 keeps the shades")
    .example("load_edges(\"no-such-file.safetensors\").edges(open(\"dog-flat.png\")) // error: no-such-file")
    .see(&["load_edges", "invert"])
    .work()
    .bind(|e: Detector, picture: Picture, o: Opts| e.edges(&picture, o.or("threshold", 0.0)?));
}
