//! A profile from its file: Docker's JSON (with `archMap`, `includes`, `excludes`)
//! or the `linux.seccomp` object of an OCI Spec, which is the plainer case of it.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use crate::spec::KernelVersion;
use crate::spec::capabilities::CapSet;

/// A larger file is no profile; Docker's own has 13 kB.
const SIZE_MAX: usize = 4 << 20;

/// What Docker calls the architecture that programs are compiled for here, and
/// what libseccomp calls it.
const NATIVE: (&str, &str) = ("amd64", "SCMP_ARCH_X86_64");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    /// The form before Docker 1.13.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile for a container with these capabilities on this kernel.
///
/// # Errors
/// What is not JSON of either form, or says two things at once.
pub fn read_profile(
    file: &[u8],
    capabilities: CapSet,
    kernel: KernelVersion,
) -> Result<LinuxSeccomp, String> {
    if file.len() > SIZE_MAX {
        return Err(format!("the file has {} bytes; a profile has at most {SIZE_MAX}", file.len()));
    }
    let profile: Profile = serde_json::from_slice(file)
        .map_err(|error| format!("not a seccomp profile in Docker's or OCI's JSON: {error}"))?;
    let architectures = match (profile.architectures, profile.arch_map) {
        (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
            return Err("the profile has both `architectures` and `archMap`; keep one".to_owned());
        }
        (Some(list), None) => list,
        (list, Some(map)) => map
            .into_iter()
            .find(|entry| entry.architecture == NATIVE.1)
            .map(|entry| {
                let others = entry.sub_architectures.unwrap_or_default();
                [vec![entry.architecture], others].concat()
            })
            .unwrap_or(list.unwrap_or_default()),
        (None, None) => Vec::new(),
    };
    let architectures = architectures
        .into_iter()
        .map(|name| {
            Arch::deserialize(serde_json::Value::String(name.clone()))
                .map_err(|_| format!("{name:?} is not an architecture, such as SCMP_ARCH_X86_64"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let included = match &rule.includes {
            Some(filter) => filter.all_hold(capabilities, kernel)?,
            None => true,
        };
        let excluded = match &rule.excludes {
            Some(filter) => filter.any_holds(capabilities, kernel)?,
            None => false,
        };
        if included && !excluded {
            syscalls.push(rule.into_oci()?);
        }
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures((!architectures.is_empty()).then_some(architectures))
        .set_flags(profile.flags)
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

impl Filter {
    /// For `includes`: every capability is held, this architecture is listed if any
    /// is, and the kernel is new enough.
    fn all_hold(&self, capabilities: CapSet, kernel: KernelVersion) -> Result<bool, String> {
        let caps = self.caps.iter().flatten().all(|cap| capabilities.contains(cap));
        let arch = match self.arches.as_deref() {
            None | Some([]) => true,
            Some(arches) => arches.iter().any(|arch| arch == NATIVE.0),
        };
        let new_enough = self.min_kernel()?.is_none_or(|least| kernel >= least);
        Ok(caps && arch && new_enough)
    }

    /// For `excludes`: one of them is enough.
    fn any_holds(&self, capabilities: CapSet, kernel: KernelVersion) -> Result<bool, String> {
        let caps = self.caps.iter().flatten().any(|cap| capabilities.contains(cap));
        let arch = self.arches.iter().flatten().any(|arch| arch == NATIVE.0);
        let new_enough = self.min_kernel()?.is_some_and(|least| kernel >= least);
        Ok(caps || arch || new_enough)
    }

    fn min_kernel(&self) -> Result<Option<KernelVersion>, String> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(KernelVersion(major.parse().ok()?, minor.parse().ok()?))
            })
            .map(Some)
            .ok_or_else(|| format!("minKernel {text:?} is not a version such as 4.8"))
    }
}

impl Rule {
    fn into_oci(self) -> Result<LinuxSyscall, String> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names) {
            (Some(_), Some(names)) if !names.is_empty() => {
                return Err("a rule has both `name` and `names`; keep one".to_owned());
            }
            (Some(name), _) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        let args = self.args.filter(|args| !args.is_empty()).map(|args| {
            let oci = |arg: Arg| {
                LinuxSeccompArgBuilder::default()
                    .index(arg.index)
                    .value(arg.value)
                    .value_two(arg.value_two.unwrap_or(0))
                    .op(arg.op)
                    .build()
                    .unwrap_or_default()
            };
            args.into_iter().map(oci).collect()
        });
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(args);
        Ok(syscall)
    }
}
