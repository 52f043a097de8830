// SPDX-License-Identifier: MPL-2.0
//! `svdsrc`: a keyframe in, a video clip out.

/**
 * SECTION:element-svdsrc
 *
 * Makes video clips from a picture with Stable Video Diffusion. The picture is a PNG, JPEG or WebP file; the model is a
 * folder as diffusers saves it.
 *
 * Every parameter is taken from the property, if it was set; else, for the size and the frame rate, from downstream's
 * caps; else from what the model's folder recommends; else it has diffusers' default. Where no model is named, the
 * small one that comes with the plugin is taken, from `$TORCHVIDEO_MODELS` if that folder has it.
 *
 * The model loads and the clip is made on a thread of their own; PROGRESS messages tell how far they are
 * (`load-model`, `generate`). Stopping, flushing or ending the pipeline ends the work within one denoising step. After
 * a flush the clip goes on where it was. The same parameters and the same seed give the same clip. The stream's
 * tags carry them, as JSON in the comment.
 *
 * ## Example pipelines
 *
 * Shows a short clip, made by the small model that comes with the plugin:
 *
 * |[
 * gst-launch-1.0 svdsrc location=keyframe.jpg ! videoconvert ! autovideosink
 * ]|
 *
 * Makes a larger one with SVD-XT and stores it:
 *
 * |[
 * gst-launch-1.0 svdsrc location=keyframe.jpg model-path=stable-video-diffusion-img2vid-xt seed=7 ! \
 *     video/x-raw,width=1280,height=720 ! videoconvert ! video/x-raw,format=I420 ! x264enc ! mp4mux ! filesink location=clip.mp4
 * ]|
 */
use glib::prelude::*;

mod imp;
mod layout;
mod settings;

glib::wrapper! {
    /// The element.
    pub struct SvdSrc(ObjectSubclass<imp::SvdSrc>) @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object, @implements gst::Preset;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "svdsrc", gst::Rank::NONE, SvdSrc::static_type())
}
