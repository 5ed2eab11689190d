//! Networks that CNI plugins make: `mode = "cni:NAME"`. Plugins are others' programs and
//! may take long: nothing of ours is locked while one runs, but the container's own turn.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Wanted, told};
use crate::network::cni::{self, Attachment, Conflist};
use crate::network::disk::{self, Lasting};

/// The interface that plugins make.
const INTERFACE: &str = "eth0";

/// What ADD gave, kept for DEL: a file a container, which outlives the engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Added {
    list: String,
    id: String,
    incarnation: u64,
    addresses: Vec<IpAddr>,
    result: Value,
}

/// The plugins, and what they gave to whom.
#[derive(Debug)]
pub(super) struct Plugins {
    /// Where configuration lists are.
    config: PathBuf,
    /// Where it is noted what plugins gave.
    run_dir: PathBuf,
    /// Where plugins themselves are.
    programs: Vec<PathBuf>,
    turns: Turns,
}

/// One at a time for each container: an ADD never meets the DEL of an earlier launch.
#[derive(Debug, Default)]
struct Turns(Mutex<BTreeMap<String, Arc<Mutex<()>>>>);

impl Turns {
    fn of(&self, name: &str) -> Arc<Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(all.entry(name.to_owned()).or_default())
    }
}

impl Plugins {
    pub fn new(config: PathBuf, run_dir: PathBuf) -> Plugins {
        let programs = cni::PLUGINS.map(PathBuf::from).to_vec();
        Plugins { config, run_dir, programs, turns: Turns::default() }
    }

    /// Has plugins bring a container onto a network; gives its addresses.
    pub fn join(&self, wanted: &Wanted<'_>, list: &str) -> Result<Vec<IpAddr>, String> {
        let turn = self.turns.of(wanted.name);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file(wanted.name);
        let path = netns_path(wanted);
        if let Some(mut before) = read(&file) {
            // Another container of that name counts for itself.
            if before.id == wanted.id && before.incarnation > wanted.incarnation {
                return Err("it was launched again meanwhile".to_owned());
            }
            let same = before.list == list && before.id == wanted.id && !wanted.anew;
            if same && is_there(wanted) {
                // From now on it is this launch's: the end of the one before, told late,
                // does not take it away.
                before.incarnation = wanted.incarnation;
                write(&file, &before)?;
                return Ok(before.addresses);
            }
            if let Err(error) = self.delete(&before, Some(&path)) {
                tracing::warn!("{error}");
            }
        }
        let conflist = Conflist::find(&self.config, list).map_err(told)?;
        let place = Attachment { container: wanted.id, netns: Some(&path), interface: INTERFACE };
        // Noted before it is done: DEL of what was never added is harmless.
        let mut added = Added {
            list: list.to_owned(),
            id: wanted.id.to_owned(),
            incarnation: wanted.incarnation,
            addresses: Vec::new(),
            result: Value::Null,
        };
        write(&file, &added)?;
        match conflist.add(&self.programs, place) {
            Ok(done) => {
                (added.addresses, added.result) = (done.addresses, done.result);
                write(&file, &added)?;
                Ok(added.addresses)
            }
            // What was added by then was deleted at once, if that went well.
            Err(error) => {
                match self.delete(&added, Some(&path)) {
                    Ok(()) => {
                        let _ = fs::remove_file(&file);
                    }
                    Err(error) => tracing::warn!("{}: {error}", wanted.called),
                }
                Err(error.to_string())
            }
        }
    }

    /// Has plugins take back what they gave a container that rests, unless it was
    /// launched again meanwhile, or is another one by now. What they refuse to take back
    /// is noted on, and tried again when the next engine starts.
    pub fn leave(&self, name: &str, id: &str, incarnation: u64) {
        self.take_back(name, |added| added.id == id && added.incarnation <= incarnation);
    }

    /// The same, whoever has it.
    pub fn forget(&self, name: &str) {
        self.take_back(name, |_| true);
    }

    fn take_back(&self, name: &str, is_it: impl Fn(&Added) -> bool) {
        let file = self.file(name);
        // Most containers have nothing of plugins.
        if !file.exists() {
            return;
        }
        let turn = self.turns.of(name);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(added) = read(&file).filter(is_it) else { return };
        match self.delete(&added, None) {
            Ok(()) => {
                let _ = fs::remove_file(file);
            }
            Err(error) => tracing::warn!("{name}: {error}; it is tried again at the next start"),
        }
    }

