//! The least of each server's protocol: opening a session, publishing, and finding messages.

use std::ops::Range;

use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, decode};

use super::zmtp;

/// The item at the start of the input.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum ParsedItem {
    /// A message: where its payload is, and how long all of it is.
    Message(Range<usize>, usize),
    /// Another item of this length.
    Other(usize),
    /// The item is not complete.
    Incomplete,
}

/// The protocol of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ServerProtocol {
    /// Frames of ipcd, in a session that is open.
    Ipcd,
    /// No protocol: the connected socket receives the bytes. Messages have one size.
    Bytes(usize),
    /// The client protocol of NATS.
    Nats,
    /// RESP 2.
    Redis,
    /// MQTT 3.1.1, with quality of service 0.
    Mqtt,
    /// ZMTP 3.0, to the two sides of a forwarder.
    Zmtp,
}

impl ServerProtocol {
    /// Opens a session that sends.
    pub(super) fn open(self, out: &mut Vec<u8>) {
        match self {
            Self::Ipcd | Self::Bytes(_) => {}
            Self::Nats => {
                out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")
            }
            // Otherwise each message would be answered on the way back.
            Self::Redis => out.extend_from_slice(b"CLIENT REPLY OFF\r\n"),
            Self::Mqtt => {
                let name = format!("bench{}", std::process::id());
                let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
                text(&mut body, &name);
                packet(out, 0x10, &[&body]);
            }
            Self::Zmtp => zmtp::open(out, "PUB"),
        }
    }

    /// Subscribes to a subject.
    pub(super) fn subscribe(self, out: &mut Vec<u8>, subject: &str) {
        match self {
            Self::Ipcd | Self::Bytes(_) => {}
            Self::Nats => out.extend_from_slice(format!("SUB {subject} 1\r\nPING\r\n").as_bytes()),
            Self::Redis => out.extend_from_slice(format!("SUBSCRIBE {subject}\r\n").as_bytes()),
            Self::Mqtt => {
                let mut body = b"\x00\x01".to_vec();
                text(&mut body, subject);
                packet(out, 0x82, &[&body, &[0]]);
            }
            Self::Zmtp => {
                zmtp::open(out, "SUB");
                zmtp::subscribe(out, subject);
                zmtp::subscribe(out, &probe());
            }
        }
    }

    /// Whether these bytes, the first that come, hold the answer to a subscription.
    pub(super) fn is_subscribed(self, input: &[u8]) -> bool {
        let has = |what: &[u8]| input.windows(what.len()).any(|window| window == what);
        match self {
            Self::Ipcd | Self::Bytes(_) => true,
            Self::Nats => has(b"PONG\r\n"),
            Self::Redis => has(b":1\r\n"),
            Self::Mqtt => has(&[0x90, 3]),
            Self::Zmtp => has(probe().as_bytes()),
        }
    }

    /// Whether a subscription needs a separate connection.
    pub(super) fn has_two_connections(self) -> bool {
        matches!(self, Self::Redis | Self::Zmtp)
    }

    /// The message that is sent until it returns, where a subscription is not confirmed. The
    /// subscriptions of a connection take effect in order, and this one follows that to the
    /// subject.
    pub(super) fn probe(self, out: &mut Vec<u8>) {
        if self == Self::Zmtp {
            zmtp::publish(out, &probe(), b"");
        }
    }

    /// Bytes at the start of a connection, from either side, that come before everything else.
    pub(super) fn greeting(self) -> usize {
        if self == Self::Zmtp { zmtp::GREETING } else { 0 }
    }

