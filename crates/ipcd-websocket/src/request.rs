//! The server's side of the upgrade (RFC 6455 §4.2): a request is judged, and answered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Status};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use crate::origin;

/// Bytes of the longest head of a request or an answer.
pub(crate) const LONGEST_HEAD: usize = 4 * 1024;
/// Fields of the longest head.
pub(crate) const MOST_FIELDS: usize = 64;
/// Bytes of the nonce in a key.
pub(crate) const NONCE_BYTES: usize = 16;
/// The version of the protocol.
pub(crate) const VERSION: &str = "13";
/// The name of the protocol inside, for peers that speak frames of ipcd.
pub(crate) const SUBPROTOCOL: &str = "ipcd.1";
/// The text that follows the key in the bytes of which the answer has the hash (§1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a peer's that a line of the log shows.
const SHOWN: usize = 100;

/// The requests that a listener answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RequestRules {
    /// The only path; empty for any.
    pub(crate) path: String,
    /// The origins that are admitted; without a list, that of the host itself.
    pub(crate) origins: Option<String>,
    /// Whether the peers are raw.
    pub(crate) is_raw: bool,
}

/// The judgement on a request, as far as it has come.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// More has to come.
    Incomplete,
    /// It is accepted with this answer.
    Accepted(String),
    Refused(Refusal),
}

/// A refused request.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: u16,
    /// The reason, for the peer.
    reason: &'static str,
    /// The text that the log shows beside it.
    detail: Option<String>,
}

type Outcome<T> = Result<T, Refusal>;

fn refused<T>(status: u16, reason: &'static str) -> Outcome<T> {
    Err(Refusal { status, reason, detail: None })
}

impl RequestRules {
    /// Judges what has come of a request.
    pub(crate) fn judge(&self, bytes: &[u8]) -> Judgement {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut request = Request::new(&mut fields);
        let head = match request.parse(bytes) {
            Ok(Status::Complete(head)) if head <= LONGEST_HEAD => head,
            Ok(Status::Partial) if bytes.len() < LONGEST_HEAD => return Judgement::Incomplete,
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                let reason = "the request has more than 4 KiB or 64 fields";
                return Judgement::Refused(Refusal { status: 431, reason, detail: None });
            }
            Err(error) => {
                let (reason, detail) = ("that is no request of HTTP/1.1", Some(error.to_string()));
                return Judgement::Refused(Refusal { status: 400, reason, detail });
            }
        };
        match self.answer(&request) {
            // RFC 6455 §4.1: a client waits for the answer before it sends anything else.
            Ok(_) if head < bytes.len() => Judgement::Refused(Refusal {
                status: 400,
                reason: "more came before the request was answered",
                detail: None,
            }),
            Ok(answer) => Judgement::Accepted(answer),
            Err(refusal) => Judgement::Refused(refusal),
        }
    }

    fn answer(&self, request: &Request<'_, '_>) -> Outcome<String> {
        let fields = &*request.headers;
        if request.method != Some("GET") {
            return refused(405, "a WebSocket is asked for with GET");
        }
        if request.version != Some(1) {
            return refused(400, "HTTP/1.1 is needed");
        }
        if !has_word(fields, "upgrade", "websocket") || !has_word(fields, "connection", "upgrade") {
            return refused(426, "this is a WebSocket of ipcd, and no page");
        }
        if only(fields, "sec-websocket-version")? != Some(VERSION) {
            return refused(426, "version 13 of the WebSocket protocol is needed");
        }
        let Some(host) = only(fields, "host")?.filter(|host| !host.is_empty()) else {
            return refused(400, "there is no Host field");
        };
        let key = only(fields, "sec-websocket-key")?.unwrap_or_default();
        if STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != NONCE_BYTES {
            return refused(400, "Sec-WebSocket-Key is missing, or not 16 bytes in base64");
        }
        self.check_path(request.path.unwrap_or_default())?;
        self.check_origin(only(fields, "origin")?, host)?;
        Ok(self.upgrade(key, fields))
    }

    fn check_path(&self, target: &str) -> Outcome<()> {
        let path = target.split('?').next().unwrap_or_default();
        match self.path.is_empty() || self.path == path {
            true => Ok(()),
            false => refused(404, "there is no WebSocket at this path"),
        }
    }

    /// Only browsers send an origin, and each does. A program that is none can send any.
    fn check_origin(&self, origin: Option<&str>, host: &str) -> Outcome<()> {
        match origin {
            Some(origin) if !origin::is_admitted(self.origins.as_deref(), origin, host) => {
                Err(Refusal {
                    status: 403,
                    reason: "pages of this origin may not connect: the listener's origin= names \
                             those that may",
                    detail: Some(format!("{} to {}", shown(origin), shown(host))),
                })
            }
            _ => Ok(()),
        }
    }

    fn upgrade(&self, key: &str, fields: &[Header<'_>]) -> String {
        let wants_ours = has_word(fields, "sec-websocket-protocol", SUBPROTOCOL);
        let subprotocol = match wants_ours && !self.is_raw {
            true => format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"),
            false => String::new(),
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{subprotocol}\r\n",
            accept_key(key)
        )
    }
}

