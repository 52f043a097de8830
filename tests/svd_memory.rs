// SPDX-License-Identifier: MPL-2.0
//! Clips in little memory: what is estimated is what is taken, and however a clip is computed, it is the same clip.

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use common::tiny_svd::write_tiny_svd;
use common::{Fixture, assert_close, difference, file, noise};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::cost::{self, Prediction};
use gsttorchvideo::engine::svd::denoiser::Denoiser;
use gsttorchvideo::engine::svd::{DecodeMode, Estimate, Event, Model, Params, Strategy, Summary};
use gsttorchvideo::engine::svd::{generate, guider, unet, vae};
use gsttorchvideo::engine::weights::Weights;
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::engine::{Error, Result, memory};
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

/// The account of memory is one for the process, so the tests that read it or limit it take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    memory::install();
    memory::limit(None);
    guard
}

fn load(folder: &Path, kind: Kind) -> Model {
    Model::load(folder, CPU, kind, &Cancel::default()).unwrap()
}

/// A small clip that is guided.
fn small() -> Params {
    Params { width: 64, height: 48, num_frames: 3, num_inference_steps: 2, ..Params::default() }
}

/// What came of a clip.
struct Made {
    frames: Vec<Frame>,
    planned: (Estimate, Strategy),
    warnings: Vec<String>,
    /// The most bytes in each stage, as the account has them.
    peaks: [u64; 3],
    summary: Summary,
}

fn make(model: &mut Model, params: &Params) -> Result<Made> {
    let (mut frames, mut planned, mut warnings, mut peaks) = (Vec::new(), None, Vec::new(), [0; 3]);
    let keyframe = noise(params.width, params.height, 3);
    let mut report = |event| {
        let stage = match event {
            Event::Planned(estimate, strategy) => return planned = Some((estimate, strategy)),
            Event::Warning(text) => return warnings.push(text),
            Event::Decoded(decoded) => return frames.extend(decoded),
            Event::DenoisedBefore(_) | Event::Encoded => 0,
            Event::Step { .. } | Event::Preview(_) => 1,
            Event::Decoding { .. } => 2,
        };
        peaks[stage] = memory::usage(CPU).peak.max(peaks[stage]);
        memory::reset_peak(CPU);
    };
    let summary = tch::no_grad(|| generate(model, &keyframe, params, &Cancel::default(), &mut report))?;
    Ok(Made { frames, planned: planned.expect("a plan comes first"), warnings, peaks, summary })
}

/// The largest difference of two clips' bytes.
fn differ(a: &[Frame], b: &[Frame]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| difference(a, b)).max().unwrap()
}

fn assert_near(what: &str, estimated: u64, measured: u64) {
    let ratio = estimated as f64 / measured as f64;
    println!("{what}: {estimated} estimated, {measured} measured, {ratio:.3}");
    assert!((0.85..=1.15).contains(&ratio), "{what}: {estimated} bytes were estimated, {measured} were taken");
}

#[test]
fn every_way_takes_what_was_estimated_and_makes_the_same_clip() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let before = memory::usage(CPU).current;
    let mut model = load(folder.path(), Kind::Float);
    let mut params = Params { width: 128, height: 96, num_frames: 5, num_inference_steps: 1, ..Params::default() };
    params.decode_chunk_size = 5;
    let (mut first, mut seen): (Option<Vec<Frame>>, Vec<Strategy>) = (None, Vec::new());
    let refusal = loop {
        let made = match make(&mut model, &params) {
            Ok(made) => made,
            Err(err) => break err,
        };
        let (estimate, strategy) = made.planned;
        assert!(made.warnings.is_empty(), "{:?}", made.warnings);
        assert_eq!(made.summary.strategy, strategy);
        // Where a network is loaded while the stage runs that needs it first, the stages before have it in advance.
        for (stage, (need, peak)) in
            [estimate.encode, estimate.denoise, estimate.decode].iter().zip(made.peaks).enumerate()
        {
            assert_near(&format!("{strategy}, stage {stage}"), need.bytes, peak - before);
        }
        assert!(differ(first.get_or_insert_with(|| made.frames.clone()), &made.frames) <= 1, "{strategy}");
        seen.push(strategy);
        params.max_memory = estimate.bytes() - 1;
    };
    // What is given up comes in its order, and the next only when the one before does not suffice.
    assert!(seen.len() > 8, "{seen:?}");
    let at = |given_up: fn(&Strategy) -> bool| seen.iter().position(given_up).expect("each way was taken");
    let order = [
        at(|way| way.decoding.chunk == 1),
        at(|way| way.decoding.two_pass),
        at(|way| way.taking_turns),
        at(|way| way.feed_forward_pieces > 1),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert!(at(|way| way.sequential_guidance) > order[0]);
    let message = refusal.to_string();
    let limit = params.max_memory;
    for part in [
        format!("max-memory={limit} is too little for 128x96 with 5 frames"),
        format!("at least ({} bytes)", limit + 1),
        "num-frames=4 would fit".into(),
        "width=120 height=".into(),
    ] {
        assert!(message.contains(&part), "{message}");
    }
}

