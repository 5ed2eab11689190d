//! `top` without a name: all containers on the terminal's screen, live. What is shown
//! is [`state`]'s, how it looks [`draw`]'s; here are the keys and the clock.

mod draw;
mod state;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::client::{Client, encode};
use super::{Failure, Result, terminal};
use state::State;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Up,
    Down,
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
        KeyCode::Up | KeyCode::Char('k') => Wish::Up,
        KeyCode::Down | KeyCode::Char('j') => Wish::Down,
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
pub async fn top(client: &Client, root: &std::path::Path) -> Result {
    if !terminal::is_terminal() || terminal::size().is_none() {
        return Err("top shows a screen, and this is no terminal; name a container for the list \
                    of its processes, or see `berth stats --no-stream`"
            .into());
    }
    let mut state = State::default();
    state.refresh(client).await?;
    let mut screen = ratatui::init();
    let ended = show(client, root, &mut screen, &mut state).await;
    ratatui::restore();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn show(
    client: &Client,
    root: &std::path::Path,
    screen: &mut ratatui::DefaultTerminal,
    state: &mut State,
) -> Result<()> {
    let mut looked = Instant::now();
    loop {
        screen.draw(|frame| draw::draw(frame, state))?;
        let left = INTERVAL.saturating_sub(looked.elapsed());
        match next_event(left).await? {
            Some(Event::Key(key)) => match wish(key) {
                Wish::Quit => return Ok(()),
                Wish::Up => state.choose(-1),
                Wish::Down => state.choose(1),
                Wish::Order(verb) => order(client, state, verb).await,
                Wish::Shell => {
                    aside(screen, state, root, |name| vec!["exec", "-it", name, "sh"])?;
                }
                Wish::Logs => {
                    aside(screen, state, root, |name| vec!["logs", "-f", "-n", "200", name])?
                }
                Wish::Nothing => {}
            },
            Some(_) => {}
            None => {
                looked = Instant::now();
                if let Err(Failure(error)) = state.refresh(client).await {
                    // The engine may be back in a moment.
                    state.said = error;
                }
            }
        }
    }
}

/// The next key or change of the size, if there is one by then.
async fn next_event(patience: Duration) -> Result<Option<Event>> {
    let waited = tokio::task::spawn_blocking(move || match event::poll(patience)? {
        true => event::read().map(Some),
        false => Ok(None),
    });
    Ok(waited.await??)
}

async fn order(client: &Client, state: &mut State, verb: &'static str) {
    let Some(view) = state.chosen() else { return };
    let verb = if verb == "pause" && view.state == "paused" { "unpause" } else { verb };
    let name = view.name.to_string();
    let path = format!("/containers/{}/{verb}", encode(&name));
    let (client, told) = (client.clone(), state.told.clone());
    // A stop may take its time; the screen goes on meanwhile.
    state.said = format!("{verb} {name} …");
    tokio::task::spawn_local(async move {
        let text = match client.ask(Method::POST, &path).await {
            Ok(_) => format!("{verb} {name}: done"),
            Err(Failure(error)) => error,
        };
        let _ = told.send(text);
    });
}

/// Runs another command of ours on the terminal, and comes back when it ends.
fn aside<'n>(
    screen: &mut ratatui::DefaultTerminal,
    state: &'n mut State,
    root: &std::path::Path,
    words: impl FnOnce(&'n str) -> Vec<&'n str>,
) -> Result<()> {
    let Some(view) = state.chosen() else { return Ok(()) };
    let name = view.name.as_str();
    ratatui::restore();
    // Ctrl-C is for that command alone.
    let kept = signal_hook::flag::register(
        signal_hook::consts::SIGINT,
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)),
    )?;
    let ran = std::process::Command::new(std::env::current_exe()?)
        .arg("--root")
        .arg(root)
        .args(words(name))
        .status();
    signal_hook::low_level::unregister(kept);
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
        assert_eq!(press(KeyCode::Down), Wish::Down);
        assert_eq!(press(KeyCode::Char('z')), Wish::Nothing);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(interrupt), Wish::Quit);
    }
}
