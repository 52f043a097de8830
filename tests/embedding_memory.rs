// SPDX-License-Identifier: MPL-2.0
//! An application that makes one clip after the other takes no more memory for the tenth than for the third. Alone in its
//! process, because it counts all of it.

use std::time::Instant;

use gst::prelude::*;
use gsttorchvideo::engine::memory;
use tch::Device;

mod common;

use common::svd::{FILES, PATIENCE, Pipeline, errors, picture};

/// A clip of 0.2 MB.
const CLIP: &str = "num-frames=8 width=96 height=96 num-inference-steps=1";
const SINK: &str = "appsink name=sink sync=false wait-on-eos=false";
/// How many more bytes may be in use after seven more clips.
const MORE: u64 = 1_000_000;
/// The same of what the process has in memory, which allocators use as they like.
const MORE_RESIDENT: u64 = 32_000_000;

/// The bytes that the process has in memory, without those that are kept for what comes next.
fn resident() -> u64 {
    memory::release_cached(Device::Cpu);
    // SAFETY: gives free memory of the allocator back; asks for a number.
    let page = unsafe {
        libc::malloc_trim(0);
        libc::sysconf(libc::_SC_PAGESIZE)
    };
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * page as u64
}

/// The bytes of the process that are in use. Some 10 MB of them come and go with libtorch's threads, so the most of some clips
/// is held against the least of others.
fn in_use() -> u64 {
    // SAFETY: asks for numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

/// Waits for a model's thread, which frees what it has when nobody holds it any more.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        let has_patience = start.elapsed().as_secs() < PATIENCE.seconds();
        assert!(has_patience, "{what}: {:?} and {} bytes are left", memory::usage(Device::Cpu), in_use());
        std::thread::yield_now();
    }
}

fn until_unloaded() {
    wait_until("the model is unloaded", || memory::usage(Device::Cpu).current == 0);
}

/// Plays to the end, with the frames. (An appsink of GStreamer 1.22 that has been played before says at first that it is at
/// its end, so they are not pulled earlier.)
fn collect(pipeline: &Pipeline) -> Vec<gst::Sample> {
    pipeline.play();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    std::iter::from_fn(|| sink.try_pull_sample(gst::ClockTime::ZERO)).collect()
}

/// Makes ten clips, and checks that the memory does not grow: the last do with what the first took.
fn check_ten(what: &str, mut make: impl FnMut() -> Vec<gst::Sample>) {
    let mut first = None;
    let mut make = || {
        let clip: Vec<_> = make().iter().map(picture).collect();
        assert_eq!(clip.len(), 8);
        assert!(*first.get_or_insert_with(|| clip.clone()) == clip);
        drop(clip);
        (in_use(), resident())
    };
    let before = [(); 3].map(|()| make());
    let after = [(); 7].map(|()| make());
    println!("{what}: {before:?} and then {after:?} bytes in use, and in memory");
    let most = before.iter().max().unwrap();
    let least = after[4..].iter().min().unwrap();
    assert!(least.0 < most.0 + MORE, "{what}: {before:?} and then {after:?}");
    assert!(least.1 < most.1 + MORE_RESIDENT, "{what}: {before:?} and then {after:?}");
}

#[test]
fn ten_clips_take_no_more_memory_than_three() {
    assert!(FILES.picture.exists());
    check_ten("ten pipelines", || {
        let samples = collect(&Pipeline::new(CLIP, SINK));
        until_unloaded();
        samples
    });
    let pipeline = Pipeline::new(CLIP, SINK);
    check_ten("one pipeline that is stopped and played", || {
        let samples = collect(&pipeline);
        pipeline.0.set_state(gst::State::Ready).unwrap();
        until_unloaded();
        samples
    });
    // A second one keeps the model loaded.
    let other = Pipeline::new("num-frames=2 width=32 height=32", "fakesink");
    other.play();
    other.messages_until_eos();
    let mut kept = Vec::new();
    check_ten("one model", || {
        let samples = collect(&Pipeline::new(CLIP, SINK));
        kept.push(memory::usage(Device::Cpu).current);
        samples
    });
    assert!(kept.iter().all(|bytes| *bytes == kept[0] && *bytes > 0), "{kept:?}");
}
