//! A server that lies, stalls and breaks off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::*;
use crate::image::document::{Descriptor, Index, Manifest, media};
use crate::image::progress::silent;
use crate::image::pull::Puller;
use crate::image::registry::{Credentials, Login};
use crate::image::store::Image;
use crate::image::{Digest, Error, ImageConfig, Kind, Platform, Reference};

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

/// What is sent back: head and body, byte for byte; then the connection is closed.
type Answer = Vec<u8>;

fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    [text.as_bytes(), body].concat()
}

/// Answers each request by a function of it and of how often its path was asked.
struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, respond) = (seen.clone(), Arc::new(respond));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, respond) = (log.clone(), respond.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while !bytes.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => bytes.push(byte),
                            Err(_) => return,
                        }
                    }
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let mut lines = text.lines();
                    let mut first = lines.next().unwrap_or_default().split(' ');
                    let request = Request {
                        method: first.next().unwrap_or_default().to_owned(),
                        path: first.next().unwrap_or_default().to_owned(),
                        headers: lines
                            .filter_map(|line| line.split_once(": "))
                            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                            .collect(),
                    };
                    let times = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.iter().filter(|r| r.path == request.path).count()
                    };
                    let _ = stream.write_all(&respond(&request, times)).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Server { host, seen, task }
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    fn asked(&self, path: &str) -> Vec<Request> {
        self.seen.lock().unwrap().iter().filter(|r| r.path.contains(path)).cloned().collect()
    }
}

/// A small image's parts, to be served honestly or not.
#[derive(Clone)]
struct Parts {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Parts {
    fn new() -> Parts {
        let tar = tar_of(&[("file", &noise(200_000, 11))]);
        let mut config = ImageConfig::default();
        let host = Platform::host();
        (config.os, config.architecture) = (host.os, host.architecture);
        config.rootfs.diff_ids.push(Digest::of(&tar));
        Parts::of(gzip(&tar), config)
    }

    fn of(layer: Vec<u8>, config: ImageConfig) -> Parts {
        let config = config.to_bytes();
        let manifest = Manifest::oci(
            Descriptor::new(media::OCI_CONFIG, Digest::of(&config), config.len() as u64),
            vec![Descriptor::new(media::OCI_LAYER_GZIP, Digest::of(&layer), layer.len() as u64)],
        );
        Parts { layer, config, manifest: serde_json::to_vec(&manifest).unwrap() }
    }

    /// The honest answer, also to ranges.
    fn serve(&self, request: &Request) -> Answer {
        let path = &request.path;
        if path.contains("/manifests/") {
            return answer("200 OK", &[("Content-Type", media::OCI_MANIFEST)], &self.manifest);
        }
        let blob = [&self.layer, &self.config]
            .into_iter()
            .find(|blob| path.ends_with(&Digest::of(blob).to_string()));
        let Some(blob) = blob else {
            return answer("404 Not Found", &[], b"");
        };
        match request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")) {
            Some(range) => {
                let from: usize = range.trim_end_matches('-').parse().unwrap();
                let said = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                answer("206 Partial Content", &[("Content-Range", &said)], &blob[from..])
            }
            None => answer("200 OK", &[], blob),
        }
    }

    fn layer_path(&self) -> String {
        format!("/blobs/{}", Digest::of(&self.layer))
    }
}

/// Pulls from a server that answers by `respond`; the store must be whole whatever
/// comes of it.
async fn pull_from(
    respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
) -> (Result<Image, Error>, Server) {
    let server = Server::start(respond).await;
    let (_dir, store) = store();
    let outcome = pull(&store, &server.name("app:1")).await;
    assert_whole(&store);
    assert_eq!(store.usage().unwrap().temporary, 0);
    (outcome, server)
}

#[tokio::test]
async fn an_honest_server_is_believed() {
    let parts = Parts::new();
    let (outcome, _) = pull_from(move |request, _| parts.serve(request)).await;
    outcome.unwrap();
}

#[tokio::test]
async fn dropped_connections_are_resumed_where_they_broke() {
    let parts = Parts::new();
    let served = parts.clone();
    let (outcome, server) = pull_from(move |request, times| {
        let whole = served.serve(request);
        match request.path.contains(&served.layer_path()) && times < 4 {
            // A part of the rest each time, under a head that promises all.
            true => whole[..whole.len() / 2].to_vec(),
            false => whole,
        }
    })
    .await;
    outcome.unwrap();
    let asked = server.asked(&parts.layer_path());
    assert_eq!(asked.len(), 4);
    assert!(asked[1..].iter().all(|r| r.headers["range"] != "bytes=0-"), "{asked:?}");
}

