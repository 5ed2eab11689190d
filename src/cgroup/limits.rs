//! A manifest's `resources` into the kernel's files. Unset is "no limit", so that
//! what a manifest no longer says is lifted.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use super::{Cgroup, Error, Result};
use crate::manifest::model::{IoLimit, Resources};
use crate::manifest::scalar::Size;

/// The period of cpu.max and cpu.cfs_period_us in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;

impl Cgroup {
    /// Puts limits in force, at creation and in the running container. Gives what
    /// this machine has no controller for.
    ///
    /// # Errors
    /// The file that refused its value, and the likely reason.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>> {
        let mut applied = self.applied.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if applied.as_ref() == Some(resources) {
            return Ok(Vec::new());
        }
        *applied = None;
        let mut missing = Vec::new();
        self.memory(resources, &mut missing)?;
        self.cpu(resources, &mut missing)?;
        self.pids(resources, &mut missing)?;
        self.cpuset(resources, &mut missing)?;
        self.io(resources, &mut missing)?;
        *applied = Some(resources.clone());
        Ok(missing)
    }

    /// The folder of a controller that a limit needs. `wanted` says whether any
    /// limit does; without one a v1 group is not even made.
    fn needed(
        &self,
        controller: &str,
        wanted: bool,
        missing: &mut Vec<String>,
    ) -> Result<Option<PathBuf>> {
        let file = match controller {
            "memory" => "memory.max",
            "cpu" => "cpu.max",
            "pids" => "pids.max",
            "cpuset" => "cpuset.cpus",
            _ => "io.max",
        };
        let dir = match (self.dir_of(controller), wanted) {
            (Some(dir), false) if !dir.is_dir() => return Ok(None),
            (Some(_), _) => self.enter(controller)?,
            (None, _) => None,
        };
        let there = dir.filter(|dir| !self.unified || dir.join(file).exists());
        if there.is_none() && wanted {
            missing.push(format!(
                "this machine has no {controller} controller for it: the limit is not in force"
            ));
        }
        Ok(there.cloned())
    }

    fn memory(&self, resources: &Resources, missing: &mut Vec<String>) -> Result<()> {
        let wanted = resources.memory.is_some()
            || resources.swap.is_some()
            || resources.memory_reservation.is_some();
        let Some(dir) = self.needed("memory", wanted, missing)? else {
            return Ok(());
        };
        let controller = MemController::new(dir.clone(), dir.clone(), self.unified);
        let bytes = |size: Option<Size>| size.map_or(-1, |size| clamp(size.0));
        let limit = bytes(resources.memory);
        let too_low = "the container uses more already: stop something in it, or restart it";
        let set_limit = || {
            controller
                .set_limit(limit)
                .map_err(|error| refused(&dir, "memory limit", limit, &error).hint(too_low))
        };
        let swap_file = match self.unified {
            true => "memory.swap.max",
            false => "memory.memsw.limit_in_bytes",
        };
        if dir.join(swap_file).exists() {
            // v2 limits swap alone, v1 memory and swap together, never below memory.
            let together = match (resources.memory, resources.swap) {
                (Some(memory), Some(swap)) if !self.unified => {
                    clamp(memory.0.saturating_add(swap.0))
                }
                (None, _) if !self.unified => -1,
                (_, swap) => bytes(swap),
            };
            let set_swap = || {
                controller
                    .set_memswap_limit(together)
                    .map_err(|error| refused(&dir, "swap limit", together, &error).hint(too_low))
            };
            if self.unified {
                set_limit()?;
                set_swap()?;
            } else {
                // On v1 the order depends on which way they go: lift the upper one
                // first.
                let lifted = controller.set_memswap_limit(-1);
                set_limit()?;
                lifted.map_err(|error| refused(&dir, "swap limit", -1, &error))?;
                set_swap()?;
            }
        } else {
            set_limit()?;
            if resources.swap.is_some() {
                missing.push("this kernel does not account swap: the limit is not in force".into());
            }
        }
        let reservation = resources.memory_reservation;
        let soft = match (reservation, self.unified) {
            (None, true) => 0,
            (size, _) => bytes(size),
        };
        controller
            .set_soft_limit(soft)
            .map_err(|error| refused(&dir, "memory reservation", soft, &error))
    }

    fn cpu(&self, resources: &Resources, missing: &mut Vec<String>) -> Result<()> {
        let wanted = resources.cpus.is_some() || resources.cpu_weight.is_some();
        let Some(dir) = self.needed("cpu", wanted, missing)? else {
            return Ok(());
        };
        let controller = CpuController::new(dir.clone(), dir.clone(), self.unified);
        let quota =
            resources.cpus.map_or(-1, |cpus| i64::from(cpus.milli) * (PERIOD as i64) / 1000);
        if dir.join(if self.unified { "cpu.max" } else { "cpu.cfs_quota_us" }).exists() {
            // The kernel takes no quota below a millisecond.
            let quota = if quota > 0 { quota.max(1000) } else { quota };
            controller
                .set_cfs_quota_and_period(Some(quota), Some(PERIOD))
                .map_err(|error| refused(&dir, "cpu quota", quota, &error))?;
        }
        let weight = resources.cpu_weight.unwrap_or(100);
        let shares = if self.unified { u64::from(weight) } else { shares(weight) };
        controller.set_shares(shares).map_err(|error| refused(&dir, "cpu weight", shares, &error))
    }

    fn pids(&self, resources: &Resources, missing: &mut Vec<String>) -> Result<()> {
        let Some(dir) = self.needed("pids", resources.pids.is_some(), missing)? else {
            return Ok(());
        };
        let controller = PidController::new(dir.clone(), dir.clone(), self.unified);
        let max = resources
            .pids
            .map_or(MaxValue::Max, |pids| MaxValue::Value(i64::try_from(pids).unwrap_or(i64::MAX)));
        controller.set_pid_max(max).map_err(|error| refused(&dir, "pids", max, &error))
    }

    fn cpuset(&self, resources: &Resources, missing: &mut Vec<String>) -> Result<()> {
        let wanted = resources.cpuset.is_some() || resources.cpuset_mems.is_some();
        let Some(dir) = self.needed("cpuset", wanted, missing)? else {
            return Ok(());
        };
        let controller = CpuSetController::new(dir.clone(), dir.clone(), self.unified);
        let inherited = |file: &str| match (self.unified, dir.parent()) {
            // An empty v2 cpuset is its parent's; v1 wants it named.
            (false, Some(parent)) => {
                fs::read_to_string(parent.join(file)).unwrap_or_default().trim().to_owned()
            }
            _ => "\n".to_owned(),
        };
        let hint = "name processors and nodes that this machine has, such as 0-3";
        let cpus = resources.cpuset.clone().unwrap_or_else(|| inherited("cpuset.cpus"));
        controller
            .set_cpus(&cpus)
            .map_err(|error| refused(&dir, "cpuset", cpus.trim(), &error).hint(hint))?;
        let mems = resources.cpuset_mems.clone().unwrap_or_else(|| inherited("cpuset.mems"));
        controller
            .set_mems(&mems)
            .map_err(|error| refused(&dir, "cpuset-mems", mems.trim(), &error).hint(hint))
    }

    fn io(&self, resources: &Resources, missing: &mut Vec<String>) -> Result<()> {
        let name = if self.unified { "io" } else { "blkio" };
        let wanted = resources.io_weight.is_some() || !resources.io.is_empty();
        let Some(dir) = self.needed(name, wanted, missing)? else {
            return Ok(());
        };
        let controller = BlkIoController::new(dir.clone(), dir.clone(), self.unified);
        self.lift_io(&dir)?;
        for limit in &resources.io {
            self.throttle(&dir, &controller, limit)?;
        }
        let weight = resources.io_weight.unwrap_or(100);
        // v2 has it as io.weight, 1 to 10000; BFQ's own files go from 1 to 1000.
        if self.unified && dir.join("io.weight").exists() {
            fs::write(dir.join("io.weight"), format!("default {weight}"))
                .map_err(|error| Error::new(format!("setting {}/io.weight", dir.display()), error))
        } else if dir.join(if self.unified { "io.bfq.weight" } else { "blkio.weight" }).exists() {
            let weight = u64::from(weight.clamp(10, 1000));
            controller
                .set_weight(weight)
                .map_err(|error| refused(&dir, "io weight", weight, &error))
        } else if dir.join("blkio.bfq.weight").exists() {
            // v1 where BFQ is all that weighs: cgroups-rs does not know its name.
            fs::write(dir.join("blkio.bfq.weight"), weight.clamp(1, 1000).to_string()).map_err(
                |error| Error::new(format!("setting {}/blkio.bfq.weight", dir.display()), error),
            )
        } else {
            if resources.io_weight.is_some() {
                missing.push("this kernel has no io weight: it is not in force".to_owned());
            }
            Ok(())
        }
    }

    /// Takes away the limits of all devices, those that are set next included.
    fn lift_io(&self, dir: &Path) -> Result<()> {
        let files: &[&str] = match self.unified {
            true => &["io.max"],
            false => &[
                "blkio.throttle.read_bps_device",
                "blkio.throttle.write_bps_device",
                "blkio.throttle.read_iops_device",
                "blkio.throttle.write_iops_device",
            ],
        };
        for file in files {
            let path = dir.join(file);
            for line in fs::read_to_string(&path).unwrap_or_default().lines() {
                let Some((device, _)) = line.split_once(' ') else {
                    continue;
                };
                let lifted = match self.unified {
                    true => format!("{device} rbps=max wbps=max riops=max wiops=max"),
                    false => format!("{device} 0"),
                };
                fs::write(&path, lifted)
                    .map_err(|error| Error::new(format!("lifting {}", path.display()), error))?;
            }
        }
        Ok(())
    }

    fn throttle(&self, dir: &Path, to: &BlkIoController, limit: &IoLimit) -> Result<()> {
        let looking = format!("looking at the device {}", limit.device.display());
        let meta = fs::metadata(&limit.device).map_err(|error| Error::new(&looking, error))?;
        if !meta.file_type().is_block_device() {
            return Err(Error::new(looking, io::Error::other("it is not a block device")));
        }
        let (major, minor) =
            (u64::from(rustix::fs::major(meta.rdev())), u64::from(rustix::fs::minor(meta.rdev())));
        let set = |result: cgroups_rs::fs::error::Result<()>, value: u64| {
            result.map_err(|error| refused(dir, "io limit", value, &error))
        };
        if let Some(Size(bytes)) = limit.read {
            set(to.throttle_read_bps_for_device(major, minor, bytes), bytes)?;
        }
        if let Some(Size(bytes)) = limit.write {
            set(to.throttle_write_bps_for_device(major, minor, bytes), bytes)?;
        }
        if let Some(count) = limit.read_iops {
            set(to.throttle_read_iops_for_device(major, minor, count), count)?;
        }
        if let Some(count) = limit.write_iops {
            set(to.throttle_write_iops_for_device(major, minor, count), count)?;
        }
        Ok(())
    }
}

/// v1 shares of a weight: both have 1024 or 100 in the middle.
fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).clamp(2, 262_144)
}

fn clamp(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn refused(
    dir: &Path,
    what: &str,
    value: impl std::fmt::Display,
    error: &cgroups_rs::fs::error::Error,
) -> Error {
    let cause = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
    Error::new(format!("setting the {what} of {} to {value}", dir.display()), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_shares() {
        assert_eq!(shares(100), 1024);
        assert_eq!(shares(1), 10);
        assert_eq!(shares(10_000), 102_400);
    }
}
