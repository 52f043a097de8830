// SPDX-License-Identifier: MPL-2.0
//! What decoding in chunks costs: `cargo bench --bench decode`. Prints the time as a ratio to decoding all frames at
//! once, the shortest of some rounds, and the peak of memory, each in a process of its own, beside what is expected.

use std::process::Command;
use std::time::Instant;

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
        name: "svd-nano, 14 frames of 512x288",
        config: || Config {
            block_out_channels: vec![64, 32, 96, 128],
            layers_per_block: 1,
            latent_channels: 16,
            ..Config::default()
        },
        size: [14, 36, 64],
    },
    Case {
        name: "SVD, 14 frames of 128x96",
        config: || Config {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            ..Config::default()
        },
        size: [14, 12, 16],
    },
];
const CHUNKS: [i64; 5] = [1, 2, 4, 8, 14];
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

/// The most memory that this process has had, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}

fn seconds(vae: &Vae, latents: &Tensor, how: &Decoding) -> f64 {
    let begin = Instant::now();
    let decoded = tch::no_grad(|| vae.decode(latents, how, &Cancel::default(), &mut |_| {}));
    assert!(decoded.is_ok(), "{decoded:?}");
    begin.elapsed().as_secs_f64()
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if let [_, flag, case, way] = &args[..]
        && flag == "--peak"
    {
        let case = &CASES[case.parse::<usize>().expect("a case")];
        let how = ways()[way.parse::<usize>().expect("a way")];
        let (vae, latents) = case.load();
        let before = peak();
        seconds(&vae, &latents, &how);
        println!("{}", peak() - before);
        return;
    }
    for (index, case) in CASES.iter().enumerate() {
        let (vae, latents) = case.load();
        let mut best = [f64::INFINITY; CHUNKS.len() + 2];
        for _ in 0..ROUNDS {
            for (how, best) in ways().into_iter().zip(&mut best) {
                *best = best.min(seconds(&vae, &latents, &how));
            }
        }
        let all = best[CHUNKS.len() - 1];
        println!("{} ({all:.2} s at once)\nchunk  kept    passes  time  peak MiB  expected", case.name);
        for (way, (how, best)) in ways().into_iter().zip(best).enumerate() {
            let child = Command::new(&args[0]).args(["--peak", &index.to_string(), &way.to_string()]).output();
            let text = String::from_utf8(child.expect("a process of its own").stdout).expect("a number");
            let peak: f64 = text.trim().parse().expect("a number");
            let Decoding { chunk, keep, two_pass, .. } = how;
            let (keep, passes, expected) = (format!("{keep:?}"), 1 + i32::from(two_pass), case.expected(&how));
            println!("{chunk:5}  {keep:6}  {passes:6}  {:4.2}  {peak:8.0}  {expected:8.0}", best / all);
        }
    }
}
