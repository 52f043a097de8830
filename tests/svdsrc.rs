// SPDX-License-Identifier: MPL-2.0
//! `svdsrc` in real pipelines, with a tiny model of random weights.

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gsttorchvideo::engine::svd::Params;
use gsttorchvideo::{models, video};

mod common;

use common::svd::{FILES, Pipeline, SINK, check_error, check_times, errors, info, is_end, picture, progress, rgb};

#[test]
fn a_clip_has_the_models_frames_size_and_rate() {
    let samples = Pipeline::new("", SINK).collect();
    let Params { num_frames, width, height, fps, .. } = FILES.recommended;
    assert_eq!(samples.len() as i64, num_frames);
    let rate = gst::Fraction::approximate_f64(fps).unwrap();
    check_times(&samples, rate);
    let info = info(&samples[0]);
    assert_eq!((i64::from(info.width()), i64::from(info.height()), info.fps()), (width, height, rate));
    assert_eq!(info.format(), gst_video::VideoFormat::Rgb);
    assert_eq!(info.par(), gst::Fraction::new(1, 1));
    assert_eq!(info.interlace_mode(), gst_video::VideoInterlaceMode::Progressive);
    assert_eq!(info.colorimetry(), "sRGB".parse().unwrap());
}

#[test]
fn downstream_chooses_size_and_rate() {
    let caps = "video/x-raw,width=40,height=64,framerate=30000/1001";
    let samples = Pipeline::new("num-frames=5", &format!("{caps} ! {SINK}")).collect();
    assert_eq!(samples.len(), 5);
    check_times(&samples, gst::Fraction::new(30_000, 1001));
    assert_eq!((info(&samples[0]).width(), info(&samples[0]).height()), (40, 64));
}

#[test]
fn properties_choose_size_and_rate() {
    let samples = Pipeline::new("num-frames=3 width=72 height=40 fps=25/2", SINK).collect();
    assert_eq!(samples.len(), 3);
    check_times(&samples, gst::Fraction::new(25, 2));
    assert_eq!((info(&samples[0]).width(), info(&samples[0]).height()), (72, 40));
}

#[test]
fn clips_follow_each_other_and_count_the_seed() {
    let small = "num-frames=4 width=32 height=32 seed=7";
    let both = Pipeline::new(&format!("{small} num-clips=2"), SINK).collect();
    assert_eq!(both.len(), 8);
    check_times(&both, info(&both[0]).fps());
    let first = Pipeline::new(small, SINK).collect();
    let second = Pipeline::new(&format!("{small} seed=8"), SINK).collect();
    let pictures: Vec<_> = both.iter().map(picture).collect();
    let alone: Vec<_> = first.iter().chain(&second).map(picture).collect();
    assert!(pictures == alone);
    assert!(pictures[..4] != pictures[4..]);
}

#[test]
fn clips_without_an_end_go_on() {
    let pipeline = Pipeline::new("num-frames=2 width=32 height=32 num-clips=0 num-buffers=7", SINK);
    let samples = pipeline.collect();
    assert_eq!(samples.len(), 7);
    check_times(&samples, info(&samples[0]).fps());
    assert_eq!(pipeline.src().query_duration::<ClockTime>(), None);
}

#[test]
fn every_format_has_the_same_pixels() {
    let run = |format: &str| {
        let caps = format!("video/x-raw,format={format}");
        let samples = Pipeline::new("num-frames=2 width=40 height=24", &format!("{caps} ! {SINK}")).collect();
        samples.iter().map(picture).collect::<Vec<_>>()
    };
    let wanted = run("RGB");
    for format in video::FORMATS {
        let frames = run(format.to_str());
        assert_eq!(frames.len(), 2);
        for (frame, wanted) in frames.iter().zip(&wanted) {
            assert!(rgb(frame) == wanted.data(), "{format:?}");
            assert!(frame.channels() == 3 || frame.data().chunks(4).all(|pixel| pixel[3] == 255), "{format:?}");
        }
    }
}

