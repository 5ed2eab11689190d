//! Launches: map the plan, clone, write down who was born, let it go.
//!
//! The keeper waits for none of them. The first of two steps runs in the container's
//! cgroup, which somebody may have frozen or left without processor time; what it did
//! shows when it is reaped like any other child.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::process::{pidfd, start_time};
use super::protocol::{Fds, MAX_FDS, Tag};
use crate::sandbox::child::{self, Inherited};
use crate::sandbox::status::append;
use crate::sandbox::tape::Reader;
use crate::sys::process::{Arguments, Mapping, SharedPids};
use crate::sys::signals;

/// Where the descriptors that every launch has stand in its message.
const PLAN: usize = 0;
const STATUS: usize = 1;
const ERROR_PIPE: usize = 2;
/// The first of those that the plan counts.
const FIRST: usize = 3;
/// A first step that takes longer than this stands still.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Which launch, for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub key: u64,
    /// Its name.
    pub tag: Tag,
}

/// A launch whose first process of two has not been reaped yet.
#[derive(Debug)]
struct Half {
    order: Order,
    first: i32,
    /// Which of the shared numbers becomes the second's pid.
    place: usize,
    /// The second has been reaped already: it failed before it got the word to go on.
    second_ended: bool,
    since: Duration,
    /// Where who is born is written down, and how it gets its word; gone once the launch
    /// was given up.
    way: Option<Way>,
}

#[derive(Debug)]
struct Way {
    status: OwnedFd,
    go: OwnedFd,
}

/// All launches that are half done. Their memory is taken at the start.
#[derive(Debug)]
pub struct Launches {
    halves: Vec<Half>,
    pids: SharedPids,
    /// The shared numbers that no launch has.
    free: Vec<usize>,
}

impl Launches {
    /// None yet.
    pub fn new() -> std::io::Result<Self> {
        Ok(Launches {
            halves: Vec::with_capacity(SharedPids::COUNT),
            pids: SharedPids::new()?,
            free: (0..SharedPids::COUNT).collect(),
        })
    }

    /// How many are half done.
    pub fn len(&self) -> usize {
        self.halves.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.halves.is_empty()
    }

    /// Clones the process that a launch message asks for. `None`: it is told by
    /// [`Launches::reaped`]. The error is what the system said; then nothing that was
    /// begun goes on.
    ///
    /// `fds` is what came with the message and is closed by the caller afterwards.
    pub fn begin(
        &mut self,
        order: Order,
        fds: &mut Fds,
        arguments: Arguments,
        now: Duration,
    ) -> Result<Option<Born>, Errno> {
        let &place = self.free.last().ok_or(Errno::AGAIN)?;
        let second = self.pids.get().get(place).ok_or(Errno::AGAIN)?;
        second.store(0, Ordering::SeqCst);
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
        let given = raw.get(..fds.len().saturating_sub(FIRST)).unwrap_or_default();
        let cgroup = match head.cgroup {
            Some(index) => Some(fds.get(FIRST + index).ok_or(Errno::INVAL)?.as_fd()),
            None => None,
        };

        let (go_read, go) = pipe_with(PipeFlags::CLOEXEC)?;
        // The child starts with every signal blocked: handlers of the keeper must
        // not run in it, and init must lose none that comes early.
        let mask = signals::block_all();
        let inherited = Inherited {
            fds: given,
            status: status.as_raw_fd(),
            error_pipe: error_pipe.as_raw_fd(),
            go: go_read.as_raw_fd(),
            go_write: go.as_raw_fd(),
            second,
            arguments,
        };
        let cloned = child::spawn(head, tape, &inherited, cgroup);
        signals::restore(mask);
        let first = cloned.map_err(errno_of)?;
        let way = Way { status: fds.take(STATUS).ok_or(Errno::INVAL)?, go };
        if !child::is_two_step(&head) {
            return born(first, &way).map(Some);
        }
        self.free.pop();
        self.halves.push(Half {
            order,
            first,
            place,
            second_ended: false,
            since: now,
            way: Some(way),
        });
        Ok(None)
    }

    /// A child of ours was reaped: what came of the launch whose first step it was.
    pub fn reaped(&mut self, pid: i32) -> Option<(Order, Result<Born, Errno>)> {
        let Some(index) = self.halves.iter().position(|half| half.first == pid) else {
            let Launches { halves, pids, .. } = self;
            let is_second = |half: &&mut Half| pid_at(pids, half.place) == Some(pid);
            if let Some(half) = halves.iter_mut().find(is_second) {
                half.second_ended = true;
            }
            return None;
        };
        let half = self.halves.swap_remove(index);
        self.free.push(half.place);
        let way = half.way?;
        let result = match pid_at(&self.pids, half.place) {
            Some(second) if !half.second_ended => born(second, &way),
            // It failed before it was to go on, and has said so in the status file.
            _ => Err(Errno::CANCELED),
        };
        Some((half.order, result))
    }

    /// When the next launch is given up.
    pub fn due(&self) -> Option<Duration> {
        let waiting = self.halves.iter().filter(|half| half.way.is_some());
        waiting.map(|half| half.since.saturating_add(PATIENCE)).min()
    }

