//! Previews: what bindings show of a latent while it is being made, if somebody looks.

use std::sync::Arc;

use super::host::Host;
use crate::engine::error::Result;
use crate::engine::image::Picture;
use crate::engine::latent::Latent;
use crate::engine::observe::Event;
use crate::engine::preview::Preview;
use crate::report::plain;

/// Pictures of a batch that a preview shows.
const MOST: usize = 4;

impl Host {
    /// Shows a latent as the model's preview has it. `make` is only asked if a preview is wanted now. What goes wrong is no
    /// news: a preview is not the work.
    pub fn preview(&self, title: &str, make: impl FnOnce() -> Result<Latent>) {
        let Some((model, _)) = self.models.last() else { return };
        let Some(preview) = model.defaults().and_then(|d| d.preview.as_ref()) else { return };
        self.send_preview(title, || preview.pictures(&make()?, MOST));
    }

    /// Shows a picture that is small already.
    pub fn preview_picture(&self, title: &str, make: impl FnOnce() -> Result<Picture>) {
        self.send_preview(title, || make()?.to_rgbs());
    }

    fn send_preview(&self, title: &str, make: impl FnOnce() -> Result<Vec<image::RgbImage>>) {
        if self.is_tracking() || !self.observer().looks() {
            return;
        }
        if let Ok(pictures) = make() {
            let title = plain(title).replace('\n', " ");
            self.emit(Event::Preview { title, pictures: Arc::new(pictures) });
        }
    }

    /// The preview of the model that was loaded last, if it has one.
    pub fn last_preview(&self) -> Option<Preview> {
        self.models.last()?.0.defaults()?.preview.clone()
    }
}
