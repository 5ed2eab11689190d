//! `/containers/{id}/attach`: a container's input and output, over a hijacked
//! connection or a websocket. Output comes from the log, so clients neither hold up
//! the container nor each other.

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use super::exec::queried_size;
use super::hijack::{DetachKeys, Input, Output, PARTING, STDERR, STDOUT, Sink, framed, hijack};
use super::respond::{Answer, empty, failure, refused};
use super::route::Query;
use super::websocket;
use crate::engine::handle::{Attached, Handle, View};
use crate::logs::{Follower, From, Piece, Stream};

/// What a client wants of a container.
struct Wanted {
    view: View,
    stream: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    keys: DetachKeys,
    follower: Follower,
    /// Bytes of standard output and error that the client has from before.
    seen: [u64; 2],
    attached: Attached,
    /// The client comes back to a run that has ended meanwhile: there is only what it has
    /// not seen.
    ended: bool,
}

/// Tells our own command where it began, so that after the engine's death it can say
/// (`from`, `seen-stdout`, `seen-stderr`) where to go on.
const POSITION: &str = "berth-log-position";

async fn wanted(handle: &Handle, which: &str, query: &Query) -> Result<Wanted, Box<Answer>> {
    let bad = |message: String| Box::new(failure(StatusCode::BAD_REQUEST, &message));
    let view = handle.find(which).await.map_err(|refusal| Box::new(refused(refusal)))?;
    let conflict = match view.state.as_str() {
        "paused" => Some("paused, unpause the container before attach"),
        "restarting" => Some("restarting, wait until the container is running before attach"),
        _ => None,
    };
    if let Some(why) = conflict {
        let message = format!("Container {} is {why}", view.id);
        return Err(Box::new(failure(StatusCode::CONFLICT, &message)));
    }
    let keys = DetachKeys::parse(query.get("detachKeys")).map_err(bad)?;
    let from = match query.get("from") {
        Some(position) => From::At(position.parse().map_err(bad)?),
        None if query.is_on("logs") => From::Beginning,
        None => From::Now,
    };
    let mut seen = ["seen-stdout", "seen-stderr"]
        .map(|key| query.get(key).and_then(|count| count.parse().ok()).unwrap_or(0));
    // The place is taken before the client is answered: what is printed from then on
    // it gets.
    let attached = handle.attached.enter(&view.id);
    let follower = handle
        .logs
        .follow(&handle.paths.log_dir(&view.kept), from)
        .map_err(|error| bad(format!("reading the log: {error}")))?
        .for_one_run(view.ended);
    if let From::At(position) = from
        && follower.position() != position
    {
        // That place is gone: it goes on with what comes now.
        seen = [0; 2];
    }
    let rests = !super::model::is_running(&view) && !view.is_awaited && view.ended > 0;
    Ok(Wanted {
        ended: rests && matches!(from, From::At(_)),
        stream: query.is_on("stream"),
        stdin: query.is_on("stdin") && view.manifest.stdin,
        stdout: query.is_on("stdout"),
        stderr: query.is_on("stderr"),
        view,
        keys,
        follower,
        seen,
        attached,
    })
}

pub async fn attach(
    handle: &Handle,
    which: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let wanted = match wanted(handle, which, query).await {
        Ok(wanted) => wanted,
        Err(answer) => return *answer,
    };
    let (handle, raw) = (handle.clone(), wanted.view.manifest.tty);
    let position = HeaderValue::from_str(&wanted.follower.position().to_string());
    let mut answer =
        hijack(request, raw, move |input, output| serve(handle, wanted, raw, input, output));
    if let Ok(position) = position {
        answer.headers_mut().insert(POSITION, position);
    }
    answer
}

/// The same over a websocket; its messages are the bytes as they are.
pub async fn attach_websocket(
    handle: &Handle,
    which: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let wanted = match wanted(handle, which, query).await {
        Ok(wanted) => wanted,
        Err(answer) => return *answer,
    };
    let handle = handle.clone();
    websocket::accept(request, move |input, output| serve(handle, wanted, true, input, output))
}

