//! Binds, volumes and tmpfs in Docker's words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use bollard_stubs::models::{HostConfig, Mount as DockerMount, MountType};

use super::{Surroundings, limits::positive, some};
use crate::manifest::model::{Container, Mount, MountKind, is_within};
use crate::manifest::scalar::Size;
use crate::rootfs::check_options;

pub(super) fn volume(source: Option<&str>, target: &str) -> Mount {
    Mount {
        source: source.map(str::to_owned),
        target: PathBuf::from(target),
        subpath: None,
        kind: Some(MountKind::Volume),
        read_only: false,
        size: None,
        mode: None,
        options: BTreeMap::new(),
        no_copy: false,
    }
}

pub(super) fn mounts(
    host: &HostConfig,
    container: &mut Container,
    surroundings: &mut Surroundings<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    // What is said in more detail replaces what is said in less.
    let mut all = std::mem::take(&mut container.mounts);
    let own = all.len();
    for from in host.volumes_from.iter().flatten() {
        let (which, read_only) = match from.split_once(':') {
            Some((which, "ro")) => (which, true),
            Some((which, "rw" | "z" | "Z")) => (which, false),
            Some((_, mode)) => return Err(format!("invalid mode: {mode}")),
            None => (from.as_str(), false),
        };
        let (_, other) =
            (surroundings.container)(which).ok_or_else(|| format!("No such container: {which}"))?;
        for mut mount in other.mounts {
            mount.read_only |= read_only;
            all.push(mount);
        }
    }
    let of_others = all.len();
    for text in host.binds.iter().flatten() {
        all.push(bind(text, warnings)?);
    }
    for mount in host.mounts.iter().flatten() {
        all.push(typed(mount, warnings)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        all.push(tmpfs(target, options)?);
    }
    once(&all[of_others..])?;
    // Where there is no volume to be made, nobody looks for who would make it.
    if all[..own].iter().chain(&all[of_others..]).any(|mount| mount.kind() == MountKind::Volume) {
        driver(host.volume_driver.as_deref())?;
    }
    for mut mount in all {
        if !mount.target.is_absolute() {
            let target = mount.target.display();
            return Err(format!(
                "invalid mount config: invalid mount path: '{target}' mount path \
                                must be absolute"
            ));
        }
        if mount.target.components().eq([Component::RootDir]) {
            return Err(
                "invalid mount config: invalid specification: destination can't be '/'".into()
            );
        }
        mount.target = mount.target.components().collect();
        container.mounts.retain(|earlier| earlier.target != mount.target);
        if mount.kind() == MountKind::Volume && mount.source.is_none() {
            mount.source = Some((surroundings.volume)());
        }
        container.mounts.push(mount);
    }
    Ok(())
}

/// What a client says itself has each place once, in Docker's words.
fn once(said: &[Mount]) -> Result<(), String> {
    let mut places = BTreeSet::new();
    // Without what says nothing, as a slash at the end.
    let again = said.iter().find(|mount| {
        let place: PathBuf = mount.target.components().collect();
        !places.insert(place)
    });
    match again {
        Some(mount) => Err(format!("Duplicate mount point: {}", mount.target.display())),
        None => Ok(()),
    }
}

/// Options are of the mount's own kind, in Docker's words.
fn of_its_kind(asked: &DockerMount) -> Result<(), String> {
    let kind = asked.typ.unwrap_or(MountType::VOLUME);
    let options = [
        ("BindOptions", asked.bind_options.is_some(), MountType::BIND),
        ("ImageOptions", asked.image_options.is_some(), MountType::IMAGE),
        ("TmpfsOptions", asked.tmpfs_options.is_some(), MountType::TMPFS),
        ("VolumeOptions", asked.volume_options.is_some(), MountType::VOLUME),
    ];
    match options.iter().find(|(_, said, of)| *said && kind != *of) {
        Some((what, ..)) => Err(format!("{what} must not be specified on mount type \"{kind}\"")),
        None => Ok(()),
    }
}

/// Volumes are made by one driver.
fn driver(named: Option<&str>) -> Result<(), String> {
    match named {
        None | Some("" | "local") => Ok(()),
        Some(other) => {
            Err(format!("error looking up volume plugin {other}: plugin \"{other}\" not found"))
        }
    }
}

/// Mounts of the host after the launch are not seen in a container, nor the other way round.
fn without_propagation(how: &str, target: &str, warnings: &mut Vec<String>) {
    if !matches!(how, "" | "private" | "rprivate") {
        warnings.push(format!(
            "bind propagation {how:?} of {target} has no effect in Berth: mounts are private"
        ));
    }
}

/// `SOURCE:TARGET[:OPTIONS]`, or a target alone.
fn bind(text: &str, warnings: &mut Vec<String>) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(format!("invalid volume specification: '{text}'")),
    };
    if target.is_empty() || source == Some("") {
        return Err(format!("invalid volume specification: '{text}'"));
    }
    let mut mount = volume(source, target);
    if let Some(source) = source {
        mount.kind = None;
        if mount.kind() == MountKind::Bind && !source.starts_with('/') {
            return Err(format!(
                "invalid volume specification: '{text}': {source:?} is neither a volume's name \
                 nor an absolute path"
            ));
        }
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "nocopy" if mount.kind() == MountKind::Volume => mount.no_copy = true,
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                without_propagation(option, target, warnings);
            }
            // Labels of SELinux and consistency: as Berth does it anyway.
            "rw" | "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            other => {
                return Err(format!(
                    "invalid volume specification: '{text}': invalid mode: {other}"
                ));
            }
        }
    }
    Ok(mount)
}