impl Refusal {
    /// The refusal of a peer that has left, or takes too long.
    pub(crate) fn too_late() -> Self {
        Self { status: 408, reason: "the request was not complete in time", detail: None }
    }

    /// The answer for the peer, after which the connection ends.
    pub(crate) fn answer(&self) -> String {
        let Self { status, reason, .. } = self;
        let (name, more) = match status {
            400 => ("Bad Request", ""),
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            408 => ("Request Timeout", ""),
            431 => ("Request Header Fields Too Large", ""),
            _ => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        };
        // RFC 9110 §7.8: who sends Upgrade names it in Connection, too.
        let upgrade = if more.starts_with("Upgrade") { "upgrade, " } else { "" };
        format!(
            "HTTP/1.1 {status} {name}\r\nConnection: {upgrade}close\r\n{more}\
             Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\n\r\n{reason}\n",
            reason.len() + 1
        )
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HTTP {}: {}", self.status, self.reason)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// A peer's text for a line of the log.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// The value of a field that may stand there once, without the spaces around it.
pub(crate) fn only<'a>(fields: &[Header<'a>], name: &str) -> Outcome<Option<&'a str>> {
    let mut found = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    let value = found.next().map(|field| std::str::from_utf8(field.value));
    match (value.transpose(), found.next()) {
        (Ok(value), None) => Ok(value.map(|value| value.trim_matches([' ', '\t']))),
        _ => refused(400, "a field that stands there once is repeated, or no text"),
    }
}