async fn serve(handle: Handle, wanted: Wanted, raw: bool, input: Input, mut output: Output) {
    let Wanted { view, stream, stdin, stdout, stderr, keys, .. } = wanted;
    let Wanted { mut follower, mut seen, attached, ended, .. } = wanted;
    let is_wanted = |piece: &Piece| match piece.stream {
        Stream::Stdout => stdout,
        Stream::Stderr => stderr,
        Stream::Berth | Stream::Filler => stderr && !raw,
    };
    let mut frame = |piece: Piece| {
        let number = if piece.stream == Stream::Stdout { STDOUT } else { STDERR };
        let seen = &mut seen[usize::from(number == STDERR)];
        let skip = usize::try_from(*seen).map_or(piece.bytes.len(), |n| n.min(piece.bytes.len()));
        *seen -= skip as u64;
        match &piece.bytes[skip..] {
            [] => Vec::new(),
            bytes => framed(number, bytes, raw),
        }
    };
    if !stream || ended {
        while let Ok(Some(piece)) = follower.take() {
            if is_wanted(&piece) && output.send(frame(piece)).await.is_err() {
                return;
            }
        }
        return output.finish().await;
    }
    let keys = view.manifest.tty.then_some(keys);
    let mut typing = {
        let (handle, view) = (handle.clone(), view.clone());
        AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            stdin && type_in(&handle, &view, input, keys).await
        }))
    };
    let mut typed = false;
    // A container that does not run may be started by this very client.
    let mut begun = super::model::is_running(&view);
    loop {
        let piece = tokio::select! {
            piece = follower.next(), if begun => piece,
            () = starts(&handle, &view), if !begun => {
                begun = true;
                continue;
            }
            detached = &mut typing, if !typed => {
                typed = true;
                match detached {
                    Ok(true) => break,
                    // The client may have closed its half alone: the output goes on.
                    _ => continue,
                }
            }
            () = output.gone() => {
                if !typed {
                    let _ = tokio::time::timeout(PARTING, &mut typing).await;
                }
                break;
            }
        };
        match piece {
            Ok(Some(piece)) if is_wanted(&piece) => {
                if output.send(frame(piece)).await.is_err() {
                    break;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                tracing::warn!("a client attached to {}: {error}", view.name);
                break;
            }
        }
    }
    drop((typing, attached));
    output.finish().await;
}

/// Waits until a container runs, has run, or is gone.
async fn starts(handle: &Handle, before: &View) {
    let runs = |view: &View| {
        super::model::is_running(view)
            || view.finished != before.finished
            || view.started != before.started
    };
    handle.wait_until(&before.id, runs).await;
}

/// Passes on what the client types, from before the start on; whether it detached.
async fn type_in(
    handle: &Handle,
    view: &View,
    mut input: Input,
    mut keys: Option<DetachKeys>,
) -> bool {
    let mut sink: Option<Sink> = None;
    while let Some(bytes) = input.next().await {
        let (bytes, detached) = match &mut keys {
            Some(keys) => keys.filter(&bytes),
            None => (bytes, false),
        };
        if sink.is_none() {
            sink = way_in(handle, view).await;
        }
        let written = match &sink {
            Some(sink) => sink.write(&bytes).await.is_ok(),
            None => return false,
        };
        if !written {
            // It reads no more, or was not what runs now.
            sink = None;
        }
        if detached {
            return true;
        }
    }
    drop(sink);
    if view.manifest.stdin_once && !view.manifest.tty {
        let launched = handle.wait_until(&view.id, super::model::is_running);
        // One that was never started has nothing to close.
        let now = match super::model::is_running(view) {
            true => handle.find(&view.id).await.ok(),
            false => launched.await,
        };
        if let Some(now) = now {
            handle.close_stdin(now.which()).await;
        }
    }
    false
}

/// The way to a container's input, once it runs.
async fn way_in(handle: &Handle, view: &View) -> Option<Sink> {
    let now = handle.wait_until(&view.id, super::model::is_running).await?;
    let ends = handle.attach(now.which()).await.ok()?;
    Sink::new(ends.terminal.or(ends.stdin)?).ok()
}

pub async fn resize(handle: &Handle, which: &str, query: &Query) -> Answer {
    let size = match queried_size(query) {
        Ok(size) => size,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    if !super::model::is_running(&view) {
        let why = format!("container {} is not running", view.id);
        return failure(StatusCode::CONFLICT, &why);
    }
    match handle.resize(view.which(), size).await {
        Ok(()) => empty(),
        Err(refusal) => refused(refusal),
    }
}
