//! The steps of a boot, carried out: thin effects, one function each. Runs in a
//! child of PID 1; what fails is told on the console.

mod devices;
mod disks;
mod glob;
mod identity;
mod kernel;
mod modules;
pub mod root;
pub mod seed;
mod superblock;
mod tmpfiles;

use std::fs::{self, File};
use std::io;
use std::time::Instant;

use super::cmdline::CommandLine;
use super::config::{Config, PATH};
use super::console::{self, tell};
use super::fstab;
use super::init::{tell_init, tell_root};
use super::plan::{Facts, Planned, Step, plan};

/// What came of a step: an error is a sentence that names what was done to what.
type Done = Result<(), String>;

/// Reads what a plan is made of.
pub fn look() -> (Config, CommandLine, Facts, Vec<String>) {
    let line = CommandLine::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let mut problems = Vec::new();
    let mut read = |path: &str| match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            problems.push(format!("reading {path}: {error}"));
            String::new()
        }
    };
    let (settings, table) = (read(PATH), read("/etc/fstab"));
    let (config, wrong) = Config::read(&settings, &line);
    problems.extend(wrong);
    let (entries, wrong) = fstab::parse(&table);
    problems.extend(wrong);
    let writable = rustix::fs::statvfs("/")
        .is_ok_and(|stat| !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let facts = Facts { initramfs: root::is_initramfs(), writable, fstab: entries };
    (config, line, facts, problems)
}

/// Carries the plan out; in a child of PID 1. Gives its exit status, and tells PID 1
/// through `pipe` what it has to know.
pub fn run(pipe: &mut File) -> i32 {
    let (config, line, facts, problems) = look();
    for problem in problems {
        tell(&problem);
    }
    tell_init(pipe, &config);
    let shells = console::shells_as_text(&config);
    let mut new_init = None;
    for Planned { step, essential } in plan(&config, &line, &facts) {
        let begun = Instant::now();
        loop {
            match perform(&step, &line, &shells, &mut new_init) {
                Ok(()) if line.quiet => {}
                Ok(()) => tell(&format!("{step} ({} ms)", begun.elapsed().as_millis())),
                Err(why) => {
                    tell(&format!("{step}: FAILED: {why}"));
                    if essential {
                        console::shell(&why, &shells);
                        // Moving on needs a root; whoever was at the shell may have
                        // mended it.
                        if facts.initramfs {
                            continue;
                        }
                    }
                }
            }
            break;
        }
    }
    if let Some(init) = new_init {
        tell_root(pipe, &init);
    }
    0
}

fn perform(step: &Step, line: &CommandLine, shells: &str, new_init: &mut Option<String>) -> Done {
    match step {
        Step::Shell(why) => {
            console::shell(why, shells);
            Ok(())
        }
        Step::Hostname(name) => identity::hostname(name.as_deref()),
        Step::Loopback => crate::sys::userns::interface_up(b"lo").map_err(|e| e.to_string()),
        Step::Modules(names) => modules::load_listed(names),
        Step::Coldplug => modules::coldplug(),
        Step::Rlimits(limits) => kernel::rlimits(limits),
        Step::Sysctls(settings) => kernel::sysctls(settings),
        Step::CgroupV1(controllers) => kernel::cgroup_v1(controllers),
        Step::Check { source, kind, force, wait, optional } => {
            match devices::find(source, *wait) {
                Ok(device) => disks::check(&device, kind, *force),
                // Mounting it says that it is not there.
                Err(_) if *optional => Ok(()),
                Err(why) => Err(why),
            }
        }
        Step::RemountRoot(options) => disks::remount_root(options),
        Step::Mount(entry) => disks::mount(entry),
        Step::Swap(entry) => disks::swap(entry),
        Step::Seed => seed::restore(),
        Step::Clock => identity::clock(),
        Step::MachineId => identity::machine_id(),
        Step::Tmpfiles => tmpfiles::make(),
        Step::MountRoot { source, kind, options, wait } => {
            root::mount(source, kind.as_deref(), options, *wait)?;
            *new_init = Some(root::find_init(line.init.as_deref())?);
            Ok(())
        }
        Step::CopyRoot => {
            root::copy()?;
            *new_init = Some("/init".to_owned());
            Ok(())
        }
    }
}
