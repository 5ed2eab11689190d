//! Images as a person uses them: brought in, listed, run, changed, committed, sent away,
//! copied in and out. Against Debian's registry, and with podman, skopeo and umoci
//! where they are installed.

#[path = "images/registries.rs"]
mod registries;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::images::{Tar, gzip, has, root, serve_file, tool};
use support::registry::{Kind, Registry};
use support::{Berth, binary, shell};

/// A Berth with the image `base`, which has `/data` as a volume only if wanted.
fn with_base(changes: &[&str]) -> Berth {
    let berth = Berth::up_with(&[]);
    fs::write(berth.path("base.tar"), root().bytes()).unwrap();
    let path = berth.path("base.tar").display().to_string();
    let mut args = vec!["import", "--message", "made here"];
    for change in changes {
        args.extend(["--change", change]);
    }
    args.extend([path.as_str(), "base:1"]);
    assert!(berth.ok(&args).starts_with("sha256:"));
    berth
}

/// Runs the command line with a body on standard input, or as somebody else.
fn piped(berth: &Berth, args: &[&str], input: &[u8], env: &[(&str, &str)]) -> (bool, String) {
    use std::io::Write;
    let mut command = Command::new(binary());
    command.arg("--root").arg(berth.root()).args(args).envs(env.iter().copied());
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn images(berth: &Berth) -> Vec<Value> {
    serde_json::from_str(&berth.ok(&["images", "--format", "json"])).unwrap()
}

fn layers(berth: &Berth, image: &str) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(&berth.ok(&["inspect", image])).unwrap();
    let layers = list[0]["RootFS"]["Layers"].as_array().unwrap();
    layers.iter().map(|layer| layer.as_str().unwrap().to_owned()).collect()
}

