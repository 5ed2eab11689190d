//! The way into the engine for those who serve people: the API. Questions and
//! orders go to the loop as messages; changes come back as events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub use super::attachments::{Attached, Attachments};
pub use super::events::{Event, Events};
use super::exec::{Config, Exec, ExecRequest, Session};
use super::files::{Files, Place};
use super::images::Images;
use super::networks::Networks;
use super::paths::Paths;
use super::plan::Change;
use super::prepare::Ends;
use super::reconcile::Verb;
use super::terminal::Size;
pub use super::view::{Probed, View};
use crate::logs::Logs;
use crate::manifest::model::{Container, NetworkFile};
use crate::manifest::scalar::Name;
use crate::network::link::Traffic;
use crate::rootfs::{Duplicate, Unnamed};

/// What a container uses of the machine, and what went over its networks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Of its cgroup.
    #[serde(flatten)]
    pub stats: crate::cgroup::Stats,
    /// Of each of its interfaces.
    #[serde(default)]
    pub networks: BTreeMap<String, Traffic>,
}

/// Why an order was not obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP 404: no such container.
    NotFound(String),
    /// HTTP 409: it is not in a state for that, or a manifest declares it.
    Conflict(String),
    /// HTTP 304: nothing to do, it is so already.
    AlreadySo,
    /// HTTP 403: it can't be, as long as something else is as it is.
    Forbidden(String),
    /// HTTP 400: the order makes no sense.
    Invalid(String),
    /// HTTP 500.
    Failed(String),
}

impl Refusal {
    /// The reason, for people.
    pub fn text(self) -> String {
        match self {
            Refusal::AlreadySo => "it is so already".to_owned(),
            Refusal::NotFound(text)
            | Refusal::Conflict(text)
            | Refusal::Forbidden(text)
            | Refusal::Invalid(text)
            | Refusal::Failed(text) => text,
        }
    }
}

/// A container that is made of another.
#[derive(Debug)]
pub struct Cloned {
    /// Its name.
    pub name: Name,
    /// Its id, under which its files lie.
    pub id: String,
    /// What it is to be.
    pub container: Container,
    /// The image that its files are changes of.
    pub image: Option<super::reconcile::Image>,
    /// Its changes, if it has any.
    pub changes: Option<Duplicate>,
    /// The copies of the other one's volumes.
    pub volumes: Vec<Unnamed>,
}

/// A change of a manifest. It is made by the loop, of what is written down then: so no
/// client undoes what another one changed meanwhile.
pub struct Edit(pub Box<Editing>);

/// Gives the next version of a manifest.
type Editing = dyn FnOnce(&Container) -> Result<Container, Refusal> + Send;

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Edit")
    }
}

/// What the loop is asked. A container is meant by its id ([`View::which`]): it may have
/// another name by the time that it is answered. A new one is by its name.
#[derive(Debug)]
pub enum Request {
    /// All containers.
    List(oneshot::Sender<Vec<View>>),
    /// One container by name, id, or the beginning of an id that only it has.
    Find(String, oneshot::Sender<Result<View, Refusal>>),
    /// An order; answered when it is accepted, not when it is done.
    Act(String, Verb, oneshot::Sender<Result<(), Refusal>>),
    /// What would change if these manifests were applied now; without directories
    /// those that are in force.
    Plan(Vec<PathBuf>, oneshot::Sender<Result<Vec<Change>, String>>),
    /// The processes of a container: pid, parent, user, command.
    Processes(String, oneshot::Sender<Vec<[String; 4]>>),
    /// Where a container's files are.
    Files(String, oneshot::Sender<Result<Place, Refusal>>),
    /// A container that was never launched is made of this image from now on.
    Choose(String, Box<super::reconcile::Image>, oneshot::Sender<Result<(), Refusal>>),
    /// Read all manifests again.
    Rescan(oneshot::Sender<()>),
    /// Replace keeper and engine by the binary that is on disk.
    Reexec(oneshot::Sender<Result<(), Refusal>>),
    /// Statistics of a container's cgroup.
    Stats(String, oneshot::Sender<Result<Usage, Refusal>>),
    /// Make a container known; answered with its id.
    Create(Name, Box<Container>, oneshot::Sender<Result<String, Refusal>>),
    /// Make a container known that has files already.
    Clone(Box<Cloned>, oneshot::Sender<Result<(), Refusal>>),
    /// Another version of the manifest of a container that a client made; answered with
    /// it.
    Change(String, Edit, oneshot::Sender<Result<Container, Refusal>>),
    /// Another name for a container that a client made.
    Rename(String, Name, oneshot::Sender<Result<(), Refusal>>),
    /// Make a network known.
    CreateNetwork(String, Box<NetworkFile>, oneshot::Sender<Result<(), Refusal>>),
    /// Remove a network that a client made.
    RemoveNetwork(String, oneshot::Sender<Result<(), Refusal>>),
    /// Something about a command inside a container.
    Exec(ExecRequest),
    /// The ways to a container's terminal or standard input.
    Attach(String, oneshot::Sender<Result<Ends, Refusal>>),
    /// A container's standard input is at its end.
    CloseStdin(String, oneshot::Sender<()>),
    /// A container's terminal has, or will have, this size.
    Resize(String, Size, oneshot::Sender<Result<(), Refusal>>),
}

