//! What /etc/tmpfiles.d and its like (tmpfiles.d(5)) say of /run: folders, files,
//! links and FIFOs that programs expect after a boot.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::Done;
use super::kernel::drop_ins;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    kind: char,
    /// `+`: what is there is replaced.
    replace: bool,
    path: PathBuf,
    mode: Option<u32>,
    user: Option<String>,
    group: Option<String>,
    argument: String,
}

/// A line of /run that is understood; everything else is somebody else's.
fn parse(text: &str) -> Option<Line> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let mut words = text.split_whitespace();
    let kind = words.next()?;
    let path = PathBuf::from(words.next()?.trim_matches('"'));
    let path = match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path,
    };
    let is_plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // systemd's own services take it away again; here nobody would, and none but root could
    // log in (pam_nologin(8)).
    if path == Path::new("/run/nologin") {
        return None;
    }
    let specifier = path.to_string_lossy().contains(['%', '*', '?', '[']);
    if !path.starts_with("/run") || path == Path::new("/run") || !is_plain || specifier {
        return None;
    }
    let mut field = || words.next().filter(|word| *word != "-").map(str::to_owned);
    let (mode, user, group, _age) = (field(), field(), field(), field());
    let mode =
        mode.and_then(|mode| u32::from_str_radix(mode.trim_start_matches(['~', ':']), 8).ok());
    Some(Line {
        kind: kind.chars().next()?,
        replace: kind.contains('+'),
        path,
        mode,
        user,
        group,
        argument: words.collect::<Vec<_>>().join(" "),
    })
}

/// Makes what they list.
pub fn make() -> Done {
    let (passwd, group) =
        (fs::read("/etc/passwd").unwrap_or_default(), fs::read("/etc/group").unwrap_or_default());
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for file in drop_ins("tmpfiles.d", ".conf") {
        lines.extend(fs::read_to_string(file).unwrap_or_default().lines().filter_map(parse));
    }
    // A folder before what is in it, whichever file it stands in.
    lines.sort_by(|a, b| a.path.cmp(&b.path));
    for line in lines {
        if let Err(error) = one(&line, &passwd, &group) {
            wrong.push(format!("{}: {error}", line.path.display()));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn one(line: &Line, passwd: &[u8], group: &[u8]) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    if line.replace || matches!(line.kind, 'D' | 'R' | 'F') {
        let removed = match line.kind {
            'D' | 'R' => fs::remove_dir_all(&line.path),
            _ => fs::remove_file(&line.path),
        };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(text(error));
        }
    }
    let exists = fs::symlink_metadata(&line.path).is_ok();
    if let Some(dir) = line.path.parent()
        && !matches!(line.kind, 'r' | 'R' | 'x' | 'X' | 'z' | 'Z')
    {
        fs::create_dir_all(dir).map_err(text)?;
    }
    let mode = match line.kind {
        'd' | 'D' | 'v' | 'q' | 'Q' => {
            if !exists {
                fs::create_dir(&line.path).map_err(text)?;
            }
            line.mode.or(Some(0o755))
        }
        'f' | 'F' => {
            if !exists {
                fs::write(&line.path, line.argument.replace("\\n", "\n")).map_err(text)?;
            }
            line.mode.or(Some(0o644))
        }
        'L' => {
            if !exists {
                symlink(&line.argument, &line.path).map_err(text)?;
            }
            return Ok(());
        }
        'p' => {
            if !exists {
                use rustix::fs::{CWD, FileType, Mode, mknodat};
                mknodat(CWD, &line.path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .map_err(|errno| errno.to_string())?;
            }
            line.mode.or(Some(0o644))
        }
        'z' | 'm' if exists => line.mode,
        'r' if exists => return fs::remove_file(&line.path).map_err(text),
        _ => return Ok(()),
    };
    if line.user.is_some() || line.group.is_some() {
        let owner = format!(
            "{}:{}",
            line.user.as_deref().unwrap_or("0"),
            line.group.as_deref().unwrap_or("0")
        );
        let owner = crate::spec::users::resolve(passwd, group, &owner, &[])?;
        let of = |named: &Option<String>, id| named.as_ref().map(|_| id);
        chown(&line.path, of(&line.user, owner.uid), of(&line.group, owner.gid)).map_err(text)?;
    }
    if let Some(mode) = mode {
        fs::set_permissions(&line.path, fs::Permissions::from_mode(mode)).map_err(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_run_are_taken() {
        let line = parse("d /var/run/sshd 0755 root - 10d -").unwrap();
        assert_eq!(line.path, Path::new("/run/sshd"));
        assert_eq!(
            (line.mode, line.user.as_deref(), line.group.as_deref()),
            (Some(0o755), Some("root"), None)
        );
        let line = parse("L+ /run/x - - - - ../target here").unwrap();
        assert!(line.replace && line.kind == 'L');
        assert_eq!(line.argument, "../target here");
        for other in [
            "",
            "# x",
            "d /tmp 1777",
            "d /run/../etc 0777",
            "d /run/user/%U",
            "d /run",
            "F! /run/nologin 0644",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
