// SPDX-License-Identifier: MPL-2.0
//! How what stands in a file, in a scene of it, in a plan or on a command line becomes settings, one over the other.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use super::schema::{Key, Section};
use super::yaml::{Document, Step, shown};
use super::{Error, Origin, Preset, Result, Setting, Settings, Wanted};

/// Sections that stand somewhere in a file.
pub(super) struct Layers<'a> {
    /// What they stand in.
    pub document: &'a Arc<Document>,
    /// Where they stand.
    pub map: &'a Mapping,
    /// The steps to it.
    pub place: Vec<Step>,
    /// What is said of where their values come from.
    pub origin: Origin,
}

impl Layers<'_> {
    /// Adds what the sections say.
    pub fn add(&self, settings: &mut Settings) -> Result<()> {
        for section in Section::ALL {
            let mut place = self.place.clone();
            let mut map = self.map;
            let mut is_there = true;
            for step in section.steps() {
                let Step::Key(key) = &step else { continue };
                if !place.is_empty() && place.last() == Some(&"image".into()) {
                    known(self.document, map, &place, &["instantid"])?;
                }
                place.push(step.clone());
                match map.get(key.as_str()) {
                    None | Some(Value::Null) => is_there = false,
                    Some(value) => map = mapping(self.document, value, &place)?,
                }
                if !is_there {
                    break;
                }
            }
            if !is_there {
                continue;
            }
            let keys = section.keys();
            let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
            known(self.document, map, &place, &names)?;
            if section == Section::Video {
                let at = |key: &str| [place.clone(), vec![key.into()]].concat();
                let value = |key| map.get(key);
                let max = "max_guidance_scale";
                self.once((value("guidance_scale"), at("guidance_scale")), (value(max), at(max)))?;
            }
            for (key, value) in map {
                let Some(name) = key.as_str() else { continue };
                let place = [place.clone(), vec![name.into()]].concat();
                self.add_value(settings, section, keys, name, value, place)?;
            }
        }
        Ok(())
    }

    /// Checks that one of two keys that say the same says nothing.
    pub fn once(&self, one: (Option<&Value>, Vec<Step>), other: (Option<&Value>, Vec<Step>)) -> Result<()> {
        let is_said = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
        if !(is_said(one.0) && is_said(other.0)) {
            return Ok(());
        }
        let position = self.document.position(&other.1);
        let position = position.map(|(line, column)| format!(" in line {line}, column {column},")).unwrap_or_default();
        let message = format!("{}{position} says the same: keep one of the two", shown(&other.1));
        Err(self.document.wrong(&one.1, message))
    }

    /// Adds the value of a key.
    pub fn add_value(
        &self,
        settings: &mut Settings,
        section: Section,
        keys: &[Key],
        name: &str,
        value: &Value,
        place: Vec<Step>,
    ) -> Result<()> {
        // A key without a value says nothing.
        let Some(key) = keys.iter().find(|key| key.name == name && !value.is_null()) else { return Ok(()) };
        let wrong = |message: String| self.document.wrong(&place, message);
        let json = json(value).ok_or_else(|| wrong("use a plain value".into()))?;
        let read = key.read(&json, self.document.folder());
        let value = read.map_err(|right| wrong(format!("{json} is not possible: {right}")))?;
        // Two names of one setting.
        let name = if name == "guidance_scale" && section == Section::Video { "max_guidance_scale" } else { name };
        let setting = Setting { value, origin: self.origin, document: self.document.clone(), place };
        settings.insert((section, name.into()), setting);
        Ok(())
    }

    /// The recommended plan that is named, if one is.
    pub fn preset(&self) -> Result<Option<Preset>> {
        let Some(value) = self.map.get("preset") else { return Ok(None) };
        let place = [self.place.clone(), vec!["preset".into()]].concat();
        let preset = value.as_str().and_then(Preset::named).ok_or_else(|| {
            let message = format!("use {}", Preset::ALL.map(Preset::name).join(", "));
            self.document.wrong(&place, message)
        });
        preset.map(Some)
    }
}

