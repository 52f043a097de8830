// SPDX-License-Identifier: MPL-2.0
//! The pictures that clips begin with: files, samples of an application, pictures of a stream, the frame before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use gst_video::VideoFrameRef;
use serde_json::{Value as Json, json};

use crate::engine::image::Frame;
use crate::engine::{Error, Result};
use crate::video;

/// Where the picture of a clip comes from.
#[derive(Debug, Clone)]
pub enum Keyframe {
    /// A file.
    File(Arc<Picture>),
    /// A sample: raw video, or a PNG, JPEG or WebP file's bytes.
    Sample(gst::Sample),
    /// The last frame of the clip before, once that is made.
    Last(Arc<OnceLock<Arc<Frame>>>),
}

/// A file that is read when it is needed; once, if it is kept.
#[derive(Debug)]
pub struct Picture {
    path: PathBuf,
    is_kept: bool,
    frame: OnceLock<Arc<Frame>>,
}

impl Keyframe {
    /// A file. Its picture is kept, if every clip begins with it.
    pub fn file(path: PathBuf, is_kept: bool) -> Self {
        Self::File(Arc::new(Picture { path, is_kept, frame: OnceLock::new() }))
    }

    /// The picture itself. Takes its time, so not for a streaming thread.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Picture`] or [`Error::Param`] if it is no picture; [`Error::Cancelled`] if the clip
    /// before came to nothing.
    pub fn resolve(&self) -> Result<Arc<Frame>> {
        match self {
            Self::File(picture) => {
                if let Some(frame) = picture.frame.get() {
                    return Ok(frame.clone());
                }
                let frame = Arc::new(Frame::open(&picture.path)?);
                Ok(if picture.is_kept { picture.frame.get_or_init(|| frame).clone() } else { frame })
            }
            Self::Sample(sample) => from_sample(sample).map(Arc::new),
            Self::Last(frame) => frame.get().cloned().ok_or(Error::Cancelled),
        }
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => Arc::ptr_eq(a, b),
            (Self::Sample(a), Self::Sample(b)) => a.as_ptr() == b.as_ptr(),
            (Self::Last(a), Self::Last(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What is told of it.
    pub fn describe(&self) -> Json {
        match self {
            Self::File(picture) => json!({ "location": absolute(&picture.path).to_string_lossy() }),
            Self::Sample(sample) => json!({ "caps": sample.caps().map(|caps| caps.to_string()) }),
            Self::Last(_) => json!("the last frame of the clip before"),
        }
    }
}

/// The same path, from the root.
pub fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

/// Reads a sample: an encoded picture as a file would be read, raw video converted by GStreamer's own elements to RGB
/// and square pixels.
fn from_sample(sample: &gst::Sample) -> Result<Frame> {
    let refuse = |reason: String| {
        let caps = sample.caps().map_or_else(|| "no caps".into(), |caps| caps.to_string());
        Error::Param {
            name: "keyframe".into(),
            value: caps,
            expected: format!("use a sample with a picture: {reason}"),
        }
    };
    let Some(buffer) = sample.buffer() else { return Err(refuse("there is no buffer in it".into())) };
    let is_encoded = |caps: &gst::CapsRef| caps.structure(0).is_some_and(|caps| caps.name().starts_with("image/"));
    if sample.caps().is_some_and(is_encoded) {
        let bytes = buffer.map_readable().map_err(|_| refuse("its buffer can't be read".into()))?;
        return Frame::from_bytes(&bytes, "keyframe");
    }
    let rgb = gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::Rgb)
        .pixel_aspect_ratio(gst::Fraction::new(1, 1))
        .build();
    let converted = gst_video::convert_sample(sample, &rgb, Some(gst::ClockTime::from_seconds(30)));
    let converted = converted.map_err(|err| refuse(err.to_string()))?;
    let info = converted.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok());
    let (Some(info), Some(buffer)) = (info, converted.buffer()) else {
        return Err(refuse("its conversion gave none".into()));
    };
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &info);
    frame.map(|frame| video::read(&frame)).map_err(|_| refuse("its conversion can't be read".into()))
}

