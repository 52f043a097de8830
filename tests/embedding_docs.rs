// SPDX-License-Identifier: MPL-2.0
//! What `docs/embedding.md` promises, held against the elements: properties, messages and their fields, progress, errors.

use std::collections::{BTreeMap, BTreeSet};

use gst::MessageView;
use gst::prelude::*;

mod common;

use common::svd::{FILES, Pipeline, SINK, info, picture, progress};

fn document() -> String {
    std::fs::read_to_string(common::file("docs/embedding.md")).unwrap()
}

/// The rows of a section's tables, in cells.
fn rows(section: &str) -> Vec<Vec<String>> {
    let document = document();
    let section = document.split("\n## ").find(|part| part.starts_with(section)).expect(section);
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What a cell has in backticks.
fn names(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whose a property is, and when it may be set.
fn when(spec: &glib::ParamSpec) -> &'static str {
    let flags = spec.flags();
    let has = |flag: glib::ParamFlags| flags.contains(flag);
    match () {
        () if !has(glib::ParamFlags::WRITABLE) => "only read, at any time",
        () if has(gst::PARAM_FLAG_CONTROLLABLE) => "the same, and by a controller",
        () if has(gst::PARAM_FLAG_MUTABLE_PLAYING) => "at any time, for the next clip",
        () => "in NULL or READY",
    }
}

#[test]
fn properties_may_be_set_when_it_says() {
    common::register();
    let mut said: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut heads: Vec<String> = Vec::new();
    for row in rows("Properties") {
        if row[0] == "When" {
            heads = row;
            continue;
        }
        for (head, cell) in heads.iter().zip(&row).skip(1) {
            for element in names(head) {
                said.entry(element).or_default().extend(names(cell).into_iter().map(|name| (name, row[0].clone())));
            }
        }
    }
    for element in ["svdsrc", "svdanimate", "realesrganscale", "frameratetune"] {
        let object = gst::ElementFactory::make(element).build().unwrap();
        let specs = object.list_properties();
        let own = specs.iter().filter(|spec| spec.owner_type() == object.type_()).map(|spec| {
            let name = spec.name().to_owned();
            (name, when(spec).to_owned())
        });
        assert_eq!(said[element], own.collect(), "{element}");
    }
}

/// The fields of every message, by its name.
fn said_messages() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut said: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    let mut current = Vec::new();
    for row in rows("Messages").into_iter().filter(|row| row.len() == 4 && row[0] != "Message") {
        let messages = names(&row[0]);
        if !messages.is_empty() {
            current = messages;
        }
        for message in &current {
            said.entry(message.clone()).or_default().insert((names(&row[1])[0].clone(), names(&row[2])[0].clone()));
        }
    }
    said
}

/// Adds the fields of element messages to `seen`.
fn see(messages: &[gst::Message], seen: &mut BTreeMap<String, BTreeSet<(String, String)>>) {
    for message in messages {
        let MessageView::Element(element) = message.view() else { continue };
        let Some(told) = element.structure() else { continue };
        let fields = told.iter().map(|(name, value)| (name.to_string(), value.type_().name().to_owned()));
        seen.insert(told.name().to_string(), fields.collect());
    }
}

const SMALL: &str = "num-frames=3 width=32 height=32";

#[test]
fn messages_have_the_fields_that_it_says() {
    let mut seen = BTreeMap::new();
    let clip = Pipeline::new(SMALL, "fakesink");
    clip.play();
    see(&clip.messages_until_eos(), &mut seen);

    let live = Pipeline::new(&format!("{SMALL} is-live=true"), "fakesink");
    live.play();
    let is_shown = |message: &gst::Message| {
        let MessageView::Element(told) = message.view() else { return false };
        told.structure().is_some_and(|told| told.name() == "svdsrc-shown")
    };
    see(&live.messages_until(is_shown), &mut seen);

    let model = FILES.model.display();
    let animate = format!("svdanimate device=cpu model-path=\"{model}\" num-inference-steps=1 {SMALL}");
    let filter = Pipeline::launch(&format!("videotestsrc num-buffers=1 ! {animate} ! fakesink"));
    filter.play();
    see(&filter.messages_until_eos(), &mut seen);

    let upscale = "realesrganscale device=cpu stats-interval=1";
    let caps = "video/x-raw,format=RGB,width=16,height=16";
    let filter = Pipeline::launch(&format!("videotestsrc num-buffers=2 ! {caps} ! {upscale} ! fakesink"));
    filter.play();
    see(&filter.messages_until_eos(), &mut seen);
    assert_eq!(said_messages(), seen);
}