#[tokio::test]
async fn a_server_without_ranges_is_borne() {
    let parts = Parts::new();
    let served = parts.clone();
    let (outcome, _) = pull_from(move |request, times| {
        let mut plain = request.clone();
        plain.headers.remove("range");
        let whole = served.serve(&plain);
        match request.path.contains(&served.layer_path()) && times == 1 {
            true => whole[..whole.len() / 2].to_vec(),
            false => whole,
        }
    })
    .await;
    outcome.unwrap();
}

#[tokio::test]
async fn patience_is_had_when_asked_for() {
    let parts = Parts::new();
    let (outcome, server) = pull_from(move |request, times| match times {
        1 => answer("429 Too Many Requests", &[("Retry-After", "0")], b""),
        2 => answer("503 Service Unavailable", &[], b""),
        3 => answer("500 Internal Server Error", &[], b""),
        _ => parts.serve(request),
    })
    .await;
    outcome.unwrap();
    assert_eq!(server.asked("/manifests/1").len(), 4);
    let (outcome, server) = pull_from(move |_, _| answer("502 Bad Gateway", &[], b"")).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(server.asked("/manifests/1").len(), 8);
}

#[tokio::test]
async fn wrong_content_is_refused() {
    for lie in 0..6 {
        let parts = Parts::new();
        let (outcome, _) = pull_from(move |request, _| {
            let mut lying = parts.clone();
            let path = parts.layer_path();
            if !request.path.contains(&path) {
                return parts.serve(request);
            }
            match lie {
                0 => {
                    // One byte, in the middle.
                    let middle = lying.layer.len() / 2;
                    lying.layer[middle] ^= 1;
                    answer("200 OK", &[], &lying.layer)
                }
                1 => answer("200 OK", &[], &[&lying.layer[..], b"more"].concat()),
                2 => answer("200 OK", &[], &lying.layer[..1000]),
                // Longer than said, without saying a length.
                3 => {
                    let body = [&lying.layer[..], &[0; 4096][..]].concat();
                    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &body[..]].concat()
                }
                4 => answer("206 Partial Content", &[("Content-Range", "bytes 7-9/10")], b"xyz"),
                _ => answer("200 OK", &[], &noise(lying.layer.len(), 1)),
            }
        })
        .await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Corrupt, "lie {lie}");
    }
}

#[tokio::test]
async fn documents_that_lie_are_refused() {
    let honest = Parts::new();
    let manifest: Manifest = serde_json::from_slice(&honest.manifest).unwrap();
    type Change = Box<dyn Fn(&mut Manifest)>;
    let cases: Vec<(Change, Kind)> = vec![
        (Box::new(|m| m.layers[0].size -= 1), Kind::Corrupt),
        (Box::new(|m| m.layers[0].size += 1), Kind::Corrupt),
        (Box::new(|m| m.config.size = 1 << 40), Kind::TooLarge),
        (Box::new(|m| m.layers.clear()), Kind::Corrupt),
        (Box::new(|m| m.layers = vec![m.layers[0].clone(); 600]), Kind::TooLarge),
        (Box::new(|m| m.config.digest = Digest::of(b"nothing")), Kind::NotFound),
    ];
    for (n, (change, kind)) in cases.into_iter().enumerate() {
        let mut changed = manifest.clone();
        change(&mut changed);
        let parts = Parts { manifest: serde_json::to_vec(&changed).unwrap(), ..honest.clone() };
        let (outcome, _) = pull_from(move |request, _| parts.serve(request)).await;
        assert_eq!(outcome.unwrap_err().kind(), kind, "case {n}");
    }
    // The right blob, but not the layer that the configuration means.
    let mut config = ImageConfig::parse(&honest.config).unwrap();
    config.rootfs.diff_ids[0] = Digest::of(b"another");
    let parts = Parts::of(honest.layer.clone(), config);
    let (outcome, _) = pull_from(move |request, _| parts.serve(request)).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Corrupt);
    // Not what was asked for by digest.
    let server = Server::start(move |request, _| honest.serve(request)).await;
    let (_dir, store) = store();
    let pinned = server.name("app").with_digest(Digest::of(b"another"));
    assert_eq!(pull(&store, &pinned).await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn a_manifest_of_100_mb_is_not_read() {
    for said in [true, false] {
        let (outcome, _) = pull_from(move |_, _| {
            let body = vec![b' '; 100 << 20];
            match said {
                true => answer("200 OK", &[], &body),
                false => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &body[..]].concat(),
            }
        })
        .await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::TooLarge);
    }
}

