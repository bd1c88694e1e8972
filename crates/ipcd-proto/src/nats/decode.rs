//! The operations of clients.

/// Bytes of the arguments of an operation, as in nats-server.
pub const MAX_CONTROL_LINE: usize = 4096;
/// Arguments of the operation that has most.
const MAX_ARGUMENTS: usize = 4;
/// Digits of a size: more than any limit has, and few enough for 64 bits.
const MAX_DIGITS: usize = 18;

/// An operation of a client, borrowed from its bytes. Subjects, groups and sizes of header blocks
/// are not checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientOperation<'a> {
    /// CONNECT, with its JSON.
    Connect(&'a [u8]),
    /// PUB or HPUB.
    Publish(Publish<'a>),
    /// SUB.
    Subscribe {
        /// The subjects that it is for.
        filter: &'a [u8],
        /// The queue group.
        group: Option<&'a [u8]>,
        /// The client's name for the subscription: any text.
        sid: &'a [u8],
    },
    /// UNSUB.
    Unsubscribe {
        /// The client's name for the subscription.
        sid: &'a [u8],
        /// Messages after which the subscription ends; 0 for now.
        max: u64,
    },
    /// PING.
    Ping,
    /// PONG, +OK, or INFO: nothing is to be done.
    Ignored,
}

/// A published message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Publish<'a> {
    /// The subject.
    pub subject: &'a [u8],
    /// The subject for replies; empty for none.
    pub reply: &'a [u8],
    /// The header block of an HPUB, with its first line.
    pub headers: Option<&'a [u8]>,
    /// The payload, without the header block.
    pub payload: &'a [u8],
}

/// The result of [`decode`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodedOperation<'a> {
    /// An operation, and the number of its bytes.
    Operation(ClientOperation<'a>, usize),
    /// The beginning of an operation, which has at least this many bytes.
    Incomplete(usize),
}

/// The error of bytes that are no operation. The connection ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NatsError {
    /// There is no such operation, or a message is not as long as it says.
    #[error("Unknown Protocol Operation")]
    UnknownOperation,
    /// The arguments are longer than [`MAX_CONTROL_LINE`].
    #[error("maximum control line exceeded")]
    ControlLine,
    /// The message is larger than allowed.
    #[error("Maximum Payload Violation")]
    TooLarge,
    /// The arguments are wrong. nats-server ends the connection without a word.
    #[error("malformed arguments")]
    Malformed,
}

impl NatsError {
    /// Whether the client is told before the connection ends.
    pub fn is_told(self) -> bool {
        self != Self::Malformed
    }
}

/// The names, and whether arguments follow.
const NAMES: [(&[u8], OperationName); 10] = [
    (b"PUB", OperationName::Pub),
    (b"SUB", OperationName::Sub),
    (b"HPUB", OperationName::Hpub),
    (b"PING", OperationName::Ping),
    (b"PONG", OperationName::Ignored),
    (b"UNSUB", OperationName::Unsub),
    (b"CONNECT", OperationName::Connect),
    (b"INFO", OperationName::Info),
    (b"-ERR", OperationName::Err),
    (b"+OK", OperationName::Ignored),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum OperationName {
    Pub,
    Hpub,
    Sub,
    Unsub,
    Connect,
    Ping,
    Ignored,
    Info,
    Err,
}

impl OperationName {
    fn has_arguments(self) -> bool {
        !matches!(self, Self::Ping | Self::Ignored)
    }

    /// Whether a space has to follow, as nats-server's parser wants it; other operations may have
    /// none, and are refused then for their arguments.
    fn needs_space(self) -> bool {
        matches!(self, Self::Pub | Self::Hpub | Self::Sub | Self::Unsub)
    }
}

/// Decodes the operation at the start of `bytes`. A message may have at most `max_payload` bytes,
/// its headers included.
///
/// # Errors
/// As soon as the bytes can no longer become an operation.
#[inline]
pub fn decode(bytes: &[u8], max_payload: usize) -> Result<DecodedOperation<'_>, NatsError> {
    let Some((name, length)) = name_of(bytes)? else {
        return Ok(DecodedOperation::Incomplete(bytes.len() + 1));
    };
    let behind = &bytes[length..];
    let searched = &behind[..behind.len().min(MAX_CONTROL_LINE + 2)];
    let Some(end) = searched.iter().position(|&byte| byte == b'\n') else {
        return match searched.len() < behind.len() || searched.len() == MAX_CONTROL_LINE + 2 {
            true => Err(NatsError::ControlLine),
            false => Ok(DecodedOperation::Incomplete(bytes.len() + 1)),
        };
    };
    let line = behind[..end].strip_suffix(b"\r").unwrap_or(&behind[..end]);
    let used = length + end + 1;
    if name.has_arguments() && line.len() > MAX_CONTROL_LINE {
        return Err(NatsError::ControlLine);
    }
    let operation = match name {
        OperationName::Pub | OperationName::Hpub => {
            return publish(bytes, used, line, name == OperationName::Hpub, max_payload);
        }
        OperationName::Sub => subscribe(line)?,
        OperationName::Unsub => unsubscribe(line)?,
        OperationName::Connect => ClientOperation::Connect(line.trim_ascii()),
        OperationName::Ping => ClientOperation::Ping,
        OperationName::Ignored => ClientOperation::Ignored,
        OperationName::Info if line.trim_ascii().starts_with(b"{") => ClientOperation::Ignored,
        OperationName::Info | OperationName::Err => return Err(NatsError::Malformed),
    };
    Ok(DecodedOperation::Operation(operation, used))
}

