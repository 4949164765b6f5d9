//! The model inspector: sites that hooks can reach, and weights; scroll and search.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::parts::{self, BOLD, CHOSEN, DIM, moved, put};
use super::{Act, Page};
use crate::script::view::Inside;
use crate::term::keys::Key;

/// Which list is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tab {
    Sites,
    Weights,
    Facts,
}

/// A model, and where it is looked at.
pub struct ModelPage {
    inside: Inside,
    tab: Tab,
    at: usize,
    /// What lines must hold.
    search: String,
    typing: bool,
    /// Lines of the list in the last frame.
    rows: usize,
}

impl ModelPage {
    /// At the first site.
    pub fn new(inside: Inside) -> Self {
        ModelPage { inside, tab: Tab::Sites, at: 0, search: String::new(), typing: false, rows: 10 }
    }

    /// The lines of this list that hold what is searched: the columns, and more about the line.
    fn lines(&self) -> Vec<([String; 4], String)> {
        let wanted = self.search.to_lowercase();
        let of: Vec<([String; 4], String)> = match self.tab {
            Tab::Sites => {
                let row = |s: &crate::script::view::SiteRow| {
                    let columns = [s.path.clone(), s.kind.to_string(), s.shape.clone(), s.alias.clone()];
                    (columns, format!("{} weights   hooks: {}", thousands(s.weights), s.hooks))
                };
                self.inside.sites.iter().map(row).collect()
            }
            Tab::Weights => {
                let row = |w: &crate::script::view::WeightRow| {
                    let columns = [w.name.clone(), w.shape.clone(), thousands(w.count), w.note.to_string()];
                    (columns, format!("m.tune(#{{ what: {:?} }}, |m, i| ...) trains it", w.name))
                };
                self.inside.weights.iter().map(row).collect()
            }
            Tab::Facts => {
                let row = |(name, value): &(String, String)| {
                    ([name.clone(), value.clone(), String::new(), String::new()], String::new())
                };
                self.inside.facts.iter().map(row).collect()
            }
        };
        of.into_iter().filter(|(c, _)| c.iter().any(|c| c.to_lowercase().contains(&wanted))).collect()
    }

    fn type_key(&mut self, key: Key) {
        match key {
            Key::Char(c) if self.search.chars().count() < 60 => self.search.push(c),
            Key::Backspace => _ = self.search.pop(),
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.search.clear();
            }
            _ => {}
        }
        self.at = 0;
    }
}

/// `1 234 567`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

impl Page for ModelPage {
    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let lines = self.lines();
        self.at = moved(self.at, 0, lines.len());
        let width = usize::from(area.width);
        let mut x = 0;
        for (tab, name) in [
            (Tab::Sites, format!(" {} sites ", self.inside.sites.len())),
            (Tab::Weights, format!(" {} weights ", self.inside.weights.len())),
            (Tab::Facts, " facts ".to_string()),
        ] {
            put(&name, if tab == self.tab { CHOSEN } else { DIM }, (x, 0), area, buffer);
            x += name.chars().count() as u16 + 1;
        }
        if self.typing || !self.search.is_empty() {
            let end = if self.typing { "_" } else { "" };
            put(&format!("/{}{end}   {} found", self.search, lines.len()), BOLD, (x + 1, 0), area, buffer);
        }
        let rows = usize::from(area.height - 3);
        self.rows = rows;
        let first = self.at.saturating_sub(rows / 2).min(lines.len().saturating_sub(rows));
        let seen: Vec<_> = lines.iter().enumerate().skip(first).take(rows).collect();
        // Columns are as wide as what is seen of them; the first gives way.
        let wide = |c: usize| seen.iter().map(|(_, (l, _))| l[c].chars().count()).max().unwrap_or(0);
        let others = wide(1) + wide(2) + wide(3) + 6;
        let name = wide(0).min(width.saturating_sub(others)).max(12);
        for (row, (i, (columns, _))) in seen.iter().enumerate() {
            let text = format!(
                "{:<name$}  {:<w1$}  {:<w2$}  {}",
                middle(&columns[0], name),
                columns[1],
                columns[2],
                columns[3],
                w1 = wide(1),
                w2 = wide(2),
            );
            let style = if *i == self.at { CHOSEN } else { Style::new() };
            put(&parts::fit(text.trim_end(), width), style, (0, row as u16 + 1), area, buffer);
        }
        if let Some((columns, more)) = lines.get(self.at) {
            let y = area.height - 2;
            put(&parts::fit(&columns[0], width), BOLD, (0, y), area, buffer);
            put(&parts::fit(more, width), DIM, (0, y + 1), area, buffer);
        } else {
            put("nothing holds that", DIM, (0, 2), area, buffer);
        }
    }

    fn key(&mut self, key: Key) -> Act {
        if self.typing {
            self.type_key(key);
            return Act::Stay;
        }
        let count = self.lines().len();
        let page = self.rows.max(1) as isize;
        match key {
            Key::Up => self.at = moved(self.at, -1, count),
            Key::Down => self.at = moved(self.at, 1, count),
            Key::PageUp => self.at = moved(self.at, -page, count),
            Key::PageDown => self.at = moved(self.at, page, count),
            Key::Home => self.at = 0,
            Key::End => self.at = count.saturating_sub(1),
            Key::Tab | Key::Right => {
                self.tab = match self.tab {
                    Tab::Sites => Tab::Weights,
                    Tab::Weights => Tab::Facts,
                    Tab::Facts => Tab::Sites,
                };
                self.at = 0;
            }
            Key::Left => {
                self.tab = match self.tab {
                    Tab::Sites => Tab::Facts,
                    Tab::Weights => Tab::Sites,
                    Tab::Facts => Tab::Weights,
                };
                self.at = 0;
            }
            Key::Char('/') => {
                self.typing = true;
                self.search.clear();
            }
            Key::Escape if !self.search.is_empty() => self.search.clear(),
            Key::Escape => return Act::Leave,
            _ => {}
        }
        Act::Stay
    }

    fn title(&self) -> String {
        let size = self.inside.facts.iter().find(|(n, _)| n == "weights").map_or("", |(_, v)| v.as_str());
        format!("{}  Model  {size}", self.inside.name)
    }

    fn keys(&self) -> &'static str {
        match self.typing {
            true => "type what lines must hold   Enter keep   Esc all lines",
            false => "↑↓ PgUp PgDn Home End  Tab sites, weights, facts  / search  q leave",
        }
    }

    fn is_typing(&self) -> bool {
        self.typing
    }
}

/// A path that is too long loses its middle: its ends tell it from the others.
fn middle(path: &str, width: usize) -> String {
    let letters: Vec<char> = path.chars().collect();
    if letters.len() <= width {
        return path.to_string();
    }
    let tail = width * 2 / 3;
    let head: String = letters[..width - tail - 1].iter().collect();
    let end: String = letters[letters.len() - tail..].iter().collect();
    format!("{head}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_keep_their_ends() {
        assert_eq!(middle("abc", 5), "abc");
        assert_eq!(middle("abcdefghij", 7), "ab…ghij");
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(thousands(12), "12");
    }
}