#[tokio::test]
async fn a_bomb_does_not_fill_the_disk() {
    let tar = tar_of(&[("zeros", &vec![0; 64 << 20])]);
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids.push(Digest::of(&tar));
    let parts = Parts::of(gzip(&tar), config);
    let server = Server::start(move |request, _| parts.serve(request)).await;
    let dir = tempfile::tempdir().unwrap();
    let limits = crate::image::layer::Limits::default();
    let store = crate::image::Store::open_with(dir.path(), limits, 1 << 20).unwrap();
    let error = pull(&store, &server.name("bomb")).await.unwrap_err();
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
    assert_whole(&store);
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let parts = Parts::new();
    let of = |platform: &str, digest| {
        let mut d = Descriptor::new(media::OCI_MANIFEST, digest, parts.manifest.len() as u64);
        d.platform = Some(platform.parse().unwrap());
        d
    };
    let right = Digest::of(&parts.manifest);
    let index = Index {
        schema_version: 2,
        media_type: Some(media::OCI_INDEX.into()),
        manifests: vec![
            of("linux/s390x", Digest::of(b"other")),
            of(&Platform::host().to_string(), right),
        ],
        annotations: Default::default(),
    };
    let index = serde_json::to_vec(&index).unwrap();
    let digest = Digest::of(&index);
    let server = Server::start(move |request, _| {
        let by_tag =
            request.path.ends_with("/manifests/1") || request.path.ends_with(&digest.to_string());
        match by_tag {
            true => answer("200 OK", &[("Content-Type", media::OCI_INDEX)], &index),
            false => parts.serve(request),
        }
    })
    .await;
    let (_dir, store) = store();
    let name = server.name("app:1");
    let pulled = pull(&store, &name).await.unwrap();
    assert_eq!(pulled.descriptor.digest, right);
    // It is found by the index's digest, too.
    assert_eq!(store.find(&name.with_digest(digest)).unwrap().unwrap().id, pulled.id);
    let wanted: Platform = "linux/riscv64".parse().unwrap();
    let error = puller(&store).pull(&name, Some(&wanted), &silent()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[tokio::test]
async fn tokens_are_got_kept_and_go_to_nobody_else() {
    let parts = Parts::new();
    // Where blobs really lie: another host.
    let served = parts.clone();
    let storage = Server::start(move |request, _| served.serve(request)).await;
    let blobs = storage.host.clone();
    let server = Server::start(move |request, _| {
        let host = &request.headers["host"];
        if request.path.starts_with("/token") {
            let right = request.headers.get("authorization").is_some_and(|a| a == "Basic bWU6cHc=");
            return match right {
                true => answer("200 OK", &[], br#"{"token":"t0k","expires_in":300}"#),
                false => answer("401 Unauthorized", &[], b""),
            };
        }
        if request.headers.get("authorization").is_none_or(|a| a != "Bearer t0k") {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"");
        }
        match request.path.contains("/blobs/") {
            true => {
                let to = format!("http://{blobs}{}", request.path);
                answer("307 Temporary Redirect", &[("Location", &to)], b"")
            }
            false => parts.serve(request),
        }
    })
    .await;
    let (dir, store) = store();
    let name = server.name("app:1");
    assert_eq!(pull(&store, &name).await.unwrap_err().kind(), Kind::Denied);
    let credentials = Credentials::at(&dir.path().join("config.json"));
    let login = Login::Password { user: "me".into(), password: "pw".into() };
    credentials.store(&server.host, &login).await.unwrap();
    let puller = Puller::new(store.clone(), client_as("", credentials), 3);
    puller.pull(&name, None, &silent()).await.unwrap();
    let tokens = server.asked("/token");
    assert_eq!(tokens.len(), 2, "one refused, then one for all: {tokens:?}");
    assert!(tokens[1].path.contains("scope=repository%3Aapp%3Apull"), "{tokens:?}");
    let leaked: Vec<_> = storage
        .asked("/")
        .into_iter()
        .filter(|request| request.headers.contains_key("authorization"))
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert!(storage.asked("/").iter().all(|request| request.method == "GET"));
    assert_eq!(storage.asked("/").len(), 2);
}
