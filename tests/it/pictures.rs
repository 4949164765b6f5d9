//! Pictures on a terminal, read again from what was written; and the ways in which they leave the machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use image::{Rgb, RgbImage};

use crate::program::{Room, until};
use crate::terminal::Terminal;

const LONG: Duration = Duration::from_secs(60);

/// Sixteen by sixteen pixels, all different.
fn small(room: &Room) -> RgbImage {
    let picture = RgbImage::from_fn(16, 16, |x, y| {
        Rgb([(x * 17) as u8, (y * 17) as u8, ((x * 5 + y * 11) % 256) as u8])
    });
    picture.save(room.path("small.png")).unwrap();
    picture
}

/// Half-blocks as pixels: an upper or lower half with two colors, in lines that all have one width. What is no half-block is
/// left out.
fn half_blocks(text: &str) -> RgbImage {
    let mut rows: Vec<Vec<([u8; 3], [u8; 3])>> = Vec::new();
    for line in text.lines() {
        let (mut fore, mut back) = ([0; 3], [0; 3]);
        let mut row = Vec::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\x1b' => {
                    let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else { break };
                    let codes: Vec<u8> =
                        rest[1..end].split([';', ':']).filter_map(|n| n.parse().ok()).collect();
                    let mut codes = &codes[..];
                    while let [first, more @ ..] = codes {
                        codes = match (*first, more) {
                            (38, [2, r, g, b, left @ ..]) => {
                                fore = [*r, *g, *b];
                                left
                            }
                            (48, [2, r, g, b, left @ ..]) => {
                                back = [*r, *g, *b];
                                left
                            }
                            _ => more,
                        };
                    }
                    rest = &rest[end + 1..];
                }
                '▄' => row.push((back, fore)),
                '▀' => row.push((fore, back)),
                _ => {}
            }
        }
        if !row.is_empty() {
            rows.push(row);
        }
    }
    let width = rows.first().map_or(0, Vec::len);
    assert!(rows.iter().all(|r| r.len() == width), "{:?}", rows.iter().map(Vec::len).collect::<Vec<_>>());
    RgbImage::from_fn(width as u32, rows.len() as u32 * 2, |x, y| {
        let (upper, lower) = rows[y as usize / 2][x as usize];
        Rgb(if y % 2 == 0 { upper } else { lower })
    })
}

/// Whether `large` is `picture` with each pixel `times` times as wide and high.
fn assert_enlarged(large: &RgbImage, picture: &RgbImage, times: u32) {
    assert_eq!(large.dimensions(), (picture.width() * times, picture.height() * times));
    for (x, y, p) in large.enumerate_pixels() {
        assert_eq!(p, picture.get_pixel(x / times, y / times), "{x},{y}");
    }
}

#[test]
fn half_blocks_are_the_pixels_of_a_latent() {
    let room = Room::new();
    let picture = small(&room);
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "blocks").env("COLORTERM", "truecolor");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.prompts();
    let text = terminal.enters("open(\"small.png\")");
    assert_enlarged(&half_blocks(&text), &picture, 2);
}

#[test]
fn without_24_bits_the_nearest_of_256_colors_are_taken() {
    let room = Room::new();
    RgbImage::from_pixel(8, 8, Rgb([250, 3, 2])).save(room.path("red.png")).unwrap();
    let mut command = room.command(&["--no-init"]);
    command.env("SCUMBLE_GRAPHICS", "blocks");
    let Some(mut terminal) = Terminal::run(command) else { return };
    terminal.prompts();
    let text = terminal.enters("open(\"red.png\")");
    assert!(text.contains("8;5;196") && !text.contains("8;2;"), "{text:?}");
}

#[test]
fn a_terminal_with_sixel_gets_sixel_and_is_asked_for_its_colors() {
    let room = Room::new();
    small(&room);
    let Some(mut terminal) = Terminal::run(room.command(&["--no-init"])) else { return };
    terminal.shows("\x1b[c");
    terminal.types("1 +\x1bP>|XTerm(379)\x1b\\\x1bP1$r0;48:2::1:2:3m\x1b\\\x1bP0+r524742\x1b\\\x1b[6;20;10t\x1b[?64;1;4c");
    terminal.shows("\x1b[?1;3;256S\x1b[?1;1;0S\x1b[c");
    terminal.types("\x1b[?1;0;16S 2\x1b[?1;0;16S\x1b[?64;1;4c\r");
    terminal.shows("pictures as sixel");
    // What was typed among the answers is there.
    terminal.shows("\x1b\\3\r\n");
    terminal.prompts();
    let text = terminal.enters("open(\"small.png\")");
    // 32 columns of 10 pixels; 16 rows of 20 are reserved, and no more than 16 colors are defined.
    assert!(text.contains("\x1b[16A\x1b7\x1bP0;1;0q\"1;1;320;320#0;2;"), "{text:?}");
    assert!(text.contains("#15;2;") && !text.contains("#16;2;"));
    let report = terminal.enters(":doctor");
    assert!(report.contains("sixel: the terminal says that it is XTerm(379)"), "{report}");
    assert!(report.contains("24-bit colors") && report.contains("also here: blocks"), "{report}");
}

