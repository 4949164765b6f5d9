//! Lines of numbers drawn as text, with dots of braille (eight to a character) or with ASCII alone.
//!
//! Written here: the crates that draw charts in text bring a terminal or colors with them, and neither logarithms nor gaps.

use unicode_width::UnicodeWidthStr;

use super::error::{Error, Result};

/// Marks of several lines, in order; they begin again after the last.
const MARKS: [char; 8] = ['*', 'o', 'x', '+', '#', '@', '%', '&'];
/// Columns and rows, at least and at most.
const WIDTH: (usize, usize) = (20, 400);
const ROWS: (usize, usize) = (2, 200);
/// Lines in one chart, at most.
pub const MOST_LINES: usize = 26;

/// How a chart is drawn.
#[derive(Clone, Debug)]
pub struct Look {
    /// Columns in all.
    pub width: usize,
    /// Rows of the drawing, without the axis.
    pub height: usize,
    /// A line above; empty: none.
    pub title: String,
    /// A logarithmic scale: what is not above 0 is left out.
    pub log: bool,
    /// No characters beyond ASCII.
    pub ascii: bool,
}

/// Values of one line; where one is no finite number, the line has a gap.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called; empty for a single one.
    pub name: String,
    /// The values, one after another.
    pub values: Vec<f64>,
}

/// Dots in a grid of cells.
struct Canvas {
    columns: usize,
    rows: usize,
    /// Dots of a cell across and down.
    dots: (usize, usize),
    cells: Vec<(u8, Option<char>)>,
}

impl Canvas {
    fn new(columns: usize, rows: usize, dots: (usize, usize)) -> Self {
        Canvas { columns, rows, dots, cells: vec![(0, None); columns * rows] }
    }

    fn set(&mut self, x: i64, y: i64, mark: char) {
        let (x, y) = (x.max(0) as usize, y.max(0) as usize);
        // The bits of braille, by column and row of the dot.
        const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
        let bit = BITS.get(x % self.dots.0).and_then(|c| c.get(y % self.dots.1)).copied().unwrap_or(1);
        let at = y / self.dots.1 * self.columns + x / self.dots.0;
        if x / self.dots.0 < self.columns
            && let Some(cell) = self.cells.get_mut(at)
        {
            *cell = (cell.0 | bit, Some(mark));
        }
    }

    /// The dots between two places.
    fn segment(&mut self, (x0, y0): (i64, i64), (x1, y1): (i64, i64), mark: char) {
        let steps = (x1 - x0).abs().max((y1 - y0).abs()).max(1);
        for i in 0..=steps {
            let between = |a: i64, b: i64| a + ((b - a) as f64 * i as f64 / steps as f64).round() as i64;
            self.set(between(x0, x1), between(y0, y1), mark);
        }
    }

    fn row(&self, y: usize, braille: bool) -> String {
        let cells = self.cells.iter().skip(y * self.columns).take(self.columns);
        let text: String = cells
            .map(|(bits, mark)| match (mark, braille) {
                (None, _) => ' ',
                (Some(_), true) => char::from_u32(0x2800 + u32::from(*bits)).unwrap_or('*'),
                (Some(mark), false) => *mark,
            })
            .collect();
        text.trim_end().to_string()
    }
}

