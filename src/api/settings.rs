//! How a container ran, as the configuration of the image that a commit makes. Pure.

use serde_json::Value;

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
}
