//! Maps of pictures: edges, light, the opposite.

use crate::engine::edges::{self, How};
use crate::engine::error::{Error, Result};
use crate::engine::image::Picture;
use crate::engine::weights::pictures as shipped;
use crate::script::args::Opts;
use crate::script::registry::Registry;

fn how(o: &Opts) -> Result<How> {
    let kind = o.or("how", "canny".to_string())?;
    let wrong = |key: &str| {
        Error::value("edges", format!("option {key} does not belong to {kind}"))
            .expected(if kind == "sobel" { "threshold" } else { "sigma, low, high" })
    };
    let others: &[&str] = if kind == "sobel" { &["sigma", "low", "high"] } else { &["threshold"] };
    if let Some(key) = o.keys().find(|k| others.contains(k)) {
        return Err(wrong(key));
    }
    match kind.as_str() {
        "canny" => {
            Ok(How::Canny { sigma: o.or("sigma", 1.0)?, low: o.or("low", 0.05)?, high: o.or("high", 0.15)? })
        }
        "sobel" => Ok(How::Sobel { threshold: o.or("threshold", 0.0)? }),
        other => {
            Err(Error::missing("edges", format!("there is no edge detector {other}"))
                .expected("canny or sobel"))
        }
    }
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Maps", "What a picture's pixels say besides their colors, as pictures.");
    r.def(
        "edges(picture)",
        "The edges of pictures, white on black. `canny` (Canny 1986): smoothing, the ridges of Sobel's gradient, lines one pixel \
         wide that begin above `high` and go on above `low`. `sobel`: the length of the gradient. Thresholds are shares of the \
         steepest slope, black beside white. It has no gradient.",
    )
    .option("how", "string", "canny (the default) or sobel")
    .option("sigma", "number", "canny: smoothing in pixels; 1")
    .option("low", "number", "canny: where lines go on; 0.05")
    .option("high", "number", "canny: where lines begin; 0.15")
    .option("threshold", "number", "sobel: what lies below is black; 0")
    .example("edges(open(\"dog-flat.png\")) // => Image 64x64")
    .example("edges(open(\"dog-flat.png\"), #{ low: 0.5, high: 0.2 }) // error: low must not lie above high")
    .see(&["luminance", "invert"])
    .work()
    .bind(|p: Picture, o: Opts| edges::edges(&p, how(&o)?));
    r.def("luminance(picture)", "The light of pictures, gray (Rec. 601).")
        .example("distance(luminance(open(\"dog-flat.png\")), open(\"dog-flat.png\")) > 0.0 // => true")
        .see(&["edges", "invert"])
        .work()
        .bind(|p: Picture| edges::luminance(&p));
    r.def(
        "overlap(a, b)",
        "How well the white of two pictures agrees, 0 to 1: the F1 of the shares of either one's white pixels that have one of the \
         other's nearby.",
    )
    .option("tolerance", "integer", "how many pixels away, along either axis; 1")
    .example("let e = edges(open(\"dog-flat.png\"));\n[overlap(e, e), overlap(e, draw(64, 64, \"black\"))] // => [1.0, 0.0]")
    .see(&["edges", "distance"])
    .work()
    .bind(|a: Picture, b: Picture, o: Opts| edges::overlap(&a, &b, o.or("tolerance", 1usize)?));
    r.def("flip(picture)", "Pictures with left and right exchanged.")
        .example("let dog = open(\"dog-flat.png\");\ndistance(flip(flip(dog)), dog) // => 0.0")
        .see(&["invert"])
        .work()
        .bind(|p: Picture| edges::flip(&p));
    r.def("shipped()", "The names of the pictures that come with scumble, which `open` finds.")
        .example("\"dog-flat.png\" in shipped() // => true")
        .see(&["open"])
        .bind(shipped::names);
    r.def("invert(picture)", "The opposite colors: white where it was black.")
        .example("let dog = open(\"dog-flat.png\");\ndistance(invert(invert(dog)), dog) < 0.00001 // => true")
        .see(&["edges"])
        .work()
        .bind(|p: Picture| edges::invert(&p));
}
