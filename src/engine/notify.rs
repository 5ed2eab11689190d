//! What containers say of themselves: sd_notify(3), a pipe, a port that is open; and
//! whether the conditions of a launch hold.
//!
//! Nothing that was said is lost with the engine: the keeper holds socket and pipe, a
//! message is taken out of the socket only when what it changed is written down, and
//! the pipe is looked at, never read.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::sync::oneshot;

use super::prepare::Signs;
use super::reconcile::{Event, Phase};
use super::run::{Effect, Engine};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::sys::{readiness, rights};

/// The longest message of sd_notify(3) that is read.
const MESSAGE_MAX: usize = 4096;
/// How often a port that is not open yet is looked for.
const PORT: Duration = Duration::from_millis(50);
/// The pause grows up to this.
const PORT_MAX: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes the ways of a new launch: the keeper holds them, and they are listened to.
    pub(super) fn take_signs(
        &mut self,
        name: &Name,
        incarnation: u64,
        signs: Signs,
    ) -> Result<(), String> {
        for (kind, end) in [('m', &signs.socket), ('r', &signs.pipe)] {
            if end.is_some() {
                self.hold(&format!("{kind}/{name}"), end.as_ref())?;
            }
        }
        let live = self.lives.entry(name.clone()).or_default();
        let earlier = std::mem::replace(&mut live.signs, signs);
        earlier.socket.into_iter().for_each(rights::close);
        live.said = None;
        self.listen_to(name, incarnation);
        Ok(())
    }

    /// Listens to what a container says, in place of an earlier ear.
    pub(super) fn listen_to(&mut self, name: &Name, incarnation: u64) {
        let effects = self.effects.clone();
        let live = self.lives.entry(name.clone()).or_default();
        for earlier in live.listening.drain(..) {
            earlier.abort();
        }
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().and_then(|fd| fd.try_clone().ok());
        if let Some(socket) = copy(&live.signs.socket) {
            let (name, effects) = (name.clone(), effects.clone());
            let task = tokio::task::spawn_local(async move {
                let Ok(socket) = readiness::watch(socket, Interest::READABLE) else { return };
                loop {
                    let Ok(mut guard) = socket.readable().await else { return };
                    let mut bytes = [0u8; MESSAGE_MAX];
                    match rights::peek(socket.get_ref().as_fd(), &mut bytes) {
                        Ok((len, has_fds)) => {
                            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                            let (done, written) = oneshot::channel();
                            let said = Effect::Said { name: name.clone(), incarnation, text, done };
                            if effects.send(said).is_err() || written.await.is_err() {
                                return;
                            }
                            remove(socket.get_ref(), has_fds).await;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                        Err(_) => return,
                    }
                }
            });
            live.listening.push(task.abort_handle());
        }
        if let Some(pipe) = copy(&live.signs.pipe) {
            let (name, effects) = (name.clone(), effects.clone());
            let task = tokio::task::spawn_local(async move {
                let Ok(pipe) = readiness::watch(pipe, Interest::READABLE) else { return };
                if pipe.readable().await.is_ok()
                    // An end of file is readable, too: it gave up the promise.
                    && rustix::io::ioctl_fionread(pipe.get_ref()).is_ok_and(|bytes| bytes > 0)
                {
                    let _ = effects.send(Effect::Event(Event::Ready { name, incarnation }));
                }
            });
            live.listening.push(task.abort_handle());
        }
    }

    /// Looks for the port of a container that is ready when it listens there.
    pub(super) fn watch_port(&mut self, name: &Name, incarnation: u64) {
        let Some(record) = self.observed.record(name) else { return };
        let Some(port) = record.applied.as_ref().and_then(|manifest| manifest.ready.listen) else {
            return;
        };
        if !matches!(&record.phase, Phase::Running(run) if run.ready.is_none()) {
            return;
        }
        let Some(pid) = self.lives.get(name).and_then(|l| l.running(incarnation)).map(|p| p.pid)
        else {
            return;
        };
        let (of, effects) = (name.clone(), self.effects.clone());
        let task = tokio::task::spawn_local(async move {
            let mut pause = PORT;
            loop {
                // A machine with many connections has long tables.
                let open = tokio::task::spawn_blocking(move || {
                    let files = [format!("/proc/{pid}/net/tcp"), format!("/proc/{pid}/net/tcp6")];
                    files.iter().any(|file| {
                        std::fs::read_to_string(file).is_ok_and(|table| listens(&table, port))
                    })
                });
                if open.await.unwrap_or(false) {
                    let ready = Event::Ready { name: of, incarnation };
                    let _ = effects.send(Effect::Event(ready));
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PORT_MAX);
            }
        });
        let live = self.lives.entry(name.clone()).or_default();
        live.listening.push(task.abort_handle());
    }

    /// A message of sd_notify(3): lines `KEY=value`.
    pub(super) fn said(
        &mut self,
        name: &Name,
        incarnation: u64,
        text: &str,
        done: oneshot::Sender<()>,
    ) {
        for line in text.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => {
                    self.apply(Event::Ready { name: name.clone(), incarnation });
                }
                Some(("WATCHDOG", "1")) => {
                    self.apply(Event::Alive { name: name.clone(), incarnation });
                }
                Some(("STATUS", status)) => {
                    if let Some(live) = self.lives.get_mut(name) {
                        live.said = Some(shown(status));
                    }
                }
                _ => {}
            }
        }
        self.heard.push(done);
    }

    /// What was said has been written down: it can be taken out of its socket.
    pub(super) fn answer_heard(&mut self) {
        for done in self.heard.drain(..) {
            let _ = done.send(());
        }
    }

    /// The container has ended: it says nothing more.
    pub(super) fn stop_listening(&mut self, name: &Name) {
        let Some(live) = self.lives.get_mut(name) else { return };
        for task in live.listening.drain(..) {
            task.abort();
        }
        let signs = std::mem::take(&mut live.signs);
        let held = [('m', signs.socket.is_some()), ('r', signs.pipe.is_some())];
        // Before the keeper closes its own: what is in it must not be the keeper's to close.
        signs.socket.into_iter().for_each(rights::close);
        for (kind, held) in held {
            if held {
                let _ = self.hold(&format!("{kind}/{name}"), None);
            }
        }
    }
}