#[test]
fn messages_come_in_the_order_that_it_says() {
    let pipeline = Pipeline::new(SMALL, "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    let order: Vec<_> = messages
        .iter()
        .filter_map(|message| match message.view() {
            MessageView::Progress(progress) => {
                let (kind, code, _) = progress.get();
                (kind != gst::ProgressType::Continue).then(|| format!("{code} {kind:?}"))
            }
            MessageView::Element(element) => Some(element.structure()?.name().to_string()),
            MessageView::Tag(_) => Some("tags".into()),
            _ => None,
        })
        .collect();
    let wanted = [
        "load-model Start",
        "load-model Complete",
        "generate Start",
        "svdsrc-estimate",
        "svdsrc-step",
        "svdsrc-step",
        "generate Complete",
        "svdsrc-clip",
        "tags",
    ];
    assert_eq!(order, wanted);

    // And the texts, whatever their numbers.
    let shape = |text: &str| {
        text.split(|c: char| c.is_ascii_digit() || c == '.').filter(|part| !part.is_empty()).collect::<String>()
    };
    let said = rows("Messages").into_iter().filter(|row| row.len() == 3).collect::<Vec<_>>();
    let codes: Vec<_> = said.iter().filter_map(|row| names(&row[0]).first().cloned()).collect();
    assert_eq!(codes, ["load-model", "generate"]);
    for row in said.iter().filter(|row| !names(&row[0]).is_empty()) {
        let shapes: Vec<_> = names(&row[2]).iter().map(|text| shape(&text.replace("NAME", "model"))).collect();
        for (_, text) in progress(&messages, &names(&row[0])[0]) {
            assert!(shapes.contains(&shape(&text)), "{text}: not among {shapes:?}");
        }
    }
}

/// "GST_LIBRARY_ERROR_SETTINGS".
fn name_of(enumeration: &str, variant: &str) -> String {
    let mut name = format!("GST_{}_ERROR", enumeration.strip_suffix("Error").unwrap().to_uppercase());
    for c in variant.chars() {
        if c.is_uppercase() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
    }
    name
}

#[test]
fn errors_have_the_codes_that_it_says() {
    let said: BTreeSet<_> = rows("Errors").iter().flat_map(|row| names(&row[0])).collect();
    let mut posted = BTreeSet::new();
    let mut folders = vec![common::file("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap_or_default();
            for domain in ["CoreError", "LibraryError", "ResourceError", "StreamError"] {
                for found in text.split(&format!("gst::{domain}::")).skip(1) {
                    posted.insert(name_of(domain, found.split(|c: char| !c.is_alphanumeric()).next().unwrap()));
                }
            }
        }
    }
    assert_eq!(said, posted);

    // Some of them, as an application gets them.
    let folder = FILES.picture.parent().unwrap();
    std::fs::write(folder.join("text.png"), "no picture").unwrap();
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    for (properties, code) in [
        ("width=33", "GST_LIBRARY_ERROR_SETTINGS"),
        ("location=/nowhere/cat.png", "GST_RESOURCE_ERROR_NOT_FOUND"),
        ("device=cuda:4096", "GST_RESOURCE_ERROR_NOT_FOUND"),
        (&format!("location=\"{}/text.png\"", folder.display()), "GST_STREAM_ERROR_DECODE"),
        (&format!("model-path=\"{}/empty\"", folder.display()), "GST_RESOURCE_ERROR_OPEN_READ"),
        ("max-memory=1000", "GST_RESOURCE_ERROR_NO_SPACE_LEFT"),
    ] {
        let pipeline = Pipeline::new(properties, "fakesink");
        let _ = pipeline.0.set_state(gst::State::Playing);
        let messages = pipeline.messages_until(|message| message.type_() == gst::MessageType::Error);
        let MessageView::Error(error) = messages.last().unwrap().view() else { unreachable!() };
        let error = error.error();
        let found = match () {
            () if error.is::<gst::LibraryError>() => {
                ("LibraryError", format!("{:?}", error.kind::<gst::LibraryError>().unwrap()))
            }
            () if error.is::<gst::ResourceError>() => {
                ("ResourceError", format!("{:?}", error.kind::<gst::ResourceError>().unwrap()))
            }
            () => ("StreamError", format!("{:?}", error.kind::<gst::StreamError>().unwrap())),
        };
        assert_eq!(name_of(found.0, &found.1), code, "{properties}: {error}");
        if properties == "width=33" {
            assert!(document().contains(&format!("`{error}`")), "{error}");
        }
    }
}

#[test]
fn what_is_set_too_late_waits_for_the_next_run() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=2 seed=7"), &format!("{SINK} max-buffers=1"));
    pipeline.0.set_state(gst::State::Paused).unwrap();
    pipeline.0.state(common::svd::PATIENCE).0.unwrap();
    let late = [("width", "64"), ("num-frames", "4"), ("num-clips", "1"), ("fps", "3/1")];
    late.iter().for_each(|(name, value)| pipeline.src().set_property_from_str(name, value));
    let first = pipeline.collect();
    assert_eq!((first.len(), info(&first[0]).width()), (6, 32));
    assert!(
        first
            .iter()
            .map(picture)
            .eq(Pipeline::new(&format!("{SMALL} num-clips=2 seed=7"), SINK).collect().iter().map(picture))
    );
    pipeline.0.set_state(gst::State::Null).unwrap();
    pipeline.play();
    pipeline.0.state(common::svd::PATIENCE).0.unwrap();
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    let caps = sink.static_pad("sink").unwrap().current_caps().unwrap();
    let info = gst_video::VideoInfo::from_caps(&caps).unwrap();
    assert_eq!((info.width(), info.fps()), (64, gst::Fraction::new(3, 1)));
    assert_eq!(pipeline.src().query_duration(), Some(gst::format::Default::from_u64(4)));
}
