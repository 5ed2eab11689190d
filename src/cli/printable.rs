//! What may go to a terminal. Names, messages and output come from images, registries,
//! containers and other people's manifests: what moves the cursor, renames the window or
//! types answers is shown, not obeyed. Pure.

use std::borrow::Cow;

/// The text with a `?` in place of what a terminal would obey. Lines and tabs stay, and
/// colours, which are our own; hidden letters do not.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_harmful(c) || c == '\x1b') {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = match ours(rest) {
            Some(len) => {
                clean.push_str(&rest[..len]);
                len
            }
            None => {
                clean.push(if is_harmful(c) { '?' } else { c });
                c.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    Cow::Owned(clean)
}

/// The length of a colour that the text begins with (ECMA-48, 8.3.117 SGR).
fn ours(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let len = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    // 8 conceals, as does whatever a terminal takes for it: 08, and what overflows.
    let is_shown = |number: &str| match number.parse::<u8>() {
        Ok(number) => number != 8,
        Err(_) => number.is_empty(),
    };
    let shown = parameters[..len].split(';').all(is_shown);
    (parameters[len..].starts_with('m') && shown).then_some(len + 3)
}

/// Control characters, and those that turn the direction of writing about.
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// A piece of a line: without ends of lines and colours, too.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !is_harmful(*c) && *c != '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_instead() {
        assert_eq!(printable("a\tb\n\u{e9}"), "a\tb\n\u{e9}");
        assert_eq!(printable("\x1b[31mred\x1b[0m"), "\x1b[31mred\x1b[0m");
        assert_eq!(printable("\x1b[m\x1b[1;;38mx"), "\x1b[m\x1b[1;;38mx");
        assert_eq!(printable("\x1b[2J\x1b[Hx"), "?[2J?[Hx");
        assert_eq!(printable("\x1b[08m\x1b[1;008m\x1b[264m"), "?[08m?[1;008m?[264m");
        // Titles, answers that are typed, cursors, hidden letters, the 8-bit forms.
        assert_eq!(printable("\x1b]0;title\x07"), "?]0;title?");
        assert_eq!(printable("\x1b[5n\x1b[1;1Hx\x1b[8mhidden"), "?[5n?[1;1Hx?[8mhidden");
        assert_eq!(printable("a\rb\x08\u{9b}2J\u{202e}c"), "a?b??2J?c");
        assert_eq!(printable("\x1b[31"), "?[31");
        assert_eq!(printable("\x1b"), "?");
        assert_eq!(plain("a\x1b[2J\r\nb\tc"), "a[2Jb\tc");
    }
}
