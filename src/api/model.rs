//! A container as Docker's types have it. Pure.

use std::time::{Duration, SystemTime};

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryStateEnum, MountPoint,
    RestartPolicy as DockerPolicy, RestartPolicyNameEnum,
};

use serde_json::Value;

use super::create;
use crate::engine::handle::View;
use crate::image::config::Process;
use crate::manifest::model::{Mount, MountKind, RestartPolicy};

/// Docker's "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with nanoseconds.
pub fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| format!("{time:.9}"))
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Whether a process of it runs, in Docker's sense.
pub fn is_running(view: &View) -> bool {
    matches!(view.state.as_str(), "running" | "paused")
}

/// Its health in Docker's word, if anything checks it: the manifest, or its image.
pub fn health<'a>(view: &'a View, image: Option<&Process>) -> Option<&'a str> {
    let is_checked = match &view.manifest.health {
        Some(own) => !own.none,
        None => image
            .and_then(|image| image.healthcheck.as_ref()?.test.first())
            .is_some_and(|kind| kind != "NONE"),
    };
    // Who has ended counts as not well, as with Docker's daemon.
    let ended = is_checked && view.started.is_some() && !is_running(view);
    view.health.as_deref().or(ended.then_some("unhealthy"))
}

/// What it runs, on one line.
pub fn command_line(view: &View) -> String {
    argv(view).join(" ")
}

/// Words as Docker's daemon puts them on one line.
pub fn quoted(words: &[String]) -> String {
    let quote = |word: &String| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The words of its command that the manifest says.
pub fn argv(view: &View) -> Vec<String> {
    view.manifest.entrypoint.iter().flatten().chain(&view.manifest.command).cloned().collect()
}

/// What stands in for an image: where the root comes from.
pub fn image(view: &View) -> String {
    let root = view.manifest.rootfs.as_ref().map(|path| path.display().to_string());
    view.manifest.image.clone().or(root).unwrap_or_else(|| "(none)".to_owned())
}

/// Docker's sentence: `Up 3 minutes`, `Exited (1) 5 seconds ago`.
pub fn status(view: &View, now: SystemTime) -> String {
    let ago = |time: Option<SystemTime>| {
        time.map_or_else(
            || "some time".to_owned(),
            |time| age(now.duration_since(time).unwrap_or_default()),
        )
    };
    let code = view.exit_code.unwrap_or(0);
    match view.state.as_str() {
        "running" => {
            let health = view.health.as_ref().map(|health| match health.as_str() {
                "starting" => " (health: starting)".to_owned(),
                health => format!(" ({health})"),
            });
            format!("Up {}{}", ago(view.started), health.unwrap_or_default())
        }
        "paused" => format!("Up {} (Paused)", ago(view.started)),
        "restarting" => format!("Restarting ({code}) {} ago", ago(view.finished)),
        "exited" => format!("Exited ({code}) {} ago", ago(view.finished)),
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        _ => "Created".to_owned(),
    }
}

/// A duration in words, as Docker has them.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let plural =
        |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0 => "Less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..120 => "About a minute".to_owned(),
        120..3600 => plural(seconds / 60, "minute"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => plural(seconds / 3600, "hour"),
        _ => plural(seconds / 86_400, "day"),
    }
}

/// What is run, with what the image says.
pub fn words(view: &View, base: &Process) -> Vec<String> {
    let mut words = match &view.manifest.entrypoint {
        None => base.entrypoint.clone(),
        Some(_) => Vec::new(),
    };
    words.extend(argv(view));
    if view.manifest.command.is_empty() && view.manifest.entrypoint.is_none() {
        words.extend(base.cmd.iter().cloned());
    }
    words
}

