//! kitty's Unicode placeholders: text cells that hold pieces of a picture, so that it scrolls, clips and survives in tmux
//! like text. The color of a cell names the picture, marks above it name the row and the column.

use std::fmt::Write;

/// The character of every cell.
pub(super) const CELL: char = '\u{10EEEE}';

/// Marks that count rows and columns: the first of those that kitty's protocol lists.
pub(super) const MARKS: [char; 96] = [
    '\u{305}', '\u{30d}', '\u{30e}', '\u{310}', '\u{312}', '\u{33d}', '\u{33e}', '\u{33f}', '\u{346}',
    '\u{34a}', '\u{34b}', '\u{34c}', '\u{350}', '\u{351}', '\u{352}', '\u{357}', '\u{35b}', '\u{363}',
    '\u{364}', '\u{365}', '\u{366}', '\u{367}', '\u{368}', '\u{369}', '\u{36a}', '\u{36b}', '\u{36c}',
    '\u{36d}', '\u{36e}', '\u{36f}', '\u{483}', '\u{484}', '\u{485}', '\u{486}', '\u{487}', '\u{592}',
    '\u{593}', '\u{594}', '\u{595}', '\u{597}', '\u{598}', '\u{599}', '\u{59c}', '\u{59d}', '\u{59e}',
    '\u{59f}', '\u{5a0}', '\u{5a1}', '\u{5a8}', '\u{5a9}', '\u{5ab}', '\u{5ac}', '\u{5af}', '\u{5c4}',
    '\u{610}', '\u{611}', '\u{612}', '\u{613}', '\u{614}', '\u{615}', '\u{616}', '\u{617}', '\u{657}',
    '\u{658}', '\u{659}', '\u{65a}', '\u{65b}', '\u{65d}', '\u{65e}', '\u{6d6}', '\u{6d7}', '\u{6d8}',
    '\u{6d9}', '\u{6da}', '\u{6db}', '\u{6dc}', '\u{6df}', '\u{6e0}', '\u{6e1}', '\u{6e2}', '\u{6e4}',
    '\u{6e7}', '\u{6e8}', '\u{6eb}', '\u{6ec}', '\u{730}', '\u{732}', '\u{733}', '\u{735}', '\u{736}',
    '\u{73a}', '\u{73d}', '\u{73f}', '\u{740}', '\u{741}', '\u{743}',
];

/// The lines of text that show picture `id` (24 bits, the color) in so many columns and rows, at most 96 each way.
pub(super) fn lines(id: u32, cells: (u16, u16)) -> String {
    let [_, r, g, b] = id.to_be_bytes();
    let mut out = String::new();
    for row in MARKS.iter().take(usize::from(cells.1)) {
        let _ = write!(out, "\x1b[38;2;{r};{g};{b}m");
        // Each cell says where it belongs: what redraws a part of the line (tmux) needs no neighbor for it.
        for column in MARKS.iter().take(usize::from(cells.0)) {
            out.extend([CELL, *row, *column]);
        }
        out.push_str("\x1b[39m\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_names_its_picture_row_and_column() {
        let text = lines(0x0a_141e, (3, 2));
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 2);
        for (y, row) in rows.iter().enumerate() {
            let cells = row.strip_prefix("\x1b[38;2;10;20;30m").unwrap().strip_suffix("\x1b[39m").unwrap();
            let marks: Vec<char> = cells.chars().collect();
            assert_eq!(marks.len(), 9);
            for (x, cell) in marks.chunks(3).enumerate() {
                let place = |mark: char| MARKS.iter().position(|m| *m == mark);
                assert_eq!((cell[0], place(cell[1]), place(cell[2])), (CELL, Some(y), Some(x)));
            }
        }
    }

    #[test]
    fn no_mark_counts_twice() {
        let mut all = MARKS.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MARKS.len());
    }
}
