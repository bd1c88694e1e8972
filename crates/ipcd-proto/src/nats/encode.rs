//! The messages of the server.

use std::fmt::Display;
use std::io::Write as _;

use serde::Serialize;

/// The contents of INFO.
#[derive(Clone, Debug, Serialize)]
pub struct ServerInfo {
    /// An identifier of the server.
    pub server_id: String,
    /// A name for people.
    pub server_name: String,
    /// [`super::VERSION`].
    pub version: &'static str,
    /// The version of the protocol: 1, with which INFO may come at any time.
    pub proto: u8,
    /// The server's host.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// Whether messages may have headers.
    pub headers: bool,
    /// Bytes of the largest message, its headers included.
    pub max_payload: usize,
    /// The server's number for the client.
    pub client_id: u64,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// Whether the client should show who it is.
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    /// Whether the connection goes on in TLS.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    /// Whether the client has to show a certificate.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verify: bool,
    /// Addresses of other servers, `HOST:PORT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connect_urls: Vec<String>,
    /// The text that an nkey signs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// Whether the server is about to end: clients should connect elsewhere.
    #[serde(skip_serializing_if = "is_false")]
    pub ldm: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A message for a client.
#[derive(Clone, Copy, Debug)]
pub struct NatsMessage<'a> {
    /// The subject.
    pub subject: &'a [u8],
    /// The client's name for the subscription.
    pub sid: &'a [u8],
    /// The subject for replies; empty for none.
    pub reply: &'a [u8],
    /// The payload, without headers.
    pub payload: &'a [u8],
}

/// Appends messages of the server to a buffer.
pub struct NatsWriter<'a>(pub &'a mut Vec<u8>);

impl NatsWriter<'_> {
    /// Appends INFO.
    pub fn info(&mut self, info: &ServerInfo) {
        self.0.extend_from_slice(b"INFO ");
        serde_json::to_writer(&mut *self.0, info)
            .expect("a structure of texts and numbers is JSON");
        self.0.extend_from_slice(b" \r\n");
    }

    /// Appends MSG.
    #[inline]
    pub fn message(&mut self, message: &NatsMessage<'_>) {
        self.begin(b"MSG ", message);
        self.number(message.payload.len());
        for part in [b"\r\n", message.payload, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// Appends HMSG with this header block.
    pub fn message_with_headers(&mut self, message: &NatsMessage<'_>, headers: &[u8]) {
        self.begin(b"HMSG ", message);
        self.number(headers.len());
        self.0.push(b' ');
        self.number(headers.len() + message.payload.len());
        for part in [b"\r\n", headers, message.payload, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// Appends the answer to a request without a subscriber.
    pub fn no_responders(&mut self, reply: &[u8], sid: &[u8], subject: &[u8]) {
        let headers = [b"NATS/1.0 503\r\nNats-Subject: ", subject, b"\r\n\r\n"].concat();
        let message = NatsMessage { subject: reply, sid, reply: &[], payload: &[] };
        self.message_with_headers(&message, &headers);
    }

    /// Appends `+OK`.
    pub fn ok(&mut self) {
        self.0.extend_from_slice(b"+OK\r\n");
    }

    /// Appends PING.
    pub fn ping(&mut self) {
        self.0.extend_from_slice(b"PING\r\n");
    }

    /// Appends PONG.
    pub fn pong(&mut self) {
        self.0.extend_from_slice(b"PONG\r\n");
    }

    /// Appends `-ERR`. Characters that would end the text are left out.
    pub fn error(&mut self, why: impl Display) {
        let text = why.to_string();
        let is_plain = |c: &char| !c.is_control() && *c != '\'';
        let text: String = text.chars().filter(is_plain).collect();
        self.0.extend_from_slice(format!("-ERR '{text}'\r\n").as_bytes());
    }

    #[inline]
    fn begin(&mut self, name: &[u8], message: &NatsMessage<'_>) {
        let NatsMessage { subject, sid, reply, payload } = message;
        // Once for all of it, so that the parts need not look.
        self.0.reserve(subject.len() + sid.len() + reply.len() + payload.len() + 64);
        for part in [name, subject, b" ", sid, b" "] {
            self.0.extend_from_slice(part);
        }
        if !reply.is_empty() {
            self.0.extend_from_slice(reply);
            self.0.push(b' ');
        }
    }

    /// Appends a size. Most have few digits, for which the formatting of the library is slow.
    #[inline]
    fn number(&mut self, number: usize) {
        match u8::try_from(number) {
            Ok(small @ 0..10) => self.0.push(b'0' + small),
            Ok(small @ 10..100) => {
                self.0.extend_from_slice(&[b'0' + small / 10, b'0' + small % 10])
            }
            _ => write!(self.0, "{number}").expect("a vector takes all bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut NatsWriter<'_>)) -> String {
        let mut bytes = Vec::new();
        write(&mut NatsWriter(&mut bytes));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn messages_are_written_as_nats_server_writes_them() {
        let message = NatsMessage { subject: b"a.b", sid: b"7", reply: b"", payload: b"hi" };
        assert_eq!(written(|to| to.message(&message)), "MSG a.b 7 2\r\nhi\r\n");
        let message = NatsMessage { reply: b"r", payload: &[b'x'; 123], ..message };
        let x = "x".repeat(123);
        assert_eq!(written(|to| to.message(&message)), format!("MSG a.b 7 r 123\r\n{x}\r\n"));
        let message = NatsMessage { payload: &[b'x'; 10], ..message };
        let headers = b"NATS/1.0\r\n\r\n";
        assert_eq!(
            written(|to| to.message_with_headers(&message, headers)),
            "HMSG a.b 7 r 12 22\r\nNATS/1.0\r\n\r\nxxxxxxxxxx\r\n"
        );
        assert_eq!(
            written(|to| to.no_responders(b"in.1", b"7", b"a")),
            "HMSG in.1 7 33 33\r\nNATS/1.0 503\r\nNats-Subject: a\r\n\r\n\r\n"
        );
        assert_eq!(written(|to| to.error("it's\r\nbad")), "-ERR 'itsbad'\r\n");
    }

    #[test]
    fn info_is_one_line_of_json() {
        let info = ServerInfo {
            server_id: "ID".into(),
            server_name: "n".into(),
            version: super::super::VERSION,
            proto: 1,
            host: "127.0.0.1".into(),
            port: 4222,
            headers: true,
            max_payload: 1 << 20,
            client_id: 5,
            client_ip: None,
            auth_required: false,
            tls_required: true,
            tls_verify: false,
            connect_urls: Vec::new(),
            nonce: String::new(),
            ldm: false,
        };
        let text = written(|to| to.info(&info));
        let json = text.strip_prefix("INFO ").unwrap().strip_suffix(" \r\n").unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(value["max_payload"], 1 << 20);
        assert_eq!(value["tls_required"], true);
        assert!(value.get("nonce").is_none() && value.get("auth_required").is_none());
    }
}
