// SPDX-License-Identifier: MPL-2.0
//! How a picture is divided into tiles that fit into memory.

use tch::Device;

use super::tile::{Side, Span};
use super::upscale::Task;
use super::{Model, Params};
use crate::engine::{Error, Result, memory};

/// The most pixels of a tile on the CPU: larger ones are no faster.
const CPU_PIXELS: i64 = 512 * 512;

/// How pictures are divided, and what they are run through.
pub struct Plan {
    /// The rows and the columns.
    pub sides: [Side; 2],
    /// Whether the network looks at them.
    pub is_run: bool,
    /// Tiles along each side.
    counts: [i64; 2],
    /// Pixels that a tile sees around it.
    pad: i64,
    /// How many there are at once.
    pictures: i64,
}

impl Plan {
    /// The plan for so many `pictures` at once.
    ///
    /// # Errors
    /// [`Error::Budget`] if `max_memory` is too little for the smallest tile.
    pub fn new(model: &Model, task: &Task, pictures: i64) -> Result<Self> {
        let Params { min_scale, tile, tile_pad, pre_pad, .. } = task.params;
        let from = [task.from.height(), task.from.width()];
        let grown = [0, 1].map(|i| task.size[i] as f64 / from[i] as f64);
        let is_run = grown[0].max(grown[1]) > min_scale;
        let architecture = model.architecture();
        let (scale, multiple, extra, pad) = match is_run {
            true if tile_pad < 0 => (architecture.scale(), architecture.multiple(), pre_pad, architecture.reach()),
            true => (architecture.scale(), architecture.multiple(), pre_pad, tile_pad),
            false => (1, 1, 0, 0),
        };
        let sides = [0, 1].map(|i| Side { from: from[i], to: task.size[i], scale, multiple, extra });
        let counts = sides.map(|side| if tile == 0 { 1 } else { (side.from + tile - 1) / tile });
        let mut plan = Self { sides, is_run, counts, pad, pictures };
        let most = plan.most(model, task)?;
        if tile == 0 || model.most.is_some_and(|most| plan.pixels() > most) {
            plan.counts = plan.fewest(most);
        }
        Ok(plan)
    }

    /// The tiles along the rows and along the columns.
    pub fn spans(&self) -> [Vec<Span>; 2] {
        [0, 1].map(|i| self.sides[i].spans(self.counts[i], self.pad))
    }

    /// The pixels of the largest tile, of all pictures.
    pub fn pixels(&self) -> i64 {
        self.pictures * self.length(0, self.counts[0]) * self.length(1, self.counts[1])
    }

    /// Whether there is no smaller one.
    pub fn is_smallest(&self) -> bool {
        self.counts == self.sides.map(|side| side.from)
    }

    /// The length of the longest tile along a side that is cut into `count`.
    fn length(&self, side: usize, count: i64) -> i64 {
        let Side { from, extra, .. } = self.sides[side];
        if count == 1 { from + extra } else { ((from + count - 1) / count + 2 * self.pad).min(from + extra) }
    }

    /// The most pixels that a tile of one picture may have.
    fn most(&self, model: &Model, task: &Task) -> Result<i64> {
        let Params { max_memory, .. } = task.params;
        let budget = if max_memory == 0 { memory::available(model.device) / 10 * 9 } else { max_memory };
        // What goes in and comes out is there as bytes, the latter perhaps twice.
        let fixed = self.pictures * (task.from.size() + 2 * task.to.size()) as i64;
        let each = self.pictures * model.bytes_per_pixel();
        let most = (i64::try_from(budget).unwrap_or(i64::MAX) - fixed) / each;
        let [height, width] = self.sides.map(|side| (1 + 2 * self.pad).min(side.from));
        if max_memory > 0 && most < height * width {
            return Err(Error::Budget {
                limit: format!("max-memory={max_memory}"),
                what: format!("{} frames of {}x{} at once", self.pictures, task.from.width(), task.from.height()),
                needed: (fixed + height * width * each) as u64,
                remedy: "tile-pad, batch-size or the size of the output can be lowered".into(),
            });
        }
        let most = most.min(model.most.map_or(i64::MAX, |most| most / self.pictures));
        Ok(if model.device == Device::Cpu { most.min(CPU_PIXELS) } else { most }.max(1))
    }

    /// How many tiles along each side have the least to compute, while none has more than `most` pixels.
    fn fewest(&self, most: i64) -> [i64; 2] {
        let [height, width] = self.sides.map(|side| side.from);
        let mut best = ([height, width], i64::MAX);
        for rows in 1..=height {
            let length = self.length(0, rows);
            let room = most / length;
            let columns = if room >= self.length(1, 1) { 1 } else { (width - 1) / (room - 2 * self.pad).max(1) + 1 };
            if columns > width || length * self.length(1, columns) > most {
                continue;
            }
            let all = rows * length * columns * self.length(1, columns);
            if all < best.1 {
                best = ([rows, columns], all);
            }
        }
        best.0
    }
}
