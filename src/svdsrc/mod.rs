// SPDX-License-Identifier: MPL-2.0
//! `svdsrc`: a keyframe in, a video clip out.

/**
 * SECTION:element-svdsrc
 *
 * Makes video clips from pictures with Stable Video Diffusion. A picture is a PNG, JPEG or WebP file (`location`, also a
 * numbered series like `shot-%04d.png`), or a sample of an application (`keyframe`). The model is a folder as diffusers
 * saves it, a single file, or one found by its `model-type`.
 *
 * There are as many clips as pictures, or `num-clips`, or as many frames as `duration` asks for. In a `chain`, a clip
 * begins with the last frame of the one before it. The next clip is made while one is shown. What is set while the
 * element runs takes effect at the next clip; what is not possible is told in a warning, and left as it was.
 *
 * Every parameter is taken from the property, if it was set; else from the `provenance` that was set; else, for the size
 * and the frame rate, from downstream's caps; else from what the model's makers recommend; else it has diffusers'
 * default. Where no model is named, the small one that comes with the plugin is taken.
 *
 * PROGRESS messages tell how far loading (`load-model`) and the clip that is waited for (`generate`) are; element messages
 * tell what each clip takes (`svdsrc-estimate`) and how it was made (`svdsrc-clip`). Stopping, flushing or ending the pipeline ends the
 * work within one denoising step. The same parameters and the same seed give the same clip. A clip's message
 * carries them as JSON, and `provenance` takes it to make that clip again, and no other; the stream's tags carry, in the
 * comment, JSON that makes the whole run again. With a `latents-folder`, a clip that was denoised before the process
 * ended is only decoded.
 *
 * With `is-live`, frames come by the clock, whatever is made, at a time of `n` / rate of the pipeline's running time each:
 * first the keyframe, fitted to the clip, until there is one; then the newest clip, once and, as `idle` says, again,
 * while the next one is made. It begins where a clip ends (`svdsrc-shown` tells of it). `num-clips` clips are made, and
 * one more whenever something is set; a clip in the making is given up then. A clip that can't be made is told in a
 * warning, and the one before goes on; without one, it is an error. The stream ends when the application sends EOS.
 * Flushes and pauses do not disturb the making. On the CPU and on Linux, the threads of the model have a niceness of 10
 * above the process's own.
 *
 * The request pad `preview` shows how the clip in the making looks, as far as a linear map of its latents can tell: after
 * each denoising step all frames, small (a pixel for 8x8 with SVD), RGB, at the clip's rate. Frames count on from 0 over
 * all steps and clips; of steps that come faster than they are taken, only the newest waits, and none is shown in part. In
 * a live run, frame `n` comes at `n` / rate, and is that of the newest step, again and again; before the first step, it is
 * the keyframe. The stream ends when the last clip is made. Nothing behind this pad holds up the clip, or ends it. A `title` tag
 * and the message `svdsrc-step` tell of each step. Where the pad is not linked, nothing is computed.
 *
 * Players take it as a URI, `svd://PATH?KEY=VALUE&KEY=VALUE`: a picture or a configuration, and properties; `scene` is
 * another name of `scene-id`. What is wrong with one is told when it is set, which is possible up to READY.
 *
 * ## Example pipelines
 *
 * Shows a short clip, made by the small model that comes with the plugin:
 *
 * |[
 * gst-launch-1.0 svdsrc location=keyframe.jpg ! videoconvert ! autovideosink
 * ]|
 *
 * The same in a player:
 *
 * |[
 * gst-launch-1.0 playbin uri="svd://keyframe.jpg?seed=7"
 * ]|
 *
 * Makes a larger one with SVD-XT and stores it:
 *
 * |[
 * gst-launch-1.0 svdsrc location=keyframe.jpg model-path=stable-video-diffusion-img2vid-xt seed=7 ! \
 *     video/x-raw,width=1280,height=720 ! videoconvert ! video/x-raw,format=I420 ! x264enc ! mp4mux ! filesink location=clip.mp4
 * ]|
 *
 * Shows clips one after the other in a window, and each again and again until the next is made:
 *
 * |[
 * gst-launch-1.0 svdsrc is-live=true num-clips=0 location=keyframe.jpg ! videoconvert ! autovideosink
 * ]|
 */
use glib::prelude::*;

mod imp;
mod layout;
mod live;
mod run;
mod settings;
mod showing;
mod uri;

pub use layout::Extent;
pub use settings::properties;

/// The property `idle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstSvdIdle")]
pub enum Idle {
    /// The clip again.
    #[default]
    #[enum_value(name = "Loop: the clip again and again", nick = "loop")]
    Loop,
    /// The last frame.
    #[enum_value(name = "Hold: its last frame", nick = "hold")]
    Hold,
    /// Backwards, forwards, and so on.
    #[enum_value(name = "Pingpong: the clip backwards, forwards, and so on", nick = "pingpong")]
    Pingpong,
    /// Nothing.
    #[enum_value(name = "Black: black frames", nick = "black")]
    Black,
}

impl Idle {
    /// The value that a nick names.
    fn of(nick: &str) -> Self {
        match nick {
            "hold" => Self::Hold,
            "pingpong" => Self::Pingpong,
            "black" => Self::Black,
            _ => Self::Loop,
        }
    }
}

glib::wrapper! {
    /// The element.
    pub struct SvdSrc(ObjectSubclass<imp::SvdSrc>) @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object, @implements gst::Preset, gst::URIHandler;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "svdsrc", gst::Rank::NONE, SvdSrc::static_type())
}
