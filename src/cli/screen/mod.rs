//! `top` without a name: all containers on the terminal's screen, live. What is shown
//! is [`state`]'s, how it looks [`draw`]'s; here are the keys and the clock.

mod draw;
mod look;
mod state;

use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;

use super::client::{Client, encode};
use super::printable::plain;
use super::session::Signals;
use super::{Failure, Result, print, terminal};
use look::{Seen, look};
use state::State;

/// So many containers on with a key for many.
const PAGE: isize = 10;
/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);
/// An engine that has not answered by then is said to be late.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    /// Another container, so many places on.
    Choose(isize),
    /// An order of the API to the chosen container.
    Order(&'static str),
    Shell,
    Logs,
}

fn wish(key: KeyEvent) -> Wish {
    if key.kind != KeyEventKind::Press {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Up | KeyCode::Char('k') => Wish::Choose(-1),
        KeyCode::Down | KeyCode::Char('j') => Wish::Choose(1),
        KeyCode::PageUp => Wish::Choose(-PAGE),
        KeyCode::PageDown => Wish::Choose(PAGE),
        KeyCode::Home | KeyCode::Char('g') => Wish::Choose(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => Wish::Choose(isize::MAX),
        KeyCode::Char('a') => Wish::Order("start"),
        KeyCode::Char('s') => Wish::Order("stop"),
        KeyCode::Char('r') => Wish::Order("restart"),
        KeyCode::Char('p') => Wish::Order("pause"),
        KeyCode::Char('e') | KeyCode::Enter => Wish::Shell,
        KeyCode::Char('l') => Wish::Logs,
        _ => Wish::Nothing,
    }
}

/// Shows the screen until the person has enough of it.
pub async fn top(client: &Client, root: &Path) -> Result {
    if !terminal::is_terminal() || terminal::size().is_none() {
        return Err("top shows a screen, and this is no terminal; name a container for the list \
                    of its processes, or see `berth stats --no-stream`"
            .into());
    }
    let mut state = State::default();
    state.see(look(client, None).await?);
    let mut screen = ratatui::init();
    let ended = show(client, root, &mut screen, &mut state).await;
    ratatui::restore();
    // What is still asked is not waited for.
    ended
}

/// What ends a program: the terminal must be as it was before.
const ENDING: [i32; 2] = [libc::SIGTERM, libc::SIGHUP];
/// The same by a key, where the terminal is not raw.
const TYPED: [i32; 2] = [libc::SIGINT, libc::SIGQUIT];

/// What comes to the screen from elsewhere.
enum News {
    Seen(Result<Seen>),
    Said(String),
}

async fn show(
    client: &Client,
    root: &Path,
    screen: &mut ratatui::DefaultTerminal,
    state: &mut State,
) -> Result {
    let (mut ending, mut typed) = (Signals::of(&ENDING)?, Signals::of(&TYPED)?);
    let (tell, mut news) = mpsc::unbounded_channel();
    let mut looked = Instant::now();
    let mut is_looking = false;
    // Asked again only when the last one came: another thread would take half of the keys.
    let mut key = read_event();
    loop {
        screen.draw(|frame| draw::draw(frame, state))?;
        let next = match is_looking {
            false => looked + INTERVAL,
            true => looked + PATIENCE,
        };
        let event = tokio::select! {
            event = &mut key => event??,
            number = ending.next() => return Ok(signalled(number)),
            number = typed.next() => return Ok(signalled(number)),
            Some(news) = news.recv() => {
                match news {
                    News::Seen(Ok(seen)) => {
                        state.see(seen);
                        state.is_stale = false;
                    }
                    // The engine may be back in a moment.
                    News::Seen(Err(Failure(error))) => state.said = plain(&error),
                    News::Said(text) => {
                        state.said = plain(&text);
                        continue;
                    }
                }
                is_looking = false;
                continue;
            }
            () = tokio::time::sleep_until(next.into()) => {
                if is_looking {
                    state.is_stale = true;
                }
                let was_looking = std::mem::replace(&mut is_looking, true);
                looked = Instant::now();
                if !was_looking {
                    let (client, tell) = (client.clone(), tell.clone());
                    let chosen = state.chosen().map(|view| view.name.clone());
                    tokio::task::spawn_local(async move {
                        let _ = tell.send(News::Seen(look(&client, chosen).await));
                    });
                }
                continue;
            }
        };
        if let Event::Key(pressed) = event {
            let wish = wish(pressed);
            match wish {
                Wish::Quit => return Ok(ExitCode::SUCCESS),
                Wish::Choose(by) => state.choose(by),
                Wish::Order(verb) => order(client, state, verb, tell.clone()),
                Wish::Shell | Wish::Logs => {
                    let what = if wish == Wish::Shell { Aside::Shell } else { Aside::Logs };
                    aside(screen, state, root, what)?;
                    // Ctrl-C was for that command alone: it comes in now, and is left.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    typed = Signals::of(&TYPED)?;
                }
                Wish::Nothing => {}
            }
        }
        key = read_event();
    }
}

/// The exit status of a program that a signal has ended.
fn signalled(number: i32) -> ExitCode {
    ExitCode::from(128 + u8::try_from(number).unwrap_or(0))
}

/// The next key or change of the size.
fn read_event() -> JoinHandle<std::io::Result<Event>> {
    tokio::task::spawn_blocking(event::read)
}

fn order(client: &Client, state: &mut State, verb: &'static str, tell: UnboundedSender<News>) {
    let Some(view) = state.chosen() else { return };
    let verb = if verb == "pause" && view.state == "paused" { "unpause" } else { verb };
    let name = view.name.to_string();
    let path = format!("/containers/{}/{verb}", encode(&name));
    let client = client.clone();
    // A stop may take its time; the screen goes on meanwhile.
    state.said = format!("{verb} {name} …");
    tokio::task::spawn_local(async move {
        let text = match client.ask(Method::POST, &path).await {
            Ok(_) => format!("{verb} {name}: done"),
            Err(Failure(error)) => error,
        };
        let _ = tell.send(News::Said(text));
    });
}

/// Another command of ours that has the terminal for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aside {
    Shell,
    Logs,
}

