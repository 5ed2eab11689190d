//! The Spec as a whole.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, LinuxSeccomp, Root, Spec,
};

use super::capabilities::CapSet;
use super::devices::{self, DeviceRequest, HostDevice};
use super::mounts::{mapping, mounts};
use super::process::process;
use super::{Context, Error, IdRange, KernelVersion, Netns, paths, seccomp};
use crate::manifest::model::{Container, Isolation};

/// The version of the runtime specification that the Spec is written by; 1.2 has
/// all that is used here.
const OCI_VERSION: &str = "1.2.0";

/// Longest host name (`HOST_NAME_MAX`, sethostname(2)).
const HOSTNAME_MAX: usize = 64;

/// The highest id that `ping_group_range` takes, as Docker has it.
const PING_GROUP_MAX: u32 = i32::MAX as u32;

/// Sysctls besides `net.` and `fs.mqueue.` that belong to a namespace: System V IPC
/// (ipc_namespaces(7)) and the NIS domain (uts_namespaces(7)).
const NAMESPACED_SYSCTLS: [&str; 9] = [
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The Spec of a container.
///
/// With `isolation = "none"` it has no namespaces and no mounts, the host's root and
/// all capabilities but those that the manifest drops.
///
/// # Errors
/// The key of the manifest that says what can't be done.
pub fn build(container: &Container, context: &Context) -> Result<Spec, Error> {
    let mut spec = build_without_filter(container, context)?;
    let filter = Filter::of(container, context)?.profile()?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(filter);
    }
    Ok(spec)
}

/// The same but for the seccomp filter, which is most of it: see [`Filter`].
///
/// # Errors
/// As those of [`build`].
pub fn build_without_filter(container: &Container, context: &Context) -> Result<Spec, Error> {
    let security = &container.security;
    let capabilities = capabilities(container)?;
    let hostname = hostname(container, context)?;
    let mut linux = Linux::default();
    linux
        .set_cgroups_path(context.cgroups_path.clone())
        .set_seccomp(None)
        .set_namespaces(None)
        .set_resources(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let mut root = Root::default();
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_hostname(None)
        .set_mounts(None)
        .set_annotations(annotations(container)?);
    match container.isolation {
        Isolation::None => {
            if let Some(key) = needs_isolation(container) {
                let reason = "it has no meaning with isolation = \"none\"; take one of them out";
                return Err(Error::new(key, reason));
            }
            root.set_path(PathBuf::from("/")).set_readonly(Some(false));
            let host_ids = Context { ids: None, ..context.clone() };
            spec.set_process(Some(process(container, &host_ids, &hostname, capabilities)?));
        }
        Isolation::Full => {
            let wanted = requests(container, context)?;
            let requests: Vec<DeviceRequest> =
                wanted.iter().map(|(request, _)| request.clone()).collect();
            isolate(&mut linux, context, &wanted);
            linux.set_sysctl(sysctls(container, context)?);
            root.set_path(context.root.clone()).set_readonly(Some(security.read_only));
            spec.set_process(Some(process(container, context, &hostname, capabilities)?))
                .set_mounts(Some(mounts(container, context, &requests)?))
                .set_hostname(Some(hostname));
        }
    }
    spec.set_root(Some(root)).set_linux(Some(linux));
    Ok(spec)
}

/// A key of the manifest that a plain process can't have.
fn needs_isolation(container: &Container) -> Option<&'static str> {
    [
        ("mount", !container.mounts.is_empty()),
        ("devices", !container.devices.is_empty()),
        ("sysctls", !container.sysctls.is_empty()),
        ("hostname", container.hostname.is_some()),
        ("shm-size", container.shm_size.is_some()),
        ("security.read-only", container.security.read_only),
    ]
    .into_iter()
    .find_map(|(key, there)| there.then_some(key))
}

/// Namespaces, ids, devices and hidden paths.
fn isolate(linux: &mut Linux, context: &Context, wanted: &[(DeviceRequest, HostDevice)]) {
    let mut nodes = devices::default_nodes();
    let mut rules = devices::default_rules();
    rules.extend(wanted.iter().map(|(request, host)| request.rule(host)));
    if context.ids.is_none() {
        nodes.extend(wanted.iter().map(|(request, host)| request.node(host)));
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules));
    linux
        .set_namespaces(Some(namespaces(context)))
        .set_devices(Some(nodes))
        .set_resources(Some(resources))
        .set_masked_paths(Some(paths::MASKED.map(str::to_owned).to_vec()))
        .set_readonly_paths(Some(paths::READONLY.map(str::to_owned).to_vec()))
        .set_uid_mappings(context.ids.map(|ids| vec![mapping(ids)]))
        .set_gid_mappings(context.ids.map(|ids| vec![mapping(ids)]));
}

fn namespaces(context: &Context) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let new = |kind: LinuxNamespaceType| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut namespaces: Vec<LinuxNamespace> = [Pid, Mount, Uts, Ipc, Cgroup].map(new).to_vec();
    match &context.network {
        Netns::Own => namespaces.push(new(Network)),
        Netns::Host => {}
        Netns::Shared(path) => {
            let mut shared = new(Network);
            shared.set_path(Some(path.clone()));
            namespaces.push(shared);
        }
    }
    if context.ids.is_some() {
        namespaces.push(new(User));
    }
    namespaces
}

