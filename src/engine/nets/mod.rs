//! The networks, by the configuration files and weight names of diffusers and transformers.
//!
//! Each one takes [`hooks::Hooks`] and runs on [`crate::engine::ops`] only, so that every path has a gradient.

pub mod attention_edit;
pub mod clip;
pub mod clip_text;
pub mod clip_vision;
pub mod depth;
pub mod dino;
pub mod hed;
pub mod hooks;
pub mod layers;
pub mod mlp;
pub mod pidinet;
pub mod sam;
pub mod unet;
pub mod vae;
pub mod vgg;
