// SPDX-License-Identifier: MPL-2.0
//! How a clip was made, as JSON: in an element message, in a file's tags, and back in the property `provenance`.
//!
//! An object has `generator`, `model` (`path`, `type`, `weights`: the SHA-256 of each file), `keyframe`, `properties`
//! (all that decide how the clip looks, by name), `clip` (its number, from 0), `seconds`
//! (`encode`, `denoise`, `decode`), `peak_memory` (`device`, `host`, in bytes) and `strategy`.

use serde_json::{Map, Value as Json, json};

use super::settings::{Layer, to_object};
use crate::engine::svd::{Params, Summary};
use crate::engine::{Error, Result};

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

/// The properties that a provenance says.
///
/// # Errors
/// [`Error::Param`] if it is no JSON, or no provenance.
pub fn parse(text: &str) -> Result<Layer> {
    let wrong = |reason: String| {
        let shown: String = text.chars().take(40).collect();
        Error::param("provenance", shown, format!("use the JSON of a clip's message or of a file's comment: {reason}"))
    };
    let json: Json = serde_json::from_str(text).map_err(|err| wrong(err.to_string()))?;
    let properties = json["properties"].as_object();
    let properties = properties.ok_or_else(|| wrong("there are no \"properties\" in it".into()))?;
    let mut layer: Layer = properties.clone().into_iter().collect();
    for (name, value) in [("model-path", &json["model"]["path"]), ("location", &json["keyframe"]["location"])] {
        if value.is_string() {
            layer.entry(name.into()).or_insert_with(|| value.clone());
        }
    }
    Ok(layer)
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
        let layer = parse(&text.to_string()).unwrap();
        let wanted = [("seed", json!(7)), ("model-path", json!("/m")), ("location", json!("/k"))];
        assert_eq!(layer, wanted.map(|(name, value)| (name.to_string(), value)).into());
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "{", "3", "[]", "{\"properties\": 3}"] {
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
