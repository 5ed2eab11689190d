//! Machines of a test's own: network namespaces, one the host that Berth runs on,
//! others beside it. The machine's own network is never touched.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A machine: a named network namespace (ip-netns(8)), removed at the end.
pub struct Machine {
    name: String,
}

impl Machine {
    pub fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-t{}-{count}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let machine = Machine { name };
        machine.ok("ip link set lo up");
        machine
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command whose network is this machine's.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs words that are separated by spaces; gives what it printed.
    pub fn ok(&self, words: &str) -> String {
        run(&mut self.command(&words.split(' ').collect::<Vec<_>>()))
    }

    pub fn shell(&self, script: &str) -> Output {
        self.command(&["sh", "-c", script]).output().unwrap()
    }

    /// Loads rules as an administrator would.
    pub fn nft(&self, rules: &str) {
        run(&mut self.command(&["nft", rules]));
    }

    /// The body of a page; empty when there is none.
    pub fn get(&self, url: &str) -> String {
        let words = ["curl", "-s", "-g", "-m", "3", url];
        String::from_utf8_lossy(&self.command(&words).output().unwrap().stdout).into_owned()
    }

    /// What a server says to whoever connects; empty when it refuses or says nothing.
    pub fn tcp(&self, address: &str, port: u16) -> String {
        self.tcp_within(5, address, port)
    }

    /// The same of one that takes so many seconds at most to say something.
    pub fn tcp_within(&self, seconds: u32, address: &str, port: u16) -> String {
        let script = format!("nc -w {seconds} {address} {port} </dev/null");
        String::from_utf8_lossy(&self.shell(&script).stdout).into_owned()
    }

    /// Sends a datagram; gives the answer.
    pub fn udp(&self, address: &str, port: u16) -> String {
        let script = format!("echo hello | nc -u -w 1 {address} {port}");
        String::from_utf8_lossy(&self.shell(&script).stdout).into_owned()
    }

    /// Another machine on a cable of its own: `10.77.0.1` and `fd77::1` here,
    /// `10.77.0.2` and `fd77::2` there.
    pub fn neighbour(&self) -> Machine {
        let other = Machine::new();
        self.ok(&format!("ip link add up0 type veth peer name up0 netns {}", other.name));
        for (machine, last) in [(self, 1), (&other, 2)] {
            machine.ok(&format!("ip address add 10.77.0.{last}/24 dev up0"));
            machine.ok(&format!("ip address add fd77::{last}/64 dev up0 nodad"));
            machine.ok("ip link set up0 up");
        }
        self.ok("ip route add default via 10.77.0.2");
        other
    }

    /// Everything in its network that could leak: interfaces, addresses, rules of the
    /// firewall and of routing.
    pub fn inventory(&self) -> String {
        let mut all = self.ok("ip -br link");
        all += &self.ok("ip -br address");
        all += &self.ok("nft list tables");
        all += &self.ok("ip -4 rule");
        all += &self.ok("ip -6 rule");
        all
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