/// The precisions that oneDNN computes in on this processor. For one without instructions for float16, libtorch has
/// other ways there, which take more.
fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Float, Kind::BFloat16];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512fp16") {
        kinds.push(Kind::Half);
    }
    kinds
}

#[test]
fn the_shipped_model_takes_what_was_estimated() {
    let _alone = alone();
    for kind in kinds() {
        let before = memory::usage(CPU).current;
        let mut model = load(&file("models/svd-nano"), kind);
        for (width, height, num_frames, max_guidance_scale) in [(128, 72, 6, 3.0), (192, 104, 3, 1.0)] {
            let steps = 1;
            let params = Params {
                width,
                height,
                num_frames,
                max_guidance_scale,
                num_inference_steps: steps,
                ..Params::default()
            };
            let made = make(&mut model, &params).unwrap();
            let estimate = made.planned.0;
            for (need, peak) in [estimate.encode, estimate.denoise, estimate.decode].iter().zip(made.peaks) {
                assert_near(&format!("{width}x{height}x{num_frames} in {kind:?}"), need.bytes, peak - before);
                assert!(need.seconds > 0.0 && need.seconds.is_finite());
            }
        }
    }
}

/// A UNet of zeros, between the tiny ones and the real one.
#[test]
fn a_larger_unet_takes_what_was_estimated() {
    let _alone = alone();
    let config = unet::Config {
        block_out_channels: vec![64, 128, 128, 128],
        num_attention_heads: unet::OneOrEach::Each(vec![2, 4, 4, 4]),
        cross_attention_dim: unet::OneOrEach::One(64),
        ..unet::Config::default()
    };
    config.check().unwrap();
    let names = Weights::from_tensors("names", [], CPU, Kind::Float);
    unet::UNet::new(names.root(), &config);
    for kind in kinds() {
        let zeros = names.wanted().into_iter().map(|(name, shape)| (name, Tensor::zeros(shape, (kind, CPU))));
        let zeros: Vec<_> = zeros.collect();
        let before = memory::usage(CPU).current
            - zeros.iter().map(|(_, x)| (x.numel() * x.kind().elt_size_in_bytes()) as u64).sum::<u64>();
        let weights = Weights::from_tensors("zeros", zeros, CPU, kind);
        let network = unet::UNet::new(weights.root(), &config);
        weights.finish().unwrap();
        for (clips, pieces) in [(2, 1), (1, 1), (2, 4)] {
            let at = Prediction { clips, frames: 6, h: 18, w: 32, pieces };
            let estimate = cost::unet(&config, CPU, kind, at);
            memory::reset_peak(CPU);
            let zeros = |shape: &[i64]| Tensor::zeros(shape, (kind, CPU));
            let (sample, context) = (zeros(&[clips, 6, 8, 18, 32]), zeros(&[clips, 1, 64]));
            let time = Tensor::zeros([1], (Kind::Float, CPU));
            let ids = zeros(&[clips, 3]);
            let predict = || network.forward(&sample, &time, &context, &ids, pieces, &Cancel::default());
            assert_eq!(tch::no_grad(predict).unwrap().size(), [clips, 6, 4, 18, 32]);
            let taken = memory::usage(CPU).peak - before;
            let estimated = estimate.weights + estimate.peak;
            assert_near(&format!("{clips} clips, {pieces} pieces, {kind:?}"), estimated, taken);
            // Nothing but what libtorch takes for a moment is left out.
            assert!(estimated.abs_diff(taken) * 40 < taken, "{estimated} bytes were estimated, {taken} were taken");
        }
    }
}

