// SPDX-License-Identifier: MPL-2.0
//! A clip's activations between the layers, when only a part of them is worked on at once.
//!
//! Layers over pictures take *pieces*, a few whole frames; layers over time take *strips*, a part of the picture in all
//! frames. A strip holds about as many values as a piece.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Tensor};

use crate::engine::stream::{Event, Lanes, Pending, Stream, copy, to_host};

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
    device: Device,
    /// The frames of each piece.
    spans: Vec<Range<i64>>,
    /// A piece, (its frames, channels, pixels), is one tensor on the device. On the host it lies strip by strip, so
    /// that what is copied either way is in one part.
    pieces: Vec<Vec<Tile>>,
    /// How they come from the host and go there.
    host: Option<Host>,
}

/// A piece, or a strip of one.
struct Tile {
    values: Tensor,
    /// When its last values have come from the device.
    written: Option<Arc<Event>>,
}

/// What is on its way between host and device, while other activations are computed with.
struct Host {
    lanes: Lanes,
    /// What will be wanted next. It has been asked for before the work on the one in hand was, so it comes meanwhile.
    ahead: Option<(Part, Pending<Vec<Tensor>>)>,
    /// What was given back last.
    leaving: Option<Pending<Vec<Tensor>>>,
}

/// A part of a clip that comes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Piece(usize),
    Strip(usize),
}

