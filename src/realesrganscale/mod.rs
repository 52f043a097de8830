// SPDX-License-Identifier: MPL-2.0
//! `realesrganscale`: video in, larger and cleaner video out.

/**
 * SECTION:element-realesrganscale
 *
 * Upscales video with Real-ESRGAN. The model is a `.safetensors` file or an original `.pth` file; which network it
 * holds (RRDBNet for x1, x2 and x4, or SRVGGNetCompact) is read off its weights.
 *
 * A frame comes out in the size that it came in times `outscale`, without fractions of pixels; with `outscale` 0 times
 * the model's own scale. If the two differ, what the model gives is resampled with an antialiased bicubic filter. An
 * alpha channel is upscaled too.
 *
 * Only 8-bit RGB formats are taken, because the networks work on full-range RGB: `videoconvert` brings others there and
 * back.
 *
 * Large frames need much memory: `tile` lets a frame run through the network in pieces. `tile-pad` pixels around each
 * piece keep its seams out of sight.
 *
 * The model loads on a thread of its own; PROGRESS messages (`load-model`) tell about it. Elements with the same model,
 * device and precision share it. Frames are never dropped, however late: `qos=true` lets them be.
 *
 * ## Example pipelines
 *
 * Shows a small test picture four times as large:
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=1 ! video/x-raw,width=160,height=120 ! videoconvert ! realesrganscale ! \
 *     videoconvert ! imagefreeze ! autovideosink
 * ]|
 *
 * Doubles a film's size with a x4 model, in tiles of 256 pixels:
 *
 * |[
 * gst-launch-1.0 filesrc location=film.mp4 ! decodebin ! videoconvert ! \
 *     realesrganscale model-path=RealESRGAN_x4plus.pth outscale=2 tile=256 ! \
 *     videoconvert ! x264enc ! mp4mux ! filesink location=large.mp4
 * ]|
 */
use glib::prelude::*;

mod caps;
mod imp;
mod meta;
mod queue;
mod settings;

glib::wrapper! {
    /// The element.
    pub struct RealEsrganScale(ObjectSubclass<imp::RealEsrganScale>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "realesrganscale", gst::Rank::NONE, RealEsrganScale::static_type())
}