/// Whether a word stands in the lists of the fields with this name.
pub(crate) fn has_word(fields: &[Header<'_>], name: &str, word: &str) -> bool {
    let found = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    found
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The proof that the request was understood (RFC 6455 §4.2.2, 5.4).
pub(crate) fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [&str; 5] = [
        "Host: localhost:7118",
        "Upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];

    fn rules() -> RequestRules {
        RequestRules { path: "/bus".into(), origins: None, is_raw: false }
    }

    fn judge(first: &str, fields: &[&str]) -> Result<String, String> {
        let request = format!("{first}\r\n{}\r\n\r\n", fields.join("\r\n"));
        for cut in 0..request.len() {
            let judgement = rules().judge(&request.as_bytes()[..cut]);
            assert!(matches!(judgement, Judgement::Incomplete | Judgement::Refused(_)));
        }
        match rules().judge(request.as_bytes()) {
            Judgement::Incomplete => panic!("{request}: nothing is missing"),
            Judgement::Accepted(answer) => Ok(answer),
            Judgement::Refused(refusal) => {
                assert!(refusal.answer().ends_with(&format!("\r\n\r\n{}\n", refusal.reason)));
                Err(refusal.to_string())
            }
        }
    }

    fn with(field: &str) -> Result<String, String> {
        judge("GET /bus HTTP/1.1", &[&FIELDS[..], &[field]].concat())
    }

    fn instead(field: &str) -> Result<String, String> {
        let name = field.split(':').next().unwrap();
        let others = FIELDS.iter().filter(|other| !other.starts_with(name));
        let fields: Vec<_> = others.copied().chain([field]).collect();
        judge("GET /bus HTTP/1.1", &fields)
    }

    /// The example of RFC 6455 §1.3.
    #[test]
    fn answers_with_the_hash_of_the_key() {
        let answer = judge("GET /bus?token=1 HTTP/1.1", &FIELDS).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!answer.contains("Protocol:") && !answer.contains("Extensions"));
        let answer = with("Sec-WebSocket-Protocol: chat, ipcd.1").unwrap();
        assert!(answer.contains("Sec-WebSocket-Protocol: ipcd.1\r\n"));
        assert!(!with("Sec-WebSocket-Protocol: chat").unwrap().contains("Protocol:"));
        assert!(!with("Sec-WebSocket-Extensions: permessage-deflate").unwrap().contains("deflate"));
    }

    #[test]
    fn refuses_with_the_status_that_fits() {
        let status = |outcome: Result<String, String>| outcome.unwrap_err()[5..8].to_owned();
        assert_eq!(status(judge("POST /bus HTTP/1.1", &FIELDS)), "405");
        assert_eq!(status(judge("GET /bus HTTP/1.0", &FIELDS)), "400");
        assert_eq!(status(judge("GET /other HTTP/1.1", &FIELDS)), "404");
        assert_eq!(status(judge("nonsense", &FIELDS)), "400");
        assert_eq!(status(judge("GET /bus HTTP/1.1", &FIELDS[..1])), "426");
        assert_eq!(status(instead("Upgrade: h2c")), "426");
        assert_eq!(status(instead("Connection: close")), "426");
        assert_eq!(status(instead("Sec-WebSocket-Version: 8")), "426");
        assert_eq!(status(instead("Host:")), "400");
        assert_eq!(status(instead("Sec-WebSocket-Key: c2hvcnQ=")), "400");
        assert_eq!(status(instead("Sec-WebSocket-Key: ?")), "400");
        assert_eq!(status(with("Host: other")), "400");
        assert_eq!(status(with("Origin: https://evil.example")), "403");
        assert_eq!(status(with(&format!("Cookie: {}", "x".repeat(LONGEST_HEAD)))), "431");
        assert_eq!(status(with(&"X: y\r\n".repeat(MOST_FIELDS)[..])), "431");
    }

    #[test]
    fn the_log_shows_an_origin_that_was_refused_and_no_control_characters() {
        let error = with("Origin: https://evil.example").unwrap_err();
        assert!(error.ends_with("(https://evil.example to localhost:7118)"), "{error}");
        let error = with(&format!("Origin: {}\u{85}", "x".repeat(99))).unwrap_err();
        assert!(error.contains("xxx\\u{85} to"), "{error}");
        assert!(with("Origin: http://localhost:8000").is_ok());
    }

    #[test]
    fn nothing_may_come_before_the_answer() {
        let request = format!("GET /bus HTTP/1.1\r\n{}\r\n\r\nmore", FIELDS.join("\r\n"));
        let Judgement::Refused(refusal) = rules().judge(request.as_bytes()) else { panic!() };
        assert!(refusal.to_string().contains("before the request was answered"));
    }

    #[test]
    fn a_long_head_is_refused_before_it_is_complete() {
        let bytes = [b"GET /bus HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; LONGEST_HEAD]].concat();
        assert!(matches!(rules().judge(&bytes[..LONGEST_HEAD - 1]), Judgement::Incomplete));
        assert!(matches!(rules().judge(&bytes), Judgement::Refused(_)));
    }
}