/// A client's end of the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    /// To the loop.
    pub requests: mpsc::Sender<Request>,
    /// What happens.
    pub events: Events,
    /// What containers have printed.
    pub logs: Logs,
    /// Where things are.
    pub paths: Arc<Paths>,
    /// Images, and the way to registries.
    pub images: Images,
    /// Named volumes.
    pub volumes: Arc<crate::rootfs::Volumes>,
    /// Who is attached to what.
    pub attached: Attachments,
    /// Containers' networks.
    pub networks: Networks,
    /// See [`Handle::without_secrets`].
    pub hides_secrets: bool,
    /// Whether the record of every container could be read.
    pub knows_all: bool,
}

/// Takes away what only those may know who may mount the volume themselves.
pub fn hide_options(options: &mut crate::rootfs::Options) {
    if let Some(said) = options.get_mut("o") {
        "hidden".clone_into(said);
    }
}

impl Handle {
    /// The same for those who may not know what is secret: containers are told to them
    /// without the values of their environment, what their health checks print, and what
    /// is wrong in the files that declare them.
    pub fn without_secrets(self) -> Handle {
        Handle { hides_secrets: true, ..self }
    }

    fn shown(&self, mut view: View) -> View {
        if self.hides_secrets {
            for value in view.manifest.env.values_mut() {
                "hidden".clone_into(value);
            }
            view.manifest.docker.clear();
            // The password of a file server, for one.
            for mount in view.manifest.mounts.iter_mut().chain(&mut view.anonymous) {
                hide_options(&mut mount.options);
            }
            // What a check printed, and lines of a file that may have a password in them.
            for probed in &mut view.probes {
                probed.failure = probed.failure.take().map(|_| "hidden".to_owned());
                probed.output.clear();
            }
            let hidden = |_| "it is wrong; `berth status` says how to those who may know".into();
            view.manifest_error = view.manifest_error.take().map(hidden);
        }
        view
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }

    /// All containers, by name.
    pub async fn list(&self) -> Vec<View> {
        let views = self.ask(Request::List).await.unwrap_or_default();
        views.into_iter().map(|view| self.shown(view)).collect()
    }

    /// All containers, to see what nobody uses: never fewer than there are.
    ///
    /// # Errors
    /// If it is not known which there are.
    pub async fn users(&self) -> Result<Vec<View>, Refusal> {
        if !self.knows_all {
            return Err(Refusal::Failed(
                "the record of a container can't be read (Berth's log says which, and where it is \
                 kept): what it uses is not known, so nothing is removed for being unused; remove \
                 that file when the container is not missed, and start Berth again"
                    .to_owned(),
            ));
        }
        self.ask(Request::List).await.ok_or(()).or_else(|()| ending())
    }

    /// One container by name, id or the beginning of its id.
    pub async fn find(&self, which: &str) -> Result<View, Refusal> {
        let found = self.ask(|answer| Request::Find(which.to_owned(), answer)).await;
        found.unwrap_or_else(ending).map(|view| self.shown(view))
    }

