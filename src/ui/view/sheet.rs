//! The contact sheet: pictures side by side, each with what is known of it.

use std::sync::Arc;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Widget;

use super::parts::{self, DIM, Tile, Tiling, moved, put};
use super::{Act, Page};
use crate::script::view::Cell;
use crate::term::keys::Key;
use crate::ui::pixels::Pixels;

/// Pictures, and which is looked at.
pub struct SheetPage {
    cells: Vec<Cell>,
    truecolor: bool,
    at: usize,
    /// Whether it has the whole page.
    enlarged: bool,
    /// Tiles beside each other in the last frame.
    columns: usize,
    rows: usize,
}

impl SheetPage {
    /// At the first picture.
    pub fn new(cells: Vec<Cell>, truecolor: bool) -> Self {
        let enlarged = cells.len() == 1;
        SheetPage { cells, truecolor, at: 0, enlarged, columns: 1, rows: 1 }
    }

    fn go(&mut self, by: isize) {
        self.at = moved(self.at, by, self.cells.len());
    }
}

impl Page for SheetPage {
    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let Some(cell) = self.cells.get(self.at) else { return };
        let below = area.height - 2;
        let room = Rect { height: below, ..area };
        if self.enlarged {
            Pixels { picture: &cell.picture, truecolor: self.truecolor }.render(room, buffer);
        } else {
            let tiling = Tiling::new(room, self.cells.len());
            (self.columns, self.rows) = (tiling.columns, tiling.rows);
            let tiles: Vec<Tile> =
                self.cells.iter().map(|c| Tile { picture: Some(&c.picture), label: &c.label }).collect();
            parts::tiles(&tiles, Some(self.at), self.truecolor, room, buffer);
        }
        let (w, h) = cell.picture.dimensions();
        put(&parts::fit(&cell.label, usize::from(area.width)), Style::new(), (0, below), area, buffer);
        let text = format!("{} of {}   {w}x{h} pixels", self.at + 1, self.cells.len());
        put(&text, DIM, (0, below + 1), area, buffer);
    }

    fn key(&mut self, key: Key) -> Act {
        let columns = self.columns as isize;
        let rows = self.rows as isize;
        match key {
            Key::Left => self.go(-1),
            Key::Right => self.go(1),
            Key::Up if self.enlarged => self.go(-1),
            Key::Down if self.enlarged => self.go(1),
            Key::Up => self.go(-columns),
            Key::Down => self.go(columns),
            Key::PageUp => self.go(-columns * rows),
            Key::PageDown => self.go(columns * rows),
            Key::Home => self.at = 0,
            Key::End => self.go(isize::MAX),
            Key::Enter => self.enlarged = !self.enlarged,
            Key::Char('s') => {
                if let Some(cell) = self.cells.get(self.at) {
                    return Act::Save(Arc::clone(&cell.picture), file_name(&cell.label));
                }
            }
            Key::Escape if self.enlarged && self.cells.len() > 1 => self.enlarged = false,
            Key::Escape => return Act::Leave,
            _ => {}
        }
        Act::Stay
    }

    fn title(&self) -> String {
        match self.cells.len() {
            1 => "1 picture".into(),
            n => format!("{n} pictures"),
        }
    }

    fn keys(&self) -> &'static str {
        match self.enlarged {
            true => "←→ picture  Enter all of them  s save  q back",
            false => "←→↑↓ move  PgUp PgDn  Home End  Enter enlarge  s save  q leave",
        }
    }
}

/// A label as the name of a file: letters, digits and dashes.
fn file_name(label: &str) -> String {
    let mut name = String::new();
    for c in label.chars().take(60) {
        match c {
            c if c.is_ascii_alphanumeric() || c == '.' => name.push(c.to_ascii_lowercase()),
            _ if !name.ends_with('-') && !name.is_empty() => name.push('-'),
            _ => {}
        }
    }
    let name = name.trim_matches(['-', '.']).replace('.', "_");
    if name.is_empty() { "picture.png".into() } else { format!("{name}.png") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_become_file_names() {
        assert_eq!(file_name("nu 0.5  k_max 0.7"), "nu-0_5-k-max-0_7.png");
        assert_eq!(file_name("../../etc/passwd"), "etc-passwd.png");
        assert_eq!(file_name("猫"), "picture.png");
    }
}
