//! What a manifest says of a container as a service of a machine: what it is, when
//! it is ready, when and whether it is run.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::{Container, Isolation};

/// What a container is to others that wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It runs until it is stopped, and is ready when it runs, or as `ready` and
    /// `health` say.
    #[default]
    Service,
    /// It is ready when it has ended with status 0, which it does once a boot.
    Oneshot,
    /// It runs until it is stopped, and says by sd_notify(3) when it is ready.
    Notify,
    /// It runs nothing and only names others: ready when they are. A manifest without
    /// anything to run that names others is one without saying so.
    Target,
}

/// When a service is ready, and how long that may take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Ready {
    /// It writes a line to this descriptor, which it is given (as s6 has it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<u32>,
    /// It listens on this TCP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<u16>,
    /// If it takes longer it is stopped, and its restart policy decides: 90s with
    /// `fd`, `listen` or `type = "notify"`, without an end otherwise.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
}

/// How long a service may take to say that it is ready, unless it says itself.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Container {
    /// Whether it only names others.
    pub fn is_target(&self) -> bool {
        self.kind == Kind::Target
    }

    /// Whether it is run at times, and not when it can be.
    pub fn is_timed(&self) -> bool {
        self.schedule.is_some() || self.every.is_some()
    }

    /// Whether running alone does not make it ready: somebody has to say so.
    pub fn tells_when_ready(&self) -> bool {
        self.kind == Kind::Notify || self.ready.fd.is_some() || self.ready.listen.is_some()
    }

    /// How long it may take from its start until it is ready; without an end if none.
    pub fn ready_within(&self) -> Option<Duration> {
        self.ready.timeout.or_else(|| self.tells_when_ready().then_some(TIMEOUT))
    }

    /// Whether it is told where to notify (`NOTIFY_SOCKET`).
    pub fn notifies(&self) -> bool {
        self.kind == Kind::Notify || self.watchdog.is_some()
    }

    /// Whether it has nothing to run, and names others: then it is a target.
    pub fn only_names_others(&self) -> bool {
        let names = !(self.requires.is_empty() && self.wants.is_empty() && self.after.is_empty());
        let runs = self.image.is_some()
            || self.rootfs.is_some()
            || self.entrypoint.is_some()
            || !self.command.is_empty()
            || self.isolation == Isolation::None;
        names && !runs && self.kind == Kind::Service
    }
}
