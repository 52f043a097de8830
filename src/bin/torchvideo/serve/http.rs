// SPDX-License-Identifier: MPL-2.0
//! The control endpoint's HTTP server. It listens to this machine alone, and does not let web pages of others use a
//! browser on it: neither under a name of theirs nor from their own address.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::api::{self, Answer, Api};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// The largest picture that can be sent, in bytes.
const BODY: usize = 32 << 20;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port of this machine's own; 0 is any free one.
///
/// # Errors
/// In words why it can't be listened to.
pub fn bind(port: u16) -> Result<TcpListener, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|err| format!("--http {port}: 127.0.0.1:{port} can't be listened to: {err}"))
}

/// Serves on a thread of its own, until the program ends.
///
/// # Errors
/// In words what is not possible.
pub fn start(listener: TcpListener, api: Arc<Api>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(4)
        .build()
        .map_err(|err| err.to_string())?;
    let spawned = std::thread::Builder::new().name("http".into()).spawn(move || runtime.block_on(serve(listener, api)));
    spawned.map(drop).map_err(|err| err.to_string())
}

async fn serve(listener: TcpListener, api: Arc<Api>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => return eprintln!("the control endpoint can't be served: {err}"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No file is free: a connection must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let api = api.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(api.clone(), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
            // Who sends no HTTP is not answered.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            drop(place);
        });
    }
}

async fn answer(api: Arc<Api>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match read(request).await {
        Ok((is_get, path, kind, body)) => {
            let work = move || api.answer(api::Request { is_get, path: &path, kind: &kind, body });
            let answer = tokio::task::spawn_blocking(work).await;
            answer.unwrap_or_else(|_| Answer::error(500, "it can't be answered"))
        }
        Err(answer) => answer,
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, answer.kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// What a request asks, if it may.
async fn read(request: Request<Incoming>) -> Result<(bool, String, String, Vec<u8>), Answer> {
    let headers = request.headers();
    let host = text(headers, header::HOST).unwrap_or_default();
    if !is_local(host) {
        return Err(Answer::error(403, format!("{host:?} is not this machine: use 127.0.0.1 or localhost")));
    }
    if let Some(origin) = text(headers, header::ORIGIN)
        && origin.strip_prefix("http://") != Some(host)
    {
        return Err(Answer::error(403, format!("pages of {origin} may not ask")));
    }
    let is_get = match *request.method() {
        Method::GET => true,
        Method::POST | Method::PATCH | Method::PUT => false,
        _ => return Err(Answer::error(405, "use GET, POST or PATCH")),
    };
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // What a form of another page can send is neither.
    if !is_get && kind != "application/json" && !kind.starts_with("image/") {
        return Err(Answer::error(415, "send application/json, or a picture as image/png, image/jpeg or image/webp"));
    }
    let path = decoded(request.uri().path()).ok_or_else(|| Answer::error(400, "the path is not UTF-8"))?;
    let body = Limited::new(request.into_body(), BODY).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes().to_vec(),
        Ok(Err(_)) => return Err(Answer::error(413, format!("use a body of at most {} MiB", BODY >> 20))),
        Err(_) => return Err(Answer::error(408, "the body did not come")),
    };
    Ok((is_get, path, kind, body))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a Host header names this machine, and not a name that somebody else has for it.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

/// A path without percent signs; `None` if it is no text.
fn decoded(path: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let [first, others @ ..] = rest {
        let code = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, others.get(..2).and_then(code)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["127.0.0.1", "127.0.0.1:8555", "localhost:80", "[::1]:8555"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "example.org", "example.org:8555", "127.0.0.1.example.org", "localhost.example.org:80", "::1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn paths_are_decoded() {
        assert_eq!(decoded("/a%20b/%C3%A4").as_deref(), Some("/a b/ä"));
        assert_eq!(decoded("/%zz%").as_deref(), Some("/%zz%"));
        assert_eq!(decoded("/%ff"), None);
    }
}
