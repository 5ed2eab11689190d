//! `/etc/berth/boot.toml`: what a machine does when it boots. Without the file the
//! defaults boot a minimal root. Every key can also stand on the kernel's command
//! line as `berth.KEY=VALUE`, which wins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::cmdline::CommandLine;
use crate::manifest::variants::Rlimit;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Instead of /etc/hostname.
    pub hostname: Option<String>,
    /// Kernel modules, beside those of /etc/modules-load.d.
    pub modules: Vec<String>,
    /// Load the modules of the devices that are there.
    pub coldplug: bool,
    /// Kernel parameters, after those of /etc/sysctl.d.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of everything that runs (getrlimit(2)).
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Controllers of cgroup v1 that are mounted beside v2, such as `devices`.
    pub cgroup_v1: Vec<String>,
    /// Whether what /etc/fstab lists is mounted.
    pub fstab: bool,
    /// The root file system, where the command line does not name it.
    pub root: Root,
    /// How long a shutdown may take before it goes on without the services that hang.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// How long processes that are no service's have between SIGTERM and SIGKILL.
    #[serde(with = "humantime_serde")]
    pub kill_timeout: Duration,
    /// How often the engine is asked whether it is well.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The hardware's watchdog resets the machine when init has been silent so long.
    #[serde(with = "humantime_serde")]
    pub watchdog: Option<Duration>,
    /// Its device.
    pub watchdog_device: PathBuf,
    /// What the power button does.
    pub power_button: PowerButton,
    /// What is executed where a shell is needed: the first that is there.
    pub shell: Vec<Vec<String>>,
    /// Directories of manifests, instead of /etc/containers.d and the others.
    pub manifests: Vec<PathBuf>,
}

/// The root file system that an initramfs moves to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Root {
    /// A device, `UUID=`, `LABEL=`, `PARTUUID=`, or `tmpfs`: a copy of the initramfs
    /// in memory, which is also taken where nothing is named.
    pub device: Option<String>,
    /// The file system's type; looked for on the device otherwise.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Mount options.
    pub options: Option<String>,
    /// How long the device is waited for.
    #[serde(with = "humantime_serde")]
    pub wait: Option<Duration>,
}

/// What the power button does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerButton {
    /// The machine goes down.
    PowerOff,
    /// Nothing.
    Ignore,
}

impl Default for Config {
    fn default() -> Self {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Config {
            hostname: None,
            modules: Vec::new(),
            coldplug: true,
            sysctls: BTreeMap::new(),
            rlimits: BTreeMap::new(),
            cgroup_v1: Vec::new(),
            fstab: true,
            root: Root::default(),
            shutdown_timeout: Duration::from_secs(90),
            kill_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(20),
            watchdog: None,
            watchdog_device: PathBuf::from("/dev/watchdog"),
            power_button: PowerButton::PowerOff,
            shell: vec![
                words("/sbin/sulogin"),
                words("/usr/sbin/sulogin"),
                words("/bin/sh"),
                words("/bin/busybox sh"),
            ],
            manifests: Vec::new(),
        }
    }
}

/// Where it is.
pub const PATH: &str = "/etc/berth/boot.toml";

impl Config {
    /// From the file's text and the command line. What can't be read is passed over:
    /// the second value says it, a sentence each.
    pub fn read(text: &str, line: &CommandLine) -> (Config, Vec<String>) {
        let mut problems = Vec::new();
        let mut table = text.parse::<toml::Table>().unwrap_or_else(|error| {
            problems.push(format!("{PATH}: {}; the defaults are in force", first_line(&error)));
            toml::Table::new()
        });
        if let Err(error) = table.clone().try_into::<Config>() {
            problems.push(format!("{PATH}: {}; the defaults are in force", first_line(&error)));
            table = toml::Table::new();
        }
        for (key, value) in &line.settings {
            let mut tried = table.clone();
            set(&mut tried, key, value);
            match tried.clone().try_into::<Config>() {
                Ok(_) => table = tried,
                Err(error) => problems.push(format!(
                    "berth.{key}={value} on the command line: {}; passed over",
                    first_line(&error)
                )),
            }
        }
        (table.try_into().unwrap_or_default(), problems)
    }
}

fn first_line(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    // The caret drawing of the parser is for terminals; its words are enough.
    let words = text.lines().filter(|line| !line.contains('|') && !line.trim().is_empty());
    words.collect::<Vec<_>>().join(": ")
}

/// `root.device` is a key in a table. A value is TOML if it can be, else a text.
fn set(table: &mut toml::Table, key: &str, value: &str) {
    let (path, last) = match key.rsplit_once('.') {
        Some((path, last)) => (Some(path), last),
        None => (None, key),
    };
    let mut at = table;
    for part in path.iter().flat_map(|path| path.split('.')) {
        let inner = at.entry(part).or_insert_with(|| toml::Table::new().into());
        match inner {
            toml::Value::Table(inner) => at = inner,
            _ => return,
        }
    }
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let parsed = parsed.and_then(|mut table| table.remove("value"));
    at.insert(last.to_owned(), parsed.unwrap_or_else(|| value.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_and_nonsense_is_told() {
        let text =
            "hostname = \"file\"\nshutdown-timeout = \"30s\"\n[root]\ndevice = \"/dev/vda\"\n";
        let line = CommandLine::parse(
            "berth.hostname=line berth.root.wait=3s berth.coldplug=false berth.nonsense=1 \
             berth.watchdog=60s",
        );
        let (config, problems) = Config::read(text, &line);
        assert_eq!(config.hostname.as_deref(), Some("line"));
        assert_eq!(config.root.device.as_deref(), Some("/dev/vda"));
        assert_eq!(config.root.wait, Some(Duration::from_secs(3)));
        assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(config.watchdog, Some(Duration::from_secs(60)));
        assert!(!config.coldplug);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("berth.nonsense=1 on the command line"), "{problems:?}");
    }

    #[test]
    fn a_broken_file_leaves_the_defaults() {
        for text in ["hostname = ", "hostnam = \"x\"", "watchdog = 3"] {
            let (config, problems) = Config::read(text, &CommandLine::default());
            assert_eq!(config, Config::default(), "{text}");
            assert_eq!(problems.len(), 1, "{text}");
        }
        assert_eq!(Config::read("", &CommandLine::default()), (Config::default(), vec![]));
    }
}
