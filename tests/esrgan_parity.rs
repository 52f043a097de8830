// SPDX-License-Identifier: MPL-2.0
//! Real-ESRGAN's networks give what the reference implementation gives. `tests/reference/esrgan.py` made the answers.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{Fixture, difference, file, noise, recipe, relative_error};
use gsttorchvideo::engine::esrgan::{
    Architecture, Model, ModelFile, Network, Params, Partner, inspect, open, rrdbnet, srvgg, upscale,
};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::pth;
use gsttorchvideo::engine::weights::Weights;
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

/// The most that float32 may differ from the reference.
const EXACT: f64 = 1e-5;

fn architecture(arch: &serde_json::Value) -> Architecture {
    let number = |name: &str| arch[name].as_i64().unwrap();
    let (scale, num_feat) = (number("scale"), number("num_feat"));
    match arch["architecture"].as_str().unwrap() {
        "RRDBNet" => {
            let doublings = arch["doublings"].as_i64().unwrap_or(2);
            Architecture::RrdbNet(rrdbnet::Config {
                unshuffle: (1 << doublings) / scale,
                doublings,
                num_feat,
                num_block: number("num_block"),
                num_grow_ch: number("num_grow_ch"),
                plus: arch["plus"].as_bool().unwrap_or(false),
            })
        }
        "SRVGGNetCompact" => {
            let activation = match arch["act_type"].as_str().unwrap() {
                "prelu" => srvgg::Activation::Prelu,
                "leakyrelu" => srvgg::Activation::LeakyRelu,
                "relu" => srvgg::Activation::Relu,
                other => panic!("{other}"),
            };
            Architecture::SrvggNetCompact(srvgg::Config { scale, num_feat, num_conv: number("num_conv"), activation })
        }
        other => panic!("{other}"),
    }
}

fn small_network(name: &str) {
    let fixture = Fixture::open(&format!("esrgan/{name}"));
    let known = architecture(&fixture.json("arch"));
    let tensors = fixture.weights("keys");
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let detected = Architecture::detect(&shapes).unwrap();
    if name.ends_with("_relu") {
        // Weights can't tell a ReLU from a leaky one.
        let Architecture::SrvggNetCompact(config) = detected else { panic!("{detected}") };
        let relu = srvgg::Config { activation: srvgg::Activation::Relu, ..config };
        assert_eq!(Architecture::SrvggNetCompact(relu), known);
    } else {
        assert_eq!(detected, known);
    }
    let weights = Weights::from_tensors(name, tensors, Device::Cpu, Kind::Float);
    let network = Network::new(weights.root(), known);
    weights.finish().unwrap();
    for (input, shape) in fixture.inputs() {
        let picture = (recipe::sample(&input, &shape) + 1.0) / 2.0;
        let (height, width, scale) = (shape[2], shape[3], known.scale());
        let missing = |side: i64| (known.multiple() - side % known.multiple()) % known.multiple();
        let padded = picture.reflection_pad2d([0, missing(width), 0, missing(height)]);
        let output = tch::no_grad(|| network.forward(&padded, &Cancel::default())).unwrap();
        let output = output.narrow(2, 0, height * scale).narrow(3, 0, width * scale);
        let error = relative_error(&output, &fixture.tensor(&format!("out.{input}")));
        println!("{name} {input}: {error:.1e}");
        assert!(error <= EXACT, "{name} {input}: {error}");
    }
}

#[test]
fn rrdbnet_x4() {
    small_network("rrdb_x4");
}

#[test]
fn rrdbnet_x2() {
    small_network("rrdb_x2");
}

#[test]
fn rrdbnet_x1() {
    small_network("rrdb_x1");
}

/// ESRGAN's other layouts.
const LAYOUTS: [&str; 7] =
    ["rrdb_up0_x1", "rrdb_up1_x1", "rrdb_up1_x2", "rrdb_up3_x4", "rrdb_up3_x8", "rrdb_up4_x16", "rrdb_plus_x4"];

#[test]
fn rrdbnet_of_other_layouts() {
    for name in LAYOUTS {
        small_network(name);
    }
}

