//! What the script language costs, on the embedded model: a step of a script without its network call beside the network
//! call, and attention edits beside none. One line per figure: name, milliseconds (medians of nine runs).
//!
//! `cargo bench --bench host`

use std::sync::Arc;
use std::time::Instant;

use scumble::engine::observe::{Cancel, Silent};
use scumble::script::{Session, Settings, thread};

const RUNS: usize = 9;

/// A loop that every recipe has, with and without the network.
const CASES: [(&str, usize, &str); 7] = [
    ("guided call", 20, "for i in 0..20 { m.guided(z, 481, text, none, 7.0); }"),
    (
        "step of a script",
        2000,
        "for i in 0..2000 { let k = i % s.len; z = s.step(z, eps, k); if k > 25 { z = blend(z, eps, 0.5); } }",
    ),
    (
        "stepper of a script",
        2000,
        "for i in 0..40 { let st = s.stepper(z); while !st.done { st = st.step(eps); } }",
    ),
    (
        "guided, word reweighted",
        20,
        "let a = attention().reweight(text, \"dog\", 2); for i in 0..20 { m.guided(z, 481, text, none, 7.0, #{ attention: a }); }",
    ),
    (
        "guided, at one site",
        20,
        "let a = attention().reweight(text, \"dog\", 2, #{ sites: [\"mid_block\"] }); for i in 0..20 { m.guided(z, 481, text, none, 7.0, #{ attention: a }); }",
    ),
    (
        "guided, function at one site",
        20,
        "let a = attention().on_probs(|site, p| p, #{ sites: [\"mid_block\"] }); for i in 0..20 { m.guided(z, 481, text, none, 7.0, #{ attention: a }); }",
    ),
    (
        "guided, function everywhere",
        20,
        "let a = attention().on_probs(|site, p| p); for i in 0..20 { m.guided(z, 481, text, none, 7.0, #{ attention: a }); }",
    ),
];

fn main() {
    thread::run(|| {
        let settings = Settings { no_init: true, ..Settings::default() };
        let mut session = Session::new(settings, Arc::new(Silent), Cancel::default());
        let setup = "let m = load(\"emoji\"); let text = m.encode(\"a dog\"); let none = m.encode(\"\"); let s = m.schedule(50); \
                     let z = m.noise(0); let eps = m.noise(1);";
        if let Err(e) = session.eval(setup) {
            return println!("{}", e.render(false, 100));
        }
        let mut medians = Vec::new();
        for (name, count, code) in CASES {
            let mut times = Vec::new();
            for run in 0..=RUNS {
                let started = Instant::now();
                if let Err(e) = session.eval(&format!("{{ let z = z; {code} }}")) {
                    return println!("{}", e.render(false, 100));
                }
                // The first run warms caches up.
                if run > 0 {
                    times.push(started.elapsed().as_secs_f64() * 1e3 / count as f64);
                }
            }
            times.sort_by(f64::total_cmp);
            println!("{name:<32}{:>10.4} ms", times[RUNS / 2]);
            medians.push(times[RUNS / 2]);
        }
        println!("a script's step costs {:.2} % of a guided call", 100.0 * medians[1] / medians[0]);
    });
}
