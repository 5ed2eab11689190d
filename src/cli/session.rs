//! A person or a pipe at a container: what is typed goes in, what is printed comes
//! out, sizes and signals are passed on. A session goes on over the engine's death.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::client::{Client, encode};
use super::{Result, terminal};
use crate::api::DetachKeys;

/// What is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A container, by its id.
    Container(String),
    /// An exec, by its id.
    Exec(String),
}

/// When a container ended that has not: Go's zero time.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// How it is attached to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// When the container had ended last before it was attached to, as the API tells it.
    pub ended_before: Option<String>,
    /// It has a terminal.
    pub tty: bool,
    /// What is typed goes to it.
    pub stdin: bool,
    /// Its standard output is shown.
    pub stdout: bool,
    /// Its standard error is shown.
    pub stderr: bool,
    /// Signals that this program receives are passed on to the container.
    pub sig_proxy: bool,
    /// Instead of Ctrl-P Ctrl-Q.
    pub detach_keys: Option<String>,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing more comes.
    Ended,
    /// The person detached.
    Detached,
    /// What it prints can't be written any more; a broken pipe is SIGPIPE.
    Unwritable(Option<i32>),
    /// This program was told to end by a signal that it does not pass on.
    Signalled(i32),
}

type Stream = TokioIo<Upgraded>;

/// How the run is that a session is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Runs,
    /// It has ended; whether no other run has begun and ended since.
    Rests {
        is_last: bool,
    },
    /// Its target is no more, or runs once more.
    Gone,
}

/// A session that has begun.
pub struct Session<'a> {
    client: &'a Client,
    target: Target,
    options: Options,
    raw: Option<terminal::Raw>,
    typing: Option<Typing>,
    keys: DetachKeys,
    /// Where in the log it began, and what was seen since of both streams.
    position: Option<String>,
    seen: [u64; 2],
    /// Set by whoever has seen it meanwhile.
    engine_died: Rc<Cell<bool>>,
}

/// What is typed; it outlives the connections.
type Typing = Rc<Mutex<mpsc::Receiver<Vec<u8>>>>;

impl<'a> Session<'a> {
    /// Of this target; the terminal becomes raw if both ends are terminals.
    ///
    /// # Errors
    /// The detach keys are none, or standard input should be a terminal and is not.
    pub fn new(client: &'a Client, target: Target, options: Options) -> Result<Self> {
        let keys = DetachKeys::parse(options.detach_keys.as_deref())?;
        let raw = match options.tty && options.stdin {
            true => Some(terminal::Raw::enter()?),
            false => None,
        };
        let typing = options.stdin.then(|| Rc::new(Mutex::new(terminal::typing())));
        let (position, seen, engine_died) = (None, [0; 2], Rc::default());
        Ok(Session { client, target, options, raw, typing, keys, position, seen, engine_died })
    }

