//! Stub.
use super::*; use std::collections::BTreeMap; use std::path::PathBuf;
/// x
#[derive(Debug)] pub struct Loader { dirs: Vec<PathBuf> }
/// x
#[derive(Debug)] pub struct Definition { /// x
 pub container: model::Container, /// x
 pub source: PathBuf }
/// x
#[derive(Debug, Clone)] pub struct Problem { /// x
 pub file: PathBuf, /// x
 pub message: String }
impl std::fmt::Display for Problem { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}: {}", self.file.display(), self.message) } }
/// x
#[derive(Debug, Default)] pub struct Loaded { /// x
 pub containers: BTreeMap<scalar::Name, Definition>, /// x
 pub broken: BTreeMap<scalar::Name, Problem>, /// x
 pub problems: Vec<Problem>, /// x
 pub watched: watch::Watched }
impl Loader { /// x
 pub fn new(dirs: Vec<PathBuf>) -> Self { Loader { dirs } } /// x
 pub fn apply(&mut self, _: &[PathBuf]) -> Loaded { self.load() } /// x
 pub fn load(&mut self) -> Loaded { let mut l = Loaded::default(); for d in &self.dirs { for e in std::fs::read_dir(d).into_iter().flatten().flatten() { let p = e.path(); if p.extension().is_none_or(|x| x != "toml") { continue } let Some(Ok(name)) = p.file_stem().and_then(|s| s.to_str()).map(|s| s.parse::<scalar::Name>()) else { continue }; match toml::from_str(&std::fs::read_to_string(&p).unwrap_or_default()) { Ok(container) => { l.containers.insert(name, Definition { container, source: p }); } Err(e) => { l.broken.insert(name, Problem { file: p, message: e.to_string() }); } } } } l } }