#[test]
fn images_are_named_listed_and_removed() {
    let berth = with_base(&["CMD [\"cat\", \"/data/seed\"]"]);
    berth.ok(&["tag", "base:1", "quay.example/shop/web:2"]);
    let text = berth.ok(&["images"]);
    assert!(text.starts_with("REPOSITORY"), "{text}");
    assert!(text.contains("base ") && text.contains("quay.example/shop/web"), "{text}");
    assert_eq!(berth.ok(&["images", "-q"]).lines().count(), 1);
    let text = berth.ok(&["images", "--digests", "quay.example/shop/*"]);
    assert!(text.contains("sha256:") && text.lines().count() == 2, "{text}");
    assert!(berth.ok(&["history", "base:1"]).contains("made here"));
    assert_eq!(berth.ok(&["run", "--rm", "base:1"]), "seed\n");
    // By name, by id, and by the beginning of an id.
    let id = berth.ok(&["images", "-q", "--no-trunc"]).trim().to_owned();
    for name in [&id, &id["sha256:".len()..][..12]] {
        assert!(berth.ok(&["inspect", name]).contains(&id));
    }
    assert_eq!(
        berth.ok(&["rmi", "quay.example/shop/web:2"]),
        "Untagged: quay.example/shop/web:2\n"
    );
    let said = berth.ok(&["rmi", "base:1"]);
    assert!(said.contains("Untagged: base:1") && said.contains("Deleted: sha256:"), "{said}");
    let gone = berth.cli(&["rmi", "base:1"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("No such image"));
    assert!(berth.cli(&["rmi", "-f", "base:1"]).status.success());
    assert!(images(&berth).is_empty());
    let usage: Value = serde_json::from_str(&berth.ok(&["df", "--format", "json"])).unwrap();
    assert_eq!(usage["kinds"][0]["size"], 0, "{usage}");
}

#[test]
fn a_root_is_imported_from_everywhere() {
    let berth = Berth::up_with(&[]);
    let tar = root().bytes();
    let (zipped, zst) = (gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap());
    for (name, bytes) in [("a.tar", &tar), ("a.tar.gz", &zipped), ("a.tar.zst", &zst)] {
        fs::write(berth.path(name), bytes).unwrap();
        let path = berth.path(name).display().to_string();
        berth.ok(&["import", &path, &format!("from/{name}")]);
        assert_eq!(
            berth.ok(&["run", "--rm", &format!("from/{name}"), "cat", "/data/seed"]),
            "seed\n"
        );
    }
    let (good, said) = piped(&berth, &["import", "-", "from/stdin"], &zipped, &[]);
    assert!(good, "{said}");
    berth.ok(&["import", &serve_file(zipped.clone()), "from/url"]);
    // One layer, however it came.
    for name in ["from/a.tar.zst", "from/stdin", "from/url"] {
        assert_eq!(layers(&berth, name), layers(&berth, "from/a.tar"));
    }
    let (good, said) = piped(&berth, &["import", "-", "bad"], b"no archive at all", &[]);
    assert!(!good && !said.is_empty(), "{said}");
}

/// Pull, run, change, commit, push, pull elsewhere, run.
#[test]
fn a_change_goes_around() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let berth = with_base(&[]);
    let base = format!("{}/shop/base:1", registry.host());
    berth.ok(&["tag", "base:1", &base]);
    let said = berth.ok(&["push", &base]);
    assert!(said.contains("Pushed") && said.contains("digest: sha256:"), "{said}");
    // What is there is not sent again.
    assert!(berth.ok(&["push", &base]).contains("already exists"));
    berth.ok(&["rmi", "base:1", &base]);
    berth.ok(&["prune", "-f"]);
    let said = berth.ok(&["pull", &base]);
    assert!(said.contains("Pull complete") && said.ends_with(&format!("{base}\n")), "{said}");
    assert_eq!(berth.ok(&["pull", "-q", &base]), format!("{base}\n"));

    let script = "echo changed > /new; ln /new /tmp/hard; rm /etc/group; mkdir /d; sleep 1000";
    berth.ok(&["run", "-d", "--name", "web", &base, "sh", "-c", script]);
    berth.wait("the changes", || berth.ok(&["diff", "web"]).contains("A /d"));
    let told = berth.ok(&["diff", "web"]);
    assert_eq!(told, "A /d\nC /etc\nD /etc/group\nA /new\nC /tmp\nA /tmp/hard\n");
    let changed = format!("{}/shop/changed:1", registry.host());
    let change = "CMD [\"sh\", \"-c\", \"cat /new /tmp/hard; ls /etc/group\"]";
    berth.ok(&["commit", "-a", "me", "-m", "a note", "-c", change, "web", &changed]);
    // The same content, the same bytes.
    berth.ok(&["commit", "--pause=false", "web", "again:1"]);
    assert_eq!(layers(&berth, "again:1"), layers(&berth, &changed));
    assert!(berth.ok(&["history", &changed]).contains("a note"));
    assert_eq!(berth.status("web"), "running");
    berth.ok(&["push", &changed]);

    let elsewhere = Berth::up_with(&[]);
    elsewhere.ok(&["pull", &changed]);
    let output = elsewhere.cli(&["run", "--rm", &changed]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "changed\nchanged\n");
    assert!(!output.status.success(), "what was deleted is there");

    if has("skopeo") && has("umoci") {
        let work = tempfile::tempdir().unwrap();
        let layout = format!("oci:{}:x", work.path().join("oci").display());
        let from = format!("docker://{changed}");
        tool("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &layout]);
        let image = format!("{}:x", work.path().join("oci").display());
        let bundle = work.path().join("bundle").display().to_string();
        tool("umoci", &["unpack", "--image", &image, &bundle]);
        let root = work.path().join("bundle/rootfs");
        assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "changed\n");
        assert!(!root.join("etc/group").exists());
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(root.join("new")).unwrap().nlink(), 2);
    }
    if has("podman") {
        let work = tempfile::tempdir().unwrap();
        fs::write(work.path().join("containers.conf"), "[containers]\ndefault_ulimits = []\n")
            .unwrap();
        let podman = |args: &[&str]| {
            let place = work.path();
            Command::new("podman")
                .env("CONTAINERS_CONF", place.join("containers.conf"))
                .arg("--root")
                .arg(place.join("root"))
                .arg("--runroot")
                .arg(place.join("run"))
                .args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"])
                .args(args)
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        let pulled = podman(&["pull", "-q", "--tls-verify=false", &changed]);
        assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
        let seen = podman(&["inspect", "--format", "{{json .RootFS.Layers}}", &changed]);
        let seen: Vec<String> = serde_json::from_slice(&seen.stdout).unwrap();
        assert_eq!(seen, layers(&berth, &changed));
        let _ = Command::new("umount").arg("-l").arg(work.path().join("root/overlay")).output();
    }
}

