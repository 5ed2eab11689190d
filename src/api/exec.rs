//! `/containers/{id}/exec` and `/exec/…`.

use std::time::Duration;

use bollard_stubs::models::{ExecConfig, ExecStartConfig};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::body;
use super::hijack::{
    DetachKeys, Input, Output, PARTING, STDERR, STDOUT, Sink, Source, framed, hijack,
};
use super::respond::{Answer, created, empty, failure, json as as_json, refused};
use super::route::Query;
use crate::engine::exec::{Config, Session};
use crate::engine::handle::{Handle, Refusal};
use crate::engine::terminal::Size;

pub async fn create(handle: &Handle, which: &str, request: Request<Incoming>) -> Answer {
    let asked: ExecConfig = match body::read(request.into_body()).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    if view.state == "paused" {
        let why = format!("Container {which} is paused, unpause the container before exec");
        return failure(StatusCode::CONFLICT, &why);
    }
    let config = config(asked);
    if let Err(message) = DetachKeys::parse(config.detach_keys.as_deref()) {
        return failure(StatusCode::BAD_REQUEST, &message);
    }
    match handle.create_exec(view.which(), config).await {
        Ok(id) => created(&json!({ "Id": id })),
        Err(refusal) => refused(refusal),
    }
}

fn config(asked: ExecConfig) -> Config {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    Config {
        command: asked.cmd.unwrap_or_default(),
        env: asked.env.unwrap_or_default(),
        workdir: some(asked.working_dir).map(Into::into),
        user: some(asked.user),
        privileged: asked.privileged.unwrap_or(false),
        tty: asked.tty.unwrap_or(false),
        stdin: asked.attach_stdin.unwrap_or(false),
        stdout: asked.attach_stdout.unwrap_or(false),
        stderr: asked.attach_stderr.unwrap_or(false),
        detach_keys: some(asked.detach_keys),
        size: size(asked.console_size.as_ref()),
    }
}

/// Docker's `[height, width]`.
pub fn size(of: Option<&Vec<usize>>) -> Option<Size> {
    match of.map(Vec::as_slice) {
        Some([rows, columns]) if *rows > 0 && *columns > 0 => Some(Size {
            rows: u16::try_from(*rows).unwrap_or(u16::MAX),
            columns: u16::try_from(*columns).unwrap_or(u16::MAX),
        }),
        _ => None,
    }
}

/// `h` and `w` of a query.
pub fn queried_size(query: &Query) -> Result<Size, String> {
    let number = |key: &str, what: &str| {
        let text = query.get(key).unwrap_or_default();
        let why = match text.parse::<i64>() {
            Ok(number @ 0..=0xffff_ffff) => return Ok(u16::try_from(number).unwrap_or(u16::MAX)),
            Ok(_) => "value out of range",
            Err(_) => "invalid syntax",
        };
        Err(format!("invalid resize {what} {text:?}: {why}"))
    };
    Ok(Size { rows: number("h", "height")?, columns: number("w", "width")? })
}

/// Whether output is sent as it is: as with Docker's daemon this request says it, not
/// the one that made the exec.
fn is_raw(asked: &ExecStartConfig) -> bool {
    asked.tty.unwrap_or(false)
}

pub async fn start(handle: &Handle, id: &str, mut request: Request<Incoming>) -> Answer {
    let upgrade = super::hijack::upgrade(&mut request);
    let asked: ExecStartConfig = match body::read(request.into_body()).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let exec = match handle.find_exec(id).await {
        Ok(exec) => exec,
        Err(refusal) => return refused(refusal),
    };
    let detach = asked.detach.unwrap_or(false);
    let size = size(asked.console_size.as_ref()).or(exec.config.size);
    let session = handle.start_exec(id, detach, size).await;
    let session = match session {
        Ok(session) => session,
        // As with Docker's daemon, what fails in the launch is told in the stream: its
        // client then asks for the exit status.
        Err(Refusal::Invalid(why)) if !detach => {
            let raw = is_raw(&asked);
            return super::hijack::over(upgrade, raw, move |_, mut output| async move {
                let _ = output.send(framed(STDOUT, format!("{why}\r\n").as_bytes(), raw)).await;
                output.finish().await;
            });
        }
        Err(refusal) => return refused(refusal),
    };
    if detach {
        session.leave(Duration::ZERO);
        return empty();
    }
    let keys = DetachKeys::parse(exec.config.detach_keys.as_deref()).ok();
    let keys = keys.filter(|_| exec.config.tty);
    let (raw, takes_input) = (is_raw(&asked), exec.config.stdin);
    super::hijack::over(upgrade, raw, move |input, output| async move {
        talk(session, raw, keys, takes_input.then_some(input), output).await;
    })
}

