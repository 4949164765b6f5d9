//! What a person waits for at the prompt, measured through a pseudo-terminal: start to prompt, a key to its echo, Tab to what
//! it completes, with a history of 10,000 entries and 300 variables. One line per figure: name, median, 95th percentile,
//! worst, in milliseconds, and the goal. Ends with 1 if a median misses its goal.
//!
//! `cargo bench --bench prompt`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[cfg(target_os = "linux")]
#[path = "../tests/it/program.rs"]
mod program;
#[cfg(target_os = "linux")]
#[path = "../tests/it/terminal.rs"]
mod terminal;

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("pseudo-terminals are made here on Linux only");
}

#[cfg(target_os = "linux")]
fn main() {
    std::process::exit(measured::all());
}

#[cfg(target_os = "linux")]
mod measured {
    use std::time::{Duration, Instant};

    use crate::program::Room;
    use crate::terminal::Terminal;

    const ENTRIES: usize = 10_000;
    const VARIABLES: usize = 300;
    const KEYS: usize = 100;
    const STARTS: usize = 11;
    const TURNS: usize = 15;

    struct Table {
        missed: bool,
    }

    impl Table {
        /// One line: median, 95th percentile, worst.
        fn row(&mut self, name: &str, mut times: Vec<Duration>, goal: f64) {
            times.sort_unstable();
            let ms = |i: usize| times[i.min(times.len() - 1)].as_secs_f64() * 1e3;
            let (median, late, worst) = (ms(times.len() / 2), ms(times.len() * 95 / 100), ms(times.len()));
            self.missed |= median > goal;
            println!("{name:<44} {median:>7.2} {late:>7.2} {worst:>7.2}   goal {goal:.0}");
        }
    }

    /// Nothing more came for so long: what was asked for is there.
    const QUIET: Duration = Duration::from_millis(40);

    /// Types keys and takes the time until the last byte of the answer, which must show a text on the line of the cursor or
    /// below.
    fn timed(terminal: &mut Terminal, keys: &str, shows: &str) -> Duration {
        let time = terminal.settles(keys, QUIET);
        // A long line goes on in the next row.
        let lines = terminal.screen();
        let text = lines[lines.len().saturating_sub(12)..].concat();
        assert!(text.contains(shows), "after {keys:?} there is no {shows:?}:\n{}", lines.join("\n"));
        time
    }

    /// An empty line again: Ctrl-C, after which a search begins anew.
    fn cleared(terminal: &mut Terminal) {
        terminal.settles("\x03", QUIET);
        assert_eq!(terminal.screen().last().map(String::as_str), Some("scumble>"));
    }

    pub fn all() -> i32 {
        let room = Room::new();
        let entries: String = (0..ENTRIES)
            .map(|i| format!("let entry{i} = m.sample(\"a dog\", #{{ seed: {i} }});\n"))
            .collect();
        room.write("state/scumble/history.txt", &format!("#V2\n{entries}"));
        let mut table = Table { missed: false };
        let start = || {
            let started = Instant::now();
            let mut terminal =
                Terminal::start(&room, &["--no-init", "--color", "always"]).expect("a terminal");
            let time = terminal.settled(QUIET) - started;
            terminal.shows("scumble> ");
            (time, terminal)
        };
        table.row("start to prompt", (0..STARTS).map(|_| start().0).collect(), 150.0);
        let (_, mut terminal) = start();
        room.write("many.rhai", "1");
        for some in (0..VARIABLES).collect::<Vec<_>>().chunks(20) {
            let code: String = some.iter().map(|i| format!("let variable_{i} = {i};")).collect();
            terminal.settles(&format!("{code}\r"), QUIET);
        }
        timed(&mut terminal, "variable_299 + 43\r", "342");
        // Inside a call, so that the hint, the colors and the brackets are all at work.
        let letters =
            "let result = m.sample(\"a dog in the snow\", #{ steps: 30, seed: variable_7 + blend(z, 1) ";
        let mut echo = Vec::new();
        while echo.len() < KEYS {
            for (at, letter) in letters.char_indices().take(60).filter(|(_, c)| !c.is_whitespace()) {
                if letters[..at].ends_with(' ') {
                    terminal.settles(" ", QUIET);
                }
                echo.push(timed(&mut terminal, &letter.to_string(), &letters[..=at]));
            }
            cleared(&mut terminal);
        }
        table.row("a key to its echo", echo, 10.0);
        terminal.settles(letters, QUIET);
        let long = (1..=30).map(|n| timed(&mut terminal, "9", &"9".repeat(n))).collect();
        table.row("a key to its echo, long line in color", long, 10.0);
        cleared(&mut terminal);
        let answers = |terminal: &mut Terminal, typed: &str, key: &str, shows: &str| -> Vec<Duration> {
            let one = |terminal: &mut Terminal| {
                terminal.settles(typed, QUIET);
                let time = timed(terminal, key, shows);
                if shows == "possibilities" {
                    terminal.settles("n", QUIET);
                }
                cleared(terminal);
                time
            };
            (0..TURNS).map(|_| one(terminal)).collect()
        };
        for (name, typed, key, shows) in [
            ("Tab: a variable of 300", "variable_29", "\t", "variable_290"),
            ("Tab: a function", "percep", "\t", "perceptual"),
            // So many are only listed after a question.
            ("Tab: everything there is", "let x = ", "\t", "possibilities"),
            ("Tab: options of a recipe", ":run magicmix lay", "\t", "layout="),
            ("Tab: files", "open(\"many.rh", "\t", "many.rhai"),
            ("Up after some text: an entry of 10,000", "let entry77", "\x1b[A", "entry7799"),
        ] {
            let times = answers(&mut terminal, typed, key, shows);
            table.row(name, times, 50.0);
        }
        i32::from(table.missed)
    }
}
