//! One launch: map the plan, clone, write down who was born, let it go.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::process::{pidfd, start_time};
use super::protocol::{Fds, MAX_FDS};
use crate::sandbox::child::{self, Inherited};
use crate::sandbox::status::append;
use crate::sandbox::tape::Reader;
use crate::sys::process::{Arguments, Mapping, SharedPid};
use crate::sys::signals;

/// Where the descriptors that every launch has stand in its message.
const PLAN: usize = 0;
const STATUS: usize = 1;
const ERROR_PIPE: usize = 2;
/// The first of those that the plan counts.
const FIRST: usize = 3;

/// A process that was just cloned.
#[derive(Debug)]
pub struct Born {
    /// Its id.
    pub pid: i32,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Its start time.
    pub start: u64,
}

/// Clones the process that a launch message asks for. The error is what the
/// system said; then nothing is left of the attempt.
///
/// `fds` is what came with the message and is closed by the caller afterwards.
pub fn launch(fds: &Fds, second: &SharedPid, arguments: Arguments) -> Result<Born, Errno> {
    let plan = fds.get(PLAN).ok_or(Errno::INVAL)?;
    let status = fds.get(STATUS).ok_or(Errno::INVAL)?;
    let error_pipe = fds.get(ERROR_PIPE).ok_or(Errno::INVAL)?;
    let len = usize::try_from(rustix::fs::fstat(plan)?.st_size).map_err(|_| Errno::INVAL)?;
    let mut mapping = Mapping::private(plan, len).map_err(errno_of)?;
    let mut tape = Reader::new(mapping.bytes());
    let head = child::read_head(&mut tape).ok_or(Errno::PROTO)?;

    let mut raw: [RawFd; MAX_FDS] = [-1; MAX_FDS];
    for (index, raw) in raw.iter_mut().enumerate() {
        match fds.get(FIRST + index) {
            Some(fd) => *raw = fd.as_raw_fd(),
            None => break,
        }
    }
    let given = &raw[..fds.len().saturating_sub(FIRST)];
    let cgroup = match head.cgroup {
        Some(index) => Some(fds.get(FIRST + index).ok_or(Errno::INVAL)?.as_fd()),
        None => None,
    };

    let (go, go_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let two_step = child::is_two_step(&head);
    second.get().store(0, Ordering::SeqCst);
    // The child starts with every signal blocked: handlers of the keeper must
    // not run in it, and init must lose none that comes early.
    let mask = signals::block_all();
    let inherited = Inherited {
        fds: given,
        status: status.as_raw_fd(),
        error_pipe: error_pipe.as_raw_fd(),
        go: go.as_raw_fd(),
        go_write: go_write.as_raw_fd(),
        second: second.get(),
        arguments,
    };
    let cloned = child::spawn(head, tape, &inherited, cgroup);
    signals::restore(mask);
    let first = cloned.map_err(errno_of)?;

    let pid = if two_step {
        reap(first);
        match second.get().load(Ordering::SeqCst) {
            // It failed before the second clone and has said so in the status file.
            0 => return Err(Errno::CANCELED),
            pid => pid,
        }
    } else {
        first
    };
    let born = pidfd(pid).map(|pidfd| Born { pid, pidfd, start: start_time(pid) });
    match born {
        Ok(born) => {
            append(status.as_fd(), "pid", &[pid as u64, born.start]);
            rustix::io::write(&go_write, b"!")?;
            Ok(born)
        }
        Err(errno) => {
            // No descriptor left for it: with no record it must not run. The end
            // of file on the pipe stops it.
            drop(go_write);
            drop(go);
            reap(pid);
            Err(errno)
        }
    }
}

fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::plan::{Plan, PlanMount, PlanSource, flags};
    use crate::sandbox::status::{self, End, Status, Step};
    use rustix::mount::{OpenTreeFlags, open_tree};
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    /// Launches a plan as the keeper does; gives what it printed and its status.
    fn run(plan: &Plan, root: Option<OwnedFd>) -> (String, Status) {
        let mut tape = tempfile::tempfile().unwrap();
        tape.write_all(&plan.encode()).unwrap();
        let status = tempfile::NamedTempFile::new().unwrap();
        let appending = File::options().append(true).open(status.path()).unwrap();
        let (output, output_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_error, error_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut fds = Fds::default();
        for fd in [tape.into(), appending.into(), error_write, null.into(), output_write]
            .into_iter()
            .chain(root)
        {
            fds.push(fd);
        }
        let born = launch(&fds, &SharedPid::new().unwrap(), Arguments::default());
        drop(fds);
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).unwrap();
        if let Ok(born) = born {
            reap(born.pid);
        }
        let mut lines = String::new();
        let mut file = status.reopen().unwrap();
        file.rewind().unwrap();
        file.read_to_string(&mut lines).unwrap();
        (text, status::parse(&lines))
    }

    fn shell(script: &str) -> Plan {
        Plan {
            flags: flags::INIT,
            stdio: [0, 1, 1],
            workdir: "/".into(),
            umask: 0o22,
            programs: vec!["/nowhere/sh".into(), "/bin/sh".into()],
            argv: vec!["sh".into(), "-c".into(), script.into()],
            envp: vec!["PATH=/usr/bin:/bin".into(), "GREETING=hello".into()],
            ..Plan::default()
        }
    }

    #[test]
    fn a_plain_process_is_launched_and_its_end_written_down() {
        let (text, status) = run(&shell("echo $GREETING from $PWD; exit 7"), None);
        assert_eq!(text, "hello from /\n");
        assert!(status.process.is_some_and(|(pid, start)| pid > 1 && start > 0));
        assert_eq!(status.end.map(|end| end.0), Some(End::Exit(7)));
        let (_, status) = run(&shell("kill -9 $$"), None);
        assert_eq!(status.end.map(|end| end.0), Some(End::Signal(9)));
    }

    #[test]
    fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
        for (program, code) in [("/nowhere", 127), ("/etc/passwd", 126)] {
            let plan = Plan { programs: vec![program.into()], ..shell("") };
            let (_, status) = run(&plan, None);
            let failure = status.failure.unwrap();
            assert_eq!((failure.step, failure.exit_code()), (Step::Exec, code));
        }
    }

    #[test]
    fn a_root_of_its_own_is_entered_for_good() {
        use crate::sys::process::flags::{NEWIPC, NEWNS, NEWPID, NEWUTS};
        let root = open_tree(
            rustix::fs::CWD,
            "/",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .unwrap();
        let filesystem = |kind: &str, target: &str| PlanMount {
            source: PlanSource::Filesystem { kind: kind.into(), options: vec![] },
            attributes: 0,
            target: target.into(),
            file: false,
            optional: false,
        };
        let plan = Plan {
            root: Some(2),
            new_namespaces: NEWNS | NEWPID | NEWUTS | NEWIPC,
            hostname: Some("inside".into()),
            mounts: vec![
                filesystem("proc", "/proc"),
                filesystem("tmpfs", "/dev"),
                PlanMount {
                    source: PlanSource::HostFile("/dev/null".into()),
                    file: true,
                    ..filesystem("", "/dev/null")
                },
                filesystem("tmpfs", "/dev/deep/er"),
            ],
            symlinks: vec![("/dev/fd".into(), "/proc/self/fd".into())],
            masked: vec!["/proc/keys".into(), "/proc/acpi".into(), "/nowhere".into()],
            read_only: vec!["/proc/sys".into()],
            ..shell(
                "hostname; echo $$; ls /dev; wc -c < /proc/keys; cat /proc/1/comm; \
                 echo x > /proc/sys/kernel/domainname || echo read-only; ls /proc/1/fd | wc -l; \
                 grep -c . /proc/self/mountinfo",
            )
        };
        let (text, status) = run(&plan, Some(root));
        assert_eq!(status.failure, None, "{status:?}");
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("Read-only")).collect();
        assert_eq!(lines[..7], ["inside", "2", "deep", "fd", "null", "0", "berth-init"], "{text}");
        assert_eq!(lines[7], "read-only");
        assert_eq!(status.end.map(|end| end.0), Some(End::Exit(0)));
    }
}
