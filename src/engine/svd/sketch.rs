// SPDX-License-Identifier: MPL-2.0
//! Tensors that are nothing but their sizes, to learn what a network takes before it runs.
//!
//! A walk (`cost.rs`) goes through a network's layers with sketches in place of tensors. A sketch counts its bytes from
//! its making until the last clone of it is dropped, as a tensor does; what an operation of libtorch takes only while
//! it runs is counted too. Beside the bytes, a walk adds up the work: it is what seconds are estimated from.

use std::cell::Cell;
use std::rc::Rc;

use tch::{Device, Kind};

/// What a walk has added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of everything else, at most.
    pub peak: u64,
    /// What is done.
    pub work: Work,
}

impl std::ops::Add for Cost {
    type Output = Self;

    /// One after the other, with the weights of both there.
    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            peak: self.peak.max(other.peak),
            work: self.work.and(other.work, 1.0),
        }
    }
}

impl Cost {
    /// The same work `times` over.
    pub fn repeated(self, times: i64) -> Self {
        Self { work: Work::default().and(self.work, times as f64), ..self }
    }
}

/// Work, whatever it is done on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations in convolutions.
    pub convolved: f64,
    /// Floating-point operations in products of matrices, attention among them.
    pub multiplied: f64,
    /// Bytes that are read or written by everything else, by how large the tensors are.
    pub moved: [f64; SIZES.len()],
    /// Operations of libtorch, however small.
    pub operations: f64,
}

/// Sizes of tensors that differ in how fast they are read and written, because of caches: up to so many bytes each.
pub const SIZES: [u64; 3] = [1 << 21, 1 << 24, u64::MAX];

impl Work {
    /// So many bytes of one tensor are read or written, so often.
    fn move_bytes(&mut self, bytes: u64, times: f64) {
        let size = SIZES.iter().position(|most| bytes <= *most).expect("the last is without an end");
        self.moved[size] += bytes as f64 * times;
    }

    /// This, and `times` as much of `more`.
    fn and(self, more: Self, times: f64) -> Self {
        Self {
            convolved: self.convolved + more.convolved * times,
            multiplied: self.multiplied + more.multiplied * times,
            moved: std::array::from_fn(|size| self.moved[size] + more.moved[size] * times),
            operations: self.operations + more.operations * times,
        }
    }
}

/// A walk in the making.
pub struct Walk {
    device: Device,
    kind: Kind,
    cost: Cell<Cost>,
    now: Cell<u64>,
}

impl Walk {
    /// A walk of tensors of `kind` on `device`.
    pub fn new(device: Device, kind: Kind) -> Self {
        Self { device, kind, cost: Cell::default(), now: Cell::new(0) }
    }

    /// What it came to.
    pub fn cost(&self) -> Cost {
        self.cost.get()
    }

    /// A new tensor (n, c, h, w).
    pub fn tensor(&self, n: i64, c: i64, h: i64, w: i64) -> Sketch<'_> {
        self.laid_out(n, c, h, w, Layout::Plain)
    }

    /// Weights of `count` numbers.
    pub fn weights(&self, count: i64) {
        self.add(|cost| cost.weights += self.bytes(count));
    }

    /// Lets the work since the walk stood at `before` count `times` over. Its memory and its weights are the same.
    pub fn repeat_since(&self, before: Cost, times: i64) {
        self.add(|cost| cost.work = before.work.and(cost.work.and(before.work, -1.0), times as f64));
    }

    /// Takes back the weights that were counted since the walk stood at `before`: they were there already.
    pub fn forget_weights_since(&self, before: Cost) {
        self.add(|cost| cost.weights = before.weights);
    }

    /// Memory that is there for a moment, beside what is there anyway.
    fn touch(&self, bytes: u64) {
        self.add(|cost| cost.peak = cost.peak.max(self.now.get() + bytes));
    }

    /// One operation.
    fn work(&self, change: impl FnOnce(&mut Work)) {
        self.add(|cost| {
            cost.work.operations += 1.0;
            change(&mut cost.work);
        });
    }

    fn add(&self, change: impl FnOnce(&mut Cost)) {
        let mut cost = self.cost.get();
        change(&mut cost);
        self.cost.set(cost);
    }

    fn bytes(&self, count: i64) -> u64 {
        (count as usize * self.kind.elt_size_in_bytes()) as u64
    }

    fn is_half(&self) -> bool {
        self.kind != Kind::Float
    }

    fn laid_out(&self, n: i64, c: i64, h: i64, w: i64, layout: Layout) -> Sketch<'_> {
        let bytes = self.bytes(n * c * h * w);
        self.touch(bytes);
        self.now.set(self.now.get() + bytes);
        Sketch { memory: Rc::new(Memory { walk: self, bytes }), n, c, h, w, layout }
    }
}

/// How a tensor's numbers lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Row by row, channel by channel.
    Plain,
    /// A pixel's channels beside one another, the order that convolutions are fastest in.
    ChannelsLast,
}

struct Memory<'a> {
    walk: &'a Walk,
    bytes: u64,
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.walk.now.set(self.walk.now.get() - self.bytes);
    }
}

/// A tensor (n, c, h, w), or tokens: n sequences of h * w tokens of width c. Clones share its memory.
#[derive(Clone)]
pub struct Sketch<'a> {
    memory: Rc<Memory<'a>>,
    /// Pictures or sequences.
    pub n: i64,
    /// Channels.
    pub c: i64,
    /// Rows.
    pub h: i64,
    /// Columns.
    pub w: i64,
    layout: Layout,
}

