//! Rotated files to zstd, on the blocking pool.
//!
//! The compressed file is complete and on disk before it gets its name, and has its
//! name before the plain one goes; a reader that sees both takes the compressed one.

use super::layout::{self, Form, name};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Keeps the newest `keep` rotated files of `dir`, and compresses them if asked to.
/// To be run once at a time for a folder.
///
/// # Errors
/// With the path and what the system said; plain files are then still there.
pub fn tidy(dir: &Path, keep: u32, compress: bool) -> io::Result<()> {
    loop {
        layout::prune(dir, keep)?;
        if !compress {
            return Ok(());
        }
        let found = layout::scan(dir)?;
        let plain = found.segments.iter().find(|(_, f)| **f == Form::Plain);
        let Some((&seq, _)) = plain else {
            return Ok(());
        };
        shrink(dir, seq).map_err(|e| {
            let path = layout::path(dir, seq, Form::Plain);
            io::Error::new(e.kind(), format!("compressing {}: {e}", path.display()))
        })?;
    }
}

fn shrink(dir: &Path, seq: u64) -> io::Result<()> {
    let plain = layout::path(dir, seq, Form::Plain);
    let whole = layout::path(dir, seq, Form::Zstd);
    let partial = dir.join(name(seq, "log.zst.tmp"));
    let mut source = match File::open(&plain) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let outcome = (|| {
        let mut out = zstd::Encoder::new(File::create(&partial)?, 3)?;
        out.include_checksum(true)?;
        io::copy(&mut source, &mut out)?;
        let mut file = out.finish()?;
        file.flush()?;
        file.sync_all()?;
        std::fs::rename(&partial, &whole)?;
        File::open(dir)?.sync_all()
    })();
    if let Err(e) = outcome {
        layout::remove(&partial)?;
        return Err(e);
    }
    match std::fs::remove_file(&plain) {
        // Retention was faster: what it removed must not come back.
        Err(e) if e.kind() == io::ErrorKind::NotFound => layout::remove(&whole),
        other => other,
    }
}
