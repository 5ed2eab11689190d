//! Debian's registry on a free port of loopback. Unit tests of the library include this
//! file, too.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/bin/docker-registry";
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// `secret`, by bcrypt at its cheapest.
const HTPASSWD: &str = "me:$2b$04$lNGmVKU5XVbXVWWvmKM38uuI.yobHOCKpoE/RISNrcA/b9mxUugCm\n";

/// What a registry asks of its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// The name `me` and the password `secret`.
    Password,
    /// TLS, with a certificate of the authority in `ca.pem`.
    Tls,
}

/// A registry that ends with the test.
pub struct Registry {
    child: Option<Child>,
    port: u16,
    dir: tempfile::TempDir,
}

impl Registry {
    /// `None` where the package is missing.
    pub fn start(kind: Kind) -> Option<Registry> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("left out: {PROGRAM} is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = dir.path().display();
        let (mut tls, mut auth) = (String::new(), String::new());
        match kind {
            Kind::Plain => {}
            Kind::Password => {
                fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
                auth = format!("auth: {{htpasswd: {{realm: test, path: {path}/htpasswd}}}}\n");
            }
            Kind::Tls => {
                certificates(dir.path());
                tls = format!("  tls: {{certificate: {path}/cert.pem, key: {path}/key.pem}}\n");
            }
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {path}/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n{tls}{auth}"
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut registry = Registry { child: None, port, dir };
        registry.run();
        Some(registry)
    }

    pub fn run(&mut self) {
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(self.file("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(since.elapsed() < PATIENCE, "the registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An authority of our own and a certificate for 127.0.0.1.
fn certificates(dir: &Path) {
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "9"];
    openssl(&[&new[..], &ca[..]].concat());
    openssl(&[&new[..], &["-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=r"]].concat());
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "req.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "cert.pem",
        "-days",
        "9",
        "-extfile",
        "ext",
    ]);
}
