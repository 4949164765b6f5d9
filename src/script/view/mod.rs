//! What `:view` shows of a value: plain data that may cross threads. The pages that show it are the front end's.

mod attention;
mod build;
mod model;
mod runs;

use std::sync::Arc;

use image::RgbImage;

/// What there is to see in one value, or in two that belong together.
#[derive(Clone, Debug)]
pub enum View {
    /// One sampling run, or two beside each other.
    Runs(Runs),
    /// Pictures, each with what is known of it.
    Sheet(Vec<Cell>),
    /// Where the words of a prompt were looked at.
    Attention(Maps),
    /// Numbers over steps.
    Curves(Vec<Curve>),
    /// A model from inside.
    Model(Inside),
}

/// Runs to be looked through, level by level.
#[derive(Clone, Debug)]
pub struct Runs {
    /// One, or two.
    pub runs: Vec<Run>,
    /// How far two runs are apart at the levels that they have in common, by level.
    pub gaps: Vec<Gap>,
    /// Why two runs cannot be compared level by level, if so.
    pub apart: Option<String>,
}

/// One sampling run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The variable.
    pub name: String,
    /// Prompt, sampler, number of levels, in a line.
    pub about: String,
    /// Pictures that it makes together; the first is shown.
    pub pictures: usize,
    /// What was reached, the noisiest level first.
    pub levels: Vec<Level>,
}

/// One level of a run.
#[derive(Clone, Debug)]
pub struct Level {
    /// Its number in the schedule.
    pub i: usize,
    /// The training timestep of the prediction made there; `None` at the end.
    pub t: Option<f64>,
    /// The share of noise, `sqrt(1 - alpha_bar)`.
    pub noise: f64,
    /// Root mean square of the latent.
    pub z: f64,
    /// Of the clean latent that was predicted there; `None` where the level was not left.
    pub x0: Option<f64>,
    /// Of the noise that was predicted there.
    pub eps: Option<f64>,
    /// The prompt that steered the step from here.
    pub prompt: Option<String>,
    /// Whether the latent was exchanged here.
    pub edited: bool,
    /// The clean latent (at the end: the latent) as the model's preview has it, if it has one.
    pub preview: Option<Arc<RgbImage>>,
}

/// How far two runs are apart at a level.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// The level.
    pub i: usize,
    /// Distance of the latents.
    pub z: f64,
    /// Distance of the predicted clean latents, where both have one.
    pub x0: Option<f64>,
}

/// A picture of a sheet.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What is known of it.
    pub label: String,
    /// Its pixels.
    pub picture: Arc<RgbImage>,
}

/// Maps of attention, word by layer by step.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The prompt.
    pub prompt: String,
    /// Its words, as the tokenizer cuts them.
    pub words: Vec<String>,
    /// Sites, in the order of the network.
    pub layers: Vec<String>,
    /// Calls of the network; of a sampling run its steps.
    pub steps: usize,
    /// What was seen, by layer, then by step. A call that was not kept has no entry.
    pub maps: Vec<Vec<Option<Map>>>,
}

/// Where the words were looked at in one layer at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Height and width.
    pub side: (usize, usize),
    /// Per word the shares of attention, row by row.
    pub words: Vec<Vec<f32>>,
}

/// Numbers over steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What they are.
    pub name: String,
    /// One per step.
    pub values: Vec<f64>,
}

/// A model from inside.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// The variable.
    pub name: String,
    /// What is known of the whole: name and value.
    pub facts: Vec<(String, String)>,
    /// Sites that hooks can reach.
    pub sites: Vec<SiteRow>,
    /// Weights of the UNet and the text encoder.
    pub weights: Vec<WeightRow>,
}

/// A site of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// Its module path.
    pub path: String,
    /// cross-attention, self-attention or activation.
    pub kind: &'static str,
    /// CompVis numbering, or empty.
    pub alias: String,
    /// What stands there for a picture of the model's own size.
    pub shape: String,
    /// Weights of the module.
    pub weights: usize,
    /// What reaches it from a script.
    pub hooks: &'static str,
}

/// A weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightRow {
    /// Its full name.
    pub name: String,
    /// Its shape.
    pub shape: String,
    /// Number of values.
    pub count: usize,
    /// tuned, LoRA, or empty.
    pub note: &'static str,
}
