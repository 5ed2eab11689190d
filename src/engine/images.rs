//! The images of a Berth, as the engine and the API use them: the store, the way to
//! registries, and what a launch needs of an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OnceCell};

use super::paths::Paths;
use super::reconcile;
use crate::image::config::Healthcheck;
use crate::image::progress::Sink;
use crate::image::pull::{PARALLEL, Policy, Puller};
use crate::image::registry::{Client, Credentials, Retry, Settings};
use crate::image::store::Image;
use crate::image::{Digest, Error, ImageConfig, Reference, Store};
use crate::manifest::model::{Container, Health};

/// The images of one Berth. Cheap to clone. The store is opened at its first use, on
/// a thread that may block: a store that can't be opened harms only who wants images.
#[derive(Clone)]
pub struct Images {
    paths: Arc<Paths>,
    opened: Arc<OnceCell<(Store, Puller)>>,
    changes: Arc<Notify>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("state", &self.paths.state_dir()).finish()
    }
}

/// What a container's root is made of.
#[derive(Debug)]
pub struct ImageRoot {
    /// What is remembered of it with the container.
    pub image: reconcile::Image,
    /// Its unpacked layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Its configuration.
    pub config: ImageConfig,
}

impl Images {
    /// Nothing is opened yet.
    pub fn new(paths: Arc<Paths>) -> Images {
        Images { paths, opened: Arc::default(), changes: Arc::default() }
    }

    /// Woken by [`Images::changed`].
    pub fn changes(&self) -> &Arc<Notify> {
        &self.changes
    }

    /// Something may be needed no longer: a name moved, a container went.
    pub fn changed(&self) {
        self.changes.notify_one();
    }

    async fn opened(&self) -> Result<&(Store, Puller), Error> {
        self.opened
            .get_or_try_init(|| async {
                let state = self.paths.state_dir();
                let store = blocking(move || Store::open(&state)).await?;
                let puller = Puller::new(store.clone(), self.client()?, PARALLEL);
                Ok((store, puller))
            })
            .await
    }

    /// The store.
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn store(&self) -> Result<Store, Error> {
        Ok(self.opened().await?.0.clone())
    }

    /// A client of registries, as `registries.toml` says at this moment.
    ///
    /// # Errors
    /// If that file is wrong.
    pub fn client(&self) -> Result<Client, Error> {
        let settings = Settings::read(&self.paths.registries())?;
        Ok(Client::new(settings, Credentials::of_docker(), Retry::default()))
    }

    /// What pulls; its bound on parallel downloads holds for all of this Berth.
    ///
    /// # Errors
    /// If the store can't be opened or `registries.toml` is wrong.
    pub async fn puller(&self) -> Result<Puller, Error> {
        Ok(self.opened().await?.1.with_client(self.client()?))
    }

    /// The configuration of an image by its id.
    ///
    /// # Errors
    /// If it is not there, or damaged.
    pub async fn config(&self, id: &str) -> Result<ImageConfig, String> {
        let store = self.store().await.map_err(|error| error.to_string())?;
        let id = id.to_owned();
        let image = blocking(move || store.resolve(&id)).await;
        image.map(|image| image.config).map_err(|error| error.to_string())
    }

    /// The root that an image makes which is here, by its name or id.
    ///
    /// # Errors
    /// If it is not there, or not whole.
    pub async fn stored(&self, name: &str) -> Result<ImageRoot, String> {
        let store = self.store().await.map_err(|error| error.to_string())?;
        let name = name.to_owned();
        let root = blocking(move || {
            let image = store.resolve(&name)?;
            store.unpack_missing(&image)?;
            root_of(&store, image, &name)
        });
        root.await.map_err(|error| error.to_string())
    }

    /// The root of a container: of the image that it has, or of the one that `name`
    /// means now, pulled if need be and allowed.
    ///
    /// # Errors
    /// In one sentence, for the container's status.
    pub async fn root(
        &self,
        name: &str,
        has: Option<&reconcile::Image>,
        policy: Policy,
        sink: &Sink,
    ) -> Result<ImageRoot, String> {
        let store = self.store().await.map_err(|error| error.to_string())?;
        let puller = self.puller().await.map_err(|error| error.to_string())?;
        let kept = match has.and_then(|image| image.id.parse::<Digest>().ok()) {
            Some(id) => kept(&store, &puller, id).await,
            None => None,
        };
        let kept = match kept {
            Some(image) => Some(image),
            None => by_id(&store, &puller, name).await,
        };
        let image = match kept {
            Some(image) => image,
            None => {
                let name: Reference = name.parse().map_err(|error: Error| error.to_string())?;
                let (looking, wanted) = (store.clone(), name.clone());
                let before = blocking(move || looking.find(&wanted)).await.ok().flatten();
                let ensured = puller.ensure(&name, policy, None, sink).await;
                let image = ensured.map_err(|error| error.to_string())?;
                if before.is_some_and(|before| before.id != image.id) {
                    self.changed();
                }
                image
            }
        };
        let name = name.to_owned();
        let root = blocking(move || root_of(&store, image, &name)).await;
        root.map_err(|error| error.to_string())
    }

