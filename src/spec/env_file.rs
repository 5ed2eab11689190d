//! Docker's env-file format: a line is `NAME=value`, the value as it stands, quotes
//! included; `NAME` alone takes the value from the supervisor's environment; blank
//! lines and those that begin with `#` say nothing.

use std::fmt;

/// A line that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for LineError {}

/// The variables of a file in their order; `inherited` gives the value of a name
/// that stands alone, and a name without one is left out.
///
/// # Errors
/// The first line that is not UTF-8, has a NUL byte, no name, or a blank in it.
pub fn parse(
    file: &[u8],
    inherited: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, LineError> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut variables = Vec::new();
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let error = |reason: String| LineError { line: index + 1, reason };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|_| error("the line is not UTF-8".to_owned()))?
            .trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text.contains('\0') {
            return Err(error("a NUL byte can't be in the environment".to_owned()));
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.trim_end(), None),
        };
        if name.is_empty() {
            return Err(error("there is no name before '='; write NAME=value".to_owned()));
        }
        if name.contains(char::is_whitespace) {
            return Err(error(format!("the name {name:?} has a blank in it; write NAME=value")));
        }
        match value {
            Some(value) => variables.push((name.to_owned(), value.to_owned())),
            None => variables.extend(inherited(name).map(|value| (name.to_owned(), value))),
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_kept_as_they_stand() {
        let file =
            b"\xef\xbb\xbf# comment\n\n  A=1\r\nB=\"x y\" # no comment\nC=\nD=a=b\nHERE\nGONE\n";
        let host = |name: &str| (name == "HERE").then(|| "host".to_owned());
        let pairs = parse(file, host).unwrap();
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [("A", "1"), ("B", "\"x y\" # no comment"), ("C", ""), ("D", "a=b"), ("HERE", "host")]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (file, line) in [
            (&b"A=1\n=x\n"[..], 2),
            (b"A B=1", 1),
            (b"\n\nA=\xff", 3),
            (b"A=\0", 1),
            (b"export A=1", 1),
        ] {
            assert_eq!(parse(file, |_| None).unwrap_err().line, line, "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(file in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&file, |_| None);
        }

        #[test]
        fn what_is_written_is_read(name in "[A-Z_][A-Z0-9_]{0,8}", value in "[^\n\r\0]{0,20}") {
            let read = parse(format!("{name}={value}\n").as_bytes(), |_| None).unwrap();
            prop_assert_eq!(read, vec![(name, value)]);
        }
    }
}
