// SPDX-License-Identifier: MPL-2.0
//! `svdanimate`: pictures in, a clip out for each.

/**
 * SECTION:element-svdanimate
 *
 * Makes a video clip from each picture of a stream with Stable Video Diffusion. It is `svdsrc` for pictures that other
 * elements read, capture or make: raw video of any format goes in, and the clips come out one after the other.
 *
 * The properties are those of `svdsrc`, without the ones that say where pictures come from and how many clips there
 * are. Downstream's caps choose the size and the frame rate of the clips; the size of the pictures does not matter.
 *
 * Put a `queue` in front where the source must not be held up.
 *
 * A picture waits while clips are made: one clip is given out while the next is in the making, and further pictures wait
 * upstream. A camera drops its pictures meanwhile. The first clip begins at the time of its picture, each other one
 * at the end of the one before it, or at the time of its picture if that is later.
 *
 * The request pad `preview` shows how the clip in the making looks after each denoising step, as that of `svdsrc` does
 * where it is not live.
 *
 * ## Example pipelines
 *
 * Makes a clip from a picture of any format that GStreamer reads:
 *
 * |[
 * gst-launch-1.0 filesrc location=keyframe.tiff ! decodebin ! imagefreeze num-buffers=1 ! svdanimate ! videoconvert ! autovideosink
 * ]|
 *
 * Makes one from each picture of a test source:
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=2 ! svdanimate num-frames=8 ! videoconvert ! autovideosink
 * ]|
 */
use glib::prelude::*;

mod imp;

glib::wrapper! {
    /// The element.
    pub struct SvdAnimate(ObjectSubclass<imp::SvdAnimate>) @extends gst::Element, gst::Object, @implements gst::Preset;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "svdanimate", gst::Rank::NONE, SvdAnimate::static_type())
}
