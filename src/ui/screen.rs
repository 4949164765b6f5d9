//! Where ratatui draws: cells become escapes, at places counted from where drawing began.
//!
//! The cursor is moved relative to where it was left, so nobody has to ask the terminal where that is: the answer would
//! arrive among the keys that are typed ahead, and some terminals never answer.

use std::io::{self, Write};

use crossterm::cursor::{MoveDown, MoveToColumn, MoveUp};
use crossterm::queue;
use crossterm::style::{
    Attribute, Color as Painted, Colors, Print, SetAttribute, SetColors, force_color_output,
};
use crossterm::terminal::{BeginSynchronizedUpdate, Clear, ClearType as Cleared, EndSynchronizedUpdate};
use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};

/// A rectangle of a terminal. The cursor rests on the line below it, at its left edge; on the whole screen, in its last
/// line.
pub struct Screen<W: Write> {
    out: W,
    size: Size,
    /// Where the cursor rests between frames.
    rest: u16,
    /// The cursor's line, counted from the rectangle's first.
    row: u16,
    /// Whether colors are wanted for text.
    color: bool,
    /// What was told so far is waiting here: a frame is one write.
    frame: Vec<u8>,
}

impl<W: Write> Screen<W> {
    /// Makes room for `size` below the cursor, which stands at the beginning of a line.
    pub fn below(out: W, size: Size, color: bool) -> Self {
        let mut frame = vec![b'\r'];
        frame.extend(std::iter::repeat_n(b'\n', usize::from(size.height)));
        Screen { rest: size.height, row: size.height, ..Screen::new(out, size, color, frame) }
    }

    /// The whole screen, empty, with the cursor in its first line.
    pub fn whole(out: W, size: Size, color: bool) -> Self {
        Screen::new(out, size, color, b"\x1b[H\x1b[2J".to_vec())
    }

    fn new(out: W, size: Size, color: bool, frame: Vec<u8>) -> Self {
        // With NO_COLOR crossterm would leave out all colors, those of pictures too; which are wanted is decided here.
        force_color_output(true);
        Screen { out, size, rest: 0, row: 0, color, frame }
    }

    /// Erases the rectangle and everything below; the cursor stands at the beginning of its first line.
    pub fn erase(&mut self) -> io::Result<()> {
        self.go(0, 0)?;
        queue!(self.frame, Clear(Cleared::FromCursorDown))?;
        self.send()
    }

    fn go(&mut self, x: u16, y: u16) -> io::Result<()> {
        match y {
            y if y < self.row => queue!(self.frame, MoveUp(self.row - y))?,
            y if y > self.row => queue!(self.frame, MoveDown(y - self.row))?,
            _ => {}
        }
        self.row = y;
        queue!(self.frame, MoveToColumn(x))
    }

    fn send(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.out.write_all(&frame)?;
        self.out.flush()
    }
}

impl<W: Write> Backend for Screen<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        queue!(self.frame, BeginSynchronizedUpdate)?;
        let mut next = None;
        let plain = (Color::Reset, Color::Reset, Modifier::empty());
        let mut style = plain;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                self.go(x, y)?;
            }
            next = Some((x + 1, y));
            // Pictures keep their colors where text has none: they are nothing else.
            let painted = self.color || matches!(cell.symbol(), "▀" | "▄");
            let wanted = match painted {
                true => (cell.fg, cell.bg, cell.modifier),
                false => (Color::Reset, Color::Reset, cell.modifier & Modifier::REVERSED),
            };
            if wanted.2 != style.2 {
                queue!(self.frame, SetAttribute(Attribute::Reset))?;
                for (modifier, attribute) in ATTRIBUTES {
                    if wanted.2.contains(*modifier) {
                        queue!(self.frame, SetAttribute(*attribute))?;
                    }
                }
                style = (Color::Reset, Color::Reset, wanted.2);
            }
            if (wanted.0, wanted.1) != (style.0, style.1) {
                let colors = Colors::new(painted_as(wanted.0), painted_as(wanted.1));
                queue!(self.frame, SetColors(colors))?;
                style = wanted;
            }
            queue!(self.frame, Print(cell.symbol()))?;
        }
        if style != plain {
            queue!(self.frame, SetAttribute(Attribute::Reset))?;
        }
        Ok(())
    }

    /// The cursor stays as it is: below a panel it is seen, so that nothing has to be brought back whatever ends the
    /// process; on the whole screen [`crate::term::tty::Full`] hides it.
    fn hide_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::new(0, self.row))
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.go(x, y)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, kind: ClearType) -> io::Result<()> {
        let kind = match kind {
            ClearType::All => {
                self.go(0, 0)?;
                Cleared::FromCursorDown
            }
            ClearType::AfterCursor => Cleared::FromCursorDown,
            ClearType::BeforeCursor => Cleared::FromCursorUp,
            ClearType::CurrentLine => Cleared::CurrentLine,
            ClearType::UntilNewLine => Cleared::UntilNewLine,
        };
        queue!(self.frame, Clear(kind))
    }

    fn size(&self) -> io::Result<Size> {
        Ok(self.size)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.go(0, self.rest)?;
        queue!(self.frame, EndSynchronizedUpdate)?;
        self.send()
    }
}

