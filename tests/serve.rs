// SPDX-License-Identifier: MPL-2.0
//! `torchvideo serve`: the program, with real clients, and with such as come, stall, vanish and send garbage.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gst::prelude::*;
use serde_json::{Value as Json, json};

mod common;

use common::register;
use common::svd::{FILES, PATIENCE};

/// How long a socket waits for what should come at once.
const LONG: Duration = Duration::from_secs(60);

const TWO: &str = "scenes:\n- {id: a, keyframe: PICTURE, seed: 7}\n- {id: b, keyframe: PICTURE, seed: 70}\n";

/// The program, which serves a tiny model's clips.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    urls: Vec<String>,
    http: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn new(scenes: &str) -> Self {
        Self::with(scenes, |_, _| {})
    }

    /// With more arguments.
    fn with(scenes: &str, more: impl FnOnce(&mut Command, &Path)) -> Self {
        register();
        let folder = tempfile::tempdir().unwrap();
        let (model, picture) = (FILES.model.display(), FILES.picture.display().to_string());
        let text = format!(
            "video: {{model_path: {model}, num_frames: 4, num_inference_steps: 2, width: 64, height: 48, fps: 25, device: cpu}}\n{}",
            scenes.replace("PICTURE", &picture)
        );
        let config = folder.path().join("config.yaml");
        std::fs::write(&config, text).unwrap();
        // With few open files, as in some shells: it takes what it needs.
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -Sn 64 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_torchvideo")]);
        command.arg("serve").arg(config).args(["--port", "0", "--http", "0"]);
        more(&mut command, folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = BufReader::new(child.stderr.take().unwrap());
        let (mut urls, mut http) = (Vec::new(), None);
        for line in lines {
            match line.strip_prefix("http://") {
                Some(address) => {
                    http = Some(address.trim_end_matches('/').to_string());
                    break;
                }
                None => urls.push(line),
            }
        }
        let mut server = Self { child, folder, urls, http: http.unwrap_or_default(), said };
        assert!(!server.http.is_empty(), "it ended: {}", server.rest());
        server
    }

    /// What it still says.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.said.read_to_string(&mut text).unwrap();
        text
    }

    fn url(&self, path: &str) -> String {
        let root = self.urls[0].strip_suffix("/live").unwrap();
        format!("{root}{path}")
    }

    /// Host and port of RTSP.
    fn address(&self) -> String {
        self.urls[0].split('/').nth(2).unwrap().into()
    }

    /// An HTTP request as it is, and the answer: its code and its body.
    fn request(&self, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let head = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the answer has a head");
        let head = String::from_utf8(answer[..at].to_vec()).unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer[at + 4..].to_vec())
    }

    fn get(&self, path: &str) -> Json {
        let (code, body) = self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.http), &[]);
        assert_eq!(code, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    fn post(&self, path: &str, kind: &str, body: &[u8]) -> (u16, Json) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\n", self.http);
        let (code, body) = self.request(&head, body);
        (code, serde_json::from_slice(&body).unwrap())
    }

    fn set(&self, path: &str, values: Json) -> (u16, Json) {
        self.post(path, "application/json", values.to_string().as_bytes())
    }

    /// Ends it as a terminal or a service manager does.
    fn interrupt(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of GStreamer's.
struct Client {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Client {
    fn new(url: &str, properties: &str) -> Self {
        let line = format!(
            "rtspsrc location={url} latency=0 {properties} ! rtph264depay ! \
             video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=sink sync=false wait-on-eos=false"
        );
        let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, sink }
    }

    fn tcp(url: &str) -> Self {
        Self::new(url, "protocols=tcp")
    }

    /// The next frame, encoded, and whether it is a keyframe.
    fn next(&self) -> (Vec<u8>, bool) {
        let sample = self.sink.try_pull_sample(PATIENCE);
        let sample = sample.unwrap_or_else(|| panic!("a frame comes: {:?}", self.error()));
        let buffer = sample.buffer().unwrap();
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        (buffer.map_readable().unwrap().to_vec(), is_key)
    }

    fn frames(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.next().0).collect()
    }

    /// Lets frames come until something holds. They are the clock of what the server does.
    fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        for _ in 0..2000 {
            if let Some(found) = found() {
                return found;
            }
            self.next();
        }
        panic!("what was awaited did not come");
    }

    /// Why it ended. Waits for that.
    fn error(&self) -> Option<String> {
        let kinds = [gst::MessageType::Error, gst::MessageType::Eos];
        match self.pipeline.bus().unwrap().timed_pop_filtered(PATIENCE, &kinds)?.view() {
            gst::MessageView::Error(error) => Some(format!("{} {:?}", error.error(), error.debug())),
            _ => Some("the end".into()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// A client that speaks by hand.
struct Raw {
    stream: TcpStream,
    url: String,
    session: String,
    number: u32,
}

impl Raw {
    fn new(server: &Server, path: &str) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self { stream, url: server.url(path), session: String::new(), number: 0 }
    }

    fn send(&mut self, method: &str, headers: &str) {
        self.number += 1;
        let control = if method == "SETUP" { "/stream=0" } else { "" };
        let text = format!(
            "{method} {}{control} RTSP/1.0\r\nCSeq: {}\r\n{}{headers}\r\n",
            self.url, self.number, self.session
        );
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The head of the answer; its code is behind the first space.
    fn answer(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            if head.is_empty() && byte == *b"$" {
                // A stream that others watch may begin before the answer.
                self.rest_of_packet();
            } else {
                head.push(byte[0]);
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        let mut body = vec![0; field("Content-Length: ").map_or(0, |length| length.parse().unwrap())];
        self.stream.read_exact(&mut body).unwrap();
        if let Some(session) = field("Session: ") {
            self.session = format!("Session: {}\r\n", session.split(';').next().unwrap());
        }
        head
    }

    fn ask(&mut self, method: &str, headers: &str) -> String {
        self.send(method, headers);
        self.answer()
    }

    /// Asks for what is granted.
    fn demand(&mut self, method: &str, headers: &str) {
        let head = self.ask(method, headers);
        assert!(head.starts_with("RTSP/1.0 200"), "{method}: {head}");
    }

    /// Asks for the stream, on the connection itself.
    fn play(&mut self) {
        self.demand("DESCRIBE", "Accept: application/sdp\r\n");
        self.demand("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n");
        self.demand("PLAY", "");
    }

    /// A packet of the stream.
    fn packet(&mut self) -> Vec<u8> {
        loop {
            let mut first = [0];
            self.stream.read_exact(&mut first).unwrap();
            assert_eq!(first, *b"$");
            let (channel, packet) = self.rest_of_packet();
            if channel == 0 {
                return packet;
            }
        }
    }

    fn rest_of_packet(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 3];
        self.stream.read_exact(&mut head).unwrap();
        let mut packet = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        self.stream.read_exact(&mut packet).unwrap();
        (head[0], packet)
    }
}

/// A picture beside the others.
fn picture(path: &Path, colour: u8) -> PathBuf {
    image::RgbImage::from_pixel(64, 48, image::Rgb([colour, 0, 255 - colour])).save(path).unwrap();
    path.into()
}

#[test]
fn clients_over_tcp_and_udp_see_the_same_clip() {
    // No keyframe comes by itself while the test looks.
    let server = Server::with(&TWO.replace("id: b", "id: b c"), |command, _| {
        let encoder = "x264enc tune=zerolatency threads=1 key-int-max=100000 option-string=scenecut=0";
        command.args(["--keyframe-interval", "3600", "--encoder", encoder]);
    });
    let url = server.url("/scene/a");
    let first = Client::tcp(&url);
    let (_, is_key) = first.next();
    assert!(is_key, "the first frame needs no other");
    first.until(|| server.get("/api/scenes/a")["clip"].as_u64());
    let second = Client::new(&url, "protocols=udp");
    assert!((0..20).any(|_| second.next().1), "a keyframe comes for who has just come");
    let (seen, also): (Vec<_>, Vec<_>) = (0..40).map(|_| (first.next().0, second.next().0)).unzip();
    let seen: HashSet<_> = seen.into_iter().collect();
    let shared = also.iter().filter(|frame| seen.contains(*frame)).count();
    assert!(shared > 10, "{shared} frames of 40 are the same");
    let status = server.get("/api/scenes/a");
    assert_eq!(
        (&status["clips_made"], &status["clip"], &status["watching"]),
        (&json!(1), &json!(0), &json!(2)),
        "{status:#}"
    );
    // Who leaves takes nothing away, and who comes later sees what is there.
    drop((first, second));
    let third = Client::tcp(&url);
    assert!((0..20).any(|_| third.next().1), "a keyframe comes for who has just come");
    third.frames(10);
    let status = server.get("/api/scenes/a");
    assert_eq!((&status["clips_made"], &status["watching"]), (&json!(1), &json!(1)), "{status:#}");
    // Nobody has looked at the other, whose name is no address as it is.
    let status = server.get("/api/scenes/b%20c");
    assert_eq!(status["state"], "waiting");
    let fourth = Client::tcp(status["url"].as_str().unwrap());
    fourth.frames(2);
    assert_eq!(server.get(status["api"].as_str().unwrap())["watching"], 1);
}

#[test]
fn ffmpeg_shows_it() {
    let server = Server::new(TWO);
    for transport in ["tcp", "udp"] {
        let ffmpeg = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "warning", "-rtsp_transport", transport, "-i", &server.url("/scene/b")])
            .args(["-frames:v", "20", "-f", "null", "-"])
            .output()
            .expect("`make setup` installs ffmpeg");
        let log = String::from_utf8_lossy(&ffmpeg.stderr);
        assert!(ffmpeg.status.success() && !log.contains("h264"), "{transport}: {log}");
    }
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-rtsp_transport", "tcp", "-of", "json", "-show_streams", &server.url("/scene/b")])
        .output()
        .unwrap();
    let probed: Json = serde_json::from_slice(&probe.stdout).unwrap();
    let stream = &probed["streams"][0];
    assert_eq!((&stream["codec_name"], &stream["width"], &stream["height"]), (&json!("h264"), &json!(64), &json!(48)));
    assert_eq!(stream["r_frame_rate"], "25/1");
}

#[test]
fn a_director_changes_what_is_shown() {
    let server = Server::new(TWO);
    let api = "/api/scenes/a";
    // Before anybody looks, too.
    let (code, status) = server.set(api, json!({"motion_bucket_id": 30}));
    assert_eq!((code, &status["state"]), (200, &json!("waiting")), "{status:#}");
    let client = Client::tcp(&server.url("/scene/a"));
    let made =
        |clip: u64| client.until(|| Some(server.get(api)).filter(|status| status["clip"] == clip))["made"].clone();
    let first = made(0)["properties"].clone();
    assert_eq!((&first["motion-bucket-id"], &first["seed"]), (&json!(30.0), &json!(7)));
    let (code, _) = server.set(api, json!({"motion_bucket_id": 200, "seed": 9}));
    assert_eq!(code, 200);
    let second = made(1)["properties"].clone();
    assert_eq!((&second["motion-bucket-id"], &second["seed"]), (&json!(200.0), &json!(9)));
    // All or nothing.
    for (values, part) in [
        (json!({"seed": 10, "motion_bucket_id": -1}), "motion_bucket_id=-1 is not possible: use a number from 0"),
        (json!({"seed": 10, "nothing": 1}), "there is no parameter \"nothing\": use "),
        (json!({"seed": 10, "width": 8}), "width can't change while the scene is served"),
        (json!([]), "the body is no JSON object"),
    ] {
        let (code, answer) = server.set(api, values);
        assert!(code == 400 && answer["error"].as_str().unwrap().contains(part), "{answer}");
    }
    assert_eq!(server.get(api)["parameters"]["seed"], 9);
    // Again: with the next seed, or with this one.
    assert_eq!(server.set(&format!("{api}/regenerate"), json!({})).0, 200);
    assert_eq!(made(2)["properties"]["seed"], 10);
    assert_eq!(server.set(&format!("{api}/regenerate"), json!({"seed": 3})).0, 200);
    assert_eq!(made(3)["properties"]["seed"], 3);
    // Another picture, as a file and as it is.
    let other = picture(&server.folder.path().join("other.png"), 200);
    assert_eq!(server.set(&format!("{api}/keyframe"), json!({"path": other})).0, 200);
    let fourth = made(4);
    assert!(fourth["keyframe"]["location"].as_str().is_some_and(|path| path.ends_with("other.png")), "{fourth:#}");
    assert_eq!(fourth["properties"]["seed"], 3, "the rest stays as it was");
    let (code, _) = server.post(&format!("{api}/keyframe"), "image/png", &std::fs::read(other).unwrap());
    assert_eq!(code, 200);
    assert!(made(5)["keyframe"]["location"].is_null());
    for (kind, body, part) in [
        ("image/png", "no picture", "not a picture"),
        ("application/json", r#"{"path": "/nowhere.png"}"#, "/nowhere.png: No such file"),
        ("application/json", "{}", "name the picture as path"),
    ] {
        let (code, answer) = server.post(&format!("{api}/keyframe"), kind, body.as_bytes());
        assert!(code == 400 && answer["error"].as_str().unwrap().contains(part), "{answer}");
    }
    let (code, picture) = server.request(&format!("GET {api}/preview.jpg HTTP/1.1\r\nHost: {}\r\n", server.http), &[]);
    assert!(code == 200 && image::load_from_memory(&picture).unwrap().width() == 64);
    // What can't be made is told, and is not in the making.
    assert_eq!(server.set(api, json!({"max_memory": 1000})).0, 200);
    let told = |status: &Json| status["warning"].is_string() && status["state"] == "showing";
    let status = client.until(|| Some(server.get(api)).filter(told));
    assert_eq!((&status["clip"], &status["seconds_left"]), (&json!(5), &Json::Null), "{status:#}");
}

#[test]
fn only_this_machine_may_direct() {
    let server = Server::new(TWO);
    let host = format!("Host: {}\r\n", server.http);
    let json = "Content-Type: application/json\r\n";
    for (head, wanted, part) in [
        // A name that somebody made point here.
        ("GET /api/scenes HTTP/1.1\r\nHost: example.org\r\n".to_string(), 403, "example.org"),
        // A form or a script of another page.
        (format!("POST /api/scenes/a HTTP/1.1\r\n{host}Content-Type: text/plain\r\n"), 415, "application/json"),
        (format!("POST /api/scenes/a HTTP/1.1\r\n{host}"), 415, "application/json"),
        (format!("POST /api/scenes/a HTTP/1.1\r\n{host}{json}Origin: http://example.org\r\n"), 403, "example.org"),
        (format!("DELETE /api/scenes/a HTTP/1.1\r\n{host}"), 405, "GET"),
        (format!("GET /api/scenes/c HTTP/1.1\r\n{host}"), 404, "/scene/a, /scene/b"),
        (format!("GET /nothing HTTP/1.1\r\n{host}"), 404, "/api/scenes"),
        (
            format!("GET /api/scenes/a/start HTTP/1.1\r\n{host}"),
            404,
            "POST to these, and to regenerate, keyframe and start",
        ),
    ] {
        let (code, body) = server.request(&head, b"{}");
        assert!(code == wanted && String::from_utf8_lossy(&body).contains(part), "{head}: {code}");
    }
    let same = format!("POST /api/scenes/a HTTP/1.1\r\n{host}{json}Origin: http://{}\r\n", server.http);
    assert_eq!(server.request(&same, b"{\"seed\": 2}").0, 200);
    let (code, page) = server.request(&format!("GET / HTTP/1.1\r\n{host}"), &[]);
    assert!(code == 200 && page.starts_with(b"<!doctype html>"));
}

#[test]
fn all_scenes_come_in_turn_and_dropped_pictures_between() {
    let mut watched = PathBuf::new();
    let mut server = Server::with(TWO, |command, folder| {
        watched = folder.join("watched");
        std::fs::create_dir_all(watched.join("b")).unwrap();
        command.arg("--watch").arg(&watched);
    });
    let client = Client::tcp(&server.url("/live"));
    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut look = |wanted: &dyn Fn(&str) -> bool| {
        client.until(|| {
            let status = server.get("/api/live");
            let (clip, scene) = (status["clip"].as_u64()?, status["shown_scene"].as_str()?.to_owned());
            if seen.last().is_none_or(|(last, _)| *last != clip) {
                seen.push((clip, scene.clone()));
            }
            wanted(&scene).then_some(())
        });
        seen.last().unwrap().1.clone()
    };
    let first = look(&|_| true);
    let other = look(&|scene| scene != first);
    look(&|scene| scene == first);
    assert!(["a", "b"].contains(&first.as_str()) && ["a", "b"].contains(&other.as_str()));
    // A second round has other seeds.
    let seed = server.get("/api/live")["parameters"]["seed"].as_i64().unwrap();
    assert!(![7, 70].contains(&seed), "{seed}");
    // Half a picture is none; it counts when it is whole.
    let whole = std::fs::read(picture(&server.folder.path().join("whole.png"), 90)).unwrap();
    let mut file = std::fs::File::create(watched.join("dropped.png")).unwrap();
    file.write_all(&whole[..50]).unwrap();
    std::fs::write(watched.join("notes.txt"), "no picture").unwrap();
    file.write_all(&whole[50..]).unwrap();
    drop(file);
    look(&|scene| scene == "dropped.png");
    // Then the scenes go on.
    look(&|scene| scene == "a" || scene == "b");
    // Moved to a scene's folder, it is the scene's.
    let other = Client::tcp(&server.url("/scene/b"));
    other.until(|| server.get("/api/scenes/b")["clip"].as_u64());
    std::fs::rename(server.folder.path().join("whole.png"), watched.join("b/moved.png")).unwrap();
    let status = other.until(|| Some(server.get("/api/scenes/b")).filter(|status| status["clip"] == 1));
    assert!(status["keyframe"].as_str().unwrap().ends_with("b/moved.png"), "{status:#}");
    // A folder that comes with its picture, as copied or as moved.
    let whole = picture(&server.folder.path().join("more.png"), 120);
    std::fs::create_dir(watched.join("a")).unwrap();
    std::fs::copy(&whole, watched.join("a/copied.png")).unwrap();
    let keyframe = |wanted: &str| {
        other.until(|| {
            let status = server.get("/api/scenes/a");
            status["keyframe"].as_str().filter(|name| name.ends_with(wanted)).map(|_| ())
        });
    };
    keyframe("a/copied.png");
    std::fs::remove_dir_all(watched.join("a")).unwrap();
    let folder = server.folder.path().join("a");
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(whole, folder.join("moved.png")).unwrap();
    std::fs::rename(folder, watched.join("a")).unwrap();
    keyframe("a/moved.png");
    server.interrupt("-TERM");
    let said = server.rest();
    assert!(said.contains("notes.txt: not a picture") && !said.contains("dropped.png: "), "{said}");
}

#[test]
fn the_clip_in_the_making_can_be_watched() {
    let server = Server::new(TWO);
    let preview = Client::tcp(&server.url("/preview/a"));
    assert!(preview.next().1);
    preview.until(|| server.get("/api/scenes/a")["clip"].as_u64());
    let (_, status) = server.set("/api/scenes/a", json!({"num_inference_steps": 5}));
    assert_eq!(status["clip"], 0, "{status:#}");
    preview.until(|| Some(()).filter(|()| server.get("/api/scenes/a")["clip"] == 1));
    preview.frames(3);
}

#[test]
fn clients_that_vanish_stall_or_send_garbage_leave_nothing_behind() {
    let server = Server::with(TWO, |command, _| {
        command.args(["--timeout", "4"]);
    });
    let observer = Client::tcp(&server.url("/scene/a"));
    observer.until(|| server.get("/api/scenes/a")["clip"].as_u64());
    let sizes = |stats: &Json| ["open_files", "threads"].map(|name| stats[name].as_u64().unwrap());
    let idle = |stats: &Json| stats["sessions"] == 1 && stats["clients"] == 1;
    // One round first: threads are made when they are first needed.
    let mut before: Option<[u64; 2]> = None;
    for _ in 0..2 {
        let mut stalled = Raw::new(&server, "/scene/a");
        stalled.play();
        // One that only comes, and one that asks and then has no more to say, are sent away.
        let silent = Raw::new(&server, "/scene/a");
        let mut slow = Raw::new(&server, "/scene/a");
        slow.ask("DESCRIBE", "");
        let mut left = Vec::new();
        for number in 0..50 {
            let mut raw = Raw::new(&server, "/scene/a");
            match number % 10 {
                // Half are gone without a word: in the midst of a request, after one, or while they watch.
                0 => raw.stream.write_all(b"DESCRIBE rtsp://127.0.0.1/scene/a RT").unwrap(),
                1 => raw.send("DESCRIBE", ""),
                2 => drop(raw.ask("DESCRIBE", "")),
                3 | 4 => raw.play(),
                // Some say goodbye.
                5..=7 => {
                    raw.play();
                    raw.packet();
                    raw.send("TEARDOWN", "");
                    left.push(raw);
                }
                8 => {
                    raw.stream.write_all(&[0, 255, b'\n', b'$', 9, 255, 255, 1, b'\r', b'\n', b'\r', b'\n']).unwrap();
                }
                _ => {
                    // A header without an end; the server may close in its midst.
                    let _ = raw.stream.write_all(b"OPTIONS * RTSP/1.0\r\nX: ");
                    let _ = raw.stream.write_all(&vec![b'x'; 1 << 20]);
                }
            }
        }
        // Those who watch do not notice.
        observer.frames(10);
        drop(left);
        assert!(server.get("/api/stats")["sessions"].as_u64() >= Some(2), "the one that stalls is there");
        drop(stalled);
        observer.until(|| Some(()).filter(|()| idle(&server.get("/api/stats"))));
        drop((silent, slow));
        // Threads that have no more to do end after a while.
        let is_as_before = |[files, threads]: [u64; 2]| {
            before
                .is_none_or(|[files_before, threads_before]| files <= files_before + 2 && threads <= threads_before + 2)
        };
        let now = observer.until(|| Some(sizes(&server.get("/api/stats"))).filter(|now| is_as_before(*now)));
        before = Some(now);
    }
    observer.frames(10);
}

#[test]
fn one_who_never_reads_holds_nobody_up() {
    // Frames of some 100 kB: the buffers of a connection are full soon.
    let mut noisy = PathBuf::new();
    let scenes = "scenes:\n- {id: a, keyframe: noise.png, video: {width: 256, height: 256, num_frames: 2, fps: 60}}\n";
    let server = Server::with(scenes, |command, folder| {
        noisy = folder.join("noise.png");
        let noise = common::noise(256, 256, 3);
        image::RgbImage::from_raw(256, 256, noise.into_data()).unwrap().save(&noisy).unwrap();
        command.args([
            "--encoder",
            "x264enc tune=zerolatency threads=1 pass=quant quantizer=1 speed-preset=ultrafast key-int-max=1",
        ]);
    });
    let mut stalled = Raw::new(&server, "/scene/a");
    stalled.play();
    let client = Client::new(&server.url("/scene/a"), "protocols=udp");
    let bytes = |frames: usize| client.frames(frames).iter().map(Vec::len).sum::<usize>();
    let resident = || server.get("/api/stats")["resident_bytes"].as_u64().unwrap();
    let filled = bytes(480);
    assert!(filled > 16 << 20, "{filled} bytes fill a connection's buffers");
    // What makes the clip needs memory too.
    client.until(|| server.get("/api/scenes/a")["clip"].as_u64());
    let before = resident();
    let more = bytes(480);
    let grown = resident().saturating_sub(before);
    assert!(grown < more as u64 / 3, "{grown} bytes more after {more}");
    Client::tcp(&server.url("/scene/a")).frames(120);
    let status = server.get("/api/scenes/a");
    let [missed, frames] = ["missed", "frames"].map(|name| status[name].as_u64().unwrap());
    assert!(missed > 0 && missed < frames, "one misses frames: {status:#}");
    // It may read on, and then sees what is shown then.
    let mut read = 0;
    while read < filled + more {
        read += stalled.packet().len();
    }
    // Gone, it is missed by nobody.
    let mut stalled = Raw::new(&server, "/scene/a");
    stalled.play();
    client.frames(480);
    drop(stalled);
    Client::tcp(&server.url("/scene/a")).frames(10);
    client.frames(10);
}

/// What of the status of a scene counts here: frames, frames that the machine had no time for, those that a client missed.
fn counts(server: &Server, scene: &str) -> [u64; 3] {
    let status = server.get(&format!("/api/scenes/{scene}"));
    ["frames", "skipped", "missed"].map(|name| status[name].as_u64().unwrap())
}

#[test]
fn a_machine_that_does_not_keep_up_leaves_frames_out_and_tells() {
    // It has time for ten frames of 25.
    let mut server = Server::with(TWO, |command, _| {
        command.args(["--encoder", "identity sleep-time=100000 ! x264enc tune=zerolatency threads=1"]);
    });
    let client = Client::tcp(&server.url("/scene/a"));
    let is_told = |status: &Json| status["warning"].as_str().is_some_and(|text| text.contains("does not keep up"));
    client.until(|| Some(()).filter(|()| is_told(&server.get("/api/scenes/a"))));
    client.frames(30);
    assert!(is_told(&server.get("/api/scenes/a")));
    let [_, skipped, missed] = counts(&server, "a");
    assert!(skipped > 0 && missed == 0, "{skipped} were left out, {missed} missed");
    // When nobody looks any more, it has nothing to keep up with.
    drop(client);
    let other = Client::tcp(&server.url("/scene/b"));
    other.until(|| Some(()).filter(|()| server.get("/api/scenes/a")["warning"].is_null()));
    server.interrupt("-TERM");
    let said = server.rest();
    for text in ["/scene/a: the machine does not keep up: ", "/scene/a: the machine keeps up again"] {
        assert_eq!(said.matches(text).count(), 1, "once: {said}");
    }
}

#[test]
fn nobody_misses_anything_after_a_rest() {
    // What makes other rates holds a frame over a gap; the whole rest would come as soon as it is encoded.
    let server = Server::with(&format!("framerate: {{mode: duplicate, fps: 25}}\n{TWO}"), |command, _| {
        command.args(["--encoder", "identity sleep-time=10000 ! x264enc tune=zerolatency threads=1"]);
    });
    let observer = Client::tcp(&server.url("/scene/b"));
    let client = Client::tcp(&server.url("/scene/a"));
    client.until(|| server.get("/api/scenes/a")["clip"].as_u64());
    drop(client);
    // Until the other scene has shown so many more.
    let wait = |frames: u64| {
        let [before, ..] = counts(&server, "b");
        observer.until(|| Some(()).filter(|()| counts(&server, "b")[0] >= before + frames));
    };
    let mut before = 0;
    while counts(&server, "a")[0] != before {
        [before, ..] = counts(&server, "a");
        wait(25);
    }
    wait(200);
    let client = Client::tcp(&server.url("/scene/a"));
    client.frames(120);
    assert_eq!(counts(&server, "a")[2], 0);
}

#[test]
fn newcomers_begin_where_decoders_can() {
    // Where pictures change, x264 makes intra frames that are none to begin with.
    let server = Server::with(TWO, |command, _| {
        let encoder = "x264enc tune=zerolatency threads=1 option-string=min-keyint=50000:keyint=100000:scenecut=100";
        command.args(["--keyframe-interval", "3600", "--encoder", encoder]);
    });
    let kinds = |frame: &[u8]| -> Vec<_> {
        frame.windows(4).filter(|bytes| bytes.starts_with(&[0, 0, 1])).map(|bytes| bytes[3] & 0x1f).collect()
    };
    let observer = Client::tcp(&server.url("/scene/a"));
    let mut intra = 0;
    for clip in 0..3 {
        let colour = [20, 230, 20][clip];
        let path = picture(&server.folder.path().join(format!("{clip}.png")), colour);
        assert_eq!(server.set("/api/scenes/a/keyframe", json!({"path": path})).0, 200);
        observer.until(|| {
            let (frame, _) = observer.next();
            // Its first slice, no IDR picture's, is of the kind that has no others.
            intra += usize::from(frame.windows(5).any(|bytes| matches!(bytes, [0, 0, 1, 0x41 | 0x61, 0x88..=0x8f])));
            Some(()).filter(|()| server.get("/api/scenes/a")["clip"] == clip)
        });
        let (first, _) = Client::tcp(&server.url("/scene/a")).next();
        assert!([5, 7, 8].iter().all(|kind| kinds(&first).contains(kind)), "{clip}: {:?}", kinds(&first));
    }
    assert!(intra > 0, "there are such frames");
}

#[test]
fn one_who_pauses_goes_on_with_what_is_shown_then() {
    let server = Server::new(TWO);
    let observer = Client::tcp(&server.url("/scene/a"));
    observer.frames(3);
    let mut raw = Raw::new(&server, "/scene/a");
    raw.play();
    let time = |raw: &mut Raw| u32::from_be_bytes(raw.packet()[4..8].try_into().unwrap());
    let mut last = time(&mut raw);
    for round in 0..2 {
        raw.demand("PAUSE", "");
        observer.frames(100);
        raw.demand("PLAY", "");
        // Neither what was shown meanwhile, nor a wait as long as that.
        for _ in 0..60 {
            let next = time(&mut raw);
            let ticks = next.wrapping_sub(last);
            assert!(ticks < 2 * 90_000, "{round}: {ticks} ticks");
            last = next;
        }
    }
}

/// What is measured of ten minutes (or `SOAK_SECONDS`) with clients that come and go: `cargo test --release --test serve --
/// --ignored soak --nocapture` prints it.
#[test]
#[ignore = "it takes ten minutes"]
fn soak() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let server = Server::with(TWO, |command, _| {
        command.args(["--timeout", "5"]);
    });
    let observer = Client::tcp(&server.url("/live"));
    let begun = Instant::now();
    let (mut told, mut residents, mut waits) = (Duration::ZERO, Vec::new(), Vec::new());
    for round in 0.. {
        let spent = begun.elapsed();
        if spent >= told {
            let stats = server.get("/api/stats");
            let resident = stats["resident_bytes"].as_f64().unwrap() / 1e6;
            println!(
                "{:4} s: {resident:.1} MB, {} files, {} threads, {} sessions, {} clients before, {} clips of /live",
                spent.as_secs(),
                stats["open_files"],
                stats["threads"],
                stats["sessions"],
                waits.len(),
                server.get("/api/live")["clips_made"]
            );
            residents.push(resident);
            told += Duration::from_secs(seconds).max(Duration::from_secs(20)) / 20;
        }
        if spent > Duration::from_secs(seconds) {
            break;
        }
        let slow = |what: &str, since: Instant| {
            if since.elapsed() > Duration::from_secs(2) {
                println!("{:4} s: {what} took {:.1} s", spent.as_secs(), since.elapsed().as_secs_f64());
            }
        };
        observer.frames(3);
        slow("three frames of /live", begun + spent);
        let path = ["/scene/a", "/scene/b", "/preview/a"][round % 3];
        let came = Instant::now();
        if round % 2 == 0 {
            let client = Client::new(&server.url(path), ["protocols=tcp", "protocols=udp"][round / 2 % 2]);
            while !client.next().1 {}
            waits.push(came.elapsed().as_secs_f64());
            slow(path, came);
            client.frames(5);
        } else {
            // Gone without a word.
            let mut raw = Raw::new(&server, path);
            raw.play();
            raw.packet();
            waits.push(came.elapsed().as_secs_f64());
            slow(path, came);
        }
        if round % 20 == 0 {
            server.set("/api/scenes/a/regenerate", json!({}));
        }
    }
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[(share * (waits.len() - 1) as f64) as usize];
    let most = at(1.0);
    println!("to the first frame: median {:.3} s, 99 of 100 {:.3} s, most {most:.3} s", at(0.5), at(0.99));
    assert!(most < 1.0, "{most} s to a first frame");
    let (half, end) = (residents[residents.len() / 2], residents[residents.len() - 1]);
    assert!(end < half * 1.05, "{half} MB after half of the time, {end} MB in the end");
}

#[test]
fn the_plugin_knows_nothing_of_servers() {
    register();
    let library = Path::new(env!("CARGO_BIN_EXE_torchvideo")).with_file_name("libgsttorchvideo.so");
    let bytes = std::fs::read(library).unwrap();
    let names = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(names(b"libgstvideo-1.0.so") && !names(b"libgstrtspserver"));
}

#[test]
fn a_scene_that_can_t_be_shown_does_not_stop_others() {
    let server = Server::new("scenes:\n- {id: a, keyframe: PICTURE}\n- {id: bad, keyframe: nowhere.png}\n");
    Client::tcp(&server.url("/scene/a")).frames(3);
    let scenes = server.get("/api/scenes");
    assert!(scenes["failed"][0]["error"].as_str().unwrap().contains("nowhere.png"), "{scenes:#}");
    let mut raw = Raw::new(&server, "/scene/bad");
    assert!(raw.ask("DESCRIBE", "").starts_with("RTSP/1.0 404"));
    // One that fails only when it is begun.
    let gone = tempfile::tempdir().unwrap();
    let keyframe = gone.path().join("k.png");
    std::fs::copy(&*FILES.picture, &keyframe).unwrap();
    let mut server = Server::new(&format!("scenes:\n- {{id: a, keyframe: {}}}\n", keyframe.display()));
    drop(gone);
    let mut raw = Raw::new(&server, "/scene/a");
    let head = raw.ask("DESCRIBE", "");
    assert!(head.starts_with("RTSP/1.0 503"), "{head}");
    let status = server.get("/api/scenes/a");
    assert!(status["state"] == "failed" && status["error"].as_str().unwrap().contains("k.png"), "{status:#}");
    // Mended, it is served.
    let (code, status) = server.set("/api/scenes/a/keyframe", json!({"path": FILES.picture}));
    assert_eq!(code, 200, "{status:#}");
    Client::tcp(&server.url("/scene/a")).frames(3);
    server.interrupt("-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(server.rest().contains("k.png"));
}

#[test]
fn a_password_and_a_certificate() {
    let files = tempfile::tempdir().unwrap();
    let [key, certificate, password] = ["key.pem", "cert.pem", "password"].map(|name| files.path().join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{made:?}");
    std::fs::write(&password, "s3cret\n").unwrap();
    let server = Server::with(TWO, |command, _| {
        command.args(["--user", "director", "--password-file"]).arg(&password);
        command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
    });
    let url = server.url("/scene/a");
    assert!(url.starts_with("rtsps://"), "{url}");
    const TLS: &str = "protocols=tcp tls-validation-flags=0";
    let client = Client::new(&url, &format!("{TLS} user-id=director user-pw=s3cret"));
    client.frames(5);
    for login in ["", "user-id=director user-pw=wrong", "user-id=other user-pw=s3cret"] {
        let refused = Client::new(&url, &format!("{TLS} {login}"));
        let error = refused.error().unwrap();
        assert!(error.contains("Unauthorized") || error.contains("401"), "{login}: {error}");
    }
    // No TLS, no answer.
    let mut raw = Raw::new(&server, "/scene/a");
    raw.send("OPTIONS", "");
    assert!(!matches!(raw.stream.read(&mut [0; 16]), Ok(1..)), "plain text is not answered");
    client.frames(5);
    let server = Server::with(TWO, |command, _| {
        command.args(["--user", "director"]).env("TORCHVIDEO_PASSWORD", "s3cret");
    });
    Client::new(&server.url("/live"), "protocols=tcp user-id=director user-pw=s3cret").frames(3);
    assert!(Client::tcp(&server.url("/live")).error().unwrap().contains("Unauthorized"));
}

#[test]
fn it_ends_when_it_is_told_to() {
    for signal in ["-INT", "-TERM"] {
        let mut server = Server::new(TWO);
        let client = Client::tcp(&server.url("/scene/a"));
        client.frames(3);
        server.interrupt(signal);
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{signal}: {}", server.rest());
        assert!(client.error().is_some(), "the client hears of it");
    }
}

#[test]
fn what_can_t_be_served_is_told_at_once() {
    register();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, format!("scenes: [{{id: a, keyframe: {}}}]", FILES.picture.display())).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, part) in [
        (vec!["--http", &port], "can't be listened to"),
        (vec!["--http", "0", "--port", &port], "can't be listened to: Address already in use"),
        (vec!["--http", "0", "--address", "192.0.2.1"], "can't be listened to: Cannot assign requested address"),
        (vec!["--encoder", "nosuchenc"], "torchvideo: --encoder nosuchenc: no element \"nosuchenc\": name elements"),
        (vec!["--encoder", "identity"], "torchvideo: --encoder identity: could not link"),
        (vec!["--user", "x"], "needs a password"),
        (vec!["--watch", "/nowhere"], "/nowhere"),
        (vec!["--scene-id", "b"], "there is no scene \"b\""),
        (vec!["--keyframe-interval", "0"], "0.1 to 3600"),
        (vec!["--http", "0", "--port", "0", "--tls-cert", "/no.pem", "--tls-key", "/no.pem"], "/no.pem"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torchvideo"));
        let ended = command.arg("serve").arg(&config).args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && said.contains(part), "{arguments:?}: {said}");
    }
}
