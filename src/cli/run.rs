//! `run`, `create`, `exec`, `attach`, `manifest`: Docker's verbs, its exit statuses
//! (125 Berth refused, 126 can't be executed, 127 not found, otherwise the payload's).

use std::cell::Cell;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Client, encode, message};
use super::image::{Pull, Shown, pull_with};
use super::run_args::{Attach, Create, Exec, Run};
use super::session::{NEVER, Options, Over, Session, Target, exec_status};
use super::{Failure, Result, complain, print, request, terminal};
use crate::api::create;
use crate::engine::paths::Paths;
use crate::sys::process::processors;

/// Says what went wrong, and gives Docker's exit status for it.
fn refused(Failure(error): Failure) -> ExitCode {
    let code = match &error {
        text if text.contains("executable file not found") || text.contains("no such file") => 127,
        text if text.contains("permission denied") => 126,
        _ => 125,
    };
    complain(&format!("berth: {error}"));
    ExitCode::from(code)
}

pub async fn run(client: &Client, paths: &Paths, args: &Run) -> Result {
    Ok(try_run(client, paths, args).await.unwrap_or_else(refused))
}

async fn try_run(client: &Client, paths: &Paths, args: &Run) -> Result {
    if let Some(name) = &args.create.save {
        return save(paths, name, &args.create, args.detach);
    }
    let asked = &args.create;
    if asked.tty && asked.interactive && !args.detach && !terminal::is_terminal() {
        return Err("the input device is not a TTY".into());
    }
    let id = make(client, asked, args.detach).await?;
    let start = format!("/containers/{id}/start");
    if args.detach {
        client.ask(Method::POST, &start).await?;
        print(&format!("{id}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options {
        ended_before: Some(NEVER.to_owned()),
        tty: asked.tty,
        stdin: asked.interactive,
        stdout: true,
        stderr: true,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.clone(),
    };
    // Before the start: nothing of it is missed.
    let condition = if asked.rm { "removed" } else { "next-exit" };
    let mut session = Session::new(client, Target::Container(id.clone()), options)?;
    let waiting = wait(client.clone(), id.clone(), condition, session.engine_died());
    let waiting = tokio::task::spawn_local(waiting);
    let stream = session.attach().await?;
    if let Err(error) = client.ask(Method::POST, &start).await {
        drop(session);
        waiting.abort();
        if asked.rm {
            let _ = client.ask(Method::DELETE, &format!("/containers/{id}?force=1&v=1")).await;
        }
        return Err(error);
    }
    session.resize().await;
    let over = session.run(stream).await?;
    drop(session);
    exit_code(over, async { waiting.await? }).await
}

/// Our exit status after a session; `payload` is asked for where that has ended.
async fn exit_code(over: Over, payload: impl Future<Output = Result<u8>>) -> Result {
    Ok(match over {
        Over::Ended => ExitCode::from(payload.await?),
        Over::Detached => ExitCode::SUCCESS,
        // As a program of this machine would end.
        Over::Unwritable(Some(libc::EPIPE)) => ExitCode::from(128 + libc::SIGPIPE as u8),
        Over::Unwritable(errno) => {
            let error = std::io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO));
            return Err(Failure(format!("writing what it prints: {error}")));
        }
        Over::Signalled(number) => ExitCode::from(128 + u8::try_from(number).unwrap_or(0)),
    })
}