/// A decoder of zeros, with the clip on the device and on the host, which on the CPU is counted, too.
#[test]
fn a_clip_on_the_host_takes_what_was_estimated() {
    let _alone = alone();
    let config = vae::Config { block_out_channels: vec![32, 64, 64], layers_per_block: 2, ..vae::Config::default() };
    let names = Weights::from_tensors("names", [], CPU, Kind::Float);
    vae::Vae::new(names.root(), &config);
    let zeros = names.wanted().into_iter().map(|(name, shape)| (name, Tensor::zeros(shape, (Kind::Float, CPU))));
    let weights = Weights::from_tensors("zeros", zeros.collect::<Vec<_>>(), CPU, Kind::Float);
    let network = vae::Vae::new(weights.root(), &config);
    let [frames, h, w] = [6, 16, 24];
    let latents = Tensor::zeros([frames, config.latent_channels, h, w], (Kind::Float, CPU));
    for (chunk, two_pass, keep) in [
        (2, false, vae::Keep::Device),
        (2, false, vae::Keep::Host),
        (2, true, vae::Keep::Host),
        (1, true, vae::Keep::Host),
        (6, true, vae::Keep::Host),
    ] {
        let how = vae::Decoding { chunk, mode: DecodeMode::Exact, keep, two_pass };
        let before = memory::usage(CPU).current;
        memory::reset_peak(CPU);
        let decoded = tch::no_grad(|| network.decode(&latents, &how, &Cancel::default(), &mut |_| {}));
        assert!(decoded.is_ok());
        let taken = memory::usage(CPU).peak - before;
        let estimated = cost::vae_decoder(&config, CPU, Kind::Float, [frames, h, w], &how).peak;
        assert_near(&format!("{how:?}"), estimated, taken);
    }
}

#[test]
fn halves_in_sequence_and_tokens_in_pieces_change_nothing() {
    let _alone = alone();
    let fixture = Fixture::open("svd/unet_a");
    let weights = Weights::from_tensors("recipe", fixture.weights("keys"), CPU, Kind::Float);
    let unet = unet::UNet::new(weights.root(), &fixture.parse("config"));
    let cancel = Cancel::default();
    let sample = fixture.input("unet.sample");
    let denoise = |is_sequential, feed_forward_pieces| {
        let denoiser = Denoiser {
            unet: &unet,
            image_latents: sample.narrow(2, 4, 4),
            context: fixture.input("unet.encoder_hidden_states"),
            added_time_ids: fixture.tensor("added_time_ids"),
            guidance: Some(guider::scales(Default::default(), 1.0, 3.0, 3, CPU)),
            is_sequential,
            feed_forward_pieces,
            cancel: &cancel,
        };
        denoiser.denoise(&sample.narrow(0, 0, 1).narrow(2, 0, 4), 0.7).unwrap()
    };
    let wanted = denoise(false, 1);
    for (is_sequential, pieces) in [(true, 1), (false, 2), (true, 7), (false, 1000)] {
        assert_close(&format!("{is_sequential} {pieces}"), &denoise(is_sequential, pieces), &wanted, 1e-5);
    }
}

#[test]
fn memory_that_runs_out_is_made_do_with() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let mut model = load(folder.path(), Kind::Float);
    let loaded = memory::usage(CPU).current;
    let params = small();
    let plain = make(&mut model, &params).unwrap();
    // A little less than decoding takes, then a little less than the steps do.
    for stage in [2, 1] {
        memory::limit(Some(loaded + (plain.peaks[stage] - loaded) / 10 * 9));
        let made = make(&mut model, &params);
        memory::limit(None);
        let made = made.unwrap();
        println!("{:?}: {}", made.warnings, made.summary.strategy);
        assert!(made.warnings.iter().all(|text| text.starts_with("out of memory: going on with ")));
        assert!(!made.warnings.is_empty() && made.summary.strategy != plain.summary.strategy);
        assert_eq!(made.planned.1, plain.summary.strategy);
        assert!(differ(&made.frames, &plain.frames) <= 1);
    }
    // Not enough for anything.
    memory::limit(Some(memory::usage(CPU).current + 200_000));
    let result = make(&mut model, &params);
    memory::limit(None);
    let Err(Error::OutOfMemory(message)) = result else { panic!("there is no memory") };
    println!("{message}");
    assert!(message.contains("64x48 with 3 frames"), "{message}");
    // And afterwards all is well again.
    assert!(differ(&make(&mut model, &params).unwrap().frames, &plain.frames) <= 1);
}

#[test]
fn a_model_that_does_not_fit_is_loaded_network_by_network() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let before = memory::usage(CPU).current;
    let mut whole = load(folder.path(), Kind::Float);
    let weights = memory::usage(CPU).current - before;
    let plain = make(&mut whole, &small()).unwrap();
    drop(whole);
    memory::limit(Some(before + weights / 100 * 95));
    let mut model = load(folder.path(), Kind::Float);
    let empty = memory::usage(CPU).current - before;
    let made = make(&mut model, &Params { max_memory: weights, ..small() });
    memory::limit(None);
    let made = made.unwrap();
    assert!(empty < weights / 10, "{empty} bytes of {weights} are loaded");
    assert!(made.planned.1.taking_turns && made.warnings.is_empty(), "{:?}", made.warnings);
    assert!(differ(&made.frames, &plain.frames) <= 1);
}

