// SPDX-License-Identifier: MPL-2.0
//! How a picture is cut into tiles, and how tiles are put together without a seam.
//!
//! A tile is a part of the picture that comes out. It is computed from a part of the picture that goes in, with enough
//! around it that what lies further off hardly matters. Neighbours share a strip, in which one fades into the other.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::resample::Resampler;
use crate::engine::pixels::Canvas;

/// One side of a picture, on its way through a network and a resampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Pixels that go in.
    pub from: i64,
    /// Pixels that come out.
    pub to: i64,
    /// The network's output size over its input size; 1 where there is no network.
    pub scale: i64,
    /// What the network's input must be a multiple of.
    pub multiple: i64,
    /// Pixels that are added at the end before the network.
    pub extra: i64,
}

/// A tile along one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Pixels that the network sees; at the end they may go on beyond the picture.
    pub seen: Range<i64>,
    /// Pixels of the network's output that are used.
    pub used: Range<i64>,
    /// Pixels that come out.
    pub given: Range<i64>,
    /// How many of these, at the beginning, the tile before gives too.
    pub lead: i64,
    /// How many, at the end, the tile behind gives too.
    pub tail: i64,
}

impl Side {
    /// The way from what the network gives to what comes out.
    pub fn resampler(&self) -> Resampler {
        Resampler::new(self.from * self.scale, self.to)
    }

    /// `count` tiles of about the same size that see `pad` pixels beyond their own, where the picture has them.
    pub fn spans(&self, count: i64, pad: i64) -> Vec<Span> {
        let Self { from, to, scale, multiple, extra } = *self;
        let count = count.clamp(1, from.min(to));
        let whole = (from + extra + multiple - 1) / multiple * multiple;
        let cut = |k: i64| k * to / count;
        // Neighbours fade into each other over a quarter of what they see of each other; no pixel is shared by three.
        let half = (pad * to / from / 8).min(to / count / 2);
        let shared = |k: i64| if (1..count).contains(&k) { half } else { 0 };
        let resampler = self.resampler();
        let span = |k: i64| {
            let given = cut(k) - shared(k)..cut(k + 1) + shared(k + 1);
            let used = resampler.reach(&given);
            // It is from the middle of the shared strip that `pad` pixels are seen.
            let pad = pad - half * from / to;
            let end = (((used.end - 1) / scale + 1 + pad + multiple - 1) / multiple * multiple).min(whole);
            // What is added at the end mirrors what is before it.
            let mirrored = 2 * (from - 1) - (end - 1);
            let start = (used.start / scale - pad).min(if end > from { mirrored } else { from }).max(0);
            Span { seen: start / multiple * multiple..end, used, given, lead: 2 * shared(k), tail: 2 * shared(k + 1) }
        };
        (0..count).map(span).collect()
    }
}

/// Puts tiles on a canvas, row by row from the top left, and fades neighbours into one another.
pub struct Mosaic {
    /// The canvases' width of the picture.
    width: i64,
    /// What the tiles above give to the row of tiles in work: (n, c, rows, width).
    above: Option<Tensor>,
    /// What this row's tiles give to those below.
    below: Option<Tensor>,
    /// What the tile before gives to the next: (n, c, rows, columns).
    before: Option<Tensor>,
}

impl Mosaic {
    /// A mosaic whose picture is so wide.
    pub fn new(width: i64) -> Self {
        Self { width, above: None, below: None, before: None }
    }

    /// Takes the next tile, (n, c, rows, columns) in float32, which it changes, for the n canvases, on which the picture
    /// begins at `origin` (row, column).
    pub fn put(&mut self, tile: &Tensor, row: &Span, column: &Span, origin: [i64; 2], canvases: &mut [Canvas]) {
        let (count, channels, height, width) = tile.size4().expect("a tile has four dimensions");
        for (dim, span) in [(2, row), (3, column)] {
            fade(tile, dim, span);
        }
        if let Some(before) = self.before.take() {
            let _ = tile.narrow(3, 0, column.lead).g_add_(&before);
        }
        if let Some(above) = &self.above {
            // The columns that are shared with the tile before have come with it.
            let mut fresh = tile.narrow(2, 0, row.lead).narrow(3, column.lead, width - column.lead);
            let _ = fresh.g_add_(&above.narrow(3, column.given.start + column.lead, width - column.lead));
        }
        let (height, width) = (height - row.tail, width - column.tail);
        if column.tail > 0 {
            self.before = Some(tile.narrow(3, width, column.tail).copy());
        }
        if row.tail > 0 {
            let options = (tile.kind(), tile.device());
            let size = [count, channels, row.tail, self.width];
            let below = self.below.get_or_insert_with(|| Tensor::empty(size, options));
            below.narrow(3, column.given.start, width).copy_(&tile.narrow(2, height, row.tail).narrow(3, 0, width));
        }
        let done = tile.narrow(2, 0, height).narrow(3, 0, width);
        for (i, canvas) in canvases.iter_mut().enumerate() {
            canvas.put(&done.get(i as i64), origin[0] + row.given.start, origin[1] + column.given.start);
        }
        if column.tail == 0 {
            self.above = self.below.take();
        }
    }
}

/// Lets a tile come up over what it shares with the tile before, and go down over what it shares with the one behind.
fn fade(tile: &Tensor, dim: i64, span: &Span) {
    let ramp = |length: i64| {
        let ramp = (Tensor::arange(length, (Kind::Float, tile.device())) + 0.5) / length as f64;
        if dim == 2 { ramp.unsqueeze(-1) } else { ramp }
    };
    let length = span.given.end - span.given.start;
    if span.lead > 0 {
        let _ = tile.narrow(dim, 0, span.lead).g_mul_(&ramp(span.lead));
    }
    if span.tail > 0 {
        let _ = tile.narrow(dim, length - span.tail, span.tail).g_mul_(&(1.0 - ramp(span.tail)));
    }
}
