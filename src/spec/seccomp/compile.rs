//! A profile to a BPF program.

use std::collections::{BTreeMap, HashSet};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag, LinuxSyscall,
};
use seccompiler::sock_filter;

use super::assemble::{Code, Condition, Test, answer, branch, guarded, on_arch, on_number};
use super::table::{self, Table};

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LENGTH_MAX: usize = 4096;
/// The highest error number that a filter can give (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;
/// From here on a number of x86_64 is meant in the x32 manner.
const X32_BIT: u32 = 0x4000_0000;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// What seccomp(2) takes with `SECCOMP_SET_MODE_FILTER`.
#[derive(Debug, Clone)]
pub struct Program {
    /// The instructions of `struct sock_fprog`, at most 4096.
    pub instructions: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Program {
    /// The instructions as `struct sock_filter` lies in memory (`linux/filter.h`), eight
    /// bytes each, to hand over in a file or a memfd.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = |instruction: &sock_filter| {
            let [code, code_high] = instruction.code.to_ne_bytes();
            let [a, b, c, d] = instruction.k.to_ne_bytes();
            [code, code_high, instruction.jt, instruction.jf, a, b, c, d]
        };
        self.instructions.iter().flat_map(bytes).collect()
    }
}

/// What a filter answers to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    /// Tried in order; the first whose conditions all hold decides.
    rules: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

impl Verdict {
    fn code(&self) -> Code {
        self.rules.iter().rev().fold(answer(self.otherwise), |rest, (conditions, action)| {
            guarded(conditions, *action, rest)
        })
    }
}

/// Compiles a profile.
///
/// For one system call, the first rule whose conditions hold decides; then the
/// first rule without conditions; then the default action. Where the default is an
/// error, numbers beyond the last that the profile speaks of get ENOSYS, so that a
/// libc falls back from a call that is newer than the profile (as with runc).
///
/// # Errors
/// An action that needs a listener, an argument or error number out of range, or a
/// program that is too long for the kernel.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("there is no table of this machine's system calls; use \
                    security.seccomp = \"unconfined\""
            .to_owned());
    }
    let listed =
        |arch: Arch| profile.architectures().as_ref().is_some_and(|all| all.contains(&arch));
    let native = &table::X86_64;
    let refuse = answer(RET_KILL_PROCESS);
    let others = if listed(table::X86.arch) {
        let code = on_number(decide(profile, &table::X86)?);
        branch(Test::Equal, table::X86.audit, code, refuse)
    } else {
        refuse
    };
    let native_code = on_number(branch(
        Test::GreaterOrEqual,
        X32_BIT,
        answer(RET_ENOSYS),
        decide(profile, native)?,
    ));
    let instructions = on_arch(branch(Test::Equal, native.audit, native_code, others));
    if instructions.len() > LENGTH_MAX {
        return Err(format!(
            "the seccomp profile makes {} instructions; the kernel takes {LENGTH_MAX}",
            instructions.len()
        ));
    }
    let flags = profile.flags().iter().flatten().fold(0, |flags, flag| flags | flag_bit(*flag));
    Ok(Program { instructions, flags })
}

/// `SECCOMP_FILTER_FLAG_*` (`linux/seccomp.h`).
fn flag_bit(flag: Flag) -> u32 {
    match flag {
        Flag::SeccompFilterFlagTsync => 1,
        Flag::SeccompFilterFlagLog => 1 << 1,
        Flag::SeccompFilterFlagSpecAllow => 1 << 2,
        Flag::SeccompFilterFlagWaitKillableRecv => 1 << 5,
    }
}

/// The code for one architecture, with the number loaded.
fn decide(profile: &LinuxSeccomp, table: &Table) -> Result<Code, String> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut settled = HashSet::new();
    let mut conditional = 0;
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        let alternatives = alternatives(syscall)?;
        for number in syscall.names().iter().filter_map(|name| table.number(name)) {
            let verdict = verdicts
                .entry(number)
                .or_insert_with(|| Verdict { rules: Vec::new(), otherwise: default });
            if alternatives.is_empty() {
                if settled.insert(number) {
                    verdict.otherwise = action;
                }
            } else {
                conditional += alternatives.len();
                if conditional > LENGTH_MAX {
                    return Err("the seccomp profile has too many conditions".to_owned());
                }
                verdict.rules.extend(alternatives.iter().cloned().map(|all| (all, action)));
            }
        }
    }
    for verdict in verdicts.values_mut() {
        // The usual profile has both forms of an allowed call; one test is enough.
        let otherwise = verdict.otherwise;
        if verdict.rules.iter().all(|(_, action)| *action == otherwise) {
            verdict.rules.clear();
        }
    }
    Ok(search(&ranges(verdicts, default, profile.default_action() == Action::ScmpActErrno)))
}

/// The verdicts by the first number that each is for, without gaps.
fn ranges(verdicts: BTreeMap<u32, Verdict>, default: u32, enosys: bool) -> Vec<(u32, Verdict)> {
    let plain = |otherwise| Verdict { rules: Vec::new(), otherwise };
    let mut ranges = vec![(0, plain(default))];
    let mut add = |start: u32, verdict: Verdict| match ranges.last_mut() {
        Some((last, before)) if *last == start => *before = verdict,
        Some((_, before)) if *before == verdict => {}
        _ => ranges.push((start, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            add(next, plain(default));
        }
        add(number, verdict);
        next = number + 1;
    }
    add(next, plain(if enosys { RET_ENOSYS } else { default }));
    ranges
}

/// A binary search for the range that the loaded number is in.
fn search(ranges: &[(u32, Verdict)]) -> Code {
    match ranges {
        [] => answer(RET_KILL_PROCESS),
        [(_, verdict)] => verdict.code(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(start, _)| *start);
            branch(Test::GreaterOrEqual, middle, search(high), search(low))
        }
    }
}

/// The `SECCOMP_RET_*` value of an action.
fn action(action: Action, errno: Option<u32>) -> Result<u32, String> {
    if action == Action::ScmpActNotify {
        return Err("SCMP_ACT_NOTIFY needs a listener, which a container here has not; use \
                    SCMP_ACT_ERRNO or SCMP_ACT_LOG"
            .to_owned());
    }
    match errno {
        Some(errno) if errno > ERRNO_MAX => {
            Err(format!("{errno} is not an error number: 0 to {ERRNO_MAX}"))
        }
        errno => Ok(action.as_u32(errno)),
    }
}

/// The sets of conditions of which one must hold; none if there are no conditions.
/// All of a rule's conditions must hold, unless two are about the same argument:
/// then each stands for itself, as runc has it.
fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, String> {
    let mut conditions = Vec::new();
    for arg in syscall.args().iter().flatten() {
        let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
            format!("a system call has arguments 0 to 5; the profile speaks of {}", arg.index())
        })?;
        conditions.push(Condition {
            index,
            operator: arg.op(),
            value: arg.value(),
            value_two: arg.value_two().unwrap_or(0),
        });
    }
    let indices: HashSet<u8> = conditions.iter().map(|condition| condition.index).collect();
    Ok(match conditions.len() {
        0 => Vec::new(),
        count if count == indices.len() => vec![conditions],
        _ => conditions.into_iter().map(|condition| vec![condition]).collect(),
    })
}
