//! stdout, stderr and the log file, with what can go wrong there: a reader that left, a disk that is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::report::{Exit, Report};

/// Where text goes. Nothing here fails: what cannot be written is remembered, because the work goes on and its results
/// are files.
#[derive(Debug, Default)]
pub struct Output {
    /// stdout was closed by its reader, which is no error.
    closed: bool,
    failure: Option<Report>,
    log: Option<(PathBuf, File)>,
}

impl Output {
    /// Appends to `log` as well, if there is one.
    /// Errors (exit code 2): the file cannot be opened.
    pub fn open(log: Option<&Path>) -> Result<Output, Report> {
        let mut output = Output::default();
        log.map_or(Ok(()), |path| output.start_log(path))?;
        Ok(output)
    }

    /// Appends to a log file from now on. Errors (exit code 2): it cannot be opened; an earlier log goes on then.
    pub fn start_log(&mut self, path: &Path) -> Result<(), Report> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
            Report::new("file", format!("--log {}: {e}", path.display()))
                .exit(Exit::Usage)
                .hint("give a file that you may write to")
        })?;
        self.log = Some((path.to_path_buf(), file));
        Ok(())
    }

    /// Ends the log.
    pub fn stop_log(&mut self) {
        self.log = None;
    }

    /// The log file, if there is one.
    pub fn log_path(&self) -> Option<PathBuf> {
        self.log.as_ref().map(|(path, _)| path.clone())
    }

    /// A line on stdout.
    pub fn line(&mut self, text: &str) {
        if self.is_closed() {
            return;
        }
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        self.note(written);
    }

    /// Remembers how writing to stdout by somebody else went.
    pub fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            // The terminal hung up. Where that does not end the run, its results are files.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => self.closed = true,
            Err(e) => {
                let report = Report::new("file", format!("stdout cannot be written: {e}"));
                self.failure = Some(match e.kind() {
                    io::ErrorKind::StorageFull => report.hint("the disk is full: make room and run again"),
                    _ => report,
                });
            }
        }
    }

    /// Text on stderr, as it is.
    pub fn err(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }

    /// A line in the log file. The first failure is told on stderr and ends the log.
    pub fn log(&mut self, text: &str) {
        let Some((path, file)) = &mut self.log else { return };
        if let Err(e) = writeln!(file, "{}", text.trim_end()) {
            let text = format!("note: --log {}: {e}; the log ends here, the run goes on\n", path.display());
            self.log = None;
            self.err(&text);
        }
    }

    /// Whether stdout takes no more text.
    pub fn is_closed(&self) -> bool {
        self.closed || self.failure.is_some()
    }

    /// What went wrong on stdout, if it was more than a reader that left. Taken out: it is told once.
    pub fn failure(&mut self) -> Option<Report> {
        // From now on stdout is simply closed.
        let failure = self.failure.take();
        self.closed |= failure.is_some();
        failure
    }
}
