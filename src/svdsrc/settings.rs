// SPDX-License-Identifier: MPL-2.0
//! The properties that `svdsrc` has besides those of [`crate::svd::settings`].

use gst::prelude::*;

use super::Idle;
use crate::svd::settings::{int, shared_properties, string};

/// All properties.
pub fn properties() -> Vec<glib::ParamSpec> {
    let own = [
        string("location", "Location")
            .blurb(
                "The keyframe: a path or a file:// URI of a PNG, JPEG or WebP file, turned upright as its EXIF data says. \
                 With a number's place in its name, as shot-%04d.png, one clip for each file that has a number there",
            )
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Sample>("keyframe")
            .nick("Keyframe")
            .blurb(
                "The keyframe as a sample of raw video in any format, or of the bytes of a PNG, JPEG or WebP file \
                 (image/png, …); it goes before location",
            )
            .mutable_playing()
            .build(),
        int("num-clips", "Number of clips", 1)
            .blurb(
                "Clips that are made one after the other (0 = endless; where not set: one for each picture of several in \
                 location, or the default)",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("chain")
            .nick("Chain")
            .blurb(
                "Whether the last frame of a clip is the keyframe of the next, and not repeated there. Brightness, \
                 contrast and saturation are kept at those of the first keyframe",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("duration")
            .nick("Duration")
            .blurb(
                "Nanoseconds that are made (0 = whole clips, num-clips of them): as many frames as the frame rate asks \
                 for, in one clip, or in a chain of clips of num-frames at most",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("is-live")
            .nick("Is live")
            .blurb(
                "Whether frames come by the clock, whatever is made: the keyframe until there is a clip, then the newest \
                 clip, and what idle says while the next is made. There is no end",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecEnum::builder::<Idle>("idle")
            .nick("Idle")
            .blurb("What a live source shows when a clip was shown to its end and there is no other")
            .mutable_playing()
            .build(),
    ];
    own.into_iter().chain(shared_properties()).collect()
}

/// Those that a URI can set.
pub fn in_uris() -> Vec<glib::ParamSpec> {
    properties().into_iter().filter(|spec| spec.name() != "keyframe").collect()
}
