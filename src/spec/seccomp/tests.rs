//! Programs are judged by a BPF interpreter, by a plain reading of the profile, and
//! by the kernel.

use std::process::Command;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use proptest::prelude::*;
use seccompiler::sock_filter;

use super::table::{X86, X86_64};
use super::{compile, default_filter, read_profile};
use crate::spec::KernelVersion;
use crate::spec::capabilities::CapSet;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0x8000_0000;

/// What the kernel shows to a filter.
struct Data {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let arg = self.args[((offset - 16) / 8) as usize];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("load at {offset}"),
        }
    }
}

/// Runs a program as the kernel does; gives its answer and how many steps it took.
fn run(program: &[sock_filter], data: &Data) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0u32, 0usize, 0);
    loop {
        let instruction = &program[at];
        let k = instruction.k;
        at += 1;
        steps += 1;
        let mut jump = |holds: bool| {
            at += usize::from(if holds { instruction.jt } else { instruction.jf });
        };
        match instruction.code {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x05 => at += k as usize,
            0x06 => return (k, steps),
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn judge(profile: &LinuxSeccomp, name: &str, args: &[u64]) -> u32 {
    let program = compile(profile).unwrap();
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let number = X86_64.number(name).unwrap();
    run(&program.instructions, &Data { number, arch: X86_64.audit, args: all }).0
}

fn default_judge(name: &str, args: &[u64]) -> u32 {
    judge(&default_filter(CapSet::docker_default()), name, args)
}

#[test]
fn the_default_filter_allows_and_refuses() {
    for name in ["read", "execve", "openat2", "ptrace", "mseal", "chroot", "futex_wait"] {
        assert_eq!(default_judge(name, &[]), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "setns",
        "unshare",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "userfaultfd",
        "kexec_load",
        "init_module",
        "reboot",
        "swapon",
        "pivot_root",
        "open_by_handle_at",
        "perf_event_open",
        "syslog",
        "settimeofday",
        "iopl",
    ] {
        assert_eq!(default_judge(name, &[]), EPERM, "{name}");
    }
    assert_eq!(default_judge("clone3", &[]), ENOSYS);
    assert_eq!(default_judge("clone", &[libc::SIGCHLD as u64]), ALLOW);
    assert_eq!(default_judge("clone", &[libc::CLONE_NEWUSER as u64]), EPERM);
    assert_eq!(default_judge("clone", &[libc::CLONE_NEWNS as u64 | 17]), EPERM);
    assert_eq!(default_judge("socket", &[2]), ALLOW);
    assert_eq!(default_judge("socket", &[40]), EPERM);
    assert_eq!(default_judge("personality", &[0xffff_ffff]), ALLOW);
    assert_eq!(default_judge("personality", &[0x0004_0000]), EPERM, "ADDR_NO_RANDOMIZE");
}

#[test]
fn a_capability_opens_its_calls() {
    let admin = default_filter(CapSet::docker_default().with(21));
    assert_eq!(judge(&admin, "mount", &[]), ALLOW);
    assert_eq!(judge(&admin, "clone3", &[]), ALLOW);
    assert_eq!(judge(&admin, "clone", &[libc::CLONE_NEWUSER as u64]), ALLOW);
    assert_eq!(judge(&admin, "reboot", &[]), EPERM);
    assert_eq!(judge(&default_filter(CapSet::ALL), "reboot", &[]), ALLOW);
    assert_eq!(judge(&default_filter(CapSet::EMPTY), "chroot", &[]), EPERM);
}

#[test]
fn other_ways_into_the_kernel_are_closed() {
    let program = compile(&default_filter(CapSet::docker_default())).unwrap().instructions;
    let ask = |arch, number| run(&program, &Data { number, arch, args: [0; 6] }).0;
    assert_eq!(ask(X86_64.audit, 0x4000_0000), ENOSYS, "x32 read");
    assert_eq!(ask(X86_64.audit, u32::MAX), ENOSYS);
    assert_eq!(ask(X86_64.audit, 900), ENOSYS, "newer than the profile");
    assert_eq!(ask(X86.audit, X86.number("read").unwrap()), ALLOW);
    assert_eq!(ask(X86.audit, X86.number("mount").unwrap()), EPERM);
    assert_eq!(ask(0xc000_00b7, 0), KILL, "aarch64");
}

#[test]
fn a_judgement_takes_few_steps() {
    let program = compile(&default_filter(CapSet::docker_default())).unwrap().instructions;
    let most = (0..500)
        .map(|number| run(&program, &Data { number, arch: X86_64.audit, args: [0; 6] }).1)
        .max();
    assert!(most <= Some(30), "{most:?} steps");
    let bytes = compile(&default_filter(CapSet::EMPTY)).unwrap().to_bytes();
    assert_eq!(bytes[..8], [0x20, 0, 0, 0, 4, 0, 0, 0], "load the architecture");
    assert!(program.len() < 1000, "{} instructions", program.len());
}

const DOCKER: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "comment": "x",
    "archMap": [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}
    ],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {"names": ["read", "statx", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": [],
         "includes": {}, "excludes": null},
        {"name": "write", "action": "SCMP_ACT_LOG"},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["close"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
         "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]}},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                  {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
    ]}"#;

#[test]
fn dockers_format_is_read() {
    let read = |caps, kernel| read_profile(DOCKER.as_bytes(), caps, kernel).unwrap();
    let new = read(CapSet::EMPTY, KernelVersion(6, 1));
    let eacces = 0x0005_000d;
    for (name, args, expected) in [
        ("read", &[][..], ALLOW),
        ("write", &[], 0x7ffc_0000),
        ("mount", &[], eacces),
        ("close", &[], eacces),
        ("ptrace", &[], ALLOW),
        ("keyctl", &[], ENOSYS),
        ("socket", &[2], ALLOW),
        ("socket", &[1], ALLOW),
        ("socket", &[3], eacces),
    ] {
        assert_eq!(judge(&new, name, args), expected, "{name}");
    }
    assert_eq!(compile(&new).unwrap().flags, 2);
    assert!(new.architectures().as_ref().unwrap().contains(&Arch::ScmpArchX86));
    let admin = read(CapSet::ALL, KernelVersion(4, 7));
    assert_eq!(judge(&admin, "mount", &[]), ALLOW);
    assert_eq!(judge(&admin, "ptrace", &[]), eacces);
    assert_eq!(judge(&admin, "keyctl", &[]), eacces);
}

#[test]
fn ocis_format_is_read_as_it_is_written() {
    let filter = default_filter(CapSet::docker_default());
    let json = serde_json::to_vec(&filter).unwrap();
    assert_eq!(read_profile(&json, CapSet::EMPTY, KernelVersion(6, 1)).unwrap(), filter);
}

#[test]
fn bad_profiles_are_refused() {
    for (json, part) in [
        ("{", "not a seccomp profile"),
        ("{}", "defaultAction"),
        (r#"{"defaultAction": "ALLOW"}"#, "ALLOW"),
        (r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["x"]}"#, "architecture"),
        (
            r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["a"],
                "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}]}"#,
            "minKernel",
        ),
    ] {
        let error = read_profile(json.as_bytes(), CapSet::EMPTY, KernelVersion(6, 1)).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let mut notify = LinuxSeccomp::default();
    notify.set_default_action(Action::ScmpActNotify);
    assert!(compile(&notify).unwrap_err().contains("listener"));
    let mut errno = LinuxSeccomp::default();
    errno.set_default_action(Action::ScmpActErrno).set_default_errno_ret(Some(0x10000));
    assert!(compile(&errno).unwrap_err().contains("65536"));
}

/// The kernel's own judgement: the filter is put on a thread, and perl, started by
/// it, makes the calls.
#[test]
fn the_kernel_takes_the_filter() {
    const CALLS: [(&str, i32); 9] = [
        ("272, 0x10000000", libc::EPERM),    // unshare(CLONE_NEWUSER)
        ("250, 0, 0, 0, 0, 0", libc::EPERM), // keyctl
        ("435, 0, 0", libc::ENOSYS),         // clone3
        ("41, 40, 1, 0", libc::EPERM),       // socket(AF_VSOCK)
        ("41, 1, 1, 0", 0),                  // socket(AF_UNIX)
        ("135, 0xffffffff", 0),              // personality, asked
        ("135, 0x40000", libc::EPERM),       // personality(ADDR_NO_RANDOMIZE)
        ("900", libc::ENOSYS),               // newer than the profile
        ("0x40000027", libc::ENOSYS),        // getpid in the x32 manner
    ];
    let asked: String = CALLS
        .iter()
        .map(|(call, _)| format!("$! = 0; $r = syscall({call}); print $r < 0 ? $!+0 : 0, ' ';"))
        .collect();
    let instructions = compile(&default_filter(CapSet::docker_default())).unwrap().instructions;
    let output = std::thread::spawn(move || {
        seccompiler::apply_filter(&instructions).unwrap();
        Command::new("perl").args(["-e", &asked]).output()
    })
    .join()
    .unwrap();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        output => output.unwrap(),
    };
    let answers: Vec<i32> = String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .map(|answer| answer.parse().unwrap())
        .collect();
    assert_eq!(answers, CALLS.map(|(_, errno)| errno), "{:?}", output.status);
}

const NAMES: [&str; 5] = ["read", "write", "open", "mount", "clone"];

fn arg() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = prop::sample::select(vec![
        Operator::ScmpCmpEq,
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpMaskedEq,
    ]);
    (0..3usize, value(), value(), operator).prop_map(|(index, one, two, operator)| {
        LinuxSeccompArgBuilder::default()
            .index(index)
            .value(one)
            .value_two(two)
            .op(operator)
            .build()
            .unwrap_or_default()
    })
}

/// Values that meet often, with bits in both halves.
fn value() -> impl Strategy<Value = u64> {
    (0..3u64, 0..3u64).prop_map(|(high, low)| (high << 32) | low)
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let (given, value) = (args[arg.index()], arg.value());
    match arg.op() {
        Operator::ScmpCmpEq => given == value,
        Operator::ScmpCmpNe => given != value,
        Operator::ScmpCmpLt => given < value,
        Operator::ScmpCmpLe => given <= value,
        Operator::ScmpCmpGt => given > value,
        Operator::ScmpCmpGe => given >= value,
        Operator::ScmpCmpMaskedEq => given & value == arg.value_two().unwrap(),
    }
}

/// The profile read word by word, as the compiler's documentation says it.
fn reference(rules: &[LinuxSyscall], name: &str, args: &[u64; 6]) -> u32 {
    let of_name = || rules.iter().filter(|rule| rule.names()[0] == name);
    let conditions = |rule: &LinuxSyscall| rule.args().clone().unwrap_or_default();
    let matching = of_name().find(|rule| {
        let all = conditions(rule);
        let repeated = all
            .iter()
            .any(|one| all.iter().filter(|other| other.index() == one.index()).count() > 1);
        let mut each = all.iter().map(|arg| holds(arg, args));
        !all.is_empty() && if repeated { each.any(|held| held) } else { each.all(|held| held) }
    });
    let plain = of_name().find(|rule| conditions(rule).is_empty());
    match matching.or(plain) {
        Some(rule) => rule.action().as_u32(rule.errno_ret()),
        None => KILL,
    }
}

proptest! {
    #[test]
    fn a_program_says_what_its_profile_says(
        rules in prop::collection::vec(
            (prop::sample::select(&NAMES[..]), prop::collection::vec(arg(), 0..4), 1..4u32),
            0..8,
        ),
        name in prop::sample::select(&NAMES[..]),
        args in [value(), value(), value(), value(), value(), value()],
    ) {
        let rules: Vec<LinuxSyscall> = rules
            .into_iter()
            .map(|(name, args, errno)| {
                let mut rule = LinuxSyscall::default();
                rule.set_names(vec![name.to_owned()])
                    .set_action(Action::ScmpActErrno)
                    .set_errno_ret(Some(errno))
                    .set_args(Some(args));
                rule
            })
            .collect();
        let expected = reference(&rules, name, &args);
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(Action::ScmpActKillProcess).set_syscalls(Some(rules));
        let program = compile(&profile).unwrap();
        let number = X86_64.number(name).unwrap();
        let data = Data { number, arch: X86_64.audit, args };
        prop_assert_eq!(run(&program.instructions, &data).0, expected);
    }
}
