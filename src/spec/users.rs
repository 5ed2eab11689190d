//! `user` and `groups` of a manifest, looked up in the container's own
//! `/etc/passwd` and `/etc/group` (passwd(5), group(5)). Those files are hostile:
//! a line that does not parse is passed over, as libc does.

use std::path::PathBuf;

/// The highest id that a user or a group can have; the one above means "none"
/// to the kernel (chown(2), setresuid(2)).
pub const ID_MAX: u32 = u32::MAX - 1;

/// The most supplementary groups that the kernel takes (NGROUPS_MAX, setgroups(2)).
const GROUPS_MAX: usize = 65536;

/// Ids inside the container that a process is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups; the primary one is among them, so that a file that
    /// its group may not read is not read either (CVE-2022-36109).
    pub additional: Vec<u32>,
    /// The home directory; `/` when nothing is known.
    pub home: PathBuf,
    /// The user's name, if there is an entry.
    pub name: Option<String>,
}

impl ResolvedUser {
    /// Root without any entry.
    pub fn root() -> Self {
        ResolvedUser { uid: 0, gid: 0, additional: vec![0], home: PathBuf::from("/"), name: None }
    }
}

/// What `user` (`name`, `name:group`, numbers in either place; empty is root) and
/// the supplementary `groups` mean in a container with these two files.
///
/// As Docker does it: a number needs no entry; a named user without a group gets
/// the supplementary groups that list it; with a group it gets none of them.
///
/// # Errors
/// A name without an entry, or a number that is no id.
pub fn resolve(
    passwd: &[u8],
    group: &[u8],
    user: &str,
    groups: &[String],
) -> Result<ResolvedUser, String> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let uid = number(user_part)?;
    let entry = users(passwd).find(|entry| matches(entry.name, entry.uid, user_part, uid));
    let mut resolved = match (&entry, uid) {
        (Some(entry), _) => ResolvedUser {
            uid: entry.uid,
            gid: entry.gid,
            additional: Vec::new(),
            home: home(entry.home),
            name: Some(String::from_utf8_lossy(entry.name).into_owned()),
        },
        (None, Some(uid)) => ResolvedUser { uid, additional: Vec::new(), ..ResolvedUser::root() },
        (None, None) => {
            return Err(format!(
                "there is no user {user_part:?} in the container's /etc/passwd; name one that \
                 is there, or use a number"
            ));
        }
    };
    if let Some(wanted) = group_part {
        resolved.gid = find_group(group, wanted)?;
    }
    let mut additional = vec![resolved.gid];
    if let (Some(entry), None) = (&entry, group_part) {
        additional.extend(
            group_entries(group)
                .filter(|group| group.members().any(|member| member == entry.name))
                .map(|group| group.gid),
        );
    }
    for wanted in groups {
        additional.push(find_group(group, wanted)?);
    }
    let mut seen = std::collections::HashSet::new();
    additional.retain(|gid| seen.insert(*gid));
    if additional.len() > GROUPS_MAX {
        return Err(format!(
            "user {user_part:?} is in {} groups; the kernel takes at most {GROUPS_MAX}",
            additional.len()
        ));
    }
    resolved.additional = additional;
    Ok(resolved)
}

/// The gid of a group's name or number.
fn find_group(group: &[u8], wanted: &str) -> Result<u32, String> {
    let gid = number(wanted)?;
    group_entries(group)
        .find(|entry| matches(entry.name, entry.gid, wanted, gid))
        .map(|entry| entry.gid)
        .or(gid)
        .ok_or_else(|| {
            format!(
                "there is no group {wanted:?} in the container's /etc/group; name one that is \
                 there, or use a number"
            )
        })
}

/// An entry matches by name, or by number where a number was given.
fn matches(name: &[u8], id: u32, wanted: &str, wanted_id: Option<u32>) -> bool {
    name == wanted.as_bytes() || wanted_id == Some(id)
}