fn typed(asked: &DockerMount, warnings: &mut Vec<String>) -> Result<Mount, String> {
    let target = asked.target.clone().unwrap_or_default();
    if target.is_empty() {
        let kind = asked.typ.unwrap_or(MountType::VOLUME);
        return Err(format!(
            "invalid mount config for type \"{kind}\": field Target must not be empty"
        ));
    }
    of_its_kind(asked)?;
    let options = asked.volume_options.as_ref();
    let subpath = options.and_then(|options| some(options.subpath.clone()));
    let source = some(asked.source.clone());
    let mut mount = volume(source.as_deref(), &target);
    mount.read_only = asked.read_only.unwrap_or(false);
    match asked.typ {
        Some(MountType::VOLUME) | None => {
            if subpath.as_deref().is_some_and(|path| !is_within(Path::new(path))) {
                return Err(
                    "invalid mount config: subpath must be a relative path within the volume"
                        .into(),
                );
            }
            mount.subpath = subpath.map(PathBuf::from);
            let options = asked.volume_options.clone().unwrap_or_default();
            mount.no_copy = options.no_copy.unwrap_or(false);
            let made_by = options.driver_config.unwrap_or_default();
            driver(made_by.name.as_deref())?;
            mount.options = made_by.options.unwrap_or_default().into_iter().collect();
            check_options(&mount.options).map_err(|why| {
                format!("create {}: {why}", mount.source.as_deref().unwrap_or_default())
            })?;
        }
        Some(MountType::IMAGE) => {
            let source = source
                .ok_or("invalid mount config for type \"image\": field Source must not be empty")?;
            let subpath = asked.image_options.as_ref().and_then(|o| some(o.subpath.clone()));
            if subpath.as_deref().is_some_and(|path| !is_within(Path::new(path))) {
                return Err("invalid mount config for type \"image\": subpath must be a relative \
                            path within the image"
                    .to_owned());
            }
            // An id may stand without the name of its algorithm.
            let is_id = crate::image::Digest::from_hex(&source).is_some();
            mount.source = Some(if is_id { format!("sha256:{source}") } else { source });
            mount.subpath = subpath.map(PathBuf::from);
            mount.kind = Some(MountKind::Image);
        }
        Some(MountType::BIND) => {
            let source = source.ok_or(
                "invalid mount config for type \"bind\": field Source must \
                                       not be empty",
            )?;
            if !source.starts_with('/') {
                return Err(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{source}' mount \
                     path must be absolute"
                ));
            }
            let how = asked.bind_options.as_ref().and_then(|options| options.propagation);
            let how = how.map(|how| how.to_string()).unwrap_or_default();
            without_propagation(&how, &target, warnings);
            mount.kind = Some(MountKind::Bind);
        }
        Some(MountType::TMPFS) => {
            mount.kind = Some(MountKind::Tmpfs);
            mount.source = None;
            let options = asked.tmpfs_options.clone().unwrap_or_default();
            mount.size = positive(options.size_bytes).map(Size);
            mount.mode = positive(options.mode).map(|mode| format!("{mode:04o}"));
            for option in options.options.iter().flatten() {
                match option.as_slice() {
                    [key] => tmpfs_option(key, "", &mut mount)?,
                    [key, value] => tmpfs_option(key, value, &mut mount)?,
                    _ => return Err(format!("invalid tmpfs option {option:?}")),
                }
            }
        }
        Some(other) => return Err(format!("mounts of type {other} are not served by Berth")),
    }
    Ok(mount)
}

fn tmpfs(target: &str, options: &str) -> Result<Mount, String> {
    let mut mount = volume(None, target);
    mount.kind = Some(MountKind::Tmpfs);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        tmpfs_option(key, value, &mut mount)?;
    }
    Ok(mount)
}

fn tmpfs_option(key: &str, value: &str, mount: &mut Mount) -> Result<(), String> {
    match (key, value) {
        ("size", size) => mount.size = Some(docker_size(size)?),
        ("mode", mode) => mount.mode = Some(mode.to_owned()),
        ("ro", "") => mount.read_only = true,
        // As it is anyway.
        (
            "rw" | "defaults" | "nosuid" | "nodev" | "noexec" | "async" | "sync" | "dirsync"
            | "atime" | "relatime" | "diratime" | "norelatime" | "private" | "rprivate",
            "",
        ) => drop(mount.options.remove(key.trim_start_matches("no"))),
        (key, value) => {
            let option = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            crate::spec::check_tmpfs(&option).map_err(|_| {
                let equals = if value.is_empty() { "" } else { "=" };
                format!("invalid tmpfs option [\"{key}{equals}{value}\"]")
            })?;
            mount.options.extend(option);
        }
    }
    Ok(())
}

/// `64m`: Docker's sizes are powers of 1024, whatever the letter's form.
///
/// # Errors
/// It is none.
pub fn docker_size(text: &str) -> Result<Size, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("invalid size: '{text}'")),
    };
    let number: f64 = number.parse().map_err(|_| format!("invalid size: '{text}'"))?;
    Ok(Size((number * (1u64 << shift) as f64) as u64))
}
