// SPDX-License-Identifier: MPL-2.0
//! Runs of several clips: keyframes of every sort, chains, durations, changes on the way, and what is told of a clip.

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gst_controller::prelude::*;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::Params;
use gsttorchvideo::engine::svd::anchor::Statistics;

mod common;

use common::svd::{FILES, Pipeline, SINK, check_error, check_times, errors, info, picture, progress};

const SMALL: &str = "num-frames=4 width=32 height=32";

fn pictures(samples: &[gst::Sample]) -> Vec<Frame> {
    samples.iter().map(picture).collect()
}

/// The frames of a small clip with these properties.
fn clip(properties: &str) -> Vec<Frame> {
    pictures(&Pipeline::new(&format!("{SMALL} {properties}"), SINK).collect())
}

fn sink(pipeline: &Pipeline) -> gst_app::AppSink {
    pipeline.0.by_name("sink").unwrap().downcast().unwrap()
}

/// The element messages of one name.
fn told(messages: &[gst::Message], name: &str) -> Vec<gst::Structure> {
    let of = |message: &gst::Message| match message.view() {
        MessageView::Element(element) => element.structure().filter(|told| told.name() == name).map(ToOwned::to_owned),
        _ => None,
    };
    messages.iter().filter_map(of).collect()
}

fn warnings(messages: &[gst::Message]) -> Vec<String> {
    let text = |message: &gst::Message| match message.view() {
        MessageView::Warning(warning) => Some(warning.error().to_string()),
        _ => None,
    };
    messages.iter().filter_map(text).collect()
}

/// A folder with two pictures that differ, `shot-0003.png` and `shot-0004.png`.
fn shots() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, tint) in [(3, 40), (4, 200)] {
        let shot = image::RgbImage::from_fn(48, 48, |x, y| image::Rgb([tint, 4 * x as u8, 5 * y as u8]));
        shot.save(folder.path().join(format!("shot-{number:04}.png"))).unwrap();
    }
    folder
}

#[test]
fn the_next_clip_is_made_while_one_is_shown_and_no_more() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=3"), "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at_clip(2);
    // Clip 2 is in the making, and clip 1 is shown.
    let first: Vec<_> = (0..4).map(|_| sink(&pipeline).pull_sample().unwrap()).collect();
    release.send(()).unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).collect();
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    check_times(&all, info(&all[0]).fps());
    assert_eq!(all.len(), 12);
}

#[test]
fn no_more_than_one_clip_waits() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=0"), "fakesink name=sink");
    pipeline.0.set_state(gst::State::Paused).unwrap();
    // The sink holds the first frame of clip 1, and no progress of clip 2 keeps programs from playing.
    let is_first = |message: &gst::Message| {
        progress(std::slice::from_ref(message), "generate").iter().any(|(kind, _)| *kind == ProgressType::Complete)
    };
    let mut messages = pipeline.messages_until(is_first);
    // The job of another element runs through the same thread when clip 2 is made: after it no more clips wait there.
    while told(&messages, "svdsrc-estimate").len() < 2 {
        messages.extend(pipeline.messages_until(|message| message.type_() == gst::MessageType::Element));
    }
    assert_eq!(clip("").len(), 4);
    messages.extend(std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()));
    assert_eq!(told(&messages, "svdsrc-estimate").len(), 2);
    let begun = progress(&messages, "generate").into_iter().filter(|(kind, _)| *kind == ProgressType::Start);
    assert_eq!(begun.count(), 1);
}

#[test]
fn what_is_set_counts_from_the_next_clip_on() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=3 seed=5"), "appsink name=sink sync=false max-buffers=1");
    // Held when clip 2 is in the making as it was to be.
    let release = pipeline.play_and_hold_at_clip(2);
    let first = [(); 2].map(|()| picture(&sink(&pipeline).pull_sample().unwrap()));
    pipeline.src().set_property("motion-bucket-id", 3.0);
    pipeline.src().set_property("seed", 100i64);
    release.send(()).unwrap();
    let rest: Vec<_> =
        std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).map(|sample| picture(&sample)).collect();
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    assert!(all[..4] == clip("seed=5"));
    assert!(all[4..8] == clip("seed=100 motion-bucket-id=3"));
    assert!(all[8..] == clip("seed=101 motion-bucket-id=3"));
}