    /// To be set when the engine is seen to have died.
    pub fn engine_died(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.engine_died)
    }

    /// Attaches to a container; for one that was attached to before, goes on there.
    pub async fn attach(&mut self) -> Result<Stream> {
        let Target::Container(id) = &self.target else {
            return Err("an exec is started, not attached to".into());
        };
        let options = &self.options;
        let mut path = format!(
            "/containers/{}/attach?stream=1&stdin={}&stdout={}&stderr={}",
            encode(id),
            u8::from(options.stdin),
            u8::from(options.stdout),
            u8::from(options.stderr),
        );
        if let Some(keys) = &options.detach_keys {
            path += &format!("&detachKeys={}", encode(keys));
        }
        if let Some(position) = &self.position {
            let [stdout, stderr] = self.seen;
            path += &format!("&from={position}&seen-stdout={stdout}&seen-stderr={stderr}");
        }
        let (head, stream) = self.client.hijack(&path, Vec::new()).await?;
        if self.position.is_none() {
            let position = head.headers().get("berth-log-position");
            self.position = position.and_then(|p| p.to_str().ok()).map(str::to_owned);
        }
        Ok(stream)
    }

    /// Tells the target's terminal our size.
    pub async fn resize(&self) {
        if let (true, Some((rows, columns))) = (self.options.tty, terminal::size()) {
            let place = match &self.target {
                Target::Container(id) => format!("/containers/{}", encode(id)),
                Target::Exec(id) => format!("/exec/{}", encode(id)),
            };
            let path = format!("{place}/resize?h={rows}&w={columns}");
            // It may have ended just now.
            let _ = self.client.ask(Method::POST, &path).await;
        }
    }

    /// Talks until it is over. A connection that broke while the target lives is the
    /// engine's death: it is made anew.
    pub async fn run(&mut self, mut stream: Stream) -> Result<Over> {
        let mut signals = Signals::new(&self.options)?;
        loop {
            match self.talk(stream, &mut signals).await? {
                Over::Ended => {}
                over => return Ok(over),
            }
            match self.now().await? {
                Now::Runs => {}
                Now::Rests { is_last } => return self.talk_rest(signals, is_last).await,
                Now::Gone => return Ok(Over::Ended),
            }
            // It runs on, so the connection ended with the engine.
            let again = match &self.target {
                Target::Container(_) => self.attach().await,
                Target::Exec(id) if self.options.tty => {
                    let path = format!("/berth/exec/{}/join", encode(id));
                    self.client.hijack(&path, Vec::new()).await.map(|(_, stream)| stream)
                }
                Target::Exec(_) => {
                    return Err("the engine died, and the pipes of this command with it; the \
                                command itself may still run"
                        .into());
                }
            };
            match again {
                Ok(again) => stream = again,
                Err(_) if self.now().await? != Now::Runs => return Ok(Over::Ended),
                Err(error) => return Err(error),
            }
            self.resize().await;
        }
    }

    /// That run of the target has ended. If the engine died meanwhile there may be output
    /// of it that we have not seen. That it died is not always known, so what comes after
    /// what we saw is asked for once more; of later runs nobody wants it.
    async fn talk_rest(&mut self, mut signals: Signals, is_last: bool) -> Result<Over> {
        let is_to_ask = self.engine_died.get() || is_last && self.position.is_some();
        if self.target_is_container() && is_to_ask {
            // It may be gone by now, and then nothing is left to see.
            if let Ok(stream) = self.attach().await {
                return self.talk(stream, &mut signals).await;
            }
        }
        Ok(Over::Ended)
    }

    fn target_is_container(&self) -> bool {
        matches!(self.target, Target::Container(_))
    }

    /// How that run of the target is: asked when its stream has ended.
    async fn now(&self) -> Result<Now> {
        let (path, field) = match &self.target {
            Target::Container(id) => (format!("/containers/{}/json", encode(id)), "/State/Running"),
            Target::Exec(id) => (format!("/exec/{}/json", encode(id)), "/Running"),
        };
        // It may be gone already (`--rm`).
        let Ok(value) = self.client.get::<Value>(&path).await else { return Ok(Now::Gone) };
        let ended = value.pointer("/State/FinishedAt").and_then(Value::as_str);
        let before = self.options.ended_before.as_deref();
        Ok(match value.pointer(field) == Some(&Value::Bool(true)) {
            true if before.is_some() && ended != before => Now::Gone,
            true => Now::Runs,
            // Who counts no restart has not run again by itself.
            false => Now::Rests { is_last: value["RestartCount"].as_i64().unwrap_or(0) == 0 },
        })
    }

    async fn talk(&mut self, stream: Stream, signals: &mut Signals) -> Result<Over> {
        let (mut reader, writer) = tokio::io::split(stream);
        let keys = (self.raw.is_some()).then(|| self.keys.clone());
        let typing = tokio::task::spawn_local(type_in(self.typing.clone(), writer, keys));
        let over = self.listen(&mut reader, typing, signals).await;
        drop(reader);
        Ok(over)
    }

    async fn listen(
        &mut self,
        reader: &mut ReadHalf<Stream>,
        mut typing: JoinHandle<bool>,
        signals: &mut Signals,
    ) -> Over {
        let mut buffer = Vec::new();
        let mut bytes = vec![0; 32 << 10];
        let mut done = false;
        let over = loop {
            tokio::select! {
                read = reader.read(&mut bytes) => match read {
                    Ok(len @ 1..) => {
                        if let Err(error) = self.show(&mut buffer, &bytes[..len]) {
                            break Over::Unwritable(error.raw_os_error());
                        }
                    }
                    Ok(0) | Err(_) => break Over::Ended,
                },
                detached = &mut typing, if !done => {
                    done = true;
                    if detached.unwrap_or(false) {
                        break Over::Detached;
                    }
                }
                received = signals.next() => match received {
                    libc::SIGWINCH => self.resize().await,
                    number if self.options.sig_proxy => self.pass_on(number).await,
                    number => break Over::Signalled(number),
                },
            }
        };
        typing.abort();
        over
    }

    async fn pass_on(&self, number: i32) {
        if let Target::Container(id) = &self.target {
            let path = format!("/containers/{}/kill?signal={number}", encode(id));
            let _ = self.client.ask(Method::POST, &path).await;
        }
    }

    /// Shows what came: as it is from a terminal, otherwise by its frames.
    fn show(&mut self, buffer: &mut Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
        if self.options.tty {
            self.seen[0] += bytes.len() as u64;
            return terminal::show(false, bytes);
        }
        buffer.extend_from_slice(bytes);
        while let Some(len) = buffer
            .get(4..8)
            .map(|len| len.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
        {
            let Some(payload) = buffer.get(8..8 + len) else { return Ok(()) };
            let is_stderr = buffer.first() == Some(&2);
            terminal::show(is_stderr, payload)?;
            self.seen[usize::from(is_stderr)] += len as u64;
            buffer.drain(..8 + len);
        }
        Ok(())
    }
}