impl<'a> Sketch<'a> {
    /// The walk that it is a part of.
    pub fn walk(&self) -> &'a Walk {
        self.memory.walk
    }

    fn bytes(&self) -> u64 {
        self.walk().bytes(self.n * self.c * self.h * self.w)
    }

    /// An operation that reads or writes so often as many bytes.
    fn moved(&self, times: f64) {
        self.walk().work(|work| work.move_bytes(self.bytes(), times));
    }

    /// The same memory, or a part of it, read as other sizes.
    pub fn view(&self, [n, c, h, w]: [i64; 4], layout: Layout) -> Self {
        debug_assert!(n * c * h * w <= self.n * self.c * self.h * self.w);
        Self { memory: self.memory.clone(), n, c, h, w, layout }
    }

    /// In plain layout: itself, or a copy.
    pub fn contiguous(self) -> Self {
        if self.layout == Layout::Plain { self } else { self.copy() }
    }

    /// A copy in plain layout.
    pub fn copy(&self) -> Self {
        self.moved(2.0);
        self.walk().tensor(self.n, self.c, self.h, self.w)
    }

    /// The outcome of an operation on each number that makes a new tensor.
    pub fn map(&self) -> Self {
        self.moved(2.0);
        self.walk().laid_out(self.n, self.c, self.h, self.w, self.layout)
    }

    /// An operation on each number in place.
    pub fn change(&self) {
        self.moved(2.0);
    }

    /// A convolution over each frame and its two neighbours, without its weights, to a place that is there already. Of
    /// the first and the last frame nothing comes: they are zeros.
    pub fn conv_over_frames(&self) {
        let walk = self.walk();
        let (weights, values) = (3 * self.c * self.c, (self.n - 2) * self.h * self.w);
        // The bias goes to the outcome first, and the products are added.
        let output = walk.bytes(self.c * values);
        walk.work(|work| {
            work.multiplied += (2 * weights * values) as f64;
            work.move_bytes(output, 3.0);
        });
        if walk.is_half() && !walk.device.is_cuda() {
            // oneDNN can't take windows that overlap.
            walk.touch(walk.bytes(3 * self.c * values + weights));
        }
    }

    /// A group norm or a layer norm with its weights.
    pub fn norm(&self) -> Self {
        self.walk().weights(2 * self.c);
        self.moved(3.0);
        self.walk().laid_out(self.n, self.c, self.h, self.w, self.layout)
    }

    /// A convolution of `area` weights for each pair of channels, with its weights; `stride` 2 halves the picture.
    pub fn conv(&self, outputs: i64, area: i64, stride: i64) -> Self {
        let (walk, x) = (self.walk(), self);
        let weights = outputs * x.c * area;
        walk.weights(weights + outputs);
        let (h, w) = ((x.h + stride - 1) / stride, (x.w + stride - 1) / stride);
        walk.work(|work| work.convolved += (2 * x.n * h * w * weights) as f64);
        let (input, output, weights) = (x.bytes(), walk.bytes(x.n * outputs * h * w), walk.bytes(weights));
        // oneDNN and cuDNN bring everything to a layout of their own first and, where that is not the tensor's,
        // the outcome back again.
        if x.layout == Layout::ChannelsLast {
            walk.touch(output + 2 * weights);
        } else {
            walk.add(|cost| {
                cost.work.move_bytes(input, 2.0);
                cost.work.move_bytes(output, 2.0);
            });
            walk.touch(input + weights + output);
            walk.touch(output * if walk.is_half() { 3 } else { 2 });
        }
        walk.laid_out(x.n, outputs, h, w, x.layout)
    }

    /// A linear layer over the channels with its weights.
    pub fn linear(&self, outputs: i64, has_bias: bool) -> Self {
        let walk = self.walk();
        let weights = self.c * outputs;
        walk.weights(weights + if has_bias { outputs } else { 0 });
        let tokens = self.n * self.h * self.w;
        walk.work(|work| work.multiplied += (2 * tokens * weights) as f64);
        let output = walk.tensor(self.n, outputs, self.h, self.w);
        if walk.is_half() && !walk.device.is_cuda() {
            walk.touch(walk.bytes(weights));
        }
        output
    }

    /// Attention of queries over `keys` and as many values. No implementation that is taken keeps the matrix of
    /// scores; each keeps a float32 for each query and head.
    pub fn attend(&self, keys: &Self, heads: i64) -> Self {
        let walk = self.walk();
        let (queries, length) = (self.n * self.h * self.w, keys.h * keys.w);
        walk.work(|work| work.multiplied += (4 * queries * length * self.c) as f64);
        let output = walk.tensor(self.n, self.c, self.h, self.w);
        walk.touch((queries * heads * 4) as u64);
        output
    }

    /// Two tensors' channels behind one another.
    pub fn cat(&self, other: &Self) -> Self {
        self.moved(2.0);
        other.moved(2.0);
        let layout = if self.layout == other.layout { self.layout } else { Layout::Plain };
        self.walk().laid_out(self.n, self.c + other.c, self.h, self.w, layout)
    }

    /// The pixels repeated to another size.
    pub fn resized(&self, h: i64, w: i64) -> Self {
        let output = self.walk().laid_out(self.n, self.c, h, w, self.layout);
        output.moved(1.25);
        output
    }

    /// The same memory, known to lie in another layout.
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_until_its_last_holder_is_gone() {
        let walk = Walk::new(Device::Cpu, Kind::Half);
        let x = walk.tensor(1, 10, 1, 1);
        let same = x.clone();
        drop(x);
        let y = same.map();
        assert_eq!((walk.now.get(), walk.cost().peak), (40, 40));
        drop((same, y));
        let _z = walk.tensor(1, 1, 1, 5);
        assert_eq!((walk.now.get(), walk.cost().peak), (10, 40));
    }
}
