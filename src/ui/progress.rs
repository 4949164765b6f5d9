//! One line that says how far a run is: bar, steps, speed, time left.

use std::time::{Duration, Instant};

use crate::term::style::{Role, Style};

/// Runs shorter than this show no progress.
const QUIET: Duration = Duration::from_millis(300);
/// Least time between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// Work without steps (loading, decoding) is named after this time.
const WORKING: Duration = Duration::from_millis(1000);
/// Longest silence where progress goes to a file.
const SILENCE: Duration = Duration::from_secs(5);

/// Follows the steps of one request, chain after chain.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    label: &'static str,
    /// The first step that was seen of this chain, and when it ended: what came before it is not sampling.
    first: (usize, Instant),
    done: usize,
    total: usize,
    /// When the last step ended.
    last: Instant,
    drawn: Option<Instant>,
    told: (usize, Instant),
    /// Steps of all chains.
    steps: usize,
    /// Steps that were timed, and their time, of the chains before this one.
    timed: (usize, Duration),
    /// What is trained, and the running mean of its loss.
    loss: Option<(&'static str, f64)>,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Progress {
            began: now,
            label: "",
            first: (0, now),
            done: 0,
            total: 0,
            last: now,
            drawn: None,
            told: (0, now),
            steps: 0,
            timed: (0, Duration::ZERO),
            loss: None,
        }
    }
}

impl Progress {
    /// Takes the loss of a step of training: one step's own says little, so that the mean of the last ten or so is shown.
    pub fn loss(&mut self, label: &'static str, step: usize, loss: f64) {
        let before = self.loss.filter(|(l, mean)| *l == label && step > 1 && mean.is_finite());
        self.loss = Some((label, before.map_or(loss, |(_, mean)| 0.9 * mean + 0.1 * loss)));
    }

    /// Takes a step. Another label, or a step that is no later than the last one, begins a new chain.
    pub fn step(&mut self, label: &'static str, done: usize, total: usize) {
        let now = Instant::now();
        if label != self.label || done <= self.done || total != self.total {
            let (n, time) = self.chain();
            self.timed = (self.timed.0 + n, self.timed.1 + time);
            (self.label, self.total, self.first, self.told) = (label, total, (done, now), (0, self.told.1));
            self.steps += 1;
        } else {
            self.steps += done - self.done;
        }
        (self.done, self.last) = (done, now);
    }

    /// Timed steps of this chain, and their time.
    fn chain(&self) -> (usize, Duration) {
        (self.done - self.first.0, self.last - self.first.1)
    }

    /// Steps per second, of this chain as soon as it has been timed.
    fn rate(&self) -> Option<f64> {
        let (mut n, mut time) = self.chain();
        if n == 0 {
            (n, time) = self.timed;
        }
        (n > 0).then(|| n as f64 / time.as_secs_f64().max(1e-6))
    }

    /// Whether a frame is due: the run is long enough to show, and the last frame old enough (or it is the last step).
    /// The caller draws it then.
    pub fn due(&mut self) -> bool {
        let age = self.began.elapsed();
        if age < QUIET || (self.total == 0 && age < WORKING) {
            return false;
        }
        let due = self.drawn.is_none_or(|d| d.elapsed() >= FRAME);
        if due {
            self.drawn = Some(Instant::now());
        }
        due
    }

    /// For files: a line is due at every tenth of the chain, or after five seconds. The caller writes it then.
    pub fn line_due(&mut self) -> bool {
        if self.total == 0 {
            return false;
        }
        let base = self.first.0.saturating_sub(1);
        let tenth = (self.done - base) * 10 / (self.total - base).max(1);
        let due = tenth > self.told.0 || self.told.1.elapsed() >= SILENCE;
        if due {
            self.told = (tenth, Instant::now());
        }
        due
    }

    /// Whether no step has been seen yet, or the last chain has ended: something else is at work.
    fn is_between(&self) -> bool {
        self.total == 0 || (self.done == self.total && self.last.elapsed() > WORKING)
    }

    fn head(&self) -> String {
        let steps = format!("{} {}/{}", self.label, self.done, self.total);
        match self.mean_loss() {
            Some(loss) => format!("{steps}  loss {loss:.4}"),
            None => steps,
        }
    }

    fn tail(&self) -> String {
        match (self.speed(), self.left()) {
            (None, _) => String::new(),
            (Some(speed), None) => speed,
            (Some(speed), Some(left)) => format!("{speed}  {left} left"),
        }
    }

    /// What runs: the label of the steps, empty where there were none.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// Steps finished and steps in all of this chain, unless something without steps is at work.
    pub fn steps(&self) -> Option<(usize, usize)> {
        (!self.is_between()).then_some((self.done, self.total))
    }

    /// How much of the chain's own part is done: a run may begin in the middle of its schedule.
    pub fn share(&self) -> (usize, usize) {
        let base = self.first.0.saturating_sub(1);
        (self.done - base, self.total - base)
    }

    /// Whether the chain has ended.
    pub fn is_complete(&self) -> bool {
        self.total > 0 && self.done >= self.total
    }

    /// `9.8 it/s`, once it is known.
    pub fn speed(&self) -> Option<String> {
        self.rate().map(speed)
    }