#[test]
fn srvgg_x4_prelu() {
    small_network("srvgg_x4_prelu");
}

#[test]
fn srvgg_x2_prelu() {
    small_network("srvgg_x2_prelu");
}

#[test]
fn srvgg_x1_prelu() {
    small_network("srvgg_x1_prelu");
}

#[test]
fn srvgg_x3_leakyrelu() {
    small_network("srvgg_x3_leakyrelu");
}

#[test]
fn srvgg_x2_relu() {
    small_network("srvgg_x2_relu");
}

fn model(path: &Path, kind: Kind) -> Model {
    Model::load(path, Device::Cpu, kind, &Cancel::default()).unwrap()
}

fn run(model: &mut Model, picture: &Frame, params: &Params) -> Frame {
    let upscaled = tch::no_grad(|| upscale(model, picture, params, &Cancel::default())).unwrap();
    assert_eq!(upscaled.redone, None);
    upscaled.picture
}

fn real_network(name: &str) {
    let fixture = Fixture::open(&format!("esrgan/real_{name}"));
    let path = file(&format!("models/realesrgan/{}", fixture.text("weights")));
    let (weights, architecture) = open(&path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    assert_eq!(architecture.scale().to_string(), fixture.text("scale"));
    let network = Network::new(weights.root(), architecture);
    weights.finish().unwrap();
    let mut model = model(&path, Kind::Float);
    for picture in ["coffee", "astronaut"] {
        let input = fixture.picture(&format!("{picture}.input"));
        let output = tch::no_grad(|| network.forward(&input.to_tensor(Device::Cpu), &Cancel::default())).unwrap();
        let error = relative_error(&output.clamp(0.0, 1.0), &fixture.tensor(&format!("{picture}.float")));
        let bytes = run(&mut model, &input, &Params::default());
        let levels = difference(&bytes, &fixture.picture(&format!("{picture}.output")));
        println!("{name} {picture}: {error:.1e}, {levels} levels");
        assert!(error <= EXACT, "{name} {picture}: {error}");
        assert!(levels <= 1, "{name} {picture}: {levels} levels");
    }
    // Upstream's own tiles show seams: the whole picture is the measure.
    let params = Params { tile: 16, ..Params::default() };
    let tiled = run(&mut model, &fixture.picture("coffee.input"), &params);
    let levels = difference(&tiled, &fixture.picture("coffee.output"));
    println!("{name} coffee in tiles: {levels} levels");
    assert!(levels <= 1, "{name} coffee in tiles: {levels} levels");
}

#[test]
fn realesr_animevideov3() {
    real_network("realesr-animevideov3");
}

#[test]
fn realesrgan_x4plus_anime_6b() {
    real_network("RealESRGAN_x4plus_anime_6B");
}

fn recipe_model(name: &str, change: impl Fn(&str, &Tensor) -> Tensor, kind: Kind) -> (tempfile::TempDir, Model) {
    let (folder, path) = common::recipe_file(name, change);
    let model = model(&path, kind);
    (folder, model)
}

fn unchanged(_: &str, tensor: &Tensor) -> Tensor {
    tensor.shallow_clone()
}

#[test]
fn odd_pictures_keep_their_size() {
    for (name, scale) in [("rrdb_x4", 4), ("rrdb_x2", 2), ("rrdb_x1", 1), ("srvgg_x3_leakyrelu", 3)] {
        let (_folder, mut model) = recipe_model(name, unchanged, Kind::Float);
        for (width, height) in [(1, 1), (1, 7), (2, 3), (7, 5), (33, 27)] {
            for params in [Params::default(), Params { tile: 5, tile_pad: 3, pre_pad: 2, ..Params::default() }] {
                let output = run(&mut model, &noise(width, height, 3), &params);
                let size = (output.width() as i64, output.height() as i64);
                assert_eq!(size, (width * scale, height * scale), "{name} {params:?}");
            }
        }
    }
}

#[test]
fn an_odd_picture_is_padded_like_upstream() {
    for (name, scale) in [("rrdb_x2", 2), ("rrdb_x1", 1), ("rrdb_x4", 4)] {
        let fixture = Fixture::open(&format!("esrgan/{name}"));
        let (_folder, mut model) = recipe_model(name, unchanged, Kind::Float);
        // The fixture's input in 8 bits is near enough to its own for a comparison to three levels.
        let input = Frame::from_tensor(&((recipe::sample("odd", &[1, 3, 13, 10]) + 1.0) / 2.0)).unwrap().remove(0);
        let wanted = Frame::from_tensor(&fixture.tensor("out.odd")).unwrap().remove(0);
        let output = run(&mut model, &input, &Params::default());
        assert_eq!(output.width(), 10 * scale);
        let levels = difference(&output, &wanted);
        assert!(levels <= 3, "{name}: {levels} levels");
    }
}

#[test]
fn a_tile_that_covers_its_neighbours_changes_nothing() {
    for name in ["rrdb_x2", "rrdb_x1", "srvgg_x2_prelu"] {
        let (_folder, mut model) = recipe_model(name, unchanged, Kind::Float);
        let picture = noise(19, 22, 3);
        let whole = run(&mut model, &picture, &Params::default());
        // Tiles and padding of odd sizes are rounded up to what the network's unshuffling needs.
        let tiles = run(&mut model, &picture, &Params { tile: 7, tile_pad: 31, ..Params::default() });
        assert!(difference(&whole, &tiles) <= 1, "{name}");
    }
}

#[test]
fn the_final_size_is_the_pictures_own_times_outscale() {
    let (_folder, mut model) = recipe_model("srvgg_x4_prelu", unchanged, Kind::Float);
    for (outscale, size) in [(4.0, (132, 108)), (2.0, (66, 54)), (1.0, (33, 27)), (1.5, (49, 40))] {
        let output = run(&mut model, &noise(33, 27, 3), &Params { outscale, ..Params::default() });
        assert_eq!((output.width(), output.height()), size, "{outscale}");
    }
}

#[test]
fn alpha_is_upscaled_too() {
    let mut model = model(&file("models/realesrgan/realesr-animevideov3.safetensors"), Kind::Float);
    let rgb = Fixture::open("esrgan/real_realesr-animevideov3").picture("astronaut.input");
    let (width, height) = (rgb.width(), rgb.height());
    let with_alpha = |alpha: &dyn Fn(usize) -> u8| {
        let pixels = rgb.data().chunks(3).enumerate();
        let data = pixels.flat_map(|(i, pixel)| [pixel[0], pixel[1], pixel[2], alpha(i % width)]).collect();
        Frame::new(width, height, 4, data)
    };
    let plain = run(&mut model, &rgb, &Params::default());
    // Half transparent, half opaque.
    let output = run(&mut model, &with_alpha(&|x| if x < 16 { 0 } else { 255 }), &Params::default());
    for (i, (pixel, plain)) in output.data().chunks(4).zip(plain.data().chunks(3)).enumerate() {
        assert_eq!(pixel[..3], *plain);
        match i % output.width() {
            0..56 => assert!(pixel[3] <= 4, "{}", pixel[3]),
            72.. => assert!(pixel[3] >= 251, "{}", pixel[3]),
            _ => {}
        }
    }
    let output = run(&mut model, &with_alpha(&|_| 77), &Params { outscale: 2.0, ..Params::default() });
    assert!(output.data().chunks(4).all(|pixel| pixel[3] == 77));
}

#[test]
fn what_float16_cannot_hold_is_done_again_in_float32() {
    let picture = noise(9, 8, 3);
    let (_folder, mut plain) = recipe_model("srvgg_x2_prelu", unchanged, Kind::Float);
    let wanted = run(&mut plain, &picture, &Params::default());
    let (_folder, mut model) = recipe_model("srvgg_x2_prelu", common::beyond_float16, Kind::Half);
    let upscaled = tch::no_grad(|| upscale(&mut model, &picture, &Params::default(), &Cancel::default())).unwrap();
    assert_eq!(upscaled.redone, Some("fp16"));
    assert!(difference(&upscaled.picture, &wanted) <= 1);

    let broken = |_: &str, tensor: &Tensor| tensor * f64::NAN;
    for kind in [Kind::Half, Kind::Float] {
        let (_folder, mut model) = recipe_model("srvgg_x2_prelu", broken, kind);
        let err = tch::no_grad(|| upscale(&mut model, &picture, &Params::default(), &Cancel::default())).unwrap_err();
        assert!(err.to_string().contains("not finite"), "{err}");
    }
}

#[test]
fn half_precision_is_near() {
    let path = file("models/realesrgan/realesr-animevideov3.safetensors");
    let fixture = Fixture::open("esrgan/real_realesr-animevideov3");
    for (kind, bound) in [(Kind::Half, 3), (Kind::BFloat16, 16)] {
        let output = run(&mut model(&path, kind), &fixture.picture("astronaut.input"), &Params::default());
        let levels = difference(&output, &fixture.picture("astronaut.output"));
        println!("{kind:?}: {levels} levels");
        assert!(levels <= bound, "{kind:?}: {levels} levels");
    }
}

#[test]
fn a_set_token_ends_the_work() {
    let mut model = model(&file("models/realesrgan/realesr-animevideov3.safetensors"), Kind::Float);
    let cancel = Cancel::default();
    cancel.cancel();
    let err = upscale(&mut model, &noise(2000, 2000, 3), &Params::default(), &cancel).unwrap_err();
    assert_eq!(err.to_string(), "cancelled");
}

fn tensors_of(file: impl Into<ModelFile>) -> Vec<(String, Tensor)> {
    let (weights, _) = open(file, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    let shapes: Vec<_> = weights.shapes().map(|(name, shape)| (name.to_string(), shape)).collect();
    shapes.iter().map(|(name, shape)| (name.clone(), weights.root().get(name, shape))).collect()
}

fn write(path: &Path, tensors: &[(String, Tensor)]) {
    Tensor::write_safetensors(tensors, path).unwrap();
}

#[test]
fn every_layout_is_read_by_its_old_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in LAYOUTS {
        let fixture = Fixture::open(&format!("esrgan/{name}"));
        let known = architecture(&fixture.json("arch"));
        // spandrel's own names, in the order of the others.
        let keys: Vec<(String, Vec<i64>)> = serde_json::from_value(fixture.json("keys")).unwrap();
        let old: Vec<String> = serde_json::from_value(fixture.json("old_keys")).unwrap();
        assert_eq!(keys.len(), old.len());
        let second = |name: &str| {
            let name =
                name.replace("conv_body", "trunk_conv").replace("conv_up", "upconv").replace("conv_hr", "HRconv");
            name.replace("body.", "RRDB_trunk.").replace(".rdb", ".RDB")
        };
        for (style, before) in
            [("first", ""), ("second", ""), ("current", ""), ("first", "module."), ("current", "params.")]
        {
            let named: Vec<_> = keys
                .iter()
                .zip(&old)
                .map(|((name, shape), old)| {
                    let name_there = match style {
                        "first" => old.clone(),
                        "second" => second(name),
                        _ => name.clone(),
                    };
                    (format!("{before}{name_there}"), recipe::weight(name, shape))
                })
                .collect();
            let path = folder.path().join("net.safetensors");
            write(&path, &named);
            assert_eq!(inspect(&path).unwrap(), known, "{name} {style} {before}");
            let read: HashMap<_, _> = tensors_of(&path).into_iter().collect();
            assert_eq!(read.len(), keys.len(), "{name} {style} {before}");
            for (key, shape) in &keys {
                assert_eq!(read[key], recipe::weight(key, shape), "{name} {style} {before}{key}");
            }
            model(&path, Kind::Float);
        }
    }
}

/// Two files like `realesr-general-x4v3` and its partner, with the recipe's weights of the fixture `blend`.
fn pair(folder: &Path, kinds: [Kind; 2]) -> ModelFile {
    let keys: Vec<(String, Vec<i64>)> = serde_json::from_value(Fixture::open("esrgan/blend").json("keys")).unwrap();
    let files = [("general", ""), ("general-wdn", "wdn.")];
    let [path, partner] = files.map(|(name, _)| folder.join(format!("realesr-{name}-x4v3.safetensors")));
    for ((path, (_, before)), kind) in [&path, &partner].into_iter().zip(files).zip(kinds) {
        let weight = |(name, shape): &(String, Vec<i64>)| {
            (name.clone(), recipe::weight(&format!("{before}{name}"), shape).to_kind(kind))
        };
        write(path, &keys.iter().map(weight).collect::<Vec<_>>());
    }
    ModelFile { path, partner: Some(Partner { path: partner, denoise_strength: 0.5 }) }
}

#[test]
fn a_model_is_blended_with_its_partner() {
    let folder = tempfile::tempdir().unwrap();
    let ModelFile { path, .. } = pair(folder.path(), [Kind::Float; 2]);
    let fixture = Fixture::open("esrgan/blend");
    let strengths: Vec<f64> = serde_json::from_value(fixture.json("strengths")).unwrap();
    assert_eq!(strengths.len(), 3);
    for strength in strengths {
        let file = ModelFile::blended(&path, strength).unwrap();
        assert_eq!(inspect(&file).unwrap(), architecture(&fixture.json("arch")));
        let (weights, architecture) = open(&file, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        let network = Network::new(weights.root(), architecture);
        weights.finish().unwrap();
        for (input, shape) in fixture.inputs() {
            let picture = (recipe::sample(&input, &shape) + 1.0) / 2.0;
            let output = tch::no_grad(|| network.forward(&picture, &Cancel::default())).unwrap();
            let error = relative_error(&output, &fixture.tensor(&format!("out.{strength:?}.{input}")));
            println!("blend {strength} {input}: {error:.1e}");
            assert!(error <= EXACT, "{strength} {input}: {error}");
        }
    }
    // At 1 the partner is not even read.
    std::fs::write(folder.path().join("realesr-general-wdn-x4v3.safetensors"), "broken").unwrap();
    for (name, tensor) in tensors_of(ModelFile::blended(&path, 1.0).unwrap()) {
        assert_eq!(tensor, recipe::weight(&name, &tensor.size()), "{name}");
    }
    assert!(inspect(ModelFile::blended(&path, 0.9).unwrap()).unwrap_err().to_string().contains("wdn-x4v3.safetensors"));
}

#[test]
fn every_tensor_is_blended_in_float32() {
    let folder = tempfile::tempdir().unwrap();
    let file = pair(folder.path(), [Kind::Half, Kind::Double]);
    let blended = tensors_of(&file);
    assert_eq!(blended.len(), 14);
    for (name, tensor) in blended {
        let half = recipe::weight(&name, &tensor.size()).to_kind(Kind::Half).to_kind(Kind::Float);
        let wanted = half * 0.5 + recipe::weight(&format!("wdn.{name}"), &tensor.size()) * 0.5;
        assert_eq!(tensor, wanted, "{name}");
    }
    // By hand: 0.25 of 8 and 0.75 of -4.
    let constant = |value: f64| move |(name, tensor): (String, Tensor)| (name, tensor.zeros_like() + value);
    let Partner { path: partner, .. } = file.partner.clone().unwrap();
    for (path, value) in [(&file.path, 8.0), (&partner, -4.0)] {
        write(path, &tensors_of(path).into_iter().map(constant(value)).collect::<Vec<_>>());
    }
    for (name, tensor) in tensors_of(ModelFile::blended(&file.path, 0.25).unwrap()) {
        assert_eq!(tensor, tensor.zeros_like() - 1.0, "{name}");
    }
    // The model is what its weights are, in half precision, too.
    let picture = noise(9, 8, 3);
    let blended =
        ModelFile { path: partner.clone(), partner: Some(Partner { path: partner.clone(), denoise_strength: 0.5 }) };
    let model = |file: &ModelFile, kind| {
        run(&mut Model::load(file, Device::Cpu, kind, &Cancel::default()).unwrap(), &picture, &Params::default())
    };
    pair(folder.path(), [Kind::Float; 2]);
    for kind in [Kind::Float, Kind::BFloat16] {
        assert_eq!(model(&blended, kind).data(), model(&(&partner).into(), kind).data());
    }
}

#[test]
fn a_blended_model_is_shared_by_its_strength() {
    let folder = tempfile::tempdir().unwrap();
    let ModelFile { path, .. } = pair(folder.path(), [Kind::Float; 2]);
    let shared = |strength| Model::shared(ModelFile::blended(&path, strength).unwrap(), Device::Cpu, Kind::Float);
    let (plain, half) = (Model::shared(&path, Device::Cpu, Kind::Float), shared(0.5));
    assert!(std::sync::Arc::ptr_eq(&plain, &shared(1.0)));
    assert!(std::sync::Arc::ptr_eq(&half, &shared(0.5)));
    assert!(!std::sync::Arc::ptr_eq(&half, &plain));
    assert!(!std::sync::Arc::ptr_eq(&half, &shared(0.4)));
    half.submit(|_| Ok(())).wait().unwrap();
}

#[test]
fn models_that_do_not_fit_are_not_blended() {
    let folder = tempfile::tempdir().unwrap();
    let file = pair(folder.path(), [Kind::Float; 2]);
    let partner = file.partner.clone().unwrap().path;
    let whole = tensors_of(&partner);
    let changed = |tensors: Vec<(String, Tensor)>| {
        write(&partner, &tensors);
        let message = inspect(&file).unwrap_err().to_string();
        let opened = open(&file, Device::Cpu, Kind::Float, &Cancel::default()).err().unwrap();
        assert_eq!(opened.to_string(), message);
        message
    };
    let both = |message: &str| message.contains("general-x4v3.") && message.contains("general-wdn-x4v3.");
    let other = Fixture::open("esrgan/srvgg_x2_prelu").weights("keys").into_iter().collect();
    let message = changed(other);
    assert!(
        both(&message) && message.contains("SRVGGNetCompact x4") && message.contains("SRVGGNetCompact x2"),
        "{message}"
    );
    let message = changed(Fixture::open("esrgan/rrdb_x4").weights("keys").into_iter().collect());
    assert!(both(&message) && message.contains("an RRDBNet x4, 2 blocks"), "{message}");
    let bias = |tensors: &[(String, Tensor)]| {
        let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        tensors.filter(|(name, _)| name != "body.2.bias").collect::<Vec<_>>()
    };
    let message = changed(bias(&whole));
    assert!(both(&message) && message.contains("the second has no body.2.bias"), "{message}");
    let mut longer = bias(&whole);
    longer.push(("body.2.bias".into(), Tensor::zeros([9], (Kind::Float, Device::Cpu))));
    let message = changed(longer);
    assert!(message.contains("body.2.bias is [8] in one and [9] in the other"), "{message}");
    let mut more = bias(&whole);
    for name in ["body.2.bias", "more"] {
        more.push((name.into(), Tensor::zeros([8], (Kind::Float, Device::Cpu))));
    }
    let message = changed(more);
    assert!(both(&message) && message.contains("the first has no more"), "{message}");
}

fn checkpoint(name: &str) -> std::path::PathBuf {
    file(&format!("tests/fixtures/esrgan/{name}.pth"))
}

#[test]
fn checkpoints_hold_the_recipes_weights() {
    for (name, kind) in [
        ("zip_params_ema", Kind::Float),
        ("legacy_params", Kind::Float),
        ("bare", Kind::Half),
        ("old_esrgan", Kind::Float),
        ("state_dict_module", Kind::Float),
    ] {
        let path = checkpoint(name);
        let config =
            rrdbnet::Config { unshuffle: 1, doublings: 2, num_feat: 4, num_block: 1, num_grow_ch: 2, plus: false };
        assert_eq!(inspect(&path).unwrap(), Architecture::RrdbNet(config), "{name}");
        let (weights, architecture) = open(&path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        Network::new(weights.root(), architecture);
        let mut count = 0;
        for (name, shape) in weights.shapes() {
            let wanted = recipe::weight(name, &shape).to_kind(kind).to_kind(Kind::Float);
            assert_eq!(weights.root().get(name, &shape), wanted, "{name}");
            count += 1;
        }
        assert_eq!(count, 2 * (1 + 15 + 4 + 1), "{name}");
        weights.finish().unwrap();
    }
}

#[test]
fn tensors_that_are_views_are_read() {
    for name in ["views", "views_legacy"] {
        let tensors: HashMap<_, _> = pth::read(&checkpoint(name)).unwrap().into_iter().collect();
        let base = recipe::weight("base", &[6, 4]);
        let vector = |name| recipe::weight(name, &[5]);
        for (name, wanted) in [
            ("base", base.shallow_clone()),
            ("transposed", base.tr()),
            ("rows", base.narrow(0, 2, 3)),
            ("columns", base.narrow(1, 1, 2)),
            ("bfloat16", vector("bfloat16").to_kind(Kind::BFloat16)),
            ("double", vector("double").to_kind(Kind::Double)),
            ("count", Tensor::from(7i64)),
            ("parameter", vector("parameter")),
        ] {
            assert_eq!(tensors[name].kind(), wanted.kind(), "{name}");
            assert_eq!(tensors[name], wanted, "{name}");
        }
        assert_eq!(tensors.len(), 8);
    }
}

#[test]
fn hostile_checkpoints_are_refused_and_nothing_runs() {
    let canary = Path::new("/tmp/pwned");
    let before = canary.exists();
    for name in ["hostile", "hostile_legacy"] {
        let path = checkpoint(name);
        let message = pth::read(&path).unwrap_err().to_string();
        assert!(message.contains("posix.system") && message.contains(name), "{message}");
        assert_eq!(inspect(&path).unwrap_err().to_string(), message);
    }
    assert_eq!(canary.exists(), before);
}

#[test]
fn damaged_checkpoints_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    for name in ["views", "views_legacy"] {
        let whole = std::fs::read(checkpoint(name)).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            pth::read(&path)
        };
        read(&whole).unwrap();
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{name} cut off at {end}");
        }
        // A changed byte may leave a readable file, with other numbers in it, but nothing worse.
        let mut refused = 0;
        for at in 0..whole.len() {
            for flip in [0xff, 0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                refused += usize::from(read(&bytes).is_err());
            }
        }
        assert!(refused > whole.len() / 10, "{refused}");
    }
}