    /// Gives up one launch that stands still since too long.
    pub fn overdue(&mut self, now: Duration) -> Option<Order> {
        let Launches { halves, pids, .. } = self;
        let half = halves
            .iter_mut()
            .find(|half| half.way.is_some() && half.since.saturating_add(PATIENCE) <= now)?;
        half.give_up(pids);
        Some(half.order)
    }

    /// Whoever asked for them is gone.
    pub fn give_up_all(&mut self) {
        let Launches { halves, pids, .. } = self;
        halves.iter_mut().for_each(|half| half.give_up(pids));
    }
}

impl Half {
    /// Ends it. Its place stays taken until its first process is reaped, which may be
    /// later: in a frozen cgroup of v1 not even SIGKILL ends anybody. The end of file on
    /// its pipe keeps it from going on.
    fn give_up(&mut self, pids: &SharedPids) {
        self.way = None;
        let second = pid_at(pids, self.place).filter(|_| !self.second_ended);
        for pid in [Some(self.first), second].into_iter().flatten() {
            let _ = signals::kill(pid, libc::SIGKILL);
        }
    }
}

fn pid_at(pids: &SharedPids, place: usize) -> Option<i32> {
    let pid = pids.get().get(place)?.load(Ordering::SeqCst);
    (pid > 0).then_some(pid)
}

/// Writes down who was born and lets it go on.
fn born(pid: i32, way: &Way) -> Result<Born, Errno> {
    match pidfd(pid) {
        Ok(pidfd) => {
            let start = start_time(pid);
            append(way.status.as_fd(), "pid", &[pid as u64, start]);
            // Nobody to read it: it has failed, and its end is reaped next.
            let _ = rustix::io::write(&way.go, b"!");
            Ok(Born { pid, pidfd, start })
        }
        Err(errno) => {
            // No descriptor left for it: with no record it must not run. It is our child
            // and not reaped, so the number is its own.
            let _ = signals::kill(pid, libc::SIGKILL);
            Err(errno)
        }
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
    use rustix::process::{Pid, WaitOptions, waitpid};
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    const ORDER: Order = Order { key: 1, tag: Tag::EMPTY };

    fn reap(pid: i32) {
        let pid = Pid::from_raw(pid);
        let _ = rustix::io::retry_on_intr(|| waitpid(pid, WaitOptions::empty()));
    }

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
        let mut launches = Launches::new().unwrap();
        let begun = launches.begin(ORDER, &mut fds, Arguments::default(), Duration::ZERO);
        drop(fds);
        let born = match begun {
            Ok(None) => {
                let first = launches.halves[0].first;
                reap(first);
                launches.reaped(first).unwrap().1
            }
            begun => begun.map(Option::unwrap),
        };
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

    /// A cgroup that is frozen holds the child and nobody else.
    #[test]
    fn a_frozen_cgroup_does_not_hold_the_keeper() {
        use crate::sys::process::flags::NEWUTS;
        let parent = crate::cgroup::Hierarchy::detect()
            .and_then(|hierarchy| hierarchy.parent(&format!("berth-launch-{}", std::process::id())))
            .unwrap();
        let cgroup = crate::cgroup::Cgroup::create(&parent, "web").unwrap();
        cgroup.freeze().unwrap();
        let join = cgroup.join().unwrap();
        let mut tape = tempfile::tempfile().unwrap();
        let mut plan = Plan { new_namespaces: NEWUTS, ..shell("echo ran") };
        let null = File::open("/dev/null").unwrap();
        let (output, output_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_error, error_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut given = vec![OwnedFd::from(null), output_write];
        plan.cgroup = join.v2.is_some().then_some(given.len());
        given.extend(join.v2);
        plan.cgroup_procs = (given.len()..given.len() + join.v1.len()).collect();
        given.extend(join.v1);
        tape.write_all(&plan.encode()).unwrap();
        let status = tempfile::tempfile().unwrap();
        let mut fds = Fds::default();
        for fd in [tape.into(), status.into(), error_write].into_iter().chain(given) {
            fds.push(fd);
        }
        let mut launches = Launches::new().unwrap();
        let begun = launches.begin(ORDER, &mut fds, Arguments::default(), Duration::ZERO);
        assert!(matches!(begun, Ok(None)), "{begun:?}");
        drop(fds);
        let first = launches.halves[0].first;
        std::thread::sleep(Duration::from_millis(50));
        let waited = waitpid(Pid::from_raw(first), WaitOptions::NOHANG).unwrap();
        assert!(waited.is_none(), "it stands still");
        assert_eq!(launches.due(), Some(PATIENCE));
        assert!(launches.overdue(PATIENCE - Duration::from_millis(1)).is_none());
        assert_eq!(launches.overdue(PATIENCE), Some(ORDER));
        assert_eq!((launches.overdue(PATIENCE), launches.due()), (None, None));
        cgroup.thaw().unwrap();
        reap(first);
        assert!(launches.reaped(first).is_none(), "it was told already");
        assert!(launches.is_empty() && launches.free.len() == SharedPids::COUNT);
        cgroup.remove().unwrap();
        parent.remove();
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
    }
}
