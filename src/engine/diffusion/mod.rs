//! Diffusion itself: noise, the schedule and its steps.

pub mod guidance;
pub mod noise;
pub mod sampler;
pub mod schedule;
pub mod stepper;
pub mod train_schedule;
