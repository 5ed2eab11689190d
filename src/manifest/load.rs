//! Directories of manifests to what they define, kept so that one changed file
//! among thousands is all that is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{Parsed, Unit, stem};
use super::model::Container;
use super::problem::Problem;
use super::scalar::Name;
use super::validate::{self, Objection};

/// One container and the file that defines it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What it says.
    pub container: Arc<Container>,
    /// The manifest.
    pub source: PathBuf,
}

/// What the directories define now.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The good ones.
    pub containers: BTreeMap<Name, Definition>,
    /// Names whose file is wrong: what was good before stays.
    pub broken: BTreeMap<Name, Problem>,
    /// All that is wrong.
    pub problems: Vec<Problem>,
    /// Files that are no manifests.
    pub passed_over: Vec<PathBuf>,
}

/// The manifests of a list of directories; a name that an earlier one defines is
/// not taken from a later one.
#[derive(Debug, Default)]
pub struct Loader {
    dirs: Vec<PathBuf>,
    units: BTreeMap<PathBuf, (Unit, Parsed)>,
    passed_over: Vec<PathBuf>,
}

impl Loader {
    /// Of these directories, or single files; nothing is read yet.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Loader { dirs, ..Loader::default() }
    }

    /// The directories.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Looks at everything; reads what is new or has changed.
    pub fn load(&mut self) -> Loaded {
        let mut units = BTreeMap::new();
        self.passed_over.clear();
        for dir in self.dirs.clone() {
            match find(&dir) {
                Some((found, passed_over)) => {
                    self.passed_over.extend(passed_over);
                    for unit in found {
                        let known = self.units.remove(&unit.path);
                        let hash = known.as_ref().map(|(_, parsed)| parsed.hash);
                        let parsed = match (unit.read(hash), known) {
                            (Some(parsed), _) => parsed,
                            (None, Some((_, parsed))) => parsed,
                            (None, None) => continue,
                        };
                        units.insert(unit.path.clone(), (unit, parsed));
                    }
                }
                // A directory that vanished is not an order to stop everything.
                None => units.extend(
                    self.units
                        .iter()
                        .filter(|(path, _)| path.starts_with(&dir))
                        .map(|(path, known)| (path.clone(), known.clone())),
                ),
            }
        }
        self.units = units;
        self.assemble()
    }

    /// Reads these files again, and no others. Files that are new or gone need
    /// [`Loader::load`]; `None` says so.
    pub fn reload(&mut self, paths: &BTreeSet<PathBuf>) -> Option<Loaded> {
        for path in paths {
            let (unit, parsed) = self.units.get_mut(path).filter(|_| path.exists())?;
            if let Some(new) = unit.read(Some(parsed.hash)) {
                *parsed = new;
            }
        }
        Some(self.assemble())
    }

    fn assemble(&self) -> Loaded {
        let mut loaded = Loaded { passed_over: self.passed_over.clone(), ..Loaded::default() };
        let mut owner: BTreeMap<Name, (usize, PathBuf)> = BTreeMap::new();
        for (unit, parsed) in self.units.values() {
            loaded.problems.extend(parsed.problems.iter().cloned());
            let rank = self.dirs.iter().position(|dir| unit.path.starts_with(dir)).unwrap_or(0);
            for name in &parsed.names {
                match owner.get(name) {
                    Some((other, _)) if *other < rank => continue,
                    Some((other, path)) if *other == rank => {
                        let message = format!("{name} is defined here and in {}", path.display());
                        let problem =
                            Problem::of_file(&unit.path, message, Some("rename or remove one"));
                        loaded.problems.push(problem.clone());
                        loaded.containers.remove(name);
                        loaded.broken.insert(name.clone(), problem);
                        continue;
                    }
                    _ => {}
                }
                owner.insert(name.clone(), (rank, unit.path.clone()));
                loaded.containers.remove(name);
                loaded.broken.remove(name);
                let good = parsed.containers.iter().find(|(other, _)| other == name);
                match (parsed.problems.first(), good) {
                    (None, Some((_, container))) => {
                        let definition = Definition {
                            container: Arc::clone(container),
                            source: unit.path.clone(),
                        };
                        loaded.containers.insert(name.clone(), definition);
                    }
                    (Some(problem), _) => {
                        loaded.broken.insert(name.clone(), problem.clone());
                    }
                    (None, None) => {}
                }
            }
        }
        self.check_together(&mut loaded);
        loaded
    }

    fn check_together(&self, loaded: &mut Loaded) {
        let mut all: BTreeMap<Name, Arc<Container>> = loaded
            .containers
            .iter()
            .map(|(name, definition)| (name.clone(), Arc::clone(&definition.container)))
            .collect();
        // One whose file is broken may run on; it is there for those that need it.
        for name in loaded.broken.keys() {
            all.entry(name.clone()).or_default();
        }
        for (name, Objection { key, message, hint }) in validate::together(&all) {
            let Some(definition) = loaded.containers.remove(&name) else {
                continue;
            };
            let message = format!("{name}: `{key}`: {message}");
            let unit = self.units.get(&definition.source).map(|(unit, _)| unit);
            let problem = unit
                .and_then(|unit| unit.locate(&name, &key, (message.clone(), hint.clone())))
                .unwrap_or_else(|| Problem::of_file(&definition.source, message, hint.as_deref()));
            loaded.problems.push(problem.clone());
            loaded.broken.insert(name, problem);
        }
    }
}

