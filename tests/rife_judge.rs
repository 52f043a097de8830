// SPDX-License-Identifier: MPL-2.0
//! Whether cuts, pans, fades, flashes and repeated frames are told apart, on frames of real clips.

mod common;

use common::{Fixture, recipe};
use gsttorchvideo::engine::rife::{Judgement, Look, Params};
use tch::{Kind, Tensor};

/// A frame, (1, 3, h, w) in [0, 1].
fn frame(fixture: &Fixture, name: &str) -> Tensor {
    fixture.tensor(name).permute([2, 0, 1]).unsqueeze(0).to_kind(Kind::Float) / 255.0
}

fn compare(first: &Tensor, second: &Tensor) -> Judgement {
    Look::new(first).compare(&Look::new(second)).unwrap()
}

fn is_cut(what: &str, first: &Tensor, second: &Tensor) -> bool {
    let seen = compare(first, second);
    println!("{what}: cut {:.3}, difference {:.3}", seen.cut, seen.difference);
    assert!(!Params::default().is_static(&seen));
    Params::default().is_cut(&seen)
}

#[test]
fn cuts_are_found_and_motion_is_none() {
    let fixture = Fixture::open("rife/scenes");
    let frame = |name: &str, number: i64| frame(&fixture, &format!("{name}.{number}"));
    // Those that the clip has, and what is around them.
    for number in [29, 75, 136, 186, 241] {
        assert!(is_cut(&format!("cut {number}"), &frame("bikes", number), &frame("bikes", number + 1)));
    }
    for (name, first, second) in [
        ("bikes", 28, 29),
        ("bikes", 101, 102),
        ("bikes", 102, 103),
        ("bikes", 101, 103),
        ("bigbuckbunny", 41, 42),
        ("bigbuckbunny", 41, 43),
        ("carphone_pristine", 81, 82),
        ("carphone_pristine", 81, 83),
    ] {
        assert!(!is_cut(&format!("{name} {first}"), &frame(name, first), &frame(name, second)));
    }
    // Those between two clips, whose frames are cut to one size.
    let all = [("bikes", 28), ("bikes", 102), ("bigbuckbunny", 42), ("carphone_pristine", 82)];
    for (i, first) in all.iter().enumerate() {
        for second in &all[..i] {
            let [first, second] = [first, second].map(|(name, number)| frame(name, *number).narrow(2, 0, 54));
            assert!(is_cut("two clips", &first, &second));
            assert!(is_cut("two clips", &second, &first));
        }
    }
}

#[test]
fn fades_and_flashes_are_no_cuts() {
    let fixture = Fixture::open("rife/scenes");
    for (name, number) in [("bikes", 102), ("bigbuckbunny", 42), ("carphone_pristine", 82)] {
        let [first, second] = [number, number + 1].map(|number| frame(&fixture, &format!("{name}.{number}")));
        for light in [0.9, 0.6, 0.3, 0.1] {
            let (now, next) = (&first * light, &second * (light - 0.04));
            assert!(!is_cut(&format!("{name}: to black at {light}"), &now, &next));
            assert!(!is_cut(&format!("{name}: from white at {light}"), &(1.0 - &next), &(1.0 - &now)));
        }
        // A lamp, and a photographer's flash: white is cut off.
        assert!(!is_cut(&format!("{name}: lamp"), &first, &(&second * 1.4).clamp(0.0, 1.0)));
        assert!(!is_cut(&format!("{name}: flash"), &first, &(&second * 0.7 + 0.3)));
        assert!(!is_cut(&format!("{name}: after it"), &(&first * 0.7 + 0.3), &second));
    }
    // Plain pictures have their brightness alone.
    let plain = |light: f64| Tensor::full([1, 3, 54, 128], light, (Kind::Float, tch::Device::Cpu));
    assert!(is_cut("black to white", &plain(0.0), &plain(1.0)));
    assert!(!is_cut("a plain fade", &plain(0.5), &plain(0.53)));
    assert!(is_cut("a picture to black", &frame(&fixture, "bikes.102"), &frame(&fixture, "bikes.102").zeros_like()));
}

#[test]
fn repeated_frames_are_the_same_with_noise_and_others_are_not() {
    let fixture = Fixture::open("rife/scenes");
    let is_same = |first: &Tensor, second: &Tensor| {
        let seen = compare(first, second);
        println!("difference {:.4}", seen.difference);
        assert!(!Params::default().is_cut(&seen));
        Params::default().is_static(&seen)
    };
    for name in ["bikes.102", "bigbuckbunny.42", "carphone_pristine.82"] {
        let first = frame(&fixture, name);
        assert!(is_same(&first, &first));
        // Two levels up or down.
        let noise = recipe::sample(name, &first.size()) * (2.0 / 255.0);
        assert!(is_same(&first, &(&first + noise).clamp(0.0, 1.0)));
        // A ball of eight pixels, which moves.
        let with_ball = |column| {
            let picture = first.copy();
            let _ = picture.narrow(2, 20, 8).narrow(3, column, 8).fill_(1.0);
            picture
        };
        assert!(!is_same(&with_ball(16), &with_ball(19)));
    }
    assert!(!is_same(&frame(&fixture, "carphone_pristine.81"), &frame(&fixture, "carphone_pristine.82")));
    // Frames smaller than what is looked at.
    let tiny = recipe::sample("tiny", &[1, 3, 3, 5]).abs();
    assert!(is_same(&tiny, &tiny));
}
