// SPDX-License-Identifier: MPL-2.0
//! What is to be made, before downstream has chosen size and rate: the caps to choose from, and the parameters then.

use gst_video::VideoInfo;

use crate::engine::svd::{MAX_SIDE, Params};
use crate::video::FORMATS;

/// What is made: the parameters, before downstream has chosen what it may.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) params: Params,
    /// The width and height that the model recommends.
    pub(super) shape: (i64, i64),
    pub(super) framerate: gst::Fraction,
    // Set, and so not downstream's to choose.
    pub(super) width: Option<i32>,
    pub(super) height: Option<i32>,
    pub(super) fps: Option<gst::Fraction>,
}

impl Plan {
    /// Frames in a clip.
    pub fn num_frames(&self) -> i64 {
        self.params.num_frames
    }

    /// The frame rate, where downstream takes any.
    pub fn framerate(&self) -> gst::Fraction {
        self.framerate
    }

    /// The parameters, before downstream has chosen what it may.
    pub fn wanted(&self) -> &Params {
        &self.params
    }

    /// The caps that downstream may choose from.
    pub fn caps(&self) -> gst::Caps {
        let mut caps = template();
        let caps_mut = caps.make_mut();
        let side = gst::IntRange::with_step(8, MAX_SIDE as i32, 8);
        for (name, value) in [("width", self.width), ("height", self.height)] {
            match value {
                Some(value) => caps_mut.set(name, value),
                None => caps_mut.set(name, side),
            }
        }
        if let Some(fps) = self.fps {
            caps_mut.set("framerate", fps);
        }
        label(caps_mut);
        caps
    }

    /// Why downstream can't choose just anything, in words.
    pub fn bound(&self) -> String {
        const POSSIBLE: &str = "width and height can be multiples of 8 from 8 to 16384, the frame rate 1/1 and above, the \
                                pixels square, the format an RGB one of 8 bits";
        let set =
            self.set_by_hand().map(|properties| format!("{properties} was set, and goes before downstream's caps"));
        set.unwrap_or_else(|| POSSIBLE.into())
    }

    /// Chooses one of the caps that downstream left.
    pub fn choose(&self, caps: &mut gst::Caps) {
        // A converter's first choice may have an alpha channel, of which nothing would come but work.
        let plain = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb).build();
        let rate = gst_video::VideoCapsBuilder::new().framerate(self.framerate).build();
        let (width, height) = (self.params.width as i32, self.params.height as i32);
        let size = gst_video::VideoCapsBuilder::new().width(width).height(height).build();
        // What another element would be glad of, as a scaler that then has nothing to do, is not what is asked for.
        let is_one_side_set = self.width.is_some() != self.height.is_some();
        for wanted in [Some(plain), Some(rate), (!is_one_side_set).then_some(size)].into_iter().flatten() {
            let left = caps.intersect(&wanted);
            if !left.is_empty() {
                *caps = left;
            }
        }
        caps.truncate();
        self.fixate(caps.make_mut());
        caps.fixate();
    }

    /// What was set by hand of the things that downstream could choose, in words; nothing if nothing was.
    fn set_by_hand(&self) -> Option<String> {
        let names = [
            self.width.map(|width| format!("width={width}")),
            self.height.map(|height| format!("height={height}")),
            self.fps.map(|fps| format!("fps={}/{}", fps.numer(), fps.denom())),
        ];
        let names: Vec<_> = names.into_iter().flatten().collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Chooses what downstream left open: what the model recommends, or what is next to it. Where only one side is
    /// given, the other follows in the model's proportions.
    pub fn fixate(&self, caps: &mut gst::CapsRef) {
        if let Some(caps) = caps.structure_mut(0) {
            let given = |name| caps.get::<i32>(name).ok().map(i64::from);
            let beside = |side: i64, (own, other): (i64, i64)| ((side * other * 2 + own * 8) / (own * 16) * 8).max(8);
            let (wide, high) = self.shape;
            let (width, height) = match (given("width"), given("height")) {
                (Some(width), None) => (width, beside(width, (wide, high))),
                (None, Some(height)) => (beside(height, (high, wide)), height),
                _ => (self.params.width, self.params.height),
            };
            caps.fixate_field_nearest_int("width", width as i32);
            caps.fixate_field_nearest_int("height", height as i32);
            caps.fixate_field_nearest_fraction("framerate", self.framerate);
        }
    }

    /// The parameters of a clip in the size and at the rate of `info`, `seed` more than the seed that was set. The model
    /// is told whole frames per second: it knows no others.
    pub fn params(&self, info: &VideoInfo, seed: u64) -> Params {
        Params {
            width: i64::from(info.width()),
            height: i64::from(info.height()),
            fps: rate_of(info.fps()).round().max(1.0),
            seed: self.params.seed.wrapping_add_unsigned(seed),
            ..self.params.clone()
        }
    }
}

/// All that the element can give. A size that is no multiple of 8 is refused later, where it can be said why.
pub fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format_list(FORMATS)
        .width_range(8..=MAX_SIDE as i32)
        .height_range(8..=MAX_SIDE as i32)
        .framerate_range(gst::Fraction::new(1, 1)..=gst::Fraction::new(i32::MAX, 1))
        .build()
}

/// Says that these are progressive sRGB pictures of square pixels.
pub fn label(caps: &mut gst::CapsRef) {
    caps.set("pixel-aspect-ratio", gst::Fraction::new(1, 1));
    caps.set("interlace-mode", "progressive");
    caps.set("colorimetry", "sRGB");
}

/// Frames per second.
pub(super) fn rate_of(rate: gst::Fraction) -> f64 {
    f64::from(rate.numer()) / f64::from(rate.denom())
}