/// A number beside the axis: five characters or a few more.
fn label(x: f64) -> String {
    let size = x.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{x:.1e}");
    }
    let digits = if size >= 100.0 { 1 } else { 4 - (size.max(1.0).log10().floor() as usize + 1).min(3) };
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// The chart as lines of text. Errors: sizes out of range, no lines or too many.
pub fn draw(lines: &[Line], look: &Look) -> Result<String> {
    let bounded = |name: &str, x: usize, (lo, hi): (usize, usize)| {
        if (lo..=hi).contains(&x) {
            return Ok(());
        }
        Err(Error::value("plot", format!("option {name} is out of range"))
            .expected(format!("{lo} to {hi}"))
            .got(x.to_string()))
    };
    bounded("width", look.width, WIDTH)?;
    bounded("height", look.height, ROWS)?;
    if lines.is_empty() || lines.len() > MOST_LINES {
        return Err(Error::value("plot", "there must be lines to draw")
            .expected(format!("1 to {MOST_LINES} lists of numbers"))
            .got(lines.len().to_string()));
    }
    let scaled = |v: f64| if look.log { v.log10() } else { v };
    let shown = |v: &f64| v.is_finite() && scaled(*v).is_finite() && !(look.log && *v <= 0.0);
    let all = lines.iter().flat_map(|l| &l.values);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in all.clone().filter(|v| shown(v)) {
        (low, high) = (low.min(*v), high.max(*v));
    }
    let mut out = Vec::new();
    if !look.title.trim().is_empty() {
        out.push(look.title.trim().replace(['\n', '\r', '\t'], " "));
    }
    let count = lines.iter().map(|l| l.values.len()).max().unwrap_or(0);
    if low > high {
        out.push(if count == 0 {
            "(no values)".into()
        } else {
            format!("(none of {count} values can be drawn)")
        });
        return Ok(out.join("\n"));
    }
    // Above and below a level line there is as much room.
    let (mut bottom, mut top) = (scaled(low), scaled(high));
    if top - bottom <= f64::EPSILON * top.abs().max(bottom.abs()) {
        let room = if bottom == 0.0 || look.log { 0.5 } else { bottom.abs() / 2.0 };
        (bottom, top) = (bottom - room, top + room);
    }
    let back = |y: f64| if look.log { 10f64.powf(y) } else { y };
    // The first and the last row, and one between them where there is room.
    let middle = (look.height > 4).then_some(look.height / 2);
    let rows = [Some(0), middle, Some(look.height - 1)].into_iter().flatten();
    let names: Vec<(usize, String)> = rows
        .map(|row| (row, label(back(top - (top - bottom) * row as f64 / (look.height - 1) as f64))))
        .collect();
    let margin = names.iter().map(|(_, n)| n.len()).max().unwrap_or(0);
    let columns = look.width.saturating_sub(margin + 2).max(4);
    let single = lines.len() == 1;
    let braille = single && !look.ascii;
    let mut canvas = Canvas::new(columns, look.height, if braille { (2, 4) } else { (1, 1) });
    let (across, down) =
        ((canvas.columns * canvas.dots.0 - 1) as f64, (canvas.rows * canvas.dots.1 - 1) as f64);
    let last = count.saturating_sub(1).max(1) as f64;
    for (line, mark) in lines.iter().zip(MARKS.iter().cycle()) {
        let mut before = None;
        for (i, v) in line.values.iter().enumerate() {
            if !shown(v) {
                before = None;
                continue;
            }
            let share = ((scaled(*v) - bottom) / (top - bottom)).clamp(0.0, 1.0);
            let at = ((i as f64 / last * across).round() as i64, ((1.0 - share) * down).round() as i64);
            canvas.segment(before.unwrap_or(at), at, *mark);
            before = Some(at);
        }
    }
    let (tick, side, corner, floor) =
        if look.ascii { ('+', '|', '+', "-") } else { ('┤', '│', '└', "─") };
    for row in 0..look.height {
        let name = names.iter().find(|(r, _)| *r == row).map(|(_, n)| n.as_str());
        let edge = if name.is_some() { tick } else { side };
        let text = format!("{:>margin$} {edge}{}", name.unwrap_or(""), canvas.row(row, braille));
        out.push(text.trim_end().to_string());
    }
    out.push(format!("{:>margin$} {corner}{}", "", floor.repeat(columns)));
    let end = (count - 1).to_string();
    let space = columns.saturating_sub(1 + end.len()).max(1);
    out.push(match count {
        1 => format!("{:>margin$}  0", ""),
        _ => format!("{:>margin$}  0{}{end}", "", " ".repeat(space)),
    });
    if !single {
        let legend = lines.iter().zip(MARKS.iter().cycle()).map(|(l, m)| format!("{m} {}", l.name));
        out.extend(filled(legend, look.width, margin + 2));
    }
    let gaps = all.filter(|v| !shown(v)).count();
    if gaps > 0 {
        let why = if look.log { "not above 0, or no numbers" } else { "no finite numbers" };
        out.push(format!(
            "{:>margin$}  left out: {gaps} of {} values, {why}",
            "",
            lines.iter().map(|l| l.values.len()).sum::<usize>()
        ));
    }
    Ok(out.join("\n"))
}