    /// Who has something of plugins: name, id, and since which launch.
    pub fn all(&self) -> Vec<(String, String, u64)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".cni"))
                && let Some(added) = read(&entry.path())
            {
                all.push((name.to_owned(), added.id, added.incarnation));
            }
        }
        all
    }

    fn delete(&self, added: &Added, netns: Option<&Path>) -> Result<(), String> {
        let place = Attachment { container: &added.id, netns, interface: INTERFACE };
        let result = Some(&added.result).filter(|result| !result.is_null());
        Conflist::find(&self.config, &added.list)
            .and_then(|conflist| conflist.delete(&self.programs, place, result))
            .map_err(told)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.cni"))
    }
}

fn netns_path(wanted: &Wanted<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), wanted.netns.as_raw_fd()))
}

fn is_there(wanted: &Wanted<'_>) -> bool {
    let counted = crate::network::host::traffic(wanted.netns);
    counted.is_ok_and(|all| all.iter().any(|(name, _)| name == INTERFACE))
}

fn read(path: &Path) -> Option<Added> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write(path: &Path, added: &Added) -> Result<(), String> {
    serde_json::to_vec(added)
        .map_err(std::io::Error::from)
        .and_then(|text| disk::replace(path, &text, 0o600, Lasting::Boot))
        .map_err(|error| format!("writing {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::manifest::model::Container;

    /// The end of a launch that is told late takes nothing from the launch after it; a
    /// plugin that hangs for one container keeps no other waiting.
    #[test]
    fn a_late_end_takes_nothing_and_nobody_waits_for_anothers_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let program = dir.path().join("tell");
        let script = format!(
            "#!/bin/sh\ncat >/dev/null\n[ $CNI_CONTAINERID = slow ] && sleep 2\n\
             echo $CNI_COMMAND $CNI_CONTAINERID >>{}\necho '{{\"ips\": []}}'\n",
            said.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let list = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "tell"}]}"#;
        fs::write(dir.path().join("x.conflist"), list).unwrap();
        let mut plugins = Plugins::new(dir.path().into(), dir.path().join("run"));
        plugins.programs = vec![dir.path().into()];
        let plugins = &plugins;
        let netns = fs::File::open("/proc/self/ns/net").unwrap();
        let manifest = Container::default();
        let join_as = |name: &str, id: &str, incarnation: u64| {
            let wanted = Wanted {
                name,
                called: name,
                id,
                incarnation,
                manifest: &manifest,
                netns: netns.as_fd(),
                anew: true,
            };
            plugins.join(&wanted, "x")
        };
        let join = |name: &str, incarnation: u64| join_as(name, name, incarnation);
        std::thread::scope(|scope| {
            scope.spawn(|| join("slow", 1).unwrap());
            let began = std::time::Instant::now();
            join("web", 2).unwrap();
            plugins.leave("web", "web", 1);
            assert!(began.elapsed() < std::time::Duration::from_secs(2));
            assert_eq!(fs::read_to_string(&said).unwrap(), "ADD web\n");
        });
        assert_eq!(plugins.all().len(), 2);
        assert!(join("web", 1).is_err(), "an older launch is not brought on any more");
        plugins.leave("web", "web", 2);
        assert_eq!(fs::read_to_string(&said).unwrap(), "ADD web\nADD slow\nDEL web\n");
        // Another container of that name counts its launches from one.
        join("web", 7).unwrap();
        join_as("web", "next", 1).unwrap();
        plugins.leave("web", "web", u64::MAX);
        assert_eq!(plugins.all().len(), 2);
        plugins.leave("web", "next", 1);
        let one = |name: &str, incarnation| [(name.to_owned(), name.to_owned(), incarnation)];
        assert_eq!(plugins.all(), one("slow", 1));
        // What can't be taken back is not forgotten.
        fs::remove_file(dir.path().join("x.conflist")).unwrap();
        plugins.leave("slow", "slow", 9);
        assert_eq!(plugins.all(), one("slow", 1));
        // Nor is what can't be taken back of what failed by half.
        plugins.forget("slow");
        fs::write(dir.path().join("x.conflist"), list).unwrap();
        fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(join("half", 1).is_err());
        assert_eq!(plugins.all().len(), 2);
        fs::write(&program, "#!/bin/sh\n[ $CNI_COMMAND = DEL ]\n").unwrap();
        assert!(join("half", 1).is_err());
        assert_eq!(plugins.all(), one("slow", 1));
    }
}
