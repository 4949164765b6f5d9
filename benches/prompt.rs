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

    /// Types keys and takes the time until something shows.
    fn timed(terminal: &mut Terminal, keys: &str, shows: &str) -> Duration {
        let started = Instant::now();
        terminal.types(keys);
        terminal.shows(shows);
        started.elapsed()
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
            terminal.shows("scumble> ");
            (started.elapsed(), terminal)
        };
        table.row("start to prompt", (0..STARTS).map(|_| start().0).collect(), 150.0);
        let (_, mut terminal) = start();
        let code: String = (0..VARIABLES).map(|i| format!("let variable_{i} = [{i}];")).collect();
        room.write("many.rhai", &code);
        terminal.types("eval(\"");
        for i in 0..VARIABLES {
            terminal.types(&format!("let variable_{i} = {i};"));
        }
        terminal.types("\")\r");
        terminal.shows("scumble> ");
        timed(&mut terminal, "variable_299 + 43\r", "342\r\n");
        terminal.shows("scumble> ");
        // Inside a call, so that the hint, the colors and the brackets are all at work.
        let letters =
            "let result = m.sample(\"a dog in the snow\", #{ steps: 30, seed: variable_7 + blend(z, 1) ";
        let mut echo = Vec::new();
        while echo.len() < KEYS {
            for letter in letters.chars().filter(|c| c.is_alphanumeric()).take(60) {
                echo.push(timed(&mut terminal, &letter.to_string(), &letter.to_string()));
            }
            timed(&mut terminal, "\x15", "scumble> ");
        }
        table.row("a key to its echo", echo, 10.0);
        terminal.types(letters);
        terminal.shows("blend");
        let long = (0..30).map(|_| timed(&mut terminal, "9", "9")).collect();
        table.row("a key to its echo, long line in color", long, 10.0);
        timed(&mut terminal, "\x15", "scumble> ");
        let complete = |terminal: &mut Terminal, typed: &str, shows: &str| -> Vec<Duration> {
            let one = |terminal: &mut Terminal| {
                terminal.types(typed);
                std::thread::sleep(Duration::from_millis(60));
                let time = timed(terminal, "\t", shows);
                timed(terminal, "\x15", "scumble> ");
                time
            };
            (0..15).map(|_| one(terminal)).collect()
        };
        table.row("Tab: a variable of 300", complete(&mut terminal, "variable_29", "variable_290"), 50.0);
        table.row("Tab: a function", complete(&mut terminal, "percep", "perceptual"), 50.0);
        // So many are only listed after a question, which wants its answer.
        let mut everything = Vec::new();
        for _ in 0..15 {
            terminal.types("let x = ");
            std::thread::sleep(Duration::from_millis(60));
            everything.push(timed(&mut terminal, "\t", "possibilities"));
            timed(&mut terminal, "n", "scumble> ");
            timed(&mut terminal, "\x15", "scumble> ");
        }
        table.row("Tab: everything there is", everything, 50.0);
        table.row("Tab: options of a recipe", complete(&mut terminal, ":run magicmix lay", "layout="), 50.0);
        table.row("Tab: files", complete(&mut terminal, "open(\"many.rh", "many.rhai"), 50.0);
        let mut search = Vec::new();
        for _ in 0..15 {
            terminal.types("let entry77");
            std::thread::sleep(Duration::from_millis(60));
            search.push(timed(&mut terminal, "\x1b[A", "entry7799"));
            timed(&mut terminal, "\x15", "scumble> ");
        }
        table.row("Up after some text: an entry of 10,000", search, 50.0);
        i32::from(table.missed)
    }
}