/// The files that `location` names: a path, a `file://` URI, or either with a number's place like `%04d` in the file's
/// name, for all files that have a number there, in the order of their numbers.
///
/// # Errors
/// [`Error::Param`] if it is another URI or no file has a number there; [`Error::Io`] if a file is not there.
pub fn files(location: &str) -> Result<Vec<PathBuf>> {
    let wrong = |expected: &str| Error::param("location", location, expected);
    let path = match location.split_once("://") {
        Some(("file", _)) => {
            glib::filename_from_uri(location).map_err(|_| wrong("use a path, or a URI like file:///home/me/a.png"))?.0
        }
        Some(_) => {
            return Err(wrong("use a path or a file:// URI; others can be fetched by souphttpsrc ! … ! svdanimate"));
        }
        None => location.into(),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A file of that very name is meant, if there is one.
    if let (Some((before, digits, after)), false) = (placeholder(&name), path.exists()) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let number = |name: &str| {
            let number = name.strip_prefix(before)?.strip_suffix(after)?;
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty();
            let has_width = number.len() == digits || (number.len() > digits && !number.starts_with('0'));
            (is_number && has_width).then(|| number.parse::<u64>().ok()).flatten()
        };
        let entries = folder.read_dir().map_err(|err| Error::io(folder, err))?;
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((number(&entry.file_name().to_string_lossy())?, entry.path())))
            .collect();
        found.sort();
        if found.is_empty() {
            return Err(wrong("no file has a number in that place; with %04d the first is called …0000… or …0001…"));
        }
        return Ok(found.into_iter().map(|(_, path)| path).collect());
    }
    let data = path.metadata().map_err(|err| Error::io(&path, err))?;
    if data.is_dir() {
        return Err(Error::Picture { path, reason: "it is a folder".into() });
    }
    Ok(vec![path])
}

/// "shot-%04d.png": what stands before the number, its least digits, and what stands behind it.
fn placeholder(name: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = name.split_once('%')?;
    let (digits, after) = rest.split_once('d')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((before, digits.parse().unwrap_or(1).max(1), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(location: &str) -> Result<Vec<String>, String> {
        let found = files(location).map_err(|err| err.to_string())?;
        Ok(found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn numbers_are_found_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        for name in
            ["a0002.png", "a0001.png", "a0010.png", "a10000.png", "a3.png", "a0004.jpg", "b0001.png", "a00xx.png"]
        {
            touch(name);
        }
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        assert_eq!(names(&at("a%04d.png")).unwrap(), ["a0001.png", "a0002.png", "a0010.png", "a10000.png"]);
        assert_eq!(names(&at("a%d.png")).unwrap(), ["a3.png", "a10000.png"]);
        assert_eq!(names(&format!("file://{}", at("a%2504d.png"))).unwrap().len(), 4);
        assert!(names(&at("c%04d.png")).unwrap_err().contains("c%04d.png"));
        touch("a%04d.png");
        assert_eq!(names(&at("a%04d.png")).unwrap(), ["a%04d.png"]);
    }

    #[test]
    fn places_are_named_as_paths_or_uris() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.png");
        std::fs::write(&path, "").unwrap();
        assert_eq!(files(path.to_str().unwrap()).unwrap(), std::slice::from_ref(&path));
        let uri = glib::filename_to_uri(&path, None).unwrap();
        assert!(uri.contains("a%20b"));
        assert_eq!(files(&uri).unwrap(), [path]);
        assert!(names("http://x/a.png").unwrap_err().contains("location=http://x/a.png"));
        assert!(names("/nowhere/a.png").unwrap_err().contains("/nowhere/a.png"));
        assert!(names(folder.path().to_str().unwrap()).unwrap_err().contains("folder"));
    }
}
