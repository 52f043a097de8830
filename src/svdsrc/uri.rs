// SPDX-License-Identifier: MPL-2.0
//! `svd://PATH?KEY=VALUE&…`: a picture or a configuration, and properties, as a URI that players take.
//!
//! What stands between `svd://` and `?` is the path, from the working directory if it does not begin with a slash: there
//! is no host. A path that ends in `.yaml` or `.yml`, or that has a `scene` behind it, is a configuration's (`config`), any
//! other a picture's (`location`). Every other key is a property's name, with dashes or underscores. Path and values are
//! percent-encoded.

use std::path::Path;

use gst::prelude::*;
use serde_json::Value as Json;

use crate::config;
use crate::settings::{Layer, from_json};

/// The scheme.
pub const SCHEME: &str = "svd";
/// What may stand in a URI as it is, besides letters, digits and `-._~`.
const PLAIN: &str = "/:,";

/// The properties that a URI sets, in its order. `specs` are all that it may name.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse(uri: &str, specs: &[glib::ParamSpec]) -> Result<Vec<(String, glib::Value)>, String> {
    let wrong = |reason: String| format!("{uri}: {reason}");
    let of_scheme = uri.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
    let Some((_, rest)) = of_scheme else { return Err(wrong(format!("use {SCHEME}://PATH?KEY=VALUE&KEY=VALUE"))) };
    if rest.contains('#') {
        return Err(wrong("# is not possible here: in a name, write %23".into()));
    }
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));

    let mut set: Vec<(String, glib::Value)> = Vec::new();
    let mut add = |key: &str, text: String| {
        let name = if key == "scene" { "scene-id".into() } else { key.replace('_', "-") };
        let Some(spec) = specs.iter().find(|spec| spec.name() == name) else {
            let names = specs.iter().map(|spec| spec.name()).chain(["scene"]);
            let near = config::nearest(&name, names).map(|near| format!("; did you mean {near}?"));
            let others = near.unwrap_or_else(|| ": use scene, or a property of svdsrc".into());
            return Err(wrong(format!("there is no key {key}{others}")));
        };
        if set.iter().any(|(other, _)| *other == name) {
            return Err(wrong(format!("{name} is said twice")));
        }
        let value = from_json(spec, &json(spec, &text));
        let value = value.map_err(|expected| wrong(format!("{key}={text} is not possible: {expected}")))?;
        set.push((name, value));
        Ok(())
    };
    let plain = |text: &str| {
        let plain = glib::Uri::unescape_string(text, None::<&str>).map(String::from);
        let plain = plain.filter(|plain| !plain.contains(char::is_control));
        plain.ok_or_else(|| {
            wrong(format!("{text} is not percent-encoded: write %25 for a % in a name, %20 for a space"))
        })
    };
    let pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    let has_scene = pairs.iter().any(|pair| pair.starts_with("scene"));
    if !path.is_empty() {
        let path = plain(path)?;
        add(if is_config(&path, has_scene) { "config" } else { "location" }, path)?;
    }
    for pair in pairs {
        let Some((key, text)) = pair.split_once('=') else {
            return Err(wrong(format!("{pair} has no value: write {pair}=VALUE")));
        };
        add(&plain(key)?, plain(text)?)?;
    }
    Ok(set)
}