impl Aside {
    fn words(self, name: &str) -> Vec<&str> {
        match self {
            Aside::Shell => vec!["exec", "-it", name, "sh"],
            Aside::Logs => vec!["logs", "-f", "-n", "200", name],
        }
    }

    /// Whether it ended so that what it printed must be read: a shell ends with the
    /// status of its last command, which was seen (125 to 127: there was no shell).
    fn failed(self, status: ExitStatus) -> bool {
        match (self, status.code()) {
            (_, None | Some(0)) => false,
            (Aside::Shell, Some(code)) => (125..=127).contains(&code),
            (Aside::Logs, Some(_)) => true,
        }
    }
}

/// Runs it, and comes back when it ends.
fn aside(
    screen: &mut ratatui::DefaultTerminal,
    state: &State,
    root: &Path,
    aside: Aside,
) -> Result<()> {
    let Some(view) = state.chosen() else { return Ok(()) };
    ratatui::restore();
    let ran = std::process::Command::new(std::env::current_exe()?)
        .arg("--root")
        .arg(root)
        .args(aside.words(view.name.as_str()))
        .status();
    if let Ok(status) = &ran
        && aside.failed(*status)
    {
        // The screen would wipe out what it said.
        print("Enter goes back to the list ")?;
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    *screen = ratatui::init();
    screen.clear()?;
    ran.map(drop).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_meaning() {
        let press = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(press(KeyCode::Char('s')), Wish::Order("stop"));
        assert_eq!(press(KeyCode::Down), Wish::Choose(1));
        assert_eq!(press(KeyCode::PageUp), Wish::Choose(-PAGE));
        assert_eq!(press(KeyCode::End), Wish::Choose(isize::MAX));
        assert_eq!(press(KeyCode::Char('z')), Wish::Nothing);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(interrupt), Wish::Quit);
    }
}
