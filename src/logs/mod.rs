//! Stub until the room is merged.
use std::os::fd::OwnedFd;
use std::path::{Path,PathBuf};
use std::io::{self,Write};
use std::time::SystemTime;
/// x
#[derive(Debug)] pub struct Capture {}
/// x
#[derive(Debug, Clone)] pub struct Query { /// x
 pub follow: bool, /// x
 pub tail: Option<u64>, /// x
 pub since: Option<SystemTime>, /// x
 pub until: Option<SystemTime>, /// x
 pub stdout: bool, /// x
 pub stderr: bool }
/// x
#[derive(Debug)] pub struct Line { /// x
 pub bytes: Vec<u8> }
/// x
#[derive(Debug)] pub struct Reader;
impl Reader { /// x
 pub async fn next(&mut self) -> io::Result<Option<Line>> { Ok(None) } }
/// x
pub fn read(_: &Path, _: Query) -> io::Result<Reader> { Ok(Reader) }
impl Capture { /// x
 pub fn start(dir: PathBuf, out: OwnedFd, err: OwnedFd, _: crate::manifest::model::Log) -> io::Result<Self> {
  std::fs::create_dir_all(&dir)?;
  for fd in [out, err] { let dir = dir.clone(); let fd = crate::sys::readiness::watch(fd, tokio::io::Interest::READABLE)?; tokio::task::spawn_local(async move { loop { let Ok(mut g) = fd.readable().await else { return }; let mut b = [0u8; 65536]; match rustix::io::read(fd.get_ref(), &mut b[..]) { Ok(n) if n > 0 => { let _ = std::fs::File::options().append(true).create(true).open(dir.join("current.log")).and_then(|mut f| f.write_all(&b[..n])); } _ => g.clear_ready() } } }); }
  Ok(Capture{}) }
 /// x
 pub fn set(&self, _: crate::manifest::model::Log) {} }
