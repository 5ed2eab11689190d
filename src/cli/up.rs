//! `up` becomes the keeper; `engine` is what the keeper starts.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Result;
use super::args::Up;
use crate::engine::paths::Paths;
use crate::engine::start::{Options, run};
use crate::manifest::Loader;
use crate::manifest::scalar::Name;

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
        check_main(paths, args, main)?;
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

/// `--main` must name something that can end.
fn check_main(paths: &Paths, args: &Up, main: &Name) -> Result<()> {
    let loaded = Loader::new(paths.sources(args.dirs.clone())).load();
    if loaded.broken.contains_key(main) {
        // The engine tells what is wrong; an earlier version of it may be good.
        return Ok(());
    }
    let Some(definition) = loaded.containers.get(main) else {
        let names: Vec<&str> = loaded.containers.keys().map(Name::as_str).collect();
        let meant = match crate::manifest::nearest(main.as_str(), &names) {
            Some(meant) => format!("; did you mean {meant}?"),
            None if names.is_empty() => "; there are no manifests".to_owned(),
            None => format!("; there are {}", names.join(", ")),
        };
        return Err(format!("--main {main}: no manifest declares it{meant}").into());
    };
    let why = match &definition.container {
        container if container.is_target() => "it runs nothing, and only names others",
        container if container.is_timed() => "it is run at times, and never ends for good",
        _ => return Ok(()),
    };
    Err(format!("--main {main}: {why} ({})", definition.source.display()).into())
}

/// Starts a Berth that outlives this command, unless one runs, and waits for it.
pub fn in_background(paths: &Paths, root: &Path, args: &Up) -> Result {
    let client = super::client::Client::new(paths.socket());
    let begun = Instant::now();
    let late = || args.timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
    if UnixStream::connect(paths.socket()).is_err() {
        // What it says goes to a file: whoever waits for the end of our output must not
        // wait for the daemon's.
        let said = paths.up_log();
        let fail = |error: std::io::Error| format!("making {}: {error}", said.display());
        std::fs::create_dir_all(paths.run_dir()).map_err(fail)?;
        // The engine cuts it now and then: what comes next goes to its end, wherever that is.
        let file = File::options().append(true).create(true).open(&said).map_err(fail)?;
        file.set_len(0).map_err(fail)?;
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

/// The most that what `up --wait` started keeps of what it says; it lies in memory.
const SAID_MAX: u64 = 1 << 20;

/// Our file for it, if that is where standard error leads. A file of somebody else's is
/// theirs, however long it gets.
fn said_file(paths: &Paths) -> Option<File> {
    let file = File::options().read(true).append(true).open(paths.up_log()).ok()?;
    let (its, ours) = (rustix::fs::fstat(&file).ok()?, rustix::fs::fstat(std::io::stderr()).ok()?);
    ((its.st_dev, its.st_ino) == (ours.st_dev, ours.st_ino)).then_some(file)
}

/// Leaves the last lines of what got longer than `max`, half of it at most.
fn cut(mut file: &File, max: u64) -> std::io::Result<()> {
    let len = file.metadata()?.len();
    if len <= max {
        return Ok(());
    }
    let mut kept = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(max / 2)))?;
    file.take(max / 2).read_to_end(&mut kept)?;
    let begin = kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    file.set_len(0)?;
    file.write_all(kept.get(begin..).unwrap_or_default())
}

/// Standard error, which may be a console that takes nothing: then what is said is lost, and
/// containers go on.
struct Stderr<'a>(Option<&'a File>);

impl Write for Stderr<'_> {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        crate::keeper::say::patiently(text);
        if let Some(said) = self.0 {
            let _ = cut(said, SAID_MAX);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Makes them.
struct SaidTo(Option<File>);

impl<'a> MakeWriter<'a> for SaidTo {
    type Writer = Stderr<'a>;

    fn make_writer(&'a self) -> Stderr<'a> {
        Stderr(self.0.as_ref())
    }
}

pub fn engine(paths: Paths, args: Up) -> Result {
    // Executed as /proc/self/exe, it would be called `exe`.
    let _ = rustix::thread::set_name(c"berth");
    let filter = EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let said = said_file(&paths);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(SaidTo(said))
        .with_target(false)
        .with_ansi(colour)
        .compact()
        .init();
    let tcp = args.tcp();
    run(Options { paths, dirs: args.dirs, echo: !args.quiet, tcp, main: args.main })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_the_last_lines_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("up.log");
        let mut by_its_process = File::options().append(true).create(true).open(&path).unwrap();
        let file = File::options().read(true).append(true).open(&path).unwrap();
        for number in 0..100 {
            writeln!(by_its_process, "line {number:04}").unwrap();
            cut(&file, 100).unwrap();
            assert!(file.metadata().unwrap().len() <= 100);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 00") && text.ends_with("line 0098\nline 0099\n"), "{text}");
    }
}
