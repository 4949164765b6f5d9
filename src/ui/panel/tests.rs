use std::sync::Mutex;

use ratatui::backend::TestBackend;

use super::*;

const COLORS: Colors = Colors { text: true, pictures: true, truecolor: true };

/// What a frame looks like, through ratatui's own backend for tests.
fn frame(shown: &Shown, (columns, window): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns - 1, shown.rows(window))).unwrap();
    terminal.draw(|frame| draw(shown, frame.area(), frame.buffer_mut())).unwrap();
    timeless(terminal.backend().to_string())
}

/// A text in which the clock stands still: a machine may be slow.
fn timeless(mut text: String) -> String {
    let before = text.find(" s so far").map(|at| at - 3);
    let after = text.find("working   ").map(|at| at + 10);
    for at in before.into_iter().chain(after) {
        text.replace_range(at..at + 3, "3.2");
    }
    text
}

fn pictures(n: u32, side: u32) -> (String, Arc<Vec<RgbImage>>) {
    let one = |k: u32| {
        RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * 9) as u8, (y * 9) as u8, (k * 60) as u8]))
    };
    ("prediction".into(), Arc::new((0..n).map(one).collect()))
}

fn shown<'a>(
    progress: &'a Progress,
    preview: Option<&'a (String, Arc<Vec<RgbImage>>)>,
    losses: &'a [(f64, f64)],
) -> Shown<'a> {
    Shown { title: "imagic", progress, memory: Some(161 << 20), preview, losses, colors: COLORS }
}

fn losses(n: usize) -> Vec<(f64, f64)> {
    (1..=n).map(|i| (i as f64, 0.3 / (i as f64).sqrt() + if i % 3 == 0 { 0.02 } else { 0.0 })).collect()
}

#[test]
fn steps_only() {
    let p = Progress::example("sampling", (12, 50), 9.8);
    insta::assert_snapshot!(frame(&shown(&p, None, &[]), (80, 24)));
}

#[test]
fn a_preview_beside_the_text() {
    let p = Progress::example("sampling", (12, 50), 9.8);
    let preview = pictures(1, 16);
    insta::assert_snapshot!(frame(&shown(&p, Some(&preview), &[]), (80, 24)));
}

#[test]
fn several_previews_leave_room_for_the_text() {
    let preview = pictures(4, 16);
    for size in [(80, 24), (40, 12)] {
        let p = Progress::example("sampling", (49, 50), 120.0);
        insta::assert_snapshot!(frame(&shown(&p, Some(&preview), &[]), size));
    }
}

#[test]
fn what_does_not_fit_beside_the_previews_stands_in_the_next_line_whole() {
    let p = Progress::example("sampling", (21, 150), 53.0);
    let preview = pictures(4, 16);
    let text = frame(&shown(&p, Some(&preview), &[]), (88, 24));
    let lines: Vec<&str> = text.lines().map(|l| l.trim_matches('"').trim_end()).collect();
    let left = p.left().unwrap() + " left";
    assert!(lines[1].ends_with("it/s") && !lines[1].contains("left"), "{text}");
    assert!(lines[3].contains(&left) && lines[4].ends_with("prediction, 3 of 4"), "{text}");
}

#[test]
fn a_curve_below_the_text() {
    let mut p = Progress::example("tuning", (120, 200), 0.7);
    p.loss("tuning", 1, 0.0312);
    insta::assert_snapshot!(frame(&shown(&p, None, &losses(120)), (80, 24)));
    let preview = pictures(1, 16);
    insta::assert_snapshot!(frame(&shown(&p, Some(&preview), &losses(120)), (100, 45)));
}

#[test]
fn something_without_steps_is_at_work() {
    let p = Progress::example("", (0, 0), 1.0);
    insta::assert_snapshot!(frame(&Shown { title: "", ..shown(&p, None, &[]) }, (60, 24)));
}