    /// Orders something; see [`Request::Act`].
    pub async fn act(&self, which: &str, verb: Verb) -> Result<(), Refusal> {
        self.ask(|answer| Request::Act(which.to_owned(), verb, answer)).await.unwrap_or_else(ending)
    }

    /// Waits until `reached` is true of the container of this id, or it is gone (`None`).
    /// Its name may be another one by then.
    pub async fn wait_until(
        &self,
        id: &str,
        mut reached: impl FnMut(&View) -> bool,
    ) -> Option<View> {
        let mut changes = self.events.changes();
        loop {
            match self.find(id).await {
                Ok(view) if reached(&view) => return Some(view),
                Ok(_) => {}
                Err(_) => return None,
            }
            changes.changed().await.ok()?;
        }
    }

    /// Waits until nothing is under way any more: each container is ready, has failed,
    /// or is not to run.
    pub async fn settled(&self) -> Vec<View> {
        let mut changes = self.events.changes();
        loop {
            let views = self.list().await;
            if views.iter().all(|view| view.outlook != "pending") {
                return views;
            }
            if changes.changed().await.is_err() {
                return views;
            }
        }
    }

    /// See [`Request::Plan`]; the error is what is wrong with the manifests.
    pub async fn plan(&self, dirs: Vec<PathBuf>) -> Result<Vec<Change>, String> {
        self.ask(|answer| Request::Plan(dirs, answer))
            .await
            .unwrap_or_else(|| Err("Berth is about to end".to_owned()))
    }

    /// See [`Request::Processes`].
    pub async fn processes(&self, which: &str) -> Vec<[String; 4]> {
        self.ask(|answer| Request::Processes(which.to_owned(), answer)).await.unwrap_or_default()
    }

    /// A container's files, from outside.
    pub async fn files(&self, which: &str) -> Result<Files, Refusal> {
        let place = self.ask(|answer| Request::Files(which.to_owned(), answer)).await;
        let place = place.unwrap_or_else(ending)?;
        Files::of(place, &self.paths, &self.images).await.map_err(Refusal::Failed)
    }

    /// The same to put something into them, or to look at them as they will be. One that
    /// was never launched keeps the image that it has now: what it holds would otherwise
    /// be nobody's, and its files those of another image.
    pub async fn files_to_enter(&self, which: &str) -> Result<Files, Refusal> {
        let files = self.files(which).await?;
        if let Some(image) = files.to_choose() {
            let image = Box::new(image.clone());
            self.ask(|answer| Request::Choose(which.to_owned(), image, answer))
                .await
                .unwrap_or_else(ending)?;
        }
        Ok(files)
    }

    /// Reads all manifests again, now.
    pub async fn rescan(&self) {
        self.ask(Request::Rescan).await.unwrap_or_default();
    }

    /// See [`Request::Reexec`].
    pub async fn reexec(&self) -> Result<(), Refusal> {
        self.ask(Request::Reexec).await.unwrap_or_else(ending)
    }

    /// See [`Request::Create`].
    pub async fn create(&self, name: &Name, container: Container) -> Result<String, Refusal> {
        let container = Box::new(container);
        self.ask(|answer| Request::Create(name.clone(), container, answer))
            .await
            .unwrap_or_else(ending)
    }

    /// See [`Request::Clone`].
    pub async fn clone_container(&self, cloned: Cloned) -> Result<(), Refusal> {
        let cloned = Box::new(cloned);
        self.ask(|answer| Request::Clone(cloned, answer)).await.unwrap_or_else(ending)
    }

    /// See [`Request::Change`].
    pub async fn change(
        &self,
        which: &str,
        edit: impl FnOnce(&Container) -> Result<Container, Refusal> + Send + 'static,
    ) -> Result<Container, Refusal> {
        let edit = Edit(Box::new(edit));
        self.ask(|answer| Request::Change(which.to_owned(), edit, answer))
            .await
            .unwrap_or_else(ending)
    }

    /// See [`Request::Rename`].
    pub async fn rename(&self, which: &str, to: &Name) -> Result<(), Refusal> {
        self.ask(|answer| Request::Rename(which.to_owned(), to.clone(), answer))
            .await
            .unwrap_or_else(ending)
    }