/// The settings that are asked for from outside.
pub(super) fn outside(wanted: &Wanted) -> Result<Settings> {
    let mut settings = wanted.preset.unwrap_or_default().settings()?;
    for (path, value) in &wanted.values {
        let mut sections = Section::ALL
            .into_iter()
            .filter_map(|section| Some((section, path.strip_prefix(&section.name())?.strip_prefix('.')?)));
        let source = PathBuf::from(format!("--set {path}={value}"));
        let wrong = |message: &str| Error {
            file: source.clone(),
            position: None,
            place: String::new(),
            message: message.into(),
        };
        let (_, key) = sections.next().ok_or_else(|| {
            let near = meant(path).map(|near| format!("; did you mean {near}?"));
            let usage = "name a section and a key: video.num_inference_steps, postprocess.outscale, framerate.fps, …";
            wrong(&format!("{usage}{}", near.unwrap_or_default()))
        })?;
        let mut tree = serde_yaml::from_str::<Value>(value).map_err(|err| wrong(&err.to_string()))?;
        let steps = path.strip_suffix(key).unwrap_or(path).split('.').filter(|step| !step.is_empty());
        for step in steps.chain([key]).collect::<Vec<_>>().into_iter().rev() {
            tree = Value::Mapping(Mapping::from_iter([(step.into(), tree)]));
        }
        let text = serde_yaml::to_string(&tree).map_err(|err| wrong(&err.to_string()))?;
        let document = Arc::new(Document::parse(&source, text)?.said(&source.to_string_lossy()));
        let map = mapping(&document, document.root(), &[])?;
        Layers { document: &document, map, place: vec![], origin: Origin::Outside }.add(&mut settings)?;
    }
    Ok(settings)
}

/// The section and key that were probably meant by a path of which no section is known: `vido.fps`, `fps`.
fn meant(path: &str) -> Option<String> {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let names = Section::ALL.map(Section::name);
    let near = nearest(section, names.iter().map(String::as_str)).map(str::to_owned);
    let with_key = || Section::ALL.into_iter().find(|section| section.keys().iter().any(|of| of.name == key));
    let section = near.or_else(|| with_key().map(Section::name))?;
    Some(format!("{section}.{key}"))
}

/// A value's keys and values.
pub(super) fn mapping<'a>(document: &Document, value: &'a Value, place: &[Step]) -> Result<&'a Mapping> {
    value.as_mapping().ok_or_else(|| document.wrong(place, "use keys and values"))
}

/// Checks that a mapping has no other keys.
pub(super) fn known(document: &Document, map: &Mapping, place: &[Step], keys: &[&str]) -> Result<()> {
    for key in map.keys() {
        let Some(name) = key.as_str() else {
            return Err(document.wrong(place, format!("a key must be a text: {key:?}")));
        };
        if !keys.contains(&name) {
            let near = nearest(name, keys.iter().copied()).map(|near| format!("; did you mean {near}?"));
            let message = near.unwrap_or_else(|| format!("; there are {}", keys.join(", ")));
            let place = [place.to_vec(), vec![name.into()]].concat();
            return Err(document.wrong(&place, format!("there is no such key{message}")));
        }
    }
    Ok(())
}

/// The name that was probably meant; `None` if others are as near.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other| (strsim::normalized_damerau_levenshtein(name, other) * 1e6) as u64;
    let mut likely: Vec<_> =
        names.map(|other| (likeness(other), other)).filter(|(alike, _)| *alike >= 600_000).collect();
    likely.sort_by_key(|(alike, _)| std::cmp::Reverse(*alike));
    match likely[..] {
        [(first, near), (second, other), ..] if first == second && near != other => None,
        [(_, near), ..] => Some(near),
        [] => None,
    }
}

/// The same as JSON; `None` for tags and keys that are no texts.
fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::String(value) => value.clone().into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            // JSON has no such numbers as .nan.
            (.., Some(value)) => {
                serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number)
            }
            _ => return None,
        },
        Value::Sequence(items) => items.iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        Value::Mapping(_) | Value::Tagged(_) => return None,
    })
}
