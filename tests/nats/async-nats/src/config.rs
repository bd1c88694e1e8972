//! The part of nats-server's configuration language that the tests use, as far as it concerns ipcd.

use std::fs;
use std::path::Path;

/// The wishes of a configuration.
#[derive(Debug, Default)]
pub(crate) struct ServerConfig {
    pub(crate) max_payload: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) user: Option<(String, String)>,
    pub(crate) nkey: Option<String>,
    /// Whether users show JSON web tokens, which ipcd does not know.
    pub(crate) has_operator: bool,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) websocket_port: Option<String>,
}

/// Files and options of TLS.
#[derive(Debug, Default)]
pub(crate) struct TlsConfig {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) ca: Option<String>,
    pub(crate) is_verified: bool,
    /// Whether TLS comes before INFO: `true`, or after which time without a byte INFO comes.
    pub(crate) handshake_first: Option<String>,
}

impl ServerConfig {
    /// Reads a file; no path is no configuration. A key that ipcd has no word for is left out, and
    /// its test fails.
    pub(crate) fn read(path: &Path) -> Self {
        if path.as_os_str().is_empty() {
            return Self::default();
        }
        let text = fs::read_to_string(path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::of(&text)
    }

    fn of(text: &str) -> Self {
        let value = |key: &str| value(text, key);
        let tls = text.contains("tls {").then(|| TlsConfig {
            cert: value("cert_file").expect("TLS has a certificate"),
            key: value("key_file").expect("TLS has a key"),
            ca: value("ca_file"),
            is_verified: value("verify").is_some_and(|is_verified| is_verified == "true"),
            handshake_first: value("handshake_first"),
        });
        let websocket = text.split_once("websocket").map(|(_, rest)| rest);
        Self {
            max_payload: value("max_payload"),
            token: value("token"),
            user: value("user").zip(value("password")),
            nkey: value("nkey"),
            has_operator: value("operator").is_some(),
            tls,
            websocket_port: websocket.and_then(|text| self::value(text, "port")),
        }
    }
}

/// The value of the first line, or braces, that begin with this key.
fn value(text: &str, key: &str) -> Option<String> {
    let starts = |part: &&str| part.trim_start_matches(['{', '[', ' ', '\t']).starts_with(key);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', '/']));
    let line = lines.map(|line| line.trim_start()).find(|line| {
        let rest = line.trim_start_matches(['{', ' ']).strip_prefix(key);
        starts(line) && rest.is_some_and(|rest| rest.trim_start().starts_with([':', '=']))
    })?;
    let (_, value) = line.split_once([':', '='])?;
    let value = value.split('#').next()?.trim().trim_end_matches(['}', ' ']);
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_behind_their_keys() {
        let text = "# user: no\nauthorization {\n  user:     derek\n  password: porkchop # x\n}\n";
        let config = ServerConfig::of(text);
        assert_eq!(config.user, Some(("derek".into(), "porkchop".into())));
        assert!(config.tls.is_none() && config.token.is_none());
        let config = ServerConfig::of("users: [\n { nkey: UAF }\n]\nmax_payload = 128KB\n");
        assert_eq!((config.nkey, config.max_payload), (Some("UAF".into()), Some("128KB".into())));
    }
}