#[test]
fn files_are_copied_in_and_out() {
    let berth = with_base(&[]);
    berth.ok(&["run", "-d", "--name", "web", "base:1", "sleep", "1000"]);
    let here = |name: &str| berth.path(name).display().to_string();
    let cat = |path: &str| berth.ok(&["exec", "web", "cat", path]);
    fs::create_dir_all(berth.path("tree/sub")).unwrap();
    fs::write(berth.path("tree/sub/file"), "deep").unwrap();
    fs::write(berth.path("file"), "flat").unwrap();
    berth.ok(&["cp", &here("file"), "web:/tmp"]);
    berth.ok(&["cp", &here("file"), "web:/tmp/other"]);
    berth.ok(&["cp", &here("tree"), "web:/tmp"]);
    berth.ok(&["cp", &here("tree/."), "web:/fresh"]);
    for path in ["/tmp/file", "/tmp/other"] {
        assert_eq!(cat(path), "flat");
    }
    for path in ["/tmp/tree/sub/file", "/fresh/sub/file"] {
        assert_eq!(cat(path), "deep");
    }
    berth.ok(&["cp", "web:/tmp/tree", &here("out")]);
    assert_eq!(fs::read_to_string(berth.path("out/sub/file")).unwrap(), "deep");
    berth.ok(&["cp", "web:/tmp/tree", &here("out")]);
    assert_eq!(fs::read_to_string(berth.path("out/tree/sub/file")).unwrap(), "deep");
    berth.ok(&["cp", "web:/data/seed", &here("renamed")]);
    assert_eq!(fs::read_to_string(berth.path("renamed")).unwrap(), "seed\n");
    let (good, said) =
        piped(&berth, &["cp", "-", "web:/tmp"], &Tar::default().file("piped", b"in").bytes(), &[]);
    assert!(good, "{said}");
    let archive = berth.cli(&["cp", "web:/tmp/piped", "-"]).stdout;
    let mut archive = tar::Archive::new(&archive[..]);
    let names: Vec<_> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [std::path::PathBuf::from("piped")]);
    for (from, to) in [("web:/none", "x"), ("web:/tmp/file", "none/x/"), ("none:/x", "x")] {
        let to = here(to);
        assert_eq!(berth.cli(&["cp", from, &to]).status.code(), Some(1), "{from}");
    }
    // What is not running has files, too; and what never ran. What comes in is there at the
    // next start, also in place of what was read before.
    assert_eq!(berth.ok(&["exec", "web", "cat", "/data/seed"]), "seed\n");
    berth.ok(&["stop", "-t", "0", "web"]);
    berth.ok(&["cp", &here("file"), "web:/data/seed"]);
    berth.ok(&["start", "web"]);
    assert_eq!(berth.ok(&["exec", "web", "cat", "/data/seed"]), "flat");
    berth.ok(&["stop", "-t", "0", "web"]);
    berth.ok(&["cp", &here("file"), "web:/tmp/later"]);
    berth.ok(&["cp", "web:/tmp/later", &here("later")]);
    assert_eq!(fs::read_to_string(berth.path("later")).unwrap(), "flat");
    berth.ok(&["create", "--name", "new", "base:1", "cat", "/tmp/early"]);
    berth.ok(&["cp", &here("file"), "new:/tmp/early"]);
    berth.ok(&["commit", "new", "early:1"]);
    assert_eq!(berth.ok(&["run", "--rm", "early:1"]), "flat");
    berth.ok(&["start", "new"]);
    berth.wait_log("new", "flat");
    let all = berth.cli(&["export", "web"]).stdout;
    assert!(tar::Archive::new(&all[..]).entries().unwrap().count() > 10);
}

