//! Making processes: clone3(2) in the manner of fork, execve(2), shared memory.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicI32;

use rustix::mm::{MapFlags, ProtFlags};

/// What clone3(2) returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clone {
    /// In the new process.
    Child,
    /// In the caller: the new process's id as the caller sees it.
    Parent(i32),
}

/// `CLONE_NEW*` flags and the few others of clone3(2) that Berth uses.
pub mod flags {
    /// The child's parent is the caller's parent.
    pub const PARENT: u64 = libc::CLONE_PARENT as u64;
    /// A new mount namespace.
    pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
    /// A new UTS namespace.
    pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
    /// A new IPC namespace.
    pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
    /// A new user namespace.
    pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    /// A new pid namespace.
    pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
    /// A new network namespace.
    pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
    /// A new cgroup namespace.
    pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) without a stack of its own: the child goes on from here with a copy
/// of the caller's memory, as after fork(2). `cgroup` makes it a member of that
/// cgroup from its first instant (`CLONE_INTO_CGROUP`, Linux 5.7). The child's id is in
/// `id` before the child runs (`CLONE_PARENT_SETTID`). Where it is not allowed, clone(2)
/// does the same, but for the cgroup.
///
/// In the child of a process with several threads only async-signal-safe
/// functions may be called until execve(2).
///
/// # Safety
/// The caller must keep to that, and the child must not return through frames
/// whose destructors act on what it shares with the parent.
pub unsafe fn clone3(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    id: Option<&AtomicI32>,
) -> io::Result<Clone> {
    // The layout of `struct clone_args` up to `cgroup` (CLONE_ARGS_SIZE_VER2).
    #[repr(C, align(8))]
    struct Args {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    // With CLONE_PARENT the exit signal is that of the caller (clone(2)).
    let exit_signal = if flags & self::flags::PARENT != 0 { 0 } else { libc::SIGCHLD as u64 };
    let mut args = Args {
        flags: flags
            | cgroup.map_or(0, |_| CLONE_INTO_CGROUP)
            | id.map_or(0, |_| libc::CLONE_PARENT_SETTID as u64),
        pidfd: 0,
        child_tid: 0,
        parent_tid: id.map_or(0, |id| id.as_ptr() as u64),
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a valid clone_args of the size given, the kernel writes one
    // integer to `id`, and without CLONE_VM the child has its own copy of this stack;
    // the rest is the caller's promise.
    let mut result =
        unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), size_of::<Args>()) };
    if result < 0
        && cgroup.is_none()
        && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
    {
        // In a container of Docker's: its filter can't see the flags of the one, so it
        // asks for the other. No stack, and no word for the child: that is the same in
        // every order of the last two arguments (clone(2), "C library/kernel differences").
        // SAFETY: as above.
        result = unsafe {
            libc::syscall(libc::SYS_clone, args.flags | exit_signal, 0, args.parent_tid, 0, 0)
        };
    }
    match result {
        0 => Ok(Clone::Child),
        pid if pid > 0 => Ok(Clone::Parent(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// _exit(2): ends the process without running anything at exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// execve(2) with ready-made, NULL-terminated arrays. Returns only on failure.
///
/// # Safety
/// `argv` and `envp` must be NULL-terminated arrays of pointers to C strings.
pub unsafe fn execve(
    path: &CStr,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) -> rustix::io::Errno {
    // SAFETY: `path` is a C string; the arrays are the caller's promise.
    unsafe { libc::execve(path.as_ptr(), argv, envp) };
    errno()
}

/// The calling thread's `errno`.
pub fn errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// Replaces this process's program by `path` (execve(2)), for `reexec`.
pub fn replace(path: &CStr, argv: &[&CStr], envp: &[&CStr]) -> io::Error {
    let array = |strings: &[&CStr]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (array(argv), array(envp));
    // SAFETY: both arrays are NULL-terminated, their strings outlive the call.
    io::Error::from_raw_os_error(
        unsafe { execve(path, argv.as_ptr(), envp.as_ptr()) }.raw_os_error(),
    )
}

/// Clones a child that becomes the engine, in a session of its own: a terminal's Ctrl-C
/// is for the keeper alone. Its arguments are those of [`become_engine`]; to be called
/// with all signals blocked.
pub fn spawn_engine(
    socket: RawFd,
    number: RawFd,
    argv: &[CString],
    envp: &[CString],
) -> io::Result<i32> {
    // SAFETY: the child calls only async-signal-safe functions until it execs or exits.
    match unsafe { clone3(0, None, None) }? {
        Clone::Parent(pid) => Ok(pid),
        Clone::Child => {
            super::signals::reset_all();
            let _ = rustix::process::setsid();
            become_engine(socket, number, argv, envp);
            exit_now(127)
        }
    }
}

/// In the child that is to become the engine: gives it its end of the socket as
/// descriptor `number` and executes the running binary itself, whatever is at its
/// path by now. Returns only on failure.
fn become_engine(socket: RawFd, number: RawFd, argv: &[CString], envp: &[CString]) {
    const MAX: usize = 1024;
    let mut arrays = [[ptr::null::<libc::c_char>(); MAX]; 2];
    for (array, strings) in arrays.iter_mut().zip([argv, envp]) {
        // The last place stays NULL.
        for (place, string) in array[..MAX - 1].iter_mut().zip(strings) {
            *place = string.as_ptr();
        }
    }
    // SAFETY: this child owns no Rust object at `number`; both arrays end with
    // NULL and their strings live until execve.
    unsafe {
        if socket == number {
            libc::fcntl(number, libc::F_SETFD, 0);
        } else {
            libc::dup2(socket, number);
        }
        super::signals::restore(0);
        execve(c"/proc/self/exe", arrays[0].as_ptr(), arrays[1].as_ptr());
    }
}

/// Where this process's arguments are in its memory: what `/proc/PID/cmdline` shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arguments {
    start: usize,
    len: usize,
}

impl Arguments {
    /// Those of the calling process (`arg_start` and `arg_end` of proc_pid_stat(5));
    /// empty where the system does not say.
    pub fn own() -> Self {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in parentheses, may hold spaces; the field behind it is the third.
        let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let mut number = |index| fields.nth(index)?.parse::<usize>().ok();
        match (number(45), number(0)) {
            (Some(start), Some(end)) if start > 0 && end > start => {
                Arguments { start, len: end - start }
            }
            _ => Arguments::default(),
        }
    }

    /// Writes `name` in their place, as far as there is room; async-signal-safe.
    ///
    /// # Safety
    /// Nobody in this process uses its arguments' own memory any more, and it is that
    /// of the process that [`Arguments::own`] was called in, or a fork of it.
    pub unsafe fn replace(self, name: &[u8]) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the kernel put the arguments there, writable, for the whole life of
        // the program; the rest is the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.len) };
        bytes.fill(0);
        // The last byte stays 0: otherwise the environment would be shown too.
        for (to, from) in bytes[..self.len - 1].iter_mut().zip(name) {
            *to = *from;
        }
    }
}

/// Numbers in memory that a process shares with the processes it clones.
#[derive(Debug)]
pub struct SharedPids(*const AtomicI32);

impl SharedPids {
    /// How many there are.
    pub const COUNT: usize = PAGE / size_of::<AtomicI32>();

    /// Maps a page for them; it is never unmapped.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping touches no existing memory.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        Ok(SharedPids(page.cast::<AtomicI32>()))
    }

    /// All of them.
    pub fn get(&self) -> &[AtomicI32] {
        // SAFETY: the page is mapped, aligned, zeroed by the kernel, lives for the
        // rest of the process, and is only ever used as these atomics.
        unsafe { std::slice::from_raw_parts(self.0, Self::COUNT) }
    }
}

