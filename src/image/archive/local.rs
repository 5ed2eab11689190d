//! An archive on this machine as an image: what `rootfs = "./app.tar.gz"` means. The
//! image follows from the file's bytes alone, so an unchanged file is imported once,
//! also under another name; a stamp spares reading it at each launch.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::import::{Import, import};
use crate::archive::Time;
use crate::image::commit::{NewLayer, configuration};
use crate::image::compression::Compression;
use crate::image::digest::HashingReader;
use crate::image::store::{Image, Store};
use crate::image::{Digest, Error, Kind, Platform};

/// When such an image was made: the time is none of its content.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// What is remembered of a file, in `image-work/imports/`, to know it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Changed by every write, and by nobody's hand (stat(2), `st_ctim`).
    changed: (i64, i64),
    /// The image that it is.
    image: Option<Digest>,
}

impl Stamp {
    fn of(file: &File, path: &Path) -> Result<Stamp, Error> {
        let meta = file.metadata().map_err(|e| Error::io("look at", path, e))?;
        Ok(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
            image: None,
        })
    }

    /// Whether its time tells what is in it.
    fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
        Time { seconds, nanoseconds }.is_settled(now)
    }
}

/// In place of the time of a file that changed a moment ago: no file has it.
const UNSETTLED: (i64, i64) = (0, -1);

/// How an archive becomes an image: nothing but its bytes counts.
fn by_content() -> Import<'static> {
    Import { name: None, changes: &[], message: None, platform: Platform::host(), created: NO_TIME }
}

/// Whether an image is what an archive with this digest is imported as. Somebody else's
/// image may have the same layer alone, and other settings.
fn is_import(image: &Image, archive: Digest) -> bool {
    let ([layer], [diff_id]) = (image.manifest.layers.as_slice(), image.layers()) else {
        return false;
    };
    let new = NewLayer {
        digest: archive,
        size: layer.size,
        compression: Compression::None,
        diff_id: *diff_id,
    };
    layer.digest == archive
        && configuration(&by_content().of(new))
            .is_ok_and(|config| Digest::of(&config.to_bytes()) == image.id)
}

/// Opens an archive; `None` if it is a directory, which may be called so too.
fn open(path: &Path) -> Result<Option<File>, Error> {
    // Or a FIFO would make us wait for somebody to write into it.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    let there = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    match (there.is_dir(), there.is_file()) {
        (true, _) => Ok(None),
        (_, true) => Ok(Some(file)),
        _ => Err(Error::new(Kind::Invalid, format!("{} is not a regular file", path.display()))),
    }
}

/// The image that an archive (tar, also by gzip or zstd) is, imported if it is new;
/// `None` if it is a directory.
///
/// # Errors
/// If it can't be read, changes meanwhile, is no archive, or the disk refuses.
pub fn import_file(store: &Store, path: &Path) -> Result<Option<Image>, Error> {
    let now = SystemTime::now();
    let Some(file) = open(path)? else { return Ok(None) };
    let stamp = Stamp::of(&file, path)?;
    let kept = store.import_stamp(path);
    let known = fs::read(&kept).ok().and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(known) = &known
        && let Some(id) = known.image
        && *known == (Stamp { image: Some(id), ..stamp.clone() })
        && let Ok(image) = store.resolve(&id.to_string())
    {
        store.want_again(&image)?;
        store.unpack_missing(&image)?;
        return Ok(Some(image));
    }
    let again = file.try_clone().map_err(|e| Error::io("open", path, e))?;
    let (digest, _) = HashingReader::new(file).finish().map_err(|e| Error::io("read", path, e))?;
    let same = store.list()?.into_iter().map(|listed| listed.image);
    let image = match same.into_iter().find(|image| is_import(image, digest)) {
        Some(image) => {
            store.want_again(&image)?;
            store.unpack_missing(&image)?;
            image
        }
        None => {
            let mut archive = &again;
            archive.seek(SeekFrom::Start(0)).map_err(|e| Error::io("read", path, e))?;
            import(store, archive, &by_content()).map_err(|e| e.context(path.display()))?
        }
    };
    let after = open(path)?.map(|file| Stamp::of(&file, path)).transpose()?;
    if after.as_ref() != Some(&stamp) || image.manifest.layers[0].digest != digest {
        return Err(Error::new(
            Kind::Unavailable,
            format!(
                "{} changed while it was read; write it beside its place and rename it",
                path.display()
            ),
        ));
    }
    let before = known.and_then(|known| known.image).filter(|id| *id != image.id);
    if let Some(old) = before.and_then(|id| store.resolve(&id.to_string()).ok()) {
        store.supersede(&old)?;
    }
    let changed = match stamp.is_settled(now) {
        true => stamp.changed,
        // It may change once more and look the same: it is read again next time.
        false => UNSETTLED,
    };
    store.keep_import_stamp(path, &Stamp { image: Some(image.id), changed, ..stamp })?;
    Ok(Some(image))
}

impl Store {
    fn import_stamp(&self, path: &Path) -> std::path::PathBuf {
        let name = Digest::of(path.as_os_str().as_encoded_bytes()).hex();
        self.work("imports").join(name)
    }

    fn keep_import_stamp(&self, path: &Path, stamp: &Stamp) -> Result<(), Error> {
        let text = serde_json::to_vec(stamp).map_err(|e| {
            Error::caused(Kind::System, format!("cannot write what is known of an import: {e}"), e)
        })?;
        self.replace(&self.import_stamp(path), &text)
    }

    /// Removes what is remembered of archives whose image is gone.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(in crate::image) fn sweep_import_stamps(&self) -> Result<(), Error> {
        let dir = self.work("imports");
        for entry in fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))? {
            let path = entry.map_err(|e| Error::io("read", &dir, e))?.path();
            let text = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            let stamp = serde_json::from_slice::<Stamp>(&text).ok();
            let gone = match stamp.and_then(|stamp| stamp.image) {
                Some(id) => {
                    self.resolve(&id.to_string()).is_err_and(|e| e.kind() == Kind::NotFound)
                }
                None => true,
            };
            if gone {
                fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
        }
        Ok(())
    }
}
