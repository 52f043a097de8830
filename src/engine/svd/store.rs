// SPDX-License-Identifier: MPL-2.0
//! A clip's activations between the layers, when only a part of them is worked on at once.
//!
//! Layers over pictures take *pieces*, a few whole frames; layers over time take *strips*, a part of the picture in all
//! frames. A strip holds about as many values as a piece.

use std::ops::Range;

use tch::{Device, Tensor};

/// Where activations are kept between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// On the device that computes.
    #[default]
    Device,
    /// In the host's memory, pinned if the device is a GPU: slower, for a device that can't hold a whole clip.
    Host,
}

/// The activations of one clip: (frames, channels, pixels), in pieces.
pub struct Store {
    keep: Keep,
    device: Device,
    /// The frames of each piece.
    spans: Vec<Range<i64>>,
    /// A piece, (its frames, channels, pixels), is one tensor on the device. On the host it lies strip by strip, so
    /// that what is copied either way is in one part.
    pieces: Vec<Vec<Tensor>>,
}

impl Store {
    /// Room for `frames` in pieces of `chunk` that are computed with on `device`. Nothing is in it yet.
    pub fn new(frames: i64, chunk: i64, keep: Keep, device: Device) -> Self {
        let spans = spans(frames, chunk);
        Self { keep, device, pieces: spans.iter().map(|_| Vec::new()).collect(), spans }
    }

    /// A clip (frames, channels, pixels) in one piece, which is also its one strip. What is done to them is done to it.
    pub fn whole(clip: Tensor) -> Self {
        let mut store = Self::new(clip.size()[0], clip.size()[0], Keep::Device, clip.device());
        store.put(0, clip);
        store
    }

    /// The frames of each piece.
    pub fn spans(&self) -> Vec<Range<i64>> {
        self.spans.clone()
    }

    /// A piece, on the device: (frames, channels, pixels).
    pub fn piece(&self, index: usize) -> Tensor {
        match self.keep {
            Keep::Device => self.pieces[index][0].shallow_clone(),
            Keep::Host => Tensor::cat(&self.pieces[index].iter().map(|tile| self.upload(tile)).collect::<Vec<_>>(), 2),
        }
    }

    /// Replaces a piece by (frames, channels, pixels); channels and pixels may have changed, if they do so in every
    /// piece.
    pub fn put(&mut self, index: usize, piece: Tensor) {
        self.pieces[index] = match self.keep {
            Keep::Device => vec![piece],
            Keep::Host => {
                let strips = strips(piece.size()[2], self.spans.len());
                let mut before = std::mem::take(&mut self.pieces[index]).into_iter();
                let tile = |strip: Range<i64>| {
                    let tile = piece.narrow(2, strip.start, strip.end - strip.start);
                    match before.next() {
                        Some(mut room) if room.size() == tile.size() => {
                            room.copy_(&tile);
                            room
                        }
                        // From a GPU, a copy that nobody waits for is to pinned memory.
                        _ => tile.to_device_(Device::Cpu, tile.kind(), true, true),
                    }
                };
                strips.into_iter().map(tile).collect()
            }
        };
    }

    /// The strips' pixels.
    pub fn strips(&self) -> Vec<Range<i64>> {
        let pixels = self.pieces[0].iter().map(|tile| tile.size()[2]).sum();
        strips(pixels, self.spans.len())
    }

    /// A strip, on the device: (all frames, channels, its pixels).
    pub fn strip(&self, index: usize) -> Tensor {
        if self.is_whole() {
            return self.pieces[0][0].shallow_clone();
        }
        let strip = &self.strips()[index];
        let tiles: Vec<_> = self.pieces.iter().map(|piece| self.tile(piece, index, strip)).collect();
        Tensor::cat(&tiles.iter().map(|tile| self.upload(tile)).collect::<Vec<_>>(), 0)
    }

    /// Writes a strip back.
    pub fn put_strip(&mut self, index: usize, x: &Tensor) {
        if self.is_whole() {
            return;
        }
        let strip = &self.strips()[index];
        for (piece, span) in self.pieces.iter().zip(&self.spans) {
            self.tile(piece, index, strip).copy_(&x.narrow(0, span.start, span.end - span.start));
        }
    }

    /// Whether the one strip is the one piece itself.
    fn is_whole(&self) -> bool {
        self.keep == Keep::Device && self.spans.len() == 1
    }

    /// The part of a piece that is in a strip, where it lies.
    fn tile(&self, piece: &[Tensor], index: usize, strip: &Range<i64>) -> Tensor {
        match self.keep {
            Keep::Device => piece[0].narrow(2, strip.start, strip.end - strip.start),
            Keep::Host => piece[index].shallow_clone(),
        }
    }

    fn upload(&self, tile: &Tensor) -> Tensor {
        tile.to_device_(self.device, tile.kind(), true, false)
    }
}

/// `frames` in spans of `chunk`; the last may be shorter.
pub fn spans(frames: i64, chunk: i64) -> Vec<Range<i64>> {
    (0..frames).step_by(chunk as usize).map(|start| start..frames.min(start + chunk)).collect()
}

/// `pixels` in about as many strips as there are pieces, the last no longer than the others.
pub fn strips(pixels: i64, pieces: usize) -> Vec<Range<i64>> {
    // Rows that begin at even addresses are faster to multiply.
    const ALIGNED: u64 = 64;
    let width = (pixels as u64).div_ceil(pieces as u64);
    spans(pixels, if pieces == 1 { pixels } else { width.next_multiple_of(ALIGNED) as i64 })
}