    /// Publishes a message.
    pub(super) fn publish(self, out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
        let (name, length) = (subject.len(), payload.len());
        match self {
            Self::Ipcd => {
                let header = Header::new(FrameKind::Message, 0);
                let (subject, reply, headers) = (subject.as_bytes(), &[][..], &[][..]);
                FrameWriter(out).write(&Frame { header, subject, reply, headers, payload });
            }
            Self::Bytes(_) => out.extend_from_slice(payload),
            Self::Nats => {
                out.extend_from_slice(format!("PUB {subject} {length}\r\n").as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(b"\r\n");
            }
            Self::Redis => {
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n${name}\r\n{subject}\r\n${length}\r\n");
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(b"\r\n");
            }
            Self::Mqtt => {
                let mut head = Vec::with_capacity(2 + name);
                text(&mut head, subject);
                packet(out, 0x30, &[&head, payload]);
            }
            Self::Zmtp => zmtp::publish(out, subject, payload),
        }
    }

    /// Finds the item at the start of the input.
    pub(super) fn find(self, input: &[u8]) -> ParsedItem {
        let found = match self {
            Self::Ipcd => ipcd(input),
            Self::Bytes(size) => {
                (input.len() >= size).then_some(ParsedItem::Message(0..size, size))
            }
            Self::Nats => nats(input),
            Self::Redis => redis(input),
            Self::Mqtt => mqtt(input),
            Self::Zmtp => zmtp::find(input),
        };
        found.unwrap_or(ParsedItem::Incomplete)
    }
}

/// A subject of this process's own.
fn probe() -> String {
    format!("probe.{}", std::process::id())
}

fn ipcd(input: &[u8]) -> Option<ParsedItem> {
    match decode(input, usize::MAX) {
        Ok(DecodedFrame::Frame(frame, length)) if frame.header.kind == FrameKind::Message => {
            Some(ParsedItem::Message(length - frame.payload.len()..length, length))
        }
        Ok(DecodedFrame::Frame(_, length)) => Some(ParsedItem::Other(length)),
        Ok(DecodedFrame::Incomplete(_)) | Err(_) => None,
    }
}

fn nats(input: &[u8]) -> Option<ParsedItem> {
    let (line, start) = line(input)?;
    if !line.starts_with(b"MSG ") {
        return Some(ParsedItem::Other(start));
    }
    let length = number(line.rsplit(|&byte| byte == b' ').next()?)?;
    let end = start + length + 2;
    (input.len() >= end).then_some(ParsedItem::Message(start..start + length, end))
}

/// An array of three strings: `message`, the channel, the payload.
fn redis(input: &[u8]) -> Option<ParsedItem> {
    let (head, mut at) = line(input)?;
    if head != b"*3" {
        return Some(ParsedItem::Other(at));
    }
    let mut payload = 0..0;
    for _ in 0..3 {
        let (about, length) = line(&input[at..])?;
        let start = at + length;
        // The confirmation of a subscription ends in a number.
        let bytes = match about.strip_prefix(b"$") {
            Some(digits) => number(digits)? + 2,
            None => 0,
        };
        payload = start..start + bytes.saturating_sub(2);
        at = start + bytes;
        if input.len() < at {
            return None;
        }
    }
    Some(ParsedItem::Message(payload, at))
}

fn mqtt(input: &[u8]) -> Option<ParsedItem> {
    let (mut length, mut start, mut shift) = (0, 1, 0);
    loop {
        let byte = *input.get(start)?;
        length |= usize::from(byte & 0x7f) << shift;
        (start, shift) = (start + 1, shift + 7);
        if byte & 0x80 == 0 || shift > 21 {
            break;
        }
    }
    let end = start + length;
    if input.len() < end {
        return None;
    }
    if input[0] & 0xf0 != 0x30 {
        return Some(ParsedItem::Other(end));
    }
    let topic = usize::from(u16::from_be_bytes(*input.get(start..)?.first_chunk()?));
    Some(ParsedItem::Message((start + 2 + topic).min(end)..end, end))
}

/// The first line without its end, and its length with it.
fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let at = input.windows(2).position(|window| window == b"\r\n")?;
    Some((&input[..at], at + 2))
}

fn number(digits: &[u8]) -> Option<usize> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// A string of MQTT: its length, and itself.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A packet of MQTT: its kind, its length in groups of seven bits, and its parts.
fn packet(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.push(kind);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if more == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_messages_and_what_is_none() {
        let found = |protocol: ServerProtocol, input: &[u8]| protocol.find(input);
        assert_eq!(
            found(ServerProtocol::Nats, b"MSG a.b 1 3\r\nxyz\r\n"),
            ParsedItem::Message(13..16, 18)
        );
        assert_eq!(found(ServerProtocol::Nats, b"PING\r\nMSG"), ParsedItem::Other(6));
        let redis = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\nxyz\r\n";
        assert_eq!(found(ServerProtocol::Redis, redis), ParsedItem::Message(28..31, 33));
        assert_eq!(
            found(ServerProtocol::Mqtt, b"\x30\x06\x00\x01axyz"),
            ParsedItem::Message(5..8, 8)
        );
        assert_eq!(found(ServerProtocol::Mqtt, b"\x20\x02\x00\x00\x30"), ParsedItem::Other(4));
        assert_eq!(found(ServerProtocol::Bytes(3), b"xyzx"), ParsedItem::Message(0..3, 3));
    }

    #[test]
    fn waits_for_the_rest() {
        let mut packet = Vec::new();
        ServerProtocol::Mqtt.publish(&mut packet, "topic", &[7; 300]);
        let mut frame = Vec::new();
        ServerProtocol::Ipcd.publish(&mut frame, "a.b", b"xyz");
        let end = frame.len();
        assert_eq!(ServerProtocol::Ipcd.find(&frame), ParsedItem::Message(end - 3..end, end));
        let whole: [(ServerProtocol, &[u8]); 4] = [
            (ServerProtocol::Ipcd, &frame),
            (ServerProtocol::Nats, b"MSG a.b 1 3\r\nxyz\r\n"),
            (ServerProtocol::Redis, b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\nxyz\r\n"),
            (ServerProtocol::Mqtt, &packet),
        ];
        for (protocol, input) in whole {
            for cut in 0..input.len() {
                assert_eq!(
                    protocol.find(&input[..cut]),
                    ParsedItem::Incomplete,
                    "{protocol:?} {cut}"
                );
            }
            assert!(matches!(protocol.find(input), ParsedItem::Message(..)), "{protocol:?}");
        }
    }
}
