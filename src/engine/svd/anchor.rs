// SPDX-License-Identifier: MPL-2.0
//! Colours that stay, where the last frame of one clip is the keyframe of the next.
//!
//! Each clip shifts brightness, contrast and saturation a little, and a chain of clips adds that up. So the last frame is
//! given the statistics of the first keyframe again (Reinhard et al., "Color Transfer between Images", 2001, here in
//! luma and chroma), and the frames before it their share, so that nothing jumps.

use tch::{Device, Kind, Tensor};

use crate::engine::image::Frame;
use crate::engine::{Error, Result};

/// Luma and chroma of BT.601, full range: the rows are Y, Cb and Cr of R, G and B.
const TO_YCBCR: [[f64; 3]; 3] = [[0.299, 0.587, 0.114], [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]];
/// The way back.
const TO_RGB: [[f64; 3]; 3] = [[1.0, 0.0, 1.402], [1.0, -0.344_136, -0.714_136], [1.0, 1.772, 0.0]];
/// The most that contrast and saturation are changed by in one clip, as a factor.
const MOST: f64 = 2.0;

/// A picture's brightness, contrast, tint and saturation: the mean and the standard deviation of its luma and chroma,
/// in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// Of Y, Cb and Cr.
    pub mean: [f64; 3],
    /// Of Y, and of both chroma components together.
    pub deviation: [f64; 2],
}

impl Statistics {
    /// The statistics of a picture.
    ///
    /// # Errors
    /// Those of the operations on its tensor.
    pub fn of(picture: &Frame) -> Result<Self> {
        let values = ycbcr(picture)?;
        let mean = <[f64; 3]>::try_from(Vec::<f64>::try_from(values.mean_dim([1i64].as_slice(), false, Kind::Double))?)
            .map_err(|_| Error::Torch("a mean of three channels has three values".into()))?;
        let variance = Vec::<f64>::try_from(values.var_dim([1i64].as_slice(), false, false))?;
        Ok(Self { mean, deviation: [variance[0].sqrt(), (variance[1] + variance[2]).sqrt()] })
    }
}

/// Pixels as (3, pixels), luma and chroma in float64.
fn ycbcr(picture: &Frame) -> Result<Tensor> {
    let rgb = picture.to_tensor(Device::Cpu).squeeze_dim(0).flatten(1, 2).to_kind(Kind::Double).narrow(0, 0, 3);
    Ok(Tensor::from_slice2(&TO_YCBCR).f_matmul(&rgb)?)
}

/// Brings the last of `frames` to the statistics `anchor`, and those before it nearer to them the later they are; the
/// first stays as it is.
///
/// # Errors
/// Those of the operations on their tensors.
pub fn anchor(frames: &mut [Frame], anchor: &Statistics) -> Result<()> {
    let Some(last) = frames.last() else { return Ok(()) };
    let seen = Statistics::of(last)?;
    let scale = |wanted: f64, seen: f64| if seen > 0.0 { (wanted / seen).clamp(1.0 / MOST, MOST) } else { 1.0 };
    let luma = scale(anchor.deviation[0], seen.deviation[0]);
    let chroma = scale(anchor.deviation[1], seen.deviation[1]);
    let scales = [luma, chroma, chroma];
    let shifts: Vec<_> = (0..3).map(|i| anchor.mean[i] - seen.mean[i] * scales[i]).collect();
    let column = |values: &[f64]| Tensor::from_slice(values).view([3, 1]);
    let (scales, shifts) = (column(&scales), column(&shifts));
    let count = frames.len();
    for (i, frame) in frames.iter_mut().enumerate().skip(1) {
        let values = ycbcr(frame)?;
        let corrected = &values * &scales + &shifts;
        let share = i as f64 / (count - 1) as f64;
        let mixed = &values + (corrected - &values) * share;
        let rgb = Tensor::from_slice2(&TO_RGB).f_matmul(&mixed)?;
        let (height, width) = (frame.height() as i64, frame.width() as i64);
        *frame = Frame::from_tensor(&rgb.view([1, 3, height, width]))?.swap_remove(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp of colours, changed.
    fn picture(change: impl Fn(f64) -> f64) -> Frame {
        let pixels = (0..32 * 16).flat_map(|i| [60 + i % 32 * 4, 70 + i / 32 * 6, 90 + (i % 32 + i / 32) * 2]);
        Frame::new(32, 16, 3, pixels.map(|value| change(f64::from(value)) as u8).collect())
    }

    fn differ(a: &Statistics, b: &Statistics) -> f64 {
        let pairs = a.mean.iter().zip(&b.mean).chain(a.deviation.iter().zip(&b.deviation));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn the_last_frame_has_the_anchors_statistics_and_the_first_stays() {
        let (first, faded) = (picture(|v| v), picture(|v| v * 0.8 + 10.0));
        let wanted = Statistics::of(&first).unwrap();
        let drifted = differ(&Statistics::of(&faded).unwrap(), &wanted);
        assert!(drifted > 0.02);
        let mut frames = vec![faded.clone(), faded.clone(), faded.clone()];
        anchor(&mut frames, &wanted).unwrap();
        assert_eq!(frames[0], faded);
        let left = differ(&Statistics::of(&frames[2]).unwrap(), &wanted);
        assert!(left < 0.002, "{left}");
        // Half of the way in the middle.
        let middle = differ(&Statistics::of(&frames[1]).unwrap(), &wanted);
        assert!((middle / drifted - 0.5).abs() < 0.05, "{middle} of {drifted}");
        // A picture that is right is not touched.
        let mut frames = vec![first.clone(), first.clone()];
        anchor(&mut frames, &wanted).unwrap();
        assert_eq!(frames[1], first);
    }

    #[test]
    fn a_grey_picture_stays_grey() {
        let grey = Frame::new(8, 8, 3, vec![100; 192]);
        let mut frames = vec![grey.clone(), grey];
        anchor(&mut frames, &Statistics::of(&picture(|v| v)).unwrap()).unwrap();
        let pixel = &frames[1].data()[..3];
        assert!(frames[1].data().chunks(3).all(|other| other == pixel));
    }
}
