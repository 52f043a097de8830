// SPDX-License-Identifier: MPL-2.0
//! What is told of a scene before it is made, and numbers in words.

use std::fmt;

use serde::Serialize;
use serde_json::Value as Json;

/// How much a piece of advice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// It will probably not be what was wanted.
    Warning,
    /// The scene can't be made.
    Error,
}

/// A piece of advice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// How much it matters.
    pub level: Level,
    /// The key that it is about: `video.num_inference_steps`.
    pub key: String,
    /// In words.
    pub text: String,
}

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// `video.fps`.
    pub key: String,
    /// As a file has it.
    pub value: Json,
    /// "scene", "file", "preset balanced", "command line", "model" or "default".
    pub from: String,
    /// `config.yaml:12:8`, where it is written.
    pub at: Option<String>,
}

/// What a scene takes, as it is estimated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Frames that are generated.
    pub frames: u64,
    /// Clips that they are generated in.
    pub clips: u64,
    /// Width and height as generated.
    pub size: [i64; 2],
    /// Width and height of the file.
    pub output_size: [i64; 2],
    /// Frames of the file.
    pub output_frames: u64,
    /// Frames per second of the file.
    pub output_fps: f64,
    /// What it is estimated for: "cuda:0", "cpu".
    pub device: String,
    /// Bytes of the device's memory for generating, at most. What upscaling takes fits what is free.
    pub memory: u64,
    /// Seconds for generating, at the speed that was measured just now.
    pub generate_seconds: f64,
    /// Seconds for upscaling, as measured with a small picture.
    pub upscale_seconds: Option<f64>,
    /// Seconds for tuning the frame rate, as measured with a small picture.
    pub tune_seconds: Option<f64>,
    /// Bytes of the file, roughly; for the default encoder only.
    pub disk: Option<u64>,
}

impl Estimate {
    /// Seconds for all, one after the other.
    pub fn seconds(&self) -> f64 {
        self.generate_seconds + self.upscale_seconds.unwrap_or(0.0) + self.tune_seconds.unwrap_or(0.0)
    }
}

/// What is told of a scene.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scene.
    pub id: String,
    /// What holds for it.
    pub values: Vec<Value>,
    /// The pipeline.
    pub pipeline: Option<String>,
    /// What it takes; `None` if that can't be told.
    pub estimate: Option<Estimate>,
    /// What should be known.
    pub advice: Vec<Advice>,
}

impl Report {
    /// Whether the scene can be made.
    pub fn is_possible(&self) -> bool {
        self.advice.iter().all(|advice| advice.level < Level::Error)
    }

    /// Adds a piece of advice.
    pub(super) fn add(&mut self, level: Level, key: &str, text: impl Into<String>) {
        self.advice.push(Advice { level, key: key.into(), text: text.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Scene {}", self.id)?;
        let width = self.values.iter().map(|value| value.key.len()).max().unwrap_or(0);
        for Value { key, value, from, at } in &self.values {
            let at = at.as_ref().map_or_else(|| from.clone(), |at| format!("{from}, {at}"));
            writeln!(f, "  {key:width$}  {value}  ({at})")?;
        }
        if let Some(pipeline) = &self.pipeline {
            writeln!(f, "  Pipeline: {pipeline}")?;
        }
        if let Some(estimate) = &self.estimate {
            let Estimate { frames, clips, size, output_size, output_frames, output_fps, device, .. } = estimate;
            let clips = if *clips == 1 { "one clip".into() } else { format!("{clips} clips") };
            writeln!(
                f,
                "  {} of {}x{} in {clips}; the file: {} of {}x{} at {} a second",
                counted(*frames),
                size[0],
                size[1],
                counted(*output_frames),
                output_size[0],
                output_size[1],
                (output_fps * 1000.0).round() / 1000.0
            )?;
            let of = |what: &str, seconds: Option<f64>| seconds.map(|seconds| format!(", {what} {}", time(seconds)));
            writeln!(
                f,
                "  About {} on {device}, as quick as this machine was just now: generating {}{}{}; {} of memory{}",
                time(estimate.seconds()),
                time(estimate.generate_seconds),
                of("upscaling", estimate.upscale_seconds).unwrap_or_default(),
                of("frames between", estimate.tune_seconds).unwrap_or_default(),
                gigabytes(estimate.memory),
                estimate.disk.map(|disk| format!("; a file of {}", gigabytes(disk))).unwrap_or_default(),
            )?;
        }
        for Advice { level, key, text } in &self.advice {
            let level = format!("{level:?}").to_lowercase();
            writeln!(f, "  {level}: {key}: {text}")?;
        }
        Ok(())
    }
}

/// So many frames in words.
pub(super) fn counted(frames: u64) -> String {
    format!("{frames} frame{}", if frames == 1 { "" } else { "s" })
}

/// A frame rate in words.
pub(super) fn shown(rate: gst::Fraction) -> String {
    if rate.denom() == 1 { rate.numer().to_string() } else { format!("{}/{}", rate.numer(), rate.denom()) }
}

/// Bytes in words.
pub fn gigabytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.0} kB", bytes / 1e3),
    }
}

/// Seconds in words.
pub fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.0} s"),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ => format!("{}:{:02} h", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_words() {
        assert_eq!([counted(0), counted(1), counted(25)], ["0 frames", "1 frame", "25 frames"]);
        assert_eq!([time(0.4), time(61.0), time(3725.0)], ["0 s", "1:01 min", "1:02 h"]);
        assert_eq!([gigabytes(1_500_000_000), gigabytes(2_300_000), gigabytes(900)], ["1.5 GB", "2.3 MB", "1 kB"]);
    }
}