/// `Some` id if the text is all digits; an error if those are out of range.
fn number(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(format!("{text} is not a user's or group's id: 0 to {ID_MAX}")),
    }
}

fn home(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let usable =
        field.starts_with(b"/") && !field.contains(&0) && std::str::from_utf8(field).is_ok();
    PathBuf::from(if usable { std::ffi::OsStr::from_bytes(field) } else { "/".as_ref() })
}

struct UserEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> GroupEntry<'a> {
    fn members(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.members.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
    }
}

/// The lines that can be entries: not empty, no comment.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn id(field: Option<&[u8]>) -> Option<u32> {
    std::str::from_utf8(field?).ok().and_then(|text| number(text).ok().flatten())
}

fn users(passwd: &[u8]) -> impl Iterator<Item = UserEntry<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1))?;
        let gid = id(fields.next())?;
        let home = fields.nth(1).unwrap_or_default();
        Some(UserEntry { name, uid, gid, home })
    })
}

fn group_entries(group: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1))?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # web2:x:7:7::/:\n\
        broken:x:99999999999:0::/:\n\
        short:x\n\
        web:x:33:33:www:/var/www:/bin/false\n\
        web:x:34:34:second:/other:\n\
        1000:x:5:5:a name of digits:/digits:\n\
        nohome:x:40:40::relative:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwww:x:33:\nlogs:x:50:root,web\nssl:x:51:web, other\nbad:x:x:web\n";

    fn check(user: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        resolve(PASSWD, GROUP, user, &groups)
            .map(|user| (user.uid, user.gid, user.additional, user.home.display().to_string()))
    }

    #[test]
    fn a_name_gets_its_groups_and_home() {
        assert_eq!(check("web", &[]).unwrap(), (33, 33, vec![33, 50, 51], "/var/www".into()));
        assert_eq!(check("33", &[]).unwrap(), (33, 33, vec![33, 50, 51], "/var/www".into()));
        assert_eq!(check("", &[]).unwrap(), (0, 0, vec![0, 50], "/root".into()));
        assert_eq!(check("nohome", &[]).unwrap().3, "/");
    }

    #[test]
    fn a_group_replaces_the_entrys_groups() {
        assert_eq!(check("web:logs", &[]).unwrap(), (33, 50, vec![50], "/var/www".into()));
        assert_eq!(check("web:77", &["ssl", "77"]).unwrap().2, vec![77, 51]);
        assert_eq!(check(":logs", &[]).unwrap().1, 50);
    }

    #[test]
    fn numbers_need_no_entry() {
        assert_eq!(check("4242:4243", &[]).unwrap(), (4242, 4243, vec![4243], "/".into()));
        assert_eq!(check("4242", &[]).unwrap(), (4242, 0, vec![0], "/".into()));
        assert_eq!(check("1000", &[]).unwrap().0, 5, "a name may be all digits");
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (user, groups, part) in [
            ("nobody", &[][..], "no user \"nobody\""),
            ("web2", &[], "no user \"web2\""),
            ("broken", &[], "no user"),
            ("web:none", &[], "no group \"none\""),
            ("web", &["gone"], "no group \"gone\""),
            ("4294967295", &[], "not a user's"),
            ("99999999999", &[], "not a user's"),
            ("-1", &[], "no user"),
        ] {
            let error = check(user, groups).unwrap_err();
            assert!(error.contains(part), "{user}: {error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            passwd in proptest::collection::vec(any::<u8>(), 0..200),
            group in "[a-z0-9:,\n ]{0,100}",
            user in ".{0,12}",
        ) {
            let _ = resolve(&passwd, group.as_bytes(), &user, std::slice::from_ref(&user));
        }

        #[test]
        fn numbers_always_resolve(uid in 0..=ID_MAX, gid in 0..=ID_MAX) {
            let user = resolve(b"", b"", &format!("{uid}:{gid}"), &[]).unwrap();
            prop_assert_eq!((user.uid, user.gid), (uid, gid));
        }
    }
}
