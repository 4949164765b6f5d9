//! All integration tests in one binary: one link instead of many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_models;
mod cli;
mod fuzz;
mod gradients;
mod layers;
mod licences;
mod parity;
mod recipes;
mod script;
mod snapshots;
mod tokenizer;
mod trust;