/// What is copied to a container before its first launch is in its volumes, beside what
/// the image has there; and the image that an id names stays.
#[test]
fn files_are_copied_into_volumes_before_the_first_launch() {
    let berth = with_base(&["VOLUME /data"]);
    let id = berth.ok(&["images", "-q", "--no-trunc"]).trim().to_owned();
    fs::write(berth.path("file"), "flat").unwrap();
    let file = berth.path("file").display().to_string();
    let show = "cat /data/seed /data/file /mine/file; stat -c %u /data; ls /mine";
    berth.ok(&["create", "--name", "new", "-v", "mine:/mine", &id, "sh", "-c", show]);
    berth.ok(&["rmi", "-f", "base:1"]);
    berth.ok(&["prune", "-f", "-a"]);
    berth.ok(&["cp", &file, "new:/data/file"]);
    berth.ok(&["cp", &file, "new:/mine/file"]);
    // Its volumes are in use, though it was never launched.
    prune_volumes(&berth);
    berth.ok(&["start", "new"]);
    berth.wait_log("new", "1000\nfile");
    assert_eq!(berth.logs("new"), "seed\nflatflat1000\nfile\n");
    // Also where it rests; and a volume without its source is no reason to give nothing.
    berth.wait("its end", || berth.status("new") == "exited");
    let out = berth.path("out").display().to_string();
    berth.ok(&["cp", "new:/data/seed", &out]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "seed\n");
    let from = berth.path("from");
    fs::create_dir(&from).unwrap();
    let bind = format!("{}:/there", from.display());
    berth.ok(&["create", "--name", "bound", "-v", &bind, &id, "true"]);
    berth.ok(&["cp", &file, "bound:/there/file"]);
    assert_eq!(fs::read_to_string(from.join("file")).unwrap(), "flat");
    fs::remove_dir_all(&from).unwrap();
    berth.ok(&["cp", "bound:/data/seed", &out]);
    assert!(!berth.cli(&["cp", "bound:/there/file", &out]).status.success());
    berth.ok(&["rm", "-v", "new"]);
    berth.ok(&["rm", "-v", "bound"]);
    let volumes = fs::read_dir(berth.path("var/lib/berth/volumes")).unwrap();
    let names: Vec<_> = volumes.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["mine"]);
}

/// The files of an image that a container has mounted can be looked at while it rests and
/// not changed; and what it is to mount next can't be removed under it.
#[test]
fn a_mounted_image_is_there_for_copies_and_kept() {
    let berth = with_base(&[]);
    let mount = "[[mount]]\nsource = \"base:1\"\ntarget = \"/i\"\ntype = \"image\"\n";
    let of = |first: &str, rest: &str| format!("{first}\n{}\n{rest}", shell("echo up; sleep 1000"));
    berth.write("never.toml", &of("if-exists = [\"/no/such\"]", mount));
    berth.write("web.toml", &of("", ""));
    berth.wait_log("web", "up");
    berth.wait("its record", || berth.cli(&["inspect", "never"]).status.success());
    let out = berth.path("out").display().to_string();
    berth.ok(&["cp", "never:/i/data/seed", &out]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "seed\n");
    let said = berth.cli(&["cp", &out, "never:/i/data/new"]);
    let said = (said.status.success(), String::from_utf8_lossy(&said.stderr).to_lowercase());
    assert!(!said.0 && said.1.contains("read-only"), "{said:?}");
    berth.remove("never.toml");
    berth.wait("it to be gone", || !berth.cli(&["inspect", "never"]).status.success());

    // One that runs is to have it at its next launch.
    let removed = || berth.cli(&["rmi", "base:1"]).status.success();
    berth.write("web.toml", &of("", mount));
    berth.wait("it to run with it", || {
        berth.cli(&["exec", "web", "cat", "/i/data/seed"]).status.success()
    });
    assert!(!removed());
    // Without it once more it is free again.
    berth.write("web.toml", &of("", ""));
    berth.wait("it to run without it", || {
        berth.cli(&["exec", "web", "sh", "-c", "! test -e /i/data"]).status.success()
    });
    assert!(removed());
}

