// SPDX-License-Identifier: MPL-2.0
//! What every element must bear: states that change at any time, flushes, seeks, other caps, other peers, errors and
//! queries while its model is at work.
//!
//! `TORCHVIDEO_SEED` makes other random tests than the usual ones.

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, mpsc};

use gst::ClockTime;
use gst::prelude::*;

mod common;

use common::behaviour::{Random, Stage, Subject, Watch, check_complaints, listen, now, subjects, write_files};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("behaviour");
    write_files(&folder);
    folder
});

/// Puts every element through something.
fn with_each(work: impl Fn(&Subject)) {
    let subjects = subjects(&FOLDER);
    listen();
    for subject in subjects {
        now(subject.name);
        work(&subject);
    }
    check_complaints();
}

/// Random numbers for an element's test; a test that fails shows where they began.
fn random(subject: &Subject) -> Random {
    let seed = std::env::var("TORCHVIDEO_SEED").map_or(1, |text| text.parse().expect("TORCHVIDEO_SEED is a number"));
    println!("{}: TORCHVIDEO_SEED={seed}", subject.name);
    Random(seed + subject.name.len() as u64)
}

#[test]
fn states_change_at_any_time() {
    with_each(|subject| {
        let wanted = subject.run();
        let mut random = random(subject);
        let mut stage = Stage::new(subject, subject.count());
        let (say, hear) = mpsc::channel();
        let (mut abandoned, mut before) = (0, gst::State::Null);
        for step in 0..84 {
            if random.below(10) == 0 {
                let say = say.clone();
                let other = std::mem::replace(&mut stage, Stage::new(subject, subject.count()));
                other.abandon(move |changed| say.send(changed).unwrap());
                (abandoned, before) = (abandoned + 1, gst::State::Null);
            }
            let state = random.of(&[gst::State::Null, gst::State::Ready, gst::State::Paused, gst::State::Playing]);
            println!("{step}: {state:?}");
            if (before, state) == (gst::State::Playing, gst::State::Paused) {
                // GStreamer 1.22 forgets the change if it comes between the end of PAUSED and the way on to PLAYING.
                stage.settle();
            }
            stage.set(state);
            before = state;
            match (state, random.below(3)) {
                (gst::State::Playing, 1..) => stage.seen.wait_for(random.below(30)),
                (gst::State::Paused, 1) => stage.settle(),
                _ => {}
            }
            assert_eq!(stage.errors(), [""; 0]);
        }
        for _ in 0..abandoned {
            let _watch = Watch::over("what was abandoned".into());
            assert!(hear.recv().unwrap().is_ok());
        }
        // And it is as good as new.
        stage.set(gst::State::Null);
        stage.seen.told.lock().unwrap().frames.clear();
        stage.seen.told.lock().unwrap().is_over = false;
        stage.set(gst::State::Playing);
        assert!(subject.finish(stage) == wanted);
    });
}

/// Asks everything that may be asked at any time.
fn ask(subject: &Subject, stage: &Stage) {
    let _watch = Watch::over("a query".into());
    let src = stage.it.static_pad("src").unwrap();
    let caps = src.query_caps(None);
    assert!(!caps.is_empty() && !caps.is_any(), "{caps}");
    src.query_accept_caps(&src.current_caps().unwrap_or(caps));
    let mut latency = gst::query::Latency::new();
    assert!(src.query(&mut latency));
    assert_eq!(latency.result().0, subject.is_live);
    for format in [gst::Format::Time, gst::Format::Default, gst::Format::Bytes] {
        src.query(&mut gst::query::Duration::new(format));
        src.query(&mut gst::query::Position::new(format));
        src.query(&mut gst::query::Seeking::new(format));
        src.query(&mut gst::query::Segment::new(format));
        stage.pipeline.query(&mut gst::query::Duration::new(format));
        stage.pipeline.query(&mut gst::query::Position::new(format));
    }
    src.query(&mut gst::query::Formats::new());
    src.query(&mut gst::query::Context::new("a.context"));
    src.query(&mut gst::query::Scheduling::new());
    let structure = gst::Structure::new_empty("a-question");
    src.query(&mut gst::query::Custom::new(structure));
    if let Some(sink) = stage.it.static_pad("sink") {
        let caps = sink.query_caps(None);
        assert!(!caps.is_empty(), "{caps}");
        sink.query_accept_caps(&sink.current_caps().unwrap_or(caps));
    }
    for property in stage.it.list_properties() {
        if property.flags().contains(glib::ParamFlags::READABLE) {
            stage.it.property_value(property.name());
        }
    }
}

#[test]
fn every_question_is_answered_while_the_model_is_at_work() {
    with_each(|subject| {
        let (stage, held) = Stage::held(subject, subject.count());
        ask(subject, &stage);
        drop(held);
        subject.finish(stage);
    });
}

