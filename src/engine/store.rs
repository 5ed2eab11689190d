//! Records on disk: small JSON files, one a container, each replaced as a whole.
//!
//! Two copies. The one under `/run` is written before every action without
//! waiting for a disk: it is for an engine that dies, not for a machine that
//! does. The one under `/var/lib` is for the next boot: written with fsync(2),
//! at once where it holds a person's word (identity, stop by hand, last good
//! manifest), and soon after where it only counts.
//!
//! A file that is torn, of a newer version or garbage is set aside under another
//! name and reported; the container then comes from what the kernel says.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::reconcile::Record;
use crate::manifest::scalar::Name;

/// The version of the files' form.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct FileRef<'a> {
    version: u32,
    record: &'a Record,
}

#[derive(Deserialize)]
struct File {
    version: u32,
    record: Record,
}

/// The two folders of records.
#[derive(Debug)]
pub struct Store {
    durable: PathBuf,
    volatile: PathBuf,
    /// What the durable copies hold, without what only this boot needs.
    saved: BTreeMap<Name, Record>,
    /// Durable copies that are behind in what may wait.
    behind: BTreeMap<Name, Record>,
    /// Volatile copies that could not be written.
    unwritten: BTreeMap<Name, Record>,
}

/// What was read at start-up.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records.
    pub records: Vec<Record>,
    /// Files that were set aside, and why.
    pub problems: Vec<String>,
    /// Files that an earlier start set aside, and that nobody has looked at since: whose
    /// they are, and what they use, is not known.
    pub aside: Vec<PathBuf>,
}

impl Store {
    /// Opens both folders, making them where they are missing.
    pub fn open(durable: PathBuf, volatile: PathBuf) -> io::Result<Self> {
        for dir in [&durable, &volatile] {
            fs::create_dir_all(dir).map_err(|error| annotate(error, "making the folder", dir))?;
        }
        Ok(Store {
            durable,
            volatile,
            saved: BTreeMap::new(),
            behind: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        })
    }

    /// Reads all records. One of this boot comes from the volatile copy.
    pub fn load(&mut self, boot_id: &str) -> Loaded {
        let mut loaded = Loaded { aside: aside(&self.durable), ..Loaded::default() };
        let mut records = BTreeMap::new();
        for record in read_dir(&self.durable, &mut loaded.problems) {
            self.saved.insert(record.name.clone(), lasting(&record));
            records.insert(record.name.clone(), record);
        }
        for record in read_dir(&self.volatile, &mut loaded.problems) {
            if record.boot_id == boot_id {
                records.insert(record.name.clone(), record);
            } else {
                let _ = fs::remove_file(file(&self.volatile, &record.name));
            }
        }
        loaded.records = records.into_values().collect();
        loaded
    }

    /// Writes a record: the volatile copy always, the durable one where a person
    /// would miss it.
    ///
    /// # Errors
    /// A copy could not be written; [`Store::catch_up`] tries it again.
    pub fn save(&mut self, record: &Record) -> io::Result<()> {
        let volatile = write(&self.volatile, record, false);
        match &volatile {
            Ok(()) => self.unwritten.remove(&record.name),
            Err(_) => self.unwritten.insert(record.name.clone(), record.clone()),
        };
        let lasting = lasting(record);
        match self.saved.get(&record.name) {
            Some(saved) if *saved == lasting => {
                self.behind.remove(&record.name);
            }
            Some(saved) if same_word(saved, &lasting) => {
                self.behind.insert(record.name.clone(), lasting);
            }
            _ => {
                if let Err(error) = write(&self.durable, record, true) {
                    self.behind.insert(record.name.clone(), lasting);
                    return Err(error);
                }
                self.behind.remove(&record.name);
                self.saved.insert(record.name.clone(), lasting);
            }
        }
        volatile
    }

