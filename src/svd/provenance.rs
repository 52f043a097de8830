// SPDX-License-Identifier: MPL-2.0
//! How a clip was made, as JSON: in an element message, in a file's tags, and back in the property `provenance`.
//!
//! An object has `generator`, `model` (`path`, `type`, `weights`: the SHA-256 of each file), `keyframe`, `properties`
//! (all that decide how the clip looks, by name), `clip` (its number, from 0), `seconds`
//! (`encode`, `denoise`, `decode`), `peak_memory` (`device`, `host`, in bytes) and `strategy`. It stands for this clip
//! alone, so where only a part of what was made is shown, `frames` says which (`first`, `count`); and for a clip of a
//! chain, `keyframe` is what the chain began with, and `chain` lists the clips before it: how many (`clips`), with which
//! `properties` where they were others, each with the next seed.
//!
//! A file's tag also has `run`, the properties that make the whole run of it.

use std::ops::Range;

use serde_json::{Map, Value as Json, json};

use super::clip::Order;
use super::settings::to_object;
use crate::engine::svd::{Params, Summary};
use crate::engine::{Error, Result};
use crate::settings::Layer;

/// What does not change what a clip looks like.
const INCIDENTAL: [&str; 2] = ["decode_chunk_size", "max_memory"];

/// A clip's parameters by the properties' names. What does not change the clip is left out.
pub fn properties(params: &Params) -> Map<String, Json> {
    let values = to_object(params).into_iter();
    let decides = |name: &str| {
        // There chunks do show.
        !INCIDENTAL.contains(&name)
            || (name == "decode_chunk_size" && params.decode_mode == crate::engine::svd::DecodeMode::Reference)
    };
    values.filter(|(name, _)| decides(name)).map(|(name, value)| (name.replace('_', "-"), value)).collect()
}

/// What is added to a clip's provenance when it is made.
pub fn add_summary(provenance: &mut Json, clip: u64, summary: &Summary) {
    let [encode, denoise, decode] = summary.seconds;
    provenance["clip"] = json!(clip);
    provenance["seconds"] = json!({ "encode": encode, "denoise": denoise, "decode": decode });
    provenance["peak_memory"] = json!({ "device": summary.peak_device, "host": summary.peak_host });
    provenance["strategy"] = json!(summary.strategy.to_string());
}

/// What is added where a clip is a part of something: of a chain, or of what was made.
pub fn add_part(provenance: &mut Json, order: &Order) {
    let frames = &order.frames;
    if *frames != (0..order.params.num_frames as usize) {
        provenance["frames"] = json!({ "first": frames.start, "count": frames.len() });
    }
    if let Some(link) = &order.link {
        let own = properties(&order.params);
        let stretches = link.before.stretches().iter().map(|(params, clips)| {
            let others = properties(params).into_iter().filter(|(name, value)| own.get(name) != Some(value));
            json!({ "clips": clips, "properties": others.collect::<Map<_, _>>() })
        });
        provenance["chain"] = stretches.collect();
    }
}

/// What a provenance says.
#[derive(Debug, PartialEq)]
pub struct Said {
    /// Properties.
    pub properties: Layer,
    /// If it is of one clip that is part of something: of what.
    pub part: Option<Part<Layer>>,
}

/// A clip as a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<T> {
    /// The frames that are shown, if not all are.
    pub frames: Option<Range<u64>>,
    /// In a chain: what sets the clips before it apart, and how many they are.
    pub chain: Option<Vec<(T, u64)>>,
}

impl<T> Part<T> {
    /// The same with something else for what sets clips apart.
    ///
    /// # Errors
    /// The first of `change`.
    pub fn try_map<U>(self, change: impl Fn(T) -> Result<U>) -> Result<Part<U>> {
        let each = |chain: Vec<(T, u64)>| -> Result<_> {
            chain.into_iter().map(|(what, clips)| Ok((change(what)?, clips))).collect()
        };
        Ok(Part { frames: self.frames, chain: self.chain.map(each).transpose()? })
    }
}

