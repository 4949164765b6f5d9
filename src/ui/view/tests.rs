use ratatui::backend::TestBackend;

use super::*;
use crate::script::view::{Cell, Curve, Gap, Inside, Level, Map, Maps, Run, Runs, SiteRow, WeightRow};

/// What a page looks like, through ratatui's own backend for tests.
fn screen(page: &mut dyn Page, (columns, rows): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(page, "", frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().to_string()
}

fn press(page: &mut dyn Page, keys: &[Key]) -> Act {
    keys.iter().fold(Act::Stay, |_, key| page.key(*key))
}

fn picture(side: u32, shade: u8) -> Arc<RgbImage> {
    Arc::new(RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, shade])))
}

fn run(name: &str, steps: usize) -> Run {
    let level = |i: usize| {
        let noise = 1.0 - i as f64 / steps as f64;
        let left = i < steps;
        Level {
            i,
            t: left.then_some(981.0 - 30.0 * i as f64),
            noise,
            z: 1.0 - 0.02 * i as f64,
            x0: left.then_some(0.6 + 0.01 * i as f64),
            eps: left.then_some(1.0),
            prompt: left.then(|| "a dog in the snow".to_string()),
            edited: i == 4,
            preview: Some(picture(16, 20)),
        }
    };
    let about = format!("\"a dog in the snow\"  ddim  {} levels  finished", steps + 1);
    Run { name: name.into(), about, pictures: 1, levels: (0..=steps).map(level).collect() }
}

fn one() -> Box<dyn Page> {
    page(View::Runs(Runs { runs: vec![run("a", 30)], gaps: Vec::new(), apart: None }), true)
}

fn two() -> Box<dyn Page> {
    let gaps = (0..=30).map(|i| Gap { i, z: i as f64 * 0.4, x0: (i < 30).then_some(i as f64) }).collect();
    page(View::Runs(Runs { runs: vec![run("a", 30), run("b", 30)], gaps, apart: None }), true)
}

#[test]
fn a_run_level_by_level() {
    let mut page = one();
    insta::assert_snapshot!("run_at_its_end", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Home, Key::PageDown, Key::Left]);
    insta::assert_snapshot!("run_in_the_middle", screen(&mut *page, (80, 24)));
    // Neither end can be passed.
    press(&mut *page, &[Key::End, Key::Right, Key::PageDown]);
    assert!(screen(&mut *page, (80, 24)).contains("level 30 of 30"));
    press(&mut *page, &[Key::Home, Key::Left]);
    assert!(screen(&mut *page, (80, 24)).contains("level 0 of 30"));
}

#[test]
fn a_fork_is_put_into_the_prompt() {
    let mut page = one();
    let act = press(&mut *page, &[Key::Home, Key::Right, Key::Right, Key::Char('f')]);
    assert_eq!(act, Act::Prompt("let fork = a.fork(2)".into()));
    let mut page = two();
    let act = press(&mut *page, &[Key::Home, Key::Tab, Key::Char('f')]);
    assert_eq!(act, Act::Prompt("let fork = b.fork(0)".into()));
}

#[test]
fn levels_are_decoded_when_one_rests_there_and_slow_decoders_when_asked() {
    let mut page = one();
    assert_eq!(page.wish(), Act::Stay, "the level was just reached");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(page.wish(), Act::Decode("a".into(), 30));
    assert_eq!(page.wish(), Act::Stay, "asked once");
    page.decoded("a", 30, Ok(picture(64, 0)), Duration::from_secs(3));
    assert!(screen(&mut *page, (80, 24)).contains("(decoded)"));
    press(&mut *page, &[Key::Home]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(page.wish(), Act::Stay, "the decoder is slow");
    assert_eq!(press(&mut *page, &[Key::Char('d')]), Act::Decode("a".into(), 0));
}

#[test]
fn two_runs_beside_each_other() {
    let mut page = two();
    press(&mut *page, &[Key::Home, Key::PageDown]);
    insta::assert_snapshot!("two_runs", screen(&mut *page, (80, 24)));
    let runs =
        Runs { runs: vec![run("a", 30), run("b", 10)], gaps: Vec::new(), apart: Some("other levels".into()) };
    let mut page = super::page(View::Runs(runs), true);
    assert!(screen(&mut *page, (80, 24)).contains("not compared level by level: other levels"));
    assert!(screen(&mut *page, (80, 24)).contains("not reached"));
    assert_eq!(press(&mut *page, &[Key::Tab, Key::Char('f')]), Act::Stay, "that level cannot be forked");
}

fn sheet(n: usize) -> Box<dyn Page> {
    let cell = |i: usize| Cell { label: format!("nu 0.{i}  seed {i}"), picture: picture(64, i as u8) };
    page(View::Sheet((0..n).map(cell).collect()), true)
}

#[test]
fn a_contact_sheet() {
    let mut page = sheet(6);
    press(&mut *page, &[Key::Right]);
    insta::assert_snapshot!("sheet", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Enter]);
    insta::assert_snapshot!("sheet_enlarged", screen(&mut *page, (80, 24)));
    assert_eq!(press(&mut *page, &[Key::Escape]), Act::Stay, "back to all of them");
    let Act::Save(saved, name) = press(&mut *page, &[Key::Char('s')]) else { panic!("nothing is saved") };
    assert_eq!((saved, name.as_str()), (picture(64, 1), "nu-0_1-seed-1.png"));
    assert_eq!(press(&mut *page, &[Key::Escape]), Act::Leave);
}

