//! Docker's `config.json`: who we are to which registry.
//!
//! Logins stand in `auths`, or with a helper program (`credHelpers` for a registry,
//! `credsStore` for all): `docker-credential-NAME get|store|erase`
//! (docker/docker-credential-helpers).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::image::{Error, Kind};

/// What Docker Hub is called in `config.json`.
const HUB: &str = "https://index.docker.io/v1/";
/// How long a helper may take; some ask a person.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for others (OAuth2's refresh token).
    Identity(String),
}

impl std::fmt::Debug for Login {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Login::Password { user, .. } => write!(f, "Login({user})"),
            Login::Identity(_) => write!(f, "Login(identity token)"),
        }
    }
}

/// The file of logins.
#[derive(Debug, Clone)]
pub struct Credentials {
    path: Option<PathBuf>,
}

impl Credentials {
    /// Those in this file; it need not exist.
    pub fn at(path: &Path) -> Credentials {
        Credentials { path: Some(path.to_owned()) }
    }

    /// Nobody.
    pub fn none() -> Credentials {
        Credentials { path: None }
    }

    /// Docker's: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    pub fn of_docker() -> Credentials {
        let folder = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
        Credentials { path: folder.map(|folder| folder.join("config.json")) }
    }

    /// The login for a registry, if there is one.
    ///
    /// # Errors
    /// If the file can't be read, or a helper fails.
    pub async fn get(&self, registry: &str) -> Result<Option<Login>, Error> {
        let config = self.read()?;
        if let Some(helper) = helper(&config, registry) {
            return ask_helper(&helper, registry).await;
        }
        let Some(auths) = config.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let entry = auths.iter().find(|(name, _)| host_of(name) == host_of(&key(registry)));
        entry.map_or(Ok(None), |(_, entry)| login_of(entry, registry))
    }

    /// Keeps a login. The file is replaced atomically, and only its owner reads it.
    ///
    /// # Errors
    /// If the file can't be written, or a helper fails.
    pub async fn store(&self, registry: &str, login: &Login) -> Result<(), Error> {
        let mut config = self.read()?;
        if let Some(helper) = helper(&config, registry) {
            let (user, secret) = match login {
                Login::Password { user, password } => (user.as_str(), password),
                Login::Identity(token) => ("<token>", token),
            };
            let input = json!({"ServerURL": key(registry), "Username": user, "Secret": secret});
            run_helper(&helper, "store", &input.to_string()).await?;
            return Ok(());
        }
        let entry = match login {
            Login::Password { user, password } => {
                json!({"auth": BASE64_STANDARD.encode(format!("{user}:{password}"))})
            }
            Login::Identity(token) => json!({"identitytoken": token}),
        };
        let auths = config.entry("auths").or_insert_with(|| json!({}));
        let Some(auths) = auths.as_object_mut() else {
            return Err(self.refuse("its `auths` is not an object"));
        };
        auths.retain(|name, _| host_of(name) != host_of(&key(registry)));
        auths.insert(key(registry), entry);
        self.write(&config)
    }

    /// Forgets a login; whether there was one.
    ///
    /// # Errors
    /// If the file can't be written, or a helper fails.
    pub async fn erase(&self, registry: &str) -> Result<bool, Error> {
        let mut config = self.read()?;
        if let Some(helper) = helper(&config, registry) {
            let had = ask_helper(&helper, registry).await?.is_some();
            run_helper(&helper, "erase", &key(registry)).await?;
            return Ok(had);
        }
        let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) else {
            return Ok(false);
        };
        let before = auths.len();
        auths.retain(|name, _| host_of(name) != host_of(&key(registry)));
        if auths.len() == before {
            return Ok(false);
        }
        self.write(&config)?;
        Ok(true)
    }

    fn refuse(&self, why: &str) -> Error {
        let path = self.path.as_deref().unwrap_or(Path::new("config.json"));
        Error::invalid(format!("cannot use {}: {why}", path.display()))
    }

    fn read(&self) -> Result<Map<String, Value>, Error> {
        let Some(path) = &self.path else {
            return Ok(Map::new());
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        serde_json::from_slice(&bytes).map_err(|e| self.refuse(&format!("it is not JSON: {e}")))
    }

    fn write(&self, config: &Map<String, Value>) -> Result<(), Error> {
        let path = self.path.as_deref().ok_or_else(|| {
            Error::invalid("there is no file for logins; set DOCKER_CONFIG or HOME")
        })?;
        // A file that is kept elsewhere stays there: the link is not replaced by it.
        let path = &followed(path);
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Error::io("make", folder, e))?;
        let fail = |e| Error::io("write", path, e);
        // Made 0600 by tempfile.
        let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
        serde_json::to_writer_pretty(&mut temporary, config).map_err(|e| fail(e.into()))?;
        temporary.write_all(b"\n").map_err(fail)?;
        temporary.as_file().sync_all().map_err(fail)?;
        temporary.persist(path).map_err(|e| fail(e.error))?;
        fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(fail)
    }
}

/// Where a path leads that is a symbolic link, also to what is not there yet.
fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

/// The name of a registry in `config.json`.
fn key(registry: &str) -> String {
    match registry {
        "docker.io" => HUB.to_owned(),
        other => other.to_owned(),
    }
}