/// The smallest page there is.
const PAGE: usize = 4096;

/// A private, writable mapping of a whole file.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps the `len` bytes of `fd` copy-on-write.
    pub fn private(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
                fd,
                0,
            )
        }?;
        Ok(Mapping { base: base.cast(), len })
    }

    /// The mapped bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is private to this process, `len` long and lives
        // as long as `self`, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping made in `private`,
        // and no slice of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Sets a variable of this process's environment (setenv(3)). For a process with one
/// thread only.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: with one thread nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// Removes a variable of this process's environment (unsetenv(3)). For a process with one
/// thread only.
pub fn remove_variable(name: &str) {
    // SAFETY: with one thread nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

/// How many processors of the machine are online, also where this process may not run on
/// all of them (sysconf(3)).
pub fn processors() -> usize {
    // SAFETY: no memory is involved.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1).max(1)
}

/// Keeps malloc(3) to one arena that is given back when it is free: threads that
/// come and go would otherwise each leave one behind (mallopt(3)).
pub fn one_arena() {
    // SAFETY: mallopt(3) only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}

/// Gives memory that is free back to the system, also from the middle of the heap
/// (malloc_trim(3)); takes some milliseconds for a large one.
pub fn trim_heap() {
    // SAFETY: the allocator's own function, without preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Lets go of the pages of this program's own file: what was for the start or a burst
/// alone stays away, and the rest is mapped again from the page cache at its next use.
pub fn let_go_of_code() {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr(3) gives a valid description for this call, with
        // `dlpi_phnum` headers.
        let info = unsafe { &*info };
        // SAFETY: as above.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let page = rustix::param::page_size();
        for header in headers {
            // Never one that may be written to: what was written would be lost.
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                let first = info.dlpi_addr as usize + header.p_vaddr as usize;
                let end = (first + header.p_memsz as usize) & !(page - 1);
                let first = first.next_multiple_of(page);
                if first < end {
                    // SAFETY: a read-only private mapping of a file has nothing but what
                    // is in the file, where it is read from again.
                    unsafe {
                        libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED)
                    };
                }
            }
        }
        0
    }
    // SAFETY: `each` keeps nothing of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(each), std::ptr::null_mut()) };
}

/// Closes every descriptor from `first` on (close_range(2)).
pub fn close_from(first: RawFd) {
    // SAFETY: closing descriptors that nothing in this process uses any more is
    // the caller's intent; the call touches no memory. Used only in children
    // that own no Rust objects above `first` whose drop would matter.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2)).
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: sets a flag of descriptors; touches no memory.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
}

/// Takes over a descriptor that came through execve(2), by its number, and marks
/// it close-on-exec. `None` if it is not open. The number must not be one that
/// this process already owns.
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: only used for this one call, which fails when it is not open.
    let known = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(known, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and by the caller's word nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Borrows a descriptor by number.
///
/// # Safety
/// `fd` must be open for as long as the result is used.
pub unsafe fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller's promise.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
