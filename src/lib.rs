// SPDX-License-Identifier: MPL-2.0
//! GStreamer elements that generate and upscale video with libtorch.
//!
//! The plugin `torchvideo` registers them; [`engine`] is what computes, and can be used without GStreamer.

pub mod config;
pub mod engine;
mod errors;
mod filter;
mod frameratetune;
pub mod job;
pub mod models;
mod progress;
mod realesrganscale;
mod settings;
mod svd;
mod svdanimate;
mod svdsrc;
pub mod timing;
pub mod video;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    svdsrc::register(plugin)?;
    svdanimate::register(plugin)?;
    realesrganscale::register(plugin)?;
    frameratetune::register(plugin)
}

gst::plugin_define!(
    torchvideo,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL-2.0",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "Unknown package origin",
    env!("BUILD_REL_DATE")
);
