//! The pages that may connect. A browser sends the origin of the page along (RFC 6454), and lets every
//! page connect to every host: the server has to refuse those that it does not know.

use std::net::IpAddr;

use ipcd_transport::{Endpoint, Result};

/// The option of a listener that names the pages that may connect.
pub const ORIGIN_OPTION: &str = "origin";

/// Bytes of the longest list: it travels to a worker with each peer.
const LONGEST_LIST: usize = 2048;
/// The origin of a page that has none, such as a file.
const OPAQUE: &str = "null";
const ANY: &str = "*";

/// The list of the listener's option, if it has any.
pub(crate) fn listed(at: &Endpoint) -> Result<Option<String>> {
    let Some(list) = at.option(ORIGIN_OPTION) else { return Ok(None) };
    if list.len() > LONGEST_LIST {
        return Err(at.error(format_args!("origin= has more than {LONGEST_LIST} bytes")));
    }
    if let Some(bad) = list.split(',').find(|item| !is_origin(item)) {
        return Err(at.error(format_args!(
            "origin={bad}: an origin is written https://HOST or http://HOST:PORT, as the browser \
             sends it; * stands for all, and null for pages without one"
        )));
    }
    Ok(Some(list.to_owned()))
}

/// Whether this is an origin as a browser writes it, or stands for some.
fn is_origin(item: &str) -> bool {
    let is_serialised = || {
        let (scheme, host) = item.split_once("://")?;
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let is_fit = !scheme.is_empty() && !host.is_empty();
        Some(is_fit && scheme.bytes().all(in_scheme) && host.bytes().all(in_host))
    };
    item == ANY || item == OPAQUE || is_serialised().unwrap_or(false)
}

/// Whether a page of this origin may connect to the host that it has asked for.
///
/// Without a list, the page must come from that host itself, whatever its port. Then the host must be
/// an address or `localhost`: the owner of any other name can let it point here after the page was
/// loaded (DNS rebinding), and origin and host agree.
pub(crate) fn is_admitted(listed: Option<&str>, origin: &str, host: &str) -> bool {
    match listed {
        Some(list) => list.split(',').any(|item| item == ANY || item.eq_ignore_ascii_case(origin)),
        None => {
            let (scheme, origin) = origin.split_once("://").unwrap_or_default();
            let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
            let (origin, host) = (without_port(origin), without_port(host));
            is_web && is_unforgeable(host) && origin.eq_ignore_ascii_case(host)
        }
    }
}

fn without_port(host: &str) -> &str {
    let bracketed = host.find(']').map(|end| &host[..=end]);
    bracketed.unwrap_or_else(|| host.split(':').next().unwrap_or(host))
}

/// Whether the host is an address, or the name that always means this machine (RFC 6761 §6.3).
fn is_unforgeable(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(list: &str) -> Result<Option<String>> {
        let mut at = Endpoint::new("ws", "127.0.0.1:0");
        at.set_option(ORIGIN_OPTION, list);
        listed(&at)
    }

    #[test]
    fn a_list_has_origins_as_browsers_write_them() {
        for list in ["*", "null", "https://a.example,http://localhost:8000", "http://[::1]:80"] {
            assert_eq!(option(list).unwrap().as_deref(), Some(list));
        }
        for list in ["", "a.example", "https://a.example/", "https://", "https://a.example, *"] {
            let error = option(list).unwrap_err().to_string();
            assert!(error.contains("as the browser sends it"), "{list}: {error}");
        }
        assert!(option(&"*,".repeat(1500)).unwrap_err().to_string().contains("2048"));
        assert_eq!(listed(&Endpoint::new("ws", "127.0.0.1:0")).unwrap(), None);
    }

    #[test]
    fn a_listed_origin_is_admitted_and_no_other() {
        let is_admitted = |origin| {
            is_admitted(Some("https://a.example,http://b.example:8080"), origin, "localhost:1")
        };
        assert!(is_admitted("https://a.example") && is_admitted("HTTP://B.example:8080"));
        for other in [
            "http://a.example",
            "https://a.example:444",
            "https://a.example.evil.example",
            "https://evil-a.example",
            "http://b.example",
            "http://localhost",
            "null",
            "",
        ] {
            assert!(!is_admitted(other), "{other}");
        }
        assert!(super::is_admitted(Some("*"), "https://anything.example", "localhost"));
        assert!(super::is_admitted(Some("null"), "null", "localhost"));
    }

    #[test]
    fn without_a_list_a_page_comes_from_the_host_that_it_asks_for() {
        let is_admitted = |origin, host| is_admitted(None, origin, host);
        assert!(is_admitted("http://localhost:8000", "localhost:7118"));
        assert!(is_admitted("https://127.0.0.1", "127.0.0.1:7118"));
        assert!(is_admitted("http://[::1]:8000", "[::1]:7118"));
        assert!(!is_admitted("http://127.0.0.1:8000", "localhost:7118"));
        assert!(!is_admitted("https://evil.example", "127.0.0.1:7118"));
        assert!(!is_admitted("http://localhost.evil.example", "localhost:7118"));
        assert!(!is_admitted("null", "localhost:7118"));
        assert!(!is_admitted("chrome-extension://localhost", "localhost:7118"));
        assert!(!is_admitted("http://[::1", "[::1]:7118"));
    }

    /// Its DNS server answers with 127.0.0.1 once the page is there.
    #[test]
    fn a_page_whose_name_points_here_is_refused_without_a_list() {
        let (origin, host) = ("http://evil.example:7118", "evil.example:7118");
        assert!(!is_admitted(None, origin, host));
        assert!(is_admitted(Some("http://evil.example:7118"), origin, host));
    }
}
