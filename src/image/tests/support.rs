//! Images made here, for the registry of Debian's package.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::image::document::{Descriptor, Manifest, media};
use crate::image::progress::silent;
use crate::image::pull::Puller;
use crate::image::registry::{Client, Credentials, Retry, Settings};
use crate::image::store::Image;
use crate::image::{Digest, ImageConfig, Platform, Reference, Store};

#[path = "../../../tests/support/registry.rs"]
mod served;

pub use served::{Kind as Asks, Registry};

/// What an image is called there.
pub fn named(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

/// A store in a folder of its own.
pub fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// A client that does not wait long.
pub fn client(settings: &str) -> Client {
    client_as(settings, Credentials::none())
}

pub fn client_as(settings: &str, credentials: Credentials) -> Client {
    let retry = Retry {
        attempts: 8,
        first: Duration::from_millis(20),
        longest: Duration::from_millis(500),
    };
    Client::new(Settings::parse(settings).unwrap(), credentials, retry)
}

pub fn puller(store: &Store) -> Puller {
    Puller::new(store.clone(), client(""), 3)
}

pub async fn pull(store: &Store, name: &Reference) -> Result<Image, crate::image::Error> {
    puller(store).pull(name, None, &silent()).await
}

/// A tar of files, with the modes of programs.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image with these layers (each a tar, compressed or not), entered as `name`.
pub fn image(store: &Store, name: &str, tars: &[Vec<u8>], compress: Compress) -> Image {
    let lease = store.lease().unwrap();
    let mut config = ImageConfig::default();
    let host = Platform::host();
    (config.os, config.architecture) = (host.os, host.architecture);
    config.config.cmd = vec!["/bin/sh".into()];
    let mut layers = Vec::new();
    for tar in tars {
        let (bytes, media_type) = match compress {
            Compress::No => (tar.clone(), media::OCI_LAYER),
            Compress::Gzip => (gzip(tar), media::OCI_LAYER_GZIP),
            Compress::Zstd => (zstd::encode_all(&tar[..], 1).unwrap(), media::OCI_LAYER_ZSTD),
        };
        let digest = store.put(&lease, &bytes).unwrap();
        layers.push(Descriptor::new(media_type, digest, bytes.len() as u64));
        config.rootfs.diff_ids.push(Digest::of(tar));
    }
    let bytes = config.to_bytes();
    let digest = store.put(&lease, &bytes).unwrap();
    let config = Descriptor::new(media::OCI_CONFIG, digest, bytes.len() as u64);
    let bytes = serde_json::to_vec(&Manifest::oci(config, layers)).unwrap();
    let digest = store.put(&lease, &bytes).unwrap();
    let descriptor = Descriptor::new(media::OCI_MANIFEST, digest, bytes.len() as u64);
    store.enter(&lease, &descriptor, Some(&name.parse().unwrap()), None).unwrap()
}

#[derive(Clone, Copy)]
pub enum Compress {
    No,
    Gzip,
    Zstd,
}

/// busybox, if it is installed, else a text: a layer that could be run.
pub fn busybox_layer() -> Vec<u8> {
    let program = fs::read("/bin/busybox").unwrap_or_else(|_| b"#!/bin/true\n".to_vec());
    tar_of(&[("bin/sh", &program), ("etc/os-release", b"NAME=test\n")])
}

/// The store is whole, and the layers of the image are there with this file.
pub fn assert_whole(store: &Store) {
    let damages = store.verify(false, None).unwrap();
    assert!(damages.is_empty(), "{damages:?}");
}

pub fn file_in(store: &Store, image: &Image, path: &str) -> Option<Vec<u8>> {
    let layers = store.root_layers(image).ok()?;
    layers.iter().find_map(|layer| fs::read(layer.join(path)).ok())
}