#[test]
fn the_test_card_is_shown_in_each_way() {
    let room = Room::new();
    let mut command = room.command(&["doctor", "--pictures"]);
    command.env("SCUMBLE_GRAPHICS", "kitty");
    let Some(mut terminal) = Terminal::run(command) else { return };
    assert_eq!(terminal.ends(), 0);
    terminal.shows("kitty  (chosen: SCUMBLE_GRAPHICS=kitty)");
    terminal.shows("\x1b_Ga=T,f=100,q=2,i=");
    terminal.shows("blocks  (claimed");
    terminal.shows("16 x 16 pixels");
    // Through a pipe there is nothing to show.
    let done = room.run(&["doctor", "--pictures"]);
    assert_eq!((done.code, &*done.out), (0, ""));
    assert!(done.err.contains("stdout is no terminal"), "{}", done.err);
}

/// A tmux of its own, without anybody's configuration; ended when it is dropped.
struct Tmux {
    socket: std::path::PathBuf,
}

impl Tmux {
    /// Starts the program in it, 80 columns wide. `None`, with a word about it: there is no tmux here.
    fn start(room: &Room, options: &[&str], environment: &[(&str, &str)]) -> Option<Tmux> {
        let there = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !there.is_ok_and(|s| s.success()) {
            eprintln!("tmux is not here: not tested");
            return None;
        }
        let tmux = Tmux { socket: room.path("tmux.socket") };
        let mut words =
            vec!["exec env -i TMUX=\"$TMUX\" TMUX_PANE=\"$TMUX_PANE\" TERM=\"$TERM\"".to_string()];
        words.extend(room.environment().iter().map(|(k, v)| format!("{k}='{}'", v.display())));
        words.extend(environment.iter().map(|(k, v)| format!("{k}={v}")));
        words.push(format!("'{}' --no-init", env!("CARGO_BIN_EXE_scumble")));
        let folder = room.path("");
        let folder = folder.to_str().unwrap();
        // A server first, so that its options are there before the program looks.
        tmux.call(&["new-session", "-d", "-s", "first", "-x", "80", "-y", "30", "sleep 600"]);
        options.iter().for_each(|o| {
            tmux.call(&["set-option", "-g", o, "on"]);
        });
        tmux.call(&["new-session", "-d", "-s", "it", "-x", "80", "-y", "30", "-c", folder, &words.join(" ")]);
        until("the prompt", LONG, || tmux.screen().contains("scumble>"));
        Some(tmux)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(args);
        command.env_remove("TMUX");
        command
    }

    fn call(&self, args: &[&str]) -> String {
        let done = self.command(args).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The screen with its colors.
    fn screen(&self) -> String {
        self.call(&["capture-pane", "-e", "-p", "-t", "it"])
    }

    fn types(&self, line: &str) {
        self.call(&["send-keys", "-t", "it", "-l", line]);
        self.call(&["send-keys", "-t", "it", "Enter"]);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).stderr(Stdio::null()).status();
    }
}

#[test]
fn in_tmux_pictures_are_half_blocks_and_its_options_stay() {
    let room = Room::new();
    let picture = small(&room);
    let Some(tmux) = Tmux::start(&room, &[], &[]) else { return };
    let options = || (tmux.call(&["show-options", "-g"]), tmux.call(&["show-window-options", "-g"]));
    let title = || tmux.call(&["display-message", "-p", "-t", "it", "#{pane_title}"]);
    let before = (options(), title());
    assert!(tmux.screen().contains("pictures as blocks"), "{}", tmux.screen());
    tmux.types("open(\"small.png\")");
    until("the picture", LONG, || tmux.screen().matches("scumble>").count() == 2);
    assert_enlarged(&half_blocks(&tmux.screen()), &picture, 2);
    tmux.types(":doctor");
    until("the report", LONG, || tmux.screen().contains("init file"));
    assert_eq!(before, (options(), title()), "nothing of the user's was changed");
}

