// SPDX-License-Identifier: MPL-2.0
//! From pictures to larger ones: tile by tile, pad, run the network, resample, put together.
//!
//! Upstream: `realesrgan/utils.py`, `RealESRGANer.enhance`, with these differences: the network's output is brought to
//! its size before it is rounded, and by an antialiased bicubic filter instead of OpenCV's Lanczos; tiles fade into
//! one another; alpha that is the same everywhere is not run through the network and stays exact; a tile that does not
//! fit into memory makes all tiles smaller, and one that fails fails the picture.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::model::Enlarged;
use super::plan::Plan;
use super::tile::{Mosaic, Side, Span};
use super::transfer::begin;
use super::{Model, Params, scaled};
use crate::engine::image::Frame;
use crate::engine::pixels::{self, Canvas, Layout};
use crate::engine::worker::{Cancel, guarded};
use crate::engine::{Error, Result, memory};

/// What is made of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The layout of the pictures that go in.
    pub from: Layout,
    /// The layout of those that come out.
    pub to: Layout,
    /// Where the picture lies in what comes out, row and column of its first pixel; around it is black.
    pub origin: [i64; 2],
    /// The picture's height and width there.
    pub size: [i64; 2],
    /// How it is done.
    pub params: Params,
}

/// What came of a [`Task`].
#[derive(Debug)]
pub struct Outcome {
    /// The bytes of each picture, on the model's device.
    pub pictures: Vec<Tensor>,
    /// Tiles that were computed for them.
    pub tiles: u64,
    /// How often all tiles had to become smaller, because the memory did not suffice.
    pub retries: u64,
    /// The precision whose range did not suffice, so that at least a tile was done again in float32.
    pub redone: Option<&'static str>,
    /// Whether all numbers were finite, on the device, if the model does not look at each tile.
    pub is_finite: Option<Tensor>,
}

impl Outcome {
    /// Both of two parts, after so many retries more.
    fn and(mut self, other: Self, retries: u64) -> Self {
        self.pictures.extend(other.pictures);
        let flags: Vec<_> = self.is_finite.into_iter().chain(other.is_finite).collect();
        Self {
            pictures: self.pictures,
            tiles: self.tiles + other.tiles,
            retries: self.retries + other.retries + retries,
            redone: self.redone.or(other.redone),
            is_finite: (!flags.is_empty()).then(|| Tensor::stack(&flags, 0).all()),
        }
    }
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
/// Those of [`run`].
pub fn upscale(model: &mut Model, picture: &Frame, params: &Params, cancel: &Cancel) -> Result<Upscaled> {
    params.validate()?;
    let has_alpha = picture.channels() == 4;
    let factor = params.factor(model.architecture().scale());
    let size = [picture.height() as i64, picture.width() as i64].map(|side| scaled(side, factor));
    let [height, width] = size;
    let layout = |width, height| {
        let layout = Layout::rgb(width, height, has_alpha);
        layout.ok_or_else(|| Error::param("picture", format!("{width}x{height}"), "use one that has pixels"))
    };
    let task = Task {
        from: layout(picture.width(), picture.height())?,
        to: layout(width as usize, height as usize)?,
        origin: [0, 0],
        size,
        params: *params,
    };
    let begin = |model: &mut Model| begin(model, &[picture.data()], &task, cancel);
    let begun = begin(model)?;
    let (mut redone, mut bytes) = (begun.redone, begun.finish()?);
    if bytes.is_none() {
        model.check_tiles();
        let begun = begin(model)?;
        (redone, bytes) = (begun.redone, begun.finish()?);
    }
    let bytes = bytes.and_then(|mut pictures| pictures.pop()).expect("a picture that is looked at comes out");
    let picture = Frame::new(width as usize, height as usize, picture.channels(), bytes.as_ref().to_vec());
    Ok(Upscaled { picture, redone })
}

/// Upscales pictures (their bytes, on the model's device) at once.
///
/// # Errors
/// [`Error::Cancelled`] soon after the token is set; [`Error::Param`] for parameters out of their range;
/// [`Error::Budget`] if `max_memory` is too little for the smallest tile; [`Error::OutOfMemory`] if what is free is.
pub fn run(model: &mut Model, pictures: &[Tensor], task: &Task, cancel: &Cancel) -> Result<Outcome> {
    task.params.validate()?;
    cancel.check()?;
    let mut retries = 0;
    loop {
        let plan = Plan::new(model, task, pictures.len() as i64)?;
        match guarded(|| Job::new(model, &plan, pictures, task, cancel).run()) {
            Err(Error::OutOfMemory(_)) if plan.is_smallest() && pictures.len() > 1 => {
                memory::release_cached(model.device);
                let (first, second) = pictures.split_at(pictures.len() / 2);
                let [first, second] = [run(model, first, task, cancel)?, run(model, second, task, cancel)?];
                return Ok(first.and(second, retries + 1));
            }
            Err(Error::OutOfMemory(reason)) if plan.is_smallest() => {
                return Err(Error::OutOfMemory(format!(
                    "{reason}; the smallest tile, {} pixels, is too much",
                    plan.pixels()
                )));
            }
            Err(Error::OutOfMemory(_)) => {
                memory::release_cached(model.device);
                model.limit(plan.pixels() / 2);
                retries += 1;
            }
            outcome => return Ok(Outcome { retries, ..outcome? }),
        }
    }
}

/// Pictures in the making.
struct Job<'a> {
    model: &'a mut Model,
    plan: &'a Plan,
    /// Their bytes.
    pictures: &'a [Tensor],
    task: &'a Task,
    cancel: &'a Cancel,
    /// Whether the numbers of a tile are finite, on the device, where nobody has looked yet.
    flags: Vec<Tensor>,
    /// Whether float32 had to help.
    is_redone: bool,
}

