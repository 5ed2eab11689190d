//! An image's configuration (OCI image-spec config.md, and what Docker adds).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::document::{CONFIG_MAX, Manifest};
use super::{Digest, Error, Kind, Platform};
use crate::spec::ImageDefaults;

/// The whole configuration document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The processor it is for.
    #[serde(default)]
    pub architecture: String,
    /// The operating system it is for.
    #[serde(default)]
    pub os: String,
    /// The processor's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How a container of it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Process,
    /// The layers' digests before compression.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it came to be, the oldest first.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// What Berth does not read but keeps.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How a container of the image runs. The names are Docker's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Process {
    /// The user, `name`, `uid`, either with `:group`; empty is root.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the payload listens on: `80/tcp`.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// The environment, `NAME=value`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run, before the command's words.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, or the entrypoint's arguments.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Directories that become anonymous volumes.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The working directory; empty is `/`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the payload to end: `SIGTERM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Docker's health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker's shell for commands given as one text.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// What Berth does not read but keeps.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Docker's health check. Times are nanoseconds; 0 leaves them to the engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", words…]` or `["CMD-SHELL", text]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "zero")]
    pub interval: i64,
    /// How long one may take.
    #[serde(skip_serializing_if = "zero")]
    pub timeout: i64,
    /// While failures do not count.
    #[serde(skip_serializing_if = "zero")]
    pub start_period: i64,
    /// Between two checks during the start.
    #[serde(skip_serializing_if = "zero")]
    pub start_interval: i64,
    /// How many failures in a row mean unhealthy.
    #[serde(skip_serializing_if = "zero")]
    pub retries: i64,
}

/// The layers' digests before compression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The diff ids, the lowest layer's first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

impl RootFs {
    /// The chain ids, the lowest layer's first: each means a layer on all those below
    /// it (image-spec, config.md, "Layer ChainID").
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            chain.push(match chain.last() {
                None => *diff_id,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            });
        }
        chain
    }

    /// Every name that an unpacked layer of it may have.
    pub fn names(&self) -> Vec<Digest> {
        let mut names = self.chain_ids();
        names.extend(&self.diff_ids);
        names
    }
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// If it is too large or no such document.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, Error> {
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the image's configuration has more than {CONFIG_MAX} bytes"),
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| {
            Error::corrupt(format!("the image's configuration can't be read as JSON: {e}"))
        })
    }

    /// The document's bytes, always the same for the same configuration.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps with text keys serialise")
    }

    /// Checks that it has as many layers as `manifest`.
    ///
    /// # Errors
    /// If not: then which layer is which is anyone's guess.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Error> {
        let (ids, layers) = (self.rootfs.diff_ids.len(), manifest.layers.len());
        if ids != layers {
            return Err(Error::corrupt(format!(
                "the image's configuration names {ids} layers, its manifest {layers}"
            )));
        }
        Ok(())
    }

    /// Its platform.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// What the OCI Spec of a container takes from it.
    pub fn defaults(&self) -> ImageDefaults {
        let workdir = &self.config.working_dir;
        ImageDefaults {
            entrypoint: self.config.entrypoint.clone(),
            command: self.config.cmd.clone(),
            env: self.config.env.clone(),
            workdir: (!workdir.is_empty()).then(|| workdir.into()),
        }
    }
}

fn zero(n: &i64) -> bool {
    *n == 0
}

/// Docker writes `null` for what is empty.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's sets are maps to empty objects.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn as_keys<S: serde::Serializer>(keys: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(keys.iter().map(|key| (key, Map::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configs_read_and_write_the_same() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z",
          "config":{"User":"app","Env":["PATH=/bin"],"Cmd":null,"Entrypoint":["/app"],
            "Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},"WorkingDir":"/srv","Labels":null,
            "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1000000000},"OnBuild":["RUN x"]},
          "rootfs":{"type":"layers","diff_ids":[]},"docker_version":"1"}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.volumes, ["/data"]);
        assert_eq!(config.config.healthcheck.as_ref().unwrap().interval, 1_000_000_000);
        assert_eq!(config.config.other["OnBuild"], serde_json::json!(["RUN x"]));
        assert_eq!(config.defaults().entrypoint, ["/app"]);
        assert_eq!(config.defaults().workdir, Some("/srv".into()));
        let again = ImageConfig::parse(&config.to_bytes()).unwrap();
        assert_eq!(again, config);
        let value: Value = serde_json::from_slice(&config.to_bytes()).unwrap();
        assert_eq!(value["config"]["Volumes"], serde_json::json!({"/data": {}}));
        assert_eq!(value["docker_version"], "1");
        assert!(ImageConfig::parse(b"[]").is_err());
        assert!(ImageConfig::parse(br#"{"config":null}"#).is_ok());
    }
}
