// SPDX-License-Identifier: MPL-2.0
//! The engine: networks, samplers and the threads that run them, on libtorch through `tch`.
//!
//! Nothing in here knows GStreamer (`tests/house.rs` checks it), so an application can use the engine alone:
//! pictures go in and come out as [`image::Frame`]s, everything else stays on the thread that owns the model.

pub mod bytes;
pub mod cache;
pub mod device;
pub mod error;
pub mod esrgan;
pub mod image;
pub mod memory;
pub mod metrics;
pub mod nn;
pub mod pixels;
pub mod pth;
mod resample;
pub mod rife;
pub mod stream;
pub mod svd;
pub mod threads;
pub mod weights;
pub mod worker;

pub use error::{Error, Result};