const ATTRIBUTES: &[(Modifier, Attribute)] = &[
    (Modifier::BOLD, Attribute::Bold),
    (Modifier::DIM, Attribute::Dim),
    (Modifier::UNDERLINED, Attribute::Underlined),
    (Modifier::REVERSED, Attribute::Reverse),
];

fn painted_as(color: Color) -> Painted {
    match color {
        Color::Black => Painted::Black,
        Color::Red => Painted::DarkRed,
        Color::Green => Painted::DarkGreen,
        Color::Yellow => Painted::DarkYellow,
        Color::Blue => Painted::DarkBlue,
        Color::Magenta => Painted::DarkMagenta,
        Color::Cyan => Painted::DarkCyan,
        Color::Gray => Painted::Grey,
        Color::DarkGray => Painted::DarkGrey,
        Color::Indexed(i) => Painted::AnsiValue(i),
        Color::Rgb(r, g, b) => Painted::Rgb { r, g, b },
        _ => Painted::Reset,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::{Terminal, TerminalOptions, Viewport};

    use super::*;

    fn emulator(rows: u16, columns: u16) -> vt100::Parser {
        vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 10)
    }

    /// As the terminal's driver hands it on: a line feed starts the next line.
    fn translated(out: &[u8]) -> Vec<u8> {
        String::from_utf8(out.to_vec()).unwrap().replace('\n', "\r\n").into_bytes()
    }

    fn frame(screen: Screen<&mut Vec<u8>>, size: Size, text: &str) {
        let viewport = Viewport::Fixed(Rect::new(0, 0, size.width, size.height));
        let mut terminal = Terminal::with_options(screen, TerminalOptions { viewport }).unwrap();
        terminal
            .draw(|f| {
                f.buffer_mut().set_string(0, 0, text, ratatui::style::Style::new());
            })
            .unwrap();
    }

    #[test]
    fn a_frame_stands_below_what_was_there_and_the_cursor_below_it() {
        let mut out = Vec::new();
        let size = Size::new(10, 2);
        frame(Screen::below(&mut out, size, false), size, "hello");
        let mut terminal = emulator(6, 20);
        terminal.process(b"before\r\n");
        terminal.process(&translated(&out));
        terminal.process(b"\r\nafter");
        let rows: Vec<String> = terminal.screen().rows(0, 20).collect();
        assert_eq!(rows, ["before", "hello", "", "", "after", ""]);
    }

    #[test]
    fn at_the_lower_edge_the_screen_scrolls() {
        let mut out = Vec::new();
        let size = Size::new(10, 3);
        frame(Screen::below(&mut out, size, false), size, "hello");
        let mut terminal = emulator(5, 20);
        terminal.process(b"1\r\n2\r\n3\r\n4\r\n");
        terminal.process(&translated(&out));
        let rows: Vec<String> = terminal.screen().rows(0, 20).collect();
        assert_eq!(rows, ["4", "hello", "", "", ""]);
        assert_eq!(terminal.screen().cursor_position(), (4, 0));
    }

    #[test]
    fn without_colors_pictures_keep_theirs() {
        // As with NO_COLOR.
        force_color_output(false);
        let mut out = Vec::new();
        let size = Size::new(2, 1);
        let viewport = Viewport::Fixed(Rect::new(0, 0, 2, 1));
        let screen = Screen::below(&mut out, size, false);
        let mut terminal = Terminal::with_options(screen, TerminalOptions { viewport }).unwrap();
        terminal
            .draw(|f| {
                let style = ratatui::style::Style::new().fg(Color::Rgb(1, 2, 3)).bg(Color::Indexed(9));
                f.buffer_mut().set_string(0, 0, "x▀", style);
            })
            .unwrap();
        drop(terminal);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("x\x1b[38;2;1;2;3;48;5;9m▀"), "{text:?}");
    }

    #[test]
    fn a_frame_is_one_synchronized_update() {
        let mut out = Vec::new();
        let size = Size::new(10, 1);
        frame(Screen::whole(&mut out, size, true), size, "x");
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("\x1b[?2026h").count(), 1, "{text:?}");
        assert_eq!(text.matches("\x1b[?2026l").count(), 1, "{text:?}");
    }
}
