// SPDX-License-Identifier: MPL-2.0
//! `realesrganscale`: video in, larger and cleaner video out.

/**
 * SECTION:element-realesrganscale
 *
 * Upscales video with Real-ESRGAN. The model is a `.safetensors` file or an original `.pth` file; which network it
 * holds (RRDBNet or SRVGGNetCompact) and by how much it scales is read off its weights.
 *
 * A frame comes out in the size that it came in times `outscale`, without fractions of pixels. Where `outscale` is not
 * set, caps behind the element decide, and where these don't, the model's own scale. What the model gives is brought to that size
 * with an antialiased bicubic filter. The picture keeps its shape: by the pixels' aspect ratio, or by black borders
 * (`add-borders`).
 *
 * RGB, YUV and grey of 8 to 16 bits go in and come out, progressive, converted by the colorimetry in the caps. An alpha
 * channel is upscaled too.
 *
 * A frame runs through the network in tiles that fit into `max-memory`. They see so much around them that no seams
 * show, and become smaller where the memory does not suffice.
 *
 * The model loads on a thread of its own; PROGRESS messages (`load-model`) tell about it. Elements with the same model,
 * device and precision share it. Frames are never dropped, however late: `qos=true` lets them be. Element messages
 * (`realesrganscale-stats`) tell how it goes.
 *
 * ## Example pipelines
 *
 * Shows a small test picture four times as large:
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=1 ! video/x-raw,width=160,height=120 ! realesrganscale ! videoconvert ! \
 *     imagefreeze ! autovideosink
 * ]|
 *
 * Brings a film to 1920x1080 with another model, three frames at once:
 *
 * |[
 * gst-launch-1.0 filesrc location=film.mp4 ! decodebin ! \
 *     realesrganscale model-path=RealESRGAN_x4plus.pth batch-size=3 ! \
 *     video/x-raw,format=I420,width=1920,height=1080,pixel-aspect-ratio=1/1 ! x264enc ! mp4mux ! filesink location=large.mp4
 * ]|
 */
use glib::prelude::*;

mod caps;
mod imp;
mod meta;
mod queue;
pub mod settings;

pub use settings::{check, properties};

glib::wrapper! {
    /// The element.
    pub struct RealEsrganScale(ObjectSubclass<imp::RealEsrganScale>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "realesrganscale", gst::Rank::NONE, RealEsrganScale::static_type())
}
