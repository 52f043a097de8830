// SPDX-License-Identifier: MPL-2.0
//! Caps of one side of `realesrganscale` from those of the other, and what is chosen where there is a choice.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoFormatFlags, VideoFormatInfo, VideoInfo};

use crate::engine::esrgan::{scaled, unscaled};
use crate::video::SCALE_FORMATS;

/// The longest side that caps can hold.
const LONGEST: i64 = i32::MAX as i64;

/// What both pads can have.
pub fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(SCALE_FORMATS.iter().copied()).build()
}

/// How large the output is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor {
    /// The output's size over the input's: what was set, or the model's own.
    pub factor: f64,
    /// Whether it was set. Else downstream may have another size.
    pub is_set: bool,
}

/// The caps of the other side, the best first. `direction` is the side that `caps` belong to.
pub fn transform(direction: gst::PadDirection, caps: &gst::Caps, factor: Option<Factor>) -> gst::Caps {
    let scaled = |structure: &gst::StructureRef| match factor {
        Some(Factor { factor, .. }) => resized(direction, structure, factor),
        None => Some(of_any_size(structure)),
    };
    let is_free = factor.is_some_and(|factor| !factor.is_set);
    let any = |structure: &gst::StructureRef| is_free.then(|| of_any_size(structure));
    let mut others = gst::Caps::new_empty();
    // Rather the right size than the right format: conversions cost nothing beside the network.
    for size in [&scaled as &dyn Fn(&gst::StructureRef) -> Option<gst::Structure>, &any] {
        for format in [Clone::clone, of_any_format] {
            for (structure, features) in caps.iter_with_features() {
                if let Some(mut other) = size(structure).map(|other| format(&other)) {
                    other.set("interlace-mode", "progressive");
                    let other = gst::Caps::builder_full().structure_with_features(other, features.to_owned()).build();
                    if !other.is_subset(&others) {
                        others.merge(other);
                    }
                }
            }
        }
    }
    others
}

fn of_any_format(structure: &gst::Structure) -> gst::Structure {
    let mut other = structure.clone();
    other.remove_fields(["format", "colorimetry", "chroma-site"]);
    other.set("format", gst::List::new(SCALE_FORMATS.iter().map(|format| format.to_str())));
    other
}

fn of_any_size(structure: &gst::StructureRef) -> gst::Structure {
    let mut other = structure.to_owned();
    other.remove_field("pixel-aspect-ratio");
    for side in ["width", "height"] {
        other.set(side, gst::IntRange::new(1, i32::MAX));
    }
    other
}

