//! `/berth/…`: what Docker's API has no route for.

use hyper::{Method, StatusCode};

use super::containers::order;
use super::respond::{Answer, failure, json, no_content, refused};
use super::route::Query;
use super::{clone, usage};
use crate::engine::handle::Handle;
use crate::engine::reconcile::Verb;

pub async fn dispatch(handle: &Handle, method: &Method, parts: &[&str], query: &Query) -> Answer {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    match parts {
        ["containers"] if get => json(&handle.list().await),
        ["containers", which] if get => match handle.find(which).await {
            Ok(view) => json(&view),
            Err(refusal) => refused(refusal),
        },
        ["containers", which, "reload"] if post => match handle.find(which).await {
            Ok(view) => match order(handle, &view, Verb::Reload).await {
                Ok(()) => no_content(),
                Err(refusal) => refused(refusal),
            },
            Err(refusal) => refused(refusal),
        },
        ["containers", which, "clone"] if post => clone::clone(handle, which, query).await,
        ["images", "verify"] if post => usage::verify(handle, query).await,
        ["df"] if get => usage::own(handle).await,
        ["containers", which, "stats"] if get => match handle.find(which).await {
            Ok(view) => match handle.stats(&view.kept).await {
                Ok(stats) => json(&stats),
                Err(refusal) => refused(refusal),
            },
            Err(refusal) => refused(refusal),
        },
        ["plan"] if get => {
            let dirs = query.get("dirs").map(|dirs| dirs.split('\n').map(Into::into).collect());
            match handle.plan(dirs.unwrap_or_default()).await {
                Ok(changes) => json(&changes),
                Err(problems) => failure(StatusCode::UNPROCESSABLE_ENTITY, &problems),
            }
        }
        ["settled"] if get => json(&handle.settled().await),
        ["rescan"] if post => {
            handle.rescan().await;
            no_content()
        }
        ["reexec"] if post => match handle.reexec().await {
            Ok(()) => no_content(),
            Err(refusal) => refused(refusal),
        },
        _ => failure(StatusCode::NOT_FOUND, "page not found"),
    }
}
