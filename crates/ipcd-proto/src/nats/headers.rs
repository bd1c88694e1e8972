//! Header blocks: `NATS/1.0`, perhaps a status, then lines `Key: Value`, and an empty line. They
//! become the entries of a frame's header block, and come back as lines.
//!
//! A key of NATS has no colon. So an entry `:status` holds the rest of the first line, which is empty
//! in a block without any line, and an entry `:raw` a whole block that is no such lines, which is passed on unchanged.

use crate::headers::Headers;
use crate::limits::MAX_HEADERS;

const FIRST_LINE: &[u8] = b"NATS/1.0";
const STATUS: &str = ":status";
const RAW: &str = ":raw";

/// The error of a header block that is too long for a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("headers have at most {MAX_HEADERS} bytes in all")]
pub struct BadNatsHeaders;

/// Appends the entries of a header block to a frame's block, which is empty.
///
/// # Errors
/// If they do not fit.
pub fn headers_from_nats(block: &[u8], into: &mut Vec<u8>) -> Result<(), BadNatsHeaders> {
    if block.len() > MAX_HEADERS {
        return Err(BadNatsHeaders);
    }
    if append_lines(block, into).is_some() {
        return Ok(());
    }
    into.clear();
    Headers::append(into, RAW, block).map_err(|_| BadNatsHeaders)
}

fn append_lines(block: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let (first, mut rest) = line(block)?;
    let status = first.strip_prefix(FIRST_LINE)?;
    match status {
        // A block without lines is still one: the receiver gets HMSG.
        b"" if rest == b"\r\n" => Headers::append(into, STATUS, b"").ok()?,
        b"" => {}
        _ => Headers::append(into, STATUS, status.strip_prefix(b" ")?).ok()?,
    }
    loop {
        let (text, behind) = line(rest)?;
        if text.is_empty() {
            return behind.is_empty().then_some(());
        }
        let colon = text.iter().position(|&byte| byte == b':')?;
        let key = str::from_utf8(&text[..colon]).ok()?;
        // Clients write one space, or none.
        let value = text[colon + 1..].trim_ascii_start();
        Headers::append(into, key, value).ok()?;
        rest = behind;
    }
}

/// The first line, without its end, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

/// Appends the header block that says the same as a frame's block. Entries that it cannot express
/// are left out: a key with a colon, or a line break.
pub fn headers_to_nats(block: &[u8], into: &mut Vec<u8>) {
    let Ok(headers) = Headers::parse(block) else {
        into.extend_from_slice(b"NATS/1.0\r\n\r\n");
        return;
    };
    let mut entries = headers.iter().peekable();
    if let Some((RAW, raw)) = entries.peek() {
        into.extend_from_slice(raw);
        return;
    }
    into.extend_from_slice(FIRST_LINE);
    if let Some((_, status)) = entries.next_if(|(key, value)| *key == STATUS && is_line(value)) {
        if !status.is_empty() {
            into.push(b' ');
        }
        into.extend_from_slice(status);
    }
    into.extend_from_slice(b"\r\n");
    for (key, value) in entries.filter(|(key, value)| is_key(key) && is_line(value)) {
        for part in [key.as_bytes(), b": ", value, b"\r\n"] {
            into.extend_from_slice(part);
        }
    }
    into.extend_from_slice(b"\r\n");
}

fn is_key(key: &str) -> bool {
    is_line(key.as_bytes()) && !key.contains(':')
}

fn is_line(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there(block: &[u8]) -> Vec<(String, String)> {
        let mut ours = Vec::new();
        headers_from_nats(block, &mut ours).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entries = Headers::parse(&ours).unwrap();
        entries.iter().map(|(key, value)| (key.to_owned(), text(value))).collect()
    }

    fn and_back(block: &[u8]) -> Vec<u8> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        headers_from_nats(block, &mut ours).unwrap();
        headers_to_nats(&ours, &mut theirs);
        theirs
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn lines_become_entries_and_come_back() {
        let block = b"NATS/1.0 408 Request Timeout\r\nA: 1\r\nA: 2\r\nb: \r\n\r\n";
        let expected =
            [pair(":status", "408 Request Timeout"), pair("A", "1"), pair("A", "2"), pair("b", "")];
        assert_eq!(there(block), expected);
        assert_eq!(and_back(block), block);
        assert_eq!(there(b"NATS/1.0\r\n\r\n"), [pair(":status", "")]);
        assert_eq!(and_back(b"NATS/1.0\r\n\r\n"), b"NATS/1.0\r\n\r\n");
        assert_eq!(and_back(b"NATS/1.0\r\nA:1\r\n\r\n"), b"NATS/1.0\r\nA: 1\r\n\r\n");
    }

    #[test]
    fn what_is_no_lines_is_passed_on_unchanged() {
        for block in [
            &b"NATSXX\r\n"[..],
            b"NATS/1.0\r\nab\r\n",
            b"NATS/1.0\r\nab\r\n\r\n",
            b"NATS/1.0\r\n: x\r\n\r\n",
            b"NATS/1.0\r\nA: 1\r\n\r\nmore",
            b"NATS/1.0x\r\n\r\n",
            b"",
        ] {
            assert_eq!(there(block).len(), 1, "{}", block.escape_ascii());
            assert_eq!(and_back(block), block, "{}", block.escape_ascii());
        }
        assert_eq!(headers_from_nats(&[0; MAX_HEADERS], &mut Vec::new()), Err(BadNatsHeaders));
    }

    #[test]
    fn an_entry_never_becomes_two_lines() {
        let mut ours = Vec::new();
        for (key, value) in [("a", "1\r\nb: 2"), ("x:y", "3"), ("c\n", "4"), ("d", "5")] {
            Headers::append(&mut ours, key, value.as_bytes()).unwrap();
        }
        let mut theirs = Vec::new();
        headers_to_nats(&ours, &mut theirs);
        assert_eq!(theirs, b"NATS/1.0\r\nd: 5\r\n\r\n");
    }

    proptest! {
        #[test]
        fn entries_survive_a_second_time(
            block in proptest::collection::vec(prop_oneof![
                Just(b"NATS/1.0".to_vec()), Just(b"\r\n".to_vec()), Just(b"Key: ".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..5),
            ], 0..8),
        ) {
            let block = block.concat();
            prop_assert_eq!(there(&block), there(&and_back(&block)));
        }
    }
}
