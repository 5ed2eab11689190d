//! A failed launch in one sentence: which step, which path, which errno, and the
//! likely reason with the remedy. Pure.

use rustix::io::Errno;

use crate::sandbox::plan::{Plan, PlanSource};
use crate::sandbox::status::{Failure, Step};

/// Why the launch of a plan failed.
pub fn sentence(failure: &Failure, plan: Option<&Plan>) -> String {
    let object = plan.and_then(|plan| object(failure, plan)).unwrap_or_default();
    let cause = cause(failure).map(|cause| format!("; {cause}")).unwrap_or_default();
    format!("{}{object}: {}{cause}", failure.step.text(), error_text(failure.errno))
}

/// The words in which Docker's clients look for "not found" (127) and "can't be
/// executed" (126).
pub fn docker_phrase(failure: &Failure, program: Option<&str>) -> Option<String> {
    let program = program?;
    let what = match (failure.step, failure.exit_code()) {
        (Step::Exec, 127) if program.contains('/') => "no such file or directory",
        (Step::Exec, 127) => "executable file not found in $PATH",
        (Step::Exec, 126) if failure.errno == Errno::ACCESS => "permission denied",
        _ => return None,
    };
    Some(match program.contains('/') {
        true => format!("exec: {program:?}: stat {program}: {what}"),
        false => format!("exec: {program:?}: {what}"),
    })
}

fn error_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    // "No such file or directory (os error 2)": the number helps nobody.
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn object(failure: &Failure, plan: &Plan) -> Option<String> {
    let index = failure.index;
    Some(match failure.step {
        Step::Mount => {
            let mount = plan.mounts.get(index)?;
            let what = match &mount.source {
                PlanSource::Filesystem { kind, .. } => kind.clone(),
                PlanSource::HostFile(path) => path.clone(),
                PlanSource::Descriptor(_) => "a prepared mount".to_owned(),
            };
            format!(" {what} on {}", mount.target)
        }
        Step::Symlink => format!(" {}", plan.symlinks.get(index)?.0),
        Step::Sysctl => {
            let (path, value) = plan.sysctls.get(index)?;
            let key = path.trim_start_matches("/proc/sys/").replace('/', ".");
            format!(" {key} = {value:?}")
        }
        Step::Mask => format!(" {}", plan.masked.get(index)?),
        Step::ReadOnlyPath => format!(" {}", plan.read_only.get(index)?),
        Step::Hostname => format!(" {:?}", plan.hostname.as_deref()?),
        Step::Workdir => format!(" {}", plan.workdir),
        Step::OomScore => format!(" to {}", plan.oom_score_adj?),
        Step::Rlimit => {
            let (resource, soft, hard) = plan.rlimits.get(index)?;
            format!(" (number {resource} of getrlimit(2)) to {soft}:{hard}")
        }
        Step::User => format!(" {}", plan.uid),
        Step::Groups => format!(" {:?}", plan.groups),
        Step::Exec => match plan.argv.first() {
            Some(program) if program.contains('/') => format!(" {program}"),
            Some(program) if failure.exit_code() == 127 => {
                format!(" {program}, which is in no directory of its PATH")
            }
            _ => format!(" {}", plan.programs.get(index)?),
        },
        _ => return None,
    })
}

fn cause(failure: &Failure) -> Option<&'static str> {
    Some(match (failure.step, failure.errno) {
        (Step::Exec, Errno::NOENT) => {
            "see that it is in the root filesystem, and for a script that its interpreter is"
        }
        (Step::Exec, Errno::ACCESS) => "it is a directory, or has no permission to be executed",
        (Step::Exec, Errno::NOEXEC) => "it is for another processor, or a script without a #! line",
        (Step::Sysctl, Errno::ACCESS | Errno::PERM) => {
            "only parameters of the container's own namespaces can be set"
        }
        (Step::Sysctl, Errno::NOENT) => "this kernel has no such parameter",
        (Step::Rlimit | Step::OomScore, Errno::PERM | Errno::ACCESS) => {
            "raising it needs CAP_SYS_RESOURCE, which Berth does not have here"
        }
        (Step::Clone | Step::Fork, Errno::AGAIN) => {
            "no more processes: see resources.pids and the machine's own limit"
        }
        (Step::Clone, Errno::NOSPC) => "the limit on namespaces is reached: see /proc/sys/user",
        (Step::PivotRoot, Errno::INVAL) => {
            "the machine's root is the initramfs; Berth must be moved to a real mount first"
        }
        (Step::Mount, Errno::PERM) => {
            "the kernel allows it only where the host's own is fully visible"
        }
        (Step::Cgroup, Errno::NOENT) => "somebody has removed the container's cgroup",
        (_, Errno::NOMEM) => "the machine, or the container's memory limit, has no memory left",
        _ => return None,
    })
}

/// Why the keeper could not clone.
pub fn refusal(errno: i32) -> String {
    let errno = Errno::from_raw_os_error(errno);
    let cause = match errno {
        Errno::AGAIN => "; no more processes can be made: see the machine's pid and user limits",
        Errno::NOMEM => "; the machine has no memory left",
        Errno::MFILE | Errno::NFILE => "; no file descriptors are left",
        Errno::PROTO => "; keeper and engine are of different versions: `berth reexec` renews both",
        Errno::NODEV | Errno::NOENT => "; the container's cgroup is gone",
        Errno::TIMEDOUT => "; its cgroup stands still: it is frozen, or gets no processor time",
        _ => "",
    };
    format!("starting its first process: {}{cause}", error_text(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_step_object_and_remedy() {
        let plan = Plan {
            argv: vec!["nginx".into()],
            programs: vec!["/usr/bin/nginx".into()],
            workdir: "/srv".into(),
            ..Plan::default()
        };
        let failure = |step, errno| Failure { step, index: 0, errno };
        assert_eq!(
            sentence(&failure(Step::Exec, Errno::NOENT), Some(&plan)),
            "executing the program nginx, which is in no directory of its PATH: no such file or \
             directory; see that it is in the root filesystem, and for a script that its \
             interpreter is"
        );
        assert_eq!(
            sentence(&failure(Step::Workdir, Errno::NOTDIR), Some(&plan)),
            "changing to the working directory /srv: not a directory"
        );
        assert!(sentence(&failure(Step::Mount, Errno::PERM), None).starts_with("mounting: "));
        assert!(refusal(11).contains("no more processes"));
    }
}
