// SPDX-License-Identifier: MPL-2.0
//! Decoding a clip: the pictures are diffusers' of all frames at once, however few of them are worked on at a time.

mod common;

use common::tiny_svd::write_tiny_svd;
use common::{Fixture, assert_close, file, noise, relative_error};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::vae::{Config, Decoding, Keep, Vae};
use gsttorchvideo::engine::svd::{DecodeMode, Event, Model, Params, generate};
use gsttorchvideo::engine::weights::Weights;
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::engine::{Error, Result};
use tch::{Device, Kind, Tensor};

/// An autoencoder with the recipe's weights, and latents of five frames for it.
struct Tiny {
    vae: Vae,
    latents: Tensor,
    fixture: Fixture,
}

impl Tiny {
    fn open(file: &str, kind: Kind) -> Self {
        let fixture = Fixture::open(file);
        let config: Config = fixture.parse("config");
        config.check().unwrap();
        let weights = Weights::from_tensors("recipe", fixture.weights("keys"), Device::Cpu, kind);
        let vae = Vae::new(weights.root(), &config);
        weights.finish().unwrap();
        Self { vae, latents: fixture.input("vae.latents") * config.scaling_factor, fixture }
    }

    fn decode(&self, how: &Decoding) -> Tensor {
        self.vae.decode(&self.latents, how, &Cancel::default(), &mut |_| {}).unwrap()
    }
}

const FILES: [&str; 2] = ["svd/vae", "svd/vae2"];
const ALL: Decoding = Decoding { chunk: 5, mode: DecodeMode::Exact, keep: Keep::Device, two_pass: false };

#[test]
fn chunks_change_nothing() {
    for file in FILES {
        let tiny = Tiny::open(file, Kind::Float);
        let wanted = tiny.fixture.tensor("decoded");
        for chunk in [1, 2, 3, 5, 9] {
            let decoded = tiny.decode(&Decoding { chunk, ..ALL });
            assert_close(&format!("{file}, {chunk} at once"), &decoded, &wanted, 1e-5);
        }
    }
}

#[test]
fn where_the_clip_is_kept_changes_nothing() {
    for file in FILES {
        let tiny = Tiny::open(file, Kind::Float);
        for chunk in [1, 2, 5] {
            for two_pass in [false, true] {
                let device = Decoding { chunk, two_pass, ..ALL };
                let host = Decoding { keep: Keep::Host, ..device };
                assert!(tiny.decode(&device) == tiny.decode(&host), "{file}, {device:?}");
            }
        }
    }
}

#[test]
fn computing_twice_changes_nothing() {
    for file in FILES {
        let tiny = Tiny::open(file, Kind::Float);
        for chunk in [1, 2, 5] {
            let once = Decoding { chunk, ..ALL };
            assert!(tiny.decode(&once) == tiny.decode(&Decoding { two_pass: true, ..once }), "{file}, {chunk} at once");
        }
    }
}

#[test]
fn the_reference_s_chunks_can_be_had() {
    for file in FILES {
        let tiny = Tiny::open(file, Kind::Float);
        let decoded = tiny.decode(&Decoding { chunk: 2, mode: DecodeMode::Reference, ..ALL });
        assert_close(file, &decoded, &tiny.fixture.tensor("decoded_chunks_2"), 2e-5);
        let difference = relative_error(&tiny.decode(&Decoding { chunk: 2, ..ALL }), &decoded);
        assert!(difference > 0.01, "chunks apart from each other look different: {difference}");
    }
}

#[test]
fn half_precision_is_close() {
    for (kind, tolerance) in [(Kind::Half, 0.01), (Kind::BFloat16, 0.08)] {
        for file in FILES {
            let tiny = Tiny::open(file, kind);
            let wanted = tiny.fixture.tensor("decoded");
            for chunk in [1, 2, 5] {
                let decoded = tiny.decode(&Decoding { chunk, ..ALL });
                assert_eq!(decoded.kind(), kind);
                assert_close(&format!("{file} in {kind:?}, {chunk} at once"), &decoded, &wanted, tolerance);
            }
        }
    }
}

