// SPDX-License-Identifier: MPL-2.0
//! RIFE against the reference code (`tests/reference/rife.py`).

mod common;

use std::path::{Path, PathBuf};

use common::{Fixture, assert_close, difference, file, noise, recipe};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::pixels::Layout;
use gsttorchvideo::engine::rife::{
    Between, Config, Encoded, Model, Params, Time, begin, between, blend, encode, inspect, look,
};
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::engine::{Error, Result};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

const CPU: Device = Device::Cpu;

fn shipped() -> PathBuf {
    file("models/rife/rife-v4.25.safetensors")
}

fn load(path: &Path, kind: Kind) -> Result<Model> {
    tch::no_grad(|| Model::load(path, CPU, kind, &Cancel::default()))
}

fn encoded(model: &Model, picture: &Frame, scale: f64) -> Encoded {
    let layout = Layout::rgb(picture.width(), picture.height(), picture.channels() == 4).unwrap();
    encode(model, picture.data(), &layout, scale).unwrap()
}

fn run(model: &mut Model, frames: &[Frame; 2], time: Time, scale: f64) -> Between {
    let [first, second] = [0, 1].map(|i| encoded(model, &frames[i], scale));
    between(model, &first, &second, time, &Cancel::default()).unwrap()
}

fn bytes(model: &mut Model, frames: &[Frame; 2], time: Time, scale: f64) -> Frame {
    let [first, second] = [0, 1].map(|i| encoded(model, &frames[i], scale));
    let begun = begin(model, &first, &second, time, &Cancel::default()).unwrap();
    let data = begun.finish().unwrap().unwrap().as_ref().to_vec();
    Frame::new(frames[0].width(), frames[0].height(), frames[0].channels(), data)
}

fn frames(fixture: &Fixture) -> [Frame; 2] {
    ["first", "second"].map(|name| fixture.picture(name))
}

#[derive(Deserialize)]
struct Case {
    name: String,
    time: [u64; 2],
    scale: f64,
}

#[test]
fn the_shipped_network_is_the_references() {
    let fixture = Fixture::open("rife/real");
    let mut model = load(&shipped(), Kind::Float).unwrap();
    let frames = frames(&fixture);
    for Case { name, time: [numerator, denominator], scale } in fixture.parse::<Vec<Case>>("cases") {
        let time = Time::new(numerator, denominator).unwrap();
        let seen = run(&mut model, &frames, time, scale);
        let part = |x: &Tensor| x.contiguous().view(-1).slice(0, None, None, 7);
        assert_close(&format!("{name}: flow"), &part(&seen.flow), &fixture.tensor(&format!("{name}.flow")), 1e-4);
        let share = fixture.tensor(&format!("{name}.mask")).sigmoid();
        assert_close(&format!("{name}: mask"), &part(&seen.mask.sigmoid()), &share, 1e-4);
        assert_close(&format!("{name}: frame"), &seen.picture, &fixture.tensor(&format!("{name}.frame")), 1e-4);
        // The original weights, of which those that are shipped are rounded.
        let wanted = fixture.picture(&format!("{name}.bytes"));
        let most = difference(&bytes(&mut model, &frames, time, scale), &wanted);
        assert!(most <= 1, "{name} differs by {most} levels");
    }
}

#[derive(Deserialize)]
struct Other {
    name: String,
    keys: Vec<(String, Vec<i64>)>,
}

