// SPDX-License-Identifier: MPL-2.0
//! The RTSP server: a path for each mount. Each client has a media of its own, which only hands on what the mount's
//! generator has made for all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use glib::subclass::prelude::*;
use gst_rtsp::{RTSPAuthMethod, RTSPLowerTrans};
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::subclass::prelude::*;
use gst_rtsp_server::{
    RTSP_PERM_MEDIA_FACTORY_ACCESS, RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, RTSP_TOKEN_MEDIA_FACTORY_ROLE, RTSPAuth,
    RTSPClient, RTSPFilterResult, RTSPMedia, RTSPMediaFactory, RTSPMountPoints, RTSPServer, RTSPSession,
    RTSPSessionPool, RTSPThreadPool, RTSPToken,
};

use super::generator::{Generator, Output};
use super::mount::Mount;

/// Threads that clients share. One that waits for a scene to begin holds up those of its thread alone.
const THREADS: i32 = 8;
/// The most connections that have not been accepted yet, and bytes of a request's body.
const BACKLOG: i32 = 64;
const BODY: u32 = 64 * 1024;
/// Who may look.
const ROLE: &str = "viewer";

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    pub address: String,
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long a session lives without a sign of life.
    pub timeout: Duration,
    pub max_clients: u32,
}

/// What a mount's path gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum View {
    Clip,
    Preview,
}

/// Connections, and when they have come.
type Clients = Arc<Mutex<Vec<(glib::WeakRef<RTSPClient>, Instant)>>>;

/// A server that runs.
pub struct Server {
    server: RTSPServer,
    sessions: RTSPSessionPool,
    clients: Clients,
    source: Mutex<Option<glib::SourceId>>,
    timeout: Duration,
    scheme: &'static str,
}

/// Who looks.
#[derive(Debug, Default, Clone)]
pub struct Audience {
    pub clients: usize,
    pub sessions: usize,
    /// Sessions by path.
    pub watching: BTreeMap<String, usize>,
}

impl Server {
    /// Begins to listen; the default main context must run.
    ///
    /// # Errors
    /// In words what is not possible.
    pub fn start(options: &Options, mounts: &[Arc<Mount>]) -> Result<Arc<Self>, String> {
        let server = RTSPServer::new();
        server.set_address(&options.address);
        server.set_service(&options.port.to_string());
        server.set_backlog(BACKLOG);
        server.set_content_length_limit(BODY);
        let threads = RTSPThreadPool::new();
        threads.set_max_threads(THREADS);
        server.set_thread_pool(Some(&threads));
        let sessions = RTSPSessionPool::new();
        sessions.set_max_sessions(options.max_clients);
        server.set_session_pool(Some(&sessions));
        let paths = RTSPMountPoints::new();
        let mut views = Vec::new();
        for mount in mounts {
            for view in [View::Clip, View::Preview] {
                let path = mount.path_of(view);
                paths.add_factory(&path, Factory::new(mount, view, options));
                views.push((path, view, mount.clone()));
            }
        }
        server.set_mount_points(Some(&paths));
        if let Some(auth) = auth(options)? {
            server.set_auth(Some(&auth));
        }

        let clients = Clients::default();
        let (all, pool, timeout) = (clients.clone(), sessions.clone(), options.timeout);
        // Those who look, and some who are about to.
        let most = options.max_clients as usize * 2;
        server.connect_client_connected(move |_, client| {
            let is_full = {
                let mut clients = all.lock().unwrap();
                clients.retain(|(client, _)| client.upgrade().is_some());
                clients.push((client.downgrade(), Instant::now()));
                clients.len() > most
            };
            if is_full {
                client.close();
                return;
            }
            let its: Arc<Mutex<Vec<glib::WeakRef<RTSPSession>>>> = Arc::default();
            let known = its.clone();
            client.connect_new_session(move |_, session| {
                session.set_timeout(timeout.as_secs() as u32);
                known.lock().unwrap().push(session.downgrade());
            });
            let views = views.clone();
            client.connect_play_request(move |_, context| {
                let uri = context.uri().map(|uri| uri.request_uri());
                // The control path of a stream may be behind it.
                let found = uri.and_then(|uri| views.iter().find(|(path, ..)| is_below(&uri, path)));
                if let Some((_, view, mount)) = found {
                    output(&mount.generator, *view).ask_for_key();
                }
            });
            // A session that nobody is connected to has no use here, though RTSP knows such.
            let pool = pool.clone();
            client.connect_closed(move |_| {
                let its = std::mem::take(&mut *its.lock().unwrap());
                for session in its.iter().filter_map(glib::WeakRef::upgrade) {
                    let _ = pool.remove(&session);
                }
            });
        });
        let source = server.attach(None).map_err(|_| {
            let Options { address, port, .. } = options;
            // It does not say why; whoever tries again hears it.
            let reason = std::net::TcpListener::bind((address.as_str(), *port)).err();
            let reason = reason.map_or("try again".into(), |err| err.to_string());
            format!("--port {port}: {address}:{port} can't be listened to: {reason}")
        })?;
        let scheme = if options.tls.is_some() { "rtsps" } else { "rtsp" };
        let source = Mutex::new(Some(source));
        Ok(Arc::new(Self { server, sessions, clients, source, timeout, scheme }))
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        let address = self.server.address().map(String::from).unwrap_or_default();
        // Wherever it is asked from, here it is at home.
        let host = match address.as_str() {
            "0.0.0.0" | "::" => glib::host_name().to_string(),
            address if address.contains(':') => format!("[{address}]"),
            address => address.into(),
        };
        format!("{}://{host}:{}{path}", self.scheme, self.server.bound_port())
    }

