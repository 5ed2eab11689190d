//! Images when things go wrong: who is killed when, full disks, registries that die.
//! Each stands for what users of others suffer from.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::images::{Tar, noise, root};
use support::registry::{Kind, Registry};
use support::{Berth, PATIENCE, SmallDisk, binary, kill};

fn start(berth: &Berth, args: &[&str]) -> Child {
    Command::new(binary())
        .arg("--root")
        .arg(berth.root())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// An image with this much that does not compress, in the registry.
fn pushed(registry: &Registry, sizes: &[usize]) -> String {
    let berth = Berth::up_with(&[]);
    let name = format!("{}/big:1", registry.host());
    let mut tar = root();
    for (at, size) in sizes.iter().enumerate() {
        tar = tar.file(&format!("data/noise-{at}"), &noise(*size));
    }
    fs::write(berth.path("big.tar"), tar.bytes()).unwrap();
    berth.ok(&["import", &berth.path("big.tar").display().to_string(), &name]);
    berth.ok(&["push", &name]);
    name
}

/// What an unfinished download has on disk.
fn partial(berth: &Berth) -> u64 {
    let folder = berth.path("var/lib/berth/image-work/partial");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn whole(berth: &Berth) {
    assert_eq!(berth.ok(&["verify"]), "all images and layers are whole\n");
}

fn kinds(berth: &Berth) -> Value {
    serde_json::from_str(&berth.ok(&["df", "--format", "json"])).unwrap()
}

fn size_of(usage: &Value, kind: &str) -> u64 {
    let kinds = usage["kinds"].as_array().unwrap();
    kinds.iter().find(|k| k["type"] == kind).unwrap()["size"].as_u64().unwrap()
}

/// A slow way to a registry, which counts what came through.
struct SlowWay {
    address: String,
    passed: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl SlowWay {
    /// So many bytes a millisecond, to this port of loopback.
    fn to(host: &str, rate: usize) -> SlowWay {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        use std::sync::atomic::Ordering;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passed = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (to, counter) = (host.to_owned(), passed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut server = server;
                    let _ = std::io::copy(&mut up, &mut server);
                    let _ = server.shutdown(std::net::Shutdown::Both);
                });
                let (counter, mut client) = (counter.clone(), client);
                std::thread::spawn(move || {
                    let mut buffer = vec![0; rate];
                    while let Ok(n @ 1..) = down.read(&mut buffer) {
                        if client.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                        counter.fetch_add(n as u64, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        SlowWay { address, passed }
    }

    fn passed(&self) -> u64 {
        self.passed.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// moby 52965, 42075, 45939, docker/cli 4656: a pull that broke off is seen, goes on
/// where it stopped, and can be freed.
#[test]
fn a_pull_that_broke_off_goes_on_and_can_be_freed() {
    const SIZE: usize = 24 << 20;
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let name = pushed(&registry, &[SIZE]);
    let way = SlowWay::to(&registry.host(), 32 << 10);
    let slow = name.replace(&registry.host(), &way.address);
    let mut berth = Berth::up_with(&[]);
    let mut pull = start(&berth, &["pull", &slow]);
    berth.wait("a part of the download", || partial(&berth) > 4 << 20);
    // Everything dies: engine, keeper, client.
    berth.kill_both();
    pull.kill().unwrap();
    pull.wait().unwrap();
    let had = partial(&berth);
    assert!(had > 4 << 20);
    berth.up();
    assert!(size_of(&kinds(&berth), "Unfinished downloads") > 4 << 20);
    let before = way.passed();
    berth.ok(&["pull", &slow]);
    let fetched = way.passed() - before;
    assert!(fetched < SIZE as u64 - had + (8 << 20), "{fetched} bytes again, {had} were there");
    assert_eq!(partial(&berth), 0);
    whole(&berth);
    // Another one that nobody goes on with is freed.
    berth.ok(&["rmi", &slow]);
    berth.ok(&["prune", "-f"]);
    let mut pull = start(&berth, &["pull", &slow]);
    berth.wait("a part of the download", || partial(&berth) > 1 << 20);
    pull.kill().unwrap();
    pull.wait().unwrap();
    berth.wait("prune to free it", || {
        berth.ok(&["prune", "-f"]);
        partial(&berth) == 0
    });
    let usage = kinds(&berth);
    assert_eq!(size_of(&usage, "Images") + size_of(&usage, "Being made"), 0, "{usage}");
}

/// A pull of 16 MiB over a slow way, with a part of it there: the image's name that way.
fn half_pulled(registry: &Registry) -> (Berth, SlowWay, String, std::process::Child) {
    let name = pushed(registry, &[16 << 20]);
    let way = SlowWay::to(&registry.host(), 32 << 10);
    let slow = name.replace(&registry.host(), &way.address);
    let berth = Berth::up_with(&[]);
    let pull = start(&berth, &["pull", &slow]);
    berth.wait("a part of the download", || partial(&berth) > 2 << 20);
    (berth, way, slow, pull)
}

/// The engine's death costs a client that pulls nothing but a moment.
#[test]
fn a_pull_outlives_the_engine() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (berth, _way, slow, pull) = half_pulled(&registry);
    kill(berth.engine_pid().unwrap(), 9);
    let output = pull.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(berth.ok(&["run", "--rm", &slow, "cat", "/data/seed"]), "seed\n");
}

/// The registry dies in the middle of a pull and of a push, and comes back.
#[test]
fn transfers_outlive_their_registry() {
    let Some(mut registry) = Registry::start(Kind::Plain) else { return };
    let (berth, _way, slow, pull) = half_pulled(&registry);
    registry.kill();
    std::thread::sleep(Duration::from_millis(300));
    registry.run();
    let output = pull.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    whole(&berth);
    let again = slow.replace("/big:1", "/again:1");
    berth.ok(&["tag", &slow, &again]);
    let push = start(&berth, &["push", &again]);
    std::thread::sleep(Duration::from_millis(100));
    registry.kill();
    std::thread::sleep(Duration::from_millis(300));
    registry.run();
    let output = push.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Engine and keeper are killed at instants of their own while images are pulled,
/// committed, loaded, removed and pruned: the store is whole each time.
#[test]
fn a_kill_at_any_instant_leaves_whole_images() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let name = pushed(&registry, &[3 << 20, 100]);
    let mut berth = Berth::up_with(&[]);
    berth.ok(&["pull", &name]);
    berth.ok(&["tag", &name, "kept:1"]);
    let saved = berth.path("saved.tar").display().to_string();
    berth.ok(&["save", "-o", &saved, &name]);
    berth.ok(&["run", "-d", "--name", "web", "kept:1", "sh", "-c", "echo x > /x; sleep 100000"]);
    let seed = std::env::var("BERTH_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random: u64 = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    });
    println!("BERTH_SEED={random}");
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for round in 0..14 {
        let image = format!("made:{round}");
        let verbs: [&[&str]; 6] = [
            &["pull", &name],
            &["commit", "web", &image],
            &["load", "-i", &saved],
            &["prune", "-f", "-a"],
            &["rmi", "-f", &name],
            &["clone", "web"],
        ];
        let mut running: Vec<Child> = Vec::new();
        for _ in 0..3 {
            running.push(start(&berth, verbs[next(verbs.len() as u64) as usize]));
        }
        std::thread::sleep(Duration::from_millis(next(120)));
        match next(3) {
            0 => {
                berth.kill_both();
                berth.up();
            }
            _ => {
                if let Some(engine) = berth.engine_pid() {
                    kill(engine, 9);
                }
            }
        }
        for mut child in running {
            let begun = Instant::now();
            while child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < PATIENCE, "a client hangs\n{}", berth.log());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        berth.wait("the API to answer", || berth.cli(&["ps"]).status.success());
        whole(&berth);
        // A commit that was killed leaves nothing frozen.
        assert_eq!(berth.status("web"), "running");
        assert_eq!(berth.ok(&["exec", "web", "cat", "/x"]), "x\n");
        assert_eq!(berth.ok(&["run", "--rm", "kept:1", "cat", "/data/seed"]), "seed\n");
    }
    berth.ok(&["prune", "-f"]);
    let usage = kinds(&berth);
    assert_eq!(
        size_of(&usage, "Unfinished downloads") + size_of(&usage, "Being made"),
        0,
        "{usage}"
    );
}

/// moby 11178, 23184, 44909: a full disk leaves nothing that can be neither used nor
/// removed nor pulled again; and what is used and what is free make the disk.
#[test]
fn a_full_disk_is_borne_and_adds_up() {
    const SIZE: u64 = 24 << 20;
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let (small, big) = (pushed(&registry, &[100]), format!("{}/huge:1", registry.host()));
    {
        let berth = Berth::up_with(&[]);
        let tar = root().file("data/noise", &noise(20 << 20));
        fs::write(berth.path("huge.tar"), tar.bytes()).unwrap();
        berth.ok(&["import", &berth.path("huge.tar").display().to_string(), &big]);
        berth.ok(&["push", &big]);
    }
    let mut berth = Berth::new();
    let place: PathBuf = berth.path("var");
    let disk = SmallDisk::mount(place, "24m");
    berth.up();
    let adds_up = |berth: &Berth| {
        let usage = kinds(berth);
        let number = |key: &str| usage[key].as_u64().unwrap();
        assert_eq!(number("disk-size"), SIZE);
        let sum = number("total") + number("disk-free");
        // A page for each folder of the test's own is all that may be missing.
        assert!(sum.abs_diff(SIZE) <= 256 << 10, "{sum} of {SIZE}: {usage}");
        usage
    };
    berth.ok(&["pull", &small]);
    adds_up(&berth);
    let failed = berth.cli(&["pull", &big]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("No space left"), "{said}");
    let usage = adds_up(&berth);
    assert!(size_of(&usage, "Unfinished downloads") > 0, "{usage}");
    // All of it can be used, removed, and pulled again.
    // With the host's ids: before Linux 6.3 a tmpfs can't give its files others.
    let seed = || berth.ok(&["run", "--rm", "--userns", "host", &small, "cat", "/data/seed"]);
    assert_eq!(seed(), "seed\n");
    disk.fill();
    berth.ok(&["rmi", &small]);
    berth.ok(&["prune", "-f", "-a"]);
    disk.clear();
    let usage = adds_up(&berth);
    assert_eq!(size_of(&usage, "Images") + size_of(&usage, "Unfinished downloads"), 0, "{usage}");
    berth.ok(&["pull", &small]);
    assert_eq!(seed(), "seed\n");
    whole(&berth);
    berth.down();
}

/// A blob or a layer that was damaged on disk is told, and heals by a pull.
#[test]
fn what_is_damaged_is_told_and_heals() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let name = pushed(&registry, &[1000]);
    let berth = Berth::up_with(&[]);
    berth.ok(&["pull", &name]);
    let store = berth.path("var/lib/berth");
    let blobs = fs::read_dir(store.join("images/blobs/sha256")).unwrap();
    let largest = blobs.map(|e| e.unwrap().path()).max_by_key(|p| p.metadata().unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let layer = fs::read_dir(store.join("layers/sha256")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(layer.join("fs/data/seed")).unwrap();
    let told = berth.cli(&["verify"]);
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.status.code(), Some(1), "{said}");
    assert!(said.contains("blob") && said.contains("unpacked layer"), "{said}");
    assert_eq!(berth.cli(&["verify", "--repair"]).status.code(), Some(1));
    berth.ok(&["pull", &name]);
    whole(&berth);
    assert_eq!(berth.ok(&["run", "--rm", &name, "cat", "/data/seed"]), "seed\n");

    // It can be removed, too, though nobody can say what it is.
    let id = berth.ok(&["images", "-q", "--no-trunc"]).trim().to_owned();
    let config = store.join("images/blobs/sha256").join(&id["sha256:".len()..]);
    fs::write(&config, b"damaged").unwrap();
    assert_eq!(berth.ok(&["rmi", &name]), format!("Untagged: {name}\n"));
    berth.ok(&["prune", "-f"]);
    whole(&berth);
    let usage = kinds(&berth);
    assert_eq!(size_of(&usage, "Images"), 0, "{usage}");
}

/// What a manifest on disk names stays, also while what ran before still ends.
#[test]
fn the_image_that_a_manifest_is_to_have_is_kept() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let name = pushed(&registry, &[1000]);
    let berth = Berth::up_with(&[]);
    berth.ok(&["pull", &name]);
    berth.ok(&["tag", &name, "base:1"]);
    berth.ok(&["run", "--name", "made", "base:1", "sh", "-c", "echo x > /new"]);
    berth.ok(&["commit", "made", "next:1"]);
    berth.ok(&["rm", "made"]);
    let of = |image: &str| {
        format!(
            "image = \"{image}\"\npull = \"never\"\nnetwork.mode = \"none\"\n\
             command = [\"sh\", \"-c\", '''trap \"\" TERM; echo ready; while :; do sleep 1; done''']\n\
             stop = {{ timeout = \"1h\" }}\n"
        )
    };
    berth.write("web.toml", &of("base:1"));
    berth.wait_log("web", "ready");
    berth.write("web.toml", &of("next:1"));
    berth.wait("the change to be known", || {
        berth.ok(&["inspect", "web"]).contains("stopping") || berth.ok(&["ps"]).contains("stopping")
    });
    berth.ok(&["prune", "-f", "-a"]);
    let images = berth.ok(&["images"]);
    assert!(images.contains("next") && images.contains("base"), "{images}");
    berth.ok(&["kill", "web"]);
    berth.wait_status("web", "exited");
    berth.ok(&["start", "web"]);
    berth.wait("the new image to run", || berth.logs("web").matches("ready").count() == 2);
}

/// What a container is made of is not known while its image can't be read: nothing is
/// removed then, and it is said.
#[test]
fn nothing_is_removed_while_it_is_not_known_what_is_in_use() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let name = pushed(&registry, &[1000]);
    let berth = Berth::up_with(&[]);
    berth.ok(&["pull", &name]);
    berth.ok(&["run", "-d", "--name", "web", &name, "sleep", "1000"]);
    is_kept_while_its_config_is_damaged(&berth, "/data/seed");
    // The same of an image that is only mounted.
    berth.ok(&["rm", "-f", "web"]);
    let mounted = format!(
        "rootfs = \"/\"\ncommand = [\"sleep\", \"1000\"]\n\
         [[mount]]\nsource = \"{name}\"\ntarget = \"/i\"\ntype = \"image\"\n"
    );
    berth.write("web.toml", &mounted);
    berth.wait("it to run", || berth.cli(&["exec", "web", "cat", "/i/data/seed"]).status.success());
    is_kept_while_its_config_is_damaged(&berth, "/i/data/seed");
}

/// Nothing of the one image that is there goes while the container `web` runs with it.
fn is_kept_while_its_config_is_damaged(berth: &Berth, file: &str) {
    let cat = || berth.ok(&["exec", "web", "cat", file]);
    let blobs = berth.path("var/lib/berth/images/blobs/sha256");
    let id = berth.ok(&["images", "-q", "--no-trunc"]).trim().to_owned();
    let config = blobs.join(&id["sha256:".len()..]);
    let whole_config = fs::read(&config).unwrap();
    fs::write(&config, b"damaged").unwrap();
    // What runs needs nothing of it any more, also under an engine that comes after.
    assert_eq!(cat(), "seed\n");
    kill(berth.engine_pid().unwrap(), 9);
    assert_eq!(cat(), "seed\n");
    let layers = || fs::read_dir(berth.path("var/lib/berth/layers/sha256")).unwrap().count();
    let before = layers();
    let pruned = berth.cli(&["prune", "-f", "-a"]);
    let said = String::from_utf8_lossy(&pruned.stderr).into_owned();
    assert!(!pruned.status.success() && said.contains("web"), "{said}");
    assert_eq!(layers(), before);
    fs::write(&config, whole_config).unwrap();
    berth.ok(&["prune", "-f", "-a"]);
    whole(berth);
    assert_eq!(cat(), "seed\n");
}

/// The engine is killed while a volume is filled: in the end all is in it, and what a
/// container wrote into it as well.
#[test]
fn a_kill_while_a_volume_is_filled_is_made_good() {
    const FILES: usize = 1500;
    let mut berth = Berth::new();
    let mut tar = root().dir("many", 0);
    for n in 0..FILES {
        tar = tar.file(&format!("many/{n}"), b"content\n");
    }
    fs::write(berth.path("many.tar"), tar.bytes()).unwrap();
    berth.up();
    let path = berth.path("many.tar").display().to_string();
    berth.ok(&["import", "--change", "VOLUME /many", &path, "many:1"]);
    let script = "echo mine > /many/mine; cat /many/* | wc -l; sleep 1000";
    let volumes = berth.path("var/lib/berth/volumes");
    for round in 0..5u64 {
        let name = format!("c{round}");
        // As it is created, nothing is filled yet.
        berth.ok(&["create", "--name", &name, "many:1", "sh", "-c", script]);
        let mut starting = start(&berth, &["start", &name]);
        // At once after a copy was begun, and then ever later.
        let begun = Instant::now();
        let copying = || {
            let folders = fs::read_dir(&volumes).into_iter().flatten().flatten();
            folders.into_iter().any(|folder| {
                ["seed.new", "seed", "_data/0"].iter().any(|at| folder.path().join(at).exists())
            })
        };
        while !copying() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(round * 25));
        if let Some(engine) = berth.engine_pid() {
            kill(engine, 9);
        }
        starting.wait().unwrap();
        berth.wait("the API to answer", || berth.cli(&["ps"]).status.success());
        let _ = berth.cli(&["start", &name]);
        berth.wait_log(&name, &(FILES + 1).to_string());
        berth.ok(&["rm", "-f", "-v", &name]);
    }
    for folder in fs::read_dir(&volumes).unwrap() {
        let names: Vec<_> = fs::read_dir(folder.unwrap().path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(!names.iter().any(|name| name == "seed"), "{names:?}");
    }
}

/// A container that swaps a path for a link while files are copied to it and from it
/// gets nothing of the host's, and changes nothing there.
#[test]
fn a_container_that_swaps_paths_meanwhile_reaches_nothing_outside() {
    let berth = Berth::up_with(&[]);
    fs::write(berth.path("base.tar"), root().bytes()).unwrap();
    berth.ok(&["import", &berth.path("base.tar").display().to_string(), "base"]);
    let secret = berth.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "the host's").unwrap();
    let script = format!(
        "mkdir -p /a/d /b; echo own > /a/d/file; while :; do \
         /bin/busybox mv /a/d /a/e; ln -s {0} /a/d; rm /a/d; /bin/busybox mv /a/e /a/d; done",
        secret.display()
    );
    berth.ok(&["run", "-d", "--name", "web", "base", "sh", "-c", &script]);
    fs::write(berth.path("in"), Tar::default().file("file", b"written").bytes()).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let out = berth.cli(&["cp", "web:/a/d/file", "-"]);
        assert!(!String::from_utf8_lossy(&out.stdout).contains("the host's"));
        let mine = berth.path("mine").display().to_string();
        fs::write(&mine, "written").unwrap();
        berth.cli(&["cp", &mine, "web:/a/d/file"]);
        assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "the host's");
        assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
    }
}
