//! One line that says how far a run is: bar, steps, speed, time left.

use std::time::{Duration, Instant};

/// Runs shorter than this show no progress.
const QUIET: Duration = Duration::from_millis(300);
/// Least time between two drawings.
const FRAME: Duration = Duration::from_millis(100);

/// Follows the steps of one run after another.
#[derive(Debug)]
pub struct Progress {
    label: &'static str,
    began: Instant,
    drawn: Option<Instant>,
    told: (usize, Instant),
    base: usize,
    done: usize,
    total: usize,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Progress { label: "", began: now, drawn: None, told: (0, now), base: 0, done: 0, total: 0 }
    }
}

impl Progress {
    /// Takes a step. A run that starts again (another label, fewer steps done) starts a new count.
    pub fn step(&mut self, label: &'static str, done: usize, total: usize) {
        if label != self.label || done <= self.done || total != self.total {
            // The step that was just finished began when the last thing ended, as far as we know.
            let began = self.told.1.max(self.began);
            *self = Progress { label, base: done - 1, began, told: (0, began), total, ..Progress::default() };
        }
        self.done = done;
    }

    /// Steps per second so far.
    pub fn rate(&self) -> f64 {
        (self.done - self.base) as f64 / self.began.elapsed().as_secs_f64().max(1e-6)
    }

    /// Whether a frame is due: the run is long enough to show, and the last frame old enough (or it is the last step).
    pub fn due(&mut self) -> bool {
        if self.total == 0 || self.began.elapsed() < QUIET {
            return false;
        }
        let due = self.done == self.total || self.drawn.is_none_or(|d| d.elapsed() >= FRAME);
        if due {
            self.drawn = Some(Instant::now());
        }
        due
    }

    /// Whether anything was drawn.
    pub fn shown(&self) -> bool {
        self.drawn.is_some()
    }

    /// For logs: a line is due at every tenth of the run, or after five seconds.
    pub fn line_due(&mut self) -> bool {
        if self.total == 0 {
            return false;
        }
        let tenth = (self.done - self.base) * 10 / (self.total - self.base).max(1);
        let due = tenth > self.told.0 || self.told.1.elapsed() >= Duration::from_secs(5);
        if due {
            self.told = (tenth, Instant::now());
        }
        due
    }

    /// The line, at most `width` columns: `sampling 12/50 ━━━━╸      9.8 it/s 4 s left`.
    pub fn line(&self, width: usize, bar: bool) -> String {
        let head = format!("{} {}/{}", self.label, self.done, self.total);
        let left = (self.total - self.done) as f64 / self.rate().max(1e-9);
        let tail = if self.done == self.total {
            speed(self.rate())
        } else {
            format!("{}  {} left", speed(self.rate()), duration(Duration::from_secs_f64(left.min(1e7))))
        };
        let room = width.saturating_sub(head.len() + tail.len() + 4).min(40);
        if !bar || room < 5 {
            return format!("{head}  {tail}").chars().take(width).collect();
        }
        let full = room * (self.done - self.base) / (self.total - self.base).max(1);
        format!("{head}  {}{}  {tail}", "━".repeat(full), "─".repeat(room - full))
    }

    /// The last word about a run: `50 steps in 1.9 s, 26 it/s`.
    pub fn summary(&self) -> String {
        let steps = self.done - self.base;
        format!("{steps} steps in {}, {}", duration(self.began.elapsed()), speed(self.rate()))
    }
}

/// `26 it/s`, or `1.4 s/it` when that is the larger number.
fn speed(rate: f64) -> String {
    match rate {
        r if r >= 100.0 => format!("{r:.0} it/s"),
        r if r >= 1.0 => format!("{r:.1} it/s"),
        r => format!("{:.1} s/it", 1.0 / r.max(1e-9)),
    }
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    match s {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_width() {
        let mut p = Progress::default();
        for width in [20, 40, 80, 200] {
            p.step("sampling", 12, 50);
            assert!(p.line(width, true).chars().count() <= width, "{width}");
        }
        assert!(p.line(80, true).starts_with("sampling 12/50  "));
        assert!(p.line(80, true).contains("left"));
        assert!(!p.line(80, false).contains('─'));
    }

    #[test]
    fn a_run_that_starts_again_counts_anew() {
        let mut p = Progress::default();
        p.step("sampling", 16, 50);
        p.step("sampling", 50, 50);
        assert!(p.summary().starts_with("35 steps"), "{}", p.summary());
        p.step("sampling", 1, 50);
        assert!(p.summary().starts_with("1 steps"), "{}", p.summary());
    }

    #[test]
    fn durations_for_people() {
        let text = |s: f64| duration(Duration::from_secs_f64(s));
        assert_eq!(
            [text(0.42), text(12.3), text(200.0), text(7500.0)],
            ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min"]
        );
    }
}