/// `None` if the other side has no size for these.
fn resized(direction: gst::PadDirection, structure: &gst::StructureRef, factor: f64) -> Option<gst::Structure> {
    let mut other = structure.to_owned();
    for side in ["width", "height"] {
        let Ok(value) = structure.value(side) else { continue };
        let value = transform_value(value, &|low, high| match direction {
            gst::PadDirection::Sink => {
                let (low, high) = (scaled(low, factor), scaled(high, factor));
                (low <= LONGEST).then_some((low, high.min(LONGEST)))
            }
            _ => unscaled(low, high, factor, LONGEST),
        })?;
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

/// Chooses among the caps that are possible for the output what is nearest to the input `from`, `factor` times as large:
/// its format, its shape, its colours.
pub fn fixate(from: &VideoInfo, factor: f64, others: gst::Caps) -> gst::Caps {
    let mut others = others;
    others.truncate();
    let caps = others.make_mut();
    let Some(structure) = caps.structure_mut(0) else { return others };
    choose_format(from, structure);
    choose_size(from, factor, structure);
    choose_colours(from, structure);
    others.fixate();
    others
}

/// What is lost by going from one format to the other: the less the better.
fn loss(from: &VideoFormatInfo, to: &VideoFormatInfo) -> u32 {
    let lost = |is_lost: bool, weight: u32| if is_lost { weight } else { 0 };
    let has = |info: &VideoFormatInfo, flag| info.flags().contains(flag);
    let depth = |info: &VideoFormatInfo| info.depth().iter().copied().max().unwrap_or(8);
    let halved = |sub: &[u32]| sub.iter().copied().max().unwrap_or(0);
    lost(has(to, VideoFormatFlags::GRAY) && !has(from, VideoFormatFlags::GRAY), 64)
        + lost(has(from, VideoFormatFlags::ALPHA) && !has(to, VideoFormatFlags::ALPHA), 32)
        + lost(depth(to) < depth(from), 16)
        + lost(halved(to.w_sub()) > halved(from.w_sub()), 8)
        + lost(halved(to.h_sub()) > halved(from.h_sub()), 8)
        + lost(has(from, VideoFormatFlags::YUV) != has(to, VideoFormatFlags::YUV), 4)
        + lost(has(from, VideoFormatFlags::GRAY) != has(to, VideoFormatFlags::GRAY), 4)
        + lost(depth(to) > depth(from), 2)
        + lost(has(to, VideoFormatFlags::ALPHA) && !has(from, VideoFormatFlags::ALPHA), 1)
}

fn choose_format(from: &VideoInfo, structure: &mut gst::StructureRef) {
    let Ok(list) = structure.get::<gst::List>("format") else { return };
    let formats = list.iter().filter_map(|format| format.get::<&str>().ok()).map(VideoFormat::from_string);
    let best = formats.min_by_key(|&format| {
        (format != from.format(), loss(&from.format_info(), &VideoFormatInfo::from_format(format)))
    });
    if let Some(best) = best {
        structure.set("format", best.to_str());
    }
}

/// The picture's width over its height as it is shown; square pixels where their shape is none.
fn shape(info: &VideoInfo) -> (i128, i128) {
    let (numer, denom) = par(info);
    (i128::from(info.width()) * numer, i128::from(info.height()) * denom)
}

fn par(info: &VideoInfo) -> (i128, i128) {
    let (numer, denom) = (info.par().numer(), info.par().denom());
    if numer > 0 && denom > 0 { (numer.into(), denom.into()) } else { (1, 1) }
}

/// The fraction itself, or the nearest that caps can hold.
fn fraction(numer: i128, denom: i128) -> gst::Fraction {
    let divisor = gcd(numer, denom);
    match (i32::try_from(numer / divisor), i32::try_from(denom / divisor)) {
        (Ok(numer), Ok(denom)) => gst::Fraction::new(numer, denom),
        _ => gst::Fraction::approximate_f64(numer as f64 / denom as f64).unwrap_or(gst::Fraction::new(1, 1)),
    }
}

/// The greatest common divisor of two numbers above 0.
fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn choose_size(from: &VideoInfo, factor: f64, structure: &mut gst::StructureRef) {
    let (par_numer, par_denom) = par(from);
    let (shape_numer, shape_denom) = shape(from);
    let side = |structure: &gst::StructureRef, side| structure.get::<i32>(side).ok();
    // Both sides were chosen for us: then the pixels' shape keeps that of the picture, if it may.
    if let (Some(width), Some(height)) = (side(structure, "width"), side(structure, "height")) {
        let wanted = fraction(shape_numer * i128::from(height.max(1)), shape_denom * i128::from(width.max(1)));
        return choose_par(structure, wanted);
    }
    choose_par(structure, fraction(par_numer, par_denom));
    let out = structure.get::<gst::Fraction>("pixel-aspect-ratio").ok().filter(|out| out.numer() > 0);
    let out = out.map_or(1.0, |out| f64::from(out.numer()) / f64::from(out.denom()));
    // The picture's width over its height, in the pixels that come out.
    let shape = shape_numer as f64 / shape_denom as f64 / out;
    let nearest = |structure: &mut gst::StructureRef, side: &str, wanted: f64| {
        structure.fixate_field_nearest_int(side, wanted.round().clamp(1.0, LONGEST as f64) as i32);
        structure.get::<i32>(side).map_or(wanted, f64::from)
    };
    let length = |side: u32| scaled(side.into(), factor) as f64;
    let is_same_shape = (out - par_numer as f64 / par_denom as f64).abs() < 1e-9;
    // One side as it should be, the other as the shape wants it; the better of both ways.
    let by_width = |structure: &mut gst::StructureRef| {
        let width = nearest(structure, "width", length(from.width()));
        let exact = is_same_shape && width == length(from.width());
        (width, nearest(structure, "height", if exact { length(from.height()) } else { width / shape }))
    };
    let by_height = |structure: &mut gst::StructureRef| {
        let height = nearest(structure, "height", length(from.height()));
        (nearest(structure, "width", height * shape), height)
    };
    let (mut first, mut second) = (structure.to_owned(), structure.to_owned());
    let off = |(width, height): (f64, f64)| (width / height / shape).ln().abs();
    // A pixel more or less is no other shape.
    let (first_off, second_off) = (off(by_width(&mut first)), off(by_height(&mut second)));
    let chosen = if second_off + 1e-2 < first_off { second } else { first };
    for name in ["width", "height"] {
        structure.set(name, chosen.get::<i32>(name).unwrap_or(1));
    }
}

fn choose_par(structure: &mut gst::StructureRef, wanted: gst::Fraction) {
    if structure.has_field("pixel-aspect-ratio") {
        structure.fixate_field_nearest_fraction("pixel-aspect-ratio", wanted);
    } else if wanted != gst::Fraction::new(1, 1) {
        structure.set("pixel-aspect-ratio", wanted);
    }
}

/// The colours stay as they are, and caps say so: what they don't say is guessed from the size, which changes.
fn choose_colours(from: &VideoInfo, structure: &mut gst::StructureRef) {
    let side = |name| structure.get::<i32>(name).ok().and_then(|side| u32::try_from(side).ok());
    let format = structure.get::<&str>("format").map(VideoFormat::from_string);
    let (Ok(format), Some(width), Some(height)) = (format, side("width"), side("height")) else { return };
    let Ok(usual) = VideoInfo::builder(format, width, height).build() else { return };
    let is_kept = usual.is_yuv() == from.is_yuv() && usual.is_gray() == from.is_gray();
    let colours = if is_kept { from.colorimetry() } else { usual.colorimetry() };
    let mut choose = |field: &str, wanted: String| {
        if !structure.has_field(field) {
            structure.set(field, wanted);
        } else if structure.get::<gst::List>(field).is_ok() {
            structure.fixate_field_str(field, &wanted);
        }
    };
    choose("colorimetry", colours.to_string());
    let halved = |info: &VideoInfo| (info.format_info().w_sub().to_vec(), info.format_info().h_sub().to_vec());
    if is_kept && halved(&usual) == halved(from) && !from.chroma_site().is_empty() {
        choose("chroma-site", from.chroma_site().to_str().to_string());
    }
}

/// Where the picture lies in the output: row and column of its first pixel, then its height and width. With borders it
/// keeps its shape; else it fills the output.
pub fn place(from: &VideoInfo, to: &VideoInfo, add_borders: bool) -> ([i64; 2], [i64; 2]) {
    let (width, height) = (i64::from(to.width()), i64::from(to.height()));
    let full = ([0, 0], [height, width]);
    if !add_borders {
        return full;
    }
    let ((from_width, from_height), (par_numer, par_denom)) = (shape(from), par(to));
    // The size that the picture has if the other side is full.
    let rounded = |numer: i128, denom: i128| ((2 * numer + denom) / (2 * denom)).clamp(1, LONGEST.into()) as i64;
    let wanted_width = rounded(i128::from(height) * from_width * par_denom, from_height * par_numer);
    let wanted_height = rounded(i128::from(width) * from_height * par_numer, from_width * par_denom);
    // A pixel more or less is rounding, and no other shape.
    if (wanted_width - width).abs() <= 1 || (wanted_height - height).abs() <= 1 {
        full
    } else if wanted_width < width {
        ([0, (width - wanted_width) / 2], [height, wanted_width])
    } else {
        ([(height - wanted_height) / 2, 0], [wanted_height, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    const RGB: &str = "video/x-raw,format=RGB,framerate=25/1,interlace-mode=progressive";

    fn caps(text: &str) -> gst::Caps {
        gst::init().unwrap();
        gst::Caps::from_str(text).unwrap()
    }

    /// The sizes that the other side can have in the same format.
    fn check(direction: gst::PadDirection, factor: f64, given: &str, wanted: &str) {
        let factor = Some(Factor { factor, is_set: true });
        let seen = transform(direction, &caps(&format!("{RGB},{given}")), factor);
        let seen = seen.intersect(&caps("video/x-raw,format=RGB"));
        if wanted.is_empty() {
            assert!(seen.is_empty(), "{seen}");
        } else {
            assert_eq!(seen, caps(&format!("{RGB},{wanted}")));
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
    fn the_models_own_scale_comes_first_and_any_other_after() {
        let given = caps("video/x-raw,format=RGB,width=5,height=6,pixel-aspect-ratio=4/3");
        let free = transform(gst::PadDirection::Sink, &given, Some(Factor { factor: 2.0, is_set: false }));
        let first = caps("video/x-raw,format=RGB,width=10,height=12,pixel-aspect-ratio=4/3,interlace-mode=progressive");
        assert!(free.iter().next().unwrap() == first.iter().next().unwrap(), "{free}");
        for other in ["format=NV12,width=10,height=12", "format=RGB,width=1920,height=1080,pixel-aspect-ratio=1/1"] {
            assert!(free.can_intersect(&caps(&format!("video/x-raw,{other}"))), "{other}");
        }
        assert!(!free.can_intersect(&caps("video/x-raw,interlace-mode=interleaved")));
        // Asleep, it knows no scale.
        assert!(
            transform(gst::PadDirection::Sink, &given, None).can_intersect(&caps("video/x-raw,width=7,height=1000"))
        );
    }

    /// What is chosen for an input, where downstream allows this.
    fn chosen(input: &str, factor: f64, allowed: &str) -> gst::Caps {
        let input = caps(&format!("video/x-raw,framerate=25/1,{input}"));
        let info = VideoInfo::from_caps(&input).unwrap();
        let others = transform(gst::PadDirection::Sink, &input, Some(Factor { factor, is_set: false }));
        fixate(
            &info,
            factor,
            caps(&format!("video/x-raw,{allowed}")).intersect_with_mode(&others, gst::CapsIntersectMode::First),
        )
    }

    #[test]
    fn downstream_chooses_and_the_shape_stays() {
        for (input, factor, allowed, wanted) in [
            ("format=RGB,width=1024,height=576", 4.0, "format=RGB", "width=4096,height=2304,pixel-aspect-ratio=1/1"),
            ("format=RGB,width=1024,height=576", 4.0, "width=1920,height=1080", "pixel-aspect-ratio=1/1"),
            ("format=RGB,width=1280,height=720", 4.0, "width=1920,height=1080", "pixel-aspect-ratio=1/1"),
            ("format=RGB,width=640,height=480", 4.0, "width=1920,height=1080", "pixel-aspect-ratio=3/4"),
            ("format=RGB,width=640,height=480", 4.0, "width=1920,height=1080,pixel-aspect-ratio=1/1", "width=1920"),
            ("format=RGB,width=640,height=480", 4.0, "width=1920", "height=1440,pixel-aspect-ratio=1/1"),
            ("format=RGB,width=640,height=480", 4.0, "height=1080", "width=1440"),
            ("format=RGB,width=640,height=480", 4.0, "width=[1,1920],height=[1,1080]", "width=1440,height=1080"),
            ("format=RGB,width=1080,height=1920", 4.0, "width=[1,4096],height=[1,4096]", "width=2304,height=4096"),
            ("format=RGB,width=108,height=192", 4.0, "width=[16,409],height=[16,230]", "width=129,height=230"),
            // Fractions that are too large for caps.
            (
                "format=RGB,width=255,height=256,pixel-aspect-ratio=65535/65536",
                4.0,
                "width=256,height=255",
                "pixel-aspect-ratio=[9/10,1/1]",
            ),
            ("format=RGB,width=640,height=480", 4.0, "width=[1,1000],height=[1,1080]", "width=1000,height=750"),
            (
                "format=RGB,width=720,height=576,pixel-aspect-ratio=16/15",
                2.0,
                "height=1080",
                "width=1350,pixel-aspect-ratio=16/15",
            ),
            (
                "format=RGB,width=720,height=576,pixel-aspect-ratio=16/15",
                2.0,
                "height=1080,pixel-aspect-ratio=1/1",
                "width=1440",
            ),
        ] {
            let seen = chosen(input, factor, allowed);
            assert!(
                seen.is_fixed() && seen.can_intersect(&caps(&format!("video/x-raw,{wanted}"))),
                "{allowed}: {seen}"
            );
        }
    }

    #[test]
    fn formats_are_kept_or_lose_little() {
        let of = |input: &str, allowed: &str| {
            let seen = chosen(&format!("format={input},width=64,height=48"), 4.0, allowed);
            seen.structure(0).unwrap().get::<String>("format").unwrap()
        };
        assert_eq!(of("NV12", "width=256"), "NV12");
        assert_eq!(of("P010_10LE", "format={RGB,NV12,I420_10LE,GRAY8}"), "I420_10LE");
        assert_eq!(of("RGBA", "format={RGB,I420,ARGB,GRAY8}"), "ARGB");
        assert_eq!(of("GRAY8", "format={RGB,I420,GRAY16_LE}"), "GRAY16_LE");
        assert_eq!(of("RGB", "format={I420,Y444,GRAY8}"), "Y444");
    }

    #[test]
    fn colours_stay_what_they_were() {
        let colours = |input: &str, allowed: &str| {
            let seen = chosen(input, 4.0, allowed);
            let structure = seen.structure(0).unwrap();
            (structure.get::<String>("colorimetry").unwrap(), structure.get::<String>("chroma-site").ok())
        };
        // A small picture is of BT.601 where nothing is said, and a large one of BT.709.
        assert_eq!(colours("format=I420,width=640,height=480", "format=I420").0, "bt601");
        assert_eq!(
            colours("format=NV12,width=640,height=480,colorimetry=bt2020,chroma-site=jpeg", "format=I420"),
            ("bt2020".into(), Some("jpeg".into()))
        );
        assert_eq!(colours("format=RGB,width=640,height=480", "format=I420").0, "bt709");
        assert_eq!(colours("format=I420,width=640,height=480", "format=RGB").0, "sRGB");
        assert_eq!(colours("format=I420,width=640,height=480", "format=I420,colorimetry=bt709").0, "bt709");
    }

    #[test]
    fn borders_keep_the_shape() {
        gst::init().unwrap();
        let info = |width, height, par: (i32, i32)| {
            VideoInfo::builder(VideoFormat::Rgb, width, height).par(gst::Fraction::from(par)).build().unwrap()
        };
        let full = info(1920, 1080, (1, 1));
        for (input, borders, wanted) in [
            (info(1024, 576, (1, 1)), true, ([0, 0], [1080, 1920])),
            (info(640, 480, (1, 1)), true, ([0, 240], [1080, 1440])),
            (info(640, 480, (1, 1)), false, ([0, 0], [1080, 1920])),
            (info(640, 480, (4, 3)), true, ([0, 0], [1080, 1920])),
            (info(1920, 800, (1, 1)), true, ([140, 0], [800, 1920])),
            // No other shape, only rounded.
            (info(1021, 575, (1, 1)), true, ([0, 0], [1080, 1920])),
        ] {
            assert_eq!(place(&input, &full, borders), wanted, "{input:?}");
        }
    }
}
