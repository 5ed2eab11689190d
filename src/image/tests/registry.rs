//! Debian's registry: plain, with passwords, with TLS; what is sent and what is not.

use std::sync::{Arc, Mutex};

use super::support::*;
use crate::image::progress::{Event, Sink, Status, silent};
use crate::image::pull::{Policy, Puller};
use crate::image::push::{Options, push};
use crate::image::registry::{Credentials, Login};
use crate::image::store::{Keep, Pins};
use crate::image::{Kind, Reference};

fn recorder() -> (Sink, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    (Arc::new(move |event| kept.lock().unwrap().push(event)), events)
}

fn count(events: &Mutex<Vec<Event>>, status: &Status) -> usize {
    events.lock().unwrap().iter().filter(|event| event.status == *status).count()
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let big = tar_of(&[("big", &noise(3 << 20, 7))]);
    for (tag, compress) in
        [("gz", Compress::Gzip), ("zst", Compress::Zstd), ("plain", Compress::No)]
    {
        let name = named(&registry, &format!("app:{tag}"));
        let made = image(&from, &name.to_string(), &[busybox_layer(), big.clone()], compress);
        let pushed = push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
        let pulled = pull(&to, &name).await.unwrap();
        assert_eq!((pulled.id, pulled.descriptor.digest), (made.id, pushed));
        assert_eq!(file_in(&to, &pulled, "big").unwrap(), noise(3 << 20, 7));
        assert_eq!(to.resolve(&pulled.id.short()).unwrap().id, made.id);
        let pinned = name.with_digest(pushed);
        assert_eq!(pull(&to, &pinned).await.unwrap().id, made.id);
    }
    assert_whole(&to);
    let missing = pull(&to, &named(&registry, "app:none")).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
}

#[tokio::test]
async fn what_is_there_is_neither_fetched_nor_sent() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "one");
    image(&from, &name.to_string(), &[busybox_layer()], Compress::Gzip);
    push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
    let (sink, events) = recorder();
    push(&from, &client(""), &name, Options::default(), &sink).await.unwrap();
    assert_eq!(count(&events, &Status::AlreadyThere), 2);

    let other = named(&registry, "other/two:2");
    from.tag(&from.find(&name).unwrap().unwrap(), &other).unwrap();
    let (sink, events) = recorder();
    push(&from, &client(""), &other, Options::default(), &sink).await.unwrap();
    assert_eq!(count(&events, &Status::Mounted(name.familiar_name())), 2, "{events:?}");

    pull(&to, &name).await.unwrap();
    let (sink, events) = recorder();
    let pulled = puller(&to).pull(&other, None, &sink).await.unwrap();
    assert_eq!(count(&events, &Status::Exists), 1);
    assert_eq!(count(&events, &Status::Downloaded), 0);
    assert_eq!(to.list().unwrap().len(), 1);
    assert_eq!(to.list().unwrap()[0].names.len(), 2);

    // A digest that is there needs no registry, nor does what is not missing.
    drop(registry);
    let pinned = name.with_digest(pulled.descriptor.digest);
    for (name, policy) in
        [(&pinned, Policy::Always), (&name, Policy::Missing), (&name, Policy::Never)]
    {
        let found = puller(&to).ensure(name, policy, None, &silent()).await.unwrap();
        assert_eq!(found.id, pulled.id);
    }
    let absent: Reference = "no/such".parse().unwrap();
    let error = puller(&to).ensure(&absent, Policy::Never, None, &silent()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn pieces_are_put_together() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "pieces");
    let layer = tar_of(&[("x", &noise(2 << 20, 3))]);
    image(&from, &name.to_string(), &[layer], Compress::Gzip);
    let options = Options { chunk: Some(300_000) };
    push(&from, &client(""), &name, options, &silent()).await.unwrap();
    pull(&to, &name).await.unwrap();
    assert_whole(&to);
}

