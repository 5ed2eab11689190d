//! What Docker's filters mean, where several routes have the same. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hyper::StatusCode;
use regex::{Regex, RegexBuilder};

use super::logs::parse_time;
use super::respond::{Answer, failure};

/// The values of each filter that was given.
pub type Filters = BTreeMap<String, Vec<String>>;

fn refuse(message: &str) -> Box<Answer> {
    Box::new(failure(StatusCode::BAD_REQUEST, message))
}

/// The values of a filter that are patterns, as Docker takes those of names and ids: found
/// anywhere unless they are anchored. One that is no pattern is itself.
pub struct Patterns(Vec<(String, Option<Regex>)>);

impl Patterns {
    /// The most that all of them may take together when they are made ready: strangers ask,
    /// too.
    const SIZE: usize = 1 << 20;

    /// Those of this filter. To be made once for all that is looked at.
    pub fn of(filters: &Filters, key: &str) -> Patterns {
        let values = filters.get(key).map(Vec::as_slice).unwrap_or_default();
        let share = Self::SIZE / values.len().max(1);
        let pattern = |text: &String| {
            let mut builder = RegexBuilder::new(text);
            (text.clone(), builder.size_limit(share).dfa_size_limit(share).build().ok())
        };
        Patterns(values.iter().map(pattern).collect())
    }

    /// Whether one of them fits, or there is none.
    pub fn fit(&self, text: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|(value, pattern)| {
                value == text || pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
            })
    }
}

/// Whether there is such a label, `name` or `name=value`.
pub fn labelled(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|is| is == value),
        None => labels.contains_key(wanted),
    }
}

/// Whether labels are as `label` and `label!` want them: all of the ones, none of the
/// others.
pub fn labels_fit(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    let values = |key: &str| filters.get(key).into_iter().flatten();
    values("label").all(|wanted| labelled(labels, wanted))
        && !values("label!").any(|unwanted| labelled(labels, unwanted))
}

/// The time of `until`.
///
/// # Errors
/// The answer that says what is wrong with it.
pub fn until(filters: &Filters, now: SystemTime) -> Result<Option<SystemTime>, Box<Answer>> {
    match filters.get("until").map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([text]) => parse_time(text, now).map(Some).map_err(|message| refuse(&message)),
        Some(_) => Err(refuse("more than one until filter specified")),
    }
}

/// A filter that is on or off.
///
/// # Errors
/// The answer that says that it is neither.
pub fn is_on(filters: &Filters, key: &str) -> Result<Option<bool>, Box<Answer>> {
    let values = filters.get(key).into_iter().flatten();
    let read = values.map(|value| match value.as_str() {
        "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(true),
        "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(false),
        _ => Err(refuse(&format!("invalid filter '{key}={value}'"))),
    });
    let read: Vec<bool> = read.collect::<Result<_, _>>()?;
    match read.as_slice() {
        [] => Ok(None),
        [first, rest @ ..] if rest.iter().all(|one| one == first) => Ok(Some(*first)),
        _ => Err(refuse(&format!("invalid filter '{key}': it can't be both"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn filters(pairs: &[(&str, &[&str])]) -> Filters {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        pairs.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
    }

    #[test]
    fn all_wanted_labels_and_none_of_the_others() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".into(), "".into())]);
        let fits = |pairs: &[(&str, &[&str])]| labels_fit(&filters(pairs), &labels);
        assert!(fits(&[]) && fits(&[("label", &["a=1", "b"])]) && fits(&[("label!", &["c"])]));
        assert!(!fits(&[("label", &["a=1", "c"])]) && !fits(&[("label", &["a=2"])]));
        assert!(!fits(&[("label!", &["c", "b"])]) && fits(&[("label!", &["a=2"])]));
    }

    #[test]
    fn names_are_found_by_patterns() {
        let fit = |pattern: &str, text: &str| {
            Patterns::of(&filters(&[("name", &[pattern])]), "name").fit(text)
        };
        assert!(fit("we", "web") && fit("^web$", "web") && fit("^(web|db)-[0-9]+$", "db-12"));
        assert!(!fit("^web$", "web2") && !fit("^b", "web") && !fit("[", "web") && fit("[", "["));
        assert!(!fit(&"(a{900}){900}".repeat(3), "a"), "it would take too much");
        assert!(Patterns::of(&filters(&[]), "name").fit("web"));
        // As many as fit into a request.
        let many: Vec<String> = (0..3000).map(|n| format!("{n}{{999}}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["web"]).collect();
        let begun = std::time::Instant::now();
        let patterns = Patterns::of(&filters(&[("name", &many)]), "name");
        assert!(patterns.fit("web") && !patterns.fit("db"), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_time_stands_alone() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(until(&filters(&[]), now).unwrap(), None);
        let before = until(&filters(&[("until", &["10s"])]), now).unwrap();
        assert_eq!(before, Some(now - Duration::from_secs(10)));
        assert!(until(&filters(&[("until", &["1h", "2h"])]), now).is_err());
        assert!(until(&filters(&[("until", &["soon"])]), now).is_err());
    }

    #[test]
    fn on_and_off_have_their_words() {
        let read = |values: &[&str]| is_on(&filters(&[("dangling", values)]), "dangling");
        assert_eq!(read(&["true"]).unwrap(), Some(true));
        assert_eq!(read(&["0"]).unwrap(), Some(false));
        assert_eq!(is_on(&filters(&[]), "dangling").unwrap(), None);
        assert!(read(&["maybe"]).is_err() && read(&["true", "false"]).is_err());
    }
}
