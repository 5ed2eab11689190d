//! A Berth of a test's own: its own root, ended and cleaned up whatever happens.
//! Nothing of the library is linked: the binary is driven as a person would.

#![allow(dead_code)]

pub mod http;
pub mod images;
pub mod net;
pub mod registry;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up. No test asserts a time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test; in the virtual machine it lies elsewhere.
pub fn binary() -> PathBuf {
    std::env::var_os("BERTH_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_berth")), PathBuf::from)
}

/// A supervisor on a root of its own.
pub struct Berth {
    root: tempfile::TempDir,
    keeper: Option<Child>,
    /// The network namespace that it runs in, if that is not the test's own.
    netns: Option<PathBuf>,
}

impl Berth {
    /// An empty root; nothing runs yet.
    pub fn new() -> Self {
        let base =
            std::env::var_os("BERTH_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let root = tempfile::Builder::new().prefix("berth-test-").tempdir_in(base).unwrap();
        fs::create_dir_all(root.path().join("etc/containers.d")).unwrap();
        Berth { root, keeper: None, netns: None }
    }

    /// A root with manifests, and a supervisor that runs.
    pub fn up_with(manifests: &[(&str, &str)]) -> Self {
        let mut berth = Berth::new();
        for (file, text) in manifests {
            berth.write(file, text);
        }
        berth.up();
        berth
    }

    /// An empty root, for a supervisor whose host is a network namespace by its path.
    pub fn in_network(netns: &Path) -> Self {
        let mut berth = Berth::new();
        berth.netns = Some(netns.to_owned());
        berth
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub fn manifests(&self) -> PathBuf {
        self.path("etc/containers.d")
    }

    /// Writes a manifest as config tools do: whole, by rename.
    pub fn write(&self, file: &str, text: &str) {
        let target = self.manifests().join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let mut temporary = tempfile::NamedTempFile::new_in(self.manifests()).unwrap();
        temporary.write_all(text.as_bytes()).unwrap();
        temporary.persist(target).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).unwrap();
    }

    /// Starts `berth up` and waits until it answers.
    pub fn up(&mut self) {
        self.up_by(&[], None);
    }

    /// The same with manifests of a folder that a person names.
    pub fn up_of(&mut self, dir: &Path) {
        self.up_by(&[], Some(dir));
    }

    /// The same without a capability, such as `cap_net_admin`.
    pub fn up_with_less(&mut self, capability: &str) {
        let less = format!("--bounding-set=-{}", capability.trim_start_matches("cap_"));
        let inheritable = format!("--inh-caps=-{}", capability.trim_start_matches("cap_"));
        self.up_by(&["setpriv", &less, &inheritable], None);
    }

    /// Starts it by a command that executes what follows.
    fn up_by(&mut self, by: &[&str], dir: Option<&Path>) {
        assert!(self.keeper.is_none(), "it runs already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("supervisor.log"))
            .unwrap();
        let mut command = match &self.netns {
            None => Command::new(binary()),
            // It executes what follows: the pid is the keeper's.
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display())).args(by).arg(binary());
                command
            }
        };
        let child = command
            .arg("--root")
            .arg(self.root())
            .args(["up", "--quiet"])
            .args(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.keeper = Some(child);
        self.wait("the API to answer", || self.cli(&["ps"]).status.success());
    }

    pub fn keeper_pid(&self) -> i32 {
        i32::try_from(self.keeper.as_ref().expect("it runs").id()).unwrap()
    }

