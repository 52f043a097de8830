// SPDX-License-Identifier: MPL-2.0
//! What can be measured of a finished clip, to compare it with others: how much it flickers, shakes, drifts and moves, and
//! how sharp it is.
//!
//! Frames are looked at with at most [`SIDE`] pixels on their longer side, and lengths are told in pixels of frames that
//! have so many, so that clips of different sizes can be compared. A clip that stands still is the steadiest of all: what
//! is told of steadiness is to be read beside its motion.

use std::collections::BTreeMap;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::Result;
use super::image::Frame;
use super::pixels::Layout;
use super::rife::{self, Model, Time};
use super::worker::{Cancel, guarded};

/// The longer side that frames are looked at with, at most, in pixels; lengths are in pixels of frames of this side.
pub const SIDE: usize = 512;

/// The name of the measure that RIFE tells, and that tells nothing of what RIFE has made.
pub const SMOOTHNESS: &str = "smoothness";

/// Which value of a measure is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The highest.
    Higher,
    /// The lowest.
    Lower,
    /// That which is nearest to 1.
    One,
    /// It depends on what is wanted.
    Neither,
}

/// A measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measure {
    /// Its key in [`Measured`].
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What it is counted in; empty for a plain number.
    pub unit: &'static str,
    /// Which value is the best.
    pub better: Better,
    /// What it is, and where it comes from.
    pub about: &'static str,
}

const fn measure_of(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    better: Better,
    about: &'static str,
) -> Measure {
    Measure { name, title, unit, better, about }
}

/// All that [`measure`] tells.
pub const MEASURES: [Measure; 11] = [
    measure_of(
        "flicker",
        "Temporal flickering",
        "",
        Better::Higher,
        "VBench's (Huang et al., CVPR 2024): 1 less the mean absolute difference of adjacent frames over 255. Motion lowers \
         it, too.",
    ),
    measure_of(
        "difference",
        "Difference of frames",
        "levels",
        Better::Lower,
        "The mean absolute difference of adjacent frames, in levels of 255, which temporal flickering is made of.",
    ),
    measure_of(
        "pulse",
        "Pulse of brightness",
        "levels",
        Better::Lower,
        "The mean absolute second difference of the frames' mean luma, in levels of 255: flicker that motion does not change.",
    ),
    measure_of(
        SMOOTHNESS,
        "Motion smoothness",
        "",
        Better::Higher,
        "VBench's (Huang et al., CVPR 2024), with RIFE (Huang et al., ECCV 2022) instead of AMT: every second frame is \
         interpolated between its neighbours; 1 less the mean absolute difference to what is there over 255. It is \
         left out for a clip that RIFE has interpolated itself, of which it tells nothing.",
    ),
    measure_of(
        "motion",
        "Motion",
        "px/frame",
        Better::Neither,
        "The mean length of RIFE's optical flow from a frame to the next, over all pixels.",
    ),
    measure_of(
        "jitter",
        "Jitter",
        "px/frame²",
        Better::Lower,
        "How much the shift of the whole frame changes from one frame to the next, on average. Shifts are found by phase \
         correlation (Kuglin and Hines, 1975). A steady pan has none.",
    ),
    measure_of(
        "drift",
        "Drift of the middle",
        "px",
        Better::Lower,
        "How far the middle half of the frame is from where it was in the first frame, at most: shifts from frame to frame, \
         by phase correlation, added up. A pan of the camera counts, too: it tells of the subject where the camera stands still.",
    ),
    measure_of(
        "sharpness",
        "Sharpness",
        "levels²",
        Better::Higher,
        "The variance of the luma's Laplacian (Pech-Pacheco et al., ICPR 2000), on average. Noise raises it, too.",
    ),
    measure_of("sharpness_kept", "Sharpness kept", "", Better::One, "The last frame's sharpness over the first's."),
    measure_of(
        "brightness_drift",
        "Drift of brightness",
        "levels",
        Better::Lower,
        "The largest difference of a frame's mean luma from the first frame's, in levels of 255.",
    ),
    measure_of(
        "colour_drift",
        "Drift of colour",
        "levels",
        Better::Lower,
        "The largest distance of a frame's mean Cb and Cr (BT.601) from the first frame's, in levels of 255.",
    ),
];

/// What was measured, by the measures' names; without what a clip is too short for.
pub type Measured = BTreeMap<&'static str, f64>;

/// A frame as it is looked at: with at most [`SIDE`] pixels on its longer side.
pub fn small(frame: &Frame) -> Frame {
    let [width, height] = small_size(frame, SIDE);
    frame.resize(width, height)
}

