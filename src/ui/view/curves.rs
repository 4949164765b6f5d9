//! Numbers over steps as curves.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

use super::parts::{self, BOLD, DIM, moved, put};
use super::{Act, Page};
use crate::script::types::number;
use crate::script::view::Curve;
use crate::term::keys::Key;
use crate::ui::panel::smoothed;

const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Red, Color::Blue];

/// Curves, and how they are looked at.
pub struct CurvesPage {
    curves: Vec<Curve>,
    at: usize,
    /// Logarithms of base 10.
    log: bool,
    /// The running mean beside the numbers themselves.
    smooth: bool,
}

impl CurvesPage {
    /// At the last step.
    pub fn new(curves: Vec<Curve>) -> Self {
        let at = steps(&curves).saturating_sub(1);
        CurvesPage { curves, at, log: false, smooth: true }
    }

    fn points(&self, curve: &Curve) -> Vec<(f64, f64)> {
        let height = |v: f64| if self.log { v.log10() } else { v };
        let points = curve.values.iter().enumerate().map(|(i, v)| (i as f64, height(*v)));
        points.filter(|p| p.1.is_finite()).collect()
    }

    /// Whether logarithms can be taken of something.
    fn has_log(&self) -> bool {
        self.curves.iter().any(|c| c.values.iter().any(|v| *v > 0.0))
    }
}

fn steps(curves: &[Curve]) -> usize {
    curves.iter().map(|c| c.values.len()).max().unwrap_or(0)
}

/// Lowest and highest value; a flat line stands in the middle.
fn range(points: &[Vec<(f64, f64)>]) -> [f64; 2] {
    let values = || points.iter().flatten().map(|p| p.1);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    match high > low {
        true => [low, high],
        false if low.is_finite() => [low - low.abs().max(1e-6) * 0.1, low + low.abs().max(1e-6) * 0.1],
        false => [0.0, 1.0],
    }
}

impl Page for CurvesPage {
    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let all: Vec<Vec<(f64, f64)>> = self.curves.iter().map(|c| self.points(c)).collect();
        let smooth: Vec<Vec<(f64, f64)>> = all.iter().map(|p| smoothed(p)).collect();
        let [low, high] = range(&all);
        let here = [(self.at as f64, low), (self.at as f64, high)];
        let line = |points, style| {
            Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
        };
        let mut sets = vec![line(&here[..], DIM)];
        for (i, points) in all.iter().enumerate() {
            let color = Style::new().fg(COLORS[i % COLORS.len()]);
            if self.smooth {
                let dots = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Scatter);
                sets.push(dots.style(color.patch(DIM)).data(points));
                sets.push(line(&smooth[i], color));
            } else {
                sets.push(line(points, color));
            }
        }
        let legend = (self.curves.len() as u16).min(area.height / 3).max(1);
        let chart = Rect { height: area.height - legend - 1, ..area };
        let last = steps(&self.curves).saturating_sub(1).max(1) as f64;
        let of = |v: f64| number(if self.log { 10f64.powf(v) } else { v });
        let labels = [low, (low + high) / 2.0, high].map(|v| Line::styled(of(v), DIM));
        let ends = [0.0, last].map(|v| Line::styled(format!("{v:.0}"), DIM));
        Chart::new(sets)
            .x_axis(Axis::default().bounds([0.0, last]).labels(ends))
            .y_axis(Axis::default().bounds([low, high]).labels(labels))
            .render(chart, buffer);
        put(&format!("step {}", self.at), BOLD, (0, chart.height), area, buffer);
        for (i, curve) in self.curves.iter().enumerate().take(usize::from(legend)) {
            let value = curve.values.get(self.at).map_or("no value".into(), |v| number(*v));
            let finite = curve.values.iter().copied().enumerate().filter(|(_, v)| v.is_finite());
            let least = finite.min_by(|a, b| a.1.total_cmp(&b.1));
            let least = least.map_or(String::new(), |(at, v)| format!("   least {} at step {at}", number(v)));
            let text = format!("━ {}   {value}{least}", curve.name);
            let row = chart.height + 1 + i as u16;
            put(
                &parts::fit(&text, usize::from(area.width)),
                Style::new().fg(COLORS[i % COLORS.len()]),
                (0, row),
                area,
                buffer,
            );
        }
    }

    fn key(&mut self, key: Key) -> Act {
        let count = steps(&self.curves);
        let far = (count / 20).max(5) as isize;
        match key {
            Key::Left => self.at = moved(self.at, -1, count),
            Key::Right => self.at = moved(self.at, 1, count),
            Key::PageUp => self.at = moved(self.at, -far, count),
            Key::PageDown => self.at = moved(self.at, far, count),
            Key::Home => self.at = 0,
            Key::End => self.at = count.saturating_sub(1),
            Key::Char('l') => self.log = !self.log && self.has_log(),
            Key::Char('m') => self.smooth = !self.smooth,
            Key::Escape => return Act::Leave,
            _ => {}
        }
        Act::Stay
    }

    fn title(&self) -> String {
        let names: Vec<&str> = self.curves.iter().map(|c| c.name.as_str()).collect();
        let log = if self.log { ", logarithmic" } else { "" };
        format!("{}: {} steps{log}", names.join(", "), steps(&self.curves))
    }

    fn keys(&self) -> &'static str {
        "←→ step  PgUp PgDn  Home End  m running mean  l logarithm  q leave"
    }
}