#[test]
fn nobody_who_stops_waits_for_the_model() {
    with_each(|subject| {
        for state in [gst::State::Ready, gst::State::Null] {
            let (stage, held) = Stage::held(subject, subject.count());
            stage.set(gst::State::Paused);
            stage.set(state);
            drop(held);
            stage.seen.told.lock().unwrap().frames.clear();
            stage.seen.told.lock().unwrap().is_over = false;
            stage.set(gst::State::Playing);
            assert!(subject.finish(stage) == subject.run(), "{state:?}");
        }
    });
}

#[test]
fn a_flush_while_the_model_is_at_work_begins_anew() {
    with_each(|subject| {
        let wanted = subject.run();
        let frames = if subject.is_filter { -1 } else { subject.count() };
        let (stage, held) = Stage::held(subject, frames);
        let _watch = Watch::over("a flush".into());
        assert!(stage.flush(subject, Some(ClockTime::from_mseconds(100 * subject.count() as u64))));
        if subject.has_model {
            stage.seen.told.lock().unwrap().frames.clear();
        }
        drop(held);
        let seen = subject.finish(stage);
        if subject.name == "svdanimate" {
            // Pictures count on, and so do their seeds.
            assert!(seen.iter().map(|frame| frame.0).eq(wanted.iter().map(|frame| frame.0)));
        } else if subject.has_model {
            assert!(seen == wanted);
        } else {
            assert!(seen.ends_with(&wanted));
        }
    });
}

#[test]
fn another_sink_while_the_model_is_at_work_gets_every_frame() {
    with_each(|subject| {
        if !subject.has_model || subject.is_live {
            return;
        }
        let wanted = subject.run();
        let (stage, held) = Stage::held(subject, subject.count());
        let before = stage.seen.told.lock().unwrap().frames.len();
        assert_eq!(before, 0);
        let (src, behind) = (stage.it.static_pad("src").unwrap(), stage.element("behind"));
        let between = gst::ElementFactory::make("identity").build().unwrap();
        stage.pipeline.add(&between).unwrap();
        src.unlink(&behind.static_pad("sink").unwrap()).unwrap();
        between.link(&behind).unwrap();
        src.link(&between.static_pad("sink").unwrap()).unwrap();
        between.sync_state_with_parent().unwrap();
        drop(held);
        assert!(subject.finish(stage) == wanted);
    });
}

#[test]
fn other_caps_while_the_model_is_at_work_lose_no_frame() {
    with_each(|subject| {
        let count = subject.run().len();
        for (filter, choices) in [("before", subject.before), ("behind", subject.behind)] {
            for caps in choices {
                let (stage, held) = Stage::held(subject, subject.count());
                stage.set_caps(filter, caps);
                drop(held);
                let frames = subject.finish(stage);
                // Where the rate changes, so does the number of frames.
                let is_rate = caps.contains("framerate=") && !caps.contains("framerate=10/1");
                assert!(is_rate || frames.len() == count || subject.is_live, "{filter} {caps}: {}", frames.len());
                assert!(frames.is_sorted_by_key(|frame| frame.0), "{filter} {caps}: {frames:?}");
            }
        }
    });
}

#[test]
fn the_application_ends_the_stream_while_the_model_is_at_work() {
    with_each(|subject| {
        let (stage, held) = Stage::held(subject, -1);
        let _watch = Watch::over("the end".into());
        let pipeline = stage.pipeline.clone();
        // A source that waits for the element hears of it when the element lets go.
        let ending = std::thread::spawn(move || pipeline.send_event(gst::event::Eos::new()));
        if !subject.is_filter {
            stage.seen.wait(|told| told.is_over);
        }
        drop(held);
        assert!(ending.join().unwrap());
        stage.seen.wait(|told| told.is_over);
        assert_eq!(stage.errors(), [""; 0]);
    });
}

#[test]
fn whatever_downstream_answers_ends_the_stream() {
    use gst::FlowError::{Eos, Error, Flushing, NotLinked, NotNegotiated};
    with_each(|subject| {
        let wanted = subject.run();
        for answer in [Eos, Error, Flushing, NotLinked, NotNegotiated] {
            let stage = Stage::new(subject, subject.count());
            let (say, hear) = mpsc::channel();
            let pad = stage.element("sink").static_pad("sink").unwrap();
            let probe = pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                info.flow_res = Err(answer);
                let _ = say.send(());
                gst::PadProbeReturn::Handled
            });
            stage.set(gst::State::Playing);
            hear.recv().unwrap();
            if answer != Flushing {
                stage.seen.wait(|told| told.is_over);
            }
            let errors = stage.errors();
            assert!(errors.len() <= usize::from(!matches!(answer, Eos | Flushing)), "{answer:?}: {errors:?}");
            pad.remove_probe(probe.unwrap());
            stage.set(gst::State::Null);
            *stage.seen.told.lock().unwrap() = Default::default();
            stage.set(gst::State::Playing);
            assert!(subject.finish(stage) == wanted, "{answer:?}");
        }
    });
}