    /// `4 s`: how long the steps that are left will take, once it is known.
    pub fn left(&self) -> Option<String> {
        let steps = (self.total - self.done) as f64;
        let seconds = self.rate().map(|rate| (steps / rate.max(1e-9)).min(1e7));
        seconds.filter(|s| *s > 0.0).map(|s| duration(Duration::from_secs_f64(s)))
    }

    /// The running mean of the loss of what runs.
    pub fn mean_loss(&self) -> Option<f64> {
        self.loss.filter(|(label, _)| *label == self.label).map(|(_, mean)| mean)
    }

    /// For files: `sampling 12/50  9.8 it/s  4 s left`.
    pub fn text(&self) -> String {
        format!("{}  {}", self.head(), self.tail()).trim_end().to_string()
    }

    /// For terminals, at most `width` columns: `sampling 12/50  ━━━━──────  9.8 it/s  4 s left`.
    pub fn line(&self, width: usize, style: Style) -> String {
        if self.is_between() {
            let text: String =
                format!("working  {}", duration(self.began.elapsed())).chars().take(width).collect();
            return style.paint(Role::Dim, &text);
        }
        let (head, tail) = (self.head(), self.tail());
        // The tail has its room from the start, so that the bar does not jump.
        let room = width.saturating_sub(head.chars().count() + tail.chars().count().max(24) + 4).min(40);
        if room < 5 {
            return self.text().chars().take(width).collect();
        }
        let base = self.first.0.saturating_sub(1);
        let full = room * (self.done - base) / (self.total - base).max(1);
        let bar = style.paint(Role::Name, &"━".repeat(full));
        let rest = style.paint(Role::Dim, &"─".repeat(room - full));
        format!("{head}  {bar}{rest}  {}", style.paint(Role::Dim, &tail)).trim_end().to_string()
    }

    /// The last word about a request: `50 steps, 26 it/s, 1.9 s in all`; only the time where there were no steps.
    pub fn summary(&self) -> String {
        let time = duration(self.began.elapsed());
        let (n, chain) = self.chain();
        let (n, spent) = (n + self.timed.0, chain + self.timed.1);
        match n {
            0 => time,
            n => {
                let rate = speed(n as f64 / spent.as_secs_f64().max(1e-6));
                format!("{} steps, {rate}, {time} in all", self.steps)
            }
        }
    }

    /// Somewhere in a run, for pictures of it in tests: at step `at.0` of `at.1`, at `rate` steps per second, 3.2 s after
    /// its beginning.
    #[cfg(test)]
    pub fn example(label: &'static str, at: (usize, usize), rate: f64) -> Self {
        let now = Instant::now();
        let first = at.0.min(1);
        let begun = Duration::from_secs_f64((at.0 - first) as f64 / rate);
        let ago = |d: Duration| now.checked_sub(d).unwrap_or(now);
        Progress {
            began: ago(Duration::from_millis(3200)),
            label,
            first: (first, ago(begun)),
            done: at.0,
            total: at.1,
            last: now,
            ..Progress::default()
        }
    }

    /// How long the request has been running.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
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
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 59.5 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { color: false };

    #[test]
    fn lines_fit_the_width() {
        let mut p = Progress::default();
        p.step("sampling", 11, 50);
        p.step("sampling", 12, 50);
        for width in [20, 40, 80, 200] {
            assert!(p.line(width, PLAIN).chars().count() <= width, "{width}");
        }
        assert!(p.line(80, PLAIN).starts_with("sampling 12/50  ━"), "{}", p.line(80, PLAIN));
        assert!(p.line(80, PLAIN).contains("left"));
        assert!(!p.text().contains('─'));
    }

    #[test]
    fn the_bar_counts_from_the_first_step_that_was_seen() {
        let mut p = Progress::default();
        p.step("sampling", 26, 50);
        assert!(p.line(80, PLAIN).contains("━─"), "{}", p.line(80, PLAIN));
        p.step("sampling", 50, 50);
        assert!(!p.line(80, PLAIN).contains('─'));
    }

    #[test]
    fn chains_add_up() {
        let mut p = Progress::default();
        for i in 16..=50 {
            p.step("sampling", i, 50);
        }
        assert!(p.summary().starts_with("35 steps"), "{}", p.summary());
        for i in 1..=50 {
            p.step("sampling", i, 50);
        }
        assert!(p.summary().starts_with("85 steps"), "{}", p.summary());
    }

    #[test]
    fn files_get_a_line_per_tenth() {
        let mut p = Progress::default();
        let lines = (1..=50).filter(|i| {
            p.step("sampling", *i, 50);
            p.line_due()
        });
        assert_eq!(lines.count(), 10);
    }

    #[test]
    fn short_requests_stay_quiet() {
        let mut p = Progress::default();
        p.step("sampling", 1, 50);
        assert!(!p.due());
        std::thread::sleep(QUIET);
        assert!(p.due());
        assert!(!p.due(), "the next frame comes later");
    }

    #[test]
    fn durations_for_people() {
        let text = |s: f64| duration(Duration::from_secs_f64(s));
        let all = [text(0.42), text(12.3), text(200.0), text(7500.0)];
        assert_eq!(all, ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min"]);
    }
}
