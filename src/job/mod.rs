// SPDX-License-Identifier: MPL-2.0
//! A configuration as a job: what its scenes will be and take, and their making.

mod check;
mod line;
mod page;
mod render;
mod store;
mod sweep;

pub use check::{Advice, Estimate, Level, Report, check, file_name, folder_of, gigabytes, time};
pub use line::{CONTAINER, Line};
pub use render::{Job, Outcome, Told};
pub use store::MANIFEST;
pub use sweep::{COMPARISON, Over, Sweep, Variant};
