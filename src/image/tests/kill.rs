//! A registry that dies in the middle.

use std::time::Duration;

use super::support::*;
use crate::image::progress::{Sink, Status, silent};
use crate::image::push::{Options, push};
use crate::image::registry::Retry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn patient(name: &str) -> crate::image::registry::Client {
    let retry = Retry {
        attempts: 200,
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
    };
    let settings = crate::image::registry::Settings::parse(name).unwrap();
    crate::image::registry::Client::new(
        settings,
        crate::image::registry::Credentials::none(),
        retry,
    )
}

/// Counts bytes of a layer's transfer.
fn meter() -> (Sink, Arc<AtomicU64>) {
    let bytes = Arc::new(AtomicU64::new(0));
    let seen = bytes.clone();
    let sink: Sink = Arc::new(move |event| {
        if matches!(event.status, Status::Downloading | Status::Pushing) {
            seen.fetch_max(event.current, Ordering::Relaxed);
        }
    });
    (sink, bytes)
}

async fn until(bytes: &AtomicU64, least: u64) {
    for _ in 0..2000 {
        if bytes.load(Ordering::Relaxed) >= least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_pull_outlives_its_registry() {
    let Some(mut registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "big");
    let layer = tar_of(&[("big", &noise(64 << 20, 5))]);
    image(&from, &name.to_string(), &[layer], Compress::No);
    push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
    let (sink, bytes) = meter();
    let puller = crate::image::pull::Puller::new(to.clone(), patient(""), 3);
    let pulling = tokio::spawn({
        let (name, sink) = (name.clone(), sink);
        async move { puller.pull(&name, None, &sink).await }
    });
    until(&bytes, 1 << 20).await;
    registry.kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    registry.run();
    let pulled = pulling.await.unwrap().unwrap();
    assert_eq!(file_in(&to, &pulled, "big").unwrap(), noise(64 << 20, 5));
    assert_whole(&to);
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_gone_on_with() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "big");
    let layer = tar_of(&[("big", &noise(64 << 20, 5))]);
    let made = image(&from, &name.to_string(), &[layer], Compress::No);
    push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
    let (sink, bytes) = meter();
    let cut = {
        let (name, puller) = (name.clone(), puller(&to));
        tokio::spawn(async move { puller.pull(&name, None, &sink).await })
    };
    until(&bytes, 4 << 20).await;
    cut.abort();
    let _ = cut.await;
    let first: Arc<AtomicU64> = Arc::new(AtomicU64::new(u64::MAX));
    let least = first.clone();
    let sink: Sink = Arc::new(move |event| {
        if event.status == Status::Downloading {
            least.fetch_min(event.current, Ordering::Relaxed);
        }
    });
    let pulled = puller(&to).pull(&name, None, &sink).await.unwrap();
    assert_eq!(pulled.id, made.id);
    assert!(first.load(Ordering::Relaxed) > 0, "it began from the start");
    assert_whole(&to);
    let usage = to.usage().unwrap();
    assert_eq!((usage.partial, usage.temporary), (0, 0));
}

#[tokio::test]
async fn a_push_outlives_its_registry() {
    let Some(mut registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "big");
    let layer = tar_of(&[("big", &noise(64 << 20, 9))]);
    image(&from, &name.to_string(), &[layer], Compress::No);
    let (sink, bytes) = meter();
    let pushing = tokio::spawn({
        let (from, name) = (from.clone(), name.clone());
        let options = Options { chunk: Some(8 << 20) };
        async move { push(&from, &patient(""), &name, options, &sink).await }
    });
    until(&bytes, 9 << 20).await;
    registry.kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    registry.run();
    pushing.await.unwrap().unwrap();
    pull(&to, &name).await.unwrap();
    assert_whole(&to);
}
