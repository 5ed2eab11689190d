//! A container as the text of a manifest: TOML with nothing in it that is a default
//! anyway. What is written here is read back as the same container.

use serde::Serialize;
use serde_json::{Map, Value};

use super::file::SIZE_MAX;
use super::model::{Container, NetworkFile};

/// The text, if it is not too long to be read again.
fn bounded(text: String) -> Result<String, String> {
    match text.len() as u64 <= SIZE_MAX {
        true => Ok(text),
        false => Err(format!(
            "as a manifest it would be {} bytes long, and one has at most 1MiB",
            text.len()
        )),
    }
}

/// The manifest of a container.
///
/// # Errors
/// A number that TOML can't hold, or more than a manifest may have.
pub fn to_toml(container: &Container) -> Result<String, String> {
    let mut table = said(container)?;
    if let Some(Value::Object(limits)) = table.get_mut("rlimits") {
        for limit in limits.values_mut().filter_map(Value::as_object_mut) {
            for number in limit.values_mut().filter(|n| n.as_u64() == Some(u64::MAX)) {
                *number = Value::from("unlimited");
            }
        }
    }
    toml::to_string_pretty(&table)
        .map_err(|error| format!("writing the manifest: {error}"))
        .and_then(bounded)
}

/// The manifest of a network.
///
/// # Errors
/// See [`to_toml`].
pub fn network_to_toml(network: &NetworkFile) -> Result<String, String> {
    let text = toml::to_string_pretty(&said(network)?)
        .map_err(|error| format!("writing the network's manifest: {error}"))?;
    // An empty file would be taken for one that was cut off.
    bounded(if text.trim().is_empty() { "driver = \"bridge\"\n".to_owned() } else { text })
}

/// What differs from the defaults.
fn said<T: Serialize + Default>(value: &T) -> Result<Map<String, Value>, String> {
    match (serde_json::to_value(value), serde_json::to_value(T::default())) {
        (Ok(Value::Object(said)), Ok(Value::Object(default))) => {
            Ok(without_defaults(said, &default))
        }
        (said, _) => Err(format!("it is not a table: {said:?}")),
    }
}

fn without_defaults(said: Map<String, Value>, default: &Map<String, Value>) -> Map<String, Value> {
    said.into_iter()
        .filter(|(key, value)| default.get(key) != Some(value) && !value.is_null())
        .map(|(key, value)| match (value, default.get(&key)) {
            (Value::Object(inner), Some(Value::Object(default))) => {
                (key, Value::Object(without_defaults(inner, default)))
            }
            (value, _) => (key, value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Loader;

    /// Through a file and the loader, as a manifest goes.
    fn read_back(text: &str) -> Container {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.toml"), text).unwrap();
        let loaded = Loader::new(vec![dir.path().to_owned()]).load();
        assert!(loaded.problems.is_empty(), "{text}\n{:?}", loaded.problems);
        let definition = loaded.containers.into_values().next().unwrap();
        (*definition.container).clone()
    }

    #[test]
    fn what_is_written_is_read_back_as_the_same() {
        let text = r#"
            rootfs = "/"
            command = ["sh", "-c", "echo \"\u0007 it's\"\n"]
            entrypoint = []
            tty = true
            stdin = true
            stdin-once = true
            env = { A = "1", "B.c" = "x y" }
            restart = "on-failure:3"
            rlimits = { nofile = { soft = 5, hard = "unlimited" } }
            labels = { "com.example/a" = "b" }
            devices = ["/dev/null:/dev/x:rw"]
            signals = { reload = { exec = ["true"] } }
            [resources]
            memory = "64MiB"
            cpus = 1.5
            [[mount]]
            source = "data"
            target = "/data"
            [[mount]]
            target = "/run"
            type = "tmpfs"
            size = "1MiB"
            [health]
            exec = ["true"]
            interval = "5s"
            [security]
            no-new-privileges = false
        "#;
        let container = read_back(text);
        let written = to_toml(&container).unwrap();
        assert_eq!(read_back(&written), container, "{written}");
        assert!(!written.contains("max-backoff"), "defaults are not written: {written}");
    }

    #[test]
    fn a_small_one_stays_small() {
        let container = Container {
            rootfs: Some("/".into()),
            command: vec!["true".into()],
            ..Container::default()
        };
        assert_eq!(to_toml(&container).unwrap().lines().count(), 2);
    }
}
