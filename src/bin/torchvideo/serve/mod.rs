// SPDX-License-Identifier: MPL-2.0
//! `torchvideo serve`: scenes as live streams, with a control endpoint.

mod api;
mod feed;
mod generator;
mod http;
mod mount;
mod pace;
mod rtsp;
mod watch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use gsttorchvideo::config::Scene;
use gsttorchvideo::job::{self, Live};

use api::Api;
use generator::Generator;
use mount::Mount;
use rtsp::Server;

/// How often it is looked after who is there.
const TIDY: Duration = Duration::from_secs(1);
/// Where a password is looked for.
const PASSWORD: &str = "TORCHVIDEO_PASSWORD";

/// How it is served.
#[derive(Args)]
pub struct Serve {
    /// The address to listen to
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,
    /// The RTSP port; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 8554)]
    port: u16,
    /// The port of the status page and of the control endpoint, of this machine only; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 8555)]
    http: u16,
    /// Serve neither status page nor control endpoint
    #[arg(long)]
    no_http: bool,
    /// Elements that make H.264 of raw video, as gst-launch-1.0 has them; else the first of nvh264enc, vah264enc, x264enc
    /// and openh264enc that works
    #[arg(long, value_name = "ELEMENTS")]
    encoder: Option<String>,
    /// Seconds between keyframes at most; whoever comes gets one at once
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    keyframe_interval: f64,
    /// A folder: a picture that is put there becomes the next clip of /live, one in its folder ID that of scene ID
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// The user that may look. The password is in the file --password-file, or in the environment as TORCHVIDEO_PASSWORD
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A file with the password in its first line
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A certificate, as PEM: serve rtsps
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Seconds without a sign of life after which a client is taken to be gone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    timeout: u16,
    /// Sessions at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_clients: u32,
}

/// Lets the program open as many files as it may, where a shell's limit is lower: a client over UDP takes 16.
fn allow_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls look at the structure only while they run.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds)).ok_or_else(|| "use 0.1 to 3600".into())
}

impl Serve {
    /// User and password.
    fn login(&self) -> Result<Option<(String, String)>, String> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match &self.password_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|err| format!("--password-file {}: {err}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None => std::env::var(PASSWORD).unwrap_or_default(),
        };
        if password.is_empty() {
            return Err(format!("--user {user} needs a password: use --password-file, or set {PASSWORD}"));
        }
        Ok(Some((user.clone(), password)))
    }

    fn options(&self) -> Result<rtsp::Options, String> {
        Ok(rtsp::Options {
            address: self.address.to_string(),
            port: self.port,
            login: self.login()?,
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
            timeout: Duration::from_secs(self.timeout.into()),
            max_clients: self.max_clients,
        })
    }

    /// Serves until it is interrupted.
    ///
    /// # Errors
    /// In words why it can't be served.
    pub fn run(&self, scenes: &[&Scene]) -> Result<ExitCode, String> {
        let options = self.options()?;
        allow_files();
        let encoder = match &self.encoder {
            Some(encoder) => generator::check_encoder(encoder).map(|()| encoder.clone())?,
            None => job::h264_encoder()?.to_string(),
        };
        let interval = gst::ClockTime::from_seconds_f64(self.keyframe_interval);
        let (mut mounts, mut failed, mut lives) = (Vec::new(), Vec::new(), Vec::new());
        for scene in scenes {
            let named =
                if scene.id == "live" { Err("its name is that of all scenes: use another".into()) } else { Ok(()) };
            let made = named.and_then(|()| Live::of(scene)).and_then(|live| {
                let generator = Generator::new(live.line(), live.preview_size(), &encoder, interval)?;
                let keyframe = scene.keyframe.clone().unwrap_or_default();
                let one = (scene.id.clone(), keyframe, live);
                Ok((one.clone(), Mount::new(&scene.id, vec![one], false, generator)))
            });
            match made {
                Ok((live, mount)) => {
                    mounts.push(mount);
                    lives.push(live);
                }
                Err(reason) => {
                    eprintln!("{}: can't be served: {reason}", scene.id);
                    failed.push((scene.id.clone(), reason));
                }
            }
        }
        let Some((_, _, first)) = lives.first() else { return Err("no scene can be served".into()) };
        let generator = Generator::new(first.line(), first.preview_size(), &encoder, interval)?;
        mounts.insert(0, Mount::new("live", lives, true, generator));

        let main = glib::MainLoop::new(None, false);
        let ending = main.clone();
        ctrlc::set_handler(move || ending.quit()).map_err(|err| err.to_string())?;
        let listener = if self.no_http { None } else { Some(http::bind(self.http)?) };
        let server = Server::start(&options, &mounts)?;
        let watcher = self.watch.as_deref().map(|folder: &Path| watch::watch(folder, mounts.clone())).transpose()?;
        if !self.address.is_loopback() && options.login.is_none() {
            eprintln!("warning: everybody who reaches {} may look: --user asks for a password", self.address);
        }
        for mount in &mounts {
            println!("{}", server.url(&mount.path));
        }
        if let Some(listener) = listener {
            let address = listener.local_addr().map_err(|err| err.to_string())?;
            println!("http://{address}/");
            let (mounts, server) = (mounts.clone(), server.clone());
            http::start(listener, Arc::new(Api { mounts, failed, server, encoder, begun: Instant::now() }))?;
        }
        let tidied = server.clone();
        let tidying = glib::timeout_add(TIDY, move || {
            tidied.tidy();
            glib::ControlFlow::Continue
        });
        main.run();
        tidying.remove();
        drop(watcher);
        server.end();
        mounts.iter().for_each(|mount| mount.generator.end());
        Ok(ExitCode::SUCCESS)
    }
}
