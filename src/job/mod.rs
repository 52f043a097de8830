// SPDX-License-Identifier: MPL-2.0
//! A configuration as a job: what its scenes will be and take, and their making.

mod check;
mod line;
mod live;
mod manual;
mod page;
mod probe;
mod render;
mod report;
mod store;
mod sweep;

pub use check::{check, file_name, folder_of};
pub use line::{CONTAINER, Line};
pub use live::{Live, check_keyframe, h264_encoder, keyframe};
pub use manual::manual;
pub use render::{Job, Outcome, Told};
pub use report::{Advice, Estimate, Level, Report, Value, gigabytes, time};
pub use store::MANIFEST;
pub use sweep::{COMPARISON, Over, Sweep, Variant};

/// Makes the elements known, once for all tests.
#[cfg(test)]
fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        crate::plugin_register_static().unwrap();
    });
}
