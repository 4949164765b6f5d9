//! What networks see in pictures, with gradients: features for perceptual losses and for directions in CLIP's space.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::tensor::Tensor;
use crate::engine::device;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::image::Picture;
use crate::engine::nets::vgg::{Lpips, Vgg16};
use crate::engine::weights::Weights;
use crate::engine::weights::model::Model;
use crate::engine::weights::read::TensorFile;
use crate::script::args::{Either, Opts};
use crate::script::host::Host;
use crate::script::registry::Registry;
use crate::script::types::Handle;

/// Whose features.
#[derive(Clone, Debug)]
pub enum Perceptual {
    /// Those of a model's own autoencoder.
    Encoder(Model),
    /// VGG16's, from the user's weights.
    Vgg(Arc<Vgg16>),
    /// The same, with what LPIPS weighs them by.
    Lpips(Arc<Lpips>),
}

impl Handle for Perceptual {
    const NAME: &'static str = "Perceptual";

    fn detail(&self) -> String {
        match self {
            Perceptual::Encoder(m) => format!("the encoder of {}", m.name()),
            Perceptual::Vgg(_) => "VGG16".into(),
            Perceptual::Lpips(_) => "VGG16 with LPIPS".into(),
        }
    }

    fn bytes(&self) -> usize {
        // A model is told by itself.
        self.vgg().map_or(0, Vgg16::bytes)
    }
}

impl Perceptual {
    /// The VGG16, where it is one.
    pub fn vgg(&self) -> Option<&Vgg16> {
        match self {
            Perceptual::Encoder(_) => None,
            Perceptual::Vgg(net) => Some(net),
            Perceptual::Lpips(net) => Some(net.vgg()),
        }
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        match self {
            Perceptual::Encoder(m) => m.device(),
            Perceptual::Vgg(net) => net.device(),
            Perceptual::Lpips(net) => net.vgg().device(),
        }
    }
}

/// Bytes of a file of weights, at most: VGG16 with its classifier has 554 MB.
const MOST: u64 = 4 << 30;

/// How a file of torchvision's weights is made.
const VGG: (&str, &str) = (
    "torchvision's VGG16 as .safetensors",
    "in Python: safetensors.torch.save_file(torchvision.models.vgg16(weights=\"DEFAULT\").state_dict(), \"vgg16.safetensors\")",
);
/// And one of LPIPS's.
const LIN: (&str, &str) = (
    "the linear weights of LPIPS for VGG as .safetensors",
    "in Python: safetensors.torch.save_file(torch.load(\"lpips/weights/v0.1/vgg.pth\"), \"lpips-vgg.safetensors\")",
);

fn weights(host: &Host, name: &str, (what, how): (&str, &str)) -> Result<Weights> {
    let path = Path::new(name);
    let real = host.policy.borrow().readable("perceptual", path)?;
    if path.is_dir() || !name.to_lowercase().ends_with(".safetensors") {
        return Err(Error::new(Kind::File, "perceptual", format!("{name}: this is no file of weights"))
            .expected(what)
            .hint(how));
    }
    let size = std::fs::metadata(&real).map_err(|e| Error::file("perceptual", path, e))?.len();
    if size > MOST {
        return Err(Error::file("perceptual", path, format!("the file has {size} bytes")));
    }
    let (device, _) = device::open(&host.settings().device)?;
    host.reserve_on("perceptual", size.saturating_mul(2), &device)?;
    Weights::load(&[TensorFile::open(&real)?], DType::F32, &device)
}

fn vgg(host: &Host, name: &str, lin: Option<String>) -> Result<Perceptual> {
    let net = Vgg16::new(&weights(host, name, VGG)?.scope())?;
    Ok(match lin {
        None => Perceptual::Vgg(Arc::new(net)),
        Some(lin) => Perceptual::Lpips(Arc::new(Lpips::new(net, &weights(host, &lin, LIN)?.scope())?)),
    })
}

fn features(p: &Perceptual, picture: &Picture) -> Result<Vec<Tensor>> {
    let all = match p {
        Perceptual::Encoder(m) => m.encoder_levels(picture)?,
        Perceptual::Vgg(net) => net.forward(&picture.tensor().to_dtype(DType::F32)?)?,
        Perceptual::Lpips(net) => net.vgg().forward(&picture.tensor().to_dtype(DType::F32)?)?,
    };
    Ok(all.into_iter().map(Tensor).collect())
}

