//! The filter that a container gets without asking, in the manner of Docker's:
//! what ordinary programs need is allowed, what acts on the whole machine only
//! with the capability that the kernel asks for it too, all else is refused.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::spec::capabilities::CapSet;

/// Always allowed, by what it is about.
const ALLOWED: [&str; 13] = [
    // Reading and writing.
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek \
     sendfile sendfile64 splice tee vmsplice copy_file_range readahead fadvise64 fadvise64_64 \
     fsync fdatasync sync syncfs sync_file_range cachestat",
    // Opening, descriptors.
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock ioctl \
     pipe pipe2 memfd_create memfd_secret name_to_handle_at",
    // Waiting for descriptors.
    "select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64 epoll_create \
     epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 \
     eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch \
     inotify_rm_watch fanotify_mark io_setup io_destroy io_submit io_cancel io_getevents \
     io_pgetevents io_pgetevents_time64",
    // Files and directories.
    "stat lstat fstat stat64 lstat64 fstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs \
     fstatfs64 access faccessat faccessat2 getcwd chdir fchdir mkdir mkdirat rmdir rename \
     renameat renameat2 link linkat symlink symlinkat readlink readlinkat unlink unlinkat mknod \
     mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat chown32 fchown32 \
     lchown32 umask truncate ftruncate truncate64 ftruncate64 fallocate readdir getdents getdents64 \
     utime utimes futimesat utimensat utimensat_time64",
    // Extended attributes.
    "getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr \
     removexattr lremovexattr fremovexattr getxattrat setxattrat listxattrat removexattrat \
     file_getattr file_setattr",
    // Memory.
    "brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock \
     munlockall remap_file_pages pkey_alloc pkey_free pkey_mprotect membarrier mseal \
     map_shadow_stack",
    // Processes and threads; namespaces are below.
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid \
     getpgid setpgid getpgrp getsid setsid set_tid_address set_robust_list get_robust_list \
     futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue rseq restart_syscall \
     prctl arch_prctl modify_ldt get_thread_area set_thread_area pidfd_open pidfd_send_signal \
     process_mrelease ptrace process_vm_readv process_vm_writev uprobe uretprobe",
    // Who one is.
    "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid \
     setresuid setresgid setfsuid setfsgid setgroups getuid32 geteuid32 getgid32 getegid32 \
     getresuid32 getresgid32 getgroups32 setuid32 setgid32 setreuid32 setregid32 setresuid32 \
     setresgid32 setfsuid32 setfsgid32 setgroups32 capget capset seccomp landlock_create_ruleset \
     landlock_add_rule landlock_restrict_self",
    // Signals.
    "kill tkill tgkill pause sigaltstack signal sigaction sigreturn sigprocmask sigpending \
     sigsuspend rt_sigaction rt_sigpending \
     rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64",
    // Time. Setting the clock needs CAP_SYS_TIME, which the kernel checks in adjtimex.
    "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 \
     clock_nanosleep clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 \
     alarm getitimer setitimer times timer_create timer_delete timer_getoverrun timer_gettime \
     timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Sockets; socket itself is below.
    "socketcall socketpair bind listen accept accept4 connect getsockname getpeername getsockopt \
     setsockopt shutdown send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg \
     recvmmsg_time64",
    // Messages, semaphores, shared memory.
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat \
     shmctl shmdt shmget mq_open mq_unlink mq_getsetattr mq_notify mq_timedreceive \
     mq_timedreceive_time64 mq_timedsend mq_timedsend_time64",
    // Scheduling, limits, the machine.
    "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam \
     sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max \
     sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 getpriority \
     setpriority ioprio_get ioprio_set getrlimit setrlimit ugetrlimit prlimit64 getrusage getcpu \
     getrandom sysinfo uname",
];

/// Allowed with a capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname \
         setns statmount syslog umount umount2 unshare",
    ),
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "init_module finit_module delete_module"),
    ("SYS_NICE", "get_mempolicy set_mempolicy set_mempolicy_home_node mbind"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
];

/// Execution domains that change nothing of security: Linux, Linux on 32 bits, both
/// with the old uname (`UNAME26`), and asking without changing (personality(2)).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const CLONE_NEW: u64 = 0x7e02_0000;

/// vsock(7) reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;

/// The default filter for a container whose bounding set is `capabilities`.
pub fn default_filter(capabilities: CapSet) -> LinuxSeccomp {
    let mut allowed: Vec<String> =
        ALLOWED.iter().flat_map(|group| group.split_whitespace()).map(str::to_owned).collect();
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            allowed.extend(names.split_whitespace().map(str::to_owned));
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    let mut syscalls = vec![
        rule(allowed, Action::ScmpActAllow, None),
        rule(["socket"], Action::ScmpActAllow, Some(arg(Operator::ScmpCmpNe, AF_VSOCK, 0))),
    ];
    syscalls.extend(PERSONALITIES.map(|domain| {
        let domain = arg(Operator::ScmpCmpEq, domain, 0);
        rule(["personality"], Action::ScmpActAllow, Some(domain))
    }));
    if !capabilities.contains("SYS_ADMIN") {
        let no_namespace = arg(Operator::ScmpCmpMaskedEq, CLONE_NEW, 0);
        syscalls.push(rule(["clone"], Action::ScmpActAllow, Some(no_namespace)));
        // The flags of clone3 are in memory, where a filter can't look. With ENOSYS
        // libc falls back to clone.
        let mut clone3 = rule(["clone3"], Action::ScmpActErrno, None);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        syscalls.push(clone3);
    }
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]))
        .set_syscalls(Some(syscalls));
    filter
}

fn rule(
    names: impl IntoIterator<Item = impl Into<String>>,
    action: Action,
    arg: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(Into::into).collect())
        .set_action(action)
        .set_args(arg.map(|arg| vec![arg]));
    rule
}

/// A condition on the first argument.
fn arg(operator: Operator, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .value_two(value_two)
        .op(operator)
        .build()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::table::{X86, X86_64};
    use super::*;

    #[test]
    fn every_name_is_a_system_call() {
        let gated = BY_CAPABILITY.iter().flat_map(|(_, names)| names.split_whitespace());
        for name in ALLOWED.iter().flat_map(|group| group.split_whitespace()).chain(gated) {
            // Not of x86, but of other architectures that a profile may be for.
            let elsewhere = ["send", "recv"].contains(&name);
            assert!(
                elsewhere || X86_64.number(name).is_some() || X86.number(name).is_some(),
                "{name}"
            );
        }
    }

    #[test]
    fn capabilities_are_named_right() {
        for (capability, _) in BY_CAPABILITY {
            assert!(CapSet::ALL.contains(capability), "{capability}");
        }
    }
}
