//! Pictures from shapes, and arithmetic on pictures.

use candle_core::{Device, Tensor};
use rhai::{Dynamic, Map};

use crate::engine::draw::{self, Color, Outline, Shape};
use crate::engine::error::{Error, Result};
use crate::engine::image::{Picture, no_gradient};
use crate::script::args::{Arg, Either, Opts};
use crate::script::registry::Registry;
use crate::script::types;

fn color(value: &Dynamic) -> Result<Color> {
    if let Ok(rgb) = Vec::<f64>::read(value)
        && let [r, g, b] = rgb[..]
    {
        return Ok([r as f32, g as f32, b as f32]);
    }
    draw::color(&String::read(value).map_err(|_| {
        Error::value("draw", "this is no color")
            .expected("\"red\", \"#d62828\" or [r, g, b] in 0..1")
            .got(types::got(value))
    })?)
}

fn points(value: &Dynamic) -> Result<Vec<(f64, f64)>> {
    let bad =
        || Error::value("draw", "this is no list of points").expected("[[x, y], ...]").got(types::got(value));
    let list = Vec::<Vec<f64>>::read(value).map_err(|_| bad())?;
    list.iter().map(|p| if let [x, y] = p[..] { Ok((x, y)) } else { Err(bad()) }).collect()
}

fn shape(map: &Map) -> Result<Shape> {
    let number = |key: &str, default: f64| match map.get(key) {
        None => Ok(default),
        Some(v) => f64::read(v).map_err(|m| {
            Error::value("draw", format!("{key} of a shape")).expected(m.expected).got(types::got(v))
        }),
    };
    let known = ["polygon", "circle", "line", "width", "fill"];
    if let Some(key) = map.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(Error::value("draw", format!("a shape has no {key}")).expected(known.join(", ")));
    }
    let outline = match (map.get("polygon"), map.get("circle"), map.get("line")) {
        (Some(list), None, None) => Outline::Polygon(points(list)?),
        (None, None, Some(list)) => Outline::Line(points(list)?, number("width", 2.0)?),
        (None, Some(circle), None) => match Vec::<f64>::read(circle).unwrap_or_default()[..] {
            [x, y, radius] => Outline::Circle((x, y), radius),
            _ => {
                return Err(Error::value("draw", "this is no circle")
                    .expected("[x, y, radius]")
                    .got(types::got(circle)));
            }
        },
        _ => {
            return Err(Error::value("draw", "a shape is a polygon, a circle or a line")
                .expected("#{ polygon: [[x, y], ...], fill: \"red\" }, #{ circle: [x, y, radius] } or #{ line: [[x, y], ...], width: 2 }"));
        }
    };
    Ok(Shape { outline, fill: map.get("fill").map_or(Ok([0.0; 3]), color)? })
}

/// One value per place, `[1, 1, h, w]`, of a picture's mean color at another picture's size.
fn mask_for(mask: &Picture, like: &Picture) -> Result<Tensor> {
    Ok(mask.index(0)?.fit(like.width(), like.height())?.tensor().mean_keepdim(1)?)
}

fn same_size(op: &str, a: &Picture, b: &Picture) -> Result<()> {
    if (a.width(), a.height()) != (b.width(), b.height()) || (a.n() != b.n() && a.n() != 1 && b.n() != 1) {
        return Err(Error::shape(op, "the two pictures differ in size or number")
            .expected(format!("{} of {}x{}", a.n(), a.width(), a.height()))
            .got(format!("{} of {}x{}", b.n(), b.width(), b.height()))
            .hint("p.fit(width, height) makes them equal"));
    }
    Ok(())
}

fn blend(a: &Picture, b: &Picture, x: &Either<f64, Picture>) -> Result<Picture> {
    same_size("blend", a, b)?;
    let mask = match x {
        Either::Left(x) if x.is_finite() => Tensor::full(*x as f32, (1, 1, 1, 1), &Device::Cpu)?,
        Either::Left(x) => {
            return Err(Error::value("blend", "the share of b must be a finite number").got(x.to_string()));
        }
        Either::Right(mask) => mask_for(mask, a)?,
    };
    let rest = mask.affine(-1.0, 1.0)?;
    Picture::from_tensor(a.tensor().broadcast_mul(&rest)?.broadcast_add(&b.tensor().broadcast_mul(&mask)?)?)
}

