//! One manifest with its drop-ins, from bytes to containers. Reading is careful:
//! what is in the directory may be anything.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{Container, MountKind, NetworkFile};
use super::network::{RESERVED_NETWORKS, is_network_name};
use super::node::{DEPTH_MAX, Entry, Node, Spot, Value, nests_too_deep};
use super::problem::{Fault, Problem};
use super::scalar::Name;
use super::{decode, read_kdl, read_toml, validate};

/// A manifest is read up to this size.
pub(super) const SIZE_MAX: u64 = 1 << 20;

/// What a manifest and its drop-ins are, before anything is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// The manifest.
    pub path: PathBuf,
    /// Its drop-ins, in the order in which they are laid over it.
    pub drop_ins: Vec<PathBuf>,
}

/// What a manifest defines.
#[derive(Debug, Clone, Default)]
pub(super) struct Parsed {
    /// Tells one content from another.
    pub hash: u64,
    /// The containers of it.
    pub containers: Vec<(Name, Arc<Container>)>,
    /// What is wrong with it; then it defines nothing.
    pub problems: Vec<Problem>,
    /// The names that it would define, as far as that can be told.
    pub names: Vec<Name>,
    /// The networks of it.
    pub networks: Vec<(String, Arc<NetworkFile>)>,
    /// The networks that it would define, as far as that can be told.
    pub network_names: Vec<String>,
}

/// What the name of a file ends with that declares a network.
const NETWORK: &str = ".network";

/// The name of a manifest without its ending, if it is one: only `*.toml` and
/// `*.kdl` count, and what begins with a dot does not.
pub(super) fn stem(file: &str) -> Option<&str> {
    if file.starts_with(['.', '#']) {
        return None;
    }
    file.strip_suffix(".toml").or_else(|| file.strip_suffix(".kdl"))
}

impl Unit {
    /// Reads it again. `None` when nothing differs from `hash`.
    pub fn read(&self, hash: Option<u64>) -> Option<Parsed> {
        let files: Vec<_> = std::iter::once(&self.path).chain(&self.drop_ins).collect();
        let texts: Vec<_> = files.iter().map(|path| read_text(path)).collect();
        let mut hasher = DefaultHasher::new();
        (&files, &texts).hash(&mut hasher);
        let now = hasher.finish();
        if hash == Some(now) {
            return None;
        }
        let mut parsed = Parsed { hash: now, ..Parsed::default() };
        let mut sources = Vec::new();
        for (path, text) in files.iter().zip(texts) {
            match text {
                Ok(text) => sources.push((path.as_path(), text)),
                Err((message, hint)) => {
                    parsed.problems.push(Problem::of_file(path, message, hint));
                }
            }
        }
        let name = self.path.file_name().and_then(|name| name.to_str()).and_then(stem);
        match name.and_then(|name| name.strip_suffix(NETWORK)) {
            Some(network) => parsed.network_names = vec![network.to_owned()],
            None => {
                let name = name.and_then(|name| name.trim_end_matches('@').parse().ok());
                parsed.names = name.into_iter().collect();
            }
        }
        if parsed.problems.is_empty() {
            let mut faults = Vec::new();
            self.understand(&sources, &mut parsed, &mut faults);
            parsed.problems.extend(faults.into_iter().map(|fault| {
                let (path, text) = &sources[fault.spot.file.min(sources.len() - 1)];
                Problem::of_fault(fault, path, text)
            }));
        }
        if !parsed.problems.is_empty() {
            parsed.containers.clear();
            parsed.networks.clear();
        }
        Some(parsed)
    }