/// Sends what is typed; whether the person detached.
async fn type_in(
    typing: Option<Typing>,
    mut writer: WriteHalf<Stream>,
    mut keys: Option<DetachKeys>,
) -> bool {
    let Some(typing) = typing else {
        return false;
    };
    let mut typing = typing.lock().await;
    while let Some(bytes) = typing.recv().await {
        let (bytes, detached) = match &mut keys {
            Some(keys) => keys.filter(&bytes),
            None => (bytes, false),
        };
        if writer.write_all(&bytes).await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
    // The other half stays open: what is printed is still to come.
    let _ = writer.shutdown().await;
    false
}

/// Signals that this program catches: to pass them on, or to leave the terminal as it was
/// before they end it.
pub struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Those of a session.
    fn new(options: &Options) -> Result<Self> {
        // Those that end a program are caught in any case: the terminal must be as it
        // was before.
        let mut numbers = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        if options.tty {
            numbers.push(libc::SIGWINCH);
        }
        if options.sig_proxy {
            numbers.extend([libc::SIGUSR1, libc::SIGUSR2]);
        }
        Signals::of(&numbers)
    }

    /// Of these numbers.
    ///
    /// # Errors
    /// One can't be caught.
    pub fn of(numbers: &[i32]) -> Result<Self> {
        let listen = |number: &i32| Ok((*number, signal(SignalKind::from_raw(*number))?));
        Ok(Signals(numbers.iter().map(listen).collect::<Result<_>>()?))
    }

    /// The next one that comes.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// How long an exit status may take to be known after the last output.
const PATIENCE: Duration = Duration::from_secs(10);

/// The exit status of an exec that has ended.
pub async fn exec_status(client: &Client, id: &str) -> Result<u8> {
    let begun = tokio::time::Instant::now();
    loop {
        let exec: Value = client.get(&format!("/exec/{}/json", encode(id))).await?;
        if let Some(code) = exec["ExitCode"].as_i64() {
            return Ok(u8::try_from(code & 0xff).unwrap_or(1));
        }
        if begun.elapsed() > PATIENCE {
            return Err("its output has ended, but it has not".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