    /// Whether a copy is behind.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty() || !self.unwritten.is_empty()
    }

    /// Brings the copies up to date.
    ///
    /// # Errors
    /// The first that could not be written; to be tried again.
    pub fn catch_up(&mut self) -> io::Result<()> {
        while let Some((name, record)) = self.unwritten.pop_first() {
            if let Err(error) = write(&self.volatile, &record, false) {
                self.unwritten.insert(name, record);
                return Err(error);
            }
        }
        while let Some((name, record)) = self.behind.pop_first() {
            if let Err(error) = write(&self.durable, &record, true) {
                self.behind.insert(name, record);
                return Err(error);
            }
            self.saved.insert(name, record);
        }
        Ok(())
    }

    /// Removes a record. The durable copy goes last: with it gone, the container
    /// is forgotten.
    pub fn forget(&mut self, name: &Name) -> io::Result<()> {
        self.saved.remove(name);
        self.behind.remove(name);
        self.unwritten.remove(name);
        for dir in [&self.volatile, &self.durable] {
            match fs::remove_file(file(dir, name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(annotate(error, "removing the record", &file(dir, name)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// All records of both folders, without touching anything: for who only looks.
pub fn read_only(durable: &Path, volatile: &Path) -> Vec<Record> {
    let mut records = BTreeMap::new();
    for dir in [durable, volatile] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Ok(record) = read(&path)
            {
                records.insert(record.name.clone(), record);
            }
        }
    }
    records.into_values().collect()
}

/// What of a record matters to the next boot; the rest is the same for all.
fn lasting(record: &Record) -> Record {
    let phase = record.phase.after_boot();
    Record { phase, joined: None, streak: 0, live_error: None, ..record.clone() }
}

/// Whether two records differ only in what counts and may be a little behind.
fn same_word(a: &Record, b: &Record) -> bool {
    a.id == b.id
        && a.called == b.called
        && a.renamed_from == b.renamed_from
        && a.held == b.held
        && a.last_good == b.last_good
        && a.applied == b.applied
        && a.image == b.image
        && a.renew == b.renew
}

fn file(dir: &Path, name: &Name) -> PathBuf {
    dir.join(format!("{name}.json"))
}

fn annotate(error: io::Error, doing: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

fn write(dir: &Path, record: &Record, durable: bool) -> io::Result<()> {
    let path = file(dir, &record.name);
    let fail = |error| annotate(error, "writing the record", &path);
    let mut text = serde_json::to_vec_pretty(&FileRef { version: VERSION, record })
        .map_err(|error| fail(error.into()))?;
    text.push(b'\n');
    let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail)?;
    temporary.write_all(&text).map_err(fail)?;
    if durable {
        temporary.as_file().sync_all().map_err(fail)?;
    }
    temporary.persist(&path).map_err(|error| fail(error.error))?;
    if durable {
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)?;
    }
    Ok(())
}

fn read_dir(dir: &Path, problems: &mut Vec<String>) -> Vec<Record> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(format!("reading the records in {}: {error}", dir.display()));
            return Vec::new();
        }
    };
    let mut records = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(".new-") {
            // A write that was cut off before it counted.
            let _ = fs::remove_file(&path);
            continue;
        }
        let Some(stem) = name.strip_suffix(".json") else {
            continue;
        };
        match read(&path) {
            Ok(record) if record.name.as_str() == stem => records.push(record),
            Ok(record) => {
                problems.push(set_aside(&path, &format!("it is of {}", record.name)));
            }
            Err(error) => problems.push(set_aside(&path, &error)),
        }
    }
    records
}

fn read(path: &Path) -> Result<Record, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if version.version != VERSION {
        return Err(format!(
            "it is of version {}, this Berth knows version {VERSION}",
            version.version
        ));
    }
    let file: File = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    debug_assert_eq!(file.version, VERSION);
    Ok(file.record)
}

/// What [`set_aside`] has left in a folder.
fn aside(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_aside = |path: &PathBuf| path.to_string_lossy().contains(".json.bad-");
    files.filter(is_aside).collect()
}

fn set_aside(path: &Path, why: &str) -> String {
    let seconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".bad-{seconds}"));
    match fs::rename(path, &aside) {
        Ok(()) => format!(
            "the record {} can't be used ({why}); it is kept as {}",
            path.display(),
            Path::new(&aside).display()
        ),
        Err(error) => {
            format!("the record {} can't be used ({why}) nor set aside ({error})", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record::new(name.parse().unwrap(), "ab".repeat(32), 1, "boot".into())
    }

    fn store(dir: &Path) -> Store {
        Store::open(dir.join("durable"), dir.join("volatile")).unwrap()
    }

    #[test]
    fn a_record_is_read_back_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut web = record("web");
        web.incarnation = 7;
        store(dir.path()).save(&web).unwrap();
        let mut again = store(dir.path());
        let loaded = again.load("boot");
        assert_eq!((loaded.records, loaded.problems), (vec![web.clone()], vec![]));
        again.forget(&web.name).unwrap();
        assert!(store(dir.path()).load("boot").records.is_empty());
    }

    #[test]
    fn counts_of_another_boot_come_from_the_durable_copy() {
        let dir = tempfile::tempdir().unwrap();
        let mut web = record("web");
        let mut first = store(dir.path());
        first.save(&web).unwrap();
        web.restarts = 3;
        first.save(&web).unwrap();
        assert!(first.is_behind());
        assert_eq!(store(dir.path()).load("other boot").records[0].restarts, 0);
        first.save(&web).unwrap();
        first.catch_up().unwrap();
        assert!(!first.is_behind());
        assert_eq!(store(dir.path()).load("other boot").records[0].restarts, 3);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(dir.path());
        for name in ["a", "b", "c", "d", "e"] {
            first.save(&record(name)).unwrap();
        }
        let file = |name: &str| dir.path().join("durable").join(name);
        let whole = fs::read_to_string(file("a.json")).unwrap();
        fs::write(file("a.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(file("b.json"), "").unwrap();
        fs::write(file("c.json"), whole.replace("\"version\": 1", "\"version\": 99")).unwrap();
        fs::write(file("d.json"), [0u8, 255, 3]).unwrap();
        fs::write(file(".new-x"), "half").unwrap();
        fs::remove_dir_all(dir.path().join("volatile")).unwrap();
        let loaded = store(dir.path()).load("boot");
        assert_eq!(loaded.records.len(), 1);
        assert_eq!(loaded.problems.len(), 4, "{:?}", loaded.problems);
        let names: Vec<_> = fs::read_dir(dir.path().join("durable"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.iter().filter(|name| name.contains(".bad-")).count(), 4);
        assert!(!names.iter().any(|name| name.starts_with(".new-")));
        let again = store(dir.path()).load("boot");
        assert_eq!((again.problems.len(), again.aside.len()), (0, 4), "not forgotten");
    }
}