    fn understand(
        &self,
        sources: &[(&Path, String)],
        parsed: &mut Parsed,
        faults: &mut Vec<Fault>,
    ) {
        let Some(mut tree) = tree_of(sources, faults) else {
            return;
        };
        let networks = self.networks(&mut tree, faults);
        let is_only_networks = !networks.is_empty() && tree.entries().is_empty();
        if !networks.is_empty() {
            parsed.network_names.clear();
        }
        for (name, spot, node) in networks {
            network(name, spot, node, parsed, faults);
        }
        if is_only_networks || !parsed.network_names.is_empty() && parsed.names.is_empty() {
            parsed.names.clear();
            return;
        }
        let mut containers = Vec::new();
        let mut names = Vec::new();
        for (name, spot, node) in self.split(tree, faults) {
            let name: Name = match name.parse() {
                Ok(name) => name,
                Err(message) => {
                    faults.push(Fault { spot, message, hint: None });
                    continue;
                }
            };
            names.push(name.clone());
            let (mut container, wrong) = decode::decode::<Container>(node.clone());
            if container.only_names_others() {
                container.kind = super::service::Kind::Target;
            }
            let is_sound = wrong.is_empty();
            faults.extend(wrong);
            resolve_paths(&mut container, self.path.parent().unwrap_or(Path::new("/")));
            // What could not be read would only be missed here.
            if is_sound {
                faults.extend(validate::alone(&container).into_iter().map(|objection| Fault {
                    spot: spot_of(&node, &objection.key).unwrap_or_else(|| spot.clone()),
                    message: match objection.key.split_once(' ') {
                        Some((_, rest)) => format!("`{rest}`: {}", objection.message),
                        None => format!("`{}`: {}", objection.key, objection.message),
                    },
                    hint: objection.hint,
                }));
            }
            containers.push((name, Arc::new(container)));
        }
        if !names.is_empty() {
            parsed.names = names;
        }
        parsed.containers = containers;
    }

    /// The networks of a file: one under the file's name, or those below `network`
    /// beside containers by name, or alone.
    fn networks(&self, tree: &mut Node, faults: &mut Vec<Fault>) -> Vec<(String, Spot, Node)> {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(name) = stem(file).and_then(|stem| stem.strip_suffix(NETWORK)) {
            let whole = Node::new(tree.spot.clone(), Value::Table(Vec::new()));
            let whole = std::mem::replace(tree, whole);
            return vec![(name.to_owned(), Spot { file: 0, span: 0..0 }, whole)];
        }
        let is_named =
            tree.entries().iter().all(|e| matches!(e.key.as_str(), "network" | "container"));
        if !is_named {
            return Vec::new();
        }
        let Some(named) = tree.take("network") else { return Vec::new() };
        match named.node.value {
            Value::Table(entries)
                if entries.iter().all(|entry| matches!(entry.node.value, Value::Table(_))) =>
            {
                entries.into_iter().map(|Entry { key, spot, node }| (key, spot, node)).collect()
            }
            _ => {
                faults.push(Fault {
                    spot: named.spot,
                    message: "`network` holds networks by name here".to_owned(),
                    hint: Some(
                        "write [network.back], or put it into one of the containers".to_owned(),
                    ),
                });
                Vec::new()
            }
        }
    }

    /// A problem of one of its containers at the key that it is about. `None` when the
    /// files are no longer what was understood, or have no such key.
    pub fn locate(
        &self,
        name: &Name,
        key: &str,
        fault: (String, Option<String>),
    ) -> Option<Problem> {
        let sources: Vec<_> = std::iter::once(&self.path)
            .chain(&self.drop_ins)
            .map(|path| Some((path.as_path(), read_text(path).ok()?)))
            .collect::<Option<_>>()?;
        let mut faults = Vec::new();
        let tree = tree_of(&sources, &mut faults)?;
        let (_, _, node) =
            self.split(tree, &mut faults).into_iter().find(|(other, ..)| other == name.as_str())?;
        let spot = spot_of(&node, key)?;
        let (path, text) = sources.get(spot.file)?;
        let (message, hint) = fault;
        Some(Problem::of_fault(Fault { spot, message, hint }, path, text))
    }

    /// The containers of a file: one under the file's name, the ones below
    /// `container`, or the instances of a template.
    fn split(&self, mut tree: Node, faults: &mut Vec<Fault>) -> Vec<(String, Spot, Node)> {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = stem(file).unwrap_or(file);
        let top = Spot { file: 0, span: 0..0 };
        if let Some(instances) = tree.take("instances") {
            let Some(template) = stem.strip_suffix('@') else {
                faults.push(Fault {
                    spot: instances.spot,
                    message: "`instances` belongs in a template".to_owned(),
                    hint: Some(format!("rename the file to {stem}@.toml")),
                });
                return Vec::new();
            };
            return self.instances(template, &tree, &instances, faults);
        }
        if let Some((_, instance)) = stem.split_once('@') {
            if !instance.is_empty() {
                substitute(&mut tree, instance, faults);
                return vec![(stem.to_owned(), top, tree)];
            }
            // A template without instances of its own: they come by symlink.
            return Vec::new();
        }
        let Some(several) = tree.take("container") else {
            return vec![(stem.to_owned(), top, tree)];
        };
        for other in tree.entries() {
            faults.push(Fault {
                spot: other.spot.clone(),
                message: format!("`{}` stands beside `container`", other.key),
                hint: Some("put it into one of the containers".to_owned()),
            });
        }
        match several.node.value {
            Value::Table(entries) => {
                entries.into_iter().map(|Entry { key, spot, node }| (key, spot, node)).collect()
            }
            _ => {
                faults.push(Fault {
                    spot: several.spot,
                    message: "`container` holds containers by name".to_owned(),
                    hint: Some("write [container.web]".to_owned()),
                });
                Vec::new()
            }
        }
    }

