//! Limits in Docker's words, at creation and later. Pure.

use std::path::PathBuf;

use bollard_stubs::models::{HostConfig, ThrottleDevice};

use super::some;
use crate::manifest::model::{Container, Cpus, IoLimit};
use crate::manifest::scalar::Size;

/// The least memory that Docker takes.
const LEAST_MEMORY: u64 = 6 << 20;

/// A positive number; Docker's 0 is "not said".
pub(super) fn positive(number: Option<i64>) -> Option<u64> {
    number.filter(|number| *number > 0).map(i64::unsigned_abs)
}

/// Docker's share of processor time into the model's, where 100 is usual, and back.
pub fn weight_of_shares(shares: u64) -> u32 {
    u32::try_from(shares.saturating_mul(100) / 1024).unwrap_or(u32::MAX).clamp(1, 10_000)
}

/// Limits, also those of `POST /containers/{id}/update`, of a machine with so many
/// `processors`.
///
/// # Errors
/// A sentence for the client.
pub fn resources(
    host: &HostConfig,
    container: &mut Container,
    processors: usize,
) -> Result<(), String> {
    sensible(host, processors)?;
    let limits = &mut container.resources;
    if let Some(memory) = positive(host.memory) {
        if memory < LEAST_MEMORY {
            return Err("Minimum memory limit allowed is 6MB".to_owned());
        }
        limits.memory = Some(Size(memory));
    }
    match (host.memory_swap, limits.memory) {
        (Some(total @ 1..), Some(memory)) => {
            let total = total.unsigned_abs();
            let swap = total
                .checked_sub(memory.0)
                .ok_or("Minimum memoryswap limit should be larger than memory limit, see usage")?;
            limits.swap = Some(Size(swap));
        }
        (Some(1..), None) => {
            return Err("You should always set the Memory limit when using Memoryswap limit, see \
                        usage"
                .to_owned());
        }
        (Some(-1), _) => limits.swap = None,
        _ => {}
    }
    if let Some(reservation) = positive(host.memory_reservation) {
        if reservation < LEAST_MEMORY {
            return Err("Minimum memory reservation allowed is 6MB".to_owned());
        }
        if limits.memory.is_some_and(|memory| memory.0 < reservation) {
            return Err("Minimum memory limit can not be less than memory reservation limit, see \
                        usage"
                .to_owned());
        }
        limits.memory_reservation = Some(Size(reservation));
    }
    let cpus = match (positive(host.nano_cpus), positive(host.cpu_quota)) {
        (Some(nano), _) => Some(nano / 1_000_000),
        (None, Some(quota)) => {
            Some(quota.saturating_mul(1000) / positive(host.cpu_period).unwrap_or(100_000))
        }
        (None, None) => None,
    };
    if host.cpu_quota.is_some_and(|quota| quota < 0) {
        // Docker's word for no limit.
        limits.cpus = None;
    }
    if let Some(milli) = cpus {
        limits.cpus = Some(Cpus { milli: u32::try_from(milli).unwrap_or(u32::MAX).max(1) });
    }
    if let Some(shares) = positive(host.cpu_shares) {
        limits.cpu_weight = Some(weight_of_shares(shares));
    }
    for (asked, limit) in
        [(&host.cpuset_cpus, &mut limits.cpuset), (&host.cpuset_mems, &mut limits.cpuset_mems)]
    {
        if let Some(set) = some(asked.clone()) {
            *limit = Some(set);
        }
    }
    if let Some(pids) = host.pids_limit {
        limits.pids = positive(Some(pids));
    }
    if let Some(weight) = host.blkio_weight.filter(|weight| *weight > 0) {
        // Docker's usual one is 500, the model's 100.
        limits.io_weight = Some(u32::from(weight / 5).clamp(1, 10_000));
    }
    for (devices, set) in [
        (&host.blkio_device_read_bps, (|l, n| l.read = Some(Size(n))) as fn(&mut IoLimit, u64)),
        (&host.blkio_device_write_bps, |l, n| l.write = Some(Size(n))),
        (&host.blkio_device_read_iops, |l, n| l.read_iops = Some(n)),
        (&host.blkio_device_write_iops, |l, n| l.write_iops = Some(n)),
    ] {
        for device in devices.iter().flatten() {
            io_limit(device, &mut limits.io, set);
        }
    }
    Ok(())
}