/// Reads a provenance.
///
/// # Errors
/// [`Error::Param`] if it is no JSON, or no provenance.
pub fn parse(text: &str) -> Result<Said> {
    let wrong = |reason: String| {
        let shown: String = text.chars().take(40).collect();
        Error::param("provenance", shown, format!("use the JSON of a clip's message or of a file's comment: {reason}"))
    };
    let json: Json = serde_json::from_str(text).map_err(|err| wrong(err.to_string()))?;
    let layer = |json: &Json| -> Result<Layer> {
        let properties = json["properties"].as_object();
        let properties = properties.ok_or_else(|| wrong("there are no \"properties\" in it".into()))?;
        Ok(properties.clone().into_iter().collect())
    };
    let mut properties = layer(&json)?;
    for (name, value) in [("model-path", &json["model"]["path"]), ("location", &json["keyframe"]["location"])] {
        if value.is_string() {
            properties.entry(name.into()).or_insert_with(|| value.clone());
        }
    }
    if let Some(run) = json["run"].as_object() {
        properties.extend(run.clone());
        return Ok(Said { properties, part: None });
    }
    let frames = json["frames"].as_object().map(|frames| {
        let number = |name| frames.get(name).and_then(Json::as_u64).filter(|number| *number < 1 << 32);
        let (first, count) = (number("first"), number("count").filter(|count| *count > 0));
        let frames = first.zip(count).map(|(first, count)| first..first + count);
        frames.ok_or_else(|| wrong("\"frames\" has no \"first\" and \"count\"".into()))
    });
    let chain = json["chain"].as_array().map(|chain| {
        let stretch = |stretch: &Json| -> Result<_> {
            let clips = stretch["clips"].as_u64();
            Ok((layer(stretch)?, clips.ok_or_else(|| wrong("a stretch of its chain has no \"clips\"".into()))?))
        };
        chain.iter().map(stretch).collect::<Result<Vec<_>>>()
    });
    let part = Part { frames: frames.transpose()?, chain: chain.transpose()? };
    let is_part = part.frames.is_some() || part.chain.is_some();
    Ok(Said { properties, part: is_part.then_some(part) })
}

/// The SHA-256 of the weights that a provenance says, by file.
pub fn weights(text: &str) -> Option<Json> {
    let json: Json = serde_json::from_str(text).ok()?;
    Some(json["model"]["weights"].clone()).filter(Json::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::svd::DecodeMode;

    #[test]
    fn properties_model_and_keyframe_are_read() {
        let text = json!({ "model": { "path": "/m" }, "keyframe": { "location": "/k" }, "properties": { "seed": 7 } });
        let layer =
            |values: &[(&str, Json)]| values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        let properties: Layer = layer(&[("seed", json!(7)), ("model-path", json!("/m")), ("location", json!("/k"))]);
        assert_eq!(parse(&text.to_string()).unwrap(), Said { properties: properties.clone(), part: None });

        let mut part = text.clone();
        part["frames"] = json!({ "first": 1, "count": 3 });
        part["chain"] = json!([{ "clips": 2, "properties": { "seed": 5 } }]);
        let chain = Some(vec![(layer(&[("seed", json!(5))]), 2)]);
        let said = Said { properties, part: Some(Part { frames: Some(1..4), chain }) };
        assert_eq!(parse(&part.to_string()).unwrap(), said);

        part["run"] = json!({ "location": "/k%04d", "num-clips": 2 });
        let said = parse(&part.to_string()).unwrap();
        assert_eq!((&said.properties["location"], said.part), (&json!("/k%04d"), None));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "{",
            "3",
            "[]",
            "{\"properties\": 3}",
            "{\"properties\": {}, \"frames\": {}}",
            "{\"properties\": {}, \"frames\": {\"first\": 0, \"count\": 0}}",
            "{\"properties\": {}, \"chain\": [{\"properties\": {}}]}",
            "{\"properties\": {}, \"chain\": [{\"clips\": 1}]}",
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("provenance="), "{message}");
        }
    }

    #[test]
    fn chunks_are_told_where_they_show() {
        let exact = Params { decode_chunk_size: 3, ..Params::default() };
        assert!(!properties(&exact).contains_key("decode-chunk-size"));
        let reference = Params { decode_mode: DecodeMode::Reference, ..exact };
        assert_eq!(properties(&reference)["decode-chunk-size"], 3);
        assert_eq!(properties(&reference)["keyframe-fit"], "crop");
    }
}
