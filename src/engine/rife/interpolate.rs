// SPDX-License-Identifier: MPL-2.0
//! From two frames to one between them: pad, encode each once, run the network, warp both and mix them.
//!
//! Upstream: `inference_video.py` of Practical-RIFE, with these differences: frames are kept in float32, and warped and
//! mixed in it, so that deep ones keep their depth in every precision; numbers are rounded, not cut off; alpha moves
//! with the picture; and the features of a frame are computed once, not once for each frame between.

use tch::{Kind, Tensor};

use super::model::Seen;
use super::{Judgement, Look, Model, Time};
use crate::engine::bytes::Bytes;
use crate::engine::pixels::{self, Canvas, Layout};
use crate::engine::stream::Pending;
use crate::engine::worker::{Cancel, guarded};
use crate::engine::{Error, Result};

/// A frame of a video as a model sees it, on the model's device. It may be held, cloned and dropped on any thread, and
/// is of use on the model's only. Clones are the same memory.
pub struct Encoded {
    /// The picture and its features, (1, 3 + features, h, w) float32, padded to what the network wants.
    seen: Tensor,
    /// Alpha, (1, 1, h, w), padded too.
    alpha: Option<Tensor>,
    look: Look,
    layout: Layout,
    scale: f64,
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        Self {
            seen: self.seen.shallow_clone(),
            alpha: self.alpha.as_ref().map(Tensor::shallow_clone),
            look: self.look.clone(),
            layout: self.layout.clone(),
            scale: self.scale,
        }
    }
}

impl Encoded {
    /// What is told of this frame and the next.
    ///
    /// # Errors
    /// [`Error::Param`] if they are of different layouts.
    pub fn compare(&self, next: &Self) -> Result<Judgement> {
        self.fits(next)?;
        guarded(|| self.look.compare(&next.look))
    }

    fn fits(&self, next: &Self) -> Result<()> {
        if (&self.layout, self.scale, self.seen.size()) == (&next.layout, next.scale, next.seen.size()) {
            return Ok(());
        }
        let name = |frame: &Self| format!("{}x{}", frame.layout.width(), frame.layout.height());
        let value = format!("{} and {}", name(self), name(next));
        Err(Error::param("frames", value, "use two of the same layout, encoded by one model at the same scale"))
    }
}

/// A frame between two.
pub struct Between {
    /// (1, 3 or 4, height, width) float32, in [0, 1].
    pub picture: Tensor,
    /// Where its pixels come from, (1, 4, h, w) float32 in pixels, of the padded frame: x and y in the first frame, x
    /// and y in the second.
    pub flow: Tensor,
    /// How much each pixel is of the first frame, (1, 1, h, w) float32, of the padded frame, before the sigmoid.
    pub mask: Tensor,
    /// The precision whose range did not suffice, so that it was done again in float32.
    pub redone: Option<&'static str>,
    /// Whether all numbers are finite, on the device, if the model does not look at each frame.
    pub is_finite: Option<Tensor>,
}

/// A frame that the device may still be computing or copying.
pub struct Begun {
    picture: Pending<(Tensor, Tensor)>,
    is_finite: Option<Pending<(Tensor, Tensor)>>,
    /// The precision whose range did not suffice, so that it was done again in float32.
    pub redone: Option<&'static str>,
}

/// Brings a frame's bytes to the model's device and computes its features. `scale` is
/// [`Params::scale_for`](super::Params::scale_for) its size.
///
/// # Errors
/// [`Error::Param`] if the bytes are fewer than the layout says; [`Error::OutOfMemory`].
pub fn encode(model: &Model, bytes: &[u8], layout: &Layout, scale: f64) -> Result<Encoded> {
    guarded(|| {
        let host = host(bytes, layout)?;
        let host = if model.device.is_cuda() { host.f_pin_memory(model.device)? } else { host };
        let bytes = model.lanes.upload(&host).ready();
        let given = pixels::read(&bytes, layout, 0..layout.height(), 0..layout.width());
        let look = Look::new(&given);
        let multiple = model.config().multiple();
        let multiple = multiple.max((multiple as f64 / scale) as i64);
        let more = |side: i64| (multiple - side % multiple) % multiple;
        let padding = [0, more(layout.width()), 0, more(layout.height())];
        let padded = given.constant_pad_nd(padding);
        let picture = padded.narrow(1, 0, 3);
        let alpha = layout.has_alpha().then(|| padded.narrow(1, 3, 1));
        let seen = Tensor::cat(&[&picture, &model.features(&picture)], 1);
        Ok(Encoded { seen, alpha, look, layout: layout.clone(), scale })
    })
}