#[test]
fn archives_go_both_ways() {
    let berth = with_base(&["CMD [\"cat\", \"/data/seed\"]"]);
    let id = images(&berth)[0]["Id"].clone();
    for format in ["both", "oci", "docker"] {
        let file = berth.path(&format!("{format}.tar")).display().to_string();
        let mut args = vec!["save", "-o", &file];
        if format != "both" {
            args.extend(["--format", format]);
        }
        args.push("base:1");
        berth.ok(&args);
        berth.ok(&["rmi", "base:1"]);
        assert_eq!(berth.ok(&["load", "-i", &file]), "Loaded image: base:1\n");
        assert_eq!(images(&berth)[0]["Id"], id, "{format}");
        assert_eq!(berth.ok(&["run", "--rm", "base:1"]), "seed\n");
        if has("skopeo") {
            let work = tempfile::tempdir().unwrap();
            let kind = if format == "oci" { "oci-archive" } else { "docker-archive" };
            let (from, to) = (format!("{kind}:{file}"), work.path().join("a.tar"));
            for kind in ["oci-archive", "docker-archive"] {
                let to = format!("{kind}:{}:via/{kind}:1", to.display());
                tool("skopeo", &["copy", "-q", &from, &to]);
                let path = to.split(':').nth(1).unwrap().to_owned();
                let said = berth.ok(&["load", "-i", &path]);
                assert!(said.contains("Loaded image"), "{said}");
                fs::remove_file(&path).unwrap();
            }
        }
    }
    assert_eq!(berth.cli(&["save", "none"]).status.code(), Some(1));
}

/// Berth runs, and others read its store as the OCI layout that it is.
#[test]
fn others_read_the_store_while_berth_runs() {
    let berth = with_base(&["LABEL here=there"]);
    let layout = berth.path("var/lib/berth/images").display().to_string();
    let image = format!("oci:{layout}:docker.io/library/base:1");
    if has("skopeo") {
        assert!(tool("skopeo", &["inspect", &image]).contains("there"));
    }
    if has("umoci") {
        assert!(tool("umoci", &["ls", "--layout", &layout]).contains("base:1"));
        let image = format!("{layout}:docker.io/library/base:1");
        assert!(tool("umoci", &["stat", "--image", &image]).contains("LAYER"));
    }
    if has("buildah") {
        let work = tempfile::tempdir().unwrap();
        let (root, run) = (work.path().join("root"), work.path().join("run"));
        let (root, run) = (root.display().to_string(), run.display().to_string());
        let args = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        // It makes a name of the path, which must be in lower case.
        let plain = std::env::temp_dir().join(format!("berth-layout-{}", std::process::id()));
        std::os::unix::fs::symlink(&layout, &plain).unwrap();
        let image = format!("oci:{}:docker.io/library/base:1", plain.display());
        let pulled = std::panic::catch_unwind(|| {
            tool("buildah", &[&args[..], &["pull", "-q", &image]].concat())
        });
        fs::remove_file(&plain).unwrap();
        assert!(pulled.is_ok());
    }
    assert_eq!(berth.ok(&["verify"]), "all images and layers are whole\n");
}