    /// The engine: the keeper's child that runs our own binary.
    pub fn engine_pid(&self) -> Option<i32> {
        let keeper = self.keeper_pid();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid: &i32| {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            cmdline.split(|byte| *byte == 0).any(|arg| arg == b"engine")
        })
    }

    /// `kill -9` of the keeper; the engine ends by itself.
    pub fn kill_keeper(&mut self) {
        let mut keeper = self.keeper.take().expect("it runs");
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    }

    /// `kill -9` of keeper and engine together.
    pub fn kill_both(&mut self) {
        let engine = self.engine_pid();
        self.kill_keeper();
        if let Some(engine) = engine {
            kill(engine, 9);
            self.wait("the engine to be gone", || !is_running(engine));
        }
    }

    /// SIGTERM, then waits for the end; gives the exit status.
    pub fn down(&mut self) -> Option<i32> {
        let mut keeper = self.keeper.take()?;
        kill(i32::try_from(keeper.id()).unwrap(), 15);
        let begun = Instant::now();
        loop {
            if let Some(status) = keeper.try_wait().unwrap() {
                return status.code();
            }
            if begun.elapsed() > PATIENCE {
                self.keeper = Some(keeper);
                panic!("it does not end on SIGTERM\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a command of the command line.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(binary())
            .arg("--root")
            .arg(self.root())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(
            output.status.success(),
            "berth {args:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A container as `inspect` gives it, or null.
    pub fn inspect(&self, name: &str) -> Value {
        let output = self.cli(&["inspect", name]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        list.get(0).cloned().unwrap_or(Value::Null)
    }

    /// `.State.Status` of a container.
    pub fn status(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"].as_str().unwrap_or("none").to_owned()
    }

    pub fn pid(&self, name: &str) -> i64 {
        self.inspect(name)["State"]["Pid"].as_i64().unwrap_or(0)
    }

    pub fn restarts(&self, name: &str) -> i64 {
        self.inspect(name)["RestartCount"].as_i64().unwrap_or(-1)
    }

    pub fn wait_status(&self, name: &str, status: &str) {
        self.wait(&format!("{name} to be {status}"), || self.status(name) == status);
    }

    pub fn logs(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.cli(&["logs", name]).stdout).into_owned()
    }

    pub fn wait_log(&self, name: &str, text: &str) {
        self.wait(&format!("{name} to print {text:?}"), || self.logs(name).contains(text));
    }

    /// What supervisor and engine have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("supervisor.log")).unwrap_or_default()
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !so() {
            if begun.elapsed() > PATIENCE {
                let ps = self.cli(&["ps", "-a"]);
                panic!(
                    "waited in vain for {what}\n{}\n{}",
                    String::from_utf8_lossy(&ps.stdout),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else {
            return;
        };
        let pid = i32::try_from(keeper.id()).unwrap();
        // TERM, then INT: the second one hurries.
        kill(pid, 15);
        kill(pid, 2);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if matches!(keeper.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(pid, 15);
        kill(pid, 15);
        std::thread::sleep(Duration::from_millis(200));
        let _ = keeper.kill();
        let _ = keeper.wait();
    }
}

/// A small tmpfs below a test's root, taken away at the end.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size` (such as `256k`) at `path`, which is made.
    pub fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success(), "mounting {}", path.display());
        SmallDisk(path)
    }

    /// Writes until nothing more goes in.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.0.join(".fill")).unwrap();
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub fn clear(&self) {
        fs::remove_file(self.0.join(".fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// How many processes of the machine have this in their environment.
pub fn processes_with(variable: &str) -> usize {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
        .filter(|environ| environ.split(|byte| *byte == 0).any(|v| v == variable.as_bytes()))
        .count()
}

/// Every line is `line N`, each number there once, in order; gives how many. What
/// SIGKILL cut off at the end does not count.
pub fn counted(text: &str) -> usize {
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    for (expected, line) in whole.lines().enumerate() {
        assert_eq!(line, format!("line {expected}"), "after {expected} good lines");
    }
    whole.lines().count()
}

/// Sends a signal to a process that the test started.
pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 1);
    let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).output();
}

pub fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
    })
}

/// A manifest of a shell script on a view of the host's files.
pub fn shell(script: &str) -> String {
    format!(
        "rootfs = \"/\"\ncommand = [\"sh\", \"-c\", '''{script}''']\nstop = {{ timeout = \"2s\" }}\n"
    )
}
