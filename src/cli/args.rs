//! What can be written behind `berth`. Help, completions and man pages are
//! generated from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::image::ImageCommand;
use super::machine::{Down, Init, Kexec, Shutdown};
use super::run_args::{Attach, Create, Exec, Limits, Run};
use crate::engine::start::Tcp;

/// Keeps the machine as its manifests say: supervisor, container engine and init.
#[derive(Debug, Parser)]
#[command(name = "berth", version, propagate_version = true, max_term_width = 100)]
pub struct Args {
    /// The folder that everything of this Berth is below.
    #[arg(long, global = true, default_value = "/", env = "BERTH_ROOT", value_name = "DIR")]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run what the manifests say, and keep it running.
    Up(Up),
    /// Make a container and run it.
    Run(Box<Run>),
    /// Make a container without running it.
    Create(Box<Create>),
    /// Run a command inside a container.
    Exec(Exec),
    /// Attach to a container that runs.
    Attach(Attach),
    /// Print the manifest of a container, as a file that makes the same one elsewhere.
    Manifest {
        /// Which container.
        name: String,
    },
    /// List containers.
    Ps {
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
        /// Only their names.
        #[arg(short, long)]
        quiet: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print all that is known of containers or images, as JSON.
    Inspect {
        /// Which containers or images.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Print what a container has printed.
    Logs(Logs),
    /// Start containers.
    Start {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Stop containers; they stay stopped until they are started or edited.
    Stop {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Seconds before SIGKILL, instead of the manifest's timeout.
        #[arg(short, long = "time", visible_alias = "timeout", allow_negative_numbers = true)]
        time: Option<String>,
        /// The signal, instead of the manifest's.
        #[arg(short, long)]
        signal: Option<String>,
    },
    /// Stop and start containers.
    Restart {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Seconds before SIGKILL, instead of the manifest's timeout.
        #[arg(short, long = "time", visible_alias = "timeout", allow_negative_numbers = true)]
        time: Option<String>,
    },
    /// Send a signal to containers.
    Kill {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Which signal; SIGKILL without it.
        #[arg(short, long)]
        signal: Option<String>,
    },
    /// Wait until containers end, and print their exit statuses.
    Wait {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove containers that no manifest declares.
    Rm {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Also those that run.
        #[arg(short, long)]
        force: bool,
        /// With the volumes that nobody named and nobody else uses.
        #[arg(short, long)]
        volumes: bool,
    },
    /// Freeze all processes of containers.
    Pause {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Let frozen containers go on.
    Unpause {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Change limits or the restart policy of containers, while they run.
    Update(Update),
    /// Give a container another name.
    Rename {
        /// Which container.
        name: String,
        /// Its new name.
        to: String,
    },
    /// Have containers read their configuration again, as their manifests say.
    Reload {
        /// Which containers.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show all containers live, or list the processes of one.
    Top {
        /// Which container; without a name the screen of all.
        name: Option<String>,
    },
    /// Networks: list, make, remove them, bring containers onto them.
    #[command(subcommand)]
    Network(super::network::Network),
    /// Print what happens.
    Events {
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
        /// From this time on: 10m, 2026-01-31T12:00:00Z, seconds since 1970.
        #[arg(long)]
        since: Option<String>,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print what containers use.
    Stats {
        /// Which containers; without names all that run.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Once, not every second.
        #[arg(long)]
        no_stream: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Images, and the files of containers.
    #[command(flatten)]
    Image(ImageCommand),
    /// Say what is wrong with manifests.
    Check {
        /// Check one file as if it had this name: for tools that check before they move
        /// a file into its place.
        #[arg(long = "as", value_name = "FILE-NAME")]
        name: Option<String>,
        /// Files or directories, each by itself; without any all that is in force.
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say what manifests would change: exit status 0 nothing, 2 something, 1 an error.
    Plan {
        /// Directories of manifests; without them those in force.
        #[arg(value_name = "DIR")]
        dirs: Vec<PathBuf>,
        /// From the records on disk, without a running Berth.
        #[arg(long)]
        offline: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the JSON Schema of manifests.
    Schema {
        /// Of files NAME.network.toml.
        #[arg(long)]
        network: bool,
    },
    /// Replace the running Berth by the binary that is on disk now.
    Reexec,
    /// Print the versions of this program and of the running Berth.
    Version {
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print what the running Berth is and has.
    Info {
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages.
    Man {
        /// Where to.
        dir: PathBuf,
    },
    /// Take over what changed in the manifests, now, and wait until it is so if asked:
    /// exit status 0 all are ready, 1 something failed, 124 it took too long.
    Apply(Apply),
    /// Say on one screen what runs, and what failed and why: exit status 1 if something
    /// did.
    Status {
        /// Only these containers, with more of their logs.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print how long each container took to be ready, in this boot.
    Blame,
    /// Print the chain of containers that others waited for longest.
    CriticalChain {
        /// Up to this container; without it up to the last that was ready.
        name: Option<String>,
    },
    /// Print a picture of the boot (SVG).
    Plot,
    /// From inside a container: say that it is ready, or well (sd_notify(3)).
    Notify {
        /// Lines such as READY=1, WATCHDOG=1, STATUS=text; READY=1 without any.
        #[arg(value_name = "KEY=VALUE")]
        lines: Vec<String>,
    },
    /// Say what a boot of this machine does, step by step, if Berth is its init.
    Boot,
    /// Stop everything and switch the machine off.
    Poweroff(Down),
    /// Stop everything and boot the machine again.
    Reboot(Down),
    /// Stop everything and the machine, and leave it powered.
    Halt(Down),
    /// Stop everything and go on with another kernel.
    Kexec(Kexec),
    /// Bring the machine down at a time, as other inits' shutdown does.
    Shutdown(Shutdown),
    /// Be nothing but an init for one command, as PID 1 of somebody else's container.
    Init(Init),
    /// What `up` starts as its child.
    #[command(hide = true)]
    Engine(Up),
}

/// Whether and how long it is waited for.
#[derive(Debug, Clone, ClapArgs)]
pub struct Apply {
    /// Wait until everything is ready or has failed.
    #[arg(short, long)]
    pub wait: bool,
    /// Wait no longer than this.
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<std::time::Duration>,
}

/// How `up` runs.
#[derive(Debug, Clone, ClapArgs)]
pub struct Up {
    /// Go on in the background, and wait until everything is ready or has failed; exit
    /// statuses as those of `apply`. If Berth runs, what changed is taken over.
    #[arg(short, long)]
    pub wait: bool,
    /// Wait no longer than this.
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Directories of manifests, instead of /etc/containers.d and the others.
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Do not print what containers print.
    #[arg(short, long)]
    pub quiet: bool,
    /// Serve the API over TCP, too: whoever has a certificate of --tls-ca is root here.
    #[arg(long, value_name = "ADDRESS:PORT", requires_all = ["tls_ca", "tls_cert", "tls_key"])]
    pub tcp: Option<std::net::SocketAddr>,
    /// PEM file of the authority whose certificates clients must have.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the server's certificates.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the server's key.
    #[arg(long, value_name = "FILE", requires = "tcp")]
    pub tls_key: Option<PathBuf>,
    /// End when this container does, with its exit status: as the entrypoint of somebody
    /// else's container. The others are stopped then. It is started again only if its
    /// restart policy is on-failure, and never waits for a time.
    #[arg(long, value_name = "NAME", conflicts_with = "wait")]
    pub main: Option<crate::manifest::scalar::Name>,
    /// In a session of its own: how --wait starts it.
    #[arg(long, hide = true)]
    pub own_session: bool,
}

impl Up {
    /// The words behind `berth` that start the same as a daemon.
    pub fn as_daemon(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["up".into(), "--quiet".into(), "--own-session".into()];
        let files = [
            ("--tls-ca", &self.tls_ca),
            ("--tls-cert", &self.tls_cert),
            ("--tls-key", &self.tls_key),
        ];
        words.extend(self.tcp.map(|tcp| format!("--tcp={tcp}").into()));
        for (flag, file) in files {
            words.extend(file.iter().flat_map(|file| [flag.into(), file.clone().into()]));
        }
        words.push("--".into());
        words.extend(self.dirs.iter().map(|dir| dir.clone().into()));
        words
    }

    /// Where the API is served over TCP.
    pub fn tcp(&self) -> Option<Tcp> {
        Some(Tcp {
            address: self.tcp?,
            ca: self.tls_ca.clone()?,
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}

/// What is changed of a container.
#[derive(Debug, Clone, ClapArgs)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args([
    "restart", "memory", "memory_swap", "cpus", "cpu_shares", "cpuset_cpus", "pids_limit",
]))]
pub struct Update {
    /// Which containers.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
}

/// What of a log is printed.
#[derive(Debug, Clone, ClapArgs)]
pub struct Logs {
    /// Which container.
    pub name: String,
    /// Go on with what comes.
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many of the last lines.
    #[arg(short = 'n', long = "tail", value_name = "LINES")]
    pub tail: Option<String>,
    /// From this time on: 10m, 2026-01-31T12:00:00Z, seconds since 1970.
    #[arg(long)]
    pub since: Option<String>,
    /// Up to this time.
    #[arg(long)]
    pub until: Option<String>,
    /// With the time of each line.
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only the standard output.
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only the standard error.
    #[arg(long)]
    pub stderr: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    /// No flag stands for two things, in any command.
    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_daemon_is_started_with_all_that_was_asked_for() {
        let read = |words: Vec<OsString>| {
            let words = std::iter::once("berth".into()).chain(words);
            match Args::parse_from(words).command {
                Command::Up(up) => up,
                other => panic!("{other:?}"),
            }
        };
        let words = "up --wait --timeout 9s --tcp 127.0.0.1:2376 --tls-ca ca.pem --tls-cert c.pem \
                     --tls-key k.pem a -- -b";
        let asked = read(words.split_whitespace().map(Into::into).collect());
        let daemon = read(asked.as_daemon());
        assert!(daemon.own_session && daemon.quiet && !daemon.wait);
        assert_eq!((daemon.tcp, &daemon.dirs), (asked.tcp, &asked.dirs));
        assert_eq!((daemon.tls_ca, daemon.tls_cert), (asked.tls_ca, asked.tls_cert));
        assert_eq!(daemon.tls_key, asked.tls_key);
    }
}