/// The host name of a container whose manifest says none: its name made fit for one.
pub fn hostname_of(name: &str) -> String {
    name.replace(['@', '_'], "-")
}

/// The manifest's host name, or the container's name made fit for one.
fn hostname(container: &Container, context: &Context) -> Result<String, Error> {
    let Some(hostname) = &container.hostname else {
        return Ok(hostname_of(&context.name));
    };
    let usable = (1..=HOSTNAME_MAX).contains(&hostname.len())
        && hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if usable {
        Ok(hostname.clone())
    } else {
        Err(Error::new(
            "hostname",
            format!(
                "{hostname:?} is not a host name: letters, digits, '-' and '.', at most \
                 {HOSTNAME_MAX}"
            ),
        ))
    }
}

/// The capabilities of the container's processes at most.
fn capabilities(container: &Container) -> Result<CapSet, Error> {
    let base = match container.isolation {
        Isolation::Full => CapSet::docker_default(),
        Isolation::None => CapSet::ALL,
    };
    let security = &container.security;
    CapSet::adjust(base, &security.cap_add, &security.cap_drop)
        .map_err(|reason| Error::new("security.cap-add/cap-drop", reason))
}

/// All that a seccomp filter depends on. Two that are the same have the same filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    named: String,
    isolation: Isolation,
    capabilities: CapSet,
    file: Option<Vec<u8>>,
    kernel: KernelVersion,
}

impl Filter {
    /// That of a container.
    ///
    /// # Errors
    /// A capability that there is not.
    pub fn of(container: &Container, context: &Context) -> Result<Self, Error> {
        Ok(Filter {
            named: container.security.seccomp.clone(),
            isolation: container.isolation,
            capabilities: capabilities(container)?,
            file: context.seccomp_profile.clone(),
            kernel: context.kernel,
        })
    }

    /// The profile; a plain process has none unless one is named.
    ///
    /// # Errors
    /// The file is no profile.
    pub fn profile(&self) -> Result<Option<LinuxSeccomp>, Error> {
        match self.named.as_str() {
            "unconfined" => Ok(None),
            "default" => Ok(match self.isolation {
                Isolation::Full => Some(seccomp::default_filter(self.capabilities)),
                Isolation::None => None,
            }),
            path => {
                let name = if path.starts_with('{') { "the profile" } else { path };
                let fail =
                    |reason: &str| Error::new("security.seccomp", format!("{name}: {reason}"));
                let file = self
                    .file
                    .as_deref()
                    .ok_or_else(|| fail("the profile was not read; is it a file?"))?;
                seccomp::read_profile(file, self.capabilities, self.kernel)
                    .map(Some)
                    .map_err(|reason| fail(&reason))
            }
        }
    }
}

/// The entries of `devices` with what the host has there.
fn requests(
    container: &Container,
    context: &Context,
) -> Result<Vec<(DeviceRequest, HostDevice)>, Error> {
    let find = |entry: &String| {
        let request =
            DeviceRequest::from_str(entry).map_err(|reason| Error::new("devices", reason))?;
        let host = context.devices.get(&request.host).ok_or_else(|| {
            let host = request.host.display();
            Error::new("devices", format!("{host} is not a device of this machine"))
        })?;
        Ok((request, *host))
    };
    container.devices.iter().map(find).collect()
}

/// The manifest's sysctls, and Docker's own where the network namespace is.
fn sysctls(
    container: &Container,
    context: &Context,
) -> Result<Option<HashMap<String, String>>, Error> {
    let mut sysctls = BTreeMap::new();
    if context.network == Netns::Own {
        // Ports below 1024 and ping need no privilege: the namespace is the container's.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), ping_groups(context.ids));
    }
    for (name, value) in &container.sysctls {
        let fail = |reason: &str| Error::new("sysctls", format!("{name}: {reason}"));
        let well_formed = name.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        });
        if !well_formed {
            return Err(fail("a name has letters, digits, '_' and '-' between single dots"));
        }
        if value.contains(['\0', '\n']) {
            return Err(fail("the value has a line end or a NUL byte"));
        }
        if name.starts_with("net.") {
            if context.network != Netns::Own {
                return Err(fail("the network is not the container's own, so it can't be set"));
            }
        } else if !name.starts_with("fs.mqueue.") && !NAMESPACED_SYSCTLS.contains(&name.as_str()) {
            return Err(fail("it holds for the whole machine; set it on the host"));
        }
        sysctls.insert(name.clone(), value.clone());
    }
    Ok((!sysctls.is_empty()).then(|| sysctls.into_iter().collect()))
}

/// The groups that may ping, all of them; the kernel refuses ids without a mapping.
fn ping_groups(ids: Option<IdRange>) -> String {
    let last = ids.map_or(PING_GROUP_MAX, |ids| ids.count.saturating_sub(1).min(PING_GROUP_MAX));
    format!("0 {last}")
}

/// Labels become annotations.
fn annotations(container: &Container) -> Result<Option<HashMap<String, String>>, Error> {
    if container.labels.contains_key("") {
        return Err(Error::new("labels", "a label without a name"));
    }
    let labels = &container.labels;
    Ok((!labels.is_empty()).then(|| labels.clone().into_iter().collect()))
}
