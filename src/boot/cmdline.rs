//! The kernel's command line (bootparam(7)): what of it is for init. Pure.

/// What the kernel was told, as far as it concerns init.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `root=`: a device, `UUID=`, `LABEL=`, `PARTUUID=`, or `tmpfs`.
    pub root: Option<String>,
    /// `rootfstype=`
    pub root_type: Option<String>,
    /// `rootflags=`
    pub root_options: Option<String>,
    /// `init=`: what an initramfs executes on the root.
    pub init: Option<String>,
    /// `ro` or `rw`; the last one counts.
    pub writable: Option<bool>,
    /// `quiet`: only what fails is told.
    pub quiet: bool,
    /// `single`, `s`, `S` or `1`: a shell before the services.
    pub single: bool,
    /// `emergency` or `-b`: a shell before anything else.
    pub emergency: bool,
    /// `fsck.mode=`, `auto` without it.
    pub check: Check,
    /// `berth.KEY=VALUE`: keys of boot.toml, `true` where no value stands.
    pub settings: Vec<(String, String)>,
    /// Every word, for conditions.
    pub words: Vec<String>,
}

/// When file systems are checked (systemd-fsck(8) has the same words).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Check {
    /// As /etc/fstab says.
    #[default]
    Auto,
    /// Each, whether clean or not.
    Force,
    /// None.
    Skip,
}

impl CommandLine {
    /// Of the text in /proc/cmdline.
    pub fn parse(text: &str) -> Self {
        let mut line = CommandLine { words: words(text), ..CommandLine::default() };
        for word in line.words.clone() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), None),
            };
            let text = || value.filter(|value| !value.is_empty()).map(str::to_owned);
            match key {
                "root" => line.root = text(),
                "rootfstype" => line.root_type = text(),
                "rootflags" => line.root_options = text(),
                "init" => line.init = text(),
                "ro" => line.writable = Some(false),
                "rw" => line.writable = Some(true),
                "quiet" => line.quiet = true,
                "single" | "s" | "S" | "1" if value.is_none() => line.single = true,
                "emergency" | "-b" if value.is_none() => line.emergency = true,
                "fsck.mode" => {
                    line.check = match value {
                        Some("force") => Check::Force,
                        Some("skip") => Check::Skip,
                        _ => Check::Auto,
                    }
                }
                _ => {
                    if let Some(key) = key.strip_prefix("berth.") {
                        let value = value.unwrap_or("true").to_owned();
                        line.settings.push((key.to_owned(), value));
                    }
                }
            }
        }
        line
    }
}

/// Words are apart by white space; quotes keep it inside one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for char in text.chars() {
        match char {
            '"' => quoted = !quoted,
            char if char.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            char => word.push(char),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found() {
        let line = CommandLine::parse(
            "BOOT_IMAGE=/vmlinuz root=UUID=ab-cd ro quiet rw berth.hostname=\"a b\" berth.coldplug \
             single fsck.mode=force init=/bin/x single=no\n",
        );
        assert_eq!(line.root.as_deref(), Some("UUID=ab-cd"));
        assert_eq!(line.writable, Some(true));
        assert!(line.quiet && line.single && !line.emergency);
        assert_eq!(line.check, Check::Force);
        assert_eq!(line.init.as_deref(), Some("/bin/x"));
        let settings = [("hostname", "a b"), ("coldplug", "true")];
        assert_eq!(line.settings, settings.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(CommandLine::parse(""), CommandLine::default());
    }
}