/// The size of a frame, in pixels, that is made to fit a square of `side`; small ones are as they are.
pub fn small_size(frame: &Frame, side: usize) -> [usize; 2] {
    let size = [frame.width(), frame.height()];
    let longer = frame.width().max(frame.height());
    if longer <= side { size } else { size.map(|length| ((length * side + longer / 2) / longer).max(1)) }
}

/// Measures a clip whose frames, all of one size, are [`small`]. Without a model there is neither smoothness nor motion.
///
/// # Errors
/// [`Error::Torch`](super::Error::Torch) if frames are of different sizes, and the errors of
/// [`between`](rife::between).
pub fn measure(frames: &[Frame], model: Option<&mut Model>) -> Result<Measured> {
    let Some(first) = frames.first() else { return Ok(Measured::new()) };
    let (width, height) = (first.width() as i64, first.height() as i64);
    let pixel = SIDE as f64 / width.max(height) as f64;
    guarded(|| {
        let (whole, middle) = (Correlator::new(height, width), Correlator::new((height + 1) / 2, (width + 1) / 2));
        let mut before: Option<(Tensor, Tensor, Tensor)> = None;
        let (mut differences, mut shifts, mut places) = (Vec::new(), Vec::new(), vec![[0.0; 2]]);
        let (mut lumas, mut tints, mut sharpness) = (Vec::new(), Vec::new(), Vec::new());
        for frame in frames {
            let rgb = frame.to_tensor(Device::Cpu).squeeze_dim(0) * 255.0;
            let luma = rgb.get(0) * 0.299 + rgb.get(1) * 0.587 + rgb.get(2) * 0.114;
            let mean = |tensor: &Tensor| tensor.mean(Kind::Double).double_value(&[]);
            let level = mean(&luma);
            lumas.push(level);
            tints.push([(mean(&rgb.get(2)) - level) * 0.564, (mean(&rgb.get(0)) - level) * 0.713]);
            sharpness.push(variance_of_laplacian(&luma));
            let centre = luma.narrow(0, height / 4, (height + 1) / 2).narrow(1, width / 4, (width + 1) / 2);
            let now = (rgb, whole.spectrum(&luma), middle.spectrum(&centre));
            if let Some(before) = before {
                differences.push(mean(&(&now.0 - &before.0).abs()));
                shifts.push(whole.shift(&before.1, &now.1));
                let [x, y] = middle.shift(&before.2, &now.2);
                let last: [f64; 2] = places[places.len() - 1];
                places.push([last[0] + x, last[1] + y]);
            }
            before = Some(now);
        }
        let mut measured = Measured::new();
        let mut add = |name, value: Option<f64>| measured.extend(value.map(|value| (name, value)));
        let difference = average(differences.iter().copied());
        add("flicker", difference.map(|difference| 1.0 - difference / 255.0));
        add("difference", difference);
        add("pulse", average(lumas.windows(3).map(|level| (level[2] - 2.0 * level[1] + level[0]).abs())));
        let jitter = average(shifts.windows(2).map(|pair| distance(pair[0], pair[1])));
        add("jitter", jitter.map(|jitter| jitter * pixel));
        let farthest = |distances: &mut dyn Iterator<Item = f64>| {
            distances.fold(None, |most: Option<f64>, distance| Some(most.unwrap_or(0.0).max(distance)))
        };
        add("drift", farthest(&mut places.iter().skip(1).map(|place| distance(*place, [0.0; 2]) * pixel)));
        add("sharpness", average(sharpness.iter().copied()));
        let kept = sharpness[sharpness.len() - 1] / sharpness[0];
        add("sharpness_kept", Some(kept).filter(|kept| frames.len() > 1 && kept.is_finite()));
        add("brightness_drift", farthest(&mut lumas.iter().skip(1).map(|level| (level - lumas[0]).abs())));
        add("colour_drift", farthest(&mut tints.iter().skip(1).map(|tint| distance(*tint, tints[0]))));
        if let Some(model) = model {
            let [missed, flow] = interpolate(frames, model)?;
            add(SMOOTHNESS, missed.map(|missed| 1.0 - missed));
            add("motion", flow.map(|flow| flow * pixel));
        }
        Ok(measured)
    })
}