/// Takes a message out of its socket. Descriptors that came with it are closed by not being
/// taken, which is what sd_notify_barrier(3) waits for; a thread of its own does that.
async fn remove(socket: &OwnedFd, has_fds: bool) {
    fn take(socket: &OwnedFd) {
        let _ = recv(socket, &mut [0u8; 1], RecvFlags::DONTWAIT);
    }
    if !has_fds {
        return take(socket);
    }
    // What is still there is looked at again at once.
    let later = tokio::time::sleep(Duration::from_millis(100));
    let Ok(copy) = socket.try_clone() else { return later.await };
    let (taken, wait) = oneshot::channel();
    let thread = std::thread::Builder::new().name("closing".into());
    let started = thread.spawn(move || {
        take(&copy);
        let _ = taken.send(());
    });
    match started {
        Ok(_) => drop(wait.await),
        Err(_) => later.await,
    }
}

/// A status for people's terminals: one line, without control characters, not too long.
fn shown(status: &str) -> String {
    const LONGEST: usize = 300;
    status.chars().filter(|char| !char.is_control()).take(LONGEST).collect()
}

/// Whether anything has to be looked at before this container may be launched.
pub(super) fn has_conditions(container: &Container) -> bool {
    !container.if_exists.is_empty()
        || container.if_virtual.is_some()
        || !container.if_kernel.is_empty()
}

/// Whether a table of proc_net(5) has a socket that listens (state 0A) on a port.
fn listens(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&wanted) && fields.nth(1) == Some("0A")
    })
}

