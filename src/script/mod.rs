//! The Rhai host: bindings over the engine, their catalogue, options, checks, sessions, errors. Knows no terminal.
//!
//! A front end makes a [`Session`](session::Session) on a thread with a large stack ([`thread::run`]), evaluates cells
//! and recipes in it, and shows what the session's observer receives. Everything about the language that needs no
//! session (completion, help, checks, recipes) is plain functions over the [`catalog`].

pub mod args;
pub mod bind;
pub mod builtins;
pub mod catalog;
pub mod check;
pub mod complete;
pub mod costs;
pub mod depth;
pub mod engine;
pub mod errors;
pub mod explain;
pub mod files;
pub mod host;
pub mod modules;
pub mod names;
pub mod native;
pub mod options;
pub mod preview;
pub mod recipes;
pub mod registry;
pub mod scan;
pub mod session;
pub mod sources;
pub mod thread;
pub mod tracking;
pub mod types;
pub mod values;
pub mod view;
pub mod watchdog;

pub use host::{Settings, set_memory_probe};
pub use session::{Done, Held, Outcome, Session, Snapshot, Variable};