/// Mean absolute difference of the values, in 0..1, where the mask is white. Errors: sizes that differ, a mask without white.
fn distance(a: &Picture, b: &Picture, o: &Opts) -> Result<f64> {
    same_size("distance", a, b)?;
    let d = a.tensor().broadcast_sub(b.tensor())?.abs()?.mean_keepdim(1)?;
    let scalar = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.mean_all()?.to_scalar::<f32>()?)) };
    match o.get::<Picture>("mask")? {
        None => scalar(&d),
        Some(mask) => {
            let mask = mask_for(&mask, a)?;
            let share = scalar(&mask)?;
            if share < 1e-6 {
                return Err(Error::value(
                    "distance",
                    "the mask is black everywhere: there is nothing to compare",
                )
                .expected("white where the pictures are compared")
                .hint("give a mask with white in it"));
            }
            Ok(scalar(&d.broadcast_mul(&mask)?)? / share)
        }
    }
}

fn blur(p: &Picture, sigma: f64) -> Result<Picture> {
    if !(0.0..=256.0).contains(&sigma) {
        return Err(Error::value("blur", "sigma is out of range")
            .expected("0..256 pixels")
            .got(sigma.to_string()));
    }
    if sigma == 0.0 {
        return Ok(p.clone());
    }
    if p.tensor().track_op() {
        return Err(no_gradient("blur"));
    }
    let blurred = p.to_rgbs()?.into_iter().map(|rgb| {
        let soft = ::image::imageops::blur(&rgb, sigma as f32);
        Ok(Picture::from_rgb(&soft, &Device::Cpu)?.tensor().clone())
    });
    Picture::from_tensor(Tensor::cat(&blurred.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Binds them.
pub fn register(r: &mut Registry) {
    let host = r.host();
    r.def(
        "draw(width, height, ground, shapes)",
        "A picture of plain shapes, in order, on a ground of one color: signs, masks, sketches. A shape is a map: \
         `#{ polygon: [[x, y], ...], fill }`, `#{ circle: [x, y, radius], fill }` or `#{ line: [[x, y], ...], width, fill }`, in \
         pixels from the upper left; a color is a name, \"#rrggbb\" or [r, g, b] in 0..1.",
    )
    .example("draw(64, 64, \"white\", [#{ polygon: [[32, 6], [60, 56], [4, 56]], fill: \"red\" }]) // => Image 64x64")
    .example("draw(64, 64, \"white\", [#{ square: 3 }]) // error: a shape has no square")
    .see(&["open", "blend"])
    .work()
    .bind(move |w: usize, h: usize, ground: Dynamic, shapes: Option<Vec<Map>>| {
        host.reserve("draw", (w as u64).saturating_mul(h as u64).saturating_mul(24))?;
        let shapes: Vec<Shape> = shapes.unwrap_or_default().iter().map(shape).collect::<Result<_>>()?;
        draw::draw(w, h, color(&ground)?, &shapes)
    });
    r.def("blend(a, b, x)", "`(1 - x) * a + x * b` of two pictures; `x` is a number, or a mask: white takes `b`.")
        .example("let dog = open(\"dog-flat.png\");\nlet ground = draw(64, 64, \"sky\");\nblend(ground, dog, draw(64, 64, \"black\", [#{ circle: [32, 32, 20], fill: \"white\" }])) // => Image 64x64")
        .see(&["draw", "distance"])
        .work()
        .bind(|a: Picture, b: Picture, x: Either<f64, Picture>| blend(&a, &b, &x));
    r.def(
        "distance(a, b)",
        "How far two pictures are apart: the mean absolute difference of their values, 0 (equal) to 1 (black and white).",
    )
    .option("mask", "Image", "counts only where it is white")
    .example("let dog = open(\"dog-flat.png\");\ndistance(dog, dog) // => 0.0")
    .example("distance(draw(8, 8, \"white\"), draw(8, 8, \"black\")) // => 1.0")
    .see(&["similarity", "blend"])
    .work()
    .bind(|a: Picture, b: Picture, o: Opts| distance(&a, &b, &o));
    r.def("p.blur(sigma)", "Blurred by a Gaussian of `sigma` pixels.")
        .example("open(\"dog-flat.png\").blur(2) // => Image 64x64")
        .see(&["resize"])
        .work()
        .bind(|p: Picture, sigma: f64| blur(&p, sigma));
}