fn lpips(p: &Perceptual, a: &Picture, b: &Picture) -> Result<Tensor> {
    let Perceptual::Lpips(net) = p else {
        return Err(Error::value("lpips", "this network has no weights of LPIPS")
            .expected("perceptual(\"vgg16.safetensors\", #{ lpips: \"lpips-vgg.safetensors\" })"));
    };
    let colors = |p: &Picture| p.tensor().to_dtype(DType::F32);
    Ok(Tensor(net.distance(&colors(a)?, &colors(b)?)?.mean_all()?))
}

/// Binds them.
pub fn register(r: &mut Registry) {
    r.group("Features", "What networks see in pictures, with gradients: for losses.");
    let host = r.host();
    r.def(
        "perceptual(what)",
        "A network whose activations tell how alike pictures look: the encoder of a model's own autoencoder, or VGG16 from a \
         file of your own (.safetensors in torchvision's names).",
    )
    .option("lpips", "string", "with VGG16: a file of the weights of LPIPS (lin0.model.1.weight to lin4.model.1.weight), for `lpips`")
    .example("perceptual(load(\"emoji\")) // => Perceptual the encoder of emoji")
    .example("perceptual(\"vgg16.safetensors\") // error: vgg16.safetensors")
    .see(&["features", "lpips", "clip"])
    .work()
    .bind(move |what: Either<Model, String>, o: Opts| {
        let lin = o.get::<String>("lpips")?;
        match what {
            Either::Left(_) if lin.is_some() => Err(Error::value("perceptual", "LPIPS is made on VGG16")
                .expected("perceptual(\"vgg16.safetensors\", #{ lpips: \"lpips-vgg.safetensors\" })")),
            Either::Left(m) => Ok(Perceptual::Encoder(m)),
            Either::Right(name) => vgg(&host, &name, lin),
        }
    });
    r.def(
        "p.features(picture)",
        "The activations, finest first, as Tensors [n, channels, height, width], with a gradient: of a model's encoder after each \
         of its levels; of VGG16 after relu1_2, relu2_2, relu3_3 and relu4_3, pictures scaled to 224 pixels.",
    )
    .example("perceptual(load(\"emoji\")).features(open(\"dog-flat.png\")).len() // => 3")
    .see(&["perceptual"])
    .work()
    .bind(|p: Perceptual, picture: Picture| features(&p, &picture));
    r.def(
        "p.lpips(a, b)",
        "How different two pictures look to people (LPIPS; Zhang and others 2018, arXiv 1801.03924): the weighed differences of five \
         activations of VGG16, as a Tensor of one value with gradients to both; 0 for the same picture, the mean over several. The \
         two have one size, which is not changed.",
    )
    .example("perceptual(load(\"emoji\")).lpips(open(\"dog-flat.png\"), open(\"cat-flat.png\")) // error: no weights of LPIPS")
    .see(&["perceptual", "mse", "distance"])
    .work()
    .bind(|p: Perceptual, a: Picture, b: Picture| lpips(&p, &a, &b));
    r.def(
        "m.clip(what)",
        "The features of a picture or a text in the joint space of the CLIP beside the model, [n, d], not scaled to unit length, \
         with a gradient: differences of them are directions.",
    )
    .example("load(\"emoji\").clip(\"a dog\").shape // => [1, 128]")
    .example(
        "let m = load(\"emoji\");\nlet z = m.encode(open(\"dog-flat.png\"));\n\
         grad(z, |z| sum(m.clip(m.decode(z)) * m.clip(\"a cat\"))).grad.shape // => [1, 4, 16, 16]",
    )
    .see(&["similarity", "perceptual"])
    .work()
    .bind(|m: Model, what: Either<String, Picture>| {
        let features = match &what {
            Either::Left(words) => m.text_projection(words)?,
            Either::Right(picture) => m.picture_projection(picture)?,
        };
        Ok::<_, Error>(Tensor(features.to_dtype(DType::F32)?))
    });
}
