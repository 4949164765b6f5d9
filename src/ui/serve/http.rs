//! As much of HTTP as showing pictures takes: one GET or HEAD a connection, small heads, limits on time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::gallery;

/// Largest head of a request, bytes.
const HEAD: usize = 8 << 10;
/// Longest time for a head to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for an answer to be taken.
const SENDING: Duration = Duration::from_secs(60);
/// Longest wait for one read or write.
const MOMENT: Duration = Duration::from_secs(2);

/// An answer: a status, and what it carries.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Body,
}

enum Body {
    Text(String),
    File(File, u64),
}

/// Answers the one request of a connection. Errors: the other end went away, or is too slow.
pub(super) fn serve(mut stream: TcpStream, folder: &Path, token: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(MOMENT))?;
    stream.set_write_timeout(Some(MOMENT))?;
    let head = head(&mut stream)?;
    let (answer, with_body) = answer(&head, folder, token);
    let length = match &answer.body {
        Body::Text(text) => text.len() as u64,
        Body::File(_, length) => *length,
    };
    let mut sender = Sender { stream: &mut stream, end: Instant::now() + SENDING };
    // Nothing on the page may load from elsewhere, and no address with the token may travel on.
    let fields = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; img-src 'self'; style-src 'unsafe-inline'\r\n\r\n",
        answer.status, answer.kind
    );
    sender.write_all(fields.as_bytes())?;
    match answer.body {
        _ if !with_body => {}
        Body::Text(text) => sender.write_all(text.as_bytes())?,
        // A file that grows meanwhile is cut where it was.
        Body::File(file, length) => {
            io::copy(&mut file.take(length), &mut sender)?;
        }
    }
    sender.flush()
}

/// A refusal without a look at the request.
pub(super) fn refuse(mut stream: TcpStream) {
    let _ = stream.set_write_timeout(Some(MOMENT));
    let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // What was asked is thrown away: closing over unread bytes would lose the answer.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let _ = stream.read(&mut [0u8; 4096]);
}

/// Ends a transfer that takes too long in all, however steadily it drips.
struct Sender<'a> {
    stream: &'a mut TcpStream,
    end: Instant,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() > self.end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads up to the empty line that ends the head.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 1024];
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        if bytes.len() > HEAD || Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).to_string())
}

fn refused(status: &'static str) -> Answer {
    Answer { status, kind: "text/plain", body: Body::Text(format!("{status}\n")) }
}

/// What a head asks for, and whether the body is wanted.
fn answer(head: &str, folder: &Path, token: &str) -> (Answer, bool) {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return (refused("405 Method Not Allowed"), true),
    };
    // A page elsewhere that has its own name point to this machine sends that name here.
    let host = lines.filter_map(|l| l.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map(|(_, value)| value.trim().to_ascii_lowercase()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
    if !matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        return (refused("403 Forbidden"), with_body);
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let Some((given, rest)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
        return (refused("404 Not Found"), with_body);
    };
    if !same(given.as_bytes(), token.as_bytes()) {
        return (refused("404 Not Found"), with_body);
    }
    let answer = if rest.is_empty() { index(folder) } else { picture(folder, rest) };
    (answer, with_body)
}

/// Whether two texts are one, in a time that does not tell where they part.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}

fn index(folder: &Path) -> Answer {
    let (pictures, count) = gallery::pictures(folder);
    let page = gallery::page(&pictures, count);
    Answer { status: "200 OK", kind: "text/html; charset=utf-8", body: Body::Text(page) }
}

/// A picture by its name.
fn picture(folder: &Path, asked: &str) -> Answer {
    let Some(name) = decoded(asked) else { return refused("400 Bad Request") };
    let opened = gallery::find(folder, &name).and_then(|path| {
        let file = File::open(path).ok()?;
        let data = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((file, data.len()))
    });
    match (opened, gallery::kind(&name)) {
        (Some((file, length)), Some(kind)) => {
            Answer { status: "200 OK", kind, body: Body::File(file, length) }
        }
        _ => refused("404 Not Found"),
    }
}

/// An address with its `%XX` as text. `None`: that is none.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str, folder: &Path) -> &'static str {
        answer(&format!("{request}\r\nHost: localhost:8000\r\n\r\n"), folder, "secret").0.status
    }

    #[test]
    fn nothing_but_the_pictures_of_the_folder_can_be_had() {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join("out");
        std::fs::create_dir_all(folder.join("a")).unwrap();
        for name in ["out/x y.png", "out/a/b.png", "secret.png", "out/notes.txt"] {
            std::fs::write(room.path().join(name), "x").unwrap();
        }
        for good in ["GET /secret/", "HEAD /secret/", "GET /secret/x%20y.png", "GET /secret/a/b.png?1"] {
            assert_eq!(status(&format!("{good} HTTP/1.1"), &folder), "200 OK", "{good}");
        }
        let absent = [
            "/",
            "/secret",
            "/other/",
            "/secre/",
            "/secrets/",
            "//secret/",
            "/secret/../secret.png",
            "/secret/%2e%2e/secret.png",
            "/secret/..%2fsecret.png",
            "/secret/a/../../secret.png",
            "/secret//etc/passwd",
            "/secret/notes.txt",
            "/secret/nothing.png",
            "/secret/x%00y.png",
            "",
        ];
        for path in absent {
            assert_eq!(status(&format!("GET {path} HTTP/1.1"), &folder), "404 Not Found", "{path}");
        }
        assert_eq!(status("GET /secret/%zz.png HTTP/1.1", &folder), "400 Bad Request");
        for method in ["POST", "PUT", "DELETE", "get", ""] {
            assert_eq!(status(&format!("{method} /secret/ HTTP/1.1"), &folder), "405 Method Not Allowed");
        }
    }

    #[test]
    fn a_page_elsewhere_cannot_ask_under_its_own_name() {
        let room = tempfile::tempdir().unwrap();
        let host = |line: &str| {
            answer(&format!("GET /secret/ HTTP/1.1\r\n{line}\r\n\r\n"), room.path(), "secret").0.status
        };
        for good in ["Host: 127.0.0.1:8000", "host:localhost", "HOST: [::1]:9"] {
            assert_eq!(host(good), "200 OK", "{good}");
        }
        for bad in ["Host: evil.example:8000", "Host:", "X: localhost", "Host: localhost.evil.example"] {
            assert_eq!(host(bad), "403 Forbidden", "{bad}");
        }
    }
}