    /// See [`Request::CreateNetwork`]. The error of one that can't be had comes before
    /// anything is written.
    pub async fn create_network(&self, name: &str, file: NetworkFile) -> Result<(), Refusal> {
        let objections = crate::manifest::network_objections(name, &file);
        if !objections.is_empty() {
            return Err(Refusal::Invalid(objections.join("; ")));
        }
        if self.networks.seen().networks.contains_key(name) {
            return Err(Refusal::Conflict(format!("network with name {name} already exists")));
        }
        let (networks, name) = (self.networks.clone(), name.to_owned());
        let checked = {
            let (name, file) = (name.clone(), file.clone());
            tokio::task::spawn_blocking(move || networks.check(&name, &file)).await
        };
        checked.map_err(|error| Refusal::Failed(error.to_string()))?.map_err(|why| {
            match why.contains(" overlaps ") {
                // The beginning is what clients of Docker's API look for.
                true => Refusal::Forbidden(format!(
                    "Pool overlaps with other one on this address space: {why}"
                )),
                false => Refusal::Failed(why),
            }
        })?;
        self.ask(|answer| Request::CreateNetwork(name, Box::new(file), answer))
            .await
            .unwrap_or_else(ending)
    }

    /// See [`Request::RemoveNetwork`].
    pub async fn remove_network(&self, name: &str) -> Result<(), Refusal> {
        self.ask(|answer| Request::RemoveNetwork(name.to_owned(), answer))
            .await
            .unwrap_or_else(ending)
    }

    /// See [`Request::Attach`].
    pub async fn attach(&self, which: &str) -> Result<Ends, Refusal> {
        self.ask(|answer| Request::Attach(which.to_owned(), answer)).await.unwrap_or_else(ending)
    }

    /// See [`Request::CloseStdin`].
    pub async fn close_stdin(&self, which: &str) {
        self.ask(|answer| Request::CloseStdin(which.to_owned(), answer)).await.unwrap_or_default();
    }

    /// See [`Request::Resize`].
    pub async fn resize(&self, which: &str, size: Size) -> Result<(), Refusal> {
        self.ask(|answer| Request::Resize(which.to_owned(), size, answer))
            .await
            .unwrap_or_else(ending)
    }

    async fn ask_exec<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> ExecRequest,
    ) -> Result<T, Refusal> {
        self.ask(|answer| Request::Exec(request(answer))).await.unwrap_or_else(ending)
    }

    /// See [`ExecRequest::Create`].
    pub async fn create_exec(&self, which: &str, config: Config) -> Result<String, Refusal> {
        let config = Box::new(config);
        self.ask_exec(|answer| ExecRequest::Create(which.to_owned(), config, answer)).await
    }

    /// See [`ExecRequest::Find`].
    pub async fn find_exec(&self, id: &str) -> Result<Exec, Refusal> {
        self.ask_exec(|answer| ExecRequest::Find(id.to_owned(), answer)).await
    }

    /// See [`ExecRequest::Start`].
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        size: Option<Size>,
    ) -> Result<Session, Refusal> {
        self.ask_exec(|answer| ExecRequest::Start(id.to_owned(), detach, size, answer)).await
    }

    /// See [`ExecRequest::Join`].
    pub async fn join_exec(&self, id: &str) -> Result<Session, Refusal> {
        self.ask_exec(|answer| ExecRequest::Join(id.to_owned(), answer)).await
    }

    /// See [`ExecRequest::Resize`].
    pub async fn resize_exec(&self, id: &str, size: Size) -> Result<(), Refusal> {
        self.ask_exec(|answer| ExecRequest::Resize(id.to_owned(), size, answer)).await
    }

    /// Statistics of a container.
    pub async fn stats(&self, which: &str) -> Result<Usage, Refusal> {
        self.ask(|answer| Request::Stats(which.to_owned(), answer)).await.unwrap_or_else(ending)
    }
}

fn ending<T>() -> Result<T, Refusal> {
    Err(Refusal::Failed("Berth is about to end".to_owned()))
}