/// Writes tensors to a file that lives as long as its folder.
fn written(tensors: &[(String, Tensor)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    Tensor::write_safetensors(tensors, &path).unwrap();
    (folder, path)
}

#[test]
fn other_networks_are_the_references() {
    let fixture = Fixture::open("rife/others");
    let frames = frames(&fixture);
    for Other { name, keys } in fixture.parse::<Vec<Other>>("cases") {
        // As trainers save them.
        let tensor = |(name, shape): &(String, Vec<i64>)| (format!("module.{name}"), recipe::weight(name, shape));
        let (_folder, path) = written(&keys.iter().map(tensor).collect::<Vec<_>>());
        let version = name.replacen('_', ".", 1).replace('_', ".");
        assert_eq!(inspect(&path).unwrap().version(), version);
        let mut model = load(&path, Kind::Float).unwrap();
        let seen = run(&mut model, &frames, Time::new(2, 5).unwrap(), 1.0);
        assert_close(&version, &seen.picture, &fixture.tensor(&name), 1e-4);
    }
}

#[test]
fn half_precision_is_close() {
    let fixture = Fixture::open("rife/real");
    let frames = frames(&fixture);
    let mut model = load(&shipped(), Kind::Half).unwrap();
    let seen = run(&mut model, &frames, Time::new(1, 2).unwrap(), 1.0);
    assert_eq!(seen.redone, None);
    let error = (&seen.picture - fixture.tensor("1_2_1.0.frame")).abs();
    let (most, mean) = (error.max().double_value(&[]) * 255.0, error.mean(Kind::Float).double_value(&[]) * 255.0);
    println!("fp16: {most:.2} levels at most, {mean:.4} in the mean");
    assert!(mean < 0.1, "{mean} levels in the mean");
}

/// The shipped weights, each as `change` makes it.
fn changed(change: impl Fn(&str, Tensor) -> Tensor) -> (tempfile::TempDir, PathBuf) {
    let tensors = Tensor::read_safetensors(shipped()).unwrap();
    written(&tensors.into_iter().map(|(name, tensor)| (name.clone(), change(&name, tensor))).collect::<Vec<_>>())
}

#[test]
fn what_half_precision_can_not_hold_is_done_again() {
    let frames = frames(&Fixture::open("rife/real"));
    // The same function, with numbers of a million after a layer.
    let (_folder, path) = changed(|name, tensor| match name {
        "block1.conv0.0.0.weight" | "block1.conv0.0.0.bias" => tensor * 1e6,
        "block1.conv0.1.0.weight" => tensor.to_kind(Kind::Float) * 1e-6,
        _ => tensor,
    });
    let time = Time::new(1, 2).unwrap();
    let wanted = bytes(&mut load(&shipped(), Kind::Float).unwrap(), &frames, time, 1.0);
    let mut model = load(&path, Kind::Half).unwrap();
    assert_eq!(run(&mut model, &frames, time, 1.0).redone, Some("fp16"));
    let most = difference(&bytes(&mut model, &frames, time, 1.0), &wanted);
    assert!(most <= 1, "{most} levels");
    let (_folder, path) =
        changed(|name, tensor| if name == "block4.lastconv.0.bias" { tensor * f64::INFINITY } else { tensor });
    let mut model = load(&path, Kind::Float).unwrap();
    let [first, second] = [0, 1].map(|i| encoded(&model, &frames[i], 1.0));
    let err = between(&mut model, &first, &second, time, &Cancel::default()).err().unwrap().to_string();
    assert!(err.contains("not finite, even in fp32"), "{err}");
}

#[test]
fn alpha_moves_with_the_picture() {
    let frames = frames(&Fixture::open("rife/real"));
    let mut model = load(&shipped(), Kind::Float).unwrap();
    let time = Time::new(1, 3).unwrap();
    let wanted = bytes(&mut model, &frames, time, 1.0);
    // Alpha is red, so it must stay red.
    let with_alpha = [0, 1].map(|i| {
        let data = frames[i].data().chunks(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], pixel[0]]).collect();
        Frame::new(frames[i].width(), frames[i].height(), 4, data)
    });
    let seen = bytes(&mut model, &with_alpha, time, 1.0);
    for (seen, wanted) in seen.data().chunks(4).zip(wanted.data().chunks(3)) {
        assert_eq!((&seen[..3], seen[3]), (wanted, wanted[0]));
    }
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let mut model = load(&shipped(), Kind::Float).unwrap();
    let time = Time::new(1, 2).unwrap();
    let (small, large) = (encoded(&model, &noise(40, 30, 3), 1.0), encoded(&model, &noise(44, 30, 3), 1.0));
    let message = between(&mut model, &small, &large, time, &Cancel::default()).err().unwrap().to_string();
    assert!(message.contains("frames=40x30 and 44x30"), "{message}");
    assert!(small.compare(&large).is_err());
    let message = encode(&model, &[0; 99], &Layout::rgb(40, 30, false).unwrap(), 1.0).err().unwrap().to_string();
    assert!(message.contains("frame=99 bytes") && message.contains("3600"), "{message}");
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(between(&mut model, &small, &small, time, &cancel), Err(Error::Cancelled)));
}

