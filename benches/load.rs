// SPDX-License-Identifier: MPL-2.0
//! How long a model takes to load, and how much of the host's memory at most: `cargo bench --bench load`.
//!
//! Writes a model of random float16 weights, half as wide as Stable Video Diffusion, as a folder and as a single file,
//! and loads it on the CPU, each time in a process of its own. The peak is counted from where the process was before
//! the load, in resident pages, those of mapped files among them. The files were just written, so the disk's speed
//! does not show.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::sgm::{self, CONDITION};
use gsttorchvideo::engine::svd::{Model, Network, Source, clip, unet, vae};
use gsttorchvideo::engine::weights::{LoadProgress, Weights};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

const UNET: &str = r#"{"block_out_channels": [160, 320, 640, 640], "num_attention_heads": [5, 5, 10, 10],
    "cross_attention_dim": 512}"#;
const VAE: &str = r#"{"block_out_channels": [64, 128, 256, 256], "layers_per_block": 2}"#;
const CLIP: &str = r#"{"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 32, "patch_size": 14,
    "num_attention_heads": 16, "projection_dim": 512, "hidden_act": "gelu"}"#;

type Shapes = BTreeMap<String, Vec<i64>>;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, load, path, kind] = arguments.as_slice() {
        assert_eq!(load, "load");
        return measure(Path::new(path), if kind == "fp16" { Kind::Half } else { Kind::Float });
    }
    let folder = tempfile::tempdir().expect("no temporary folder");
    let (model, file) = (folder.path().join("model"), folder.path().join("svd_xt.safetensors"));
    write_model(&model, &file);
    println!("layout       dtype          seconds  file MB  tensors MB  peak MB  peak/file  peak/tensors");
    for (name, path) in [("folder", &model), ("single file", &file)] {
        for kind in ["fp16", "fp32"] {
            let output = Command::new(&arguments[0]).arg("load").arg(path).arg(kind).output().expect("no process");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            print!("{name:12} fp16 -> {kind}   {}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// Loads the model at `path`, and prints the numbers of a row.
fn measure(path: &Path, kind: Kind) {
    // What libtorch takes for itself when it is first used is not the load's.
    let warm = Tensor::ones([64, 64], (Kind::Half, Device::Cpu)).to_kind(Kind::Float);
    drop(warm.matmul(&warm));
    // Brings the highest mark down to what there is now (proc(5)).
    fs::write("/proc/self/clear_refs", "5").expect("no way to reset the peak");
    let before = memory("VmRSS");
    let start = Instant::now();
    let source = Source::open(path, None).expect("no model");
    let progress = LoadProgress::default();
    let model = Model::from_source(&source, Device::Cpu, kind, &Cancel::default(), &progress).expect("no load");
    let seconds = start.elapsed().as_secs_f64();
    let peak = (memory("VmHWM") - before) as f64;
    let (done, all) = progress.bytes();
    assert_eq!(done, all);
    drop(model);
    let sizes = source.weight_files(kind).expect("no files").into_iter().map(|file| file.metadata().unwrap().len());
    let file = sizes.sum::<u64>() as f64;
    // What is loaded, in the precision that it is loaded in: the VAE's encoder is float32 in any.
    let loaded = Network::ALL.into_iter().flat_map(|network| {
        let weights = source.weights(network, Device::Cpu, kind, &Cancel::default()).expect("no weights");
        let shapes: Vec<_> = weights.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
        shapes.into_iter().map(move |(name, shape)| {
            let is_half = kind == Kind::Half && (network != Network::Vae || name.starts_with("decoder."));
            shape.iter().product::<i64>() * if is_half { 2 } else { 4 }
        })
    });
    let loaded = loaded.sum::<i64>() as f64;
    println!(
        "{seconds:7.2}  {:7.0}  {:10.0}  {:7.0}  {:9.3}  {:12.3}",
        file / 1e6,
        loaded / 1e6,
        peak / 1e6,
        peak / file,
        peak / loaded
    );
}

/// A number of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("no /proc");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("no such line");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("no number")
}

/// Writes the model both ways.
fn write_model(folder: &Path, file: &Path) {
    let shapes = |build: &dyn Fn(&Weights)| {
        let weights = Weights::from_tensors("shapes", [], Device::Cpu, Kind::Float);
        build(&weights);
        weights.wanted()
    };
    let (unet, vae, clip): (unet::Config, vae::Config, clip::Config) = (parse(UNET), parse(VAE), parse(CLIP));
    let networks = [
        ("unet", "diffusion_pytorch_model", UNET, shapes(&|w| drop(unet::UNet::new(w.root(), &unet)))),
        ("vae", "diffusion_pytorch_model", VAE, shapes(&|w| drop(vae::Vae::new(w.root(), &vae)))),
        ("image_encoder", "model", CLIP, shapes(&|w| drop(clip::ClipVision::new(w.root(), &clip)))),
    ];
    let mut all = Shapes::new();
    for (network, stem, config, shapes) in &networks {
        let folder = folder.join(network);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), config).unwrap();
        write(shapes, &folder.join(format!("{stem}.fp16.safetensors")));
        for (new, old, part) in sgm::pairs("full", network) {
            let mut shape = shapes[&new].clone();
            match part.as_str() {
                "" => {}
                "T" => shape.reverse(),
                "M" => shape.extend([1, 1]),
                _ => shape[0] *= 3,
            }
            if let Some(encoder) = old.strip_prefix("first_stage_model.").filter(|old| old.starts_with("encoder.")) {
                all.insert(format!("{CONDITION}{encoder}"), shape.clone());
            }
            all.insert(old, shape);
        }
    }
    for role in ["weight", "bias"] {
        let name = format!("quant_conv.{role}");
        all.insert(format!("{CONDITION}{name}"), networks[1].3[&name].clone());
    }
    write(&all, file);
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

/// Writes float16 tensors of small random numbers.
fn write(shapes: &Shapes, path: &Path) {
    let (header, data) = common::safetensors_header(shapes, &[]);
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&header).unwrap();
    let mut state = 1u64;
    for _ in 0..data / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Signs and fractions at random; the exponent is that of 1/32.
        let values = (state ^ (state >> 29)) & 0x83FF_83FF_83FF_83FF | 0x2800_2800_2800_2800;
        file.write_all(&values.to_le_bytes()).unwrap();
    }
    file.write_all(&vec![0; data % 8]).unwrap();
    file.flush().unwrap();
}
