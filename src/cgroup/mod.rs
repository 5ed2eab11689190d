//! Stub until the room is merged.
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
/// Statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {}
/// x
#[derive(Debug)] pub struct Hierarchy;
/// x
#[derive(Debug)] pub struct Parent { path: PathBuf }
/// x
#[derive(Debug)] pub struct Cgroup { path: PathBuf }
/// x
#[derive(Debug)] pub struct Join { /// x
 pub v2: Option<OwnedFd>, /// x
 pub v1: Vec<OwnedFd> }
type R<T> = Result<T, std::io::Error>;
impl Hierarchy { /// x
 pub fn detect() -> R<Self> { Ok(Hierarchy) } /// x
 pub fn parent(&self, name: &str) -> R<Parent> { let path = PathBuf::from("/sys/fs/cgroup/unified").join(name); std::fs::create_dir_all(&path)?; Ok(Parent{path}) } }
impl Parent { /// x
 pub fn v1_mounts(&self) -> Vec<(String,String)> { vec![] } /// x
 pub fn version(&self) -> crate::spec::CgroupVersion { crate::spec::CgroupVersion::Hybrid } }
impl Cgroup {
 /// x
 pub fn create(p: &Parent, name: &str) -> R<Self> { let path = p.path.join(name); std::fs::create_dir_all(&path)?; Ok(Cgroup{path}) }
 /// x
 pub fn open_existing(p: &Parent, name: &str) -> R<Option<Self>> { let path = p.path.join(name); Ok(path.exists().then_some(Cgroup{path})) }
 /// x
 pub fn list(p: &Parent) -> R<Vec<String>> { Ok(std::fs::read_dir(&p.path)?.flatten().filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()) }
 /// x
 pub fn apply(&self, _: &crate::manifest::model::Resources) -> R<Vec<String>> { Ok(vec![]) }
 /// x
 pub fn restrict_devices_of(&self, _: &crate::manifest::model::Container) -> R<()> { Ok(()) }
 /// x
 pub fn join(&self) -> R<Join> { Ok(Join{ v2: Some(std::fs::File::open(&self.path)?.into()), v1: vec![] }) }
 /// x
 pub fn is_populated(&self) -> bool { std::fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|s| s.contains("populated 1")) }
 /// x
 pub fn is_frozen(&self) -> bool { false }
 /// x
 pub fn oom_kills(&self) -> u64 { 0 }
 /// x
 pub fn kill(&self) -> R<()> { std::fs::write(self.path.join("cgroup.kill"), "1")?; while self.is_populated() { std::thread::sleep(std::time::Duration::from_millis(1)); } Ok(()) }
 /// x
 pub async fn wait_empty(&self) -> R<()> { while self.is_populated() { tokio::time::sleep(std::time::Duration::from_millis(5)).await; } Ok(()) }
 /// x
 pub fn freeze(&self) -> R<()> { std::fs::write(self.path.join("cgroup.freeze"), "1") }
 /// x
 pub fn thaw(&self) -> R<()> { std::fs::write(self.path.join("cgroup.freeze"), "0") }
 /// x
 pub fn stats(&self) -> R<Stats> { Ok(Stats{}) }
 /// x
 pub fn remove(&self) -> R<()> { match std::fs::remove_dir(&self.path) { Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()), r => r } }
}
