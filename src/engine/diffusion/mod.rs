//! Diffusion itself: noise, the schedule and its steps.

pub mod noise;
pub mod schedule;
pub mod train_schedule;