#[test]
fn no_window_makes_drawing_fail() {
    let p = Progress::example("sampling", (12, 50), 9.8);
    let (preview, losses) = (pictures(4, 64), losses(50));
    let all = shown(&p, Some(&preview), &losses);
    for columns in 0..130 {
        for rows in 0..20 {
            let area = Rect::new(0, 0, columns, rows);
            draw(&all, area, &mut ratatui::buffer::Buffer::empty(area));
        }
    }
}

#[test]
fn a_long_curve_stays_small_and_true() {
    let mut data = Data::default();
    for i in 1..=100_000 {
        data.loss("tuning", i, 2.0 + (i % 2) as f64);
    }
    assert!(data.losses.len() < 2 * POINTS, "{}", data.losses.len());
    assert!(data.losses.iter().all(|p| (p.1 - 2.5).abs() < 0.51));
    // The next run begins anew; what is no number leaves a gap.
    data.loss("tuning", 1, f64::NAN);
    data.loss("tuning", 2, 1.0);
    assert_eq!(data.losses, [(2.0, 1.0)]);
}

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Written;

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn text_goes_above_and_the_last_frame_stays() {
    let mut panel = Panel::new(|| Box::new(Written), true);
    panel.begin(Looking::default());
    let write = |text: &str| WRITTEN.lock().unwrap().extend_from_slice(text.as_bytes());
    for i in 1..=3 {
        let p = Progress::example("sampling", (i, 3), 10.0);
        panel.draw("mine", &p, COLORS);
        panel.hide();
        write(&format!("line {i}\r\n"));
    }
    panel.freeze("mine", &Progress::example("sampling", (3, 3), 10.0), COLORS);
    panel.end();
    write("after");
    // A terminal turns a line feed into the start of the next line.
    let written = String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap();
    let written = written.replace("\r\n", "\n").replace('\n', "\r\n");
    assert!(!written.contains("\x1b[6n"), "the terminal is never asked");
    let mut terminal = vt100::Parser::new(12u16.try_into().unwrap(), 80u16.try_into().unwrap(), 50);
    terminal.process(written.as_bytes());
    let rows: Vec<String> = terminal.screen().rows(0, 80).map(|r| r.trim_end().to_string()).collect();
    assert_eq!(rows[..3], ["line 1", "line 2", "line 3"]);
    assert!(rows[3].starts_with("── mine: sampling ──"), "{rows:#?}");
    assert!(rows[4].starts_with("step 3 of 3"), "{rows:#?}");
    assert_eq!(rows[7], "after", "{rows:#?}");
}

#[test]
fn a_slow_line_gets_fewer_frames_and_then_no_pictures() {
    let looking = Looking::default();
    let mut panel = Panel::new(|| Box::new(io::sink()), true);
    panel.begin(looking.clone());
    looking.set(Some(PERIOD));
    panel.event(&Event::Preview { title: "prediction".into(), pictures: pictures(1, 4).1 });
    panel.pace(Duration::from_millis(20));
    assert_eq!(panel.period, PERIOD);
    panel.pace(Duration::from_millis(150));
    assert_eq!(panel.period, PERIOD * 2);
    assert!(panel.data.preview.is_some() && looking.due());
    panel.pace(Duration::from_millis(600));
    assert!(panel.data.preview.is_none());
    std::thread::sleep(Duration::from_millis(2));
    assert!(!looking.due(), "no more pictures are made");
    // What comes late is not shown, and frames that are small without pictures do not bring them back.
    panel.event(&Event::Preview { title: "prediction".into(), pictures: pictures(1, 4).1 });
    // One that has not made any yet: the first is due as soon as they are wanted.
    let fresh = Looking::default();
    panel.looking = fresh.clone();
    panel.pace(Duration::from_millis(150));
    assert!(panel.data.preview.is_none() && !fresh.due());
    panel.begin(fresh.clone());
    panel.look();
    panel.pace(Duration::from_millis(150));
    assert!(fresh.due(), "the next request tries again");
}
