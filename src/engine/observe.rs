//! What the engine tells the outside while it works, and how the outside stops it.
//!
//! The engine never prints. Long calls send [`Event`]s to an [`Observer`] and look at a [`Cancel`] token.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;

use super::error::{Error, Result};

/// One thing that happened. Carries plain data only (no tensors), so that it may cross threads.
#[derive(Clone, Debug)]
pub enum Event {
    /// Sampling (or loading, training) finished step `done` of `total`; `label` names what runs ("sampling").
    Step {
        /// What is running.
        label: &'static str,
        /// Steps finished so far, 1..=total.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// The loss of a step of training.
    Loss {
        /// What is trained.
        label: &'static str,
        /// Steps finished so far.
        step: usize,
        /// The loss before the last of them.
        loss: f64,
    },
    /// How what is being made looks at the moment. Only sent while somebody looks (see [`Observer::looks`]).
    Preview {
        /// What it shows ("prediction", "heat of snow").
        title: String,
        /// The pictures of a batch, small.
        pictures: Arc<Vec<RgbImage>>,
    },
    /// A line of text that the script printed.
    Print(String),
    /// Something the user should know though nothing failed (a prompt that was cut).
    Warn(String),
    /// A picture to show, with its caption.
    Picture {
        /// The pixels.
        picture: Arc<RgbImage>,
        /// One line under the picture (empty: none).
        caption: String,
    },
    /// A file was written.
    Saved(PathBuf),
}

/// Receives events. Must not block for long.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// Whether a preview is wanted now: somebody looks, and the last one is old enough. A yes starts the clock anew.
    fn looks(&self) -> bool {
        false
    }
}

/// An observer that drops everything (library use, tests).
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event) {}
}

/// A flag that asks running work to stop at the next safe point. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Forgets an earlier request.
    pub fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error of kind `Cancelled` if a stop was asked for.
    pub fn check(&self, op: &str) -> Result<()> {
        if self.is_set() { Err(Error::cancelled(op)) } else { Ok(()) }
    }
}