#[test]
fn files_say_what_they_hold() {
    let wanted = Config { head: 16, features: 4, widths: vec![192, 128, 96, 64, 32] };
    assert_eq!(inspect(&shipped()).unwrap(), wanted);
    // A part that only training needs is no fault, and one that is missing is.
    let (_folder, path) = changed(|_, tensor| tensor);
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    tensors.push(("caltime.0.bias".into(), Tensor::zeros([32], (Kind::Float, CPU))));
    Tensor::write_safetensors(&tensors, &path).unwrap();
    load(&path, Kind::Float).unwrap();
    tensors.retain(|(name, _)| name != "block2.convblock.7.beta");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let message = load(&path, Kind::Float).err().unwrap().to_string();
    assert!(message.contains("missing (1): block2.convblock.7.beta"), "{message}");
    let message = inspect(&file("models/realesrgan/realesr-animevideov3.safetensors")).unwrap_err().to_string();
    assert!(message.contains("not a network of RIFE"), "{message}");
}

#[test]
fn without_a_model_frames_are_blended_and_looked_at() {
    let layout = Layout::rgb(40, 30, false).unwrap();
    let (first, second) = (noise(40, 30, 3), vec![100u8; 3600]);
    let seen = blend(first.data(), &second, &layout, Time::new(1, 4).unwrap()).unwrap();
    for (seen, value) in seen.as_ref().iter().zip(first.data()) {
        assert_eq!(*seen, (f64::from(*value) * 0.75 + 25.0 + 0.5) as u8);
    }
    assert!(blend(first.data(), &second[1..], &layout, Time::new(1, 4).unwrap()).is_err());
    let [seen, other] = [first.data(), &second].map(|data| look(data, &layout).unwrap());
    let params = Params::default();
    assert!(params.is_static(&seen.compare(&seen).unwrap()) && params.is_cut(&seen.compare(&other).unwrap()));
}

#[test]
fn one_model_serves_all_who_ask() {
    let first = Model::shared(&shipped(), CPU, Kind::Float);
    assert!(std::sync::Arc::ptr_eq(&first, &Model::shared(&shipped(), CPU, Kind::Float)));
    assert!(!std::sync::Arc::ptr_eq(&first, &Model::shared(&shipped(), CPU, Kind::Half)));
    let picture = noise(30, 20, 3);
    let layout = Layout::rgb(30, 20, false).unwrap();
    // A frame may wait elsewhere for the next.
    let kept = first.submit(move |model| encode(model, picture.data(), &layout, 1.0)).wait().unwrap();
    let kept = kept.clone();
    let scale = Params::default().scale_for(30, 20);
    let job = move |model: &mut Model| {
        let next = encode(model, noise(30, 20, 3).data(), &Layout::rgb(30, 20, false).unwrap(), scale)?;
        begin(model, &kept, &next, Time::new(1, 2)?, &Cancel::default())
    };
    let seen = first.submit(job).wait().unwrap().finish().unwrap().unwrap();
    let error = seen.as_ref().iter().zip(noise(30, 20, 3).data()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(error <= Some(8), "between a frame and itself: {error:?}");
}
