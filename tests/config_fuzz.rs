// SPDX-License-Identifier: MPL-2.0
//! Configurations of every kind: what is printed is read as the same, and whatever a file holds, it is read or refused.

use std::path::Path;

use gsttorchvideo::config::{Config, Section, Wanted};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value as Json, json};

mod common;

use common::file;

fn parse(text: &str) -> Result<Config, gsttorchvideo::config::Error> {
    gst::init().unwrap();
    Config::parse(Path::new("/job/config.yaml"), text, &Wanted::default())
}

/// A value that each of these keys can have.
fn settings() -> impl Strategy<Value = Json> {
    let texts = ["a b", "x: y", "- z", "ü\n", "007", "null", "\"q\"", "1e3", "~"];
    let text = prop::sample::select(texts.to_vec());
    let video = (
        prop::option::of(1i64..1000),
        prop::option::of(prop::sample::select(vec![json!(12), json!("30000/1001"), json!(29.97), json!(12.5)])),
        prop::option::of((1i64..64).prop_map(|side| side * 8)),
        prop::option::of(0.0f64..255.0),
        prop::option::of(any::<i64>()),
        prop::option::of(0.0f64..100_000.0),
        prop::option::of(any::<u64>()),
        prop::option::of(prop::sample::select(vec!["karras", "ays"])),
    );
    let video = video.prop_map(|(steps, fps, width, bucket, seed, duration, memory, schedule)| {
        json!({
            "num_inference_steps": steps, "fps": fps, "width": width, "motion_bucket_id": bucket, "seed": seed,
            "duration": duration, "max_memory": memory, "schedule": schedule,
        })
    });
    (video, prop::option::of(text.clone()), prop::option::of(0.02f64..16.0), text).prop_map(
        |(video, encoder, outscale, notes)| {
            json!({ "video": video, "output": { "encoder": encoder }, "postprocess": { "outscale": outscale }, "notes": notes })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_as_the_same(first in settings(), second in settings()) {
        let scene = |mut scene: Json, id: &str| {
            scene["id"] = id.into();
            scene["keyframe"] = "k.png".into();
            scene
        };
        let text = json!({ "preset": "speed", "scenes": [scene(first, "a"), scene(second, "2")] }).to_string();
        let config = parse(&text).unwrap();
        let printed = Config::print(config.scenes());
        let again = parse(&printed).unwrap();
        for (scene, other) in config.scenes().iter().zip(again.scenes()) {
            prop_assert_eq!((&scene.id, &scene.keyframe, &scene.notes), (&other.id, &other.keyframe, &other.notes));
            for section in Section::ALL {
                prop_assert_eq!(scene.layer(section), other.layer(section), "{}", printed);
            }
        }
        prop_assert_eq!(&printed, &Config::print(again.scenes()));
    }

    #[test]
    fn whatever_a_file_holds_it_is_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), ".{0,4}", 0usize..40), 0..6),
    ) {
        let corpus: Vec<_> = std::fs::read_dir(file("tests/fuzz/corpus/config")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut text: Vec<char> = std::fs::read_to_string(which.get(&corpus)).unwrap().chars().collect();
        for (at, new, length) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(err) = parse(&text) {
            prop_assert!(!err.message.is_empty());
        }
    }
}
