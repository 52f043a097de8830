// SPDX-License-Identifier: MPL-2.0
//! A scene as a pipeline, in the words of `gst-launch-1.0`: what is shown is what is run.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value as Json;

use crate::config::{CONTAINERS, Scene, Section};
use crate::settings::Layer;

/// The container where the file names none.
pub const CONTAINER: &str = "mp4";

/// Encoders of each kind of container, the best first; the first that is installed is taken.
const H264: &[&str] = &[
    "x264enc pass=qual quantizer=18 ! h264parse",
    "nvh264enc ! h264parse",
    "vah264enc ! h264parse",
    "openh264enc bitrate=12000000 ! h264parse",
];
const VP9: &[&str] = &["vp9enc end-usage=cq cq-level=24 deadline=1", "vp8enc end-usage=cq cq-level=10 deadline=1"];
const AAC: &[&str] = &["fdkaacenc", "avenc_aac", "voaacenc", "opusenc"];
const OPUS: &[&str] = &["opusenc", "vorbisenc"];

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its elements, up to the file.
    pub text: String,
    /// The ending of the file's name: "mp4".
    pub container: String,
}

impl Line {
    /// The pipeline of a scene, without the file that it writes.
    ///
    /// # Errors
    /// In words what the scene or the machine lacks.
    pub fn of(scene: &Scene) -> Result<Self, String> {
        let mut text = pictures(scene, scene.layer(Section::Video))?;
        let output = |key| scene.get(Section::Output, key).and_then(Json::as_str);
        let container = output("container").unwrap_or(CONTAINER);
        let is_webm = container == "webm";
        let (videos, audios) = if is_webm { (VP9, OPUS) } else { (H264, if container == "mkv" { OPUS } else { AAC }) };
        let encoder = match output("encoder") {
            Some(line) => line.into(),
            None => installed(videos)?,
        };
        let muxer = CONTAINERS.iter().find(|(name, _)| *name == container).map_or("", |(_, muxer)| muxer);
        let _ = write!(
            text,
            " ! videoconvert name=convert ! video/x-raw,format=I420 ! {encoder} ! queue ! {muxer} name=mux"
        );
        if let Some(audio) = &scene.audio {
            let encoder = installed(audios)?;
            let audio = quoted(&audio.to_string_lossy());
            let _ = write!(
                text,
                " filesrc location={audio} ! decodebin ! audioconvert ! audioresample ! {encoder} ! queue ! mux."
            );
        }
        Ok(Self { text, container: container.into() })
    }

    /// The same with the file that it writes, to be copied into a shell.
    pub fn to(&self, path: &Path) -> String {
        // The file belongs to the muxer, which may not be the last element.
        let file = quoted(&path.to_string_lossy());
        format!("{} mux. ! filesink name=file location={file}", self.text)
    }
}

/// The part of a scene's pipeline that makes pictures, with these properties of `svdsrc`.
///
/// # Errors
/// The scene has no keyframe.
pub fn pictures(scene: &Scene, mut video: Layer) -> Result<String, String> {
    let keyframe = scene.keyframe.as_ref().ok_or("the scene has no keyframe: name a picture")?;
    video.insert("location".into(), keyframe.to_string_lossy().into_owned().into());
    let mut text = element("svdsrc name=source", &video);
    let device = scene.get(Section::Video, "device");
    let of = |section| {
        let mut layer = scene.layer(section);
        // One device for all, unless something else is said.
        if let (false, Some(device)) = (layer.is_empty(), device) {
            layer.entry("device".into()).or_insert_with(|| device.clone());
        }
        layer
    };
    let mut postprocess = of(Section::Postprocess);
    let size = ["target-width", "target-height"].map(|name| postprocess.remove(name));
    // It says of the model what the model says itself.
    postprocess.remove("model-scale");
    let is_sized = size.iter().any(Option::is_some);
    if is_sized {
        // The element makes any size, and can't make two.
        postprocess.remove("outscale");
    }
    if !postprocess.is_empty() || is_sized {
        text += &element(" ! realesrganscale name=upscale", &postprocess);
        let [width, height] = size;
        let sides = [("width", width), ("height", height)];
        let sides: Vec<_> =
            sides.iter().filter_map(|(name, side)| Some(format!(",{name}={}", side.as_ref()?))).collect();
        if !sides.is_empty() {
            let _ = write!(text, " ! video/x-raw{},pixel-aspect-ratio=1/1", sides.concat());
        }
    }
    let framerate = of(Section::Framerate);
    if !framerate.is_empty() {
        text += &element(" ! frameratetune name=tune", &framerate);
    }
    Ok(text)
}

/// The first of these that is installed.
fn installed(lines: &[&str]) -> Result<String, String> {
    let is_there = |line: &&&str| line.split(' ').next().is_some_and(|name| gst::ElementFactory::find(name).is_some());
    let found = lines.iter().find(is_there).map(|line| line.to_string());
    let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    found.ok_or_else(|| {
        format!("none of {} is installed: install one, or name another as output.encoder", names.join(", "))
    })
}

fn element(name: &str, layer: &Layer) -> String {
    let mut text = name.to_string();
    for (name, value) in layer {
        let _ = write!(text, " {name}={}", shown(value));
    }
    text
}

/// A value in a launch line.
fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => {
            let items: Vec<_> =
                items.iter().map(|item| item.as_f64().map_or("0.0".into(), |item| format!("{item:?}"))).collect();
            format!("\"<{}>\"", items.join(","))
        }
        value => value.to_string(),
    }
}

/// A text with quotes where a launch line needs them.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Wanted};

    fn line(text: &str) -> Result<Line, String> {
        gst::init().unwrap();
        let config = Config::parse(Path::new("/job/config.yaml"), text, &Wanted::default()).unwrap();
        Line::of(&config.scenes()[0])
    }

    #[test]
    fn a_scene_becomes_a_line() {
        let plain = line("output: {encoder: jpegenc}\nscenes: [{id: a, keyframe: k.png}]").unwrap();
        assert_eq!(
            plain.to(Path::new("/o/a b.mp4")),
            "svdsrc name=source location=/job/k.png ! videoconvert name=convert ! video/x-raw,format=I420 ! jpegenc ! queue ! \
             mp4mux faststart=true name=mux mux. ! filesink name=file location=\"/o/a b.mp4\""
        );
        let full = line(
            "video: {fps: 12.5, device: cpu, sigmas: [5, 0.5]}\n\
             postprocess: {outscale: 2, model_scale: 4, target_width: 1920, target_height: 1080}\n\
             framerate: {fps: 25}\n\
             output: {container: mkv, encoder: 'x264enc bitrate=9000'}\n\
             scenes: [{id: a, keyframe: 'a \"b\".png', audio: s.wav}]",
        )
        .unwrap();
        for part in [
            "location=\"/job/a \\\"b\\\".png\"",
            "fps=25/2",
            "sigmas=\"<5.0,0.5>\"",
            "realesrganscale name=upscale device=cpu ! video/x-raw,width=1920,height=1080,",
            "frameratetune name=tune device=cpu fps=25",
            "x264enc bitrate=9000 ! queue ! matroskamux name=mux filesrc location=/job/s.wav",
        ] {
            assert!(full.text.contains(part), "{part}\n{}", full.text);
        }
        assert!(!full.text.contains("model-scale"));
        assert!(line("scenes: [{id: a}]").unwrap_err().contains("no keyframe"));
    }
}
