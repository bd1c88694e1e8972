//! The least of ZMTP 3.0 (rfc.zeromq.org/spec/23), without security.
//!
//! A message is one frame: the subject, a NUL, the payload. A subscription is a prefix, so with the
//! NUL it matches one subject.

use super::protocol::ParsedItem;

/// Bytes of the greeting, from either side.
pub(super) const GREETING: usize = 64;

/// The flags of a frame: a length of eight bytes, and no message but a command.
const LONG: u8 = 2;
const COMMAND: u8 = 4;
/// The first byte of a message that subscribes.
const SUBSCRIBE: u8 = 1;

/// Opens a connection of a socket of this kind: `PUB` or `SUB`.
pub(super) fn open(out: &mut Vec<u8>, kind: &str) {
    let start = out.len();
    out.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL");
    out.resize(start + GREETING, 0);
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend_from_slice(&(kind.len() as u32).to_be_bytes());
    ready.extend_from_slice(kind.as_bytes());
    frame(out, COMMAND, &[&ready]);
}

/// Subscribes to a subject.
pub(super) fn subscribe(out: &mut Vec<u8>, subject: &str) {
    frame(out, 0, &[&[SUBSCRIBE], subject.as_bytes(), b"\0"]);
}

/// Publishes a message.
pub(super) fn publish(out: &mut Vec<u8>, subject: &str, payload: &[u8]) {
    frame(out, 0, &[subject.as_bytes(), b"\0", payload]);
}

/// The first frame; `None` if it is not complete. A message without a payload is not one of this
/// measurement.
pub(super) fn find(input: &[u8]) -> Option<ParsedItem> {
    let flags = *input.first()?;
    let (length, start) = match flags & LONG {
        0 => (u64::from(*input.get(1)?), 2),
        _ => (u64::from_be_bytes(*input.get(1..)?.first_chunk()?), 9),
    };
    let end = start + usize::try_from(length).ok()?;
    let body = input.get(start..end)?;
    let payload = body.iter().position(|&byte| byte == 0).map(|at| start + at + 1);
    Some(match payload {
        Some(payload) if flags & COMMAND == 0 && payload < end => {
            ParsedItem::Message(payload..end, end)
        }
        _ => ParsedItem::Other(end),
    })
}

fn frame(out: &mut Vec<u8>, flags: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    match u8::try_from(length) {
        Ok(length) => out.extend_from_slice(&[flags, length]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_it_publishes_behind_a_command() {
        for size in [1, 200, 300, 70_000] {
            let mut out = Vec::new();
            open(&mut out, "PUB");
            let Some(ParsedItem::Other(ready)) = find(&out[GREETING..]) else { panic!("READY") };
            let start = GREETING + ready;
            publish(&mut out, "a.b", &vec![0; size]);
            let frame = &out[start..];
            let Some(ParsedItem::Message(payload, length)) = find(frame) else {
                panic!("a message")
            };
            assert_eq!((payload.len(), length), (size, frame.len()));
            assert!((0..length).all(|cut| find(&frame[..cut]).is_none()));
        }
        let mut out = Vec::new();
        publish(&mut out, "probe", b"");
        assert_eq!(find(&out), Some(ParsedItem::Other(out.len())));
    }
}