/// What is said of a file with tensors of these names.
fn refusal(names: &[String]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let one = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    write(&path, &names.iter().map(|name| (name.clone(), one.shallow_clone())).collect::<Vec<_>>());
    let message = inspect(&path).unwrap_err().to_string();
    message.strip_prefix(&format!("{}: ", path.display())).unwrap().into()
}

#[test]
fn other_networks_are_named() {
    let text = std::fs::read_to_string(file("tests/fixtures/esrgan/others.json")).unwrap();
    let networks: HashMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
    assert_eq!(networks.len(), 37);
    for (network, names) in &networks {
        let message = refusal(names);
        let name = match network.as_str() {
            "MMRealSR" => "MM-RealSR",
            "UpCunet2x" => "Real-CUGAN (waifu2x's UpCunet)",
            "Uformer" | "FFTformer" | "MixDehazeNet" | "DnCNN" | "RetinexFormer" | "HVICIDNet" => {
                assert!(message.starts_with("neither an RRDBNet"), "{network}: {message}");
                continue;
            }
            name => name,
        };
        let wanted = format!(
            "{name}, which realesrganscale does not run; it runs RRDBNet (ESRGAN, Real-ESRGAN) and SRVGGNetCompact"
        );
        assert_eq!(message, wanted);
    }
}