    fn instances(
        &self,
        template: &str,
        tree: &Node,
        instances: &Entry,
        faults: &mut Vec<Fault>,
    ) -> Vec<(String, Spot, Node)> {
        let nodes = match &instances.node.value {
            Value::List(nodes) | Value::Args(nodes) => nodes.as_slice(),
            _ => &[],
        };
        if nodes.is_empty() {
            faults.push(Fault {
                spot: instances.spot.clone(),
                message: "`instances` is a list of names".to_owned(),
                hint: Some("write instances = [\"1\", \"2\"]".to_owned()),
            });
        }
        let mut made = Vec::new();
        for node in nodes {
            let instance = match &node.value {
                Value::Text(text) => text.clone(),
                Value::Int(number) => number.to_string(),
                _ => {
                    faults.push(Fault {
                        spot: node.spot.clone(),
                        message: "an instance is a name".to_owned(),
                        hint: None,
                    });
                    continue;
                }
            };
            let mut own = tree.clone();
            substitute(&mut own, &instance, faults);
            made.push((format!("{template}@{instance}"), node.spot.clone(), own));
        }
        made
    }
}

/// One network of a file.
fn network(name: String, spot: Spot, node: Node, parsed: &mut Parsed, faults: &mut Vec<Fault>) {
    if !is_network_name(&name) || RESERVED_NETWORKS.contains(&name.as_str()) {
        faults.push(Fault {
            spot,
            message: format!("{name:?} can't be a network's name"),
            hint: Some(format!(
                "letters, digits, '-', '_' and '.', at most 64; not {}",
                RESERVED_NETWORKS.join(", ")
            )),
        });
        return;
    }
    parsed.network_names.push(name.clone());
    let (file, wrong) = decode::decode::<NetworkFile>(node.clone());
    let is_sound = wrong.is_empty();
    faults.extend(wrong);
    if is_sound {
        faults.extend(validate::network_alone(&name, &file).into_iter().map(|objection| Fault {
            spot: spot_of(&node, &objection.key).unwrap_or_else(|| spot.clone()),
            message: objection.message,
            hint: objection.hint,
        }));
    }
    parsed.networks.push((name, Arc::new(file)));
}

/// A manifest with its drop-ins laid over it; nothing when one of them can't be read.
fn tree_of(sources: &[(&Path, String)], faults: &mut Vec<Fault>) -> Option<Node> {
    let mut tree: Option<Node> = None;
    for (file, (path, text)) in sources.iter().enumerate() {
        let is_kdl = path.extension().is_some_and(|extension| extension == "kdl");
        match if is_kdl { read_kdl::read(text, file) } else { read_toml::read(text, file) } {
            Ok(node) => match &mut tree {
                Some(tree) => tree.overlay(node),
                None => tree = Some(node),
            },
            Err(found) => faults.extend(found),
        }
    }
    tree.filter(|_| faults.is_empty())
}

