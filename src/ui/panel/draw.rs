//! One frame of the panel.

use std::sync::Arc;

use image::RgbImage;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

use super::Colors;
use crate::script::types;
use crate::ui::pixels::{Pixels, fitted};
use crate::ui::progress::{Progress, duration};

/// Columns that the text beside a picture has at least.
const TEXT: u16 = 34;
/// Rows of text above a curve.
const LINES: u16 = 4;
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// What a frame shows.
pub struct Shown<'a> {
    /// The recipe, or empty.
    pub title: &'a str,
    /// How far it is.
    pub progress: &'a Progress,
    /// Bytes held.
    pub memory: Option<u64>,
    /// How what is being made looks, and what that is.
    pub preview: Option<&'a (String, Arc<Vec<RgbImage>>)>,
    /// Losses by step.
    pub losses: &'a [(f64, f64)],
    /// What the terminal can show.
    pub colors: Colors,
}

impl Shown<'_> {
    /// Rows that this takes in a window of so many.
    pub fn rows(&self, window: u16) -> u16 {
        let rich = self.preview.is_some() || self.has_curve();
        match (rich, window) {
            (false, _) => LINES,
            (true, 40..) => 17,
            (true, 20..) => 9,
            (true, _) => 7,
        }
    }

    fn has_curve(&self) -> bool {
        self.losses.len() > 1
    }
}

/// Draws it.
pub fn draw(shown: &Shown, area: Rect, buffer: &mut Buffer) {
    if area.height < LINES || area.width < 20 {
        return;
    }
    rule(shown, area, buffer);
    let mut body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let mut drawn = 0;
    if let Some((_, pictures)) = shown.preview {
        let mut first = None;
        for picture in pictures.iter() {
            let room = (body.width.saturating_sub(TEXT), body.height);
            let size @ (w, _) = fitted(picture.dimensions(), room);
            // One that would be smaller than the first, or a stamp, is left out.
            if room.0 < 8 || *first.get_or_insert(size) != size {
                break;
            }
            let place = Rect { width: w, height: body.height, ..body };
            Pixels { picture, truecolor: shown.colors.truecolor }.render(place, buffer);
            body.x += w + 1;
            body.width -= w + 1;
            drawn += 1;
        }
        if body.x > area.x {
            body.x += 1;
            body.width -= 1;
        }
    }
    text(shown, drawn, body, buffer);
    let below = Rect { y: body.y + LINES, height: body.height.saturating_sub(LINES), ..body };
    if shown.has_curve() && below.height >= 2 {
        curve(shown, below, buffer);
    }
}

/// The line above: what runs.
fn rule(shown: &Shown, area: Rect, buffer: &mut Buffer) {
    let label = shown.progress.label();
    let name = match (shown.title, label) {
        ("", "") => "working".to_string(),
        ("", label) => label.to_string(),
        (title, "") => title.to_string(),
        (title, label) => format!("{title}: {label}"),
    };
    let line = "─".repeat(usize::from(area.width));
    buffer.set_stringn(area.x, area.y, &line, usize::from(area.width), DIM);
    let room = usize::from(area.width.saturating_sub(6));
    buffer.set_stringn(
        area.x + 2,
        area.y,
        format!(" {name} "),
        room,
        Style::new().add_modifier(Modifier::BOLD),
    );
}

/// As many of the parts as fit into a line, whole, the first at any rate; the others are left over.
fn line(parts: &mut Vec<String>, width: usize) -> String {
    let mut text = String::new();
    while let Some(next) = parts.first() {
        if !text.is_empty() && text.chars().count() + 3 + next.chars().count() > width {
            break;
        }
        text += if text.is_empty() { "" } else { "   " };
        text += &parts.remove(0);
    }
    text
}

fn text(shown: &Shown, drawn: usize, area: Rect, buffer: &mut Buffer) {
    let p = shown.progress;
    let width = usize::from(area.width);
    let mut rows = area.y..area.bottom();
    let mut put = |line: Line, buffer: &mut Buffer| {
        if let Some(y) = rows.next() {
            buffer.set_line(area.x, y, &line, area.width);
        }
    };
    let mut about = Vec::new();
    match p.steps() {
        Some((done, total)) => {
            let mut parts = vec![format!("step {done} of {total}")];
            parts.extend(p.speed());
            parts.extend(p.left().map(|left| format!("{left} left")));
            put(Line::from(line(&mut parts, width)), buffer);
            about = parts;
            let room = width.min(40);
            let full = room * p.share().0 / p.share().1.max(1);
            let bar = Span::styled("━".repeat(full), Style::new().fg(Color::Cyan));
            put(Line::from(vec![bar, Span::styled("─".repeat(room - full), DIM)]), buffer);
        }
        None => put(Line::from(format!("working   {}", duration(p.age()))), buffer),
    }
    about.extend(
        shown.memory.map(|m| format!("memory {}", types::size(usize::try_from(m).unwrap_or(usize::MAX)))),
    );
    about.push(format!("{} so far", duration(p.age())));
    put(Line::styled(line(&mut about, width), DIM), buffer);
    let mut last = Vec::new();
    if let Some(loss) = p.mean_loss() {
        last.push(Span::raw(format!("loss {}", types::number(loss))));
        last.push(Span::styled("   mean of the last ten or so", DIM));
    } else if let Some((title, pictures)) = shown.preview.filter(|_| drawn > 0) {
        let part =
            if drawn < pictures.len() { format!(", {drawn} of {}", pictures.len()) } else { String::new() };
        last.push(Span::styled(format!("◂ {title}{part}"), DIM));
    }
    put(Line::from(last), buffer);
}

fn curve(shown: &Shown, area: Rect, buffer: &mut Buffer) {
    let points = shown.losses;
    let smooth = smoothed(points);
    let ends = |of: fn(f64, f64) -> f64, from: f64| points.iter().map(|p| p.1).fold(from, of);
    let (low, high) = (ends(f64::min, f64::INFINITY), ends(f64::max, f64::NEG_INFINITY));
    let room = if high > low { 0.0 } else { high.abs().max(1e-9) * 0.1 };
    let first = points.first().map_or(0.0, |p| p.0);
    let last = points.last().map_or(1.0, |p| p.0).max(first + 1.0);
    let raw =
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Scatter).style(DIM).data(points);
    let mean = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(Style::new().fg(Color::Cyan))
        .data(&smooth);
    let labels = [types::number(low), types::number(high)].map(|l| Line::styled(l, DIM));
    Chart::new(vec![raw, mean])
        .x_axis(Axis::default().bounds([first, last]))
        .y_axis(Axis::default().bounds([low - room, high + room]).labels(labels))
        .render(area, buffer);
}

/// The running mean of the last ten or so.
pub fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut mean: Option<f64> = None;
    let next = |&(x, y): &(f64, f64)| {
        let m = mean.map_or(y, |m| 0.9 * m + 0.1 * y);
        mean = Some(m);
        (x, m)
    };
    points.iter().map(next).collect()
}