    /// Looks after who is there: to be called now and then. Ends sessions without a sign of life, and connections without
    /// a session.
    pub fn tidy(&self) {
        self.sessions.cleanup();
        let idle: Vec<_> = {
            let mut clients = self.clients.lock().unwrap();
            clients.retain(|(client, _)| client.upgrade().is_some());
            let is_old = |came: &Instant| came.elapsed() > self.timeout;
            clients.iter().filter(|(_, came)| is_old(came)).filter_map(|(client, _)| client.upgrade()).collect()
        };
        for client in idle {
            if client.session_filter(None).is_empty() {
                client.close();
            }
        }
    }

    /// Who is there.
    pub fn audience(&self) -> Audience {
        let mut audience = Audience { clients: self.server.client_filter(None).len(), ..Audience::default() };
        for session in self.sessions.filter(None) {
            audience.sessions += 1;
            for media in session.filter(None) {
                let media = media.media();
                if let Some(path) = media.and_then(|media| media.element().name().strip_prefix("at:").map(String::from))
                {
                    *audience.watching.entry(path).or_default() += 1;
                }
            }
        }
        audience
    }

    /// Sends everybody away, and listens no more.
    pub fn end(&self) {
        if let Some(source) = self.source.lock().unwrap().take() {
            source.remove();
        }
        self.server.client_filter(Some(&mut |_, client: &RTSPClient| {
            client.close();
            RTSPFilterResult::Remove
        }));
        for session in self.sessions.filter(None) {
            let _ = self.sessions.remove(&session);
        }
    }
}

/// Whether an address is that of a path, or of a stream of it.
fn is_below(uri: &str, path: &str) -> bool {
    let Some((_, rest)) = uri.split_once("://") else { return false };
    let rest = rest.find('/').map_or("", |at| &rest[at..]);
    rest.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

/// Who may look, and by which certificate; `None` where everybody may, without one.
fn auth(options: &Options) -> Result<Option<RTSPAuth>, String> {
    if options.login.is_none() && options.tls.is_none() {
        return Ok(None);
    }
    let auth = RTSPAuth::new();
    let token = RTSPToken::builder().field(RTSP_TOKEN_MEDIA_FACTORY_ROLE.as_str(), ROLE).build();
    match &options.login {
        Some((user, password)) => {
            auth.set_supported_methods(RTSPAuthMethod::Digest);
            auth.set_realm(Some("torchvideo"));
            auth.add_digest(user, password, &token);
        }
        None => auth.set_default_token(Some(&mut token.clone())),
    }
    if let Some((certificate, key)) = &options.tls {
        let tls = gio::TlsCertificate::from_files(certificate, key)
            .map_err(|err| format!("{} with {}: {err}", certificate.display(), key.display()))?;
        auth.set_tls_certificate(Some(&tls));
    }
    Ok(Some(auth))
}

glib::wrapper! {
    /// Makes the media of one path.
    pub struct Factory(ObjectSubclass<imp::Factory>) @extends RTSPMediaFactory;
}

impl Factory {
    fn new(mount: &Arc<Mount>, view: View, options: &Options) -> Self {
        let factory: Self = glib::Object::new();
        let _ = factory.imp().of.set((mount.clone(), view));
        // Not shared: clients of one media hold each other up (ARCHITECTURE.md, "A frame's way to who watches").
        // Over UDP, packets would not be encrypted.
        let udp = if options.tls.is_none() { RTSPLowerTrans::UDP } else { RTSPLowerTrans::empty() };
        factory.set_protocols(RTSPLowerTrans::TCP | udp);
        if options.login.is_some() {
            factory.add_role_from_structure(
                &gst::Structure::builder(ROLE)
                    .field(RTSP_PERM_MEDIA_FACTORY_ACCESS.as_str(), true)
                    .field(RTSP_PERM_MEDIA_FACTORY_CONSTRUCT.as_str(), true)
                    .build(),
            );
        }
        factory
    }
}

/// The part of a generator that a view shows.
fn output(generator: &Generator, view: View) -> &Output {
    match view {
        View::Clip => &generator.shown,
        View::Preview => &generator.preview,
    }
}

mod imp {
    use super::*;

    #[derive(Default)]
    pub struct Factory {
        pub of: OnceLock<(Arc<Mount>, View)>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Factory {
        const NAME: &'static str = "TorchVideoFactory";
        type Type = super::Factory;
        type ParentType = RTSPMediaFactory;
    }

    impl ObjectImpl for Factory {}

    impl RTSPMediaFactoryImpl for Factory {
        fn create_element(&self, _url: &gst_rtsp::RTSPUrl) -> Option<gst::Element> {
            let (mount, view) = self.of.get()?;
            let line = match mount.open() {
                Ok(()) => {
                    "appsrc name=feed is-live=true format=time ! \
                     rtph264pay name=pay0 pt=96 config-interval=-1 aggregate-mode=zero-latency"
                }
                Err(reason) => {
                    eprintln!("{}: {reason}", mount.path);
                    // No element would be taken for a bad request. One that does not start is a service that is not
                    // available, which is the truth.
                    "filesrc location=/ ! rtph264pay name=pay0"
                }
            };
            let bin = gst::parse::bin_from_description_with_name(line, false, &format!("at:{}", mount.path_of(*view)));
            bin.map(|bin| bin.upcast()).ok()
        }

        fn configure(&self, media: &RTSPMedia) {
            self.parent_configure(media);
            let Some((mount, view)) = self.of.get() else { return };
            let feed = media.element().downcast::<gst::Bin>().ok().and_then(|bin| bin.by_name("feed"));
            if let Some(feed) = feed.and_then(|feed| feed.downcast::<gst_app::AppSrc>().ok()) {
                output(&mount.generator, *view).feeds.add(&feed);
            }
        }
    }
}