/// Puts the instance into every `{{instance}}`.
fn substitute(tree: &mut Node, instance: &str, faults: &mut Vec<Fault>) {
    tree.each_text(&mut |spot, text| {
        if !text.contains("{{") {
            return None;
        }
        let new = text.replace("{{instance}}", instance);
        if let Some(at) = new.find("{{") {
            let word: String = new[at..].chars().take(40).collect();
            let fault = Fault {
                spot: spot.clone(),
                message: format!("{word:?} stands for nothing"),
                hint: Some("a template knows {{instance}}".to_owned()),
            };
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Some(new)
    });
}

/// Paths of the host are relative to the manifest that names them.
fn resolve_paths(container: &mut Container, base: &Path) {
    if let Some(rootfs) = &mut container.rootfs {
        *rootfs = base.join(&*rootfs);
    }
    for file in &mut container.env_file {
        *file = base.join(&*file);
    }
    for mount in &mut container.mounts {
        if mount.kind() == MountKind::Bind
            && let Some(source) = &mut mount.source
        {
            let joined = base.join(source.trim_start_matches("./"));
            *source = joined.to_string_lossy().into_owned();
        }
    }
    let seccomp = &mut container.security.seccomp;
    if seccomp.starts_with("./") {
        *seccomp = base.join(seccomp.trim_start_matches("./")).to_string_lossy().into_owned();
    }
}

/// Where a key of a container stands in its tree.
fn spot_of(tree: &Node, key: &str) -> Option<Spot> {
    let key = key.split(' ').next().unwrap_or(key);
    let mut node = tree;
    let mut spot = None;
    let mut rest = key;
    while let Some(entry) = node
        .entries()
        .iter()
        .find(|entry| rest == entry.key || rest.starts_with(&format!("{}.", entry.key)))
    {
        spot = Some(entry.spot.clone());
        node = &entry.node;
        rest = rest[entry.key.len()..].trim_start_matches('.');
    }
    spot
}

type Unreadable = (String, Option<&'static str>);

/// The text of a manifest, if it can be one.
fn read_text(path: &Path) -> Result<String, Unreadable> {
    // Without O_NONBLOCK a FIFO would be waited for, a terminal become ours.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound if path.is_symlink() => {
                ("it is a symbolic link to nothing".to_owned(), None)
            }
            _ => (format!("it can't be read: {error}"), None),
        })?;
    let meta = file.metadata().map_err(|error| (format!("it can't be read: {error}"), None))?;
    if !meta.is_file() {
        return Err(("it is no regular file".to_owned(), Some("a manifest is a text file")));
    }
    if meta.len() > SIZE_MAX {
        return Err((
            format!("it is {} bytes long", meta.len()),
            Some("a manifest has at most 1MiB"),
        ));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| (format!("it can't be read: {error}"), None))?;
    if bytes.contains(&0) {
        return Err(("there is a NUL byte in it".to_owned(), Some("a manifest is plain text")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| (format!("it is not UTF-8: {}", error.utf8_error()), None))?;
    let says_something = text.lines().any(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with("//")
    });
    if !says_something {
        return Err((
            "it is empty".to_owned(),
            Some("was it cut off? delete it if the container is to go"),
        ));
    }
    if nests_too_deep(&text) {
        return Err((format!("it nests deeper than {DEPTH_MAX}"), None));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, name: &str, text: &str) -> Parsed {
        std::fs::write(dir.join(name), text).unwrap();
        Unit { path: dir.join(name), drop_ins: vec![] }.read(None).unwrap()
    }

    fn names(parsed: &Parsed) -> Vec<&str> {
        parsed.containers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_file_has_one_container_several_or_instances() {
        let dir = tempfile::tempdir().unwrap();
        let one = "rootfs = \"/\"\ncommand = [\"x\", \"{{not}}\"]\n";
        assert_eq!(names(&read(dir.path(), "web.toml", one)), ["web"]);
        let two = "[container.a]\nrootfs = \"/\"\ncommand = [\"x\"]\n[container.b]\nisolation = \"none\"\ncommand = [\"y\"]\n";
        assert_eq!(names(&read(dir.path(), "two.toml", two)), ["a", "b"]);
        let kdl = "container \"a\" { rootfs \"/\"; command \"x\" }\ncontainer \"b\" { rootfs \"/\"; command \"x\" \"y\" }\n";
        let parsed = read(dir.path(), "two.kdl", kdl);
        assert_eq!(names(&parsed), ["a", "b"], "{:?}", parsed.problems);
        let template =
            "instances = [\"1\", \"b\"]\nrootfs = \"/\"\ncommand = [\"x\", \"{{instance}}\"]\n";
        let parsed = read(dir.path(), "worker@.toml", template);
        assert_eq!(names(&parsed), ["worker@1", "worker@b"]);
        assert_eq!(parsed.containers[1].1.command[1], "b");
        let parsed = read(
            dir.path(),
            "worker@z.toml",
            &template.replace("instances = [\"1\", \"b\"]\n", ""),
        );
        assert_eq!(parsed.containers[0].1.command[1], "z");
        let parsed = read(
            dir.path(),
            "odd@.toml",
            "instances = [\"1\"]\nrootfs = \"/\"\ncommand = [\"{{what}}\"]\n",
        );
        assert!(parsed.problems[0].message.contains("{{what}}"));
    }

    #[test]
    fn problems_have_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let text = "rootfs = \"/\"\ncommand = [\"x\"]\n[network]\nmode = \"bridgy\"\n";
        let parsed = read(dir.path(), "web.toml", text);
        assert_eq!((parsed.problems[0].line, parsed.problems[0].column), (4, 8));
        assert_eq!(parsed.names[0].as_str(), "web");
        for (name, bytes) in [
            ("empty.toml", &b""[..]),
            ("comment.toml", b"# only\n"),
            ("nul.toml", b"a = 1\0"),
            ("latin.toml", b"a = \"\xe9\""),
        ] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            let unit = Unit { path: dir.path().join(name), drop_ins: vec![] };
            assert_eq!(unit.read(None).unwrap().problems.len(), 1, "{name}");
        }
    }

    #[test]
    fn networks_have_files_of_their_own_or_stand_beside_containers() {
        let dir = tempfile::tempdir().unwrap();
        let names = |parsed: &Parsed| -> Vec<String> {
            parsed.networks.iter().map(|(name, _)| name.clone()).collect()
        };
        let parsed = read(dir.path(), "back.network.toml", "internal = true\n");
        assert_eq!((names(&parsed), parsed.names.len()), (vec!["back".to_owned()], 0));
        assert!(parsed.networks[0].1.internal && parsed.containers.is_empty());
        let kdl = "network \"back\" { internal }\nnetwork \"front\" { mtu 1400 }\n\
                   container \"a\" { rootfs \"/\"; command \"x\"; network { networks \"back\" \"front\" } }\n";
        let parsed = read(dir.path(), "two.kdl", kdl);
        assert_eq!(parsed.problems, []);
        assert_eq!(names(&parsed), ["back", "front"]);
        assert_eq!(parsed.containers[0].1.network.networks.len(), 2);
        let toml = "[network.back]\nsubnet = \"10.9.0.0/24\"\n";
        let parsed = read(dir.path(), "nets.toml", toml);
        assert_eq!((names(&parsed), parsed.names.len()), (vec!["back".to_owned()], 0));
        let kdl = "rootfs \"/\"\ncommand \"x\"\nnetwork mode=\"bridge\"\n";
        let parsed = read(dir.path(), "one.kdl", kdl);
        assert!(parsed.networks.is_empty() && parsed.problems.is_empty());
        let parsed = read(dir.path(), "x.network.toml", "subnet = \"10.9.0.0/31\"\ninternl = 1\n");
        assert_eq!(parsed.problems[0].line, 2, "{:?}", parsed.problems);
        assert!(parsed.networks.is_empty() && parsed.network_names == ["x"]);
        let parsed = read(dir.path(), "host.network.toml", "internal = true\n");
        assert_eq!(parsed.problems.len(), 1);
    }

    #[test]
    fn drop_ins_are_laid_over() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let unit = Unit {
            path: write(
                "web.toml",
                "rootfs = \"/\"\ncommand = [\"x\"]\n[resources]\npids = 1\nmemory = \"1MiB\"\n",
            ),
            drop_ins: vec![
                write("10.toml", "[resources]\npids = 2\n"),
                write("20.kdl", "resources pids=3\nenv A=\"b\"\n"),
            ],
        };
        let parsed = unit.read(None).unwrap();
        let container = &parsed.containers[0].1;
        assert_eq!(
            (container.resources.pids, container.resources.memory.map(|m| m.0)),
            (Some(3), Some(1 << 20))
        );
        assert_eq!(container.env["A"], "b");
        assert!(unit.read(Some(parsed.hash)).is_none(), "only content counts");
        write("20.kdl", "resources pidz=3\n");
        let problem = &unit.read(Some(parsed.hash)).unwrap().problems[0];
        assert!(problem.file.ends_with("20.kdl") && problem.line == 1, "{problem}");
    }
}