/// The name at the start of the bytes and its length; `None` if more of it has to come.
#[inline]
fn name_of(bytes: &[u8]) -> Result<Option<(OperationName, usize)>, NatsError> {
    for (text, name) in NAMES {
        let there = &bytes[..bytes.len().min(text.len())];
        if !there.eq_ignore_ascii_case(&text[..there.len()]) {
            continue;
        }
        if there.len() < text.len() {
            return Ok(None);
        }
        return match bytes.get(text.len()) {
            Some(b' ' | b'\t') => Ok(Some((name, text.len()))),
            Some(_) if !name.needs_space() => Ok(Some((name, text.len()))),
            Some(_) => Err(NatsError::UnknownOperation),
            None => Ok(None),
        };
    }
    Err(NatsError::UnknownOperation)
}

/// The arguments of a line, and their number.
fn arguments(line: &[u8]) -> Result<([&[u8]; MAX_ARGUMENTS], usize), NatsError> {
    let mut found: [&[u8]; MAX_ARGUMENTS] = [&[]; MAX_ARGUMENTS];
    let (mut count, mut rest) = (0, line);
    loop {
        let start = rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return Ok((found, count));
        }
        let end = rest.iter().position(|byte| is_blank(*byte)).unwrap_or(rest.len());
        *found.get_mut(count).ok_or(NatsError::Malformed)? = &rest[..end];
        (count, rest) = (count + 1, &rest[end..]);
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn publish<'a>(
    bytes: &'a [u8],
    used: usize,
    line: &'a [u8],
    has_headers: bool,
    max_payload: usize,
) -> Result<DecodedOperation<'a>, NatsError> {
    let (found, count) = arguments(line)?;
    let sizes = 1 + usize::from(has_headers);
    let reply = match count.checked_sub(sizes) {
        Some(1) => &[],
        Some(2) => found[1],
        _ => return Err(NatsError::Malformed),
    };
    let total = number(found[count - 1]).ok_or(NatsError::Malformed)?;
    let headers = if has_headers { number(found[count - 2]) } else { Some(0) };
    let headers = headers.filter(|headers| *headers <= total).ok_or(NatsError::Malformed)?;
    // nats-server keeps sizes in 32 bits.
    if total > i32::MAX as u64 {
        return Err(NatsError::Malformed);
    }
    let total = total as usize;
    if total > max_payload {
        return Err(NatsError::TooLarge);
    }
    let end = used + total;
    let tail = bytes.get(end..).unwrap_or_default();
    // An end that is wrong is refused before the rest of it has come.
    if !b"\r\n".starts_with(&tail[..tail.len().min(2)]) {
        return Err(NatsError::UnknownOperation);
    }
    if tail.len() < 2 {
        return Ok(DecodedOperation::Incomplete(end + 2));
    }
    let (headers, payload) = bytes[used..end].split_at(headers as usize);
    let headers = Some(headers).filter(|headers| !headers.is_empty());
    let publish = Publish { subject: found[0], reply, headers, payload };
    Ok(DecodedOperation::Operation(ClientOperation::Publish(publish), end + 2))
}

fn subscribe(line: &[u8]) -> Result<ClientOperation<'_>, NatsError> {
    let (found, count) = arguments(line)?;
    let (group, sid) = match count {
        2 => (None, found[1]),
        3 => (Some(found[1]), found[2]),
        _ => return Err(NatsError::Malformed),
    };
    Ok(ClientOperation::Subscribe { filter: found[0], group, sid })
}