#[test]
fn a_long_sheet_scrolls() {
    let mut page = sheet(100);
    screen(&mut *page, (80, 24));
    press(&mut *page, &[Key::End]);
    assert!(screen(&mut *page, (80, 24)).contains("nu 0.99"));
    press(&mut *page, &[Key::PageUp]);
    assert!(screen(&mut *page, (80, 24)).contains("92 of 100"));
}

fn attention() -> Box<dyn Page> {
    let map = |l: usize, s: usize| {
        let word = |w: usize| (0..16).map(|i| (i * (w + 1) + l + s) as f32 / 100.0).collect();
        Some(Map { side: (4, 4), words: (0..3).map(word).collect() })
    };
    let layers: Vec<String> =
        (0..2).map(|l| format!("up_blocks.1.attentions.{l}.transformer_blocks.0.attn2")).collect();
    let mut maps: Vec<Vec<Option<Map>>> = (0..2).map(|l| (0..5).map(|s| map(l, s)).collect()).collect();
    maps[1][4] = None;
    let words = ["a", "dog", "snow"].map(String::from).to_vec();
    let maps = Maps { prompt: "a dog snow".into(), words, layers, steps: 5, maps };
    page(View::Attention(maps), true)
}

#[test]
fn attention_by_words_layers_and_steps() {
    let mut page = attention();
    insta::assert_snapshot!("attention_words", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Tab, Key::Right, Key::Char('l')]);
    insta::assert_snapshot!("attention_layers", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Down, Key::Down, Key::Char('t')]);
    let shown = screen(&mut *page, (80, 24));
    assert!(shown.contains("step 4  not kept"), "{shown}");
}

fn curves() -> Box<dyn Page> {
    let of = |name: &str, k: f64| Curve {
        name: name.into(),
        values: (1..=200).map(|i| k / f64::from(i)).collect(),
    };
    page(View::Curves(vec![of("found.losses", 1.0), of("other", 3.0)]), true)
}

#[test]
fn curves_over_steps() {
    let mut page = curves();
    press(&mut *page, &[Key::Home, Key::PageDown]);
    insta::assert_snapshot!("curves", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Char('l'), Key::Char('m')]);
    insta::assert_snapshot!("curves_logarithmic", screen(&mut *page, (80, 24)));
    for values in [vec![f64::NAN, f64::INFINITY], vec![0.0, 0.0], vec![-1.0, 1e300]] {
        let mut page = page_of_curve(values);
        press(&mut *page, &[Key::Char('l')]);
        screen(&mut *page, (80, 24));
    }
    // Values that are no numbers are steps, too.
    let values = vec![f64::NAN, 2.0, f64::INFINITY, 0.5, 3.0];
    let mut page = page_of_curve(values);
    assert!(screen(&mut *page, (80, 24)).contains("least 0.5 at step 3"));
}

fn page_of_curve(values: Vec<f64>) -> Box<dyn Page> {
    page(View::Curves(vec![Curve { name: "odd".into(), values }]), true)
}

fn model() -> Box<dyn Page> {
    let site = |i: usize| SiteRow {
        path: format!("down_blocks.{i}.attentions.0.transformer_blocks.0.attn2"),
        kind: "cross-attention",
        alias: String::new(),
        shape: "4 heads, 256 x 77".into(),
        weights: 49_152,
        hooks: "on_probs record inject reweight",
    };
    let weight = |i: usize| WeightRow {
        name: format!("unet.down_blocks.{i}.resnets.0.conv1.weight"),
        shape: "[64, 64, 3, 3]".into(),
        count: 36_864,
        note: if i == 1 { "LoRA" } else { "" },
    };
    let inside = Inside {
        name: "m".into(),
        facts: vec![("weights".into(), "12.8 M, 48.8 MiB".into())],
        sites: (0..40).map(site).collect(),
        weights: (0..3).map(weight).collect(),
    };
    page(View::Model(inside), true)
}

#[test]
fn a_model_from_inside() {
    let mut page = model();
    press(&mut *page, &[Key::Down, Key::Down]);
    insta::assert_snapshot!("model_sites", screen(&mut *page, (80, 24)));
    press(&mut *page, &[Key::Tab, Key::Char('/')]);
    assert!(page.is_typing());
    "lora".chars().for_each(|c| _ = page.key(Key::Char(c)));
    insta::assert_snapshot!("model_search", screen(&mut *page, (80, 24)));
    assert_eq!(press(&mut *page, &[Key::Enter, Key::Escape]), Act::Stay, "the search is dropped first");
    assert_eq!(press(&mut *page, &[Key::Escape]), Act::Leave);
}

#[test]
fn a_save_that_fails_is_told_by_the_page_or_after_it() {
    let failed = || Answer::Saved(Err(Box::new(Report::new("file", "the disk is full"))));
    let (mut heard, mut page) = (Heard::default(), sheet(1));
    heard.take(failed(), Duration::ZERO, Some(&mut *page));
    assert_eq!((heard.note.as_str(), heard.failed.len()), ("the disk is full", 0));
    heard.take(failed(), Duration::ZERO, None);
    assert_eq!(heard.failed[0].title, "the disk is full");
}

#[test]
fn no_window_makes_a_page_fail() {
    for mut page in [one(), two(), sheet(1), sheet(9), attention(), curves(), model()] {
        for columns in (0..140).step_by(3) {
            for rows in 0..40 {
                let area = Rect::new(0, 0, columns, rows);
                draw(&mut *page, "note", area, &mut Buffer::empty(area));
            }
        }
    }
    let mut page = one();
    assert!(screen(&mut *page, (39, 24)).contains("make the window larger"));
}
