//! `--change`: Dockerfile instructions applied to an image's configuration, at
//! commit and import (docker, builder/dockerfile; the subset that `docker commit`
//! takes).

use std::time::Duration;

use super::Error;
use super::config::{Healthcheck, Process};

/// Applies instructions such as `CMD ["nginx", "-g"]` or `ENV A=b`, in order.
///
/// # Errors
/// If one is unknown or malformed, with its text.
pub fn apply<S: AsRef<str>>(process: &mut Process, instructions: &[S]) -> Result<(), Error> {
    for text in instructions {
        let text = text.as_ref().trim();
        apply_one(process, text)
            .map_err(|why| Error::invalid(format!("cannot apply the change {text:?}: {why}")))?;
    }
    Ok(())
}

fn apply_one(process: &mut Process, text: &str) -> Result<(), String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let name = name.to_ascii_uppercase();
    let env = process.env.clone();
    let filled = |text: &str| fill(text, &env);
    if rest.is_empty() {
        return Err("it says nothing after the instruction's name".to_owned());
    }
    match name.as_str() {
        "CMD" => process.cmd = command(rest, &process.shell)?,
        "ENTRYPOINT" => {
            process.entrypoint = command(rest, &process.shell)?;
            // As Docker: the base's arguments are not the new program's.
            process.cmd.clear();
        }
        "SHELL" => {
            process.shell =
                list(rest).ok_or("SHELL must be a list such as [\"/bin/sh\", \"-c\"]")?;
        }
        "ENV" => {
            for (name, value) in pairs(&filled(rest)?, true)? {
                let prefix = format!("{name}=");
                let entry = format!("{name}={value}");
                match process.env.iter_mut().find(|old| old.starts_with(&prefix)) {
                    Some(old) => *old = entry,
                    None => process.env.push(entry),
                }
            }
        }
        "LABEL" => process.labels.extend(pairs(&filled(rest)?, true)?),
        "EXPOSE" => {
            // What a variable brings may be several, as with Docker.
            for port in words(&filled(rest)?)?.iter().flat_map(|word| word.split_whitespace()) {
                add(&mut process.exposed_ports, exposed(port)?);
            }
        }
        "VOLUME" => {
            let paths = match list(rest) {
                Some(paths) => {
                    let whole = |path: &String| whole(&filled(path)?);
                    paths.iter().map(whole).collect::<Result<_, _>>()?
                }
                None => words(&filled(rest)?)?,
            };
            for path in paths {
                if path.trim().is_empty() {
                    return Err("a volume's path is empty".to_owned());
                }
                add(&mut process.volumes, path);
            }
        }
        "USER" => process.user = one(&filled(rest)?)?,
        "WORKDIR" => {
            let path = one(&filled(rest)?)?;
            process.working_dir = match path.starts_with('/') {
                true => path,
                false => format!("{}/{path}", process.working_dir.trim_end_matches('/')),
            };
            if !process.working_dir.starts_with('/') {
                process.working_dir.insert(0, '/');
            }
        }
        "STOPSIGNAL" => {
            let signal = one(&filled(rest)?)?;
            if !is_signal(&signal) {
                return Err(format!("{signal:?} is not a signal; write it as SIGTERM or 15"));
            }
            process.stop_signal = Some(signal);
        }
        "HEALTHCHECK" => process.healthcheck = Some(healthcheck(rest, &process.shell)?),
        "ONBUILD" => {
            let mut kept: Vec<String> = process
                .other
                .get("OnBuild")
                .and_then(|said| serde_json::from_value(said.clone()).ok())
                .unwrap_or_default();
            kept.push(rest.to_owned());
            process.other.insert("OnBuild".to_owned(), kept.into());
        }
        _ => {
            return Err(
                "it is none of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, \
                        SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn add(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
        list.sort();
    }
}

/// A JSON list of texts.
fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok())?
}