/// How far every second frame is from what is interpolated between its neighbours (mean absolute difference, 0 to 1), and
/// the mean length of the flow from frame to frame, in pixels.
fn interpolate(frames: &[Frame], model: &mut Model) -> Result<[Option<f64>; 2]> {
    let (width, height) = (frames[0].width(), frames[0].height());
    let Some(layout) = Layout::rgb(width, height, false) else { return Ok([None; 2]) };
    let (cancel, middle) = (Cancel::default(), Time::new(1, 2)?);
    let (mut missed, mut flows) = (Vec::new(), Vec::new());
    let mut first = rife::encode(model, frames[0].data(), &layout, 1.0)?;
    for trio in frames.windows(3).step_by(2) {
        let second = rife::encode(model, trio[2].data(), &layout, 1.0)?;
        let made = rife::between(model, &first, &second, middle, &cancel)?;
        let there = trio[1].to_tensor(Device::Cpu);
        missed.push((made.picture.to_device(Device::Cpu) - there).abs().mean(Kind::Double).double_value(&[]));
        // From the middle to either frame; together that is what moves in two frames.
        let flow = made.flow.narrow(2, 0, height as i64).narrow(3, 0, width as i64);
        let whole = flow.narrow(1, 2, 2) - flow.narrow(1, 0, 2);
        let length = whole.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float).sqrt();
        flows.push(length.mean(Kind::Double).double_value(&[]) / 2.0);
        first = second;
    }
    Ok([average(missed.into_iter()), average(flows.into_iter())])
}

/// The variance of the Laplacian of luma (h, w) in levels; of what has four neighbours.
fn variance_of_laplacian(luma: &Tensor) -> f64 {
    let (height, width) = (luma.size()[0], luma.size()[1]);
    if height < 3 || width < 3 {
        return 0.0;
    }
    let part = |row: i64, column: i64| luma.narrow(0, row, height - 2).narrow(1, column, width - 2);
    let laplacian = part(0, 1) + part(2, 1) + part(1, 0) + part(1, 2) - part(1, 1) * 4.0;
    laplacian.to_kind(Kind::Double).var(false).double_value(&[])
}

/// Finds shifts between pictures of one size by phase correlation, to parts of a pixel.
struct Correlator {
    /// Fades a picture out to its edges, because a spectrum knows none.
    window: Tensor,
    /// Makes the correlation's peak a Gaussian, of which three values tell where its top is.
    weight: Tensor,
    /// The power of noise of one level in a spectrum: what is weaker tells nothing.
    noise: f64,
    size: [i64; 2],
}

impl Correlator {
    /// The width of the peak, in pixels.
    const SIGMA: f64 = 1.5;
    /// The height of a peak, of 1 for the same picture, below which pictures have nothing in common.
    const LEAST: f64 = 0.2;

    fn new(height: i64, width: i64) -> Self {
        let options = (Kind::Float, Device::Cpu);
        let hann = |length| Tensor::hann_window_periodic(length, false, options);
        let window = hann(height).unsqueeze(1) * hann(width).unsqueeze(0);
        let rows = Tensor::fft_fftfreq(height, 1.0, options).square().unsqueeze(1);
        let columns = Tensor::fft_rfftfreq(width, 1.0, options).square().unsqueeze(0);
        let width_of = -2.0 * (std::f64::consts::PI * Self::SIGMA).powi(2);
        let noise = window.square().sum(Kind::Double).double_value(&[]);
        Self { window, weight: ((rows + columns) * width_of).exp(), noise, size: [height, width] }
    }

    /// The spectrum of luma (h, w) in levels.
    fn spectrum(&self, luma: &Tensor) -> Tensor {
        let faded = (luma - luma.mean(Kind::Float)) * &self.window;
        faded.fft_rfft2(None::<&[i64]>, [-2i64, -1].as_slice(), "backward")
    }

    /// How far what is in the first picture is moved in the second, right and down, in pixels. Pictures that have nothing
    /// in common count as not moved.
    fn shift(&self, first: &Tensor, second: &Tensor) -> [f64; 2] {
        let cross = second * first.conj_physical();
        let strength = cross.abs();
        let phases = cross / (strength.shallow_clone() + self.noise) * &self.weight;
        let [height, width] = self.size;
        let back = |x: &Tensor| x.fft_irfft2([height, width].as_slice(), [-2i64, -1].as_slice(), "backward");
        let surface = back(&phases);
        let most = back(&((&strength / (&strength + self.noise)) * &self.weight).to_kind(Kind::ComplexFloat));
        let best = surface.argmax(None, false).int64_value(&[]);
        let (row, column) = (best / width, best % width);
        let value = |row: i64, column: i64| surface.double_value(&[row.rem_euclid(height), column.rem_euclid(width)]);
        let peak = value(row, column);
        if peak <= 0.0 || peak < Self::LEAST * most.double_value(&[0, 0]) {
            return [0.0; 2];
        }
        let top = |before: f64, after: f64| {
            if before <= 0.0 || after <= 0.0 {
                return 0.0;
            }
            let [before, here, after] = [before, peak, after].map(f64::ln);
            let bend = before - 2.0 * here + after;
            if bend < 0.0 { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) } else { 0.0 }
        };
        let signed = |at: i64, length: i64| if 2 * at > length { at - length } else { at } as f64;
        [
            signed(column, width) + top(value(row, column - 1), value(row, column + 1)),
            signed(row, height) + top(value(row - 1, column), value(row + 1, column)),
        ]
    }
}