/// Words side by side in lines that begin `indent` columns in.
fn filled(words: impl Iterator<Item = String>, width: usize, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.width() + 3 + word.width() <= width => {
                line.push_str("   ");
                line.push_str(&word);
            }
            _ => lines.push(format!("{}{word}", " ".repeat(indent))),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: usize, height: usize) -> Look {
        Look { width, height, title: String::new(), log: false, ascii: true }
    }

    fn line(values: &[f64]) -> Line {
        Line { name: String::new(), values: values.to_vec() }
    }

    #[test]
    fn a_slope_goes_from_corner_to_corner() {
        let text = draw(&[line(&[0.0, 1.0, 2.0, 3.0])], &look(20, 4)).unwrap();
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].starts_with("3 +") && rows[0].ends_with('*') && rows[0].len() == 20, "{text}");
        assert!(rows[3].starts_with("0 +*"), "{text}");
        assert_eq!(rows[4], format!("  +{}", "-".repeat(17)));
        assert_eq!(rows[5], format!("   0{}3", " ".repeat(15)));
        assert!(text.is_ascii());
    }

    #[test]
    fn braille_has_eight_dots_to_a_character() {
        let values: Vec<f64> = (0..72).map(f64::from).collect();
        let text = draw(&[line(&values)], &Look { ascii: false, ..look(40, 6) }).unwrap();
        // One dot a column of dots: every cell of the drawing holds a few of them.
        let cells: String = text.chars().filter(|c| ('\u{2800}'..='\u{28ff}').contains(c)).collect();
        let dots: u32 = cells.chars().map(|c| (c as u32 - 0x2800).count_ones()).sum();
        assert!(dots >= 70 && text.lines().all(|l| l.width() <= 40), "{dots}\n{text}");
        assert!(text.lines().next().unwrap().contains("71") && text.contains('└'), "{text}");
    }

    #[test]
    fn gaps_levels_and_single_values_are_drawn() {
        let marks = |text: &str| text.matches('*').count();
        let text = draw(&[line(&[1.0, f64::NAN, 3.0, f64::INFINITY, 1.0])], &look(30, 5)).unwrap();
        assert_eq!(marks(&text), 3, "{text}");
        assert!(text.contains("left out: 2 of 5 values, no finite numbers"), "{text}");
        let text = draw(&[line(&[2.0; 9])], &look(30, 5)).unwrap();
        assert!(text.contains("3 +") && text.contains("1 +") && marks(&text) == 27, "{text}");
        let text = draw(&[line(&[0.0])], &look(30, 5)).unwrap();
        assert!(marks(&text) == 1 && text.ends_with("  0"), "{text}");
        for values in [&[][..], &[f64::NAN, f64::NAN][..]] {
            let text = draw(&[line(values)], &Look { title: "loss".into(), ..look(30, 5) }).unwrap();
            assert!(text.starts_with("loss\n(no"), "{text}");
        }
        let text = draw(&[line(&[f64::MAX, f64::MIN, 1e-300])], &look(30, 5)).unwrap();
        assert!(text.lines().all(|l| l.len() <= 30), "{text}");
    }

    #[test]
    fn a_logarithmic_scale_spreads_powers_evenly() {
        let log = Look { log: true, ..look(21, 5) };
        let text = draw(&[line(&[1.0, 0.1, 0.01])], &log).unwrap();
        let rows: Vec<&str> = text.lines().collect();
        assert!(
            rows[0].contains("1 +*") && rows[2].contains("0.1 +") && rows[4].contains("0.01 +"),
            "{text}"
        );
        let text = draw(&[line(&[0.0, -1.0, 10.0])], &log).unwrap();
        assert!(text.contains("left out: 2 of 3 values, not above 0"), "{text}");
    }

    #[test]
    fn several_lines_have_marks_and_a_legend() {
        let many: Vec<Line> = [("train", 1.0), ("held out", 2.0), ("a very long name indeed", 3.0)]
            .into_iter()
            .map(|(n, v)| Line { name: n.into(), values: vec![v, v] })
            .collect();
        let text = draw(&many, &Look { ascii: false, ..look(36, 6) }).unwrap();
        assert!(text.contains("* train   o held out\n") && text.contains("x a very long name"), "{text}");
        assert!(text.lines().any(|l| l.contains("ooo")) && text.lines().all(|l| l.width() <= 36), "{text}");
    }

    #[test]
    fn sizes_are_checked() {
        assert!(draw(&[line(&[1.0])], &look(3, 5)).is_err() && draw(&[line(&[1.0])], &look(40, 1)).is_err());
        assert!(draw(&[], &look(40, 5)).is_err());
    }
}
