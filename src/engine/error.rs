//! The one error type of the engine: what was being done, what was expected, what came, and what to type next.
//!
//! Every error carries facts, not prose alone: [`Error::expected`] and [`Error::got`] stand beside the message, so
//! that the script layer can hand them to `try`/`catch` as a map and the terminal can print them under a caret.

use std::fmt;
use std::path::Path;

/// Result of every fallible engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of thing went wrong. Scripts see the lower-case name in the error map's `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor, picture or latent has the wrong shape.
    Shape,
    /// An option or argument has an unknown name.
    Option,
    /// A model, function, word or picture that was named does not exist.
    Missing,
    /// The device cannot be used.
    Device,
    /// The user asked to stop.
    Cancelled,
    /// A file cannot be read, written or understood.
    File,
    /// A value is out of range or of the wrong type.
    Value,
    /// The memory or time budget would be passed.
    Budget,
    /// A failure below us (candle, tokenizers) that no check of ours foresaw.
    Internal,
}

impl Kind {
    /// The lower-case name that scripts see.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Shape => "shape",
            Kind::Option => "option",
            Kind::Missing => "missing",
            Kind::Device => "device",
            Kind::Cancelled => "cancelled",
            Kind::File => "file",
            Kind::Value => "value",
            Kind::Budget => "budget",
            Kind::Internal => "internal",
        }
    }
}

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    op: String,
    message: String,
    expected: Option<String>,
    got: Option<String>,
    hint: Option<String>,
}

/// An engine error. Cheap to move (one pointer); build it with [`Error::new`] and the chained setters.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

impl Error {
    /// `op` names the call or the stage ("blend", "load"), `message` says what is wrong in one clause.
    pub fn new(kind: Kind, op: impl Into<String>, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            op: op.into(),
            message: message.into(),
            expected: None,
            got: None,
            hint: None,
        }))
    }

    /// [`Kind::Value`].
    pub fn value(op: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Value, op, message)
    }

    /// [`Kind::Shape`], with both sides.
    pub fn shape(op: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Shape, op, message)
    }

    /// [`Kind::Missing`].
    pub fn missing(op: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Missing, op, message)
    }

    /// [`Kind::File`]: the path goes into the message.
    pub fn file(op: impl Into<String>, path: &Path, message: impl fmt::Display) -> Self {
        Self::new(Kind::File, op, format!("{}: {message}", path.display()))
    }

    /// [`Kind::Cancelled`].
    pub fn cancelled(op: impl Into<String>) -> Self {
        Self::new(Kind::Cancelled, op, "stopped")
    }

    /// Sets what was expected.
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.0.expected = Some(text.into());
        self
    }

    /// Sets what came instead.
    pub fn got(mut self, text: impl Into<String>) -> Self {
        self.0.got = Some(text.into());
        self
    }

    /// Sets what to type or do next.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.0.hint = Some(text.into());
        self
    }

    /// Replaces the name of the call, for a caller that knows better what the user typed.
    pub fn op(mut self, op: impl Into<String>) -> Self {
        self.0.op = op.into();
        self
    }

    /// What sort of error this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The call or stage that failed.
    pub fn op_name(&self) -> &str {
        &self.0.op
    }

    /// One clause that says what is wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was expected, if both sides are known.
    pub fn expected_text(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    /// What came, if both sides are known.
    pub fn got_text(&self) -> Option<&str> {
        self.0.got.as_deref()
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.op, self.0.message)?;
        if let Some(expected) = &self.0.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(got) = &self.0.got {
            write!(f, ", got {got}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    /// candle joins a backtrace to its messages when backtraces are on: the user gets the first line only.
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        if let Some(explained) = super::device::explain(&text) {
            return explained;
        }
        let line = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("tensor operation failed");
        Error::new(Kind::Internal, "tensor", line.trim())
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::Msg(error.to_string())
    }
}
