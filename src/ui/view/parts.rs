//! Pieces that pages have in common.

use image::RgbImage;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Widget;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::ui::pixels::Pixels;

/// Less important than the rest.
pub const DIM: Style = Style::new().add_modifier(Modifier::DIM);
/// What stands out.
pub const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
/// What is chosen: without colors, too.
pub const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
/// The last word about what was asked.
pub const NOTE: Style = Style::new().fg(Color::Yellow);

/// The line above.
pub fn bar(text: &str, area: Rect, buffer: &mut Buffer) {
    let width = usize::from(area.width);
    let text = fit(&format!(" {text}"), width);
    buffer.set_stringn(area.x, area.y, format!("{text:<width$}"), width, CHOSEN);
}

/// A text that is at most `width` columns wide.
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_string();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A text broken at spaces into lines of at most `width` columns.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fit(word, width)),
        }
    }
    lines
}

/// Writes a line of a page.
pub fn put(text: &str, style: Style, at: (u16, u16), area: Rect, buffer: &mut Buffer) {
    let (x, y) = (area.x + at.0, area.y + at.1);
    if y < area.bottom() && x < area.right() {
        buffer.set_stringn(x, y, text, usize::from(area.right() - x), style);
    }
}

/// A picture with a line under it.
pub struct Tile<'a> {
    /// The picture, if there is one.
    pub picture: Option<&'a RgbImage>,
    /// The line.
    pub label: &'a str,
}

/// Least columns of a tile.
const TILE: u16 = 18;

/// How tiles stand in an area: columns, rows that are seen, and the size of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Tiles beside each other.
    pub columns: usize,
    /// Rows of tiles that are seen at once.
    pub rows: usize,
    /// Columns and rows of one, its line included.
    pub size: (u16, u16),
}

impl Tiling {
    /// As many as can be told apart, and no smaller than needed for `count` of them.
    pub fn new(area: Rect, count: usize) -> Self {
        let count = count.max(1);
        let most = usize::from((area.width / TILE).max(1));
        // The fewest columns with which all are seen, or as many as fit.
        let columns = (1..=most)
            .find(|&columns| {
                let width = area.width / columns as u16;
                count.div_ceil(columns) <= usize::from(area.height / (width / 2 + 1).max(3)).max(1)
            })
            .unwrap_or(most)
            .min(count);
        let width = area.width / columns as u16;
        let whole = (width / 2 + 1).clamp(3, area.height.max(3));
        // Two rows, if a second one has anything to show: small, but beside each other.
        let height = if count > columns && area.height >= 16 { whole.min(area.height / 2) } else { whole };
        Tiling { columns, rows: usize::from(area.height / height).max(1), size: (width, height) }
    }

    /// The first row to be seen so that `chosen` is among those.
    pub fn first(&self, chosen: usize, count: usize) -> usize {
        let last = count.div_ceil(self.columns).saturating_sub(self.rows);
        (chosen / self.columns).saturating_sub(self.rows / 2).min(last)
    }
}

/// Draws tiles, scrolled so that the chosen one is seen.
pub fn tiles(tiles: &[Tile], chosen: Option<usize>, truecolor: bool, area: Rect, buffer: &mut Buffer) {
    let tiling = Tiling::new(area, tiles.len());
    let first = tiling.first(chosen.unwrap_or(0), tiles.len()) * tiling.columns;
    let seen = tiles.iter().enumerate().skip(first).take(tiling.rows * tiling.columns);
    for (place, (i, tile)) in seen.enumerate() {
        let (w, h) = tiling.size;
        let x = area.x + (place % tiling.columns) as u16 * w;
        let y = area.y + (place / tiling.columns) as u16 * h;
        let room = Rect::new(x, y, w - 1, h - 1).intersection(area);
        if let Some(picture) = tile.picture {
            Pixels { picture, truecolor }.render(room, buffer);
        }
        let style = if chosen == Some(i) { CHOSEN } else { Style::new() };
        if y + h - 1 < area.bottom() {
            buffer.set_string(x, y + h - 1, fit(tile.label, usize::from(w - 1)), style);
        }
    }
}

/// A choice of `0..count` after a key of the arrows' kind: along a line, or by rows of `columns`.
pub fn moved(at: usize, by: isize, count: usize) -> usize {
    at.saturating_add_signed(by).min(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_their_room() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("猫猫猫", 4), "猫…");
        assert_eq!(wrap("a dog in the snow", 8), ["a dog in", "the snow"]);
    }

    #[test]
    fn the_chosen_tile_is_always_seen() {
        let area = Rect::new(0, 0, 80, 21);
        for count in 1..200 {
            let tiling = Tiling::new(area, count);
            for chosen in 0..count {
                let first = tiling.first(chosen, count);
                let row = chosen / tiling.columns;
                assert!((first..first + tiling.rows).contains(&row), "{count} {chosen} {tiling:?}");
            }
        }
        assert_eq!(Tiling::new(area, 1).columns, 1);
        assert_eq!(Tiling::new(area, 100).columns, 4);
    }
}