/// Computes the frame between two at `time`.
///
/// # Errors
/// [`Error::Cancelled`] soon after the token is set; [`Error::Param`] if the two don't fit together; [`Error::Model`]
/// if numbers are not finite even in float32; [`Error::OutOfMemory`].
pub fn between(model: &mut Model, first: &Encoded, second: &Encoded, time: Time, cancel: &Cancel) -> Result<Between> {
    first.fits(second)?;
    guarded(|| {
        let frames = Tensor::cat(&[&first.seen, &second.seen], 0);
        let Seen { motion, is_finite, is_redone } = model.run(&frames, time, first.scale, cancel)?;
        cancel.check()?;
        let mut channels = frames.narrow(1, 0, 3);
        if let (Some(first), Some(second)) = (&first.alpha, &second.alpha) {
            channels = Tensor::cat(&[channels, Tensor::cat(&[first, second], 0)], 1);
        }
        let (_, _, height, width) = motion.flow.size4()?;
        let warped = model.positions().warp(&channels, &motion.flow.view([2, 2, height, width]));
        let (from_first, from_second) = (warped.narrow(0, 0, 1), warped.narrow(0, 1, 1));
        let picture = &from_second + (from_first - &from_second) * motion.mask.sigmoid();
        let picture = picture.narrow(2, 0, first.layout.height()).narrow(3, 0, first.layout.width()).clamp(0.0, 1.0);
        let redone = is_redone.then(|| model.dtype());
        Ok(Between { picture, flow: motion.flow, mask: motion.mask, redone, is_finite })
    })
}

/// As [`between`], to bytes in the layout that the frames came in. On a GPU it does not wait for the end.
///
/// # Errors
/// Those of [`between`].
pub fn begin(model: &mut Model, first: &Encoded, second: &Encoded, time: Time, cancel: &Cancel) -> Result<Begun> {
    let Between { picture, redone, is_finite, .. } = between(model, first, second, time, cancel)?;
    guarded(|| {
        let mut canvas = Canvas::new(&first.layout, model.device);
        canvas.put(&picture.squeeze_dim(0), 0, 0);
        let download = |tensor| model.lanes.download(tensor);
        Ok(Begun { picture: download(canvas.finish()), is_finite: is_finite.map(download), redone })
    })
}

/// The frame between two at `time` without a model, of their bytes on the CPU: one fades into the other.
///
/// # Errors
/// [`Error::Param`] if the bytes are fewer than the layout says; [`Error::OutOfMemory`].
pub fn blend(first: &[u8], second: &[u8], layout: &Layout, time: Time) -> Result<Bytes> {
    guarded(|| {
        let [first, second] = [host(first, layout)?, host(second, layout)?];
        Bytes::new(&pixels::mix(&first, &second, layout, time.value()))
    })
}

/// Looks at a frame without a model, at its bytes on the CPU.
///
/// # Errors
/// [`Error::Param`] if the bytes are fewer than the layout says; [`Error::OutOfMemory`].
pub fn look(bytes: &[u8], layout: &Layout) -> Result<Look> {
    guarded(|| {
        let picture = pixels::read(&host(bytes, layout)?, layout, 0..layout.height(), 0..layout.width());
        Ok(Look::new(&picture))
    })
}

/// A frame's bytes as a tensor on the CPU.
fn host(bytes: &[u8], layout: &Layout) -> Result<Tensor> {
    if bytes.len() < layout.size() {
        let value = format!("{} bytes", bytes.len());
        return Err(Error::param("frame", value, format!("its layout has {}", layout.size())));
    }
    Ok(Tensor::f_from_data_size(bytes, &[bytes.len() as i64], Kind::Uint8)?)
}

impl Begun {
    /// Waits for the frame's bytes. `None` if there were numbers that are not finite: then the frame is to be begun
    /// again, after [`Model::check_frames`]. On any thread.
    ///
    /// # Errors
    /// [`Error::Torch`] if the device failed.
    pub fn finish(self) -> Result<Option<Bytes>> {
        guarded(|| {
            let is_finite = self.is_finite.is_none_or(|flag| flag.wait().0.int64_value(&[]) == 1);
            let picture = self.picture.wait().0;
            is_finite.then(|| Bytes::new(&picture)).transpose()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::Device;

    use super::*;

    #[test]
    fn numbers_that_are_found_bad_at_the_end_are_done_again() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/rife/rife-v4.25.safetensors");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        // The same network, with numbers after a layer that float16 can't hold.
        let tensors = Tensor::read_safetensors(shipped).unwrap().into_iter().map(|(name, tensor)| {
            let factor = match name.as_str() {
                "block0.conv0.0.0.weight" | "block0.conv0.0.0.bias" => 1e6,
                "block0.conv0.1.0.weight" => 1e-6,
                _ => 1.0,
            };
            (name, tensor.to_kind(Kind::Float) * factor)
        });
        Tensor::write_safetensors(&tensors.collect::<Vec<_>>(), &path).unwrap();
        let cancel = Cancel::default();
        let mut model = Model::load(&path, Device::Cpu, Kind::Half, &cancel).unwrap();
        model.trust_frames();
        let layout = Layout::rgb(20, 16, false).unwrap();
        let frame = |step: usize| (0..20 * 16 * 3).map(|i| (i * step % 251) as u8).collect::<Vec<_>>();
        let [first, second] = [7, 9].map(|step| encode(&model, &frame(step), &layout, 1.0).unwrap());
        let run = |model: &mut Model| {
            let begun = begin(model, &first, &second, Time::new(1, 2).unwrap(), &cancel).unwrap();
            (begun.redone, begun.finish().unwrap().map(|bytes| bytes.as_ref().len()))
        };
        assert_eq!(run(&mut model), (None, None));
        model.check_frames();
        assert_eq!(run(&mut model), (Some("fp16"), Some(20 * 16 * 3)));
    }
}
