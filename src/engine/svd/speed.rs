// SPDX-License-Identifier: MPL-2.0
//! How fast a device is, measured: once in a process for each device and precision, in a fraction of a second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::cost;
use super::layers::{ResStyle, SpatioTemporalResBlock};
use super::sketch::{SIZES, Work};
use crate::engine::weights::Weights;

/// What a device does in a second.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Floating-point operations in convolutions.
    convolved: f64,
    /// Floating-point operations in products of matrices.
    multiplied: f64,
    /// Bytes that simple operations read or write, by the tensors' size.
    moved: [f64; SIZES.len()],
    /// Operations on next to nothing.
    operations: f64,
    /// What a block of a network takes over what its parts do.
    together: f64,
}

impl Speed {
    /// The speed of `device` in `kind`. The first call measures it.
    pub fn of(device: Device, kind: Kind) -> Self {
        static KNOWN: Mutex<Vec<(Device, Kind, Speed)>> = Mutex::new(Vec::new());
        // Held while measuring: two at once would slow each other down.
        let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((.., speed)) = known.iter().find(|(d, k, _)| (*d, *k) == (device, kind)) {
            return *speed;
        }
        let speed = Self::measure(device, kind);
        known.push((device, kind, speed));
        speed
    }

    /// The seconds that `work` takes.
    pub fn seconds(&self, work: &Work) -> f64 {
        let moved: f64 = work.moved.iter().zip(self.moved).map(|(bytes, speed)| bytes / speed).sum();
        let parts = work.convolved / self.convolved
            + work.multiplied / self.multiplied
            + moved
            + work.operations / self.operations;
        parts * self.together
    }

    fn measure(device: Device, kind: Kind) -> Self {
        let tensor = |size: &[i64]| Tensor::ones(size, (kind, device));
        // A tenth of SVD's own sizes on the CPU; a GPU needs them whole to get going.
        let (tokens, side) = if device.is_cuda() { (8192, 128) } else { (512, 32) };
        let (x, weight) = (tensor(&[tokens, 640]), tensor(&[2560, 640]));
        let multiplied = (2 * tokens * 640 * 2560) as f64 / seconds(device, || x.linear(&weight, None::<&Tensor>));
        let (x, weight) = (tensor(&[2, 128, side, side]), tensor(&[128, 128, 3, 3]));
        let convolved = (2 * 2 * side * side * 128 * 128 * 9) as f64
            / seconds(device, || x.conv2d(&weight, None::<&Tensor>, [1; 2], [1; 2], [1; 2], 1));
        // Tensors in the middle of each size; the last larger than the caches.
        let moved = [1u64 << 20, 1 << 23, 1 << 26].map(|bytes| {
            let x = tensor(&[bytes as i64 / kind.elt_size_in_bytes() as i64]);
            2.0 * bytes as f64 / seconds(device, || x.silu())
        });
        let (x, weight) = (tensor(&[2, 32, 4, 4]), tensor(&[32, 32, 1, 1]));
        let few = || {
            let y = x.conv2d(&weight, None::<&Tensor>, [1; 2], [0; 2], [1; 2], 1);
            let z = y.group_norm(32, None::<&Tensor>, None::<&Tensor>, 1e-5, true).silu_();
            z.transpose(1, 3).contiguous().linear(&weight.view([32, 32]), None::<&Tensor>)
        };
        let operations = 5.0 / seconds(device, few);
        let parts = Self { convolved, multiplied, moved, operations, together: 1.0 };
        let size = if device.is_cuda() { [8, 320, 64, 64] } else { [8, 64, 96, 96] };
        let expected = parts.seconds(&cost::block(device, kind, size).work);
        Self { together: block(device, kind, size) / expected, ..parts }
    }
}

/// The seconds that a residual block takes.
fn block(device: Device, kind: Kind, [frames, channels, h, w]: [i64; 4]) -> f64 {
    let style = ResStyle { time: None, eps: 1e-5, temporal_eps: 1e-5, switched: false };
    let build = |weights: &Weights| SpatioTemporalResBlock::new(weights.root(), channels, channels, style);
    let names = Weights::from_tensors("names", [], device, kind);
    build(&names);
    let zeros = names.wanted().into_iter().map(|(name, shape)| (name, Tensor::zeros(shape, (kind, device))));
    let block = build(&Weights::from_tensors("zeros", zeros.collect::<Vec<_>>(), device, kind));
    let x = Tensor::ones([frames, channels, h, w], (kind, device));
    seconds(device, || block.forward(&x, None, frames))
}

/// How often it is measured what something takes, at most; and for how long, before it is enough.
const RUNS: usize = 12;
const ENOUGH: Duration = Duration::from_millis(100);

/// The seconds that `work` takes, once it is warm.
fn seconds(device: Device, work: impl Fn() -> Tensor) -> f64 {
    let run = |times: u32| {
        let start = Instant::now();
        for _ in 0..times {
            drop(work());
        }
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(index as i64);
        }
        start.elapsed()
    };
    let start = Instant::now();
    run(1);
    let mut times = 1;
    loop {
        let taken = run(times);
        if taken >= Duration::from_millis(2) || times >= 1 << 12 {
            // Other programs may have had the processor meanwhile: the shortest of many short runs tells most.
            let runs = (0..RUNS).take_while(|_| start.elapsed() < ENOUGH);
            let best = runs.map(|_| run(times)).fold(taken, Duration::min);
            return best.as_secs_f64().max(1e-9) / f64::from(times);
        }
        times *= 2;
    }
}
