//! The client's side of the upgrade (RFC 6455 §4.1): a request, and the check of its answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Response, Status};
use serde::{Deserialize, Serialize};

use crate::outgoing::fill_random;
use crate::place::Place;
use crate::request::{
    LONGEST_HEAD, MOST_FIELDS, NONCE_BYTES, SUBPROTOCOL, VERSION, accept_key, has_word, only, shown,
};

/// The answer that a client expects.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExpectedAnswer {
    accept: String,
    /// Whether the server has to speak frames of ipcd.
    is_ours: bool,
}

/// A request for a WebSocket at this place, and the answer to it.
///
/// # Errors
/// If the kernel has no random bytes.
pub(crate) fn ask(place: &Place, is_raw: bool) -> ipcd_transport::Result<(String, ExpectedAnswer)> {
    let mut nonce = [0; NONCE_BYTES];
    fill_random(&mut nonce)?;
    let key = STANDARD.encode(nonce);
    let path = if place.path.is_empty() { "/" } else { &place.path };
    let subprotocol = match is_raw {
        true => String::new(),
        false => format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {VERSION}\r\n{subprotocol}\r\n",
        place.host()
    );
    Ok((request, ExpectedAnswer { accept: accept_key(&key), is_ours: !is_raw }))
}

impl ExpectedAnswer {
    /// Checks what has come of the answer. Returns the length of its head, or `None` if some of it is
    /// missing.
    ///
    /// # Errors
    /// If it is another one. The error says why.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut answer = Response::new(&mut fields);
        let head = match answer.parse(bytes) {
            Ok(Status::Complete(head)) if head <= LONGEST_HEAD => head,
            Ok(Status::Partial) if bytes.len() < LONGEST_HEAD => return Ok(None),
            Ok(_) => return Err("its answer is longer than 4 KiB".into()),
            Err(error) => return Err(format!("it does not speak HTTP ({error})")),
        };
        if answer.code != Some(101) {
            return Err(refusal(&answer, &bytes[head..]));
        }
        let fields = &*answer.headers;
        let accept = only(fields, "sec-websocket-accept").ok().flatten();
        let is_upgraded = has_word(fields, "upgrade", "websocket")
            && has_word(fields, "connection", "upgrade")
            && accept == Some(&self.accept);
        if !is_upgraded {
            return Err("its answer is not that of a WebSocket".into());
        }
        if fields.iter().any(|field| field.name.eq_ignore_ascii_case("sec-websocket-extensions")) {
            return Err("it uses an extension, and none was asked for".into());
        }
        if self.is_ours && !has_word(fields, "sec-websocket-protocol", SUBPROTOCOL) {
            return Err(
                "it is a WebSocket, but not of ipcd: does the listener have a codec?".into()
            );
        }
        Ok(Some(head))
    }
}

/// The error for an answer that refuses, with the beginning of its text as far as it has come.
fn refusal(answer: &Response<'_, '_>, body: &[u8]) -> String {
    let line = format!("{} {}", answer.code.unwrap_or(0), shown(answer.reason.unwrap_or_default()));
    let text = String::from_utf8_lossy(body);
    match text.lines().next().map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => format!("it refuses the WebSocket: {line}: {}", shown(text)),
        None => format!("it refuses the WebSocket: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Judgement, RequestRules};

    fn place() -> Place {
        Place::of(&"ws://localhost:7118/bus".parse().unwrap()).unwrap()
    }

    fn answer_of(rules: &RequestRules, request: &str) -> String {
        match rules.judge(request.as_bytes()) {
            Judgement::Accepted(answer) => answer,
            Judgement::Refused(refusal) => refusal.answer(),
            Judgement::Incomplete => panic!("{request}: nothing is missing"),
        }
    }

    #[test]
    fn the_two_sides_agree() {
        for is_raw in [false, true] {
            let (request, expected) = ask(&place(), is_raw).unwrap();
            let rules = RequestRules { path: "/bus".into(), origins: None, is_raw };
            let answer = answer_of(&rules, &request);
            let bytes = [answer.as_bytes(), b"behind"].concat();
            assert_eq!(expected.check(&bytes), Ok(Some(answer.len())));
            for cut in 0..answer.len() {
                assert_eq!(expected.check(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn says_how_the_answer_is_another() {
        let (request, expected) = ask(&place(), false).unwrap();
        let error = |answer: &str| expected.check(answer.as_bytes()).unwrap_err();
        let rules = |path: &str, is_raw| RequestRules { path: path.into(), origins: None, is_raw };
        let elsewhere = answer_of(&rules("/other", false), &request);
        let refused = error(&elsewhere);
        assert!(
            refused.ends_with("404 Not Found: there is no WebSocket at this path"),
            "{refused}"
        );
        assert!(error(&answer_of(&rules("", true), &request)).contains("codec"));
        let good = answer_of(&rules("", false), &request);
        let cut =
            good.trim_end().to_owned() + "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        assert!(error(&cut).contains("extension"));
        let (_, other) = ask(&place(), false).unwrap();
        assert!(other.check(good.as_bytes()).unwrap_err().contains("not that of a WebSocket"));
        assert!(error("SSH-2.0-OpenSSH_9.2\r\n").contains("does not speak HTTP"));
        assert!(error(&format!("HTTP/1.1 200 {}", "x".repeat(LONGEST_HEAD))).contains("4 KiB"));
    }
}
