//! The command line: Docker's verbs and habits. Everything but `check`, `schema`,
//! `plan --offline`, `boot`, `completions`, `man` and what brings the machine down is a client of the API; `up` becomes
//! the keeper.

mod analysis;
mod apply;
mod args;
mod client;
mod image;
mod inspect;
mod list;
mod machine;
mod network;
mod offline;
mod printable;
mod request;
mod run;
mod run_args;
mod screen;
mod session;
mod status;
mod stream;
mod terminal;
mod up;
mod verbs;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

pub use args::Args;
use args::Command;
use client::Client;

use crate::keeper::ending::Ending;

/// What a command ends with when it fails.
#[derive(Debug)]
pub struct Failure(String);

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

type Result<T = ExitCode> = std::result::Result<T, Failure>;

/// Parses the arguments, does what they say, gives the exit status. As PID 1 and
/// called `init` it is the machine's init instead, and never returns.
pub fn main() -> ExitCode {
    if crate::boot::is_init() {
        crate::boot::main();
    }
    let words: Vec<_> = machine::by_name(std::env::args_os());
    let args = match Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return usage_status(&error, &words);
        }
    };
    let result = run(args);
    match result {
        Ok(code) => code,
        Err(Failure(message)) if message.is_empty() => ExitCode::FAILURE,
        Err(Failure(message)) => {
            complain(&format!("berth: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// The exit status of a line that is not understood. Where it would be taken for a
/// payload's, Docker's own.
fn usage_status(error: &clap::Error, words: &[std::ffi::OsString]) -> ExitCode {
    let is_verb = |word: &std::ffi::OsString| ["run", "exec"].iter().any(|verb| word == verb);
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if words.iter().skip(1).any(is_verb) => ExitCode::from(125),
        code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
    }
}

fn run(args: Args) -> Result {
    let paths = crate::engine::paths::Paths::new(args.root.clone());
    match args.command {
        Command::Up(up) if up.wait => up::in_background(&paths, &args.root, &up),
        Command::Up(up) => up::up(&paths, &args.root, &up),
        Command::Engine(engine) => up::engine(paths, engine),
        Command::Check { name: Some(name), paths, format } => {
            offline::check_as(&name, &paths, format)
        }
        Command::Check { paths: given, format, .. } if given.is_empty() => {
            offline::check(&paths.sources(Vec::new()), true, format)
        }
        Command::Check { paths, format, .. } => offline::check(&paths, false, format),
        Command::Schema { network } => offline::schema(network),
        Command::Plan { dirs, offline: true, format } => offline::plan(&paths, dirs, format),
        Command::Completions { shell } => offline::completions(shell),
        Command::Man { dir } => offline::man(dir),
        Command::Notify { lines } => machine::notify(&lines),
        Command::Boot => machine::plan(),
        Command::Poweroff(args) => machine::down(&paths, args.ending(Ending::PowerOff), args.force),
        Command::Reboot(args) => machine::down(&paths, args.ending(Ending::Reboot), args.force),
        Command::Halt(args) => machine::down(&paths, args.ending(Ending::Halt), args.force),
        Command::Kexec(args) => machine::kexec(&paths, &args),
        Command::Init(args) => machine::init(args),
        Command::Shutdown(args) => machine::shutdown(&paths, &args),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            let result =
                local.block_on(&runtime, talk(Client::new(paths.socket()), &paths, command));
            // A thread that waits for a key would be waited for.
            runtime.shutdown_background();
            result
        }
    }
}

async fn talk(client: Client, paths: &crate::engine::paths::Paths, command: Command) -> Result {
    match command {
        Command::Run(args) => run::run(&client, paths, &args).await,
        Command::Create(args) => run::create(&client, paths, &args).await,
        Command::Exec(args) => run::exec(&client, &args).await,
        Command::Attach(args) => run::attach(&client, &args).await,
        Command::Manifest { name } => run::manifest(&client, &name).await,
        Command::Ps { all, quiet, format } => list::ps(&client, all, quiet, format).await,
        Command::Inspect { names } => inspect::inspect(&client, &names).await,
        Command::Logs(logs) => stream::logs(&client, &logs).await,
        Command::Events { follow, since, format } => {
            stream::events(&client, follow, since, format).await
        }
        Command::Stats { names, no_stream, format } => {
            list::stats(&client, names, no_stream, format).await
        }
        Command::Network(command) => network::network(&client, command).await,
        Command::Start { names } => verbs::each(&client, &names, "start", &[]).await,
        Command::Stop { names, time, signal } => {
            verbs::each(&client, &names, "stop", &[("t", time), ("signal", signal)]).await
        }
        Command::Restart { names, time } => {
            verbs::each(&client, &names, "restart", &[("t", time)]).await
        }
        Command::Kill { names, signal } => {
            verbs::each(&client, &names, "kill", &[("signal", signal)]).await
        }
        Command::Pause { names } => verbs::each(&client, &names, "pause", &[]).await,
        Command::Unpause { names } => verbs::each(&client, &names, "unpause", &[]).await,
        Command::Update(args) => verbs::update(&client, &args).await,
        Command::Rename { name, to } => verbs::rename(&client, &name, &to).await,
        Command::Reload { names } => verbs::reload(&client, &names).await,
        Command::Rm { names, force, volumes } => {
            verbs::remove(&client, &names, force, volumes).await
        }
        Command::Wait { names } => verbs::wait(&client, &names).await,
        Command::Top { name: Some(name) } => list::top(&client, &name).await,
        Command::Top { name: None } => screen::top(&client, paths.root()).await,
        Command::Plan { dirs, format, .. } => verbs::plan(&client, dirs, format).await,
        Command::Apply(args) => apply::apply(&client, args.wait, args.timeout).await,
        Command::Status { names, format } => status::status(&client, &names, format).await,
        Command::Blame => analysis::blame(&client).await,
        Command::CriticalChain { name } => analysis::critical_chain(&client, name).await,
        Command::Plot => analysis::plot(&client).await,
        Command::Image(command) => image::run(&client, command).await,
        Command::Reexec => verbs::reexec(&client).await,
        Command::Version { format } => inspect::version(&client, format).await,
        Command::Info { format } => inspect::info(&client, format).await,
        // The others were done without an engine.
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Says what is wrong, on a line of standard error.
pub(crate) fn complain(text: &str) {
    let text = match io::stderr().is_terminal() {
        true => printable::printable(text),
        false => text.into(),
    };
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints, to a terminal what it may show; that nobody reads any more (`| head`) ends the
/// command quietly. What a container itself prints goes by [`terminal::show`], as it is.
pub(crate) fn print(text: &str) -> Result<()> {
    print_after("", text)
}

/// The same in place of all that a terminal shows (ECMA-48, 8.3.39 ED, 8.3.21 CUP).
pub(crate) fn print_anew(text: &str) -> Result<()> {
    print_after("\x1b[2J\x1b[H", text)
}

fn print_after(control: &str, text: &str) -> Result<()> {
    let text = match io::stdout().is_terminal() {
        true => printable::printable(text),
        false => text.into(),
    };
    let text = format!("{control}{text}");
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}
