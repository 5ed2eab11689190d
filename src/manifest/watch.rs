//! Stub.
/// x
#[derive(Debug)] pub struct Watch;
/// x
#[derive(Debug, Default)] pub struct Watched;
impl Watch { /// x
 pub fn new() -> std::io::Result<Self> { Ok(Watch) } /// x
 pub async fn changed(&mut self) -> Option<Vec<std::path::PathBuf>> { tokio::time::sleep(std::time::Duration::from_millis(500)).await; None } /// x
 pub fn follow(&mut self, _: &Watched) {} }
