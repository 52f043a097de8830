// SPDX-License-Identifier: MPL-2.0
//! Presets that are saved. In a process of its own, with one test: GLib looks once where a user's files are.

use gst::prelude::*;

mod common;

#[test]
fn a_preset_keeps_what_was_set_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: no other thread is there that could read the environment.
    unsafe { std::env::set_var("XDG_DATA_HOME", folder.path()) };
    common::register();
    for name in ["svdsrc", "svdanimate"] {
        let make = || gst::ElementFactory::make(name).build().unwrap();
        let preset = |element: &gst::Element| element.clone().dynamic_cast::<gst::Preset>().unwrap();
        let element = make();
        assert!(preset(&element).save_preset("nothing").is_err());
        // A default, by hand.
        element.set_property("num-inference-steps", 25);
        element.set_property("guidance-scale", 2.5);
        if name == "svdsrc" {
            element.set_property("location", "a.png");
        }
        preset(&element).save_preset("mine").unwrap();
        let all = preset(&element).property_names();
        assert!(all.iter().any(|known| known == "motion-bucket-id"), "{all:?}");

        let type_name = element.type_().name();
        let file = folder.path().join(format!("gstreamer-1.0/presets/{type_name}.prs"));
        let text = std::fs::read_to_string(file).unwrap();
        let (_, mine) = text.split_once("[mine]").unwrap();
        let kept: Vec<_> = mine.lines().filter(|line| line.contains('=') && !line.starts_with('_')).collect();
        assert_eq!(kept.len(), 2, "{text}");
        assert!(
            kept.contains(&"num-inference-steps=25")
                && kept.iter().any(|line| line.starts_with("max-guidance-scale=2.5"))
        );

        let other = make();
        other.set_property("motion-bucket-id", 90.0);
        preset(&other).load_preset("mine").unwrap();
        assert_eq!(
            (other.property::<i32>("num-inference-steps"), other.property::<f64>("motion-bucket-id")),
            (25, 90.0)
        );
        assert_eq!(other.property::<f64>("max-guidance-scale"), 2.5);
    }
}