/// The manifests of a directory, and what is none. `None` when there is none.
fn find(dir: &Path) -> Option<(Vec<Unit>, Vec<PathBuf>)> {
    if dir.is_file() {
        return Some((vec![unit(dir.to_owned())], Vec::new()));
    }
    let (mut found, mut passed_over) = (Vec::new(), Vec::new());
    let mut names: Vec<String> = fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in &names {
        let path = dir.join(name);
        if stem(name).is_some() {
            found.push(unit(path));
        } else if name.strip_suffix(".d").and_then(stem).is_none_or(|_| !path.is_dir()) {
            passed_over.push(path);
        }
    }
    Some((found, passed_over))
}

fn unit(path: PathBuf) -> Unit {
    let mut folder = path.clone().into_os_string();
    folder.push(".d");
    let mut drop_ins: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| stem(name).is_some()))
        .map(|entry| entry.path())
        .collect();
    drop_ins.sort();
    Unit { path, drop_ins }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "rootfs = \"/\"\ncommand = [\"x\"]\n";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_directory_wins_and_two_files_of_one_do_not() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(a.path().join("web.toml"), GOOD).unwrap();
        fs::write(b.path().join("web.toml"), GOOD.replace('x', "y")).unwrap();
        fs::write(b.path().join("db.toml"), GOOD).unwrap();
        fs::write(b.path().join("db.kdl"), "rootfs \"/\"\ncommand \"z\"\n").unwrap();
        let mut loader = Loader::new(vec![a.path().into(), b.path().into()]);
        let loaded = loader.load();
        assert_eq!(loaded.containers[&name("web")].container.command, ["x"]);
        let problem = loaded.broken[&name("db")].to_string();
        assert!(problem.contains("db.toml") && problem.contains("db.kdl"), "{problem}");
    }

    #[test]
    fn one_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..50 {
            fs::write(dir.path().join(format!("c{index}.toml")), GOOD).unwrap();
        }
        let mut loader = Loader::new(vec![dir.path().into()]);
        let before = loader.load();
        let path = dir.path().join("c7.toml");
        fs::write(&path, GOOD.replace('x', "y")).unwrap();
        let after = loader.reload(&BTreeSet::from([path.clone()])).unwrap();
        for (name, definition) in &after.containers {
            let same = Arc::ptr_eq(&definition.container, &before.containers[name].container);
            assert_eq!(same, name.as_str() != "c7");
        }
        fs::remove_file(&path).unwrap();
        assert!(loader.reload(&BTreeSet::from([path])).is_none());
        assert_eq!(loader.load().containers.len(), 49);
    }

    #[test]
    fn what_is_wrong_between_two_is_shown_where_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, more: &str| {
            fs::write(dir.path().join(name), format!("{GOOD}{more}")).unwrap();
        };
        file("a.toml", "after = [\"b\"]\n");
        file("b.toml", "");
        fs::create_dir(dir.path().join("b.toml.d")).unwrap();
        fs::write(dir.path().join("b.toml.d/x.toml"), "\nrequires = [\"a\"]\n").unwrap();
        fs::write(dir.path().join("c.kdl"), "rootfs \"/\"\ncommand \"x\"\n  requires \"d\"\n")
            .unwrap();
        let problems = Loader::new(vec![dir.path().into()]).load().problems;
        let told: Vec<_> = problems
            .iter()
            .map(|p| (p.file.file_name().unwrap().to_str().unwrap(), p.line, p.column))
            .collect();
        assert_eq!(told, [("c.kdl", 3, 3), ("a.toml", 3, 1)], "{problems:#?}");
        file("a.toml", "");
        fs::write(dir.path().join("b.toml.d/x.toml"), "\nrequires = [\"e\"]\n").unwrap();
        let problems = Loader::new(vec![dir.path().into()]).load().problems;
        assert!(
            problems.iter().any(|p| p.file.ends_with("x.toml") && p.line == 2),
            "{problems:#?}"
        );
    }

    #[test]
    fn a_vanished_directory_keeps_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("d");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("web.toml"), GOOD).unwrap();
        let mut loader = Loader::new(vec![inner.clone()]);
        assert_eq!(loader.load().containers.len(), 1);
        fs::remove_dir_all(&inner).unwrap();
        assert_eq!(loader.load().containers.len(), 1);
        fs::create_dir(&inner).unwrap();
        assert_eq!(loader.load().containers.len(), 0, "an empty one is another thing");
    }

    #[test]
    fn leftovers_are_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let others =
            ["web.toml.backup", "web.toml~", ".web.toml.swp", "x.dpkg-new", "y.rpmsave", "4913"];
        for other in others {
            fs::write(dir.path().join(other), GOOD).unwrap();
        }
        fs::write(dir.path().join("web.toml"), GOOD).unwrap();
        fs::create_dir(dir.path().join("web.toml.d")).unwrap();
        let loaded = Loader::new(vec![dir.path().into()]).load();
        assert_eq!(loaded.containers.len(), 1);
        assert_eq!(loaded.passed_over.len(), others.len(), "{:?}", loaded.passed_over);
    }
}
