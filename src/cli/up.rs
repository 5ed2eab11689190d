//! `up` becomes the keeper; `engine` is what the keeper starts.

use std::io::IsTerminal;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use super::Result;
use super::args::Up;
use crate::engine::paths::Paths;
use crate::engine::start::{Options, run};

pub fn up(paths: &Paths, root: &Path, args: &Up) -> Result {
    if !rustix::process::geteuid().is_root() {
        return Err("`up` makes namespaces, mounts and cgroups: run it as root".into());
    }
    if args.own_session {
        // After a `reexec` it has one.
        let _ = rustix::process::setsid();
    }
    std::fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut engine = vec!["--root".to_owned(), root.canonicalize()?.display().to_string()];
    engine.push("engine".to_owned());
    if args.quiet {
        engine.push("--quiet".to_owned());
    }
    if let Some(tcp) = args.tcp() {
        engine.extend(["--tcp".to_owned(), tcp.address.to_string()]);
        for (flag, file) in [("--tls-ca", tcp.ca), ("--tls-cert", tcp.cert), ("--tls-key", tcp.key)]
        {
            let file =
                file.canonicalize().map_err(|error| format!("{}: {error}", file.display()))?;
            engine.extend([flag.to_owned(), file.display().to_string()]);
        }
    }
    if let Some(main) = &args.main {
        engine.extend(["--main".to_owned(), main.to_string()]);
    }
    for dir in &args.dirs {
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        engine.push(dir.display().to_string());
    }
    let duty = crate::keeper::duty::Duty::default();
    let finished = crate::keeper::start::up(&paths.lock(), &engine, duty)?;
    Ok(ExitCode::from(u8::try_from(finished.code).unwrap_or(1)))
}

/// Starts a Berth that outlives this command, unless one runs, and waits for it.
pub fn in_background(paths: &Paths, root: &Path, args: &Up) -> Result {
    let client = super::client::Client::new(paths.socket());
    let begun = Instant::now();
    let late = || args.timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
    if UnixStream::connect(paths.socket()).is_err() {
        // What it says goes to a file: whoever waits for the end of our output must not
        // wait for the daemon's.
        let said = paths.run_dir().join("up.log");
        let fail = |error: std::io::Error| format!("making {}: {error}", said.display());
        std::fs::create_dir_all(paths.run_dir()).map_err(fail)?;
        let file = std::fs::File::create(&said).map_err(fail)?;
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("--root").arg(root).args(args.as_daemon());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let mut child = command.spawn().map_err(|error| format!("starting `berth up`: {error}"))?;
        while UnixStream::connect(paths.socket()).is_err() {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&said).unwrap_or_default();
                return Err(format!("`berth up` ended at once: {status}\n{said}").into());
            }
            if late() {
                let why = "it goes on, but does not answer yet; see";
                return Err(format!("`berth up` was started: {why} {}", said.display()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let left = args.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
    local.block_on(&runtime, super::apply::apply(&client, true, left))
}

pub fn engine(paths: Paths, args: Up) -> Result {
    let filter = EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour)
        .compact()
        .init();
    let tcp = args.tcp();
    run(Options { paths, dirs: args.dirs, echo: !args.quiet, tcp, main: args.main })?;
    Ok(ExitCode::SUCCESS)
}
