//! The trajectory browser: a run level by level, or two beside each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

use super::parts::{self, BOLD, CHOSEN, DIM, put};
use super::{Act, Page};
use crate::script::types::number;
use crate::script::view::{Gap, Level, Run, Runs};
use crate::term::keys::Key;
use crate::ui::pixels::{Pixels, fitted};

/// How long a level is looked at before it is decoded.
const REST: Duration = Duration::from_millis(150);
/// Decoding that takes longer waits for its key.
const SLOW: Duration = Duration::from_millis(700);

/// A curve of a chart: what it is, its color, its points.
type Curve<'a> = (&'a str, Color, Vec<(f64, f64)>);

/// Runs, and where they are looked at.
pub struct RunsPage {
    runs: Runs,
    truecolor: bool,
    /// The level, counted in the schedule.
    at: usize,
    /// Which run keys mean.
    chosen: usize,
    pictures: HashMap<(String, usize), Arc<RgbImage>>,
    /// Asked for, or refused.
    asked: Vec<(String, usize)>,
    /// Whether levels are decoded without being asked for.
    auto: bool,
    moved: Instant,
}

impl RunsPage {
    /// At the last level.
    pub fn new(runs: Runs, truecolor: bool) -> Self {
        let at = last(&runs);
        RunsPage {
            runs,
            truecolor,
            at,
            chosen: 0,
            pictures: HashMap::new(),
            asked: Vec::new(),
            auto: true,
            moved: Instant::now(),
        }
    }

    fn go(&mut self, to: usize) {
        self.at = to.clamp(first(&self.runs), last(&self.runs));
        self.moved = Instant::now();
    }

