// SPDX-License-Identifier: MPL-2.0
//! How a picture is divided into tiles that fit into memory.

use tch::Device;

use super::tile::{Side, Span};
use super::upscale::Task;
use super::{Model, Params};
use crate::engine::{Error, Result, memory};

/// The most pixels of a tile on the CPU: larger ones are no faster.
const CPU_PIXELS: i64 = 512 * 512;
/// The smallest side of a tile that is chosen here, in pixels.
const LEAST: i64 = 16;

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
        if tile == 0 || model.most().is_some_and(|most| plan.pixels() > most) {
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

    /// Whether tiles become no smaller.
    pub fn is_smallest(&self) -> bool {
        let least = self.least();
        (0..2).all(|i| self.counts[i] >= least[i])
    }

    /// How many tiles there are along each side at most, where nothing else was set: in smaller ones, nearly all would be
    /// computed twice and more.
    fn least(&self) -> [i64; 2] {
        let least = self.pad.max(LEAST);
        self.sides.map(|side| (side.from / least).clamp(1, side.to))
    }

    /// The most pixels that a tile sees along a side that is cut into `count`.
    fn length(&self, side: usize, count: i64) -> i64 {
        let Side { from, to, scale, multiple, extra } = self.sides[side];
        let whole = (from + extra + multiple - 1) / multiple * multiple;
        if count == 1 {
            return whole;
        }
        // What comes out is cut, and each pixel of it is made of some that go in.
        let own = (to + count - 1) / count * from / to + 1;
        let reach = (2.0 * (from as f64 / to as f64).max(1.0 / scale as f64)).ceil() as i64 + 1;
        (own + 2 * (self.pad + reach + multiple - 1)).min(whole)
    }

    /// The most pixels that a tile of one picture may have.
    fn most(&self, model: &Model, task: &Task) -> Result<i64> {
        let Params { max_memory, .. } = task.params;
        let budget = if max_memory == 0 { memory::available(model.device) / 10 * 9 } else { max_memory };
        // What goes in and comes out is there as bytes, the latter perhaps twice.
        let fixed = self.pictures * (task.from.size() + 2 * task.to.size()) as i64;
        let each = self.pictures * model.bytes_per_pixel();
        let most = (i64::try_from(budget).unwrap_or(i64::MAX) - fixed) / each;
        let [rows, columns] = self.least();
        let least = self.length(0, rows) * self.length(1, columns);
        if max_memory > 0 && most < least {
            return Err(Error::Budget {
                limit: format!("max-memory={max_memory}"),
                what: format!("{} frames of {}x{} at once", self.pictures, task.from.width(), task.from.height()),
                needed: (fixed + least * each) as u64,
                remedy: "tile-pad, batch-size or the size of the output can be lowered".into(),
            });
        }
        let most = most.min(model.most().map_or(i64::MAX, |most| most / self.pictures));
        Ok(if model.device == Device::Cpu { most.min(CPU_PIXELS) } else { most }.max(least))
    }

    /// How many tiles along each side have the least to compute, while none has more than `most` pixels.
    fn fewest(&self, most: i64) -> [i64; 2] {
        let [height, width] = self.least();
        let mut best = ([height, width], i64::MAX);
        for rows in 1..=height {
            let length = self.length(0, rows);
            // The fewest columns that do; tiles never grow as there are more.
            let (mut few, mut many) = (0, width + 1);
            while many - few > 1 {
                let columns = few + (many - few) / 2;
                if length * self.length(1, columns) > most { few = columns } else { many = columns }
            }
            let all = rows * length * many * self.length(1, many);
            if many <= width && all < best.1 {
                best = ([rows, many], all);
            }
        }
        best.0
    }
}
