// SPDX-License-Identifier: MPL-2.0
//! What decoding in chunks costs: `cargo bench --bench decode`, one to three minutes on two cores. Prints the time as a ratio to decoding
//! all frames at once, the shortest of some rounds, and the peak of memory beside what is expected; and, before, what
//! our allocator saves: a decoding with libtorch's own and one with ours, each after one that warms it up.

use std::time::Instant;

use gsttorchvideo::engine::memory;
use gsttorchvideo::engine::svd::vae::{Config, Decoding, Keep, Vae};
use gsttorchvideo::engine::svd::{DecodeMode, cost};
use gsttorchvideo::engine::weights::Weights;
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

/// A network of random weights and the latents that it decodes: (frames, h, w).
struct Case {
    name: &'static str,
    config: fn() -> Config,
    size: [i64; 3],
}

const CASES: [Case; 2] = [
    Case {
        name: "svd-nano, 14 frames of 128x96",
        config: || Config {
            block_out_channels: vec![96, 32, 96],
            layers_per_block: 1,
            latent_channels: 10,
            ..Config::default()
        },
        size: [14, 24, 32],
    },
    Case {
        name: "SVD, 14 frames of 64x48",
        config: || Config {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            ..Config::default()
        },
        size: [14, 6, 8],
    },
];
const CHUNKS: [i64; 4] = [1, 2, 4, 14];
const ROUNDS: usize = 2;

impl Case {
    fn load(&self) -> (Vae, Tensor) {
        let options = (Kind::Float, Device::Cpu);
        let config = (self.config)();
        let names = Weights::from_tensors("names", [], Device::Cpu, Kind::Float);
        Vae::new(names.root(), &config);
        let tensors = names.wanted().into_iter().map(|(name, shape)| {
            let inputs = shape[1..].iter().product::<i64>() as f64;
            (name, Tensor::randn(shape, options) / inputs.sqrt())
        });
        let weights = Weights::from_tensors("random", tensors.collect::<Vec<_>>(), Device::Cpu, Kind::Float);
        let [frames, h, w] = self.size;
        (Vae::new(weights.root(), &config), Tensor::randn([frames, config.latent_channels, h, w], options))
    }

    fn expected(&self, how: &Decoding) -> f64 {
        let cost = cost::vae_decoder(&(self.config)(), Device::Cpu, Kind::Float, self.size, how);
        cost.peak as f64 / f64::from(1 << 20)
    }
}

/// In chunks of every size; one of them also with less and less on the device.
fn ways() -> Vec<Decoding> {
    let way = |chunk| Decoding { chunk, mode: DecodeMode::Exact, keep: Keep::Device, two_pass: false };
    let twice = Decoding { two_pass: true, ..way(2) };
    CHUNKS.map(way).into_iter().chain([twice, Decoding { keep: Keep::Host, ..twice }]).collect()
}

fn seconds(vae: &Vae, latents: &Tensor, how: &Decoding) -> f64 {
    let begin = Instant::now();
    let decoded = tch::no_grad(|| vae.decode(latents, how, &Cancel::default(), &mut |_| {}));
    assert!(decoded.is_ok(), "{decoded:?}");
    begin.elapsed().as_secs_f64()
}

/// The seconds of the processor that the system has taken for this process, for page faults above all.
fn system() -> f64 {
    // SAFETY: fills a struct of numbers.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_stime.tv_sec as f64 + usage.ru_stime.tv_usec as f64 / 1e6
}

/// Decodes a clip of svd-nano in chunks of a usual number of pixels, and prints what the system takes of it.
fn allocator(name: &str) {
    let (vae, latents) = CASES[0].load();
    let how = Decoding { chunk: 14, ..ways()[0] };
    seconds(&vae, &latents, &how);
    let before = system();
    let all = seconds(&vae, &latents, &how);
    println!("{}, allocator {name:10}: {all:.2} s, {:.2} s of the system", CASES[0].name, system() - before);
}

fn main() {
    allocator("libtorch's");
    memory::install();
    allocator("ours");
    for case in CASES {
        let (vae, latents) = case.load();
        let (mut best, mut peaks) = ([f64::INFINITY; CHUNKS.len() + 2], [0.0; CHUNKS.len() + 2]);
        for _ in 0..ROUNDS {
            for ((how, best), peak) in ways().into_iter().zip(&mut best).zip(&mut peaks) {
                let before = memory::usage(Device::Cpu).current;
                memory::reset_peak(Device::Cpu);
                *best = best.min(seconds(&vae, &latents, &how));
                *peak = (memory::usage(Device::Cpu).peak - before) as f64 / f64::from(1 << 20);
            }
        }
        let all = best[CHUNKS.len() - 1];
        println!("{} ({all:.2} s at once)\nchunk  kept    passes  time  peak MiB  expected", case.name);
        for (how, (best, peak)) in ways().into_iter().zip(best.into_iter().zip(peaks)) {
            let Decoding { chunk, keep, two_pass, .. } = how;
            let (keep, passes, expected) = (format!("{keep:?}"), 1 + i32::from(two_pass), case.expected(&how));
            println!("{chunk:5}  {keep:6}  {passes:6}  {:4.2}  {peak:8.0}  {expected:8.0}", best / all);
        }
    }
}
