//! Attention as heat: words, layers or steps beside each other, the other two held fixed.

use image::RgbImage;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::parts::{self, DIM, Tile, put};
use super::{Act, Page};
use crate::script::view::{Map, Maps};
use crate::term::keys::Key;
use crate::ui::pixels::heat_map;

/// What stands beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Across {
    Words,
    Layers,
    Steps,
}

/// Height and width, and shares row by row.
type Heat = ((usize, usize), Vec<f32>);

/// Maps, and which are looked at.
pub struct AttentionPage {
    maps: Maps,
    truecolor: bool,
    across: Across,
    word: usize,
    /// `None`: the mean over all.
    layer: Option<usize>,
    step: Option<usize>,
    /// Whether all maps of a page have one scale.
    common: bool,
}

impl AttentionPage {
    /// All words, the mean over layers and steps.
    pub fn new(maps: Maps, truecolor: bool) -> Self {
        AttentionPage {
            maps,
            truecolor,
            across: Across::Words,
            word: 0,
            layer: None,
            step: None,
            common: false,
        }
    }

    /// The map of a word, the mean over the layers and steps that were kept; `None` if there are none.
    fn map(&self, word: usize, layer: Option<usize>, step: Option<usize>) -> Option<Heat> {
        let at = |wanted: Option<usize>, n: usize| wanted.is_none_or(|w| w == n);
        let layers = self.maps.maps.iter().enumerate().filter(|(l, _)| at(layer, *l));
        let steps = layers.flat_map(|(_, of)| of.iter().enumerate().filter(|(s, _)| at(step, *s)));
        let kept: Vec<&Map> = steps.filter_map(|(_, m)| m.as_ref()).collect();
        let side = kept.iter().map(|m| m.side).max()?;
        let mut sum = vec![0f32; side.0 * side.1];
        for map in &kept {
            let Some(values) = map.words.get(word) else { continue };
            for y in 0..side.0 {
                for x in 0..side.1 {
                    let at = (y * map.side.0 / side.0) * map.side.1 + x * map.side.1 / side.1;
                    sum[y * side.1 + x] += values.get(at).copied().unwrap_or(0.0) / kept.len() as f32;
                }
            }
        }
        Some((side, sum))
    }

    /// How many stand beside each other, and which one is chosen.
    fn count(&self) -> (usize, usize) {
        match self.across {
            Across::Words => (self.maps.words.len(), self.word),
            Across::Layers => (self.maps.layers.len(), self.layer.unwrap_or(0)),
            Across::Steps => (self.maps.steps, self.step.unwrap_or(0)),
        }
    }

    fn nth(&self, n: usize) -> (String, Option<Heat>) {
        let text = |list: &[String]| list.get(n).cloned().unwrap_or_default();
        match self.across {
            Across::Words => (text(&self.maps.words), self.map(n, self.layer, self.step)),
            Across::Layers => (short(&text(&self.maps.layers)), self.map(self.word, Some(n), self.step)),
            Across::Steps => (format!("step {n}"), self.map(self.word, self.layer, Some(n))),
        }
    }
}

/// A module path without what all of them have.
fn short(path: &str) -> String {
    path.replace("_blocks", "").replace(".attentions", "").replace(".transformer", "").replace(".attn2", "")
}

/// The next choice: the mean, then one after the other.
fn next(at: Option<usize>, by: isize, count: usize) -> Option<usize> {
    let at = at.map_or(0, |i| i + 1);
    parts::moved(at, by, count + 1).checked_sub(1)
}

impl Page for AttentionPage {
    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let (count, chosen) = self.count();
        let all: Vec<_> = (0..count).map(|n| self.nth(n)).collect();
        let most = |values: &[f32]| values.iter().copied().fold(0f32, f32::max);
        let common = all.iter().flat_map(|(_, m)| m.iter().map(|m| most(&m.1))).fold(0f32, f32::max);
        let pictures: Vec<Option<RgbImage>> = all
            .iter()
            .map(|(_, map)| {
                let (side, values) = map.as_ref()?;
                Some(heat_map(values, *side, if self.common { common } else { most(values) }))
            })
            .collect();
        let labels: Vec<String> = all
            .iter()
            .map(|(name, map)| match map {
                Some((_, values)) => format!("{name}  {:.3}", most(values)),
                None => format!("{name}  not kept"),
            })
            .collect();
        let tiles: Vec<Tile> = pictures
            .iter()
            .zip(&labels)
            .map(|(picture, label)| Tile { picture: picture.as_ref(), label })
            .collect();
        let below = area.height - 2;
        parts::tiles(&tiles, Some(chosen), self.truecolor, Rect { height: below, ..area }, buffer);
        let layer = self.layer.map_or("the mean of all layers".to_string(), |l| {
            self.maps.layers.get(l).cloned().unwrap_or_default()
        });
        let step =
            self.step.map_or(format!("the mean of {} steps", self.maps.steps), |s| format!("step {s}"));
        let word = self.maps.words.get(self.word).cloned().unwrap_or_default();
        let fixed = match self.across {
            Across::Words => format!("words; {layer}; {step}"),
            Across::Layers => format!("layers; \"{word}\"; {step}"),
            Across::Steps => format!("steps; \"{word}\"; {layer}"),
        };
        put(&parts::fit(&fixed, usize::from(area.width)), Style::new(), (0, below), area, buffer);
        let scale =
            if self.common { "one scale for all" } else { "each by its own maximum, the number below it" };
        put(scale, DIM, (0, below + 1), area, buffer);
    }

    fn key(&mut self, key: Key) -> Act {
        let (layers, steps, words) = (self.maps.layers.len(), self.maps.steps, self.maps.words.len());
        match key {
            Key::Left => self.step = next(self.step, -1, steps),
            Key::Right => self.step = next(self.step, 1, steps),
            Key::Home => self.step = None,
            Key::End => self.step = steps.checked_sub(1),
            Key::Up => self.layer = next(self.layer, -1, layers),
            Key::Down => self.layer = next(self.layer, 1, layers),
            Key::Tab => self.word = (self.word + 1) % words.max(1),
            Key::Char('w') => self.across = Across::Words,
            Key::Char('l') => self.across = Across::Layers,
            Key::Char('t') => self.across = Across::Steps,
            Key::Char('n') => self.common = !self.common,
            Key::Escape => return Act::Leave,
            _ => {}
        }
        Act::Stay
    }

    fn title(&self) -> String {
        format!(
            "attention of {:?}: {} layers, {} steps",
            self.maps.prompt,
            self.maps.layers.len(),
            self.maps.steps
        )
    }

    fn keys(&self) -> &'static str {
        "w l t words, layers, steps  ←→ step  ↑↓ layer  Tab word  n scale  q leave"
    }
}
