// SPDX-License-Identifier: MPL-2.0
//! What can be asked for and set over HTTP, without HTTP: paths and bodies in, answers out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::mount::{self, Mount};
use super::rtsp::{Server, View};

/// The width of preview pictures, in pixels, at most.
const PREVIEW_WIDTH: i32 = 512;
const PAGE: &str = include_str!("page.html");

/// All that is served.
pub struct Api {
    pub mounts: Vec<Arc<Mount>>,
    /// Scenes that can't be served, and why.
    pub failed: Vec<(String, String)>,
    pub server: Arc<Server>,
    pub encoder: String,
    pub begun: Instant,
}

/// A request.
pub struct Request<'a> {
    pub is_get: bool,
    /// Decoded.
    pub path: &'a str,
    pub kind: &'a str,
    pub body: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub code: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(code: u16, value: &Json) -> Self {
        Self { code, kind: "application/json", body: value.to_string().into_bytes() }
    }

    pub fn error(code: u16, text: impl Into<String>) -> Self {
        Self::json(code, &json!({ "error": text.into() }))
    }
}

impl Api {
    /// Answers a request. May take a while: a picture may be read.
    pub fn answer(&self, request: Request) -> Answer {
        let steps: Vec<_> = request.path.trim_matches('/').split('/').collect();
        let (mount, rest) = match (request.is_get, &steps[..]) {
            (true, [""]) => return Answer { code: 200, kind: "text/html; charset=utf-8", body: PAGE.into() },
            (true, ["api", "scenes"]) => {
                let audience = self.server.audience();
                let scenes = self.mounts.iter().map(|mount| self.status(mount, &audience.watching));
                let failed = self.failed.iter().map(|(id, error)| json!({ "id": id, "error": error }));
                let all = json!({ "scenes": scenes.collect::<Json>(), "failed": failed.collect::<Json>() });
                return Answer::json(200, &all);
            }
            (true, ["api", "stats"]) => return Answer::json(200, &self.stats()),
            (_, ["api", "scenes", id, rest @ ..]) => (mount::find(&self.mounts, Some(id)), rest),
            (_, ["api", "live", rest @ ..]) => (mount::find(&self.mounts, None), rest),
            _ => return nothing(&request),
        };
        let Some(mount) = mount else {
            let ids: Vec<_> = self.mounts.iter().map(|mount| mount.path.as_str()).collect();
            return Answer::error(404, format!("there is no such scene: there are {}", ids.join(", ")));
        };
        let done = match (request.is_get, rest) {
            (true, []) => Ok(()),
            (true, ["preview.jpg"]) => {
                return match mount.generator.picture().map(|picture| jpeg(&picture)) {
                    Some(Ok(body)) => Answer { code: 200, kind: "image/jpeg", body },
                    Some(Err(reason)) => Answer::error(500, reason),
                    None => Answer::error(404, "there is no picture yet: it is begun when somebody looks"),
                };
            }
            (false, []) => values(&request).and_then(|values| mount.set(&values)),
            (false, ["regenerate"]) => {
                values(&request).and_then(|values| match values.keys().find(|key| *key != "seed") {
                    Some(key) => Err(format!("there is no {key:?}: use seed, or nothing")),
                    None => mount.regenerate(values.get("seed")),
                })
            }
            (false, ["keyframe"]) => keyframe(&request).map(|keyframe| mount.take(keyframe)),
            (false, ["start"]) => mount.open(),
            _ => return nothing(&request),
        };
        match done {
            Ok(()) => Answer::json(200, &self.status(mount, &self.server.audience().watching)),
            Err(reason) => Answer::error(400, reason),
        }
    }

    fn status(&self, mount: &Mount, watching: &BTreeMap<String, usize>) -> Json {
        let mut status = mount.status();
        status["url"] = json!(self.server.url(&mount.path));
        status["preview_url"] = json!(self.server.url(&mount.path_of(View::Preview)));
        // As addresses have it, too.
        status["api"] = json!(match mount.path.strip_prefix("/scene/") {
            Some(id) => format!("/api/scenes/{id}"),
            None => "/api/live".into(),
        });
        status["watching"] = json!(watching.get(&mount.path).copied().unwrap_or(0));
        status
    }

    fn stats(&self) -> Json {
        let audience = self.server.audience();
        let count = |folder: &str| std::fs::read_dir(folder).ok().map(Iterator::count);
        json!({
            "uptime": self.begun.elapsed().as_secs_f64(),
            "clients": audience.clients,
            "sessions": audience.sessions,
            "watching": audience.watching,
            "encoder": self.encoder,
            "resident_bytes": resident_bytes(),
            "open_files": count("/proc/self/fd"),
            "threads": count("/proc/self/task"),
        })
    }
}

/// What is answered where there is nothing, or nothing of this kind.
fn nothing(request: &Request) -> Answer {
    let method = if request.is_get { "GET" } else { "POST" };
    let known = "GET /, /api/scenes, /api/stats, and /api/live, /api/scenes/ID and preview.jpg behind these; POST to these, \
                 and to regenerate, keyframe and start behind them";
    Answer::error(404, format!("there is no {method} {}: {known}", request.path))
}

/// Bytes of memory in use; `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// The object in a body; an empty body is an empty one.
fn values(request: &Request) -> Result<BTreeMap<String, Json>, String> {
    if request.kind != "application/json" {
        return Err("send JSON as application/json".into());
    }
    if request.body.is_empty() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_slice(&request.body).map_err(|err| format!("the body is no JSON object: {err}"))
}

/// The picture that a body has or names.
fn keyframe(request: &Request) -> Result<mount::Keyframe, String> {
    if request.kind.starts_with("image/") {
        return mount::sent(request.body.clone());
    }
    match values(request)?.get("path").and_then(Json::as_str) {
        Some(path) => mount::file(path.into()),
        None => Err("name the picture as path, or send its bytes as image/png, image/jpeg or image/webp".into()),
    }
}

/// A picture as a small JPEG file.
fn jpeg(picture: &gst::Sample) -> Result<Vec<u8>, String> {
    let info = picture.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok()).ok_or("it is no picture")?;
    let width = (info.width() as i32).min(PREVIEW_WIDTH);
    let height = (i64::from(info.height()) * i64::from(width) / i64::from(info.width())).max(1) as i32;
    let caps = gst::Caps::builder("image/jpeg").field("width", width).field("height", height).build();
    let made = gst_video::convert_sample(picture, &caps, Some(gst::ClockTime::from_seconds(5)));
    let made = made.map_err(|err| err.to_string())?;
    let map = made.buffer().and_then(|buffer| buffer.map_readable().ok()).ok_or("it has no bytes")?;
    Ok(map.to_vec())
}
