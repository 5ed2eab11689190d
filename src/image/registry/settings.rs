//! `registries.toml`: how each registry is to be reached.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["https://mirror.example", "http://10.0.0.1:5000"]
//!
//! [registry."registry.example:5000"]
//! ca = ["/etc/ssl/example.pem"]     # beside the system's authorities
//! # plain-http = true               # no TLS at all
//! # insecure = true                 # TLS, but any certificate
//! # blocked = true                  # never ask it
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::Error;

/// How registries are reached, by their host as references write it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Those with settings of their own.
    #[serde(default)]
    pub registry: BTreeMap<String, RegistrySettings>,
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RegistrySettings {
    /// URLs that are asked first for pulls, in this order.
    pub mirrors: Vec<String>,
    /// PEM files of authorities that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
    /// Whether to speak HTTP without TLS. Unsaid: only to loopback addresses for
    /// which neither `ca` nor `insecure` is said.
    pub plain_http: Option<bool>,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// Whether it must not be asked.
    pub blocked: bool,
}

impl Settings {
    /// Reads the file; a missing one says nothing.
    ///
    /// # Errors
    /// If it can't be read, with the line that is wrong.
    pub fn read(path: &Path) -> Result<Settings, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Settings::parse(&text)
                .map_err(|e| e.context(format_args!("reading {}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(e) => Err(Error::io("read", path, e)),
        }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// With the line that is wrong.
    pub fn parse(text: &str) -> Result<Settings, Error> {
        let settings: Settings = toml::from_str(text)
            .map_err(|e| Error::invalid(e.to_string().trim_end().to_owned()))?;
        for (name, registry) in &settings.registry {
            for mirror in &registry.mirrors {
                let url = reqwest::Url::parse(mirror).ok();
                let fits = url.is_some_and(|url| {
                    matches!(url.scheme(), "http" | "https")
                        && url.has_host()
                        && url.username().is_empty()
                        && url.password().is_none()
                });
                if !fits {
                    return Err(Error::invalid(format!(
                        "registry {name:?}: the mirror {mirror:?} is not a URL; write it as \
                         https://mirror.example"
                    )));
                }
            }
        }
        Ok(settings)
    }

    /// The settings of one registry.
    pub fn of(&self, registry: &str) -> RegistrySettings {
        self.registry.get(registry).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_typos_are_found() {
        let settings = Settings::parse(
            "[registry.\"docker.io\"]\nmirrors = [\"https://m.example\"]\n\
             [registry.\"a.example:5000\"]\nplain-http = true\nca = [\"/x.pem\"]\n",
        )
        .unwrap();
        assert_eq!(settings.of("docker.io").mirrors, ["https://m.example"]);
        assert_eq!(settings.of("a.example:5000").plain_http, Some(true));
        assert!(!settings.of("other").blocked);
        for bad in [
            "[registry.a]\nmirror = []",
            "[registry.a]\nmirrors = [\"m.example\"]",
            "[registry.a]\nmirrors = [\"https://u:p@m.example\"]",
            "[registries.a]",
        ] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }
}