#[test]
fn tmux_passes_a_picture_on_and_keeps_its_cells() {
    let room = Room::new();
    let picture = small(&room);
    let options = ["allow-passthrough"];
    let Some(tmux) = Tmux::start(&room, &options, &[("SCUMBLE_GRAPHICS", "kitty")]) else { return };
    // A terminal around it, which gets what tmux passes on.
    let Some(mut terminal) = Terminal::run(tmux.command(&["attach-session", "-t", "it"])) else { return };
    terminal.shows("scumble>");
    tmux.types("open(\"small.png\")");
    terminal.shows("\x1b_Ga=T,f=100,q=2,i=");
    let escape = terminal.shows("\x1b\\");
    let (keys, data) = escape.strip_suffix("\x1b\\").unwrap().split_once(';').unwrap();
    assert!(keys.contains(",U=1,c=32,r=16,") && keys.ends_with("m=0"), "{keys}");
    let id: u32 = keys.split(',').next().unwrap().parse().unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
    let arrived = image::load_from_memory(&bytes).unwrap().to_rgb8();
    assert_enlarged(&arrived, &picture, arrived.width() / 16);
    // Its cells are text of tmux: 16 rows of 32, in the color that is the picture's number.
    until("the cells", LONG, || tmux.screen().matches('\u{10EEEE}').count() == 32 * 16);
    let [_, r, g, b] = id.to_be_bytes();
    assert!(tmux.screen().contains(&format!("38;2;{r};{g};{b}m\u{10EEEE}")), "{:?}", tmux.screen());
}

#[test]
fn results_are_served_to_who_has_the_address() {
    let room = Room::new();
    std::fs::create_dir(room.path("out")).unwrap();
    small(&room).save(room.path("out/a.png")).unwrap();
    let Some(mut terminal) = Terminal::start(&room, &["--no-init"]) else { return };
    terminal.prompts();
    let text = terminal.enters(":serve");
    assert!(text.contains("ssh -N -L "), "{text}");
    let address = text.split_whitespace().find(|w| w.starts_with("http://127.0.0.1:")).unwrap();
    let (host, path) = address.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(host).ok()?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).to_string())
    };
    assert!(ask(path).unwrap().contains("src=\"./a.png\""));
    assert!(ask(&format!("{path}a.png")).unwrap().contains("image/png"));
    assert!(ask("nobody/a.png").unwrap().starts_with("HTTP/1.1 404"));
    assert!(terminal.enters(":serve 80").contains("80 is no port"));
    // Who names the port that it has already gets the same address.
    let port = host.split_once(':').unwrap().1;
    let text = terminal.enters(&format!(":serve {port}"));
    assert!(text.contains(address) && text.contains("pictures in out "), "{text}");
    // Another folder, behind the port that ssh may forward already.
    std::fs::create_dir(room.path("elsewhere")).unwrap();
    small(&room).save(room.path("elsewhere/b.png")).unwrap();
    terminal.enters(":set out elsewhere");
    let text = terminal.enters(":serve");
    assert!(text.contains("pictures in elsewhere "), "{text}");
    let address = text.split_whitespace().find(|w| w.starts_with(&format!("http://{host}/"))).unwrap();
    let path = address.strip_prefix(&format!("http://{host}/")).unwrap();
    assert!(ask(path).unwrap().contains("src=\"./b.png\""));
    assert!(terminal.enters(":serve stop").contains("stopped"));
    until("nobody listens", LONG, || ask(path).is_none());
    assert!(terminal.enters(":serve stop").contains("nothing is served"));
}

#[test]
fn a_picture_is_fetched_by_its_name() {
    let room = Room::new();
    small(&room);
    let Some(mut terminal) = Terminal::run(room.command(&["--no-init"])) else { return };
    terminal.shows("\x1b[c");
    terminal.types("\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?64;4c");
    terminal.prompts();
    terminal.enters("let x = open(\"small.png\"); let n = 3;");
    let text = terminal.enters(":get x");
    let (_, rest) = text.split_once("\x1b]1337;File=name=eC5wbmc=;size=").unwrap();
    let (size, rest) = rest.split_once(";inline=0:").unwrap();
    let (data, after) = rest.split_once('\x07').unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
    assert_eq!(bytes.len().to_string(), size);
    assert_eq!(bytes, std::fs::read(room.path("out/x.png")).unwrap());
    assert!(after.contains("scp ") && after.contains("/out/x.png"), "{after}");
    assert!(text.contains("\x1b]8;;file://"), "saved paths are links here: {text:?}");
    assert!(terminal.enters(":get n").contains("an Image"));
    assert!(terminal.enters(":get nothing").contains("there is no variable and no file nothing"));
    assert!(terminal.enters(":get small.png").contains("small.png"));
}