#[tokio::test]
async fn a_password_is_asked_for_and_kept() {
    let Some(registry) = Registry::start(Asks::Password) else { return };
    let (dir, from) = store();
    let name = named(&registry, "secret/app");
    image(&from, &name.to_string(), &[busybox_layer()], Compress::Gzip);
    let anonymous = push(&from, &client(""), &name, Options::default(), &silent()).await;
    let error = anonymous.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("berth login"), "{error}");

    let config = dir.path().join("docker/config.json");
    let client = client_as("", Credentials::at(&config));
    let login = |password: &str| Login::Password { user: "me".into(), password: password.into() };
    let refused = client.log_in(&registry.host(), login("wrong")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{refused}");
    assert!(!config.exists());
    client.log_in(&registry.host(), login("secret")).await.unwrap();
    push(&from, &client, &name, Options::default(), &silent()).await.unwrap();

    let (_b, to) = store();
    let puller = Puller::new(to.clone(), client.clone(), 3);
    puller.pull(&name, None, &silent()).await.unwrap();
    assert!(client.log_out(&registry.host()).await.unwrap());
    let error = puller.pull(&name, None, &silent()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    let with = client.with_login(&registry.host(), login("secret"));
    puller.with_client(with).pull(&name, None, &silent()).await.unwrap();
}

#[tokio::test]
async fn an_authority_of_our_own_is_trusted_where_named() {
    let Some(registry) = Registry::start(Asks::Tls) else { return };
    let (_a, from) = store();
    let name = named(&registry, "tls/app");
    image(&from, &name.to_string(), &[busybox_layer()], Compress::Gzip);
    let host = registry.host();
    let ca = registry.file("ca.pem");
    let trusting = client(&format!("[registry.\"{host}\"]\nca = [{ca:?}]"));
    push(&from, &trusting, &name, Options::default(), &silent()).await.unwrap();
    let careless = client(&format!("[registry.\"{host}\"]\ninsecure = true"));
    let (_b, to) = store();
    Puller::new(to.clone(), careless, 3).pull(&name, None, &silent()).await.unwrap();
    let strict = client(&format!("[registry.\"{host}\"]\nplain-http = false"));
    let refused = Puller::new(to.clone(), strict, 3).pull(&name, None, &silent()).await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("`ca` in registries.toml"), "{error}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_passed_over_when_it_fails() {
    let Some(mirror) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let there = named(&mirror, "library/app:1");
    image(&from, &there.to_string(), &[busybox_layer()], Compress::Gzip);
    push(&from, &client(""), &there, Options::default(), &silent()).await.unwrap();
    // The registry itself is nowhere; a dead mirror stands before the living one.
    let settings = format!(
        "[registry.\"127.0.0.1:9\"]\nmirrors = [\"http://127.0.0.1:1\", \"http://{}\"]",
        mirror.host()
    );
    let name: Reference = "127.0.0.1:9/library/app:1".parse().unwrap();
    let puller = Puller::new(to.clone(), client(&settings), 3);
    let pulled = puller.pull(&name, None, &silent()).await.unwrap();
    assert_eq!(to.find(&name).unwrap().unwrap().id, pulled.id);
}

#[tokio::test]
async fn one_layer_is_downloaded_once_by_many() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (dir, to) = store();
    let shared = tar_of(&[("shared", &noise(4 << 20, 1))]);
    let mut names = Vec::new();
    for n in 0..4 {
        let name = named(&registry, &format!("many:{n}"));
        let own = tar_of(&[("own", &[n])]);
        image(&from, &name.to_string(), &[shared.clone(), own], Compress::Gzip);
        push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
        names.push(name);
    }
    let (sink, events) = recorder();
    // Two pullers on two openings of the store: as two processes would.
    let again = crate::image::Store::open(dir.path()).unwrap();
    let pullers = [puller(&to), puller(&again)];
    let mut tasks = tokio::task::JoinSet::new();
    for (n, name) in names.into_iter().enumerate() {
        let (puller, sink) = (pullers[n % 2].clone(), sink.clone());
        tasks.spawn(async move { puller.pull(&name, None, &sink).await.map(|image| image.id) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    // Four layers of their own and the shared one.
    assert_eq!(count(&events, &Status::Downloaded), 5);
    assert_eq!(to.list().unwrap().len(), 4);
    assert_whole(&to);
}

#[tokio::test]
async fn damaged_images_heal_by_a_pull() {
    let Some(registry) = Registry::start(Asks::Plain) else { return };
    let (_a, from) = store();
    let (_b, to) = store();
    let name = named(&registry, "heal");
    image(&from, &name.to_string(), &[busybox_layer()], Compress::Gzip);
    push(&from, &client(""), &name, Options::default(), &silent()).await.unwrap();
    let pulled = pull(&to, &name).await.unwrap();
    let blobs: Vec<_> = pulled.manifest.blobs().map(|blob| blob.digest).collect();
    for digest in blobs.into_iter().chain([pulled.descriptor.digest]) {
        let path = to.blob_path(digest);
        // One bit of it; then its end; then all of it.
        let whole = std::fs::read(&path).unwrap();
        for damage in 0..3 {
            let mut bytes = whole.clone();
            bytes[0] ^= 1;
            match damage {
                0 => std::fs::write(&path, &bytes).unwrap(),
                1 => std::fs::write(&path, &whole[1..]).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            assert!(!to.verify(true, Some(&Default::default())).unwrap().is_empty());
            let healed = puller(&to).ensure(&name, Policy::Missing, None, &silent()).await;
            // What only the blobs' bytes show is healed by a pull, not by a start.
            let healed = match healed {
                Ok(_) => pull(&to, &name).await,
                healed => healed,
            };
            assert_eq!(healed.unwrap().id, pulled.id);
            assert_whole(&to);
        }
    }
    // An unpacked layer that lost a file.
    let layer = to.layer_path(pulled.layers()[0]).unwrap();
    std::fs::remove_file(layer.join("etc/os-release")).unwrap();
    assert_eq!(to.verify(true, Some(&Default::default())).unwrap().len(), 2);
    puller(&to).ensure(&name, Policy::Missing, None, &silent()).await.unwrap();
    assert_whole(&to);
    let kept = to.collect(&Pins::default(), Keep::nothing()).unwrap();
    assert_eq!((kept.blobs, kept.layers), (0, 0));
}