fn distance(one: [f64; 2], other: [f64; 2]) -> f64 {
    (one[0] - other[0]).hypot(one[1] - other[1])
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 160;
    const HEIGHT: usize = 96;
    /// Pixels of a frame of [`SIDE`] for one of these.
    const PIXEL: f64 = SIDE as f64 / WIDTH as f64;

    /// A landscape of lumps, at any place between pixels: levels from 0 to 255.
    fn lumps(x: f64, y: f64) -> f64 {
        let corner = |x: i64, y: i64| {
            let mixed = (x.wrapping_mul(0x9E37_79B9) ^ y.wrapping_mul(0x85EB_CA6B)) as u32;
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2C1B_3C6D);
            f64::from((mixed ^ (mixed >> 12)) & 255)
        };
        let lattice = |x: f64, y: f64| {
            let (column, row) = (x.floor(), y.floor());
            let ease = |t: f64| t * t * (3.0 - 2.0 * t);
            let (right, down) = (ease(x - column), ease(y - row));
            let (column, row) = (column as i64, row as i64);
            let row_at = |row| corner(column, row) * (1.0 - right) + corner(column + 1, row) * right;
            row_at(row) * (1.0 - down) + row_at(row + 1) * down
        };
        0.6 * lattice(x / 13.0, y / 13.0) + 0.4 * lattice(x / 4.0 + 90.0, y / 4.0 + 70.0)
    }

    fn frame(pixel: impl Fn(f64, f64) -> [f64; 3]) -> Frame {
        let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x as f64, y as f64)));
        let data = pixels.flat_map(|(x, y)| pixel(x, y).map(|level| level.round().clamp(0.0, 255.0) as u8)).collect();
        Frame::new(WIDTH, HEIGHT, 3, data)
    }

    /// Eight frames, each moved right and down by so much.
    fn moved(place: impl Fn(usize) -> [f64; 2]) -> Vec<Frame> {
        let at = |number| {
            let [right, down] = place(number);
            frame(|x, y| [lumps(x - right, y - down); 3])
        };
        (0..8).map(at).collect()
    }

    fn measured(frames: &[Frame]) -> Measured {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/rife/rife-v4.25.safetensors");
        let mut model = Model::load(&path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        let measured = measure(frames, Some(&mut model)).unwrap();
        println!("{measured:?}");
        measured
    }

    fn is_near(value: f64, wanted: f64, within: f64) -> bool {
        (value - wanted).abs() <= within
    }

    #[test]
    fn a_still_clip_is_steady_a_pan_is_smooth_and_a_shaking_one_is_neither() {
        let still = measured(&moved(|_| [0.0; 2]));
        let names: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
        assert!(names.iter().all(|name| still.contains_key(name)) && still.len() == names.len());
        for name in ["difference", "pulse", "jitter", "drift", "brightness_drift", "colour_drift"] {
            assert!(still[name].abs() < 1e-9, "{name}");
        }
        assert!(still["flicker"] == 1.0 && still["sharpness_kept"] == 1.0);
        assert!(still["smoothness"] > 0.99 && still["motion"] < 0.3 * PIXEL);
        let pan = measured(&moved(|number| [2.3 * number as f64, -0.6 * number as f64]));
        let step = 2.3f64.hypot(0.6) * PIXEL;
        assert!(is_near(pan["motion"], step, 0.15 * step));
        assert!(is_near(pan["drift"], 7.0 * step, 0.1 * step * 7.0));
        assert!(pan["jitter"] < 0.1 * PIXEL);
        let shaking = measured(&moved(|number| if number % 2 == 0 { [1.5, 0.8] } else { [-1.5, -0.8] }));
        // From one side to the other and back.
        let change = 2.0 * 3f64.hypot(1.6) * PIXEL;
        assert!(is_near(shaking["jitter"], change, 0.05 * change));
        assert!(is_near(shaking["drift"], change / 2.0, 0.05 * change));
        assert!(shaking["smoothness"] + 0.02 < pan["smoothness"] && pan["smoothness"] < still["smoothness"] + 1e-3);
        assert!(shaking["flicker"] < 0.98);
    }

    #[test]
    fn light_that_flickers_is_no_motion() {
        let lit = |light: f64| frame(|x, y| [(40.0 + 0.6 * lumps(x, y)) * light; 3]);
        let clip: Vec<_> = (0..8).map(|number| lit(if number % 2 == 0 { 1.0 } else { 1.1 })).collect();
        let flickering = measured(&clip);
        let level = measured(&clip[..1])["sharpness"];
        assert!(level > 0.0);
        // A tenth of a mean luma of about 115, there and back.
        assert!(is_near(flickering["pulse"], 23.0, 5.0) && is_near(flickering["difference"], 11.5, 2.5));
        assert!(is_near(flickering["flicker"], 1.0 - flickering["difference"] / 255.0, 1e-12));
        assert!(flickering["jitter"] < 0.02 * PIXEL && flickering["drift"] < 0.02 * PIXEL);
        // Growing light is a drift, and no flicker.
        let growing: Vec<_> = (0..8).map(|number| lit(1.0 + 0.02 * f64::from(number))).collect();
        let growing = measured(&growing);
        assert!(growing["pulse"] < 0.3 && is_near(growing["brightness_drift"], 16.0, 4.0));
        assert!(growing["colour_drift"] < 0.5);
    }

    #[test]
    fn what_blurs_and_reddens_is_told() {
        let blurred = |radius: i32| {
            frame(|x, y| {
                let around = (-radius..=radius).map(f64::from);
                let sum: f64 = around.clone().flat_map(|i| around.clone().map(move |j| lumps(x + i, y + j))).sum();
                [sum / f64::from((2 * radius + 1).pow(2)); 3]
            })
        };
        let blurring = measured(&[0, 1, 1, 2, 2, 3].map(blurred));
        assert!(blurring["sharpness_kept"] < 0.3, "{blurring:?}");
        assert!(blurring["sharpness"] < measured(&[0, 0, 0].map(blurred))["sharpness"]);
        let red: Vec<_> = (0..4)
            .map(|number| {
                frame(|x, y| [0.6 * lumps(x, y) + 10.0 * f64::from(number), 0.6 * lumps(x, y), 0.6 * lumps(x, y)])
            })
            .collect();
        let red = measured(&red);
        // 30 levels of red are 9 of luma, -5 of Cb and 15 of Cr.
        assert!(is_near(red["brightness_drift"], 9.0, 0.3) && is_near(red["colour_drift"], 15.8, 0.5));
    }

    #[test]
    fn a_subject_that_drifts_before_a_still_background_is_told() {
        let at = |number: i32| {
            frame(|x, y| {
                let (column, row) = (x - WIDTH as f64 / 2.0, y - HEIGHT as f64 / 2.0);
                let is_subject = column.abs() < 38.0 && row.abs() < 24.0;
                [if is_subject { lumps(x - f64::from(number) + 300.0, y) } else { lumps(x, y) }; 3]
            })
        };
        let drifting = measured(&(0..8).map(at).collect::<Vec<_>>());
        assert!(is_near(drifting["drift"], 7.0 * PIXEL, 0.7 * PIXEL));
        assert!(drifting["jitter"] < 0.3 * PIXEL);
    }

    #[test]
    fn what_can_t_be_told_of_a_clip_is_left_out() {
        let grey = Frame::new(64, 48, 3, vec![128; 64 * 48 * 3]);
        assert!(measure(&[], None).unwrap().is_empty());
        let one = measure(std::slice::from_ref(&grey), None).unwrap();
        assert_eq!(one.keys().copied().collect::<Vec<_>>(), ["sharpness"]);
        let plain = measured(&[grey.clone(), grey.clone(), grey.clone()]);
        assert!(!plain.contains_key("sharpness_kept") && plain.values().all(|value| value.is_finite()));
        assert_eq!((plain["jitter"], plain["drift"]), (0.0, 0.0));
        assert!(!measure(&[grey.clone(), grey], None).unwrap().contains_key("jitter"));
        // Scenes that have nothing in common do not shake.
        let cut = [0, 1000, 0, 1000].map(|place| frame(|x, y| [lumps(x + f64::from(place), y); 3]));
        assert!(measure(&cut, None).unwrap()["jitter"] < PIXEL);
    }

    #[test]
    fn frames_are_made_small_in_their_shape() {
        let size = |width, height| {
            let small = small(&Frame::new(width, height, 3, vec![0; width * height * 3]));
            [small.width(), small.height()]
        };
        assert_eq!([size(1280, 720), size(300, 600), size(64, 48)], [[512, 288], [256, 512], [64, 48]]);
    }
}
