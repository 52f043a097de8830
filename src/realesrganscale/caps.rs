// SPDX-License-Identifier: MPL-2.0
//! Caps of one side of `realesrganscale` from those of the other.

use gst::prelude::*;

use crate::engine::esrgan::{scaled, unscaled};
use crate::video::FORMATS;

/// The longest side that caps can hold.
const LONGEST: i64 = i32::MAX as i64;

/// What both pads can have.
pub fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(FORMATS).build()
}

/// The caps of the other side. `direction` is the side that `caps` belong to; `factor` the output's size over the
/// input's, as far as it is known.
pub fn transform(direction: gst::PadDirection, caps: &gst::Caps, factor: Option<f64>) -> gst::Caps {
    let mut others = gst::Caps::new_empty();
    let others_mut = others.make_mut();
    for (structure, features) in caps.iter_with_features() {
        if let Some(other) = transform_structure(direction, structure, factor) {
            others_mut.append_structure_full(other, Some(features.to_owned()));
        }
    }
    others
}

/// `None` if the other side has no size for these.
fn transform_structure(
    direction: gst::PadDirection,
    structure: &gst::StructureRef,
    factor: Option<f64>,
) -> Option<gst::Structure> {
    let mut other = structure.to_owned();
    for side in ["width", "height"] {
        let Ok(value) = structure.value(side) else { continue };
        let value = match factor {
            None => gst::IntRange::new(1, i32::MAX).to_send_value(),
            Some(factor) => transform_value(value, &|low, high| match direction {
                gst::PadDirection::Sink => {
                    let (low, high) = (scaled(low, factor), scaled(high, factor));
                    (low <= LONGEST).then_some((low, high.min(LONGEST)))
                }
                _ => unscaled(low, high, factor, LONGEST),
            })?,
        };
        other.set_value(side, value);
    }
    Some(other)
}

/// Maps a number, a range or a list of them. `map` gets the first and the last number and gives the same; what lies
/// between counts as possible, although not every size has one that is scaled to it.
fn transform_value(value: &glib::SendValue, map: &dyn Fn(i64, i64) -> Option<(i64, i64)>) -> Option<glib::SendValue> {
    let range = |low: i32, high: i32| {
        let (low, high) = map(low.max(1).into(), high.into())?;
        Some(if low == high {
            (low as i32).to_send_value()
        } else {
            gst::IntRange::new(low as i32, high as i32).to_send_value()
        })
    };
    if let Ok(number) = value.get::<i32>() {
        range(number, number)
    } else if let Ok(numbers) = value.get::<gst::IntRange<i32>>() {
        range(numbers.min(), numbers.max())
    } else if let Ok(list) = value.get::<gst::List>() {
        let values: Vec<_> = list.iter().filter_map(|value| transform_value(value, map)).collect();
        (!values.is_empty()).then(|| gst::List::new(values).to_send_value())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn check(direction: gst::PadDirection, factor: f64, caps: &str, wanted: &str) {
        gst::init().unwrap();
        let caps = gst::Caps::from_str(&format!("video/x-raw,format=RGB,framerate=25/1,{caps}")).unwrap();
        let seen = transform(direction, &caps, Some(factor));
        if wanted.is_empty() {
            assert!(seen.is_empty(), "{seen}");
        } else {
            let wanted = gst::Caps::from_str(&format!("video/x-raw,format=RGB,framerate=25/1,{wanted}")).unwrap();
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn inputs_become_outputs() {
        let check = |factor, caps, wanted| check(gst::PadDirection::Sink, factor, caps, wanted);
        check(4.0, "width=33,height=27", "width=132,height=108");
        check(1.5, "width=33,height=27", "width=49,height=40");
        check(0.5, "width=1,height=3", "width=1,height=1");
        check(2.0, "width=[16,64],height={10,20,30}", "width=[32,128],height={20,40,60}");
        check(4.0, "width=[1,2147483647],height=2", "width=[4,2147483647],height=8");
        check(4.0, "width=2147483647,height=2", "");
    }

    #[test]
    fn outputs_become_inputs() {
        let check = |factor, caps, wanted| check(gst::PadDirection::Src, factor, caps, wanted);
        check(4.0, "width=132,height=108", "width=33,height=27");
        check(4.0, "width=130,height=108", "");
        check(4.0, "width=[130,140],height=108", "width=[33,35],height=27");
        check(4.0, "width=[130,135],height=108", "width=33,height=27");
        check(0.5, "width=[5,6],height=1", "width=[10,13],height=[1,3]");
        check(1.5, "width={49,50,51},height=40", "width={33,34},height=27");
        check(2.0, "width=[1,2147483647],height=2", "width=[1,1073741823],height=1");
    }

    #[test]
    fn every_size_is_possible_while_the_scale_is_not_known() {
        gst::init().unwrap();
        let caps = gst::Caps::from_str("video/x-raw,format=RGB,width=5,height=6").unwrap();
        let wanted = gst::Caps::from_str("video/x-raw,format=RGB,width=[1,2147483647],height=[1,2147483647]").unwrap();
        assert_eq!(transform(gst::PadDirection::Sink, &caps, None), wanted);
    }
}
