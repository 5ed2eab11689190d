//! What is wrong with a manifest, for people and for machines.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::node::Spot;

/// Something wrong at a place of the text, before the text is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub spot: Spot,
    /// What is wrong.
    pub message: String,
    /// What was probably meant, or what to do.
    pub hint: Option<String>,
}

/// Something wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where it is about the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 as `line`.
    pub column: usize,
    /// The line itself.
    pub source_line: String,
    /// How many characters of the line it is about.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What was probably meant, or what to do.
    pub hint: Option<String>,
}

/// More of a long line helps nobody.
const LINE_MAX: usize = 200;

impl Problem {
    /// About a whole file.
    pub fn of_file(file: &Path, message: impl Into<String>, hint: Option<&str>) -> Self {
        Problem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            source_line: String::new(),
            width: 0,
            message: message.into(),
            hint: hint.map(str::to_owned),
        }
    }

    /// A fault in a text.
    pub fn of_fault(fault: Fault, file: &Path, text: &str) -> Self {
        let start = floor(text, fault.spot.span.start);
        let end = floor(text, fault.spot.span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let source_line: String = text[line_start..line_end].chars().take(LINE_MAX).collect();
        Problem {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end.min(line_end).max(start)].chars().count().max(1),
            source_line: source_line.trim_end_matches('\r').to_owned(),
            message: fault.message,
            hint: fault.hint,
        }
    }

    /// With the line and what it is about underlined, for a terminal.
    pub fn render(&self) -> String {
        let mut text = format!("{self:#}");
        if self.line > 0 {
            let number = self.line.to_string();
            let pad = " ".repeat(number.len());
            let shown: String =
                self.source_line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
            let before = " ".repeat(self.column.saturating_sub(1).min(LINE_MAX));
            let room = LINE_MAX.saturating_sub(self.column);
            let under = "^".repeat(self.width.min(room).max(1));
            text += &format!("\n {number} | {shown}\n {pad} | {before}{under}");
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n   = {hint}");
        }
        text
    }
}

/// The character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = self.hint.as_ref().filter(|_| !f.alternate()) {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// The name among `known` that was probably meant.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(wrong, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, an exchange of neighbours counted as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut least =
                    (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_with_its_line() {
        let text = "rootfs = \"/\"\ncomand = [\"é\"]\n";
        let fault = Fault {
            spot: Spot { file: 0, span: 13..19 },
            message: "unknown key `comand`".into(),
            hint: Some("did you mean `command`?".into()),
        };
        let problem = Problem::of_fault(fault, Path::new("web.toml"), text);
        assert_eq!((problem.line, problem.column, problem.width), (2, 1, 6));
        assert_eq!(
            problem.render(),
            "web.toml:2:1: unknown key `comand`\n 2 | comand = [\"é\"]\n   | ^^^^^^\n   = did you mean `command`?"
        );
    }

    #[test]
    fn what_was_meant_is_guessed() {
        assert_eq!(nearest("comand", &["command", "env"]), Some("command"));
        assert_eq!(nearest("memroy", &["memory", "swap"]), Some("memory"));
        assert_eq!(nearest("zebra", &["command", "env"]), None);
    }
}