#[test]
fn a_clone_has_the_files_and_its_own_life() {
    let berth = with_base(&["VOLUME /data"]);
    let script = "test -e /tmp/was || echo first > /tmp/was; echo v >> /data/v; sleep 1000";
    berth.ok(&["run", "-d", "--name", "web", "base:1", "sh", "-c", script]);
    berth.wait("it to write", || berth.ok(&["diff", "web"]).contains("/tmp/was"));
    berth.ok(&["clone", "--start", "web", "twin"]);
    assert_eq!(berth.status("web"), "running");
    assert_eq!(berth.ok(&["exec", "twin", "cat", "/tmp/was"]), "first\n");
    berth.wait("its own volume", || berth.ok(&["exec", "twin", "cat", "/data/v"]) == "v\nv\n");
    assert_eq!(berth.ok(&["exec", "web", "cat", "/data/v"]), "v\n");
    berth.ok(&["exec", "twin", "rm", "/tmp/was"]);
    assert_eq!(berth.ok(&["exec", "web", "cat", "/tmp/was"]), "first\n");
    assert_eq!(berth.cli(&["clone", "web", "twin"]).status.code(), Some(1));
    // One that was never launched has its image and its volumes, too.
    berth.ok(&["clone", "web", "later"]);
    prune_volumes(&berth);
    let image = |name: &str| berth.inspect(name)["Image"].clone();
    assert_eq!(image("later"), image("web"));
    berth.ok(&["start", "later"]);
    berth.wait("its own volume", || berth.ok(&["exec", "later", "cat", "/data/v"]) == "v\nv\n");
}

/// All that no container uses, whatever its name.
fn prune_volumes(berth: &Berth) {
    let socket = berth.path("run/berth/berth.sock");
    let all = "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D";
    assert_eq!(support::http::request(&socket, "POST", all, None).status, 200);
}