    /// The root of a container whose manifest names an archive; `None` if that is a
    /// directory.
    ///
    /// # Errors
    /// In one sentence.
    pub async fn root_of_archive(&self, path: &Path) -> Result<Option<ImageRoot>, String> {
        let store = self.store().await.map_err(|error| error.to_string())?;
        let path = path.to_owned();
        let imported = blocking(move || {
            let image = crate::image::archive::import_file(&store, &path)?;
            image.map(|image| root_of(&store, image, &path.display().to_string())).transpose()
        });
        imported.await.map_err(|error| error.to_string())
    }
}

/// What the root of a manifest is called, if it is an image or becomes one.
pub fn named(manifest: &Container) -> Option<String> {
    manifest.image.clone().or_else(|| Some(archive(manifest)?.display().to_string()))
}

/// The archive that a manifest names as its root, by the name alone: whether it is a
/// directory that is called so is seen by who opens it.
pub fn archive(manifest: &Container) -> Option<&Path> {
    let path = manifest.rootfs.as_deref()?;
    let name = path.as_os_str().as_encoded_bytes();
    let ends: [&[u8]; 4] = [b".tar", b".tar.gz", b".tgz", b".tar.zst"];
    ends.iter().any(|end| name.ends_with(end)).then_some(path)
}

fn root_of(store: &Store, image: Image, name: &str) -> Result<ImageRoot, Error> {
    let process = &image.config.config;
    Ok(ImageRoot {
        layers: store.root_layers(&image)?,
        image: reconcile::Image {
            id: image.id.to_string(),
            name: name.to_owned(),
            stop_signal: process.stop_signal.as_deref().and_then(|s| s.parse().ok()),
            health: health(&image.config),
            volumes: process.volumes.iter().map(PathBuf::from).collect(),
            process: Some(reconcile::OfImage::from(&image.config)),
        },
        config: image.config,
    })
}

/// The image that `name` means as an id or the beginning of one: such an image may have
/// no name at all.
async fn by_id(store: &Store, puller: &Puller, name: &str) -> Option<Image> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (looking, text) = (store.clone(), name.to_owned());
    let image = blocking(move || looking.resolve(&text)).await.ok()?;
    // Something with that very name is meant by it first.
    if !image.id.to_string().trim_start_matches("sha256:").starts_with(digits) {
        return None;
    }
    kept(store, puller, image.id).await
}

/// The image with this id, with all its layers, if it is whole.
async fn kept(store: &Store, puller: &Puller, id: Digest) -> Option<Image> {
    let store = store.clone();
    let whole = match blocking(move || store.resolve(&id.to_string())).await {
        Ok(image) => puller.unpack_missing(&image).await.map(|()| image),
        Err(error) => Err(error),
    };
    whole.map_err(|error| tracing::warn!("{error}; its name is asked for again")).ok()
}

/// Runs what blocks on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::caused(crate::image::Kind::System, "work on images panicked", error))
    })
}

impl From<&ImageConfig> for reconcile::OfImage {
    fn from(config: &ImageConfig) -> Self {
        let defaults = config.defaults();
        let user = config.config.user.clone();
        reconcile::OfImage { env: defaults.env, user, workdir: defaults.workdir }
    }
}

/// An image's health check in the manifest's terms.
fn health(config: &ImageConfig) -> Option<Health> {
    let check: &Healthcheck = config.config.healthcheck.as_ref()?;
    let exec = match check.test.split_first()? {
        (kind, words) if kind == "CMD" => words.to_vec(),
        (kind, [text, ..]) if kind == "CMD-SHELL" => {
            let shell = match config.config.shell.as_slice() {
                [] => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
                shell => shell.to_vec(),
            };
            [shell, vec![text.clone()]].concat()
        }
        _ => return None,
    };
    let usual = Health::default();
    let time = |nanoseconds: i64, usual: Duration| match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ 1..) => Duration::from_nanos(nanoseconds),
        _ => usual,
    };
    Some(Health {
        exec: Some(exec),
        interval: time(check.interval, usual.interval),
        timeout: time(check.timeout, usual.timeout),
        start_period: time(check.start_period, usual.start_period),
        start_interval: u64::try_from(check.start_interval)
            .ok()
            .filter(|nanoseconds| *nanoseconds > 0)
            .map(Duration::from_nanos),
        retries: u32::try_from(check.retries).ok().filter(|n| *n > 0).unwrap_or(usual.retries),
        ..usual
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_of_an_image_is_one_of_ours() {
        let config = |text: &str| ImageConfig::parse(text.as_bytes()).unwrap();
        let shell = config(
            r#"{"config":{"Healthcheck":{"Test":["CMD-SHELL","test -e /x"],"Interval":2000000000}}}"#,
        );
        let found = health(&shell).unwrap();
        assert_eq!(found.exec.unwrap(), ["/bin/sh", "-c", "test -e /x"]);
        assert_eq!((found.interval, found.retries), (Duration::from_secs(2), 3));
        let plain = config(r#"{"config":{"Healthcheck":{"Test":["CMD","/ok"],"Retries":1}}}"#);
        assert_eq!(health(&plain).unwrap().exec.unwrap(), ["/ok"]);
        assert!(health(&config(r#"{"config":{"Healthcheck":{"Test":["NONE"]}}}"#)).is_none());
        assert!(health(&config("{}")).is_none());
    }
}
