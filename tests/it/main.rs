//! All integration tests in one binary: one link instead of many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_models;
mod blend;
mod chain;
mod cli;
mod contract;
mod frozen;
#[cfg(target_os = "linux")]
mod full_disk;
mod fuzz;
mod gpu;
mod gradients;
mod guided;
#[cfg(target_os = "linux")]
mod homes;
mod layers;
mod levels;
mod licences;
#[cfg(target_os = "linux")]
mod line_editor;
#[cfg(target_os = "linux")]
mod meta_commands;
#[cfg(target_os = "linux")]
mod modes;
#[cfg(target_os = "linux")]
mod panel;
mod parity;
#[cfg(target_os = "linux")]
mod pictures;
mod program;
#[cfg(target_os = "linux")]
mod prompt;
mod recipes;
mod report;
mod script;
mod settings;
mod shells;
mod signals;
mod snapshots;
mod steps;
mod studies;
#[cfg(target_os = "linux")]
mod terminal;
mod tokenizer;
mod trust;
mod tuning;
#[cfg(target_os = "linux")]
mod view;
#[cfg(target_os = "linux")]
mod watching;
