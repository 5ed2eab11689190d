//! Becoming the keeper: the lock that there is one of, its memory, its arguments.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::duty::Duty;
use super::protocol::Tag;
use super::run::{Finished, RESUME, Settings, resumed_table, run};

/// The name under which a keeper keeps its lock when it replaces itself.
const LOCK: &str = "lock";
/// How long the engine of a dead keeper may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs as the keeper of what `lock` stands for until everything is finished;
/// says how it ended. `engine_args` are the arguments that make this binary
/// the engine.
///
/// # Errors
/// Another keeper has the lock: the error names its pid.
pub fn up(lock: &Path, engine_args: &[String], duty: Duty) -> io::Result<Finished> {
    let resumed = resumed_table();
    let mut table = resumed.unwrap_or_default();
    let lock_tag = Tag::new(LOCK).unwrap_or(Tag::EMPTY);
    if !table.held.iter().any(|held| held.tag == lock_tag) {
        let locked = take_lock(lock)?;
        table.hold(lock_tag, locked).map_err(|_| io::Error::other("the table is full"))?;
    }
    // Descriptors that whoever started us left open are not for containers.
    crate::sys::process::close_on_exec_from(3);
    raise_descriptor_limit();
    let binary = std::env::current_exe()?;
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let mut engine_argv = vec![CString::from(c"berth")];
    for arg in engine_args {
        engine_argv.push(text(arg.clone().into_bytes())?);
    }
    let mut keeper_argv = Vec::new();
    for arg in std::env::args_os() {
        keeper_argv.push(text(arg.into_vec())?);
    }
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != RESUME) {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        environment.push(text(entry)?);
    }
    let settings = Settings {
        binary: text(binary.into_os_string().into_vec())?,
        engine_argv,
        keeper_argv,
        environment,
        duty,
    };
    run(settings, table)
}

/// Locks the file and writes our pid into it. The lock lives as long as this
/// process or a replacement of it: containers never inherit it.
fn take_lock(path: &Path) -> io::Result<OwnedFd> {
    let fail = |error: io::Error| {
        io::Error::new(error.kind(), format!("locking {}: {error}", path.display()))
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map_err(fail)?;
    let begun = Instant::now();
    while flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        file.rewind().map_err(fail)?;
        let _ = file.read_to_string(&mut pid);
        // The engine of a keeper that is dead holds the lock until it has ended: two
        // engines must never move the same logs.
        let is_dead = pid.trim().parse().is_ok_and(|pid| super::process::start_time(pid) == 0);
        if is_dead && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "another Berth runs here already, with pid {} ({} is locked)",
                pid.trim(),
                path.display()
            ),
        ));
    }
    file.set_len(0).map_err(fail)?;
    file.rewind().map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file.into())
}

/// As many descriptors as we may have: some for each container. PID 1 begins with a hard
/// limit of 4096.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // The kernel's own bound, unless somebody changed fs.nr_open.
    const MOST: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|hard| hard < MOST) {
        let most = Rlimit { current: Some(MOST), maximum: Some(MOST) };
        if setrlimit(Resource::Nofile, most).is_ok() {
            return;
        }
    }
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
