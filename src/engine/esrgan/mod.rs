// SPDX-License-Identifier: MPL-2.0
//! Real-ESRGAN (Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", 2021,
//! arXiv:2107.10833): pictures become larger and cleaner.
//!
//! Two networks carry the name: RRDBNet, ESRGAN's, and the much smaller SRVGGNetCompact. Which one a file holds, how
//! deep it is and how much it scales, is read off its tensors.

use tch::Tensor;

mod arch;
mod file;
mod model;
mod names;
mod others;
mod params;
mod plan;
mod resample;
pub mod rrdbnet;
pub mod srvgg;
mod tile;
mod transfer;
mod upscale;

pub use arch::{Architecture, Network, Shapes};
pub use file::{ModelFile, Partner, inspect, open};
pub use model::Model;
pub use params::{MAX_OUTSCALE, Params, scaled, unscaled};
pub use transfer::{Begun, begin};
pub use upscale::{Outcome, Task, Upscaled, run, upscale};

/// Every pixel of (n, c, h, w) repeated `scale` times in both directions.
fn upsample(x: &Tensor, scale: i64) -> Tensor {
    let (_, _, height, width) = x.size4().expect("pictures have four dimensions");
    x.upsample_nearest2d([height * scale, width * scale], None::<f64>, None::<f64>)
}