#[test]
fn what_is_impossible_on_the_way_is_left_as_it_was() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=2"), "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at_clip(2);
    sink(&pipeline).pull_sample().unwrap();
    pipeline.src().set_property("num-inference-steps", 0);
    pipeline.src().set_property("location", "/nowhere/a.png");
    release.send(()).unwrap();
    let rest = std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).count();
    assert_eq!(rest, 7);
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    let warnings = warnings(&messages);
    // Each once at most: the second may have been set before the first was looked at.
    assert!((1..=2).contains(&warnings.len()), "{warnings:?}");
    let last = warnings.last().unwrap();
    assert!(last.contains("/nowhere/a.png") && last.contains("as before"), "{warnings:?}");
}

#[test]
fn a_controller_drives_clips_by_their_time() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=3 fps=4/1"), SINK);
    // One clip a second.
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::None);
    for (second, value) in [(0, 0.01), (1, 0.5), (2, 0.9)] {
        assert!(source.set(ClockTime::from_seconds(second), value));
    }
    let src = pipeline.src();
    let binding = gst_controller::DirectControlBinding::new_absolute(&src, "noise-aug-strength", &source);
    src.add_control_binding(&binding).unwrap();
    let frames = pictures(&pipeline.collect());
    for (i, strength) in [0.01, 0.5, 0.9].iter().enumerate() {
        let wanted = clip(&format!("fps=4/1 seed={} noise-aug-strength={strength}", 42 + i));
        assert!(frames[4 * i..4 * (i + 1)] == wanted, "clip {i}");
    }
}

#[test]
fn a_numbered_location_gives_a_clip_for_each_picture() {
    let shots = shots();
    let at = |name: &str| format!("location=\"{}/{name}\"", shots.path().display());
    let both = clip(&at("shot-%04d.png"));
    assert_eq!(both.len(), 8);
    assert!(both[..4] == clip(&at("shot-0003.png")));
    assert!(both[4..] == clip(&format!("{} seed=43", at("shot-0004.png"))));
    // Of more clips than pictures, the first picture has the next.
    let three = clip(&format!("{} num-clips=3", at("shot-%04d.png")));
    assert!(three[8..] == clip(&format!("{} seed=44", at("shot-0003.png"))));
}

#[test]
fn a_location_may_be_a_uri() {
    let uri = glib::filename_to_uri(&FILES.picture, None).unwrap();
    assert!(clip(&format!("location={uri}")) == clip(""));
}

/// The test's picture as an application would have it.
fn sample(format: gst_video::VideoFormat) -> gst::Sample {
    let rgb = image::open(&FILES.picture).unwrap().into_rgb8();
    let info = gst_video::VideoInfo::builder(format, rgb.width(), rgb.height()).build().unwrap();
    let frame = Frame::new(rgb.width() as usize, rgb.height() as usize, 3, rgb.into_raw());
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let target = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info);
    gsttorchvideo::video::write(&frame, &mut target.unwrap());
    gst::Sample::builder().buffer(&buffer).caps(&info.to_caps().unwrap()).build()
}

#[test]
fn a_keyframe_may_be_a_sample() {
    let wanted = clip("");
    for format in [gst_video::VideoFormat::Rgb, gst_video::VideoFormat::Bgrx] {
        let pipeline = Pipeline::new(&format!("{SMALL} location=\"\""), SINK);
        pipeline.src().set_property("keyframe", sample(format));
        assert!(pictures(&pipeline.collect()) == wanted, "{format:?}");
    }
    // Encoded, as an application may have read it from anywhere.
    let pipeline = Pipeline::new(&format!("{SMALL} location=\"\""), SINK);
    let caps = gst::Caps::new_empty_simple("image/png");
    let png = gst::Buffer::from_slice(std::fs::read(&FILES.picture).unwrap());
    pipeline.src().set_property("keyframe", gst::Sample::builder().buffer(&png).caps(&caps).build());
    assert!(pictures(&pipeline.collect()) == wanted);
}