/// What speaks against running a container on this machine, in a sentence. Blocks, for as
/// long as a file system may hang.
pub(super) fn unmet(container: &Container) -> Option<String> {
    for path in &container.if_exists {
        let (wanted, path) = match path.strip_prefix('!') {
            Some(path) => (false, path),
            None => (true, path.as_str()),
        };
        if std::path::Path::new(path).exists() != wanted {
            let verb = if wanted { "does not exist" } else { "exists" };
            return Some(format!("{path} {verb}"));
        }
    }
    if let Some(wanted) = container.if_virtual
        && is_virtual() != wanted
    {
        return Some(match wanted {
            true => "this is no virtual machine".to_owned(),
            false => "this is a virtual machine".to_owned(),
        });
    }
    if container.if_kernel.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words = crate::boot::cmdline::CommandLine::parse(&text).words;
    for word in &container.if_kernel {
        let (wanted, word) = match word.strip_prefix('!') {
            Some(word) => (false, word),
            None => (true, word.as_str()),
        };
        let has = words.iter().any(|other| is_word(other, word));
        if has != wanted {
            let verb = if wanted { "does not have" } else { "has" };
            return Some(format!("the kernel's command line {verb} {word}"));
        }
    }
    None
}

/// Whether a word of the kernel's command line is this key, or this `key=value`; values
/// have options behind commas (`console=ttyS0,115200`).
fn is_word(other: &str, word: &str) -> bool {
    other.strip_prefix(word).is_some_and(|rest| match word.contains('=') {
        true => rest.is_empty() || rest.starts_with(','),
        false => rest.is_empty() || rest.starts_with('='),
    })
}

/// Whether a hypervisor is below: the processor says so, or the firmware's maker is one
/// (systemd-detect-virt(1)).
fn is_virtual() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let by_processor = flags
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    let makers = ["QEMU", "KVM", "VMware", "innotek", "VirtualBox", "Xen", "Bochs", "Parallels"];
    let firmware = ["sys_vendor", "product_name", "bios_vendor"].into_iter().any(|file| {
        let text = std::fs::read_to_string(format!("/sys/class/dmi/id/{file}")).unwrap_or_default();
        makers.iter().any(|maker| text.contains(maker))
    });
    by_processor || firmware
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_for_a_terminal() {
        assert_eq!(shown("\u{1b}[2Jgone\u{9b}1m\r\u{7}"), "[2Jgone1m");
        assert_eq!(shown(&"x".repeat(5000)).len(), 300);
    }

    #[test]
    fn words_of_the_kernel_are_known_with_their_options() {
        for (other, word, same) in [
            ("console=ttyS0", "console=ttyS0", true),
            ("console=ttyS0,115200n8", "console=ttyS0", true),
            ("console=ttyS01", "console=ttyS0", false),
            ("console=tty0", "console", true),
            ("consoles", "console", false),
            ("quiet", "quiet", true),
            ("quiet,x", "quiet", false),
        ] {
            assert_eq!(is_word(other, word), same, "{other} {word}");
        }
    }

    #[test]
    fn a_port_that_listens_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
               0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
               1: 0100007F:0050 0100007F:8000 01 00000000:00000000\n";
        assert!(listens(table, 8080));
        assert!(!listens(table, 80), "that one is a connection");
        assert!(!listens(table, 90));
    }

    #[test]
    fn conditions_are_looked_at() {
        let with = |text: &str| -> Container { toml::from_str(text).unwrap() };
        assert_eq!(unmet(&with("if-exists = [\"/proc/self\", \"!/nowhere\"]")), None);
        let missing = unmet(&with("if-exists = [\"/nowhere\"]"));
        assert_eq!(missing.as_deref(), Some("/nowhere does not exist"));
        let there = unmet(&with("if-exists = [\"!/proc\"]"));
        assert_eq!(there.as_deref(), Some("/proc exists"));
        assert!(unmet(&with("if-kernel = [\"no.such.word\"]")).is_some());
        assert_eq!(unmet(&with("if-kernel = [\"!no.such.word\"]")), None);
        let machine = [true, false]
            .map(|wanted| Container { if_virtual: Some(wanted), ..Container::default() });
        assert_eq!(machine.iter().filter(|one| unmet(one).is_none()).count(), 1);
    }
}
