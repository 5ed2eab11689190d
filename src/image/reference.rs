//! Image references as Docker writes them: `redis`, `localhost:5000/app:1.2`,
//! `quay.io/a/b@sha256:…` (distribution, reference/reference.go and normalize.go).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Digest, Error};

/// The registry of names that say none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that say neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest repository name, registry included, in bytes.
const NAME_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// A full reference: registry, repository, and a tag or a digest or both.
///
/// Parsing completes what is left out (`redis` is `docker.io/library/redis:latest`);
/// [`fmt::Display`] writes it in full, [`Reference::familiar`] as short as Docker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with a port if one was said: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/redis`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. There is none only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same repository, pinned to `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    /// If `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, Error> {
        check_tag(tag, tag)?;
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The name under which the store keeps it: with a digest the tag says nothing
    /// more, so it is left out.
    pub fn canonical(&self) -> Reference {
        match self.digest {
            Some(digest) => self.with_digest(digest),
            None => self.clone(),
        }
    }

    /// The repository as Docker shows it: `redis`, `user/app`, `quay.io/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// As Docker shows it: `redis:latest`, `quay.io/a/b@sha256:…`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    fn suffix(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(300).collect();
            Error::invalid(format!("{shown:?} is not an image's reference: {why}"))
        };
        if text.is_empty() {
            return Err(refuse("it is empty; write it as `redis:7` or `registry.example/app:1`"));
        }
        if Digest::from_hex(text).is_some() {
            return Err(refuse("64 hex digits are an id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|_| {
                    refuse("after the `@` must stand `sha256:` and 64 small hex digits")
                })?),
            ),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it, a port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let only_host = last == 0;
        let (name, tag) = match rest[last..].split_once(':') {
            Some((component, tag)) => (&rest[..last + component.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(text, tag)?;
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) && !only_host => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        check_registry(registry).map_err(|why| refuse(&why))?;
        check_path(path).map_err(|why| refuse(&why))?;
        let repository = match path.contains('/') {
            false if registry == DEFAULT_REGISTRY => format!("library/{path}"),
            _ => path.to_owned(),
        };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(refuse("the name is longer than 255 bytes"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Docker's rule for whether the first component is a host: it has a dot or a
/// colon, is `localhost`, or has capitals (which no repository may have).
fn is_registry(component: &str) -> bool {
    component.contains(['.', ':'])
        || component == "localhost"
        || component.chars().any(|c| c.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let refuse = || format!("{registry:?} is not a host name, with or without a port");
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or_else(refuse)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| refuse())?;
        match after {
            "" => ("ipv6", None),
            after => ("ipv6", Some(after.strip_prefix(':').ok_or_else(refuse)?)),
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if host.split('.').all(label) && port_ok { Ok(()) } else { Err(refuse()) }
}

/// Components of `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn check_path(path: &str) -> Result<(), String> {
    for component in path.split('/') {
        if component.is_empty() {
            return Err("a part of the name between slashes is empty".to_owned());
        }
        if component.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(format!("repository name ({component}) must be lowercase"));
        }
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let well_formed = component.starts_with(alphanumeric)
            && component.ends_with(alphanumeric)
            && component
                .split(alphanumeric)
                .all(|between| matches!(between, "" | "." | "_" | "__") || dashes(between));
        if !well_formed {
            return Err(format!(
                "{component:?} must be small letters and digits, joined by single dots, one or \
                 two underscores, or dashes"
            ));
        }
    }
    Ok(())
}

fn dashes(text: &str) -> bool {
    text.bytes().all(|b| b == b'-')
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn check_tag(text: &str, tag: &str) -> Result<(), Error> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ok = tag.starts_with(word)
        && tag.len() <= TAG_MAX
        && tag.chars().all(|c| word(c) || c == '.' || c == '-');
    if ok {
        return Ok(());
    }
    let shown: String = text.chars().take(300).collect();
    Err(Error::invalid(format!(
        "{shown:?} has no valid tag: letters, digits, '_', '.' and '-', not beginning with '.' or \
         '-', at most {TAG_MAX} bytes"
    )))
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        let digest = Digest::of(b"x").to_string();
        for (short, long) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("index.docker.io/redis", "docker.io/library/redis:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("quay.io/a/b", "quay.io/a/b:latest"),
            ("UPPER/app", "UPPER/app:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
        ] {
            assert_eq!(full(short), long, "{short}");
        }
        assert_eq!(full(&format!("redis@{digest}")), format!("docker.io/library/redis@{digest}"));
        let both: Reference = format!("redis:7@{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/redis:7@{digest}"));
        assert_eq!(both.canonical().to_string(), format!("docker.io/library/redis@{digest}"));
        assert_eq!(both.selector(), digest);
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        let id = "a".repeat(64);
        for bad in [
            "",
            ":tag",
            "a:",
            "a@",
            "a@sha256:12",
            "Redis",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b:c",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:-t",
            "a:.t",
            "localhost:99999/a",
            "a.b:/c",
            "../a",
            "a/../b",
            "a\n",
            "[::1/a",
            "ä",
            "https://a.b/c",
            &long,
            &tag,
            &id,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn familiar_forms() {
        for (text, familiar) in [
            ("docker.io/library/redis", "redis:latest"),
            ("docker.io/user/app:1", "user/app:1"),
            ("quay.io/a:1", "quay.io/a:1"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().familiar(), familiar);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_parses_is_written_and_read_the_same(
            registry in prop::option::of("([a-z]{1,8}\\.[a-z]{2,3}|localhost)(:[1-9][0-9]{0,3})?"),
            path in "[a-z0-9]{1,6}([._-][a-z0-9]{1,6}){0,2}(/[a-z0-9]{1,6}){0,3}",
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            let mut text = registry.map(|r| r + "/").unwrap_or_default() + &path;
            if let Some(tag) = tag { text = text + ":" + &tag; }
            if pinned { text = format!("{text}@{}", Digest::of(b"")); }
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
        }
    }
}