/// The URI that sets these properties. `None` if there are none.
pub fn write(set: &Layer) -> Option<String> {
    if set.is_empty() {
        return None;
    }
    let has_scene = set.contains_key("scene-id");
    let text = |name: &str| set.get(name).and_then(Json::as_str);
    // What the path would be taken for.
    let path = ["config", "location"].into_iter().find_map(|name| {
        let is_right = |path: &&str| is_config(path, has_scene) == (name == "config") && !path.contains("://");
        text(name).filter(is_right).map(|path| (name, path))
    });
    let escaped = |text: &str| glib::Uri::escape_string(text, Some(PLAIN), false);
    let pairs = set.iter().filter(|(name, _)| path.is_none_or(|(as_path, _)| as_path != *name)).map(|(name, value)| {
        let key = if name == "scene-id" { "scene" } else { name };
        format!("{key}={}", escaped(&shown(value)))
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    Some(format!("{SCHEME}://{}{mark}{query}", escaped(path.map_or("", |(_, path)| path))))
}

/// Whether a path is a configuration's.
fn is_config(path: &str, has_scene: bool) -> bool {
    let extension = Path::new(path).extension().unwrap_or_default();
    has_scene || extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
}

/// A text as JSON of the sort that a property has.
fn json(spec: &glib::ParamSpec, text: &str) -> Json {
    match spec.value_type() {
        glib::Type::STRING => text.into(),
        of if of == gst::Array::static_type() => serde_json::from_str(&format!("[{text}]")).unwrap_or(text.into()),
        _ => serde_json::from_str(text).ok().filter(|json: &Json| !json.is_array()).unwrap_or(text.into()),
    }
}

/// The same text of it.
fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::to_json;

    fn specs() -> Vec<glib::ParamSpec> {
        gst::init().unwrap();
        super::super::settings::in_uris()
    }

    fn layer(uri: &str) -> Layer {
        let set = parse(uri, &specs()).unwrap_or_else(|err| panic!("{err}"));
        set.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
    }

    #[test]
    fn a_path_and_properties_are_read() {
        for (uri, wanted) in [
            ("svd:///a/b.jpg", vec![("location", Json::from("/a/b.jpg"))]),
            ("SVD://b.jpg", vec![("location", "b.jpg".into())]),
            ("svd:b.jpg", vec![("location", "b.jpg".into())]),
            ("svd://Up/shot-%2504d%20%C3%A9é+.png", vec![("location", "Up/shot-%04d éé+.png".into())]),
            ("svd://scenes.yaml?scene=001", vec![("config", "scenes.yaml".into()), ("scene-id", "001".into())]),
            ("svd:///x/job?scene-id=7", vec![("config", "/x/job".into()), ("scene-id", "7".into())]),
            ("svd://x.YML?location=c.png", vec![("config", "x.YML".into()), ("location", "c.png".into())]),
            (
                "svd://a.jpg?seed=-7&motion_bucket_id=40&num-clips=2&chain=true&fps=25/2&max-memory=12000000000",
                vec![
                    ("location", "a.jpg".into()),
                    ("seed", (-7).into()),
                    ("motion-bucket-id", 40.0.into()),
                    ("num-clips", 2.into()),
                    ("chain", true.into()),
                    ("fps", "25/2".into()),
                    ("max-memory", 12_000_000_000u64.into()),
                ],
            ),
            (
                "svd://?sigmas=5,1,0.5&keyframe-fit=pad&fps=12",
                vec![("sigmas", vec![5.0, 1.0, 0.5].into()), ("keyframe-fit", "pad".into()), ("fps", "12/1".into())],
            ),
        ] {
            let wanted: Layer = wanted.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(layer(uri), wanted, "{uri}");
            // And back.
            let again = write(&wanted).unwrap();
            assert!(again.is_ascii() && !again.contains(' '), "{again}");
            assert_eq!(layer(&again), wanted, "{again}");
        }
        assert_eq!(write(&layer("svd://a.yaml?scene=1&seed=3")).unwrap(), "svd://a.yaml?scene=1&seed=3");
    }

    #[test]
    fn what_the_path_would_be_taken_for_decides_where_it_stands() {
        for set in [
            vec![("config", "job.txt")],
            vec![("location", "picture.yaml")],
            vec![("location", "file:///a%20b.png")],
            vec![("config", "a.yaml"), ("location", "b.yaml")],
            vec![("location", "a.png"), ("scene-id", "1")],
            vec![("location", "a&b=c?d#e.png"), ("provenance", "{\"a\": [1, 2]}")],
        ] {
            let set: Layer = set.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            let uri = write(&set).unwrap();
            assert_eq!(layer(&uri), set, "{uri}");
        }
        assert_eq!(write(&Layer::new()), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (uri, parts) in [
            ("svd://a.jpg?sed=7", ["there is no key sed", "did you mean seed?"]),
            ("svd://a.jpg?quux=7", ["there is no key quux", "a property of svdsrc"]),
            ("svd://a.jpg?keyframe=7", ["there is no key keyframe", "keyframe-fit?"]),
            ("svd://a.jpg?seed=x", ["seed=x is not possible", "use a whole number"]),
            ("svd://a.jpg?num_clips=[1]", ["num_clips=[1] is not possible", "use a whole number"]),
            ("svd://a.jpg?keyframe-fit=fill", ["keyframe-fit=fill is not possible", "crop, pad, stretch"]),
            ("svd://a.jpg?sigmas=5,x", ["sigmas=5,x is not possible", "use a list of numbers"]),
            ("svd://a.jpg?seed", ["seed has no value", "seed=VALUE"]),
            ("svd://a.jpg?seed=1&seed=2", ["seed is said twice", "svd://a.jpg"]),
            ("svd://a.jpg?location=b.jpg", ["location is said twice", "svd://a.jpg"]),
            ("svd://shot-%04d.png", ["shot-%04d.png is not percent-encoded", "%25"]),
            ("svd://100%.png", ["100%.png is not percent-encoded", "%25"]),
            ("svd://a#1.png", ["# is not possible", "%23"]),
            ("file:///a.png", ["file:///a.png", "use svd://PATH"]),
            ("a.png", ["a.png", "use svd://PATH"]),
        ] {
            let message = parse(uri, &specs()).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{uri}: {message}");
        }
    }
}