    fn level<'a>(&self, run: &'a Run) -> Option<&'a Level> {
        run.levels.iter().find(|l| l.i == self.at)
    }

    /// The first run whose picture of this level is still to be decoded.
    fn missing(&self) -> Option<(String, usize)> {
        let runs = self.runs.runs.iter().filter(|r| self.level(r).is_some());
        runs.map(|r| (r.name.clone(), self.at))
            .find(|key| !self.pictures.contains_key(key) && !self.asked.contains(key))
    }

    fn ask(&mut self) -> Act {
        match self.missing() {
            Some((name, level)) => {
                self.asked.push((name.clone(), level));
                Act::Decode(name, level)
            }
            None => Act::Stay,
        }
    }

    /// A run's picture, and what it is.
    fn picture(&self, run: &Run) -> (Option<Arc<RgbImage>>, &'static str) {
        let key = (run.name.clone(), self.at);
        if let Some(picture) = self.pictures.get(&key) {
            return (Some(Arc::clone(picture)), "decoded");
        }
        match self.level(run).and_then(|l| l.preview.clone()) {
            Some(preview) if self.asked.contains(&key) => (Some(preview), "preview; decoding"),
            Some(preview) => (Some(preview), "preview; d decodes"),
            None if self.asked.contains(&key) => (None, "decoding"),
            None => (None, "d decodes"),
        }
    }

    fn one(&self, run: &Run, area: Rect, buffer: &mut Buffer) {
        let width = (area.width / 2).min(area.height * 2);
        let room = Rect { width, height: area.height - 2, ..area };
        let (picture, what) = self.picture(run);
        if let Some(picture) = &picture {
            Pixels { picture, truecolor: self.truecolor }.render(room, buffer);
        }
        let facts = Rect { x: area.x + width + 2, width: area.width - width - 2, ..area };
        let mut rows = 0..facts.height;
        let mut line = |text: &str, style: Style, buffer: &mut Buffer| {
            if let Some(y) = rows.next() {
                put(text, style, (0, y), facts, buffer);
            }
        };
        match self.level(run) {
            Some(level) => {
                for (text, style) in self.facts(run, level, what, usize::from(facts.width)) {
                    line(&text, style, buffer);
                }
            }
            None => line("this level was not reached", DIM, buffer),
        }
        let used = rows.start;
        let chart = Rect { y: facts.y + used, height: facts.height.saturating_sub(used + 2), ..facts };
        self.norms(run, chart, buffer);
    }

    fn facts(&self, run: &Run, level: &Level, what: &str, width: usize) -> Vec<(String, Style)> {
        let mut lines = vec![(format!("level {} of {}", level.i, last(&self.runs)), BOLD)];
        let t = level.t.map_or("the end".to_string(), |t| format!("timestep {}", whole(t)));
        lines.push((format!("{t}   noise {:.3}", level.noise), Style::new()));
        let rms = |name: &str, x: Option<f64>| x.map(|x| format!("{name} {x:.3}"));
        let norms = [rms("z", Some(level.z)), rms("x0", level.x0), rms("eps", level.eps)];
        lines.push((
            format!("rms {}", norms.into_iter().flatten().collect::<Vec<_>>().join("  ")),
            Style::new(),
        ));
        if let Some(prompt) = &level.prompt {
            lines.extend(
                parts::wrap(&format!("{prompt:?}"), width).into_iter().take(2).map(|l| (l, Style::new())),
            );
        }
        if level.edited {
            lines.push(("the latent was exchanged here".into(), Style::new().fg(Color::Yellow)));
        }
        let many = if run.pictures > 1 { format!(", the first of {}", run.pictures) } else { String::new() };
        let of = if level.x0.is_some() { "the clean picture predicted here" } else { "the latent" };
        lines.extend(parts::wrap(&format!("{of}{many} ({what})"), width).into_iter().map(|l| (l, DIM)));
        lines
    }

    /// How the norms go over the levels.
    fn norms(&self, run: &Run, area: Rect, buffer: &mut Buffer) {
        let points = |of: fn(&Level) -> Option<f64>| -> Vec<(f64, f64)> {
            run.levels.iter().filter_map(|l| Some((l.i as f64, of(l)?))).collect()
        };
        let lines = [
            ("z", Color::Cyan, points(|l| Some(l.z))),
            ("x0", Color::Green, points(|l| l.x0)),
            ("eps", Color::Yellow, points(|l| l.eps)),
        ];
        self.chart(&lines, "rms of", area, buffer);
    }

    /// How far two runs are apart over the levels.
    fn gaps(&self, area: Rect, buffer: &mut Buffer) {
        let points = |of: fn(&Gap) -> Option<f64>| -> Vec<(f64, f64)> {
            self.runs.gaps.iter().filter_map(|g| Some((g.i as f64, of(g)?))).collect()
        };
        let lines = [("z", Color::Cyan, points(|g| Some(g.z))), ("x0", Color::Green, points(|g| g.x0))];
        self.chart(&lines, "distance of", area, buffer);
    }

    fn chart(&self, lines: &[Curve], what: &str, area: Rect, buffer: &mut Buffer) {
        if area.height < 4 || area.width < 20 {
            return;
        }
        let mut x = area.x;
        let (end, _) = buffer.set_stringn(x, area.y, what, usize::from(area.width), DIM);
        x = end;
        for (name, color, _) in lines {
            let room = usize::from(area.right().saturating_sub(x));
            (x, _) = buffer.set_stringn(x, area.y, format!(" {name}"), room, Style::new().fg(*color));
        }
        let values = || lines.iter().flat_map(|(_, _, p)| p.iter().map(|p| p.1)).filter(|v| v.is_finite());
        let low = values().fold(f64::INFINITY, f64::min).min(0.0);
        let high = values().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-6);
        let here = [(self.at as f64, low), (self.at as f64, high)];
        let mut sets = vec![
            Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(DIM).data(&here),
        ];
        sets.extend(lines.iter().map(|(_, color, points)| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*color))
                .data(points)
        }));
        let ends = [first(&self.runs) as f64, (last(&self.runs) as f64).max(first(&self.runs) as f64 + 1.0)];
        let labels = [low, high].map(|v| Line::styled(number(v), DIM));
        let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
        Chart::new(sets)
            .x_axis(Axis::default().bounds(ends))
            .y_axis(Axis::default().bounds([low, high]).labels(labels))
            .render(below, buffer);
    }

    fn two(&self, area: Rect, buffer: &mut Buffer) {
        let half = area.width / 2;
        let high = area.height.saturating_sub(8).max(4);
        for (n, run) in self.runs.runs.iter().enumerate() {
            let x = area.x + half * n as u16;
            let column = Rect { x, width: half - 1, ..area };
            let style = if n == self.chosen { CHOSEN } else { BOLD };
            put(
                &parts::fit(&format!("{}  {}", run.name, run.about), usize::from(half - 1)),
                style,
                (0, 0),
                column,
                buffer,
            );
            let room = Rect { y: area.y + 1, height: high - 1, ..column };
            let (picture, what) = self.picture(run);
            if let Some(picture) = &picture {
                // In the middle of its half.
                let (w, _) = fitted(picture.dimensions(), (room.width, room.height));
                let room = Rect { x: room.x + (room.width - w) / 2, width: w, ..room };
                Pixels { picture, truecolor: self.truecolor }.render(room, buffer);
            }
            let text = match self.level(run) {
                Some(l) => {
                    let x0 = l.x0.map_or(String::new(), |x| format!("  x0 {x:.3}"));
                    format!("z {:.3}{x0}  {what}", l.z)
                }
                None => "not reached".into(),
            };
            put(&parts::fit(&text, usize::from(half - 1)), DIM, (0, high), column, buffer);
        }
        let below = Rect { y: area.y + high + 1, height: area.height - high - 3, ..area };
        let gap = self.runs.gaps.iter().find(|g| g.i == self.at);
        let text = match (&self.runs.apart, gap) {
            (Some(why), _) => format!("level {}   not compared level by level: {why}", self.at),
            (None, Some(g)) if g.z == 0.0 => {
                format!("level {} of {}   the latents are equal", self.at, last(&self.runs))
            }
            (None, Some(g)) => {
                let x0 = g.x0.map_or(String::new(), |x| format!(", of x0 {x:.3}"));
                format!("level {} of {}   distance {:.3}{x0}", self.at, last(&self.runs), g.z)
            }
            (None, None) => format!("level {} of {}   not in both runs", self.at, last(&self.runs)),
        };
        put(&text, BOLD, (0, 0), below, buffer);
        let chart = Rect { y: below.y + 1, height: below.height.saturating_sub(1), ..below };
        self.gaps(chart, buffer);
    }

    /// Where one is between the first level and the last.
    fn scrub(&self, area: Rect, buffer: &mut Buffer) {
        let (from, to) = (first(&self.runs), last(&self.runs));
        let width = area.width.saturating_sub(2);
        let y = area.bottom() - 1;
        buffer.set_stringn(area.x, y, "─".repeat(usize::from(width)), usize::from(width), DIM);
        let share = (self.at - from) as f64 / (to - from).max(1) as f64;
        let x = area.x + (share * f64::from(width.saturating_sub(1))).round() as u16;
        buffer.set_string(x, y, "●", Style::new().fg(Color::Cyan));
    }
}