#[test]
fn duration_and_position_are_known() {
    let pipeline = Pipeline::new("num-frames=4 num-clips=2 fps=8/1 width=32 height=32", SINK);
    assert!(pipeline.src().query_duration::<ClockTime>().is_none());
    let samples = pipeline.collect();
    assert_eq!(samples.len(), 8);
    let src = pipeline.src();
    assert_eq!(src.query_duration(), Some(ClockTime::SECOND));
    assert_eq!(src.query_position(), Some(ClockTime::SECOND));
    assert_eq!(src.query_duration(), Some(gst::format::Default::from_u64(8)));
    assert_eq!(src.query_position(), Some(gst::format::Default::from_u64(8)));
}

#[test]
fn seeking_is_refused() {
    let pipeline = Pipeline::new("num-frames=2 width=32 height=32", "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    assert!(messages.iter().any(|message| message.type_() == gst::MessageType::DurationChanged));
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(pipeline.src().query(&mut query));
    assert!(!query.result().0);
    assert!(pipeline.0.seek_simple(gst::SeekFlags::FLUSH, ClockTime::ZERO).is_err());
    pipeline.0.set_state(gst::State::Null).unwrap();
}

#[test]
fn progress_is_told() {
    let pipeline = Pipeline::new("num-frames=5 decode-chunk-size=2 width=32 height=32", "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    let load = progress(&messages, "load-model");
    let wanted = [(ProgressType::Start, "Loading model"), (ProgressType::Complete, "Loading model: done")];
    let load = load.iter().filter(|(kind, _)| *kind != ProgressType::Continue);
    assert_eq!(load.map(|(kind, text)| (*kind, text.as_str())).collect::<Vec<_>>(), wanted);
    let generate = progress(&messages, "generate");
    let (first, last) = (&generate[0], &generate[generate.len() - 1]);
    assert_eq!(*first, (ProgressType::Start, "Generating clip 1 with seed 42".into()));
    assert_eq!(last.0, ProgressType::Complete);
    let between = &generate[1..generate.len() - 1];
    assert!(between.iter().all(|(kind, _)| *kind == ProgressType::Continue));
    // How long it takes and in which pieces it is decoded is not for a test.
    let texts: Vec<_> = between
        .iter()
        .map(|(_, text)| text.split(", ").next().unwrap())
        .filter(|text| !text.starts_with("Decoding ("))
        .collect();
    let wanted = [
        "Encoded the keyframe",
        "Denoising step 1 of 2 (50 %)",
        "Denoising step 2 of 2 (100 %)",
        "Decoded 2 of 5 frames",
        "Decoded 4 of 5 frames",
        "Decoded 5 of 5 frames",
    ];
    assert_eq!(texts, wanted);
}

#[test]
fn progress_ends_though_nobody_takes_the_frames() {
    // Paused, the sink keeps the first frame. Programs that wait for the progress to end before they play must not
    // wait for ever.
    let pipeline = Pipeline::new("num-frames=5 decode-chunk-size=2 width=32 height=32", "fakesink");
    pipeline.0.set_state(gst::State::Paused).unwrap();
    let messages = pipeline.messages_until(is_end);
    assert_eq!(progress(&messages, "generate").last().unwrap().0, ProgressType::Complete);
}

#[test]
fn stopping_ends_the_generation_and_a_second_run_works() {
    let pipeline = Pipeline::new("num-inference-steps=50 num-frames=3 width=32 height=32", SINK);
    let release = pipeline.play_and_hold();
    // The model's thread is still in its step.
    pipeline.0.set_state(gst::State::Ready).unwrap();
    release.send(()).unwrap();
    let told = progress(&pipeline.messages_until(is_end), "generate");
    assert_eq!(told.last().unwrap().0, ProgressType::Canceled);
    assert!(told.iter().all(|(_, text)| !text.starts_with("Denoising step 3 ")), "{told:?}");
    pipeline.src().set_property("num-inference-steps", 2);
    let samples = pipeline.collect();
    assert_eq!(samples.len(), 3);
    check_times(&samples, info(&samples[0]).fps());
}

#[test]
fn a_flush_stops_the_generation_and_the_clip_is_made_again() {
    let pipeline = Pipeline::new("num-frames=3 width=32 height=32", SINK);
    let release = pipeline.play_and_hold();
    let src = pipeline.src();
    assert!(src.send_event(gst::event::FlushStart::new()));
    assert!(src.send_event(gst::event::FlushStop::new(true)));
    release.send(()).unwrap();
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(samples.len(), 3);
    check_times(&samples, info(&samples[0]).fps());
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    let ends: Vec<_> = messages.iter().filter(|message| is_end(message)).cloned().collect();
    let ends: Vec<_> = progress(&ends, "generate").into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(ends, [ProgressType::Canceled, ProgressType::Complete]);
}

#[test]
fn a_flush_in_the_middle_of_a_clip_goes_on_in_it() {
    let properties = "num-frames=8 width=32 height=32";
    let pipeline = Pipeline::new(properties, "appsink name=sink sync=false max-buffers=1");
    pipeline.play();
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    let first = [(); 2].map(|()| picture(&sink.pull_sample().unwrap()));
    let src = pipeline.src();
    assert!(src.send_event(gst::event::FlushStart::new()));
    assert!(src.send_event(gst::event::FlushStop::new(false)));
    let rest: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let all = Pipeline::new(properties, SINK).collect();
    assert!(first == [picture(&all[0]), picture(&all[1])]);
    // What was on its way to the sink is gone, as with every flush.
    assert!((4..7).contains(&rest.len()), "{}", rest.len());
    for (sample, wanted) in rest.iter().rev().zip(all.iter().rev()) {
        let (buffer, wanted_buffer) = (sample.buffer().unwrap(), wanted.buffer().unwrap());
        assert_eq!((buffer.pts(), buffer.offset()), (wanted_buffer.pts(), wanted_buffer.offset()));
        assert!(picture(sample) == picture(wanted));
    }
    let messages = pipeline.messages_until_eos();
    let starts = progress(&messages, "generate").into_iter().filter(|(kind, _)| *kind == ProgressType::Start);
    assert_eq!(starts.count(), 1);
}

#[test]
fn eos_ends_the_generation() {
    let pipeline = Pipeline::new("num-inference-steps=50 num-frames=3 width=32 height=32", "fakesink");
    let release = pipeline.play_and_hold();
    assert!(pipeline.src().send_event(gst::event::Eos::new()));
    // The stream ends before the step does.
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    release.send(()).unwrap();
    let told = progress(&pipeline.messages_until(is_end), "generate");
    assert_eq!(told.last().unwrap().0, ProgressType::Canceled);
}

#[test]
fn enough_buffers_end_the_generation() {
    let pipeline = Pipeline::new("num-buffers=1 num-clips=0 num-frames=6 width=32 height=32", "fakesink");
    pipeline.play();
    pipeline.messages_until_eos();
    // The model's thread is free for others.
    assert_eq!(Pipeline::new("num-frames=2 width=32 height=32", SINK).collect().len(), 2);
}

#[test]
fn queries_answer_during_the_generation() {
    let pipeline = Pipeline::new("num-frames=7 fps=7/1 width=32 height=40", "fakesink");
    let _hold = pipeline.play_and_hold();
    let src = pipeline.src();
    let caps = src.static_pad("src").unwrap().query_caps(None);
    let fields = caps.structure(0).unwrap();
    assert_eq!((fields.get::<i32>("width"), fields.get::<i32>("height")), (Ok(32), Ok(40)));
    assert_eq!(src.query_duration(), Some(ClockTime::SECOND));
    assert_eq!(src.query_position(), Some(ClockTime::ZERO));
    assert_eq!(src.property::<i64>("seed"), 42);
}

#[test]
fn two_elements_share_a_model() {
    let other = format!(
        "{SINK} svdsrc location=\"{}\" model-path=\"{}\" num-inference-steps=2 num-frames=2 width=32 height=32 device=cpu ! \
         fakesink",
        FILES.picture.display(),
        FILES.model.display()
    );
    let samples = Pipeline::new("num-frames=2 width=32 height=32", &other).collect();
    assert_eq!(samples.len(), 2);
}

#[test]
fn who_waits_for_a_busy_model_is_told() {
    let [first, second] = [(), ()].map(|()| Pipeline::new("num-frames=2 width=32 height=32", "fakesink"));
    let release = first.play_and_hold();
    second.play();
    let text = "model is loaded, and makes another clip first";
    let is_told =
        |message: &gst::Message| matches!(message.view(), MessageView::Progress(progress) if progress.get().2 == text);
    second.messages_until(is_told);
    drop(release);
    let rest = second.messages_until_eos();
    assert_eq!(progress(&rest, "load-model"), [(ProgressType::Complete, "Loading model: done".into())]);
    first.messages_until_eos();
}

#[test]
fn tags_reach_the_container() {
    for (muxer, demuxer) in [("qtmux", "qtdemux"), ("matroskamux", "matroskademux")] {
        let file = FILES.picture.with_file_name(muxer);
        let properties = "num-frames=3 width=32 height=32 seed=5 motion-bucket-id=99";
        let rest = format!("videoconvert ! jpegenc ! {muxer} ! filesink location=\"{}\"", file.display());
        let pipeline = Pipeline::new(properties, &rest);
        pipeline.play();
        assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
        drop(pipeline);
        let reader = format!("filesrc location=\"{}\" ! {demuxer} ! fakesink", file.display());
        let reader = Pipeline(gst::parse::launch(&reader).unwrap().downcast().unwrap());
        reader.play();
        let comments: Vec<String> = reader
            .messages_until_eos()
            .iter()
            .filter_map(|message| match message.view() {
                MessageView::Tag(tag) if tag.tags().scope() == gst::TagScope::Global => {
                    Some(tag.tags().get::<gst::tags::Comment>()?.get().to_string())
                }
                _ => None,
            })
            .collect();
        let comment: serde_json::Value = serde_json::from_str(comments.first().expect(muxer)).unwrap();
        let said = &comment["properties"];
        assert_eq!((&said["seed"], &said["motion-bucket-id"]), (&5.into(), &99.0.into()));
        assert_eq!((&comment["model"]["name"], &comment["device"]), (&"model".into(), &"cpu".into()));
        assert_eq!((&said["num-frames"], &said["width"]), (&3.into(), &32.into()));
        assert!(comment["seconds"]["denoise"].as_f64().unwrap() > 0.0, "{comment}");
    }
}

#[test]
fn wrong_properties_end_in_one_message() {
    for (properties, parts) in [
        ("location=/nowhere/cat.png", ["/nowhere/cat.png", "No such file"]),
        (
            "model-path=/nowhere/svd",
            ["/nowhere/svd: does not exist", "To get one: Stability AI's are at https://huggingface.co/stabilityai"],
        ),
        ("location=\"\"", ["location is not set", "PNG, JPEG or WebP"]),
        ("width=1001", ["width=1001", "1000 or 1008"]),
        ("height=-8", ["height=-8", "8 to 16384"]),
        ("num-inference-steps=0", ["num-inference-steps=0", "1 to 1000"]),
        ("num-frames=2000", ["num-frames=2000", "1 to 1024"]),
        ("fps=1/2", ["fps=0.5", "from 1"]),
        ("noise-aug-strength=-0.5", ["noise-aug-strength=-0.5", "from 0"]),
        ("num-clips=-3", ["num-clips=-3", "0 for clips without an end"]),
        ("device=cuda:4096", ["cuda:4096", "device"]),
        ("device=gpu", ["device=gpu", "auto, cpu, cuda or cuda:N"]),
    ] {
        check_error(&Pipeline::new(properties, "fakesink"), &parts);
    }
}

#[test]
fn wrong_pictures_end_in_one_message() {
    let folder = FILES.picture.parent().unwrap();
    let png = std::fs::read(&FILES.picture).unwrap();
    for (name, bytes) in
        [("text.png", &b"no picture at all"[..]), ("empty.png", b""), ("half.png", &png[..png.len() / 2])]
    {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        check_error(
            &Pipeline::new(&format!("location=\"{}\"", path.display()), "fakesink"),
            &[name, "PNG, JPEG or WebP"],
        );
    }
    let pipeline = Pipeline::new(&format!("location=\"{}\"", folder.display()), "fakesink");
    check_error(&pipeline, &[&folder.display().to_string(), "it is a folder"]);
}

#[test]
fn wrong_models_end_in_one_message() {
    let folder = FILES.picture.with_file_name("empty model");
    std::fs::create_dir_all(&folder).unwrap();
    check_error(&Pipeline::new(&format!("model-path=\"{}\"", folder.display()), "fakesink"), &["empty model", "unet"]);

    let folder = FILES.picture.with_file_name("part");
    common::tiny_svd::write_tiny_svd(&folder);
    let file = folder.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rest = tensors.tensors().into_iter().filter(|(name, _)| name != "conv_in.weight");
    std::fs::write(&file, safetensors::serialize(rest, None).unwrap()).unwrap();
    let pipeline = Pipeline::new(&format!("model-path=\"{}\"", folder.display()), "fakesink");
    check_error(&pipeline, &["conv_in.weight", "part"]);
}

#[test]
fn a_precision_that_the_model_can_t_be_computed_in_ends_in_one_message() {
    let folder = FILES.picture.with_file_name("precise");
    common::tiny_svd::write_tiny_svd(&folder);
    let file = folder.join("recommended.yaml");
    std::fs::write(&file, "width: 64\nheight: 40\ndtypes: [bf16, fp16]\n").unwrap();
    let model = format!("model-path=\"{}\"", folder.display());
    let refused = format!("dtype=fp32 is not possible: use bf16, fp16 or auto: {} allows no other", file.display());
    let pipeline = Pipeline::new(&format!("{model} dtype=fp32"), "fakesink");
    check_error(&pipeline, &[&refused]);
    let config = folder.join("config.yaml");
    std::fs::write(&config, "video: {dtype: fp32}\n").unwrap();
    check_error(&Pipeline::new(&format!("{model} config=\"{}\"", config.display()), "fakesink"), &[&refused]);
    // On a CPU it would be fp32.
    let pipeline = Pipeline::new(&format!("{model} num-frames=2 width=32 height=32"), "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    let told = messages.iter().find_map(|message| message.structure()?.get::<String>("provenance").ok()).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["properties"]["dtype"], "bf16");
}

#[test]
fn caps_that_do_not_fit_end_in_one_message() {
    for (properties, caps, parts) in [
        ("width=64", "width=128", ["width=(int)128", "width=64 was set"]),
        ("fps=7/1", "framerate=16/1", ["framerate=(fraction)16/1", "fps=7/1 was set"]),
        ("", "width=1001", ["width=(int)1001", "multiples of 8"]),
        (
            "width=64",
            "format=BGR ! videoconvert ! video/x-raw,format=I420,width=128",
            ["width=(int)128", "width=64 was set"],
        ),
        ("", "pixel-aspect-ratio=2/1", ["2/1", "the pixels square"]),
    ] {
        check_error(&Pipeline::new(properties, &format!("video/x-raw,{caps} ! fakesink")), &parts);
    }
}

#[test]
fn the_small_model_is_taken_where_none_is_named() {
    let pipeline = Pipeline::bare(&format!("location=\"{}\"", FILES.picture.display()), "fakesink");
    match models::locate("svd-nano") {
        Err(places) => check_error(&pipeline, &["neither model-path nor model-type is set", &places]),
        Ok(folder) => {
            pipeline.0.set_state(gst::State::Paused).unwrap();
            let messages = pipeline.messages_until(|message| message.type_() == gst::MessageType::Info);
            let MessageView::Info(info) = messages.last().unwrap().view() else { unreachable!() };
            assert!(info.error().to_string().contains(&folder.display().to_string()));
        }
    }
}
