// SPDX-License-Identifier: MPL-2.0
//! `frameratetune`: video in, the same video at another frame rate out.

/**
 * SECTION:element-frameratetune
 *
 * Changes the frame rate of a video, to that of the caps behind it or to `fps`, and its speed. Frame `n` of the output
 * is at `n` / rate exactly, from whatever rate and timestamps.
 *
 * What is shown between two frames depends on the `mode`: the nearer one (`duplicate`, as `videorate` has it), both mixed
 * (`blend`), or one in which everything has moved half way (`interpolate`, with RIFE). `retime` shows the same frames one
 * after the other at the new rate, so that the video becomes shorter or longer. `auto` interpolates where the rate rises,
 * and else duplicates and drops.
 *
 * Frames of the input that fall on the output's times pass through as they are. Nothing is interpolated across a cut
 * (`scene-threshold`); frames that repeat the one before are looked past (`max-repeats`), so that animation on twos moves
 * evenly. The last frame is held for its full time, so the last one that comes out may be a short one. Live sources are
 * answered with a latency of as many frames as are looked past and one, or of a frame of the output.
 *
 * RGB, YUV and grey of 8 to 16 bits go in and come out, progressive. The model loads on a thread of its own; PROGRESS
 * messages (`load-model`) tell about it. Frames are never dropped for being late: `qos=true` lets them be.
 *
 * ## Example pipelines
 *
 * From 12 to 24 frames a second:
 *
 * |[
 * gst-launch-1.0 filesrc location=film.mp4 ! decodebin ! frameratetune ! video/x-raw,framerate=24/1 ! x264enc ! mp4mux ! \
 *     filesink location=smooth.mp4
 * ]|
 *
 * A quarter of the speed, at the same rate:
 *
 * |[
 * gst-launch-1.0 filesrc location=film.mp4 ! decodebin ! frameratetune mode=interpolate speed=1/4 ! x264enc ! mp4mux ! \
 *     filesink location=slow.mp4
 * ]|
 */
use glib::prelude::*;

mod caps;
mod imp;
mod run;
pub mod settings;
mod tuner;

pub use settings::{check, properties};

glib::wrapper! {
    /// The element.
    pub struct FrameRateTune(ObjectSubclass<imp::FrameRateTune>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "frameratetune", gst::Rank::NONE, FrameRateTune::static_type())
}
