//! The only layer that writes to the terminal: the prompt, meta commands, progress, pictures, plain output.
//!
//! The main thread owns the terminal. Scripts run on a thread of their own ([`worker`]) and send events; [`run`] follows
//! one request from start to end, [`reporter`] turns what happens into text and pictures.

pub mod actions;
pub mod config;
pub mod doctor;
pub mod edit;
pub mod folders;
pub mod history;
pub mod init;
pub mod input;
pub mod interrupt;
pub mod keys;
pub mod line;
pub mod listing;
pub mod meta;
pub mod meta_complete;
pub mod output;
pub mod panel;
pub mod pictures;
pub mod pixels;
pub mod progress;
pub mod repl;
pub mod reporter;
pub mod run;
pub mod save;
pub mod screen;
pub mod serve;
pub mod trust;
pub mod units;
pub mod usage;
pub mod view;
pub mod watch;
pub mod words;
pub mod worker;
