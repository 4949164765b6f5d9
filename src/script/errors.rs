//! Errors across the border: an engine error becomes a thrown map `#{kind, op, message, hint, expected, got}` that
//! `try` can catch; what leaves the script becomes a [`Report`] with a caret in the source that defines the code.

use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, Map, ParseError, Position};

use super::explain::{leaf, parse_report};
use super::sources::Sources;
use crate::engine::error::{Error, Kind};
use crate::report::{Exit, Facts, Report};

/// Callers shown under an error.
const TRACE: usize = 8;

/// Why an evaluation was ended from outside. Cannot be caught by a script.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The user asked.
    Cancelled,
    /// Too many operations without an engine call: an endless loop.
    Operations(u64),
    /// The time budget is used up.
    Time(Duration),
    /// The script's values, or the process, hold too many bytes.
    Memory {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Values inside each other, more levels than can be dropped again.
    Deep,
    /// More values than can be looked after.
    Many,
    /// More printed than anybody reads.
    Output,
}

/// The thrown form of an engine error. A stop request cannot be caught by the script.
pub fn throw(error: Error) -> Box<EvalAltResult> {
    if error.kind() == Kind::Cancelled {
        return EvalAltResult::ErrorTerminated(Dynamic::from(Stop::Cancelled), Position::NONE).into();
    }
    EvalAltResult::ErrorRuntime(to_map(&error).into(), Position::NONE).into()
}

fn to_map(error: &Error) -> Map {
    let text = |t: Option<&str>| t.map_or(Dynamic::UNIT, |t| t.to_string().into());
    let mut map = Map::new();
    map.insert("kind".into(), error.kind().name().into());
    map.insert("op".into(), error.op_name().into());
    map.insert("message".into(), error.message().into());
    map.insert("expected".into(), text(error.expected_text()));
    map.insert("got".into(), text(error.got_text()));
    map.insert("hint".into(), text(error.hint_text()));
    map
}

/// What an error is told with: the texts, and the names that a misspelling may have meant.
pub struct Context<'a> {
    /// The texts.
    pub sources: &'a Sources,
    /// The name of the source that was running.
    pub current: &'a str,
    /// Variables and functions that exist.
    pub names: &'a [String],
}

/// A parse error as a report.
pub fn from_parse(error: &ParseError, cx: &Context) -> Report {
    let mut report = parse_report(error.err_type(), cx);
    let at = parse_position(error, cx);
    let line =
        cx.sources.text(cx.current).and_then(|t| t.lines().nth(at.line().unwrap_or(1).saturating_sub(1)));
    if line.is_some_and(|l| l.trim_start().starts_with([':', '?'])) {
        report.hint =
            Some("lines that begin with : or ? are for the prompt of a terminal, not for a script".into());
    }
    place(report, cx.current, at, cx)
}

/// Rhai has no position for "the script is incomplete": the end of the text.
fn parse_position(error: &ParseError, cx: &Context) -> Position {
    if !error.position().is_none() {
        return error.position();
    }
    let text = cx.sources.text(cx.current).unwrap_or("");
    let line = text.split('\n').count().clamp(1, usize::from(u16::MAX)) as u16;
    let column = text.split('\n').next_back().map_or(0, |l| l.chars().count()) + 1;
    Position::new(line, column.min(usize::from(u16::MAX)) as u16)
}

/// An evaluation error as a report.
pub fn from_eval(error: EvalAltResult, cx: &Context) -> Report {
    let mut error = error;
    let mut source = cx.current.to_string();
    let mut function: Option<String> = None;
    let mut trace: Vec<String> = Vec::new();
    loop {
        match error {
            EvalAltResult::ErrorInFunctionCall(name, inner_source, inner, position) => {
                trace.push(caller(function.as_deref(), &source, position));
                if let Some(defined) = cx.sources.of_closure(&name) {
                    source = defined.to_string();
                } else if !inner_source.is_empty() {
                    source = inner_source;
                }
                function = Some(if name.starts_with("anon$") { "closure".into() } else { name });
                error = *inner;
            }
            EvalAltResult::ErrorInModule(name, inner, position) => {
                trace.push(caller(function.as_deref(), &source, position));
                if cx.sources.text(&name).is_some() {
                    source = name;
                }
                error = *inner;
            }
            other => {
                error = other;
                break;
            }
        }
    }
    let position = error.take_position();
    trace.reverse();
    let hidden = trace.len().saturating_sub(TRACE);
    trace.truncate(TRACE);
    if hidden > 0 {
        trace.push(format!("{hidden} more"));
    }
    let position = if position.is_none() { call_position(&error, &source, cx) } else { position };
    let mut report = place(leaf(error, cx), &source, position, cx);
    let called = report.title.strip_suffix(": there is no such function");
    if let Some(name) = called.filter(|c| cx.names.iter().any(|n| n == c)).map(str::to_string) {
        report.hint = Some(format!("{name} is a variable: a closure is called with {name}.call(...)"));
    }
    report.trace = trace;
    report
}

/// Rhai's hook for unknown functions cannot say where the call stands: the first call of that name in the source.
fn call_position(error: &EvalAltResult, source: &str, cx: &Context) -> Position {
    let EvalAltResult::ErrorRuntime(value, _) = error else { return Position::NONE };
    let name =
        value.read_lock::<Map>().and_then(|m| m.get("op").map(ToString::to_string)).unwrap_or_default();
    let text = cx.sources.text(source).unwrap_or("");
    let pieces = super::scan::pieces(text);
    let call =
        pieces.windows(2).find(|w| text[w[0].range.clone()] == name && &text[w[1].range.clone()] == "(");
    let Some(at) = call.map(|w| w[0].range.start) else { return Position::NONE };
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].chars().rev().take_while(|c| *c != '\n').count() + 1;
    match (u16::try_from(line), u16::try_from(column)) {
        (Ok(line), Ok(column)) => Position::new(line, column),
        _ => Position::NONE,
    }
}

fn caller(function: Option<&str>, source: &str, position: Position) -> String {
    let place = match position.line() {
        Some(line) => format!("{source}, line {line}"),
        None => source.to_string(),
    };
    function.map_or(place.clone(), |f| format!("{f} ({place})"))
}

fn place(report: Report, source: &str, position: Position, cx: &Context) -> Report {
    let span = cx.sources.span(source, position);
    if source.is_empty() { report } else { report.at(cx.sources.get(source), span) }
}

/// A report from a thrown engine error, without a place.
pub fn from_engine(error: &Error) -> Report {
    let mut report = Report::new(error.kind().name(), format!("{}: {}", error.op_name(), error.message()));
    report.expected = error.expected_text().map(str::to_string);
    report.got = error.got_text().map(str::to_string);
    report.hint = error.hint_text().map(str::to_string);
    if error.kind() == Kind::Cancelled {
        report.exit = Exit::Interrupted;
    }
    report
}

/// A report as an engine error, to be thrown again.
pub fn to_engine(op: &str, report: Report) -> Error {
    let kind = match report.kind.as_str() {
        "shape" => Kind::Shape,
        "option" => Kind::Option,
        "missing" => Kind::Missing,
        "file" => Kind::File,
        "budget" => Kind::Budget,
        _ => Kind::Value,
    };
    let report = Facts::from(report);
    let title = report.title.strip_prefix(&format!("{op}: ")).unwrap_or(&report.title).to_string();
    let error = Error::new(kind, op, title);
    let error = report.expected.into_iter().fold(error, Error::expected);
    let error = report.got.into_iter().fold(error, Error::got);
    report.hint.into_iter().fold(error, Error::hint)
}