#[test]
fn seconds_of_the_last_clip_are_expected_of_the_next() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let mut model = load(folder.path(), Kind::Float);
    let first = make(&mut model, &small()).unwrap().summary.seconds;
    let estimate = make(&mut model, &small()).unwrap().planned.0;
    assert_eq!([estimate.encode, estimate.decode].map(|need| need.seconds), [first[0], first[2]]);
    assert!((estimate.denoise.seconds - first[1]).abs() < 1e-9);
}

/// Multiplies the weights of a part whose names `factor` knows.
fn scale(folder: &Path, part: &str, factor: impl Fn(&str) -> f64) {
    let file = fs::read_dir(folder.join(part)).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|end| end == "safetensors")).unwrap();
    let weights = Tensor::read_safetensors(&file).unwrap();
    let weights: Vec<_> = weights.into_iter().map(|(name, tensor)| (name.clone(), tensor * factor(&name))).collect();
    Tensor::write_safetensors(&weights, &file).unwrap();
}

/// A model's folder whose network `part` computes the same, but with numbers of a million behind the layers `large`,
/// which a norm or the layers `small` bring back.
fn beyond_float16(part: &str, large: &[&str], small: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let is_in = |names: &[&str], name: &str| names.iter().any(|part| name.starts_with(part));
    scale(folder.path(), part, |name| match name {
        _ if is_in(large, name) => 1e6,
        _ if is_in(small, name) => 1e-6,
        _ => 1.0,
    });
    let config = folder.path().join("vae/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let upcasting = "\"force_upcast\":true";
    assert!(text.contains(upcasting), "{text}");
    fs::write(config, text.replace(upcasting, "\"force_upcast\":false")).unwrap();
    folder
}

#[test]
fn what_float16_cannot_hold_is_done_again_in_float32() {
    let _alone = alone();
    let plain = beyond_float16("vae", &[], &[]);
    let wanted = make(&mut load(plain.path(), Kind::Half), &small()).unwrap();
    assert!(wanted.warnings.is_empty(), "{:?}", wanted.warnings);
    const CONV: &str = "down_blocks.0.resnets.0.spatial_res_block.conv1.";
    const TIME: &str = "down_blocks.0.resnets.0.spatial_res_block.time_emb_proj.";
    const VALUE: &str = "vision_model.encoder.layers.0.self_attn.v_proj.";
    const OUTPUT: &str = "vision_model.encoder.layers.0.self_attn.out_proj.weight";
    const CASES: [(&str, &[&str], &[&str], &str); 4] = [
        ("unet", &[CONV, TIME], &[], "denoising"),
        ("vae", &["decoder.up_blocks.0.resnets.0.spatial_res_block.conv1."], &[], "decoding"),
        ("vae", &["encoder.down_blocks.0.resnets.0.conv1."], &[], "encoding the keyframe"),
        ("image_encoder", &[VALUE], &[OUTPUT], "embedding the keyframe"),
    ];
    for (part, large, small_ones, warning) in CASES {
        let folder = beyond_float16(part, large, small_ones);
        let before = memory::usage(CPU).current;
        let mut model = load(folder.path(), Kind::Half);
        let loaded = memory::usage(CPU).current - before;
        let made = make(&mut model, &small()).unwrap();
        println!("{warning}: {} levels, {:?}", differ(&made.frames, &wanted.frames), made.warnings);
        // Once, though there are two steps.
        assert_eq!(made.warnings.len(), 1, "{warning}: {:?}", made.warnings);
        assert!(made.warnings[0].starts_with(warning) && made.warnings[0].contains("fp16"), "{:?}", made.warnings);
        assert!(differ(&made.frames, &wanted.frames) <= 2, "{warning}");
        // What is in float32 has gone with the clip.
        let left = memory::usage(CPU).current - before;
        assert!(left <= loaded, "{left} bytes are left, {loaded} were loaded");
        drop(model);
    }
}

#[test]
fn weights_that_are_broken_are_an_error_and_no_picture() {
    let _alone = alone();
    for (part, name, stage) in [
        ("unet", "conv_out.bias", "denoising"),
        ("vae", "decoder.conv_out.bias", "decoding"),
        ("vae", "encoder.conv_out.bias", "encoding the keyframe"),
        ("image_encoder", "visual_projection.weight", "embedding the keyframe"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_svd(folder.path());
        scale(folder.path(), part, |weight| if weight == name { f64::NAN } else { 1.0 });
        for kind in [Kind::Float, Kind::Half] {
            let err = make(&mut load(folder.path(), kind), &small()).err().expect("no frame is right");
            assert!(matches!(err, Error::NonFinite { stage: at, dtype: "fp32" } if at == stage), "{part}: {err}");
        }
    }
}