/// `/berth/exec/{id}/join`: on with a terminal after the engine's death.
pub async fn join(handle: &Handle, id: &str, request: Request<Incoming>) -> Answer {
    let joined = async {
        let exec = handle.find_exec(id).await?;
        Ok((handle.join_exec(id).await?, exec.config))
    };
    let (session, config) = match joined.await {
        Ok(joined) => joined,
        Err(refusal) => return refused(refusal),
    };
    let keys = DetachKeys::parse(config.detach_keys.as_deref()).ok().filter(|_| config.tty);
    hijack(request, config.tty, move |input, output| async move {
        talk(session, config.tty, keys, config.stdin.then_some(input), output).await;
    })
}

/// After the end of a process: how long something that it left behind may hold its
/// streams open.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Between a client and a process, until one of them is done.
async fn talk(
    mut session: Session,
    raw: bool,
    keys: Option<DetachKeys>,
    input: Option<Input>,
    mut output: Output,
) {
    let terminal = session.ends.terminal.as_ref().and_then(|fd| fd.try_clone().ok());
    let sink = terminal.or(session.ends.stdin.take()).and_then(|fd| Sink::new(fd).ok());
    let mut typing = AbortOnDropHandle::new(tokio::task::spawn_local(async move {
        match (input, sink) {
            // With the sink the process's standard input ends, unless it is a terminal.
            (Some(input), Some(sink)) => type_in(input, sink, keys).await,
            (None, sink) => {
                drop(sink);
                false
            }
            (Some(_), None) => false,
        }
    }));
    let mut typed = false;
    let copy = |fd: &Option<std::os::fd::OwnedFd>| {
        fd.as_ref().and_then(|fd| fd.try_clone().ok()).and_then(|fd| Source::new(fd).ok())
    };
    let mut stdout = copy(&session.ends.terminal).or_else(|| copy(&session.ends.stdout));
    let mut stderr = copy(&session.ends.stderr);
    let mut ended = session.ended.clone();
    let mut over = false;
    let left = loop {
        let (stream, bytes) = tokio::select! {
            bytes = next(&stdout) => (STDOUT, bytes),
            bytes = next(&stderr) => (STDERR, bytes),
            _ = ended.wait_for(Option::is_some), if !over => {
                over = true;
                continue;
            }
            () = tokio::time::sleep(LAST_WORDS), if over => break false,
            detached = &mut typing, if !typed => {
                typed = true;
                match detached {
                    Ok(true) => break true,
                    // The client may have closed its half alone: the output goes on.
                    _ => continue,
                }
            }
            () = output.gone() => break true,
        };
        match bytes {
            Some(bytes) => {
                if output.send(framed(stream, &bytes, raw)).await.is_err() {
                    break true;
                }
            }
            None if stream == STDOUT => stdout = None,
            None => stderr = None,
        }
        if stdout.is_none() && stderr.is_none() {
            // Its streams are closed; its exit status is what is waited for.
            break tokio::select! {
                _ = ended.wait_for(Option::is_some) => false,
                () = output.gone() => true,
            };
        }
    };
    if left && !typed {
        let _ = tokio::time::timeout(PARTING, &mut typing).await;
    }
    drop(typing);
    if left {
        session.leave(Duration::ZERO);
    }
    output.finish().await;
}

async fn next(source: &Option<Source>) -> Option<Vec<u8>> {
    match source {
        Some(source) => source.next().await,
        None => std::future::pending().await,
    }
}

/// Passes on what the client types; whether it detached.
async fn type_in(mut input: Input, sink: Sink, mut keys: Option<DetachKeys>) -> bool {
    while let Some(bytes) = input.next().await {
        let (bytes, detached) = match &mut keys {
            Some(keys) => keys.filter(&bytes),
            None => (bytes, false),
        };
        if sink.write(&bytes).await.is_err() {
            break;
        }
        if detached {
            return true;
        }
    }
    false
}

pub async fn resize(handle: &Handle, id: &str, query: &Query) -> Answer {
    let size = match queried_size(query) {
        Ok(size) => size,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    match handle.resize_exec(id, size).await {
        Ok(()) => empty(),
        Err(refusal) => refused(refusal),
    }
}

pub async fn inspect(handle: &Handle, id: &str) -> Answer {
    let exec = match handle.find_exec(id).await {
        Ok(exec) => exec,
        Err(refusal) => return refused(refusal),
    };
    let config = &exec.config;
    as_json(&json!({
        "ID": exec.id,
        "Running": exec.is_running(),
        "ExitCode": exec.exit,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": config.command.first(),
            "arguments": config.command.get(1..).unwrap_or_default(),
            "privileged": config.privileged,
            "user": config.user.clone().unwrap_or_default(),
        },
        "OpenStdin": config.stdin,
        "OpenStderr": config.stderr,
        "OpenStdout": config.stdout,
        "CanRemove": exec.exit.is_some(),
        "ContainerID": exec.container,
        "DetachKeys": config.detach_keys.clone().unwrap_or_default(),
        "Pid": exec.pid,
    }))
}