impl Store {
    /// Room for `frames` in pieces of `chunk` that are computed with on `device`. Nothing is in it yet.
    pub fn new(frames: i64, chunk: i64, keep: Keep, device: Device) -> Self {
        let spans = spans(frames, chunk);
        let host = (keep == Keep::Host).then(|| Host { lanes: Lanes::new(device), ahead: None, leaving: None });
        Self { device, pieces: spans.iter().map(|_| Vec::new()).collect(), spans, host }
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

    /// A piece, on the device: (frames, channels, pixels). They should be asked for in their order.
    pub fn piece(&mut self, index: usize) -> Tensor {
        if self.host.is_none() {
            return self.pieces[index][0].values.shallow_clone();
        }
        let piece = Tensor::cat(&self.come(Part::Piece(index)), 2);
        self.expect(Part::Piece(index + 1));
        piece
    }

    /// Replaces a piece by (frames, channels, pixels); channels and pixels may have changed, if they do so in every
    /// piece.
    pub fn put(&mut self, index: usize, piece: Tensor) {
        let Some(host) = &mut self.host else {
            self.pieces[index] = vec![Tile { values: piece, written: None }];
            return;
        };
        // Before there is more on its way.
        host.leaving = None;
        let strips = strips(piece.size()[2], self.spans.len()).into_iter();
        let tiles: Vec<_> =
            strips.map(|strip| piece.narrow(2, strip.start, strip.end - strip.start).contiguous()).collect();
        drop(piece);
        let mut before = std::mem::take(&mut self.pieces[index]).into_iter();
        let mut values = Vec::new();
        let are_made = Stream::current(self.device).record();
        let leaving = host.lanes.download.beside([&are_made], || {
            values.extend(tiles.iter().map(|tile| match before.next() {
                Some(Tile { values: room, .. }) if room.size() == tile.size() => {
                    copy(&room, tile);
                    room
                }
                _ => to_host(tile),
            }));
            tiles
        });
        let tile = |values| Tile { values, written: Some(leaving.done()) };
        self.pieces[index] = values.into_iter().map(tile).collect();
        host.leaving = Some(leaving);
    }

    /// The strips' pixels.
    pub fn strips(&self) -> Vec<Range<i64>> {
        let pixels = self.pieces[0].iter().map(|tile| tile.values.size()[2]).sum();
        strips(pixels, self.spans.len())
    }

    /// A strip, on the device: (all frames, channels, its pixels). They should be asked for in their order.
    pub fn strip(&mut self, index: usize) -> Tensor {
        if self.host.is_some() {
            let strip = self.come(Part::Strip(index)).swap_remove(0);
            self.expect(Part::Strip(index + 1));
            return strip;
        }
        if self.is_whole() {
            return self.pieces[0][0].values.shallow_clone();
        }
        let strip = &self.strips()[index];
        let part = |piece: &Vec<Tile>| piece[0].values.narrow(2, strip.start, strip.end - strip.start);
        Tensor::cat(&self.pieces.iter().map(part).collect::<Vec<_>>(), 0)
    }

    /// Writes a strip back.
    pub fn put_strip(&mut self, index: usize, x: Tensor) {
        if self.is_whole() {
            return;
        }
        let part = |span: &Range<i64>| x.narrow(0, span.start, span.end - span.start);
        let parts = self.spans.iter().map(part).collect::<Vec<_>>().into_iter();
        let Some(host) = &mut self.host else {
            let strip = &self.strips()[index];
            for (piece, part) in self.pieces.iter().zip(parts) {
                piece[0].values.narrow(2, strip.start, strip.end - strip.start).copy_(&part);
            }
            return;
        };
        host.leaving = None;
        let is_made = Stream::current(self.device).record();
        let leaving = host.lanes.download.beside([&is_made], || {
            self.pieces.iter().zip(parts).for_each(|(piece, part)| copy(&piece[index].values, &part));
            vec![x]
        });
        self.pieces.iter_mut().for_each(|piece| piece[index].written = Some(leaving.done()));
        host.leaving = Some(leaving);
    }

    /// Whether the one strip is the one piece itself.
    fn is_whole(&self) -> bool {
        self.host.is_none() && self.spans.len() == 1
    }

    /// A part from the host, once it is there.
    fn come(&mut self, part: Part) -> Vec<Tensor> {
        let host = self.host.as_mut().expect("it is on the host");
        let coming = match host.ahead.take() {
            Some((ahead, coming)) if ahead == part => coming,
            // Where a sequence begins, another has ended.
            _ => {
                host.leaving = None;
                self.upload(part).expect("there is such a part")
            }
        };
        coming.ready()
    }

    /// Lets a part come, if there is one: it will be the next.
    fn expect(&mut self, part: Part) {
        let coming = self.upload(part);
        self.host.as_mut().expect("it is on the host").ahead = coming.map(|coming| (part, coming));
    }

    /// Begins to copy a part to the device: a piece tile by tile, a strip as one. `None` if there is no such part.
    ///
    /// What is written to a tile later waits for this: it is made from what came before it.
    fn upload(&self, part: Part) -> Option<Pending<Vec<Tensor>>> {
        let lanes = &self.host.as_ref()?.lanes;
        let (tiles, made, places): (Vec<&Tile>, _, Vec<_>) = match part {
            Part::Piece(index) => {
                let tiles: Vec<_> = self.pieces.get(index)?.iter().collect();
                let made: Vec<_> = tiles.iter().map(|tile| lanes.room_for(&tile.values)).collect();
                let places = made.iter().map(Tensor::shallow_clone).collect();
                (tiles, made, places)
            }
            Part::Strip(index) => {
                let tiles = self.pieces.iter().map(|piece| piece.get(index)).collect::<Option<Vec<_>>>()?;
                let (_, channels, pixels) = tiles[0].values.size3().expect("frames, channels, pixels");
                let frames = self.spans[self.spans.len() - 1].end;
                let strip = Tensor::empty([frames, channels, pixels], (tiles[0].values.kind(), self.device));
                let part = |span: &Range<i64>| strip.narrow(0, span.start, span.end - span.start);
                let places = self.spans.iter().map(part).collect();
                (tiles, vec![strip], places)
            }
        };
        let is_free = Stream::current(self.device).record();
        let written = tiles.iter().filter_map(|tile| tile.written.as_deref());
        Some(lanes.upload.beside(std::iter::once(&is_free).chain(written), || {
            tiles.iter().zip(&places).for_each(|(tile, place)| copy(place, &tile.values));
            made
        }))
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
