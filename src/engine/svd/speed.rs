// SPDX-License-Identifier: MPL-2.0
//! How fast a device is, measured: once in a process for each device and precision, in some tens of milliseconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::sketch::Cost;

/// What a device does in a second.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Floating-point operations in convolutions.
    convolved: f64,
    /// Floating-point operations in products of matrices.
    multiplied: f64,
    /// Bytes that simple operations read or write.
    moved: f64,
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

    /// The seconds that the work of `cost` takes.
    pub fn seconds(&self, cost: &Cost) -> f64 {
        cost.convolved / self.convolved + cost.multiplied / self.multiplied + cost.moved / self.moved
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
        // Larger than the caches.
        let x = tensor(&[1 << 24]);
        let bytes = (2 * x.numel() * kind.elt_size_in_bytes()) as f64;
        let moved = bytes / seconds(device, || x.silu());
        Self { convolved, multiplied, moved }
    }
}

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
    run(1);
    let mut times = 1;
    loop {
        let taken = run(times);
        if taken >= Duration::from_millis(10) || times >= 1 << 12 {
            return taken.as_secs_f64().max(1e-9) / f64::from(times);
        }
        times *= 2;
    }
}