/// One line of `docker ps`.
pub fn summary(view: &View, now: SystemTime) -> ContainerSummary {
    ContainerSummary {
        id: Some(view.id.clone()),
        names: Some(vec![format!("/{}", view.name)]),
        image: Some(image(view)),
        image_id: Some(String::new()),
        command: Some(quoted(&argv(view))),
        created: Some(seconds(view.created)),
        ports: Some(super::endpoints::summary(view, &[])),
        labels: Some(view.manifest.labels.clone().into_iter().collect()),
        state: Some(match view.state.as_str() {
            "running" => ContainerSummaryStateEnum::RUNNING,
            "paused" => ContainerSummaryStateEnum::PAUSED,
            "restarting" => ContainerSummaryStateEnum::RESTARTING,
            "removing" => ContainerSummaryStateEnum::REMOVING,
            "exited" => ContainerSummaryStateEnum::EXITED,
            "dead" => ContainerSummaryStateEnum::DEAD,
            _ => ContainerSummaryStateEnum::CREATED,
        }),
        status: Some(status(view, now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(super::endpoints::mode(&view.manifest)),
            annotations: super::create::kept_of_host(&view.manifest, "Annotations")
                .and_then(|kept| serde_json::from_value(kept).ok()),
        }),
        network_settings: serde_json::from_value(
            serde_json::json!({ "Networks": super::endpoints::networks(view) }),
        )
        .ok(),
        ..ContainerSummary::default()
    }
}

/// What is mounted in it; `place` says where a volume's files are.
pub fn mounts(view: &View, place: &dyn Fn(&str) -> String) -> Vec<MountPoint> {
    view.manifest
        .mounts
        .iter()
        .chain(&view.anonymous)
        // Those of `--tmpfs` stand in `HostConfig.Tmpfs` alone.
        .filter(|mount| {
            mount.kind() != MountKind::Tmpfs || create::is_typed(&view.manifest, &mount.target)
        })
        .map(|mount| {
            let kind = mount.kind();
            let source = mount.source.clone().unwrap_or_default();
            let is_volume = kind == MountKind::Volume;
            let (mode, propagation) = said_of(view, mount);
            MountPoint {
                typ: Some(match kind {
                    MountKind::Volume => "volume".to_owned(),
                    MountKind::Bind => "bind".to_owned(),
                    MountKind::Tmpfs => "tmpfs".to_owned(),
                    MountKind::Image => "image".to_owned(),
                }),
                source: Some(if is_volume { place(&source) } else { source.clone() }),
                name: is_volume.then_some(source),
                driver: is_volume.then(|| "local".to_owned()),
                destination: Some(mount.target.display().to_string()),
                mode: Some(mode),
                rw: Some(!mount.read_only && kind != MountKind::Image),
                propagation: Some(match kind {
                    MountKind::Bind => propagation.unwrap_or_else(|| "rprivate".to_owned()),
                    _ => String::new(),
                }),
            }
        })
        .collect()
}

/// The options of a bind as the client wrote them, and the propagation among them.
fn said_of(view: &View, mount: &Mount) -> (String, Option<String>) {
    let target = mount.target.to_str().unwrap_or_default();
    let kept = |key| create::kept_of_host(&view.manifest, key);
    let usual = if mount.read_only { "ro" } else { "" };
    for bind in kept("Binds").iter().filter_map(Value::as_array).flatten() {
        let mut parts = bind.as_str().unwrap_or_default().splitn(3, ':').skip(1);
        if parts.next() == Some(target) {
            let mode = parts.next().unwrap_or(usual).to_owned();
            let spread = mode.split(',').find(|word| PROPAGATIONS.contains(word));
            return (mode.clone(), spread.map(str::to_owned));
        }
    }
    for asked in kept("Mounts").iter().filter_map(Value::as_array).flatten() {
        if asked["Target"].as_str().is_some_and(|text| create::plain(text) == mount.target) {
            let spread = asked["BindOptions"]["Propagation"].as_str();
            return (String::new(), spread.filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    (usual.to_owned(), None)
}

/// mount_namespaces(7), in Docker's words.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// A restart policy as Docker has it.
pub fn policy(policy: RestartPolicy) -> DockerPolicy {
    let (name, count) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, 0),
        RestartPolicy::OnFailure { max } => {
            (RestartPolicyNameEnum::ON_FAILURE, i64::from(max.unwrap_or(0)))
        }
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, 0),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
    };
    DockerPolicy { name: Some(name), maximum_retry_count: Some(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_as_docker_says_them() {
        let say = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(say(0), "Less than a second");
        assert_eq!(say(1), "1 second");
        assert_eq!(say(90), "About a minute");
        assert_eq!(say(7200), "2 hours");
        assert_eq!(say(200_000), "2 days");
    }

    #[test]
    fn times_are_rfc3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_001);
        assert_eq!(timestamp(time), "2017-07-14T02:40:00.000000001Z");
    }
}
