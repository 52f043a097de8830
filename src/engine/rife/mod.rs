// SPDX-License-Identifier: MPL-2.0
//! RIFE (Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", 2020, arXiv:2011.06294):
//! frames between two frames of a video, at any time between them.
//!
//! Known are the networks of Practical-RIFE from 4.21 on (but 4.24): 4.21, 4.22, 4.23, 4.25, 4.26, their lite and their
//! heavy ones. Which one a file holds is read off its tensors.

mod file;
pub mod ifnet;
mod interpolate;
mod judge;
mod model;
mod others;
mod params;
mod warp;

pub use file::{inspect, open};
pub use ifnet::Config;
pub use interpolate::{Begun, Between, Encoded, begin, between, blend, encode, look};
pub use judge::{Judgement, Look};
pub use model::Model;
pub use params::{Params, Time};
