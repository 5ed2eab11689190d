//! How a container ran, as the configuration of the image that a commit makes. Pure.

use serde_json::{Map, Value};

use super::{endpoints, inspect};
use crate::image::Error;
use crate::image::config::Process;
use crate::manifest::model::Container;

/// The base's settings, those of the container over them, and over these what the
/// client says.
///
/// # Errors
/// What the client says is no configuration.
pub fn process(base: Process, manifest: &Container, said: &Value) -> Result<Process, Error> {
    let mut process = base;
    if let Some(entrypoint) = &manifest.entrypoint {
        process.entrypoint.clone_from(entrypoint);
        process.cmd.clear();
    }
    if !manifest.command.is_empty() {
        process.cmd.clone_from(&manifest.command);
    }
    for (name, value) in &manifest.env {
        let start = format!("{name}=");
        process.env.retain(|variable| !variable.starts_with(&start));
        process.env.push(format!("{start}{value}"));
    }
    if let Some(user) = &manifest.user {
        process.user.clone_from(user);
    }
    if let Some(workdir) = &manifest.workdir {
        process.working_dir = workdir.display().to_string();
    }
    if let Some(signal) = manifest.stop.signal {
        process.stop_signal = Some(signal.to_string());
    }
    process.labels.extend(manifest.labels.clone());
    let ports = endpoints::exposed(manifest).chain(endpoints::said_exposed(manifest));
    for port in ports {
        if !process.exposed_ports.contains(&port) {
            process.exposed_ports.push(port);
        }
    }
    let volumes = manifest.docker.get("Volumes").map(String::as_str).unwrap_or_default();
    let volumes: Map<String, Value> = serde_json::from_str(volumes).unwrap_or_default();
    for path in volumes.keys() {
        if !process.volumes.contains(path) {
            process.volumes.push(path.clone());
        }
    }
    if let Some(health) = &manifest.health {
        process.healthcheck = serde_json::from_value(inspect::health_config(health)).ok();
    }
    let Value::Object(said) = said else { return Ok(process) };
    // Only what is really said: clients send every key, most of them empty.
    let mut whole = serde_json::to_value(&process).unwrap_or_default();
    for (key, value) in said {
        let known = matches!(
            key.as_str(),
            "User"
                | "ExposedPorts"
                | "Env"
                | "Entrypoint"
                | "Cmd"
                | "Volumes"
                | "WorkingDir"
                | "Labels"
                | "StopSignal"
                | "Healthcheck"
                | "Shell"
                | "OnBuild"
        );
        let empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if known && !empty {
            whole[key] = value.clone();
        }
    }
    serde_json::from_value(whole)
        .map_err(|error| Error::new(crate::image::Kind::Invalid, format!("the body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_and_then_the_client_go_over_the_base() {
        let base = Process {
            env: vec!["A=1".into(), "B=1".into()],
            cmd: vec!["old".into()],
            entrypoint: vec!["/run".into()],
            ..Process::default()
        };
        let mut manifest = Container { command: vec!["new".into()], ..Container::default() };
        manifest.env.insert("B".into(), "2".into());
        let made = process(base.clone(), &manifest, &Value::Null).unwrap();
        assert_eq!((made.cmd, made.entrypoint), (vec!["new".to_owned()], vec!["/run".to_owned()]));
        assert_eq!(made.env, ["A=1", "B=2"]);
        let said = json!({ "Cmd": ["third"], "User": "", "Env": null, "Hostname": "x" });
        let made = process(base.clone(), &manifest, &said).unwrap();
        assert_eq!((made.cmd, made.env.len()), (vec!["third".to_owned()], 2));
        assert!(process(base, &manifest, &json!({ "Cmd": 5 })).is_err());
    }

    #[test]
    fn ports_volumes_and_the_check_of_the_container_are_the_images() {
        let base = Process {
            exposed_ports: vec!["80/tcp".into()],
            volumes: vec!["/old".into()],
            ..Process::default()
        };
        let mut manifest = Container::default();
        manifest.docker.insert("ExposedPorts".into(), r#"{"80/tcp":{},"99/udp":{}}"#.into());
        manifest.docker.insert("Volumes".into(), r#"{"/new":{}}"#.into());
        let check = json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64});
        let check = serde_json::from_value(check).unwrap();
        manifest.health = super::super::create::health(check).unwrap();
        let made = process(base.clone(), &manifest, &Value::Null).unwrap();
        assert_eq!(made.exposed_ports, ["80/tcp", "99/udp"]);
        assert_eq!(made.volumes, ["/old", "/new"]);
        let check = made.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "true"]);
        assert_eq!(check.interval, 5_000_000_000);
        assert!(process(base, &Container::default(), &Value::Null).unwrap().healthcheck.is_none());
    }
}