fn unsubscribe(line: &[u8]) -> Result<ClientOperation<'_>, NatsError> {
    let (found, count) = arguments(line)?;
    let max = match count {
        1 => 0,
        // nats-server takes what is no number for none.
        2 => number(found[1]).unwrap_or(0),
        _ => return Err(NatsError::Malformed),
    };
    Ok(ClientOperation::Unsubscribe { sid: found[0], max })
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| 10 * number + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: usize = 64;

    /// The items of a stream, in words; the error is last.
    fn said(bytes: &[u8]) -> Vec<String> {
        let (mut rest, mut found) = (bytes, Vec::new());
        loop {
            match decode(rest, LARGEST) {
                Ok(DecodedOperation::Operation(operation, used)) => {
                    found.push(words(operation));
                    rest = &rest[used..];
                }
                Ok(DecodedOperation::Incomplete(_)) => return found,
                Err(error) => {
                    found.push(format!("error {error}"));
                    return found;
                }
            }
        }
    }

    fn words(operation: ClientOperation<'_>) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match operation {
            ClientOperation::Publish(Publish { subject, reply, headers, payload }) => format!(
                "pub {}|{}|{}|{}",
                text(subject),
                text(reply),
                headers.map_or("-".into(), text),
                text(payload)
            ),
            ClientOperation::Subscribe { filter, group, sid } => {
                format!("sub {}|{}|{}", text(filter), group.map_or("-".into(), text), text(sid))
            }
            ClientOperation::Unsubscribe { sid, max } => format!("unsub {}|{max}", text(sid)),
            ClientOperation::Connect(json) => format!("connect {}", text(json)),
            ClientOperation::Ping => "ping".into(),
            ClientOperation::Ignored => "ignored".into(),
        }
    }

    /// The replies of nats-server 2.15.1 to the same bytes are the model.
    #[test]
    fn operations_are_read_as_nats_server_reads_them() {
        for (bytes, expected) in [
            (&b"PING\r\nping\nPINGxx\r\n"[..], &["ping", "ping", "ping"][..]),
            (b"PUB a 2\r\nhi\r\nPUB\ta\t0\n\r\n", &["pub a||-|hi", "pub a||-|"]),
            (b"PUB  a  r   2  \r\nhi\r\n", &["pub a|r|-|hi"]),
            (b"hpub a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", &["pub a||NATS/1.0\r\n\r\n|hi"]),
            (b"HPUB a r 0 2\r\nhi\r\n", &["pub a|r|-|hi"]),
            (b"SUB a 1\r\nSUB a q x\r\n", &["sub a|-|1", "sub a|q|x"]),
            (b"UNSUB 1\r\nUNSUB 1 5\r\nUNSUB 1 x\r\n", &["unsub 1|0", "unsub 1|5", "unsub 1|0"]),
            (
                b"CONNECT {}\r\nPONG\r\n+OK\r\nINFO {}\r\n",
                &["connect {}", "ignored", "ignored", "ignored"],
            ),
            (b"CONNECT\r\n", &["connect "]),
        ] {
            assert_eq!(said(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_wrong_is_known_early() {
        let unknown = "error Unknown Protocol Operation";
        let malformed = "error malformed arguments";
        for (bytes, error) in [
            (&b"F"[..], unknown),
            (b"PIX", unknown),
            (b"PUBa", unknown),
            (b"SUB\r", unknown),
            (b"\r\n", unknown),
            (b" PING\r\n", unknown),
            (b"GET /", unknown),
            (b"MSG a 1 2\r\n", unknown),
            (b"PUB a 2\r\nhix", unknown),
            (b"PUB a 2\r\nhi\n", unknown),
            (b"PUB a b c 2\r\n", malformed),
            (b"PUB a b c d 2\r\n", malformed),
            (b"PUB a\r\n", malformed),
            (b"PUB a x\r\n", malformed),
            (b"PUB a -1\r\n", malformed),
            (b"PUB a 99999999999\r\n", malformed),
            (b"PUB a 99999999999999999999999\r\n", malformed),
            (b"HPUB a 3 2\r\n", malformed),
            (b"HPUB a 2\r\n", malformed),
            (b"SUB a\r\n", malformed),
            (b"SUB a b c d\r\n", malformed),
            (b"UNSUB 1 2 3\r\n", malformed),
            (b"-ERR 'x'\r\n", malformed),
            (b"INFO x\r\n", malformed),
            (b"PUB a 65\r\n", "error Maximum Payload Violation"),
        ] {
            assert_eq!(said(bytes), [error], "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let mut line = b"SUB ".to_vec();
        line.resize(line.len() + MAX_CONTROL_LINE - 3, b'a');
        line.extend_from_slice(b" 1\r\n");
        assert_eq!(said(&line).len(), 1);
        line.insert(4, b'a');
        assert_eq!(said(&line), ["error maximum control line exceeded"]);
        let endless = [&b"SUB "[..], &[b'a'; MAX_CONTROL_LINE + 2]].concat();
        assert_eq!(said(&endless), ["error maximum control line exceeded"]);
        assert_eq!(said(&endless[..MAX_CONTROL_LINE]), [""; 0]);
    }

    #[test]
    fn an_incomplete_message_says_how_long_it_is() {
        let bytes = b"PUB a 10\r\nabc";
        assert_eq!(decode(bytes, LARGEST), Ok(DecodedOperation::Incomplete(22)));
        assert_eq!(decode(b"PU", LARGEST), Ok(DecodedOperation::Incomplete(3)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_alike_however_they_come(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b"PUB a 2\r\n".to_vec()),
                Just(b"hi\r\n".to_vec()),
                Just(b"HPUB a 2 3\r\nxyz\r\n".to_vec()),
                Just(b"SUB a 1\r\n".to_vec()),
                Just(b"PING\r\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..6),
            ], 0..8),
            cut in 0..100_usize,
        ) {
            let bytes = bytes.concat();
            let whole = said(&bytes);
            // An error that is found in a part is the error of the whole.
            let part = said(&bytes[..cut.min(bytes.len())]);
            prop_assert!(whole.starts_with(&part), "{part:?} of {whole:?}");
        }
    }
}
