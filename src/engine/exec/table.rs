//! All execs that are remembered, and the room that they have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};

use super::Session;
use super::record::{Exec, VERSION, write};
use crate::engine::handle::Refusal;
use crate::engine::prepare::Ends;
use crate::engine::terminal::Size;
use crate::manifest::scalar::Name;

/// Beyond so many that are remembered, a further one is refused.
pub(super) const MOST: usize = 4096;
/// The same for what they say together, in bytes: each of them is here and in `/run`.
pub(super) const MOST_BYTES: usize = 64 << 20;
/// So long after its end an exec can be asked about, as with Docker.
const REMEMBERED: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Entry {
    pub exec: Exec,
    pub ends: Ends,
    pub size: Option<Size>,
    pub ended: watch::Sender<Option<i32>>,
    pub joined: watch::Sender<()>,
    pub asked: Option<oneshot::Sender<Result<Session, Refusal>>>,
}

impl Entry {
    pub fn new(exec: Exec) -> Self {
        let ended = watch::Sender::new(exec.exit);
        let joined = watch::Sender::new(());
        Entry { exec, ends: Ends::default(), size: None, ended, joined, asked: None }
    }
}

/// All execs that are remembered.
#[derive(Debug)]
pub(in crate::engine) struct Execs {
    dir: PathBuf,
    pub(super) entries: HashMap<String, Entry>,
}

impl Execs {
    /// Those that an engine before us left.
    pub fn load(dir: &Path) -> Self {
        let mut entries = HashMap::new();
        for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let read = std::fs::read(file.path()).ok();
            match read.and_then(|text| serde_json::from_slice::<Exec>(&text).ok()) {
                Some(exec) if exec.version == VERSION => {
                    entries.insert(exec.id.clone(), Entry::new(exec));
                }
                // Cut off, or of another version: nothing lives by it.
                _ => drop(std::fs::remove_file(file.path())),
            }
        }
        Execs { dir: dir.to_owned(), entries }
    }

    pub(super) fn save(&self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        if let Err(error) = write(&self.dir, &entry.exec) {
            tracing::warn!("{error}; an engine after this one will not know that exec");
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        self.entries.remove(id);
        let _ = std::fs::remove_file(self.dir.join(id));
    }

    /// Forgets what ended long ago, and where there is no room for one more of this size, a
    /// part of what does not run: that was made or ended first. Whether there is room then.
    pub(super) fn make_room(&mut self, size: usize) -> bool {
        let now = SystemTime::now();
        let room = Room { count: MOST - 1, bytes: MOST_BYTES.saturating_sub(size) };
        let all = self.entries.values().map(|entry| &entry.exec);
        for id in superfluous(all, now, room) {
            self.forget(&id);
        }
        let left: usize = self.entries.values().map(|entry| entry.exec.size()).sum();
        self.entries.len() <= room.count && left <= room.bytes
    }

    /// The ids of the execs that run in a container.
    pub fn running_in(&self, name: &Name) -> Vec<String> {
        let runs = |entry: &&Entry| entry.exec.name == *name && entry.exec.is_running();
        self.entries.values().filter(runs).map(|entry| entry.exec.id.clone()).collect()
    }

    /// A container that does not run is kept under another name.
    pub fn rename(&mut self, name: &Name, to: &Name) {
        let mut ids = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.exec.name == *name) {
            to.clone_into(&mut entry.exec.name);
            ids.push(entry.exec.id.clone());
        }
        for id in ids {
            self.save(&id);
        }
    }

    /// A container is gone, and its execs with it.
    pub fn forget_container(&mut self, name: &Name) {
        let of = |entry: &&Entry| entry.exec.name == *name;
        let ids: Vec<String> =
            self.entries.values().filter(of).map(|entry| entry.exec.id.clone()).collect();
        for id in ids {
            self.forget(&id);
        }
    }

    pub(super) fn get(&mut self, id: &str) -> Result<&mut Entry, Refusal> {
        self.entries
            .get_mut(id)
            .ok_or_else(|| Refusal::NotFound(format!("No such exec instance: {id}")))
    }
}

/// How many execs there may be, and how many bytes they may say together.
#[derive(Debug, Clone, Copy)]
struct Room {
    count: usize,
    bytes: usize,
}

/// Which of these are to be forgotten: those that ended long ago, and if what that leaves
/// has no room, of those that do not run the older half, and more while that is too much
/// still.
fn superfluous<'a>(
    all: impl Iterator<Item = &'a Exec> + Clone,
    now: SystemTime,
    room: Room,
) -> Vec<String> {
    let age = |since: Option<SystemTime>| since.and_then(|at| now.duration_since(at).ok());
    let is_old = |exec: &&Exec| age(exec.finished).is_some_and(|age| age > REMEMBERED);
    let (old, all): (Vec<&Exec>, Vec<&Exec>) = all.partition(is_old);
    let mut bytes: usize = all.iter().map(|exec| exec.size()).sum();
    let mut going = old;
    if all.len() > room.count || bytes > room.bytes {
        let mut resting: Vec<&Exec> = all.into_iter().filter(|exec| !exec.is_running()).collect();
        resting.sort_by_key(|exec| exec.finished.unwrap_or(exec.created));
        let half = resting.len().div_ceil(2);
        for (at, exec) in resting.into_iter().enumerate() {
            if at >= half && bytes <= room.bytes {
                break;
            }
            bytes -= exec.size();
            going.push(exec);
        }
    }
    going.into_iter().map(|exec| exec.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::Config;

    fn exec(id: &str, made: u64, words: usize) -> Exec {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(made);
        Exec {
            version: VERSION,
            id: id.to_owned(),
            name: "web".parse().unwrap(),
            container: String::new(),
            created,
            config: Config { command: vec!["x".repeat(words)], ..Config::default() },
            started: false,
            pid: 0,
            exit: None,
            finished: None,
        }
    }

    #[test]
    fn the_oldest_that_do_not_run_make_room_by_number_and_by_bytes() {
        let mut all: Vec<Exec> =
            ["a", "b", "c", "d"].iter().zip(0..).map(|(id, at)| exec(id, at, 1000)).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let gone = |all: &[Exec], count, bytes| superfluous(all.iter(), now, Room { count, bytes });
        assert!(gone(&all, 4, 1 << 20).is_empty());
        assert_eq!(gone(&all, 3, 1 << 20), ["a", "b"]);
        let one = all[0].size();
        assert!(one > 1000);
        assert_eq!(gone(&all, 4, 4 * one - 1), ["a", "b"]);
        assert_eq!(gone(&all, 4, one), ["a", "b", "c"]);
        // Who runs stays, whatever that means for others.
        all[0].started = true;
        assert_eq!(gone(&all, 4, 0), ["b", "c", "d"]);
        // What ended long ago goes in any case.
        all[3].finished = Some(SystemTime::UNIX_EPOCH);
        let late = now + REMEMBERED;
        assert_eq!(superfluous(all.iter(), late, Room { count: 4, bytes: 1 << 20 }), ["d"]);
    }
}