#[test]
fn a_keyframe_goes_before_a_location_and_may_go_away() {
    let pipeline = Pipeline::new(
        &format!("{SMALL} num-clips=2 location=/nowhere/a.png"),
        "appsink name=sink sync=false max-buffers=1",
    );
    pipeline.src().set_property("keyframe", sample(gst_video::VideoFormat::Rgb));
    let release = pipeline.play_and_hold_at_clip(2);
    let first = picture(&sink(&pipeline).pull_sample().unwrap());
    pipeline.src().set_property("keyframe", None::<gst::Sample>);
    release.send(()).unwrap();
    let rest: Vec<_> =
        std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).map(|sample| picture(&sample)).collect();
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    assert!(warnings(&messages).iter().any(|text| text.contains("/nowhere/a.png")));
    // The second clip begins with the picture that there was.
    assert!(first == clip("")[0] && rest[3..] == clip("seed=43"));
}

#[test]
fn a_new_numbered_location_begins_with_its_first_picture() {
    let shots = shots();
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=3"), "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at_clip(2);
    sink(&pipeline).pull_sample().unwrap();
    pipeline.src().set_property("location", format!("{}/shot-%04d.png", shots.path().display()));
    release.send(()).unwrap();
    let rest: Vec<_> =
        std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).map(|sample| picture(&sample)).collect();
    let of = |name: &str, seed: i64| clip(&format!("seed={seed} location=\"{}/{name}\"", shots.path().display()));
    assert!(rest[3..7] == of("shot-0003.png", 43) && rest[7..] == of("shot-0004.png", 44));
}

#[test]
fn a_sample_without_a_picture_is_refused() {
    let pipeline = Pipeline::new(&format!("{SMALL} location=\"\""), "fakesink");
    let caps = gst::Caps::new_empty_simple("image/png");
    let text = gst::Buffer::from_slice(b"no picture");
    pipeline.src().set_property("keyframe", gst::Sample::builder().buffer(&text).caps(&caps).build());
    check_error(&pipeline, &["keyframe: not a picture that can be read", "PNG, JPEG or WebP"]);
    let pipeline = Pipeline::new(&format!("{SMALL} location=\"\""), "fakesink");
    let caps = gst::Caps::new_empty_simple("audio/x-raw");
    let silence = gst::Buffer::from_slice([0; 64]);
    pipeline.src().set_property("keyframe", gst::Sample::builder().buffer(&silence).caps(&caps).build());
    check_error(&pipeline, &["keyframe=audio/x-raw", "a sample with a picture"]);
}

#[test]
fn a_chain_goes_on_from_the_last_frame() {
    let samples = Pipeline::new(&format!("{SMALL} num-clips=3 chain=true"), SINK).collect();
    assert_eq!(samples.len(), 4 + 3 + 3);
    check_times(&samples, info(&samples[0]).fps());
    let frames = pictures(&samples);
    // The second clip is that of the first one's last frame.
    let folder = tempfile::tempdir().unwrap();
    let last = folder.path().join("last.png");
    image::save_buffer(&last, frames[3].data(), 32, 32, image::ColorType::Rgb8).unwrap();
    let second = Pipeline::new(&format!("{SMALL} seed=43 location=\"{}\"", last.display()), SINK);
    let second = pictures(&second.collect());
    let third = clip("seed=44");
    // Its colours were led back to the first keyframe's, the more the later; the first frames are near enough.
    let differ = |a: &Frame, b: &Frame| a.data().iter().zip(b.data()).map(|(a, b)| a.abs_diff(*b) as u64).sum::<u64>();
    assert!(differ(&frames[4], &second[1]) < differ(&frames[4], &third[1]) / 2);
}

#[test]
fn a_chain_keeps_its_colours() {
    let shown = Frame::open(&FILES.picture).unwrap();
    let Params { keyframe_fit, .. } = FILES.recommended;
    let shown = shown.with_aspect_of(32, 32, keyframe_fit).unwrap().resize(32, 32);
    let wanted = Statistics::of(&shown).unwrap();
    let drift = |frame: &Frame| {
        let seen = Statistics::of(frame).unwrap();
        let means = seen.mean.iter().zip(wanted.mean).map(|(seen, wanted)| (seen - wanted).abs());
        means.fold(0.0, f64::max)
    };
    let chained = clip("num-clips=3 chain=true");
    let single = clip("");
    // The clips of random weights are far from their keyframe; those of the chain end where it began.
    assert!(drift(&single[3]) > 0.02, "{}", drift(&single[3]));
    for end in [3, 6, 9] {
        assert!(drift(&chained[end]) < 0.35 * drift(&single[3]), "frame {end}: {}", drift(&chained[end]));
    }
}

