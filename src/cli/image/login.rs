//! `login` and `logout`: Docker's `config.json`, and its credential helpers.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use super::args::Login as Args;
use super::transfer::as_json;
use crate::cli::client::{Client, message};
use crate::cli::session::Signals;
use crate::cli::{Failure, Result, complain, print, terminal};
use crate::image::registry::{Credentials, Login};

/// Longer than any password or token.
const SECRET_MAX: u64 = 64 << 10;

pub async fn log_in(client: &Client, args: &Args) -> Result {
    let registry = host_of(&args.registry);
    let user = match &args.username {
        Some(user) => user.clone(),
        None if std::io::stdin().is_terminal() && !args.password_stdin => asked("Username: ")?,
        None => return Err("who? give a name with --username".into()),
    };
    let password = match &args.password {
        Some(password) => {
            complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().lock().take(SECRET_MAX).read_to_string(&mut text)?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        None if std::io::stdin().is_terminal() => hidden("Password: ").await?,
        None => {
            return Err("cannot ask for a password: standard input is no terminal; use \
                        --password-stdin"
                .into());
        }
    };
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    let login = Login::Password { user, password };
    let (status, body) = client.post("/auth", &as_json(&login, &registry)).await?;
    if !status.is_success() {
        return Err(Failure(message(&body)));
    }
    Credentials::of_docker().store(&registry, &login).await?;
    print("Login Succeeded\n")?;
    Ok(ExitCode::SUCCESS)
}

pub async fn log_out(registry: &str) -> Result {
    let registry = host_of(registry);
    match Credentials::of_docker().erase(&registry).await? {
        true => print(&format!("Removing login credentials for {registry}\n"))?,
        false => print(&format!("Not logged in to {registry}\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// People paste URLs, and Docker's old name for its own registry.
fn host_of(registry: &str) -> String {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

fn asked(prompt: &str) -> Result<String> {
    print(prompt)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim() {
        "" => Err("the name is empty".into()),
        line => Ok(line.to_owned()),
    }
}

/// Reads a line that is not shown. A signal that ends the command meanwhile leaves the
/// terminal as it was.
async fn hidden(prompt: &str) -> Result<String> {
    print(prompt)?;
    let mut signals = Signals::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT])?;
    let silent = terminal::Silent::enter()?;
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let read = tokio::select! {
        read = reading => read?,
        number = signals.next() => {
            drop(silent);
            print("\n")?;
            // The thread that reads would be waited for.
            std::process::exit(128 + number);
        }
    };
    drop(silent);
    print("\n")?;
    Ok(read?.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_by_their_host() {
        assert_eq!(host_of("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(host_of("r.example:5000/shop"), "r.example:5000");
        assert_eq!(host_of("docker.io"), "docker.io");
    }
}