/// Entries are written with and without scheme and path.
fn host_of(entry: &str) -> &str {
    let rest = entry.split_once("://").map_or(entry, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

fn login_of(entry: &Value, registry: &str) -> Result<Option<Login>, Error> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Login::Identity(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        let refuse =
            || Error::invalid(format!("the login for {registry} in config.json is damaged"));
        let plain = BASE64_STANDARD.decode(auth.trim()).map_err(|_| refuse())?;
        let plain = String::from_utf8(plain).map_err(|_| refuse())?;
        let (user, password) = plain.split_once(':').ok_or_else(refuse)?;
        let password = password.trim_end_matches('\0');
        return Ok(Some(Login::Password { user: user.into(), password: password.into() }));
    }
    Ok(text("username").zip(text("password")).map(|(user, password)| Login::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    }))
}

/// The helper in charge of a registry.
fn helper(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = config
        .get("credHelpers")
        .and_then(Value::as_object)
        .and_then(|helpers| {
            helpers.iter().find(|(name, _)| host_of(name) == host_of(&key(registry)))
        })
        .and_then(|(_, helper)| helper.as_str());
    own.or_else(|| config.get("credsStore").and_then(Value::as_str))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

async fn ask_helper(helper: &str, registry: &str) -> Result<Option<Login>, Error> {
    let answer = match run_helper(helper, "get", &key(registry)).await {
        Ok(answer) => answer,
        // The helpers' own words for a missing login (credentials/error.go).
        Err(e) if e.to_string().contains("credentials not found") => return Ok(None),
        Err(e) => return Err(e),
    };
    let answer: Value = serde_json::from_str(&answer)
        .map_err(|e| Error::invalid(format!("docker-credential-{helper} answered no JSON: {e}")))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    Ok(match text("Username").as_str() {
        "" => None,
        "<token>" => Some(Login::Identity(text("Secret"))),
        user => Some(Login::Password { user: user.to_owned(), password: text("Secret") }),
    })
}

async fn run_helper(helper: &str, verb: &str, input: &str) -> Result<String, Error> {
    let program = format!("docker-credential-{helper}");
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err(Error::invalid(format!("{program:?} is not a credential helper's name")));
    }
    let fail = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => "; install it, or take it out of config.json",
            _ => "",
        };
        Error::caused(Kind::System, format!("cannot run {program}: {e}{hint}"), e)
    };
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper may answer without reading all.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER_PATIENCE, run)
        .await
        .map_err(|_| Error::new(Kind::System, format!("{program} did not answer")))?
        .map_err(fail)?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::new(
            Kind::System,
            format!("{program} {verb} failed: {} {}", answer.trim(), complaint.trim()),
        ));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn logins_are_kept_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/config.json");
        let credentials = Credentials::at(&path);
        assert_eq!(credentials.get("a.example").await.unwrap(), None);
        let login = Login::Password { user: "me".into(), password: "a:b".into() };
        for registry in ["a.example", "docker.io"] {
            credentials.store(registry, &login).await.unwrap();
            assert_eq!(credentials.get(registry).await.unwrap().as_ref(), Some(&login));
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains(HUB));
        assert!(credentials.erase("a.example").await.unwrap());
        assert!(!credentials.erase("a.example").await.unwrap());
        assert_eq!(credentials.get("a.example").await.unwrap(), None);
        assert!(format!("{login:?}").contains("me") && !format!("{login:?}").contains("a:b"));
    }

    #[tokio::test]
    async fn a_link_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (link, between) = (dir.path().join("config.json"), dir.path().join("between"));
        std::os::unix::fs::symlink("between", &link).unwrap();
        std::os::unix::fs::symlink(dir.path().join("kept/real.json"), &between).unwrap();
        let login = Login::Password { user: "me".into(), password: "pw".into() };
        // The first time it leads to nothing.
        for registry in ["a.example", "b.example"] {
            Credentials::at(&link).store(registry, &login).await.unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            let text = fs::read_to_string(dir.path().join("kept/real.json")).unwrap();
            assert!(text.contains(registry), "{text}");
        }
    }

    #[tokio::test]
    async fn entries_of_other_tools_are_understood_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(
            &path,
            r#"{"auths":{"https://b.example/v1/":{"auth":"bWU6cHc="},"c.example":{"identitytoken":"t"}},
                "HttpHeaders":{"X":"y"}}"#,
        )
        .unwrap();
        let credentials = Credentials::at(&path);
        let me = Login::Password { user: "me".into(), password: "pw".into() };
        assert_eq!(credentials.get("b.example").await.unwrap(), Some(me.clone()));
        let token = Login::Identity("t".into());
        assert_eq!(credentials.get("c.example").await.unwrap(), Some(token));
        credentials.store("d.example", &me).await.unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("HttpHeaders"));
        fs::write(&path, "{").unwrap();
        assert!(credentials.get("b.example").await.is_err());
    }

    #[tokio::test]
    async fn a_missing_helper_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, r#"{"credHelpers":{"a.example":"berth-none"}}"#).unwrap();
        let error = Credentials::at(&path).get("a.example").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-berth-none"), "{error}");
        fs::write(&path, r#"{"credsStore":"../evil"}"#).unwrap();
        assert!(Credentials::at(&path).get("a.example").await.is_err());
    }
}