/// Waits for a container's end, over the engine's death.
async fn wait(
    client: Client,
    id: String,
    condition: &str,
    engine_died: Rc<Cell<bool>>,
) -> Result<u8> {
    loop {
        let path = format!("/containers/{id}/wait?condition={condition}");
        match client.ask(Method::POST, &path).await {
            Ok((_, body)) => {
                if let Ok(answer) = serde_json::from_slice::<Value>(&body)
                    && let Some(code) = answer["StatusCode"].as_i64()
                {
                    return Ok(u8::try_from(code & 0xff).unwrap_or(1));
                }
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
        // The answer broke off: has it ended meanwhile?
        engine_died.set(true);
        let state: Value = client.get(&format!("/containers/{id}/json")).await?;
        if state["State"]["Running"] == false && state["State"]["Status"] != "created" {
            let code = state["State"]["ExitCode"].as_i64().unwrap_or(0);
            return Ok(u8::try_from(code & 0xff).unwrap_or(1));
        }
    }
}

pub async fn create(client: &Client, paths: &Paths, args: &Create) -> Result {
    if let Some(name) = &args.save {
        return save(paths, name, args, true);
    }
    match make(client, args, true).await {
        Ok(id) => {
            print(&format!("{id}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(refused(error)),
    }
}

/// Makes a container; gives its id.
async fn make(client: &Client, args: &Create, detach: bool) -> Result<String> {
    if let Some(path) = args.cidfile.as_ref().filter(|path| path.exists()) {
        return Err(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        )
        .into());
    }
    let body = request::body(args, detach, terminal::size())?;
    let name = args.name.as_ref().map(|name| format!("?name={}", encode(name)));
    let path = format!("/containers/create{}", name.unwrap_or_default());
    let is_image = !args.image.starts_with('/');
    if is_image && args.pull == "always" {
        pull(client, &args.image).await?;
    }
    let mut answer = client.post(&path, &body).await?;
    if answer.0 == StatusCode::NOT_FOUND && is_image && args.pull == "missing" {
        pull(client, &args.image).await?;
        answer = client.post(&path, &body).await?;
    }
    let (status, text) = answer;
    if !status.is_success() {
        return Err(Failure(message(&text)));
    }
    let made: Value = serde_json::from_slice(&text)?;
    for warning in made["Warnings"].as_array().into_iter().flatten() {
        complain(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    let id = made["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = &args.cidfile {
        write_new(path, &id)?;
    }
    Ok(id)
}

async fn pull(client: &Client, image: &str) -> Result<()> {
    let asked = Pull { image: image.to_owned(), ..Pull::default() };
    pull_with(client, &asked, &mut Shown::aside()).await.map(drop)
}

/// Writes what would be made as a manifest among the administrator's.
fn save(paths: &Paths, name: &str, args: &Create, detach: bool) -> Result {
    let name: crate::manifest::scalar::Name = name.parse()?;
    let none = |_: &str| None;
    let mut volume = || crate::engine::exec::random_id().unwrap_or_default();
    let mut surroundings = create::Surroundings {
        name: name.as_str(),
        image: &|_| Default::default(),
        address: &|_| None,
        container: &none,
        // Whether it is there is seen when the manifest is read.
        network: &|which| Some(which.to_owned()),
        processors: processors(),
        volume: &mut volume,
    };
    let body = request::body(args, detach, None)?;
    let made = create::manifest(create::parse(body)?, &mut surroundings)?;
    for warning in made.warnings {
        complain(&format!("WARNING: {warning}"));
    }
    let mut container = made.container;
    if args.limits.restart.is_none() && !args.rm {
        // A manifest that a person keeps is for what is to run.
        container.restart = Default::default();
    }
    container.auto_remove = false;
    let objections = crate::manifest::objections(&container);
    if !objections.is_empty() {
        return Err(Failure(objections.join("; ")));
    }
    let dirs = paths.manifest_dirs();
    let dir = dirs.first().ok_or("there is no directory of manifests")?;
    let path = dir.join(format!("{name}.toml"));
    write_new(&path, &crate::manifest::to_toml(&container)?)?;
    print(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is not there yet, whole or not at all.
fn write_new(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let fail = |error: std::io::Error| Failure(format!("writing {}: {error}", path.display()));
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(fail)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist_noclobber(path).map_err(|error| fail(error.error))?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
}

pub async fn exec(client: &Client, args: &Exec) -> Result {
    Ok(try_exec(client, args).await.unwrap_or_else(refused))
}

async fn try_exec(client: &Client, args: &Exec) -> Result {
    if args.tty && args.interactive && !args.detach && !terminal::is_terminal() {
        return Err("the input device is not a TTY".into());
    }
    let body = json!({
        "AttachStdin": args.interactive && !args.detach,
        "AttachStdout": !args.detach,
        "AttachStderr": !args.detach,
        "Tty": args.tty,
        "Cmd": args.command,
        "Env": request::environment(&args.env, &[])?,
        "WorkingDir": args.workdir,
        "User": args.user,
        "Privileged": args.privileged,
        "DetachKeys": args.detach_keys,
    });
    let (status, text) =
        client.post(&format!("/containers/{}/exec", encode(&args.name)), &body).await?;
    if !status.is_success() {
        return Err(Failure(message(&text)));
    }
    let made: Value = serde_json::from_slice(&text)?;
    let id = made["Id"].as_str().unwrap_or_default().to_owned();
    let size = terminal::size().filter(|_| args.tty).map(|(rows, columns)| vec![rows, columns]);
    let start = json!({ "Detach": args.detach, "Tty": args.tty, "ConsoleSize": size });
    let path = format!("/exec/{id}/start");
    if args.detach {
        let (status, text) = client.post(&path, &start).await?;
        return match status.is_success() {
            true => Ok(ExitCode::SUCCESS),
            false => Err(Failure(message(&text))),
        };
    }
    let options = Options {
        ended_before: None,
        tty: args.tty,
        stdin: args.interactive,
        stdout: true,
        stderr: true,
        sig_proxy: false,
        detach_keys: args.detach_keys.clone(),
    };
    let mut session = Session::new(client, Target::Exec(id.clone()), options)?;
    let (_, stream) = client.hijack(&path, serde_json::to_vec(&start)?).await?;
    let over = session.run(stream).await?;
    drop(session);
    exit_code(over, exec_status(client, &id)).await
}

pub async fn attach(client: &Client, args: &Attach) -> Result {
    let found: Value = client.get(&format!("/containers/{}/json", encode(&args.name))).await?;
    if found["State"]["Status"] == "restarting" {
        return Err("you cannot attach to a restarting container, wait until it is running".into());
    }
    if found["State"]["Running"] != true {
        return Err("you cannot attach to a stopped container, start it first".into());
    }
    let id = found["Id"].as_str().unwrap_or_default().to_owned();
    let is_on = |key: &str| found["Config"][key] == true;
    let options = Options {
        ended_before: found["State"]["FinishedAt"].as_str().map(str::to_owned),
        tty: is_on("Tty"),
        stdin: is_on("OpenStdin") && !args.no_stdin,
        stdout: true,
        stderr: true,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.clone(),
    };
    let mut session = Session::new(client, Target::Container(id.clone()), options)?;
    let waiting = wait(client.clone(), id, "not-running", session.engine_died());
    let waiting = tokio::task::spawn_local(waiting);
    let stream = session.attach().await?;
    session.resize().await;
    let over = session.run(stream).await?;
    drop(session);
    exit_code(over, async { waiting.await? }).await
}

/// Prints the manifest of any container.
pub async fn manifest(client: &Client, name: &str) -> Result {
    let view: crate::engine::handle::View =
        client.get(&format!("/berth/containers/{}", encode(name))).await?;
    print(&crate::manifest::to_toml(&view.manifest)?)?;
    Ok(ExitCode::SUCCESS)
}
