//! The terminal that a person sits at: raw while a session goes on, and as it was
//! whatever ends that.

use std::io::{IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use super::Result;

/// Puts the terminal of standard input into raw mode until it is dropped, also by a
/// panic. Signals that end this program are caught while it lives (`session`).
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())
            .map_err(|errno| format!("the input device is not a TTY: {errno}"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// What is typed on the terminal of standard input is not shown, until this is dropped.
#[derive(Debug)]
pub struct Silent(Termios);

impl Silent {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Rows and columns of the terminal, if there is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// What is typed, read by a thread of its own: it blocks until the program ends.
pub fn typing() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 32 << 10];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(len) => {
                    if sender.blocking_send(bytes[..len].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// Writes to standard output or error, at once.
pub fn show(stderr: bool, bytes: &[u8]) -> std::io::Result<()> {
    match stderr {
        true => std::io::stderr().lock().write_all(bytes),
        false => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
    }
}
