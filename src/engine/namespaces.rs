//! User and network namespaces made ahead, each with a range of ids of its own,
//! so that a launch only enters them. A container keeps its pair over restarts.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::sys::userns::{IdRange, netns_of, userns_and_netns};

/// How many ids a container has: what distributions use, `nobody` included.
pub(super) const COUNT: u32 = 65536;
/// Ranges begin above those that systemd-nspawn and useradd give out.
const FIRST: u32 = 0x7000_0000;
/// And end where ids end.
const LAST: u32 = 0xfffe_0000;
/// How many pairs are kept ready; each costs the kernel some memory.
const READY: usize = 2;

/// A user namespace, and a network namespace that it owns, its loopback up.
#[derive(Debug)]
pub struct Namespaces {
    /// Its ids on the host.
    pub range: IdRange,
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace.
    pub net: OwnedFd,
    /// The user namespace is another container's: it is looked for at each launch.
    pub is_anothers: bool,
    /// Gives the range back when nothing has the namespaces any more.
    _lease: Lease,
}

/// How many containers have each range, by its first id.
type Used = BTreeMap<u32, usize>;

#[derive(Debug)]
struct Lease {
    first: u32,
    used: Arc<Mutex<Used>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Ok(mut used) = self.used.lock() {
            release(&mut used, self.first);
        }
    }
}

fn release(used: &mut Used, first: u32) {
    if let Some(count) = used.get_mut(&first) {
        *count -= 1;
        if *count == 0 {
            used.remove(&first);
        }
    }
}

/// Where pairs come from. Cheap to clone; usable from threads that may block.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    used: Arc<Mutex<Used>>,
    ready: Arc<Mutex<Vec<Namespaces>>>,
}

impl Pool {
    /// Marks a range as used by a container that was adopted, until it ends.
    pub fn reserve(&self, first: u32) {
        if let Ok(mut used) = self.used.lock() {
            *used.entry(first).or_default() += 1;
        }
    }

    /// The adopted container has ended.
    pub fn give_back(&self, first: u32) {
        if let Ok(mut used) = self.used.lock() {
            release(&mut used, first);
        }
    }

    /// A pair: a ready one, or one made now.
    ///
    /// # Errors
    /// All ranges are in use, or the kernel makes no more namespaces
    /// (namespaces(7), `/proc/sys/user`).
    pub fn take(&self) -> Result<Namespaces, String> {
        match self.ready.lock().ok().and_then(|mut ready| ready.pop()) {
            Some(namespaces) => Ok(namespaces),
            None => self.make(),
        }
    }

    /// Makes pairs until enough are ready. To be called off the launch path.
    pub fn refill(&self) {
        loop {
            let enough = self.ready.lock().map_or(true, |ready| ready.len() >= READY);
            if enough {
                return;
            }
            // A failure shows at the launch that needs it.
            let Ok(made) = self.make() else { return };
            if let Ok(mut ready) = self.ready.lock() {
                ready.push(made);
            }
        }
    }

    fn make(&self) -> Result<Namespaces, String> {
        let lease = self.lease()?;
        let range = IdRange { first: lease.first, count: COUNT };
        let (user, net) = userns_and_netns(range).map_err(|error| {
            format!(
                "making a user and a network namespace: {error}; see \
                 /proc/sys/user/max_user_namespaces and max_net_namespaces"
            )
        })?;
        Ok(Namespaces { range, user, net, is_anothers: false, _lease: lease })
    }

    /// The user namespace of another container with a network namespace of its own. The
    /// range is not given to anybody else before both have ended.
    ///
    /// # Errors
    /// As those of [`Pool::take`].
    pub fn beside(&self, user: OwnedFd, first: u32) -> Result<Namespaces, String> {
        self.reserve(first);
        let lease = Lease { first, used: Arc::clone(&self.used) };
        let net = netns_of(user.as_fd())
            .map_err(|error| format!("making a network namespace: {error}"))?;
        let range = IdRange { first, count: COUNT };
        Ok(Namespaces { range, user, net, is_anothers: true, _lease: lease })
    }

    fn lease(&self) -> Result<Lease, String> {
        let mut used = self.used.lock().map_err(|error| error.to_string())?;
        let first = (FIRST..=LAST)
            .step_by(COUNT as usize)
            .find(|first| !used.contains_key(first))
            .ok_or("every range of user ids is in use; `userns = \"host\"` needs none")?;
        used.insert(first, 1);
        Ok(Lease { first, used: Arc::clone(&self.used) })
    }
}

/// The first host id of the user namespace of a process (user_namespaces(7),
/// "uid_map"); `None` for the host's own.
pub fn range_of(pid: i32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    parse_uid_map(&map)
}

fn parse_uid_map(map: &str) -> Option<u32> {
    let mut numbers = map.lines().next()?.split_whitespace();
    let (inside, outside) = (numbers.next()?, numbers.next()?);
    match (inside, outside.parse()) {
        ("0", Ok(first)) if first != 0 => Some(first),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overlap_and_come_back() {
        let pool = Pool::default();
        pool.reserve(FIRST);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!(a.range.first, FIRST + COUNT);
        assert_eq!(b.range.first, FIRST + 2 * COUNT);
        drop(a);
        pool.give_back(FIRST);
        assert_eq!(pool.take().unwrap().range.first, FIRST);
        // One that two have is free when both are gone.
        pool.reserve(b.range.first);
        drop(b);
        assert_ne!(pool.lease().unwrap().first, FIRST + 2 * COUNT);
        pool.give_back(FIRST + 2 * COUNT);
        assert_eq!(pool.lease().unwrap().first, FIRST);
        pool.refill();
        assert_eq!(pool.ready.lock().unwrap().len(), READY);
    }

    #[test]
    fn the_range_of_a_process_is_read() {
        assert_eq!(parse_uid_map("         0 1879048192      65536\n"), Some(1_879_048_192));
        assert_eq!(parse_uid_map("         0          0 4294967295\n"), None);
        assert_eq!(parse_uid_map(""), None);
    }
}