#[test]
fn a_duration_is_met_by_a_chain() {
    let second = 1_000_000_000u64;
    for (duration, frames) in [(second, 5), (2 * second, 10), (second / 2, 3), (second / 100, 1)] {
        let pipeline = Pipeline::new(&format!("{SMALL} fps=5/1 duration={duration}"), SINK);
        let samples = pipeline.collect();
        assert_eq!(samples.len(), frames, "{duration}");
        check_times(&samples, gst::Fraction::new(5, 1));
        assert_eq!(pipeline.src().query_duration(), Some(gst::format::Default::from_u64(frames as u64)));
    }
    // What fits into one clip is one clip.
    assert!(clip("fps=5/1 duration=600000000") == clip("fps=5/1 num-frames=3"));
}

#[test]
fn runs_that_contradict_themselves_are_refused() {
    let shots = shots();
    let numbered = format!("chain=true location=\"{}/shot-%04d.png\"", shots.path().display());
    for (properties, parts) in [
        ("duration=1000000000 num-clips=2", ["num-clips=2", "duration=1000000000"]),
        ("chain=true num-clips=2 num-frames=1", ["num-frames=1", "2 or more"]),
        (numbered.as_str(), ["chain=true", "one keyframe"]),
        ("location=/nowhere/a-%04d.png", ["/nowhere", "No such file"]),
        ("sigmas=\"<1.0,2.0>\"", ["sigmas=", "lower than the one before"]),
        ("provenance=\"no json\"", ["provenance=no json", "the JSON"]),
    ] {
        check_error(&Pipeline::new(properties, "fakesink"), &parts);
    }
}

#[test]
fn schedules_and_shapes_make_other_clips() {
    let plain = clip("max-guidance-scale=3");
    assert!(clip("guidance-scale=3") == plain);
    for other in ["schedule=ays", "guidance-shape=triangle", "guidance-shape=constant", "sigmas=\"<700.0,10.0,1.0>\""] {
        assert!(clip(&format!("max-guidance-scale=3 {other}")) != plain, "{other}");
    }
    // Aligned steps by hand are aligned steps.
    let sigmas = "sigmas=\"<700.0,54.5,15.886,7.977,4.248,1.789,0.981,0.403,0.173,0.034,0.0>\"";
    assert!(clip(sigmas) == clip("schedule=ays num-inference-steps=10"));
}

#[test]
fn a_clip_is_told_of_and_made_again() {
    let properties = "motion-bucket-id=9.5 seed=11 fps=25/2 max-guidance-scale=2 schedule=ays num-inference-steps=3";
    let pipeline = Pipeline::new(&format!("{SMALL} {properties} num-clips=2"), SINK);
    let sink = sink(&pipeline);
    pipeline.play();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let messages = pipeline.messages_until_eos();
    let (estimates, clips) = (told(&messages, "svdsrc-estimate"), told(&messages, "svdsrc-clip"));
    assert_eq!((estimates.len(), clips.len()), (2, 2));
    assert!(estimates[0].get::<u64>("bytes").unwrap() > 0);
    assert!(estimates[0].get::<f64>("seconds").unwrap() > 0.0);
    for (number, clip) in clips.iter().enumerate() {
        assert_eq!(clip.get::<u64>("clip"), Ok(number as u64));
        assert_eq!(clip.get::<i64>("seed"), Ok(11 + number as i64));
        assert!(clip.get::<u64>("peak-device-memory").unwrap() > 0);
        assert!(clip.get::<f64>("denoise-seconds").unwrap() > 0.0);
    }
    let provenance: String = clips[0].get("provenance").unwrap();
    let json: serde_json::Value = serde_json::from_str(&provenance).unwrap();
    let hashes = json["model"]["weights"].as_object().unwrap();
    assert_eq!(hashes.len(), 3);
    assert!(hashes.values().all(|hash| hash.as_str().unwrap().len() == 64), "{hashes:?}");
    let second: serde_json::Value = serde_json::from_str(&clips[1].get::<String>("provenance").unwrap()).unwrap();
    assert_eq!(second["model"], json["model"]);

    // From this alone the clip comes out again, and from the tag the run; what is set by hand goes before it.
    assert!(again(&provenance, &[]) == pictures(&samples)[..4]);
    let tag = tag(&messages);
    assert!(again(&tag, &[]) == pictures(&samples));
    let second = [("num-clips", 1.to_value()), ("seed", 12i64.to_value())];
    assert!(again(&tag, &second)[..] == pictures(&samples)[4..]);
}