#[test]
fn cancelling_ends_within_a_piece() {
    let tiny = Tiny::open("svd/vae2", Kind::Float);
    for mode in [DecodeMode::Exact, DecodeMode::Reference] {
        let (mut all, mut shares) = (0, Vec::new());
        let how = Decoding { chunk: 2, mode, ..ALL };
        let decoded = tiny.vae.decode(&tiny.latents, &how, &Cancel::default(), &mut |share| shares.push(share));
        assert!(decoded.is_ok() && shares.is_sorted() && (shares[shares.len() - 1] - 1.0).abs() < 1e-9, "{shares:?}");
        for after in 0..shares.len() {
            let cancel = Cancel::default();
            let mut heard = 0;
            if after == 0 {
                cancel.cancel();
            }
            let result = tiny.vae.decode(&tiny.latents, &how, &cancel, &mut |_| {
                heard += 1;
                if heard == after {
                    cancel.cancel();
                }
            });
            assert!(matches!(result, Err(Error::Cancelled)));
            assert_eq!(heard, after);
            all += 1;
        }
        assert!(all > 30, "{all} pieces");
    }
}

/// The clip that svd-nano makes of noise, in the order in which frames come.
fn clip(model: &mut Model, params: &Params) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut percents = vec![0];
    generate(model, &noise(64, 48, 3), params, &Cancel::default(), &mut |event| match event {
        Event::Decoded(decoded) => {
            assert_eq!(percents.last(), Some(&100));
            frames.extend(decoded);
        }
        Event::Decoding { percent } => percents.push(percent),
        Event::Warning(text) => panic!("{text}"),
        Event::Planned(..) | Event::DenoisedBefore(_) | Event::Encoded => {}
        Event::Step { .. } | Event::Preview(_) => {}
    })?;
    assert!(percents.is_sorted_by(|a, b| a < b), "{percents:?}");
    Ok(frames)
}

#[test]
fn frames_are_the_same_for_every_chunk_size() {
    let folder = file("models/svd-nano");
    let mut model = Model::load(&folder, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    let params = Params { num_frames: 14, width: 128, height: 96, num_inference_steps: 1, ..Params::default() };
    let [all, rest @ ..] = [14, 0, 1, 3].map(|decode_chunk_size| {
        let frames = clip(&mut model, &Params { decode_chunk_size, ..params.clone() }).unwrap();
        assert_eq!(frames.len(), 14);
        frames
    });
    for frames in rest {
        let values = || all.iter().zip(&frames).flat_map(|(a, b)| a.data().iter().zip(b.data()));
        let differing = values().filter(|(a, b)| a != b).count();
        let largest = values().map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        println!("{differing} of {} bytes differ, by {largest} at most", values().count());
        // A value between two bytes may be rounded the other way.
        assert!(largest <= 1 && differing * 1000 < values().count(), "{differing} bytes differ, by up to {largest}");
    }
    // In order: no two frames are the same, so the first clip's order is the others', and it is the reference's.
    let reference = clip(&mut model, &Params { decode_mode: DecodeMode::Reference, ..params }).unwrap();
    assert!(all.iter().zip(&reference).all(|(a, b)| common::difference(a, b) <= 1));
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn tiny_models_decode_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    let mut model = Model::load(folder.path(), Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    for decode_mode in [DecodeMode::Exact, DecodeMode::Reference] {
        for decode_chunk_size in [0, 2, 9] {
            let params = Params {
                num_frames: 3,
                width: 32,
                height: 40,
                num_inference_steps: 1,
                decode_chunk_size,
                decode_mode,
                ..Params::default()
            };
            assert_eq!(clip(&mut model, &params).unwrap().len(), 3);
        }
    }
}
