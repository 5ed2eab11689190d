//! Rotated files to zstd, on the blocking pool.
//!
//! The compressed file is complete and on disk before it gets its name, and has its
//! name before the plain one goes; a reader that sees both takes the compressed one.
//! What a compression has under way is removed by nobody else: a rotation may come
//! between any two of its steps.

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
    // Nothing of this folder is being compressed now: it is of one that was killed.
    for leftover in layout::scan(dir)?.leftovers {
        layout::remove(&dir.join(leftover))?;
    }
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
    // If retention was faster, the caller's next look removes the compressed one, too.
    layout::remove(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Stream;
    use crate::logs::writer::Writer;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Files are compressed while others are rotated: each is there in one form.
    #[test]
    fn a_rotation_takes_nothing_from_a_compression() {
        const FILES: u64 = 400;
        let dir = tempfile::tempdir().unwrap();
        let rotated = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let compressing = scope.spawn(|| {
                while !rotated.load(Ordering::Relaxed) {
                    tidy(dir.path(), u32::MAX, true).unwrap();
                }
                tidy(dir.path(), u32::MAX, true).unwrap();
            });
            let mut writer = Writer::open(dir.path(), 0).unwrap();
            for _ in 0..FILES {
                let (read, write) = rustix::pipe::pipe().unwrap();
                rustix::io::write(&write, b"a line\n").unwrap();
                assert_eq!(writer.splice(Stream::Stdout, &read, 7).unwrap(), 7);
                writer = writer.rotate().unwrap();
            }
            rotated.store(true, Ordering::Relaxed);
            compressing.join().unwrap();
        });
        let found = layout::scan(dir.path()).unwrap();
        let texts = found.segments.iter().filter(|(_, form)| **form == Form::Zstd);
        assert_eq!(texts.count() as u64, FILES, "{found:?}");
    }
}