/// What comes out of a provenance alone, and what is set by hand.
fn again(provenance: &str, by_hand: &[(&str, glib::Value)]) -> Vec<Frame> {
    let pipeline = Pipeline::bare("", SINK);
    pipeline.src().set_property("provenance", provenance);
    for (name, value) in by_hand {
        pipeline.src().set_property_from_value(name, value);
    }
    pictures(&pipeline.collect())
}

/// The provenance that a file would have of these messages' run.
fn tag(messages: &[gst::Message]) -> String {
    let comments = messages.iter().filter_map(|message| match message.view() {
        MessageView::Tag(tag) => tag.tags().get::<gst::tags::Comment>().map(|comment| comment.get().to_owned()),
        _ => None,
    });
    let comments: Vec<_> = comments.collect();
    assert_eq!(comments.len(), 1);
    comments[0].clone()
}

/// Plays a run of clips with so many frames each, with `on_the_way` while the first is shown, and makes each clip again
/// from its message, and from the message of the clip that was made again. Gives the frames and the file's provenance.
fn check_every_clip_again(
    properties: &str,
    each: &[usize],
    on_the_way: impl Fn(&gst::Element),
) -> (Vec<Frame>, String) {
    let pipeline = Pipeline::new(&format!("{SMALL} {properties}"), "appsink name=sink sync=false max-buffers=1");
    let release = (each.len() > 1).then(|| pipeline.play_and_hold_at_clip(2));
    on_the_way(&pipeline.src());
    if release.is_none() {
        pipeline.play();
    }
    drop(release);
    let frames: Vec<_> =
        std::iter::from_fn(|| sink(&pipeline).pull_sample().ok()).map(|frame| picture(&frame)).collect();
    let messages = pipeline.messages_until_eos();
    assert_eq!((errors(&messages), warnings(&messages)), (vec![], vec![]));
    let clips = told(&messages, "svdsrc-clip");
    assert_eq!((frames.len(), clips.len()), (each.iter().sum(), each.len()));
    let mut start = 0;
    for (clip, &count) in clips.iter().zip(each) {
        let provenance: String = clip.get("provenance").unwrap();
        let pipeline = Pipeline::bare("", SINK);
        pipeline.src().set_property("provenance", &provenance);
        let samples = pipeline.0.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.play();
        let samples: Vec<_> = std::iter::from_fn(|| samples.pull_sample().ok()).collect();
        check_times(&samples, info(&samples[0]).fps());
        assert_eq!(pipeline.src().query_duration(), Some(gst::format::Default::from_u64(count as u64)));
        assert!(pictures(&samples) == frames[start..start + count], "{properties}: the clip at frame {start}");
        let messages = pipeline.messages_until_eos();
        assert_eq!((errors(&messages), warnings(&messages)), (vec![], vec![]));
        // It says of itself what it was made from, and its file does, too.
        let parts = |text: &str| {
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            ["properties", "keyframe", "chain", "frames", "run"].map(|name| json[name].clone())
        };
        let of_message: String = told(&messages, "svdsrc-clip")[0].get("provenance").unwrap();
        assert_eq!(parts(&of_message), parts(&provenance));
        let is_part = ["chain", "frames"].iter().any(|name| provenance.contains(&format!("\"{name}\":")));
        if is_part {
            assert_eq!(parts(&tag(&messages)), parts(&provenance));
        }
        start += count;
    }
    (frames, tag(&messages))
}

