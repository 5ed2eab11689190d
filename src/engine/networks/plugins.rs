//! Networks that CNI plugins make: `mode = "cni:NAME"`.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Networks, State, Wanted, told};
use crate::network::cni::{self, Attachment, Conflist};

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

impl Networks {
    /// Has CNI plugins bring a container onto a network; gives its addresses.
    ///
    /// # Errors
    /// The list is missing or wrong, or a plugin refuses.
    pub fn join_cni(&self, wanted: Wanted<'_>, list: &str) -> Result<Vec<IpAddr>, String> {
        // Outside of the lock: a plugin may take long, and others need not wait.
        let (config, run_dir) = self.with(|state| (state.cni_dir.clone(), state.run_dir.clone()));
        let file = file(&run_dir, wanted.name);
        if let Some(before) = read(&file) {
            let path = netns_path(&wanted);
            let same = before.list == list && before.id == wanted.id && !wanted.anew;
            if same && is_there(&wanted) {
                return Ok(before.addresses);
            }
            delete(&config, &before, Some(&path));
        }
        let conflist = Conflist::find(&config, list).map_err(told)?;
        let plugins = cni::PLUGINS.map(PathBuf::from);
        let path = netns_path(&wanted);
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
        match conflist.add(&plugins, place) {
            Ok(done) => {
                (added.addresses, added.result) = (done.addresses, done.result);
                write(&file, &added)?;
                Ok(added.addresses)
            }
            Err(error) => {
                let _ = fs::remove_file(&file);
                Err(error.to_string())
            }
        }
    }
}

impl State {
    /// Has plugins take back what they gave a container that rests.
    pub(super) fn leave_cni(&self, name: &str, incarnation: u64) {
        let file = file(&self.run_dir, name);
        let Some(added) = read(&file).filter(|added| added.incarnation <= incarnation) else {
            return;
        };
        delete(&self.cni_dir, &added, None);
        let _ = fs::remove_file(file);
    }

    /// The same for all that do not run.
    pub(super) fn sweep_cni(&self, runs: &dyn Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".cni"));
            if let Some(name) = name.filter(|name| !runs(name)) {
                self.leave_cni(name, u64::MAX);
            }
        }
    }
}

fn netns_path(wanted: &Wanted<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), wanted.netns.as_raw_fd()))
}

fn is_there(wanted: &Wanted<'_>) -> bool {
    let counted = crate::network::host::traffic(wanted.netns);
    counted.is_ok_and(|all| all.iter().any(|(name, _)| name == INTERFACE))
}

fn delete(config: &Path, added: &Added, netns: Option<&Path>) {
    let plugins = cni::PLUGINS.map(PathBuf::from);
    let place = Attachment { container: &added.id, netns, interface: INTERFACE };
    let result = Some(&added.result).filter(|result| !result.is_null());
    let deleted = Conflist::find(config, &added.list)
        .and_then(|conflist| conflist.delete(&plugins, place, result));
    if let Err(error) = deleted {
        tracing::warn!("{error}");
    }
}

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.cni"))
}

fn read(path: &Path) -> Option<Added> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write(path: &Path, added: &Added) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new().prefix(".cni").tempfile_in(dir)?;
        serde_json::to_writer(&mut file, added)?;
        file.flush()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| format!("writing {}: {error}", path.display()))
}
