// SPDX-License-Identifier: MPL-2.0
//! From a picture to a larger one: pad, cut into tiles, run the network, put together, crop, resample.
//!
//! Upstream: `realesrgan/utils.py`, `RealESRGANer.enhance`, with these differences: the network's output is brought to
//! `outscale` before it is rounded to 8 bits, and by an antialiased bicubic filter instead of OpenCV's Lanczos; alpha
//! that is the same everywhere is not run through the network and stays exact; a tile that fails fails the picture.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::tile::spans;
use super::{Architecture, ModelFile, Network, Params, open, scaled};
use crate::engine::cache::Cache;
use crate::engine::device::kind_name;
use crate::engine::image::Frame;
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result};

/// A loaded model.
pub struct Model {
    file: ModelFile,
    architecture: Architecture,
    network: Network,
    device: Device,
    kind: Kind,
    /// The same network in float32, once it was needed.
    exact: Option<Network>,
}

impl Model {
    /// Loads the model in a file (`.safetensors` or `.pth`), or between two. `cancel` ends the loading between two
    /// tensors.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if the file can't be read, is broken, or holds another network.
    pub fn load(file: impl Into<ModelFile>, device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        let file = file.into();
        let (network, architecture) = load(&file, device, kind, cancel)?;
        Ok(Self { file, architecture, network, device, kind, exact: None })
    }

    /// The worker that owns the model in `file` on `device` in `kind`; loads it in the background, if nobody
    /// has.
    pub fn shared(file: impl Into<ModelFile>, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        static CACHE: Cache<Model> = Cache::new();
        let file = file.into();
        CACHE.get(file.key(device, kind), || {
            Worker::spawn("realesrgan", move |loading| Self::load(file, device, kind, &loading.cancel))
        })
    }

    /// The network that it is.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Runs the network on a picture (1, 3, h, w) in float32; gives float32 in [0, 1], and whether the model's own
    /// precision did not suffice.
    fn run(&mut self, x: &Tensor, cancel: &Cancel) -> Result<(Tensor, bool)> {
        let x = &channels_last(x);
        let result = self.network.forward(&x.to_kind(self.kind), cancel)?.to_kind(Kind::Float);
        if is_finite(&result)? {
            return Ok((result.clamp(0.0, 1.0), false));
        }
        if self.kind != Kind::Float {
            if self.exact.is_none() {
                self.exact = Some(load(&self.file, self.device, Kind::Float, cancel)?.0);
            }
            if let Some(exact) = &self.exact {
                let result = exact.forward(x, cancel)?;
                if is_finite(&result)? {
                    return Ok((result.clamp(0.0, 1.0), true));
                }
            }
        }
        Err(Error::model(
            &self.file.path,
            "the network gives numbers that are not finite, even in fp32: its weights are broken",
        ))
    }
}

fn load(file: &ModelFile, device: Device, kind: Kind, cancel: &Cancel) -> Result<(Network, Architecture)> {
    let (weights, architecture) = open(file, device, kind, cancel)?;
    let network = Network::new(weights.root(), architecture);
    weights.finish()?;
    Ok((network, architecture))
}

/// The same tensor with a pixel's channels beside one another, the order that convolutions are fastest in. What is
/// computed from it keeps the order.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

fn is_finite(x: &Tensor) -> Result<bool> {
    Ok(bool::try_from(x.isfinite().all())?)
}

/// An upscaled picture.
#[derive(Debug, Clone)]
pub struct Upscaled {
    /// The picture, with alpha if it came with alpha.
    pub picture: Frame,
    /// The precision whose range did not suffice, so that at least a part was done again in float32.
    pub redone: Option<&'static str>,
}