#[test]
fn volumes_begin_with_what_the_image_has() {
    let berth = with_base(&["VOLUME /data"]);
    let volumes = || {
        let mut names: Vec<String> = fs::read_dir(berth.path("var/lib/berth/volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let show = "cat /data/seed; stat -c %u /data";
    assert_eq!(berth.ok(&["run", "--rm", "base:1", "sh", "-c", show]), "seed\n1000\n");
    berth.wait("its volume to go with it", || volumes().is_empty());
    // A named one, too, and it stays; what was emptied since is not filled at a restart.
    berth.ok(&["run", "--rm", "-v", "kept:/data", "base:1", "sh", "-c", "echo more >> /data/seed"]);
    let text = berth.ok(&["run", "--rm", "-v", "kept:/data", "base:1", "cat", "/data/seed"]);
    assert_eq!(text, "seed\nmore\n");
    assert_eq!(volumes(), ["kept"]);
    berth.ok(&["run", "-d", "--name", "web", "base:1", "sh", "-c", "rm /data/seed; sleep 1000"]);
    berth.wait("it to be empty", || berth.ok(&["exec", "web", "ls", "/data"]).is_empty());
    berth.ok(&["restart", "-t", "0", "web"]);
    berth.wait_status("web", "running");
    assert_eq!(berth.ok(&["exec", "web", "ls", "/data"]), "");
    assert_eq!(volumes().len(), 2);
    let shared = ["run", "--rm", "--volumes-from", "web", "base:1", "sh", "-c"];
    berth.ok(&[&shared[..], &["echo from another > /data/mine"]].concat());
    assert_eq!(berth.ok(&["exec", "web", "cat", "/data/mine"]), "from another\n");
    assert_eq!(volumes().len(), 2);
    berth.ok(&["rm", "-f", "-v", "web"]);
    assert_eq!(volumes(), ["kept"]);
}

#[test]
fn an_archive_is_a_root_and_is_imported_once() {
    let berth = Berth::new();
    let archive = berth.manifests().join("app.tar.gz");
    fs::write(&archive, gzip(&root().bytes())).unwrap();
    let manifest = "rootfs = \"./app.tar.gz\"\ncommand = [\"sh\", \"-c\", \"cat /data/seed; sleep 1000\"]\n\
                    stop = { timeout = \"1s\" }\n";
    let mut berth = berth;
    berth.write("one.toml", manifest);
    berth.write("two.toml", manifest);
    berth.up();
    for name in ["one", "two"] {
        berth.wait_log(name, "seed");
    }
    assert_eq!(images(&berth).len(), 1);
    berth.ok(&["exec", "one", "sh", "-c", "echo mine > /tmp/mine"]);
    berth.ok(&["restart", "one"]);
    berth.wait_status("one", "running");
    assert_eq!(berth.ok(&["exec", "one", "cat", "/tmp/mine"]), "mine\n");
    // Another content is another root, from the next launch on.
    let changed = gzip(&root().file("data/more", b"more\n").bytes());
    let mut next = tempfile::NamedTempFile::new_in(berth.manifests()).unwrap();
    std::io::Write::write_all(&mut next, &changed).unwrap();
    next.persist(&archive).unwrap();
    berth.ok(&["restart", "one"]);
    berth.wait_status("one", "running");
    assert_eq!(berth.ok(&["exec", "one", "cat", "/data/more"]), "more\n");
    assert!(!berth.cli(&["exec", "one", "cat", "/tmp/mine"]).status.success());
    assert!(!berth.cli(&["exec", "two", "cat", "/data/more"]).status.success());
}

/// An image without `/proc`, `/etc` and the like gets places for the mounts; they are no
/// changes.
#[test]
fn places_for_mounts_are_no_changes() {
    let berth = Berth::up_with(&[]);
    let busybox = fs::read("/bin/busybox").unwrap();
    let bare = Tar::default().dir("bin/", 0).file("bin/busybox", &busybox);
    let bare = bare.link("bin/sh", "busybox", tar::EntryType::Symlink);
    fs::write(berth.path("bare.tar"), bare.bytes()).unwrap();
    berth.ok(&["import", &berth.path("bare.tar").display().to_string(), "bare"]);
    let run =
        ["run", "-d", "--name", "web", "-v", "v:/mnt/v", "bare", "sh", "-c", "busybox sleep 1000"];
    berth.ok(&run);
    assert_eq!(berth.ok(&["diff", "web"]), "");
    berth.ok(&["commit", "web", "empty"]);
    berth.ok(&["exec", "web", "sh", "-c", "echo x > /mnt/x"]);
    assert_eq!(berth.ok(&["diff", "web"]), "A /mnt\nA /mnt/x\n");
    let file = berth.path("empty.tar").display().to_string();
    berth.ok(&["save", "-o", &file, "empty"]);
    // The layer of no change holds nothing.
    let layer = layers(&berth, "empty").pop().unwrap();
    let folder = berth.path("var/lib/berth/layers/sha256").join(&layer["sha256:".len()..]);
    assert_eq!(fs::read_dir(folder.join("fs")).unwrap().count(), 0);
}

/// An image that another tool made with hard links to a lower layer, a directory without
/// an entry, and a layer that hides all below it, runs as it was meant.
#[test]
fn layers_that_need_those_below_run() {
    use serde_json::json;
    let berth = Berth::up_with(&[]);
    let base = root().dir("deep/", 7).file("deep/file", b"deep\n").bytes();
    let top = Tar::default()
        .file("deep/own", b"own\n")
        .link("linked", "deep/file", tar::EntryType::Link)
        .bytes();
    let (first, second) = (sha(&base), sha(&top));
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [first, second] } });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["odd:1"],
        "Layers": ["1.tar", "2.tar"] }]);
    let archive = Tar::default()
        .file("config.json", &config)
        .file("1.tar", &base)
        .file("2.tar", &top)
        .file("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    fs::write(berth.path("odd.tar"), archive.bytes()).unwrap();
    berth.ok(&["load", "-i", &berth.path("odd.tar").display().to_string()]);
    let script = "cat /linked /deep/own; stat -c '%u %h' /deep/file /deep";
    let text = berth.ok(&["run", "--rm", "odd:1", "sh", "-c", script]);
    assert!(text.starts_with("deep\nown\n0 2\n7 "), "{text}");
    assert_eq!(berth.ok(&["verify"]), "all images and layers are whole\n");
}

fn sha(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
