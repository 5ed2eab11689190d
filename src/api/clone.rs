//! `/berth/containers/{id}/clone`: a container with another one's files, settings and
//! anonymous volumes. The image's layers are shared; what the other one changed is
//! copied, by sharing extents where the file system can.

use serde_json::json;

use super::names;
use super::respond::{Answer, created, refused};
use super::route::Query;
use super::turns::LONG;
use crate::engine::handle::{Cloned, Handle, Refusal};
use crate::engine::volumes::{is_anonymous, of_image};
use crate::manifest::model::MountKind;
use crate::manifest::scalar::Name;
use crate::rootfs::Writable;

pub async fn clone(handle: &Handle, which: &str, query: &Query) -> Answer {
    match make(handle, which, query).await {
        Ok(id) => created(&json!({ "Id": id })),
        Err(refusal) => refused(refusal),
    }
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

async fn make(handle: &Handle, which: &str, query: &Query) -> Result<String, Refusal> {
    let view = handle.find(which).await?;
    let files = handle.files(&view.kept).await?;
    let views = handle.list().await;
    let taken = |name: &str| views.iter().any(|view| view.name.as_str() == name);
    let name: Name = match query.get("name") {
        Some(name) => name.trim_start_matches('/').parse().map_err(Refusal::Invalid)?,
        None => names::unused(taken).parse().map_err(Refusal::Failed)?,
    };
    if let Some(other) = views.iter().find(|view| view.name == name) {
        return Err(Refusal::Conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You \
             have to remove (or rename) that container to be able to reuse that name.",
            other.id
        )));
    }
    let id = crate::engine::exec::random_id().map_err(failed)?;
    let to = Writable::at(&handle.paths.state_dir(), &id).map_err(failed)?;
    let pause = query.get("pause").is_none() || query.is_on("pause");
    let volumes = handle.volumes.clone();
    let copying = {
        let (old_id, id) = (view.id.clone(), id.clone());
        move || {
            let standstill = if pause { files.stand_still()? } else { None };
            let changes = files.duplicate(&to)?;
            let mut copies = Vec::new();
            let (manifest, image) = files.made_of();
            let (mut container, image) = (manifest.clone(), image.cloned());
            for mount in container.mounts.iter_mut().filter(|m| m.kind() == MountKind::Volume) {
                if let Some(old) = mount.source.as_ref().filter(|name| is_anonymous(name)) {
                    let new = crate::engine::exec::random_id().map_err(|e| e.to_string())?;
                    // Before the first launch it may not be there yet.
                    if volumes.get(old).is_ok() {
                        copies.push(volumes.duplicate(old, &new).map_err(|e| e.to_string())?);
                    }
                    mount.source = Some(new);
                }
            }
            // Those that the image wants have names that follow from the ids.
            let wanted = image.as_ref().map_or(&[][..], |image| &image.volumes);
            let (old, new) =
                (of_image(&old_id, &container, wanted), of_image(&id, &container, wanted));
            for (old, new) in old.iter().zip(&new) {
                if let (Some(old), Some(new)) = (&old.source, &new.source)
                    && volumes.get(old).is_ok()
                {
                    copies.push(volumes.duplicate(old, new).map_err(|e| e.to_string())?);
                }
            }
            drop(standstill);
            Ok::<_, String>(Cloned { name, id, container, image, changes, volumes: copies })
        }
    };
    let copying = LONG.turn().await.with(copying);
    // Whatever is not handed over in the end goes again.
    let cloned = tokio::task::spawn_blocking(copying).await.map_err(failed)?;
    handle.clone_container(cloned.map_err(Refusal::Failed)?).await?;
    Ok(id)
}