#[test]
fn who_is_said_to_be_late_leaves_nothing_out() {
    with_each(|subject| {
        let stage = Stage::new(subject, subject.count());
        let pad = stage.element("sink").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, |pad, info| {
            let time = info.buffer().and_then(|buffer| buffer.pts());
            let late = gst::event::Qos::builder(gst::QOSType::Underflow, 100.0, 3_600_000_000_000).timestamp(time);
            pad.push_event(late.build());
            gst::PadProbeReturn::Ok
        });
        stage.set(gst::State::Playing);
        assert!(subject.finish(stage) == subject.run());
    });
}

#[test]
fn nobody_needs_to_answer_allocation_queries() {
    with_each(|subject| {
        for pad in ["src", "sink"] {
            let stage = Stage::new(subject, subject.count());
            let Some(pad) = stage.it.static_pad(pad) else { continue };
            pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH, |_, info| {
                let is_allocation = info.query().is_some_and(|query| query.type_() == gst::QueryType::Allocation);
                if is_allocation { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
            });
            stage.set(gst::State::Playing);
            assert!(subject.finish(stage) == subject.run(), "{}", pad.name());
        }
    });
}

/// Does something to a pipeline that an application, or an element beside this one, may do at any time. Gives whether
/// that may leave a source without a thread, so that its stream has no end.
fn disturb(subject: &Subject, stage: &Stage, is_held: bool, random: &mut Random) -> bool {
    let time = |random: &mut Random| ClockTime::from_mseconds(100 * random.below(8));
    let sink = stage.element("sink").static_pad("sink").unwrap();
    let what = random.below(if subject.has_preview { 14 } else { 10 });
    now(&format!("{}, disturbance {what}", subject.name));
    match what {
        0 => ask(subject, stage),
        1 => _ = stage.flush(subject, None),
        2 => _ = sink.push_event(gst::event::Reconfigure::new()),
        3 => {
            let late = gst::event::Qos::builder(gst::QOSType::Underflow, 2.0, 500_000_000).timestamp(time(random));
            sink.push_event(late.build());
        }
        4 if subject.is_filter => stage.set_caps("before", random.of(subject.before)),
        5 => stage.set_caps("behind", random.of(subject.behind)),
        6 => {
            // As applications do it: when nothing is on its way.
            let (src, say) = (stage.it.static_pad("src").unwrap(), Mutex::new(Some(())));
            let (peer, (done, is_done)) = (src.peer().unwrap(), mpsc::channel());
            src.add_probe(gst::PadProbeType::IDLE, move |src, _| {
                if say.lock().unwrap().take().is_some() {
                    src.unlink(&peer).unwrap();
                    src.link(&peer).unwrap();
                    done.send(()).unwrap();
                }
                gst::PadProbeReturn::Remove
            });
            is_done.recv().unwrap();
        }
        7 => {
            // Who does not flush waits for the streaming thread.
            let may_wait = !is_held && random.below(2) == 0;
            let flags = if may_wait { gst::SeekFlags::empty() } else { gst::SeekFlags::FLUSH };
            let _ = stage.pipeline.seek_simple(flags, time(random));
        }
        // The segment waits for the streaming thread.
        8 if subject.is_filter && !is_held => {
            let [pad, from] = ["src", "sink"].map(|name| stage.element("before").static_pad(name).unwrap());
            pad.push_event(gst::event::FlushStart::new());
            // No frame may come between: it would have no segment.
            let _lock = from.stream_lock();
            pad.push_event(gst::event::FlushStop::new(true));
            pad.push_event(gst::event::Segment::new(&gst::FormattedSegment::<ClockTime>::new()));
        }
        10.. => stage.change_preview(random),
        9 if stage.it.find_property("seed").is_some() => stage.it.set_property("seed", random.below(1000) as i64),
        _ => {}
    }
    subject.is_filter && !is_held && what == 8
}

#[test]
fn whatever_is_done_to_it_it_ends() {
    with_each(|subject| {
        let wanted = subject.run();
        let mut random = random(subject);
        for round in 0..12 {
            now(&format!("{}, round {round}", subject.name));
            let (stage, held) = Stage::held(subject, 40);
            let mut held = Some(held).filter(|_| random.below(2) == 0);
            let mut may_hang = false;
            for _ in 0..random.below(10) {
                let _watch = Watch::over("a disturbance".into());
                if held.is_none() && !may_hang {
                    stage.seen.wait_for(random.below(12));
                }
                if random.below(4) == 0 {
                    held = None;
                }
                may_hang |= disturb(subject, &stage, held.is_some(), &mut random);
            }
            drop(held);
            let _watch = Watch::over("the end".into());
            if !may_hang && random.below(2) == 0 {
                stage.pipeline.send_event(gst::event::Eos::new());
                stage.seen.wait(|told| told.is_over);
            }
            assert_eq!(stage.errors(), [""; 0]);
            stage.set(gst::State::Null);
        }
        assert!(subject.run() == wanted);
    });
}
