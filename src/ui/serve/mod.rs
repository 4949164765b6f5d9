//! `:serve`: the pictures of the out folder for a browser on the user's own machine, through ssh's port forwarding.
//!
//! It listens on this machine's own address only, answers nobody without the token in the address, and never writes. Other
//! users of the machine can connect, and get nothing.

mod gallery;
mod http;

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::term::reach;

/// Most connections at a time. A browser opens six.
const CONNECTIONS: usize = 16;
/// Longest time for the connection that ends a server, which is to this machine.
const WAKING: Duration = Duration::from_secs(1);

/// A server; it ends when it is dropped, and its port is free then.
pub struct Server {
    folder: PathBuf,
    port: u16,
    token: String,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the pictures of `folder` on a thread of its own; `port` 0 takes any that is free.
    /// Errors: the port is taken, or the system has no random numbers.
    pub fn start(folder: &Path, port: u16) -> io::Result<Server> {
        let token = token()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let (shown, shared, ended) = (folder.to_path_buf(), token.clone(), Arc::clone(&stop));
        let listener = std::thread::Builder::new()
            .name("serve".into())
            .spawn(move || listen(&listener, &shown, &shared, &ended))?;
        Ok(Server { folder: folder.to_path_buf(), port, token, stop, listener: Some(listener) })
    }

    /// The folder whose pictures it shows.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The page's address, on this machine and, with the line of [`Server::forward`], on the user's.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.port, self.token)
    }

    /// What to type on the user's machine.
    pub fn forward(&self) -> String {
        format!("ssh -N -L {0}:127.0.0.1:{0} {1}", self.port, destination())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // It waits for a connection: this is the last one. The port is free only when the thread has ended; one that could
        // not be woken is not waited for.
        let last = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, self.port).into(), WAKING);
        if let (Ok(_), Some(listener)) = (last, self.listener.take()) {
            let _ = listener.join();
        }
    }
}

fn listen(listener: &TcpListener, folder: &Path, token: &str, stop: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // No more files can be opened: that passes.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let slot = Slot::take(&open);
        if open.load(Ordering::SeqCst) > CONNECTIONS {
            http::refuse(stream);
            continue;
        }
        let (folder, token) = (PathBuf::from(folder), token.to_string());
        // Without a thread for it the connection is closed.
        let _ = std::thread::Builder::new().name("serve".into()).spawn(move || {
            let _ = http::serve(stream, &folder, &token);
            drop(slot);
        });
    }
}

/// One of the connections, counted while it lives.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Slot {
        open.fetch_add(1, Ordering::SeqCst);
        Slot(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// 128 random bits as text.
fn token() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// This machine as ssh on another names it: `user@host`, with the port before it where it is not the usual one.
pub fn destination() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    let at = user.map_or(String::new(), |u| format!("{u}@"));
    // Client's address and port, then ours, as the client reached us.
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    match connection.split(' ').nth(3) {
        Some(port) if port != "22" => format!("-p {port} {at}{}", reach::host()),
        _ => format!("{at}{}", reach::host()),
    }
}

/// What to type on the user's machine to copy a file from here.
pub fn copy_line(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let place = destination();
    // scp's flag for the port is another one.
    let (flag, host) = match place.strip_prefix("-p ").and_then(|p| p.split_once(' ')) {
        Some((port, host)) => (format!("-P {port} "), host),
        None => (String::new(), place.as_str()),
    };
    format!("scp {flag}{} .", quoted(&format!("{host}:{}", absolute.display())))
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "@:/._-+=,".contains(c);
    if word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    fn ask(server: &Server, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        // One write: who refuses does not wait for a second.
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).to_string()
    }

    #[test]
    fn a_browser_gets_the_page_and_the_pictures() {
        let room = tempfile::tempdir().unwrap();
        std::fs::write(room.path().join("a.png"), b"picture").unwrap();
        let server = Server::start(room.path(), 0).unwrap();
        let path =
            server.address().strip_prefix(&format!("http://127.0.0.1:{}", server.port)).unwrap().to_string();
        assert_eq!(path.len(), 34, "128 bits: {path}");
        let page = ask(&server, &path);
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("<img"), "{page}");
        let picture = ask(&server, &format!("{path}a.png"));
        assert!(picture.contains("Content-Type: image/png\r\n") && picture.ends_with("\r\n\r\npicture"));
        assert!(ask(&server, "/").starts_with("HTTP/1.1 404"));
        assert!(Server::start(room.path(), server.port).is_err(), "the port is taken");
        let port = server.port;
        drop(server);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "it has stopped");
    }

    #[test]
    fn the_port_of_a_server_that_ended_is_free_at_once() {
        let room = tempfile::tempdir().unwrap();
        let mut server = Server::start(room.path(), 0).unwrap();
        for _ in 0..50 {
            let port = server.port();
            drop(server);
            server = Server::start(room.path(), port).unwrap();
        }
        assert_eq!(server.folder(), room.path());
    }

    #[test]
    fn those_who_say_nothing_keep_nobody_out_for_long() {
        let room = tempfile::tempdir().unwrap();
        let server = Server::start(room.path(), 0).unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        let silent: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect()).collect();
        std::thread::sleep(Duration::from_millis(100));
        assert!(ask(&server, "/").starts_with("HTTP/1.1 503"), "all places are taken");
        let started = Instant::now();
        while !ask(&server, "/").starts_with("HTTP/1.1 404") {
            assert!(started.elapsed() < Duration::from_secs(10), "the silent ones are sent away");
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(silent);
    }

    #[test]
    fn lines_to_type_are_words_for_a_shell() {
        assert_eq!(quoted("me@host:/a/b.png"), "me@host:/a/b.png");
        assert_eq!(quoted("me@host:/a b's.png"), "'me@host:/a b'\\''s.png'");
        assert!(copy_line(Path::new("out/x.png")).ends_with("/out/x.png ."));
    }
}
