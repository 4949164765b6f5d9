//! What the live panel costs: a frame, a preview, and sampling on the embedded model with and without it, by turns.
//!
//! `cargo bench --bench panel`

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use scumble::engine::latent::Latent;
use scumble::engine::observe::{Cancel, Event};
use scumble::engine::preview::Preview;
use scumble::script::Settings;
use scumble::ui::panel::{Colors, Panel};
use scumble::ui::progress::Progress;
use scumble::ui::worker::{Message, Request, Worker};

const COLORS: Colors = Colors { text: true, pictures: true, truecolor: true };
/// Turns with and without.
const TURNS: usize = 9;
/// A second and a half of guided steps, one picture.
const RUN: &str =
    "let z = m.noise(0); for i in 0..s.len { z = s.step(z, m.guided(z, s.t(i), text, none, 7), i); }";

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Counts what a terminal would get.
struct Count;

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BYTES.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Runs a request; seconds. With `panel`, as the program does; without, events are only taken.
fn run(worker: &Worker, code: &str, mut panel: Option<&mut Panel>) -> f64 {
    if let Some(panel) = panel.as_mut() {
        panel.begin(worker.looking());
        panel.look();
    }
    let begun = Instant::now();
    let mut progress = Progress::default();
    if worker.ask(Request::Eval(code.into())).is_none() {
        return f64::NAN;
    }
    loop {
        match worker.next(Duration::from_millis(50)) {
            Ok(Some(Message::Event(event))) => {
                if let Event::Step { label, done, total } = event {
                    progress.step(label, done, total);
                }
                if let Some(panel) = panel.as_mut() {
                    panel.event(&event);
                    panel.tick("text2image", &progress, COLORS);
                }
            }
            Ok(Some(Message::Answer(..))) | Err(_) => break,
            Ok(None) => {}
        }
    }
    if let Some(panel) = panel.as_mut() {
        panel.freeze("text2image", &progress, COLORS);
        panel.end();
    }
    begun.elapsed().as_secs_f64()
}

fn frames() -> f64 {
    let picture = |k: u8| image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * k, y as u8 * 9, k]));
    let mut panel = Panel::new(|| Box::new(Count), true);
    let mut progress = Progress::default();
    let times = (1..=200usize).map(|i| {
        let pictures = Arc::new(vec![picture(i as u8)]);
        panel.event(&Event::Preview { title: "prediction".into(), pictures });
        panel.event(&Event::Loss { label: "tuning", step: i, loss: 1.0 / i as f64 });
        progress.step("tuning", i, 200);
        let begun = Instant::now();
        panel.draw("text2image", &progress, COLORS);
        begun.elapsed().as_secs_f64() * 1e3
    });
    let frame = median(times.collect());
    println!(
        "frame, 80 columns with preview and curve  {frame:.3} ms, {} bytes",
        BYTES.load(Ordering::Relaxed) / 200
    );
    frame
}

fn preview(side: usize) -> candle_core::Result<f64> {
    let preview = Preview { factors: vec![[0.1, 0.2, 0.3]; 4], bias: [0.5; 3] };
    let z = Tensor::randn(0f32, 1.0, (1, 4, side, side), &Device::Cpu)?;
    let Ok(z) = Latent::new(z) else { return Ok(f64::NAN) };
    let times = (0..200).map(|_| {
        let begun = Instant::now();
        let made = preview.pictures(&z, 4);
        assert!(made.is_ok());
        begun.elapsed().as_secs_f64() * 1e3
    });
    let time = median(times.collect());
    println!("preview of a latent {side}x{side}  {time:.3} ms");
    Ok(time)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let frame = frames();
    let small = preview(16)?;
    preview(64)?;
    println!("five of each a second  {:.2} % of one core", (frame + small) * 5.0 / 10.0);
    let worker = Worker::start(Settings { no_init: true, ..Settings::default() }, &Cancel::default())?;
    let setup = "let m = load(\"emoji\"); let text = m.encode(\"a dog\"); let none = m.encode(\"\"); let s = m.schedule(80);";
    run(&worker, setup, None);
    let mut panel = Panel::new(|| Box::new(Count), true);
    run(&worker, RUN, Some(&mut panel));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        without.push(run(&worker, RUN, None));
        with.push(run(&worker, RUN, Some(&mut panel)));
    }
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(a, b)| a / b).collect();
    println!(
        "80 guided steps  without {:.3} s, with {:.3} s, ratio {:.4} (medians of {TURNS} turns)",
        median(without),
        median(with),
        median(ratios)
    );
    Ok(())
}