/// How a picture's alpha becomes larger.
enum Alpha {
    /// There is none, or nobody wants it.
    None,
    /// It is the same everywhere: (n, 1, 1, 1).
    Flat(Tensor),
    /// It is a picture itself.
    Picture,
}

impl<'a> Job<'a> {
    fn new(model: &'a mut Model, plan: &'a Plan, pictures: &'a [Tensor], task: &'a Task, cancel: &'a Cancel) -> Self {
        Self { model, plan, pictures, task, cancel, flags: Vec::new(), is_redone: false }
    }

    fn run(mut self) -> Result<Outcome> {
        let device = self.model.device;
        let mut canvases: Vec<_> = self.pictures.iter().map(|_| Canvas::new(&self.task.to, device)).collect();
        blacken(&mut canvases, self.task, device);
        let alpha = self.alpha();
        let [rows, columns] = self.plan.spans();
        let mut mosaic = Mosaic::new(self.task.size[1]);
        for row in &rows {
            for column in &columns {
                self.cancel.check()?;
                let tile = self.tile(row, column, &alpha)?;
                mosaic.put(&tile, row, column, self.task.origin, &mut canvases);
            }
        }
        Ok(Outcome {
            pictures: canvases.into_iter().map(Canvas::finish).collect(),
            tiles: (rows.len() * columns.len() * self.pictures.len()) as u64,
            retries: 0,
            redone: self.is_redone.then(|| self.model.dtype()),
            is_finite: (!self.flags.is_empty()).then(|| Tensor::stack(&self.flags, 0).all()),
        })
    }

    /// A tile of all pictures, (n, 3 or 4, rows, columns) in float32, a tensor of its own.
    fn tile(&mut self, row: &Span, column: &Span, alpha: &Alpha) -> Result<Tensor> {
        let from = &self.task.from;
        let (rows, columns) = (within(row, from.height()), within(column, from.width()));
        let read = |bytes: &Tensor| pixels::read(bytes, from, rows.clone(), columns.clone());
        let given = Tensor::cat(&self.pictures.iter().map(read).collect::<Vec<_>>(), 0);
        let given = extend(&given, column.seen.end - columns.end, row.seen.end - rows.end);
        let output = self.enlarge(&given.narrow(1, 0, 3), row, column)?;
        let alpha = match alpha {
            Alpha::None => return Ok(output),
            Alpha::Flat(values) => values.expand([-1, -1, output.size()[2], output.size()[3]], false),
            // The networks know three channels: alpha goes in as a grey picture.
            Alpha::Picture => {
                let grey = given.narrow(1, 3, 1).expand([-1, 3, -1, -1], false);
                self.enlarge(&grey, row, column)?.mean_dim([1i64].as_slice(), true, Kind::Float)
            }
        };
        Ok(Tensor::cat(&[output, alpha], 1))
    }

