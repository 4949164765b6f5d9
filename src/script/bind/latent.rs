//! Latents: arithmetic and statistics.

use crate::engine::error::Result;
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::script::args::Either;
use crate::script::registry::Registry;
use crate::script::types::{self, Handle};

impl Handle for Latent {
    const NAME: &'static str = "Latent";

    fn detail(&self) -> String {
        let statistics = match (self.mean(), self.std()) {
            (Ok(mean), Ok(std)) => format!("  mean {}  std {}", types::number(mean), types::number(std)),
            _ => String::new(),
        };
        format!("{}{statistics}", self.shape_text())
    }

    fn bytes(&self) -> usize {
        Latent::bytes(self)
    }
}

fn blend(a: &Latent, b: &Latent, x: &Either<f64, Picture>) -> Result<Latent> {
    match x {
        Either::Left(x) => Latent::blend(a, b, *x),
        Either::Right(mask) => {
            let (_, _, h, w) = b.dims();
            // The mean of the colors, at the latent's size.
            let mask = mask.fit(w, h)?.tensor().mean_keepdim(1)?;
            Latent::blend_mask(a, b, &mask.to_device(b.tensor().device())?.to_dtype(b.tensor().dtype())?)
        }
    }
}

const SETUP: &str = "let m = load(\"emoji\");\nlet a = m.noise(0);\nlet b = m.noise(1);\n";

/// Binds them.
pub fn register(r: &mut Registry) {
    let example = |code: &str| format!("{SETUP}{code}");
    r.group(
        "Latents",
        "What a diffusion model works on: latents, noise and predictions, `[n, channels, height, width]`.",
    );
    r.def(
        "blend(a, b, x)",
        "`(1 - x) * a + x * b`, computed as two products, so that x = 0 gives `a` and x = 1 gives `b` exactly. `x` is a number, \
         or a picture as a mask: white takes `b`, black takes `a`. One latent and n latents give n.",
    )
    .example(&example("distance(blend(a, b, 1), b) // => 0.0"))
    .example(&example("distance(blend(a, b, 0.25), a * 0.75 + b * 0.25) < 0.0001 // => true"))
    .see(&["Latent"])
    .example(&example("let half = open(\"dog-flat.png\");\nblend(a, b, half).shape // => [1, 4, 16, 16]"))
    .bind(|a: Latent, b: Latent, x: Either<f64, Picture>| blend(&a, &b, &x));
    r.def(
        "slerp(a, b, x)",
        "From `a` to `b` on the arc between them, picture by picture: noises stay as large as noise is, where `blend` makes \
         them smaller in the middle.",
    )
    .example(&example("let mid = slerp(a, b, 0.5);\nmid.std > 0.9 && blend(a, b, 0.5).std < 0.8 // => true"))
    .see(&["blend"])
    .bind(|a: Latent, b: Latent, x: f64| Latent::slerp(&a, &b, x));
    r.op("+", "The sum of two latents of one shape.")
        .example(&example("(a + b).shape // => [1, 4, 16, 16]"))
        .bind(|a: Latent, b: Latent| a.add(&b));
    r.op("-", "The difference of two latents of one shape.")
        .example(&example("(a - a).std // => 0.0"))
        .bind(|a: Latent, b: Latent| a.sub(&b));
    r.op("*", "Every value times a number.")
        .example(&example("distance(a * 2, a + a) // => 0.0"))
        .bind(|a: Latent, x: f64| a.scale(x));
    r.op("*", "Every value times a number.")
        .example(&example("distance(2 * a, a + a) // => 0.0"))
        .bind(|x: f64, a: Latent| a.scale(x));
    r.op("/", "Every value divided by a number.")
        .example(&example("distance(a / 2, a * 0.5) // => 0.0"))
        .bind(|a: Latent, x: f64| a.scale(1.0 / x));
    r.prop("z.shape", "The sizes: pictures, channels, height, width.")
        .example(&example("a.shape // => [1, 4, 16, 16]"))
        .bind(|z: Latent| {
            let (n, c, h, w) = z.dims();
            vec![n, c, h, w]
        });
    r.prop("z.mean", "The mean of all values.")
        .example(&example("(a - a).mean // => 0.0"))
        .see(&["std"])
        .bind(|z: Latent| z.mean());
    r.prop("z.std", "The standard deviation of all values.")
        .example(&example("a.std > 0.9 && a.std < 1.1 // => true"))
        .see(&["mean"])
        .bind(|z: Latent| z.std());
    r.prop(
        "z.output",
        "Of a prediction what the network itself said: noise, or v of a network that was trained to predict v. `m.target` is what it \
         should have said. Arithmetic on a prediction loses it: then it is the latent itself.",
    )
    .example(
        "let m = load(\"emoji\");\nlet s = m.schedule(20);\nlet x0 = m.encode(open(\"dog-flat.png\"));\nlet e = m.noise(1);\n\
         mse(m.predict(s.add_noise(x0, e, 5), s.t(5), m.encode(\"a dog\")).output, m.target(x0, e, s.t(5))).mean < 1.0 // => true",
    )
    .see(&["target", "predict"])
    .bind(|z: Latent| z.output());
    r.def("distance(a, b)", "The Euclidean distance between two latents of one shape; 0 if they are equal.")
        .example(&example("distance(a, a) // => 0.0"))
        .bind(|a: Latent, b: Latent| a.distance(&b));
    r.def("z.pick(i)", "Picture `i` of the batch as a batch of one, counted from 0.")
        .example("load(\"emoji\").noise(7, #{ n: 3 }).pick(2).shape // => [1, 4, 16, 16]")
        .see(&["noise"])
        .bind(|z: Latent, i: usize| z.index(i));
}
