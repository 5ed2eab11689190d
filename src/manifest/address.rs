//! Addresses of health probes. Pure.

/// Host (empty is the container itself) and port of `:5432` or `localhost:5432`.
pub fn tcp(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    (port > 0 && !host.contains(['/', ' '])).then_some((host, port))
}

/// Host, port and path of `http://:80/healthz`.
pub fn http(text: &str) -> Option<(&str, u16, &str)> {
    let rest = text.strip_prefix("http://")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let (host, port) = match authority.contains(':') {
        true => tcp(authority)?,
        false => (authority, 80),
    };
    let path = if path.is_empty() { "/" } else { path };
    (!path.contains(char::is_whitespace)).then_some((host, port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(tcp(":5432"), Some(("", 5432)));
        assert_eq!(tcp("x"), None);
        assert_eq!(tcp(":0"), None);
        assert_eq!(http("http://:80/healthz"), Some(("", 80, "/healthz")));
        assert_eq!(http("http://localhost"), Some(("localhost", 80, "/")));
        assert_eq!(http("https://x"), None);
    }
}
