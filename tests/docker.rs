//! A session with the real `docker` command, from `docker/session.txt`. Skipped, with a
//! word, where that command or a static busybox is missing.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::Berth;

/// One command of the session and what it should print.
#[derive(Debug)]
struct Step {
    line: usize,
    on_terminal: bool,
    words: String,
    expected: Vec<String>,
    status: i32,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(words) = line.strip_prefix("$ ").or(line.strip_prefix("% ")) {
            steps.push(Step {
                line: at + 1,
                on_terminal: line.starts_with('%'),
                words: words.to_owned(),
                expected: Vec::new(),
                status: 0,
            });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("[status ").and_then(|rest| rest.strip_suffix(']')) {
                Some(status) => step.status = status.parse().unwrap(),
                None if line.starts_with("# ") => {}
                None => step.expected.push(line.to_owned()),
            }
        }
    }
    for step in &mut steps {
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
    }
    steps
}

/// Whether a line is as expected, `*` standing for anything.
fn line_fits(expected: &str, line: &str) -> bool {
    let Some((first, rest)) = expected.split_once('*') else { return expected == line };
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return line.ends_with(part);
        }
        match line.find(part) {
            Some(at) => line = &line[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The same for all lines, `...` standing for any number of them.
fn fits(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => {
            (0..=lines.len()).any(|skip| fits(rest, &lines[skip..]))
        }
        (Some((first, more)), Some((line, rest))) => line_fits(first, line) && fits(more, rest),
        _ => false,
    }
}

fn run(dir: &Path, host: &str, step: &Step) -> Output {
    let words = step.words.replace("$D", &format!("docker -H {host}"));
    let script = match step.on_terminal {
        true => format!("script -qec {} /dev/null", quoted(&format!("docker -H {host} {words}"))),
        false => format!("{{ docker -H {host} {words}; }} 2>&1"),
    };
    Command::new("timeout")
        .args(["60", "sh", "-c", &script])
        .current_dir(dir)
        .env("DOCKER_CONFIG", dir.join("config"))
        .stdin(if step.on_terminal { Stdio::null() } else { Stdio::inherit() })
        .output()
        .unwrap()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A tar with a busybox and its names.
fn base(dir: &Path) -> Option<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| {
        // A program that needs no library names no interpreter.
        std::fs::read(path).is_ok_and(|bytes| !bytes.windows(14).any(|w| w == b"/lib64/ld-linu"))
    })?;
    let script = format!(
        "set -e; mkdir -p {0}/bin {0}/etc {0}/tmp {0}/root; chmod 1777 {0}/tmp
         cp {busybox} {0}/bin/busybox
         for name in $({busybox} --list); do
           [ $name = busybox ] || ln -s busybox {0}/bin/$name
         done
         echo 'root:x:0:0:root:/root:/bin/sh' > {0}/etc/passwd
         echo 'nobody:x:65534:65534:nobody:/:/bin/false' >> {0}/etc/passwd
         tar -C {0} -c .",
        dir.join("base").display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn a_session_with_docker_s_own_command() {
    if Command::new("docker").arg("--version").output().is_err() {
        println!("skipped: the docker command is not installed");
        return;
    }
    let berth = Berth::up_with(&[]);
    let dir = berth.path("session");
    std::fs::create_dir_all(&dir).unwrap();
    let Some(tar) = base(&dir) else {
        println!("skipped: there is no static busybox");
        return;
    };
    let host = format!("unix://{}", berth.path("run/berth/berth.sock").display());
    let mut import = Command::new("docker")
        .args(["-H", &host, "import", "-c", "CMD [\"/bin/sh\"]", "-", "base:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(import.wait().unwrap().success());
    let mut wrong = Vec::new();
    for step in steps(include_str!("docker/session.txt")) {
        let output = run(&dir, &host, &step);
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let status = output.status.code().unwrap_or(-1);
        // A pipe's status is its last command's: only what stands alone is judged.
        let status_fits = status == step.status || step.words.contains('|');
        if !status_fits || !fits(&step.expected, &lines) {
            wrong.push(format!(
                "line {}: docker {}\nexpected (status {}):\n{}\ngot (status {status}):\n{text}",
                step.line,
                step.words,
                step.status,
                step.expected.join("\n"),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}\n\n{}", wrong.join("\n\n"), berth.log());
}

#[test]
fn patterns_stand_for_what_they_say() {
    assert!(line_fits("a*c*", "abcd") && line_fits("*", "") && line_fits("a*", "a"));
    assert!(!line_fits("a*c", "abd") && !line_fits("ab", "abc") && line_fits("*b*d", "abcd"));
    let expected = ["x", "...", "z"].map(str::to_owned);
    assert!(fits(&expected, &["x", "y", "z"]) && !fits(&expected, &["x", "y"]));
}
