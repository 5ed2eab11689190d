//! The status file of a launch: what the keeper, the child and container init
//! write down about it, one short line each, so that any later engine knows how
//! it went, whoever died meanwhile.
//!
//! `pid P S` by the keeper before the child may go on (start time S in clock
//! ticks, proc_pid_stat(5)); `error STEP INDEX ERRNO` by a child that failed
//! before execve; `exit CODE T` or `signal N T` by container init, T in
//! nanoseconds of the real-time clock. Lines are written by one write(2) with
//! O_APPEND and without allocating; a torn last line is ignored.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

macro_rules! steps {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// The step of a launch that failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step {
            $(#[doc = $text] $name = $code,)*
        }

        impl Step {
            /// What was being done, to follow "while".
            pub fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }

            /// From its number.
            pub fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Step::$name),)* _ => None }
            }
        }
    };
}

steps! {
    Plan = 1, "reading the launch plan";
    Cgroup = 2, "joining the cgroup";
    OomScore = 3, "setting oom-score-adj";
    Rlimit = 4, "setting a resource limit";
    JoinNamespace = 5, "entering a namespace";
    Clone = 6, "making the namespaces";
    Keeper = 7, "waiting for the keeper";
    Private = 8, "making the mounts private";
    AttachRoot = 9, "attaching the root filesystem";
    Mount = 10, "mounting";
    Symlink = 11, "making a symbolic link in /dev";
    Sysctl = 12, "setting a kernel parameter";
    Mask = 13, "masking a path";
    ReadOnlyPath = 14, "making a path read-only";
    Hostname = 15, "setting the host name";
    ReadOnlyRoot = 16, "making the root read-only";
    PivotRoot = 17, "changing to the root filesystem";
    Loopback = 18, "bringing up the loopback interface";
    Workdir = 19, "changing to the working directory";
    Fork = 20, "starting the process under its init";
    Terminal = 21, "taking the terminal";
    Stdio = 22, "setting up standard input and output";
    Groups = 23, "setting the groups";
    User = 24, "setting the user";
    Capabilities = 25, "setting the capabilities";
    Seccomp = 26, "installing the seccomp filter";
    Exec = 27, "executing the program";
}

/// Why a launch failed before the payload's first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// To which one of several (the plan's list).
    pub index: usize,
    /// What the system said.
    pub errno: Errno,
}

impl Failure {
    /// The exit status that Docker's users expect: 127 not found, 126 can't be
    /// executed, 125 anything before.
    pub fn exit_code(&self) -> i32 {
        match (self.step, self.errno) {
            (Step::Exec, Errno::NOENT | Errno::NOTDIR) => 127,
            (Step::Exec, _) => 126,
            _ => 125,
        }
    }
}

/// How a payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// By exit(3) with this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl End {
    /// As a shell and Docker say it: 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            End::Exit(code) => code,
            End::Signal(signal) => 128 + signal,
        }
    }
}

/// A whole status file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The process the keeper cloned and its start time in clock ticks.
    pub process: Option<(i32, u64)>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// How and when (nanoseconds since 1970) the payload ended.
    pub end: Option<(End, u64)>,
}

/// Reads a status file's text. What is not understood is passed over: the file
/// may have been cut off anywhere.
pub fn parse(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ');
        let kind = words.next();
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        match (kind, numbers.as_slice()) {
            (Some("pid"), [pid, start]) => {
                status.process = i32::try_from(*pid).ok().map(|pid| (pid, *start));
            }
            (Some("error"), [step, index, errno]) => {
                status.failure = Step::from_code(*step).map(|step| Failure {
                    step,
                    index: *index as usize,
                    errno: Errno::from_raw_os_error(*errno as i32),
                });
            }
            (Some("exit"), [code, time]) => status.end = Some((End::Exit(*code as i32), *time)),
            (Some("signal"), [signal, time]) => {
                status.end = Some((End::Signal(*signal as i32), *time));
            }
            _ => {}
        }
    }
    status
}

/// Appends one line of a word and numbers, without allocating.
pub fn append(file: BorrowedFd<'_>, word: &str, numbers: &[u64]) {
    let mut line = [0u8; 128];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(room) = line.get_mut(len..len + bytes.len()) {
            room.copy_from_slice(bytes);
            len += bytes.len();
        }
    };
    put(word.as_bytes());
    for &number in numbers {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        put(b" ");
        put(&digits[at..]);
    }
    put(b"\n");
    // Nothing can be done here about a full /run: the exit status also reaches
    // the keeper by waitid(2).
    let _ = rustix::io::write(file, &line[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_appended_is_parsed() {
        let mut file = tempfile::tempfile().unwrap();
        append(file.as_fd(), "pid", &[4711, u64::MAX]);
        append(file.as_fd(), "error", &[Step::Exec as u64, 3, 2]);
        append(file.as_fd(), "signal", &[9, 1_700_000_000_000_000_000]);
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        let status = parse(&text);
        assert_eq!(status.process, Some((4711, u64::MAX)));
        let failure = status.failure.unwrap();
        assert_eq!((failure.step, failure.index, failure.exit_code()), (Step::Exec, 3, 127));
        assert_eq!(status.end, Some((End::Signal(9), 1_700_000_000_000_000_000)));
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        assert_eq!(parse("pid 12 3"), Status::default());
        assert_eq!(
            parse("garbage\n\0\0\nexit x 1\nexit 3 9\nsignal 9"),
            Status { end: Some((End::Exit(3), 9)), ..Status::default() }
        );
    }
}
