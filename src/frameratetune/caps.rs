// SPDX-License-Identifier: MPL-2.0
//! Caps of one side of `frameratetune` from those of the other: only the frame rate differs.

use gst::prelude::*;

use crate::video::SCALE_FORMATS;

/// What both pads can have.
pub fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(SCALE_FORMATS.iter().copied()).build()
}

/// The caps of the other side, the best first. `direction` is the side that `caps` belong to, `fps` the output's rate if
/// it was set.
pub fn transform(direction: gst::PadDirection, caps: &gst::Caps, fps: Option<gst::Fraction>) -> gst::Caps {
    let mut others = gst::Caps::new_empty();
    let mut add = |structure: &gst::StructureRef, features: &gst::CapsFeaturesRef, rate: Option<glib::SendValue>| {
        let mut other = structure.to_owned();
        other.remove_field("max-framerate");
        other.set("interlace-mode", "progressive");
        if let Some(rate) = rate {
            other.set_value("framerate", rate);
        }
        let other = gst::Caps::builder_full().structure_with_features(other, features.to_owned()).build();
        if !other.is_subset(&others) {
            others.merge(other);
        }
    };
    let known: Vec<_> = caps.iter_with_features().collect();
    let none = gst::Fraction::new(0, 1);
    let least = gst::Fraction::new(1, i32::MAX);
    let most = gst::Fraction::new(i32::MAX, 1);
    match (direction, fps) {
        (gst::PadDirection::Sink, Some(fps)) => {
            known.iter().for_each(|(structure, features)| add(structure, features, Some(fps.to_send_value())));
        }
        (gst::PadDirection::Sink, None) => {
            // The input's own rate, unless it has none.
            let has_rate = |structure: &gst::StructureRef| structure.get::<gst::Fraction>("framerate") != Ok(none);
            known.iter().filter(|(structure, _)| has_rate(structure)).for_each(|(s, features)| add(s, features, None));
            let any = gst::FractionRange::new(least, most).to_send_value();
            known.iter().for_each(|(structure, features)| add(structure, features, Some(any.clone())));
        }
        _ => {
            if fps.is_none() {
                known.iter().for_each(|(structure, features)| add(structure, features, None));
            }
            let any = gst::FractionRange::new(none, most).to_send_value();
            known.iter().for_each(|(structure, features)| add(structure, features, Some(any.clone())));
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    #[test]
    fn only_the_rate_changes() {
        gst::init().unwrap();
        let caps = |text: &str| gst::Caps::from_str(&format!("video/x-raw,format=NV12,width=8,{text}")).unwrap();
        let (sink, src) = (gst::PadDirection::Sink, gst::PadDirection::Src);
        let any = transform(sink, &caps("framerate=12/1"), None);
        assert_eq!(any.structure(0).unwrap().get::<gst::Fraction>("framerate"), Ok(gst::Fraction::new(12, 1)));
        assert!(any.can_intersect(&caps("framerate=30000/1001")) && !any.can_intersect(&caps("framerate=0/1")));
        assert!(!any.can_intersect(&caps("framerate=24/1,interlace-mode=mixed")));
        let set = transform(sink, &caps("framerate=12/1"), Some(gst::Fraction::new(24, 1)));
        assert!(set.can_intersect(&caps("framerate=24/1")) && !set.can_intersect(&caps("framerate=12/1")));
        // An input without a rate has none to keep.
        let variable = transform(sink, &caps("framerate=0/1"), None);
        assert!(!variable.can_intersect(&caps("framerate=0/1")) && variable.can_intersect(&caps("framerate=5/1")));
        let back = transform(src, &caps("framerate=24/1"), Some(gst::Fraction::new(24, 1)));
        assert!(back.can_intersect(&caps("framerate=12/1")) && back.can_intersect(&caps("framerate=0/1")));
    }
}
