//! Root file systems to make images of, and tools to make them with.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// Whether a program is installed; says what is left out without it.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("left out: {program} is not installed");
    }
    found
}

/// Runs a program that must succeed; gives what it printed.
pub fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A tar to be filled.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    fn header(size: usize, mode: u32, owner: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_700_000_000);
        header
    }

    pub fn dir(mut self, path: &str, owner: u64) -> Tar {
        let mut header = Tar::header(0, 0o755, owner);
        header.set_entry_type(tar::EntryType::Directory);
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }

    pub fn file(mut self, path: &str, content: &[u8]) -> Tar {
        let mut header = Tar::header(content.len(), 0o755, 0);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub fn link(mut self, path: &str, target: &str, kind: tar::EntryType) -> Tar {
        let mut header = Tar::header(0, 0o755, 0);
        header.set_entry_type(kind);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// busybox with some of its names, and `/data/seed`: enough to run and to change.
pub fn root() -> Tar {
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = Tar::default()
        .dir("bin/", 0)
        .file("bin/busybox", &busybox)
        .dir("etc/", 0)
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
        .file("etc/group", b"root:x:0:\napp:x:1000:\n")
        .dir("data/", 1000)
        .file("data/seed", b"seed\n")
        .dir("tmp/", 0);
    for name in ["sh", "cat", "echo", "ls", "rm", "sleep", "ln", "mkdir", "stat", "id", "find"] {
        tar = tar.link(&format!("bin/{name}"), "busybox", tar::EntryType::Symlink);
    }
    tar
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut random = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Answers any number of requests with one file.
pub fn serve_file(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut head);
            let length = bytes.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&bytes);
        }
    });
    format!("http://{address}/root.tar.gz")
}
