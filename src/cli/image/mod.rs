//! Images and the files of containers on the command line: Docker's verbs, its words
//! and its exit statuses. All of it is asked of the engine; only logins are read here,
//! since they are those of whoever types the command.

mod args;
mod copy;
mod files;
mod list;
mod login;
mod progress;
mod transfer;
mod usage;

pub use args::{ImageCommand, Pull};
pub use list::in_path;
pub use progress::Shown;
pub use transfer::pull_with;

use super::Result;
use super::client::Client;

/// Does what one of these commands says.
pub async fn run(client: &Client, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Pull(args) => transfer::pull(client, &args).await,
        ImageCommand::Push(args) => transfer::push(client, &args).await,
        ImageCommand::Save(args) => transfer::save(client, &args).await,
        ImageCommand::Load(args) => transfer::load(client, &args).await,
        ImageCommand::Import(args) => transfer::import(client, &args).await,
        ImageCommand::Tag { source, target } => list::tag(client, &source, &target).await,
        ImageCommand::Rmi { images, force } => list::remove(client, &images, force).await,
        ImageCommand::Images(args) => list::images(client, &args).await,
        ImageCommand::History(args) => list::history(client, &args).await,
        ImageCommand::Export(args) => files::export(client, &args).await,
        ImageCommand::Cp(args) => copy::copy(client, &args).await,
        ImageCommand::Diff { name } => files::diff(client, &name).await,
        ImageCommand::Commit(args) => files::commit(client, &args).await,
        ImageCommand::Clone(args) => files::clone(client, &args).await,
        ImageCommand::Login(args) => login::log_in(client, &args).await,
        ImageCommand::Logout { registry } => login::log_out(&registry).await,
        ImageCommand::Prune(args) => usage::prune(client, &args).await,
        ImageCommand::Df { verbose, format } => usage::df(client, verbose, format).await,
        ImageCommand::Verify { repair, format } => usage::verify(client, repair, format).await,
    }
}