/// Upscales one picture.
///
/// # Errors
/// [`Error::Cancelled`] soon after the token is set, [`Error::Param`] for parameters out of their range,
/// [`Error::OutOfMemory`] if a tile is too large for the device.
pub fn upscale(model: &mut Model, picture: &Frame, params: &Params, cancel: &Cancel) -> Result<Upscaled> {
    params.validate()?;
    cancel.check()?;
    let input = picture.to_tensor(model.device);
    let (mut output, mut redone) = enlarge(model, &input.narrow(1, 0, 3), params, cancel)?;
    if picture.channels() == 4 {
        let (height, width) = (output.size()[2], output.size()[3]);
        let alpha = input.narrow(1, 3, 1);
        let first = picture.data()[3];
        let alpha = if picture.data().chunks_exact(4).all(|pixel| pixel[3] == first) {
            alpha.narrow(2, 0, 1).narrow(3, 0, 1).expand([1, 1, height, width], false)
        } else {
            // The networks know three channels: alpha goes in as a grey picture.
            let (grey, again) = enlarge(model, &alpha.expand([1, 3, -1, -1], false), params, cancel)?;
            redone |= again;
            grey.mean_dim([1i64].as_slice(), true, Kind::Float)
        };
        output = Tensor::cat(&[output, alpha], 1);
    }
    let picture = Frame::from_tensor(&output)?.pop().expect("one picture goes in");
    Ok(Upscaled { picture, redone: redone.then(|| kind_name(model.kind)) })
}

/// Upscales (1, 3, h, w) to the final size; also tells whether float32 had to help.
fn enlarge(model: &mut Model, input: &Tensor, params: &Params, cancel: &Cancel) -> Result<(Tensor, bool)> {
    let (_, _, height, width) = input.size4()?;
    let (scale, multiple) = (model.architecture.scale(), model.architecture.multiple());
    // As upstream: first the border that was asked for, then what the network needs.
    let padded = extend(input, params.pre_pad, params.pre_pad);
    let up = |length: i64| (length + multiple - 1) / multiple * multiple;
    let (full_height, full_width) = (padded.size()[2], padded.size()[3]);
    let padded = extend(&padded, up(full_width) - full_width, up(full_height) - full_height);
    let (full_height, full_width) = (padded.size()[2], padded.size()[3]);

    let output = Tensor::empty([1, 3, full_height * scale, full_width * scale], (Kind::Float, model.device));
    let mut redone = false;
    let (tile, pad) = (up(params.tile), up(params.tile_pad));
    for row in spans(full_height, tile, pad) {
        for column in spans(full_width, tile, pad) {
            cancel.check()?;
            let part = |x: &Tensor, rows: &std::ops::Range<i64>, columns: &std::ops::Range<i64>, scale: i64| {
                x.narrow(2, rows.start * scale, (rows.end - rows.start) * scale).narrow(
                    3,
                    columns.start * scale,
                    (columns.end - columns.start) * scale,
                )
            };
            let (piece, again) = model.run(&part(&padded, &row.seen, &column.seen, 1), cancel)?;
            redone |= again;
            let rows = row.kept.start - row.seen.start..row.kept.end - row.seen.start;
            let columns = column.kept.start - column.seen.start..column.kept.end - column.seen.start;
            part(&output, &row.kept, &column.kept, scale).copy_(&part(&piece, &rows, &columns, scale));
        }
    }

    let output = output.narrow(2, 0, height * scale).narrow(3, 0, width * scale);
    let factor = params.factor(scale);
    let size = [scaled(height, factor), scaled(width, factor)];
    if output.size()[2..] == size {
        return Ok((output, redone));
    }
    Ok((output.internal_upsample_bicubic2d_aa(size, false, None::<f64>, None::<f64>), redone))
}

/// Adds pixels on the right and at the bottom: the picture mirrored about its last pixel, or, where it is too small
/// for that, the last pixel repeated.
fn extend(x: &Tensor, right: i64, bottom: i64) -> Tensor {
    let pad = |x: &Tensor, side: usize, [right, bottom]: [i64; 2]| {
        let padding = [0, right, 0, bottom];
        match right + bottom {
            0 => x.shallow_clone(),
            more if more < x.size()[side] => x.reflection_pad2d(padding),
            _ => x.replication_pad2d(padding),
        }
    };
    pad(&pad(x, 3, [right, 0]), 2, [0, bottom])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_mirrored_or_else_repeated() {
        let x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([1, 1, 2, 3]);
        let wide = Vec::<f32>::try_from(extend(&x, 2, 1).view(-1)).unwrap();
        assert_eq!(wide, [0., 1., 2., 1., 0., 3., 4., 5., 4., 3., 0., 1., 2., 1., 0.]);
        let x = Tensor::arange(2, (Kind::Float, Device::Cpu)).view([1, 1, 1, 2]);
        let small = Vec::<f32>::try_from(extend(&x, 2, 1).view(-1)).unwrap();
        assert_eq!(small, [0., 1., 1., 1., 0., 1., 1., 1.]);
    }
}
