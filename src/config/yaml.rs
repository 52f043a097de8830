// SPDX-License-Identifier: MPL-2.0
//! A YAML file as a tree, and where in the file each part of it stands.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use super::{Error, Result};

/// The largest file, in bytes. A list of ten thousand scenes has less.
const LARGEST: u64 = 4 << 20;

/// A step from a mapping or a list into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To the value of this key.
    Key(String),
    /// To the item of this number, from 0.
    Item(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl From<usize> for Step {
    fn from(item: usize) -> Self {
        Self::Item(item)
    }
}

/// Steps in words: `scenes[2].video.fps`.
pub fn shown(place: &[Step]) -> String {
    let mut text = String::new();
    for step in place {
        match step {
            Step::Key(key) if text.is_empty() => text += key,
            Step::Key(key) => text += &format!(".{key}"),
            Step::Item(item) => text += &format!("[{item}]"),
        }
    }
    text
}

/// A file that was read.
#[derive(Debug)]
pub struct Document {
    path: PathBuf,
    /// What paths in it are relative to.
    folder: PathBuf,
    is_file: bool,
    text: String,
    root: Value,
}

impl Document {
    /// Reads a YAML or JSON file.
    ///
    /// # Errors
    /// [`Error`] if it can't be read, is too large, or is not of that format; aliases that multiply are refused, too.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |message: String| Error { file: path.into(), position: None, place: String::new(), message };
        let unreadable = |err: std::io::Error| wrong(format!("it can't be read: {err}"));
        let file = File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(wrong(format!("it is larger than {} MiB: a configuration is not", LARGEST >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|err| wrong(format!("it is no text: {err}")))?;
        Self::parse(path, text)
    }

    /// Reads the text of a file that stands at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(path: &Path, text: String) -> Result<Self> {
        let wrong = |err: serde_yaml::Error| {
            let position = err.location().map(|location| (location.line(), location.column()));
            // The position is told by `Error`.
            let message = err.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_string();
            Error { file: path.into(), position, place: String::new(), message }
        };
        let mut root: Value = serde_yaml::from_str(&text).map_err(wrong)?;
        root.apply_merge().map_err(wrong)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { path: path.into(), folder, is_file: true, text, root })
    }

    /// The same text as something that is said on a command line: by this name, with paths relative to the current folder,
    /// and without positions.
    pub fn said(self, name: &str) -> Self {
        let folder = std::env::current_dir().unwrap_or_default();
        Self { path: name.into(), folder, is_file: false, ..self }
    }

    /// What paths in it are relative to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All of it.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error at `place`.
    pub fn wrong(&self, place: &[Step], message: impl Into<String>) -> Error {
        let position = self.position(place);
        Error { file: self.path.clone(), position, place: shown(place), message: message.into() }
    }

    /// The line and the column, from 1, of the value at `place`, or of what holds it, if it is not written there.
    pub fn position(&self, place: &[Step]) -> Option<(usize, usize)> {
        if !self.is_file {
            return None;
        }
        (0..=place.len()).rev().find_map(|length| {
            let found = Find(&place[..length]).deserialize(serde_yaml::Deserializer::from_str(&self.text));
            let err = found.err().filter(|err| err.to_string().contains(FOUND))?;
            err.location().map(|location| (location.line(), location.column()))
        })
    }
}

/// What the error says by which the place is found.
const FOUND: &str = "this is the place";

/// Walks to a place, and fails there: the error has the position.
struct Find<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.0.is_empty() { FOUND } else { "something else" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(de::Error::custom(FOUND)) };
        while let Some(key) = map.next_key::<Value>()? {
            if matches!(step, Step::Key(wanted) if key.as_str() == Some(wanted)) {
                map.next_value_seed(Find(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(de::Error::custom(FOUND)) };
        let mut number = 0;
        loop {
            let is_wanted = *step == Step::Item(number);
            let more = if is_wanted {
                seq.next_element_seed(Find(rest))?
            } else {
                seq.next_element::<IgnoredAny>()?.map(drop)
            };
            if more.is_none() {
                return Ok(());
            }
            number += 1;
        }
    }

    fn visit_none<E: de::Error>(self) -> std::result::Result<(), E> {
        self.visit_unit()
    }

    fn visit_unit<E: de::Error>(self) -> std::result::Result<(), E> {
        if self.0.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Result<Document> {
        Document::parse(Path::new("config.yaml"), text.into())
    }

    #[test]
    fn every_part_has_its_position() {
        let text = "video:\n  fps: 12\n  sigmas: [1.0,\n    0.5]\n  nothing:\nscenes:\n  - id: 001\n  - id: b\n    video: {fps: 9}\n";
        let document = document(text).unwrap();
        let at = |place: &[Step]| document.position(place);
        assert_eq!(at(&["video".into(), "fps".into()]), Some((2, 8)));
        assert_eq!(at(&["video".into(), "sigmas".into(), 1.into()]), Some((4, 5)));
        assert_eq!(at(&["video".into(), "nothing".into()]).map(|(line, _)| line), Some(5));
        assert_eq!(at(&["scenes".into(), 1.into(), "video".into(), "fps".into()]), Some((9, 18)));
        // What is not there has the position of what it would be in.
        assert_eq!(at(&["scenes".into(), 0.into(), "seed".into()]), Some((7, 5)));
        assert_eq!(at(&["video".into(), "fps".into(), "x".into()]), Some((2, 8)));
        assert_eq!(shown(&["scenes".into(), 1.into(), "video".into(), "fps".into()]), "scenes[1].video.fps");
        let message = document.wrong(&["video".into(), "fps".into()], "use less").to_string();
        assert_eq!(message, "config.yaml:2:8: video.fps: use less");
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_position() {
        for (text, parts) in [
            ("video:\n  fps: [12\n", "config.yaml:"),
            ("a: 1\na: 2\n", "duplicate"),
            ("a: *none\n", "unknown anchor"),
            ("a: 1\n---\nb: 2\n", "more than one document"),
        ] {
            let message = document(text).unwrap_err().to_string();
            assert!(message.contains(parts), "{text:?}: {message}");
        }
    }

    #[test]
    fn files_that_would_fill_the_memory_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..30 {
            let alias = format!("*a{},", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{alias}]\n");
        }
        let message = document(&bomb).unwrap_err().to_string();
        assert!(message.contains("repetition limit"), "{message}");
        let message = document("a: &a [*a]\n").unwrap_err().to_string();
        assert!(message.contains("limit"), "{message}");
        let deep = "[".repeat(100_000);
        assert!(document(&deep).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.yaml");
        std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
        let message = Document::open(&path).unwrap_err().to_string();
        assert!(message.contains("larger than 4 MiB"), "{message}");
    }
}