#[test]
fn every_clip_is_made_again_from_its_message() {
    let nothing = |_: &gst::Element| {};
    let shots = shots();
    let both = format!("location=\"{}/shot-%04d.png\"", shots.path().display());
    for (properties, each) in
        [("num-clips=2", vec![4, 4]), (both.as_str(), vec![4, 4]), ("duration=300000000", vec![2])]
    {
        let (frames, tag) = check_every_clip_again(properties, &each, nothing);
        assert!(again(&tag, &[]) == frames, "{properties}");
    }
}

#[test]
fn every_clip_of_a_chain_is_made_again_from_its_message() {
    // The last is not shown to its end.
    let (frames, tag) = check_every_clip_again("fps=5/1 duration=1600000000", &[4, 3, 1], |_| {});
    assert!(again(&tag, &[]) == frames);
    // Whatever was set on the way.
    check_every_clip_again("num-clips=4 chain=true seed=5", &[4, 3, 3, 3], |src| {
        src.set_property("motion-bucket-id", 3.0);
        src.set_property("seed", 100i64);
    });
    let shots = shots();
    let shot = shots.path().join("shot-0004.png").display().to_string();
    check_every_clip_again("num-clips=3 chain=true", &[4, 3, 3], |src| src.set_property("location", &shot));
}

#[test]
fn the_way_to_a_clip_of_a_chain_is_told() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=3 chain=true"), "fakesink");
    pipeline.play();
    let clips = told(&pipeline.messages_until_eos(), "svdsrc-clip");
    let pipeline = Pipeline::bare("", "fakesink");
    pipeline.src().set_property("provenance", clips[2].get::<String>("provenance").unwrap());
    pipeline.play();
    let told = progress(&pipeline.messages_until_eos(), "generate");
    let has = |text: &str| told.iter().any(|(_, told)| told.starts_with(text));
    for text in ["Clip 1 of 3 of the chain: Denoising step 1 ", "Clip 3 of 3 of the chain: Decoded 4 of 4 frames"] {
        assert!(has(text), "{told:?}");
    }
    // What is set by hand counts for all of its clips, and a chain can't have more pictures than one.
    let provenance: String = clips[1].get("provenance").unwrap();
    let changed = again(&provenance, &[("motion-bucket-id", 3.0.to_value())]);
    assert!(changed == clip("num-clips=2 chain=true motion-bucket-id=3")[4..]);
}

#[test]
fn other_weights_than_the_provenances_are_told() {
    let pipeline = Pipeline::new(SMALL, "fakesink");
    let files = serde_json::json!({ "unet/diffusion_pytorch_model.safetensors": "00" });
    let provenance = serde_json::json!({ "properties": {}, "model": { "weights": files } });
    pipeline.src().set_property("provenance", provenance.to_string());
    pipeline.play();
    let warnings = warnings(&pipeline.messages_until_eos());
    assert!(warnings.iter().any(|text| text.contains("weights")), "{warnings:?}");
}

#[test]
fn presets_are_the_reports_plans() {
    for element in ["svdsrc", "svdanimate"] {
        common::register();
        let element = gst::ElementFactory::make(element).build().unwrap();
        let preset = element.dynamic_cast_ref::<gst::Preset>().unwrap();
        assert_eq!(preset.preset_names(), ["balanced", "quality", "speed"]);
        preset.load_preset("quality").unwrap();
        assert_eq!(element.property::<gst::Fraction>("fps"), gst::Fraction::new(18, 1));
        assert_eq!((element.property::<i32>("width"), element.property::<i32>("height")), (1280, 768));
        assert_eq!(element.property::<i32>("num-inference-steps"), 70);
        assert_eq!(element.property::<f64>("motion-bucket-id"), 2.0);
        assert_eq!(element.property::<f64>("noise-aug-strength"), 0.0005);
    }
}

#[test]
fn presets_keep_how_clips_look() {
    let pipeline = Pipeline::new("duration=1000000000", "fakesink");
    let src = pipeline.src();
    let names = src.dynamic_cast_ref::<gst::Preset>().unwrap().property_names();
    let has = |name: &str| names.iter().any(|known| known == name);
    for kept in ["motion-bucket-id", "num-inference-steps", "max-guidance-scale", "seed", "width", "schedule"] {
        assert!(has(kept), "{kept}");
    }
    for left_out in ["location", "keyframe", "provenance", "num-clips", "duration", "guidance-scale", "name"] {
        assert!(!has(left_out), "{left_out}");
    }
}
