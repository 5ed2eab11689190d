//! The `process` of a Spec: what is executed, as whom, and with what limits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::capabilities::CapSet;
use super::{Context, Error};
use crate::manifest::model::{Container, Isolation};

/// Docker's `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `process` of a container whose capabilities are decided.
pub(super) fn process(
    container: &Container,
    context: &Context,
    hostname: &str,
    capabilities: CapSet,
) -> Result<Process, Error> {
    let user = &context.user;
    if let Some(ids) = context.ids {
        let groups = user.additional.iter().chain([&user.gid]);
        if let Some(id) = groups.chain([&user.uid]).find(|id| **id >= ids.count) {
            return Err(Error::new(
                "user",
                format!(
                    "the id {id} is not in the container's user namespace, which has 0 to {}; \
                     use a lower one, or security.userns = \"host\"",
                    ids.count.saturating_sub(1)
                ),
            ));
        }
    }
    let mut oci_user = User::default();
    oci_user
        .set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids((!user.additional.is_empty()).then(|| user.additional.clone()));
    let mut process = Process::default();
    process
        .set_terminal(Some(container.tty))
        .set_user(oci_user)
        .set_args(Some(args(container, context)?))
        .set_env(Some(env(container, context, hostname)?))
        .set_cwd(workdir(container, context)?)
        .set_capabilities(Some(capabilities.for_process(user.uid)))
        .set_rlimits(rlimits(container, context.open_files)?)
        .set_no_new_privileges(Some(container.security.no_new_privileges))
        .set_oom_score_adj(oom_score_adj(container)?.or(context.oom_score_adj));
    Ok(process)
}

/// Entrypoint and command by Docker's rule: an entrypoint of the manifest's own
/// makes the image's command void.
fn args(container: &Container, context: &Context) -> Result<Vec<String>, Error> {
    let image = &context.image;
    let (entrypoint, default_command) = match &container.entrypoint {
        Some(own) => (own, &[][..]),
        None => (&image.entrypoint, image.command.as_slice()),
    };
    let command =
        if container.command.is_empty() { default_command } else { container.command.as_slice() };
    let args = [entrypoint.as_slice(), command].concat();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::new("command", "there is no program to run; write command = [\"…\"]"));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::new("command", "an argument can't have a NUL byte"));
    }
    Ok(args)
}

/// `NAME=value` in the order of first mention; what is said later wins.
fn env(container: &Container, context: &Context, hostname: &str) -> Result<Vec<String>, Error> {
    let mut variables: Vec<String> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut set = |name: &str, value: &str| -> Result<(), Error> {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::new(
                "env",
                format!("{name:?} can't be set: a name has no '=', and neither part a NUL byte"),
            ));
        }
        let variable = format!("{name}={value}");
        match places.get(name).and_then(|place| variables.get_mut(*place)) {
            Some(earlier) => *earlier = variable,
            None => {
                places.insert(name.to_owned(), variables.len());
                variables.push(variable);
            }
        }
        Ok(())
    };
    set("PATH", PATH)?;
    if container.isolation == Isolation::Full {
        set("HOSTNAME", hostname)?;
    }
    if container.tty {
        set("TERM", "xterm")?;
    }
    set("HOME", &context.user.home.to_string_lossy())?;
    for variable in &context.image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value)?;
    }
    for (name, value) in &context.env {
        set(name, value)?;
    }
    for (name, value) in &container.env {
        set(name, value)?;
    }
    // As with runc: an empty one is none.
    if variables.iter().any(|variable| variable == "HOME=") {
        variables.retain(|variable| variable != "HOME=");
        variables.push(format!("HOME={}", context.user.home.display()));
    }
    Ok(variables)
}

fn workdir(container: &Container, context: &Context) -> Result<PathBuf, Error> {
    let workdir =
        container.workdir.as_deref().or(context.image.workdir.as_deref()).unwrap_or(Path::new(""));
    if workdir.as_os_str().is_empty() {
        return Ok(PathBuf::from("/"));
    }
    if !workdir.is_absolute() || workdir.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::new("workdir", format!("{} is not absolute", workdir.display())));
    }
    Ok(workdir.to_owned())
}

fn rlimits(
    container: &Container,
    open_files: Option<(u64, u64)>,
) -> Result<Option<Vec<PosixRlimit>>, Error> {
    let rlimit = |kind, soft, hard| {
        PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap_or_default()
    };
    let mut rlimits = Vec::new();
    for (name, limit) in &container.rlimits {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
        let kind = PosixRlimitType::from_str(&format!("RLIMIT_{bare}")).map_err(|_| {
            let reason = format!("{name:?} is not a limit of getrlimit(2), such as nofile");
            Error::new("rlimits", reason)
        })?;
        if limit.soft > limit.hard {
            return Err(Error::new(
                "rlimits",
                format!("{name}: soft {} is above hard {}", limit.soft, limit.hard),
            ));
        }
        if rlimits.iter().any(|known: &PosixRlimit| known.typ() == kind) {
            return Err(Error::new("rlimits", format!("{name} is there twice")));
        }
        rlimits.push(rlimit(kind, limit.soft, limit.hard));
    }
    let nofile = PosixRlimitType::RlimitNofile;
    if let Some((soft, hard)) = open_files
        && rlimits.iter().all(|known| known.typ() != nofile)
    {
        rlimits.push(rlimit(nofile, soft, hard));
    }
    Ok((!rlimits.is_empty()).then_some(rlimits))
}

fn oom_score_adj(container: &Container) -> Result<Option<i32>, Error> {
    match container.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Error::new("oom-score-adj", format!("{score} is not between -1000 and 1000")))
        }
        score => Ok(score),
    }
}
