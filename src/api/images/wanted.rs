//! Filters of images. Pure.

use std::time::SystemTime;

use super::super::filters::{self, Filters};
use super::super::model::seconds;
use super::super::respond::Answer;
use crate::image::store::Listed;
use crate::image::{ImageConfig, Reference};

/// When an image was made, in seconds since 1970.
pub fn born(config: &ImageConfig) -> i64 {
    let text = config.created.as_deref().unwrap_or_default();
    text.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second())
}

/// The same to the nanosecond, for what is compared.
pub fn born_exactly(config: &ImageConfig) -> i128 {
    let text = config.created.as_deref().unwrap_or_default();
    text.parse::<jiff::Timestamp>().map_or(0, |time| time.as_nanosecond())
}

/// The images that filters mean.
pub struct Wanted {
    /// All of them.
    pub filters: Filters,
    /// Those without a name alone, or those with one.
    pub dangling: Option<bool>,
    /// Made before this, in seconds since 1970.
    pub until: Option<i64>,
}

impl Wanted {
    /// What the client asks for.
    ///
    /// # Errors
    /// The answer that says what is wrong with it.
    pub fn of(filters: Filters) -> Result<Wanted, Box<Answer>> {
        let until = filters::until(&filters, SystemTime::now())?.map(seconds);
        Ok(Wanted { dangling: filters::is_on(&filters, "dangling")?, until, filters })
    }

    /// Whether it is one of them, but for its names.
    pub fn fits(&self, listed: &Listed) -> bool {
        let config = &listed.image.config;
        self.dangling.is_none_or(|dangling| dangling == listed.names.is_empty())
            && self.until.is_none_or(|until| born(config) < until)
            && filters::labels_fit(&self.filters, &config.config.labels)
    }
}

/// Docker's filter `reference`: a name, with `*` for any letters but a slash.
pub fn reference_fits(name: &Reference, wanted: &str) -> bool {
    let familiar = name.familiar();
    let (repository, _) = (name.familiar_name(), name.tag());
    let pattern = |text: &str| glob(wanted.as_bytes(), text.as_bytes());
    pattern(&familiar)
        || pattern(&repository)
        || pattern(&name.to_string())
        || pattern(&name.name())
}

/// Part by part between slashes, which `*` and `?` do not match; within a part only the
/// last star is ever tried again, so no pattern takes long.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let parts = |of| <[u8]>::split(of, |byte| *byte == b'/');
    parts(pattern).count() == parts(text).count()
        && parts(pattern).zip(parts(text)).all(|(pattern, text)| glob_part(pattern, text))
}

fn glob_part(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_filter_knows_stars() {
        let name: Reference = "127.0.0.1:5000/shop/web:1.4".parse().unwrap();
        for wanted in ["127.0.0.1:5000/shop/web", "127.0.0.1:5000/shop/web:1.4", "*/shop/web:1.*"] {
            assert!(reference_fits(&name, wanted), "{wanted}");
        }
        for other in ["web", "*", "*:1.4", "127.0.0.1:5000/shop/web:2"] {
            assert!(!reference_fits(&name, other), "{other}");
        }
        let slow = "*a".repeat(60) + "b";
        assert!(!glob(slow.as_bytes(), &[b'a'; 4000]));
        assert!(glob(b"a*b?d", b"axxbcbxd") && !glob(b"a*b?d", b"axxbcbd/d"));
        let short: Reference = "redis".parse().unwrap();
        assert!(
            reference_fits(&short, "redis")
                && reference_fits(&short, "red*")
                && reference_fits(&short, "docker.io/library/redis")
                && !reference_fits(&short, "redis:7")
        );
    }
}