/// Refuses numbers that are none of a limit, as Docker's daemon does and in its words.
fn sensible(host: &HostConfig, online: usize) -> Result<(), String> {
    let said = |number: Option<i64>| number.filter(|number| *number != 0);
    if let Some(shares) = host.cpu_shares.filter(|shares| *shares < 0) {
        return Err(format!("invalid CPU shares ({shares}): value must be a positive integer"));
    }
    if positive(host.nano_cpus).is_some() && positive(host.cpu_quota).is_some() {
        return Err("Conflicting options: Nano CPUs and CPU Quota cannot both be set.".to_owned());
    }
    let all = i64::try_from(online).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if said(host.nano_cpus).is_some_and(|nano| !(0..=all).contains(&nano)) {
        return Err(format!(
            "range of CPUs is from 0.01 to {online}.00, as there are only {online} CPUs available"
        ));
    }
    if said(host.cpu_period).is_some_and(|period| !(1_000..=1_000_000).contains(&period)) {
        return Err("CPU cfs period cannot be less than 1ms (i.e. 1000) or larger than 1s (i.e. \
                    1000000)"
            .to_owned());
    }
    if host.cpu_quota.is_some_and(|quota| (1..1_000).contains(&quota)) {
        return Err("CPU cfs quota cannot be less than 1ms (i.e. 1000)".to_owned());
    }
    for (set, what) in [(&host.cpuset_cpus, "cpus"), (&host.cpuset_mems, "mems")] {
        if let Some(set) = some(set.clone())
            && !is_set(&set)
        {
            return Err(format!("Invalid value {set} for cpuset {what}"));
        }
    }
    if host.memory_swappiness.is_some_and(|percent| !(-1..=100).contains(&percent)) {
        let percent = host.memory_swappiness.unwrap_or(0);
        return Err(format!("Invalid value: {percent}, valid memory swappiness range is 0-100"));
    }
    if host.blkio_weight.is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
        return Err("Range of blkio weight is from 10 to 1000".to_owned());
    }
    Ok(())
}

/// Whether it is a list of numbers and ranges: `0-3,8` (cpuset(7), List format).
fn is_set(text: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            number(first).zip(number(last)).is_some_and(|(first, last)| first <= last)
        }
        None => number(part).is_some(),
    })
}

fn io_limit(device: &ThrottleDevice, limits: &mut Vec<IoLimit>, set: fn(&mut IoLimit, u64)) {
    let (Some(path), Some(rate)) = (&device.path, positive(device.rate)) else {
        return;
    };
    let path = PathBuf::from(path);
    let at = limits.iter().position(|limit| limit.device == path).unwrap_or_else(|| {
        limits.push(IoLimit {
            device: path.clone(),
            read: None,
            write: None,
            read_iops: None,
            write_iops: None,
        });
        limits.len() - 1
    });
    set(&mut limits[at], rate);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_limit_is_refused_in_docker_s_words() {
        let refused = |host: serde_json::Value| {
            let host = serde_json::from_value(host).unwrap();
            resources(&host, &mut Container::default(), 2).unwrap_err()
        };
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        for (host, why) in [
            ("{\"CpuShares\":-1}", "invalid CPU shares"),
            ("{\"NanoCpus\":-1}", "range of CPUs is from 0.01 to 2.00"),
            ("{\"NanoCpus\":2000000001}", "range of CPUs is from 0.01 to 2.00"),
            ("{\"CpuPeriod\":999}", "CPU cfs period cannot be less"),
            ("{\"CpuPeriod\":-1}", "CPU cfs period cannot be less"),
            ("{\"CpuQuota\":999}", "CPU cfs quota cannot be less"),
            ("{\"CpusetCpus\":\"0-\"}", "Invalid value 0- for cpuset cpus"),
            ("{\"CpusetMems\":\"+1\"}", "Invalid value +1 for cpuset mems"),
            ("{\"MemoryReservation\":5}", "Minimum memory reservation allowed is 6MB"),
            ("{\"Memory\":9000000,\"MemoryReservation\":9000001}", "Minimum memory limit can"),
            ("{\"MemorySwappiness\":101}", "Invalid value: 101"),
            ("{\"BlkioWeight\":9}", "Range of blkio weight"),
        ] {
            let refused = refused(json(host));
            assert!(refused.starts_with(why), "{host}: {refused}");
        }
        let fine = "{\"NanoCpus\":2000000000,\"CpuPeriod\":0,\"CpuQuota\":-1,\"CpusetCpus\":\"0-1,7\",\
                    \"MemorySwappiness\":-1,\"BlkioWeight\":0}";
        assert_eq!(sensible(&serde_json::from_str(fine).unwrap(), 2), Ok(()));
    }
}