#[test]
fn networks_that_spandrel_does_not_know_are_named() {
    let names = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
    let body = "layers.0.residual_group.blocks.0.norm1.weight layers.0.residual_group.blocks.0.attn.qkv.weight ";
    for (name, tensors) in [
        ("SRFormer", format!("{body}layers.0.residual_group.blocks.0.mlp.dwconv.depthwise_conv.0.weight")),
        ("SwinFIR", format!("{body}layers.0.conv.S.body.0.weight layers.0.conv.F.conv1.0.weight")),
        ("SPSR", "model.0.weight model.1.sub.0.RDB1.conv1.0.weight f_HR_conv1.0.weight model.10.weight".into()),
        ("SRResNet (MSRResNet)", "conv_first.weight body.0.conv1.weight upconv1.weight conv_last.weight".into()),
        ("EDSR", "head.0.weight body.0.body.0.weight body.0.body.2.weight tail.0.0.weight tail.1.weight".into()),
        ("CodeFormer", "quantize.embedding.weight position_emb feat_emb.weight encoder.blocks.0.weight".into()),
        ("BasicVSR", "spynet.basic_module.0.basic_module.0.weight backward_trunk.main.0.weight upconv1.weight".into()),
        ("BasicVSR++", "spynet.mean deform_align.backward_1.weight backbone.backward_1.main.0.weight".into()),
        ("RealBasicVSR", "generator.image_cleaning.0.main.0.weight generator.basicvsr.spynet.mean".into()),
        ("EDVR", "conv_first.weight pcd_align.offset_conv1.l3.weight fusion.temporal_attn1.weight".into()),
        ("RIFE (IFNet)", "module.block0.conv0.0.0.weight module.block1.conv0.0.0.weight".into()),
        ("a whole model of Stable Diffusion", "model.diffusion_model.out.0.weight first_stage_model.a".into()),
    ] {
        let message = refusal(&names(&tensors));
        assert!(message.starts_with(&format!("{name}, which realesrganscale does not run")), "{name}: {message}");
    }
    for (name, tensors) in [
        ("UNetDiscriminatorSN", "conv0.weight conv1.weight_orig conv1.weight_u conv9.weight conv9.bias"),
        ("VGGStyleDiscriminator", "conv0_0.weight bn0_1.weight linear1.weight linear2.weight"),
        ("ESRGAN's discriminator", "features.0.weight features.3.weight classifier.0.weight classifier.2.bias"),
    ] {
        let message = refusal(&names(tensors));
        assert!(message.starts_with(&format!("a discriminator ({name})")) && message.contains("net_g"), "{message}");
    }
    // Stable Video Diffusion's networks, by the names that diffusers has.
    for (part, name) in [("unet", "the UNet of Stable Video Diffusion"), ("vae", "the VAE of Stable Video Diffusion")] {
        let text = std::fs::read_to_string(file(&format!("tests/fixtures/svd/full_{part}.json"))).unwrap();
        let full: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<(String, Vec<i64>)> = serde_json::from_value(full["keys"].clone()).unwrap();
        let message = refusal(&keys.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert!(message.starts_with(name), "{message}");
    }
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.pth");
    std::fs::write(&path, "<html>404</html>").unwrap();
    let message = inspect(&path).unwrap_err().to_string();
    assert!(message.contains("text.pth") && message.contains("not a PyTorch checkpoint"), "{message}");
    let path = folder.path().join("text.safetensors");
    std::fs::write(&path, "<html>404</html>").unwrap();
    let message = inspect(&path).unwrap_err().to_string();
    assert!(message.contains("not a complete safetensors file"), "{message}");
    let message = inspect(checkpoint("views")).unwrap_err().to_string();
    assert!(message.contains("neither an RRDBNet") && message.contains("base [6, 4]"), "{message}");
    let message = inspect(checkpoint("training")).unwrap_err().to_string();
    assert!(message.contains("training.pth: the state of a training (epoch, iter, optimizers"), "{message}");
    let message = inspect(checkpoint("script")).unwrap_err().to_string();
    assert!(message.contains("script.pth: a TorchScript program"), "{message}");
    let message = inspect(folder.path().join("none.pth")).unwrap_err().to_string();
    assert!(message.contains("none.pth: No such file"), "{message}");
}
