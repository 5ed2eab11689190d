//! Commands that need no engine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::args::{Args, Format};
use super::{Result, print};
use crate::engine::paths::Paths;
use crate::engine::reconcile::{Desired, Now, Observed};
use crate::engine::store;
use crate::manifest::{Loader, schema as manifest_schema};

/// Every problem of these files and directories; exit status 1 if there is any.
/// With `together` all are as one: the same name in an earlier directory wins, and one that
/// does not exist is empty.
pub fn check(paths: &[PathBuf], together: bool, format: Format) -> Result {
    let mut loaded = Vec::new();
    if together {
        loaded.push(Loader::new(paths.to_vec()).load());
    }
    for path in paths.iter().filter(|_| !together) {
        if !path.exists() && !path.is_symlink() {
            return Err(format!("{}: there is no such file or directory", path.display()).into());
        }
        loaded.push(Loader::new(vec![path.clone()]).load());
    }
    let problems: Vec<_> = loaded.iter().flat_map(|loaded| &loaded.problems).collect();
    let passed_over: Vec<_> = loaded.iter().flat_map(|loaded| &loaded.passed_over).collect();
    let good: usize = loaded.iter().map(|loaded| loaded.containers.len()).sum();
    let networks: usize = loaded.iter().map(|loaded| loaded.networks.len()).sum();
    match format {
        Format::Json => {
            let value = serde_json::json!({
                "containers": good,
                "networks": networks,
                "problems": problems,
                "passed-over": passed_over,
            });
            print(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        }
        Format::Text => {
            let mut text = String::new();
            for problem in &problems {
                text += &format!("\x1b[31merror\x1b[0m: {}\n\n", problem.render());
            }
            for path in &passed_over {
                text += &format!("passed over: {} is no manifest\n", path.display());
            }
            text += &match problems.len() {
                0 => {
                    let networks = match networks {
                        0 => String::new(),
                        1 => " and 1 network".to_owned(),
                        count => format!(" and {count} networks"),
                    };
                    let are = if good == 1 && networks.is_empty() { "is" } else { "are" };
                    let s = if good == 1 { "" } else { "s" };
                    format!("{good} container{s}{networks} {are} good\n")
                }
                1 => "1 problem\n".to_owned(),
                count => format!("{count} problems\n"),
            };
            print(&text)?;
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One file, as if it had another name.
pub fn check_as(name: &str, paths: &[PathBuf], format: Format) -> Result {
    let [path] = paths else { return Err("--as goes with one file".into()) };
    if name.contains('/') || name.starts_with('.') || name.is_empty() {
        return Err(format!("{name:?} is not a file's name").into());
    }
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join(name);
    std::fs::copy(path, &copy).map_err(|error| format!("reading {}: {error}", path.display()))?;
    check(&[copy], false, format)
}

pub fn schema(network: bool) -> Result {
    let schema = if network { crate::manifest::network_schema() } else { manifest_schema() };
    print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
    Ok(ExitCode::SUCCESS)
}

/// What the manifests would change, judged by the records that are on disk.
pub fn plan(paths: &Paths, dirs: Vec<PathBuf>, format: Format) -> Result {
    let loaded = Loader::new(paths.sources(dirs)).load();
    if !loaded.problems.is_empty() {
        let all: Vec<String> = loaded.problems.iter().map(|problem| problem.render()).collect();
        return Err(all.join("\n").into());
    }
    let records = store::read_only(&paths.records_dir(), &paths.run_dir().join("records"));
    let boot_id = records.first().map(|record| record.boot_id.clone()).unwrap_or_default();
    let now = Now { mono: std::time::Duration::ZERO, wall: 0, boot_id };
    let observed = Observed::restore(records, 0, &now);
    let mut desired = Desired::default();
    let containers = loaded
        .containers
        .into_iter()
        .map(|(name, definition)| (observed.meant(&name), definition.container))
        .collect();
    desired.replace(containers, std::collections::BTreeMap::new());
    let changes: Vec<_> = crate::engine::plan::plan(&desired, &observed)
        .iter()
        .map(serde_json::to_value)
        .collect::<std::result::Result<_, _>>()?;
    super::verbs::print_plan(&changes, format)
}

pub fn completions(shell: clap_complete::Shell) -> Result {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "berth", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

pub fn man(dir: PathBuf) -> Result {
    std::fs::create_dir_all(&dir)?;
    clap_mangen::generate_to(Args::command(), &dir)?;
    Ok(ExitCode::SUCCESS)
}
