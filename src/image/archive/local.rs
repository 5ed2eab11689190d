//! An archive on this machine as an image: what `rootfs = "./app.tar.gz"` means. The
//! image follows from the file's bytes alone, so an unchanged file is imported once,
//! also under another name; a stamp spares reading it at each launch.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::import::{Import, import};
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
}

/// The image that an archive (tar, also by gzip or zstd) is, imported if it is new.
///
/// # Errors
/// If it can't be read, changes meanwhile, is no archive, or the disk refuses.
pub fn import_file(store: &Store, path: &Path) -> Result<Image, Error> {
    let open = || File::open(path).map_err(|e| Error::io("open", path, e));
    let file = open()?;
    let stamp = Stamp::of(&file, path)?;
    let kept = store.import_stamp(path);
    let known = fs::read(&kept).ok().and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(known) = &known
        && let Some(id) = known.image
        && *known == (Stamp { image: Some(id), ..stamp.clone() })
        && let Ok(image) = store.resolve(&id.to_string())
    {
        store.unpack_missing(&image)?;
        return Ok(image);
    }
    let (digest, _) = HashingReader::new(file).finish().map_err(|e| Error::io("read", path, e))?;
    let same = store.list()?.into_iter().map(|listed| listed.image).find(|image| {
        let layers = &image.manifest.layers;
        layers.len() == 1
            && layers[0].digest == digest
            && image.config.created.as_deref() == Some(NO_TIME)
    });
    let image = match same {
        Some(image) => {
            store.unpack_missing(&image)?;
            image
        }
        None => import(
            store,
            open()?,
            &Import {
                name: None,
                changes: &[],
                message: None,
                platform: Platform::host(),
                created: NO_TIME,
            },
        )
        .map_err(|e| e.context(path.display()))?,
    };
    if Stamp::of(&open()?, path)? != stamp || image.manifest.layers[0].digest != digest {
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
    store.keep_import_stamp(path, &Stamp { image: Some(image.id), ..stamp })?;
    Ok(image)
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
}