fn first(runs: &Runs) -> usize {
    runs.runs.iter().flat_map(|r| r.levels.first()).map(|l| l.i).min().unwrap_or(0)
}

fn last(runs: &Runs) -> usize {
    runs.runs.iter().flat_map(|r| r.levels.last()).map(|l| l.i).max().unwrap_or(0)
}

fn whole(t: f64) -> String {
    if t == t.trunc() { format!("{t:.0}") } else { format!("{t:.2}") }
}

impl Page for RunsPage {
    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        match &self.runs.runs[..] {
            [run] => self.one(run, area, buffer),
            [_, _] => self.two(area, buffer),
            _ => {}
        }
        self.scrub(area, buffer);
    }

    fn key(&mut self, key: Key) -> Act {
        let at = self.at;
        match key {
            Key::Left => self.go(at.saturating_sub(1)),
            Key::Right => self.go(at + 1),
            Key::PageUp => self.go(at.saturating_sub(5)),
            Key::PageDown => self.go(at + 5),
            Key::Home => self.go(0),
            Key::End => self.go(usize::MAX),
            Key::Tab => self.chosen = (self.chosen + 1) % self.runs.runs.len().max(1),
            Key::Char('d') => return self.ask(),
            Key::Char('f') => {
                let run = self.runs.runs.get(self.chosen);
                // Only a level that was reached can be forked.
                if let Some(run) = run.filter(|r| self.level(r).is_some()) {
                    return Act::Prompt(format!("let fork = {}.fork({})", run.name, self.at));
                }
            }
            Key::Escape => return Act::Leave,
            _ => {}
        }
        Act::Stay
    }

    fn title(&self) -> String {
        match &self.runs.runs[..] {
            [run] => format!("{}  {}", run.name, run.about),
            runs => {
                runs.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(" and ") + ", level by level"
            }
        }
    }

    fn keys(&self) -> &'static str {
        match self.runs.runs.len() {
            1 => "←→ level  PgUp PgDn by five  Home End  d decode  f fork from here  q leave",
            _ => "←→ level  PgUp PgDn by five  Home End  Tab other run  f fork it here  q leave",
        }
    }

    fn wish(&mut self) -> Act {
        if self.auto && self.moved.elapsed() > REST { self.ask() } else { Act::Stay }
    }

    fn decoded(&mut self, name: &str, level: usize, picture: Result<Arc<RgbImage>, String>, took: Duration) {
        // A large decoder runs when it is asked to.
        self.auto &= took < SLOW && picture.is_ok();
        self.asked.retain(|key| (key.0.as_str(), key.1) != (name, level));
        if let Ok(picture) = picture {
            self.pictures.insert((name.to_string(), level), picture);
        }
    }
}