    /// What `row` and `column` give of what they see: (n, 3, rows, columns).
    fn enlarge(&mut self, x: &Tensor, row: &Span, column: &Span) -> Result<Tensor> {
        let mut x = x.shallow_clone();
        if self.plan.is_run {
            let Enlarged { picture, is_finite, is_redone } = self.model.run(&x, self.cancel)?;
            x = picture;
            self.flags.extend(is_finite);
            self.is_redone |= is_redone;
        }
        self.cancel.check()?;
        let [rows, columns] = &self.plan.sides;
        if !(rows.resampler().is_identity() && columns.resampler().is_identity()) {
            // What is beyond black and white must not reach its neighbours. Else the canvas clamps.
            x = x.clamp_(0.0, 1.0);
        }
        let resample = |x: &Tensor, dim, span: &Span, side: &Side| {
            let x = x.narrow(dim, span.used.start - span.seen.start * side.scale, span.used.end - span.used.start);
            side.resampler().resample(&x, dim, span.used.start, &span.given)
        };
        Ok(resample(&resample(&x, 2, row, rows), 3, column, columns))
    }

    /// What is to be done about the pictures' alpha.
    fn alpha(&self) -> Alpha {
        let Task { from, to, .. } = self.task;
        if !from.has_alpha() || !to.has_alpha() {
            return Alpha::None;
        }
        const ROWS: i64 = 64;
        let flat = |bytes: &Tensor| {
            let ends = (0..from.height()).step_by(ROWS as usize).flat_map(|first| {
                let rows = first..(first + ROWS).min(from.height());
                let alpha = pixels::read(bytes, from, rows, 0..from.width()).narrow(1, 3, 1);
                [alpha.min(), alpha.max()]
            });
            // All at once: to ask a GPU, one must wait for it.
            let ends = Vec::<f32>::try_from(Tensor::stack(&ends.collect::<Vec<_>>(), 0)).ok()?;
            ends.iter().all(|end| *end == ends[0]).then(|| ends[0])
        };
        match self.pictures.iter().map(flat).collect::<Option<Vec<_>>>() {
            Some(values) => Alpha::Flat(Tensor::from_slice(&values).view([-1, 1, 1, 1]).to_device(self.model.device)),
            None => Alpha::Picture,
        }
    }
}

/// What a tile sees of a side of the picture itself.
fn within(span: &Span, length: i64) -> Range<i64> {
    span.seen.start..span.seen.end.min(length)
}

/// Makes what lies around the picture black.
fn blacken(canvases: &mut [Canvas], task: &Task, device: Device) {
    let ([top, left], [height, width]) = (task.origin, task.size);
    let (below, behind) = (task.to.height() - top - height, task.to.width() - left - width);
    let black = Tensor::zeros([1, 1, 1], (Kind::Float, device));
    for canvas in canvases {
        let mut black = |row, column, height, width| canvas.put(&black.expand([3, height, width], false), row, column);
        black(0, 0, top, task.to.width());
        black(top + height, 0, below, task.to.width());
        black(top, 0, height, left);
        black(top, left + width, height, behind);
    }
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

    /// A network x2 that is written to a file: one convolution, an activation, another one. `gain` is what the first
    /// makes larger and the second smaller again.
    fn model(gain: f64, kind: Kind) -> (tempfile::TempDir, Model) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        let tensor = |shape: &[i64], scale: f64| Tensor::ones(shape, (Kind::Float, Device::Cpu)) * scale;
        let tensors = [
            ("body.0.weight", tensor(&[4, 3, 3, 3], 0.01 * gain)),
            ("body.0.bias", tensor(&[4], 0.0)),
            ("body.1.weight", tensor(&[4], 0.5)),
            ("body.2.weight", tensor(&[12, 4, 3, 3], 0.01 / gain)),
            ("body.2.bias", tensor(&[12], 0.01)),
        ];
        Tensor::write_safetensors(&tensors, &path).unwrap();
        let model = Model::load(&path, Device::Cpu, kind, &Cancel::default()).unwrap();
        (folder, model)
    }

    #[test]
    fn numbers_that_are_found_bad_at_the_end_are_done_again() {
        let data = (0..20 * 16 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let picture = Frame::new(20, 16, 3, data);
        let run = |model: &mut Model| {
            let params = Params { tile: 8, ..Params::default() };
            guarded(|| upscale(model, &picture, &params, &Cancel::default()))
        };
        let wanted = run(&mut model(1.0, Kind::Float).1).unwrap().picture;
        for (gain, redone) in [(1.0, None), (1e7, Some("fp16"))] {
            let (_folder, mut model) = model(gain, Kind::Half);
            model.trust_tiles();
            let seen = run(&mut model).unwrap();
            assert_eq!(seen.redone, redone);
            let most = seen.picture.data().iter().zip(wanted.data()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(most <= Some(1), "{gain}: {most:?}");
        }
        let (_folder, mut model) = model(f64::INFINITY, Kind::Half);
        model.trust_tiles();
        let message = run(&mut model).unwrap_err().to_string();
        assert!(message.contains("not finite, even in fp32"), "{message}");
    }

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