/// The list as it is, or a text for the shell.
fn command(text: &str, shell: &[String]) -> Result<Vec<String>, String> {
    if let Some(list) = list(text) {
        return Ok(list);
    }
    let mut words = match shell {
        [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        shell => shell.to_vec(),
    };
    words.push(text.to_owned());
    Ok(words)
}

/// `$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}` replaced by what the image's
/// environment says; not within single quotes, and not behind a backslash (Dockerfile
/// reference, "Environment replacement"). What comes in is quoted, so that it stays whole.
fn fill(text: &str, env: &[String]) -> Result<String, String> {
    let value = |name: &str| {
        env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    // So long one variable may be (execve(2), "MAX_ARG_STRLEN").
    const LONGEST: usize = 128 << 10;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut filled, mut rest, mut quote) = (String::new(), text, None);
    while let Some(c) = rest.chars().next() {
        if filled.len() > LONGEST {
            return Err(format!("with its variables it is longer than {LONGEST} bytes"));
        }
        rest = &rest[c.len_utf8()..];
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (Some('\''), _) => {}
            (_, '\\') => {
                filled.push(c);
                if let Some(next) = rest.chars().next() {
                    filled.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                continue;
            }
            (_, '$') if rest.starts_with('{') => {
                let end = rest.find('}').ok_or("a brace is not closed")?;
                let inner = &rest[1..end];
                rest = &rest[end + 1..];
                let (name, word) = inner.split_once(':').unwrap_or((inner, ""));
                if name.is_empty() || !name.chars().all(is_name) {
                    return Err(format!("${{{inner}}} is no variable"));
                }
                let said = value(name);
                let with = match (word.split_at_checked(1), said.is_empty()) {
                    (None, _) | (Some(("-", _)), false) => said,
                    (Some(("-", word)), true) | (Some(("+", word)), false) => word,
                    (Some(("+", _)), true) => "",
                    _ => return Err(format!("${{{inner}}}: there are :- and :+")),
                };
                filled.push_str(&escaped(with));
                continue;
            }
            (_, '$') if rest.starts_with(is_name) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                filled.push_str(&escaped(value(&rest[..end])));
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        filled.push(c);
    }
    Ok(filled)
}

/// A value as [`words`] reads it back.
fn escaped(value: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '\\' | '"' | '\'');
    let mut text = String::new();
    for c in value.chars() {
        if special(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Words with quotes and backslashes taken off.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let next = chars.next().ok_or("a backslash ends it")?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// The same of an element of a list, whose blanks part nothing.
fn whole(text: &str) -> Result<String, String> {
    // No text has a NUL byte.
    let parts = words(&text.replace(' ', "\0"))?;
    Ok(parts.concat().replace('\0', " "))
}

fn one(text: &str) -> Result<String, String> {
    match words(text)?.as_slice() {
        [word] => Ok(word.clone()),
        words => Err(format!("it takes one word, not {}", words.len())),
    }
}

/// `A=b C="d e"`, or the old form `A b` with the rest of the line as value.
fn pairs(text: &str, old_form: bool) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let first = words.first().ok_or("it names nothing")?;
    if old_form && !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{first} has no value; write {first}=value"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{word:?} has no name")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("{word:?} must be NAME=value")),
        })
        .collect()
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` (signal(7)).
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |rest: &str, sign: char| {
        rest.is_empty()
            || rest.strip_prefix(sign).and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 30)
    };
    match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(rest), _) => realtime(rest, '+'),
        (_, Some(rest)) => realtime(rest, '-'),
        _ => format!("SIG{bare}").parse::<nix::sys::signal::Signal>().is_ok(),
    }
}

/// `80`, `80/udp`, `8000-8010`.
fn exposed(text: &str) -> Result<String, String> {
    let refuse = || format!("{text:?} is not a port; write it as 80, 53/udp or 8000-8010/tcp");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(refuse());
    }
    let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(from), number(to)) {
        (Some(a), Some(b)) if a <= b => Ok(format!("{ports}/{protocol}")),
        _ => Err(refuse()),
    }
}

/// `NONE`, or options and `CMD …`.
fn healthcheck(text: &str, shell: &[String]) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').ok_or("an option must be --name=value")?;
        let nanoseconds = || {
            let time: Duration = humantime::parse_duration(value)
                .map_err(|_| format!("{value:?} is not a time; write it as 30s"))?;
            i64::try_from(time.as_nanos()).map_err(|_| format!("{value:?} is too long"))
        };
        match name {
            "interval" => check.interval = nanoseconds()?,
            "timeout" => check.timeout = nanoseconds()?,
            "start-period" => check.start_period = nanoseconds()?,
            "start-interval" => check.start_interval = nanoseconds()?,
            "retries" => {
                check.retries =
                    value.parse::<u32>().map_err(|_| format!("{value:?} is not a count"))?.into();
            }
            other => return Err(format!("--{other} is not an option of HEALTHCHECK")),
        }
        rest = after.trim_start();
    }
    if rest.eq_ignore_ascii_case("none") {
        return Ok(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() });
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    if !word.eq_ignore_ascii_case("cmd") || command.is_empty() {
        return Err("it must be NONE, or CMD and a command".to_owned());
    }
    check.test = match list(command) {
        Some(words) => [vec!["CMD".to_owned()], words].concat(),
        None if shell.is_empty() => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        None => [vec!["CMD".to_owned()], shell.to_vec(), vec![command.to_owned()]].concat(),
    };
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_instructions_are_understood() {
        let mut process = Process { env: vec!["A=old".into()], ..Process::default() };
        apply(
            &mut process,
            &[
                "entrypoint [\"/app\", \"-x\"]",
                "CMD run me",
                "ENV A=b C=\"d e\" F=g\\ h",
                "ENV OLD form of it",
                "LABEL org.x.y=\"z\" a='b \"c\"'",
                "EXPOSE 80 53/UDP 8000-8010",
                "VOLUME [\"/data\"]",
                "VOLUME /a /b",
                "USER app:app",
                "WORKDIR /srv",
                "WORKDIR sub",
                "STOPSIGNAL SIGINT",
                "HEALTHCHECK --interval=30s --retries=3 CMD curl -f localhost",
            ],
        )
        .unwrap();
        assert_eq!(process.entrypoint, ["/app", "-x"]);
        assert_eq!(process.cmd, ["/bin/sh", "-c", "run me"]);
        assert_eq!(process.env, ["A=b", "C=d e", "F=g h", "OLD=form of it"]);
        assert_eq!(process.labels["a"], "b \"c\"");
        assert_eq!(process.exposed_ports, ["53/udp", "80/tcp", "8000-8010/tcp"]);
        assert_eq!(process.volumes, ["/a", "/b", "/data"]);
        assert_eq!((process.user.as_str(), process.working_dir.as_str()), ("app:app", "/srv/sub"));
        let check = process.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl -f localhost"]);
        assert_eq!((check.interval, check.retries), (30_000_000_000, 3));
    }

    #[test]
    fn malformed_instructions_are_refused() {
        for bad in [
            "",
            "CMD",
            "FROM x",
            "RUN x",
            "ENV",
            "ENV A",
            "ENV =x",
            "ENV A=b c",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "EXPOSE 1/icmp",
            "USER a b",
            "STOPSIGNAL SIGX",
            "LABEL \"a",
            "HEALTHCHECK",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD a",
            "HEALTHCHECK --what=1 CMD a",
            "SHELL sh",
        ] {
            assert!(apply(&mut Process::default(), &[bad]).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(CMD|ENV|LABEL|EXPOSE|VOLUME|HEALTHCHECK|WORKDIR) \\PC{0,40}") {
            let _ = apply(&mut Process::default(), &[text]);
        }
    }

    #[test]
    fn variables_are_the_image_s_own() {
        let mut process =
            Process { env: vec!["PATH=/bin".into(), "DIR=/a b".into()], ..Process::default() };
        let changes = [
            "ENV PATH=/usr/bin:$PATH HERE=\"${DIR}\" PLAIN='$PATH' NOT=\\$PATH NONE=$NOSUCH-",
            "WORKDIR $DIR",
            "LABEL a=${NOSUCH:-usual} b=${DIR:+set} c=${NOSUCH:+set}",
            "CMD echo $PATH",
            "ENV PORTS=\"80 81\"",
            "EXPOSE $PORTS 90",
            "VOLUME $DIR /c",
            "VOLUME [\"${DIR}/d\", \"/e f\"]",
        ];
        apply(&mut process, &changes).unwrap();
        assert_eq!(
            process.env,
            [
                "PATH=/usr/bin:/bin",
                "DIR=/a b",
                "HERE=/a b",
                "PLAIN=$PATH",
                "NOT=$PATH",
                "NONE=-",
                "PORTS=80 81"
            ]
        );
        assert_eq!(process.exposed_ports, ["80/tcp", "81/tcp", "90/tcp"]);
        assert_eq!(process.volumes, ["/a b", "/a b/d", "/c", "/e f"]);
        assert_eq!(process.working_dir, "/a b");
        let labels: Vec<&str> = process.labels.values().map(String::as_str).collect();
        assert_eq!(labels, ["usual", "set", ""]);
        // The shell's own.
        assert_eq!(process.cmd, ["/bin/sh", "-c", "echo $PATH"]);
        for bad in ["USER ${X", "USER ${X:?no}", "USER ${}"] {
            assert!(apply(&mut process, &[bad]).is_err(), "{bad}");
        }
    }
}
