//! Telling a browser from a program with a bare socket.
//!
//! A page on the Web can have a browser send whatever it likes to a port of the loopback, though it
//! cannot read the answer: behind a request line and headers, lines of its own. So a stream that
//! begins like an HTTP request (RFC 9112 §3) is none that is meant for us.

/// Bytes of a request line that are waited for.
const LONGEST: usize = 16 * 1024;
/// Bytes of the longest method.
const LONGEST_METHOD: usize = 20;

/// Looks at how a stream begins.
#[derive(Debug, Default)]
pub(super) struct Beginning(Vec<u8>);

/// What it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// More is needed.
    Open,
    /// A request.
    Request,
    /// Something else.
    Other,
}

impl Beginning {
    /// Says what came next. Where each read is a message, this is all that can be waited for.
    pub(super) fn take(&mut self, bytes: &[u8], is_last: bool) -> Verdict {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let room = LONGEST - self.0.len();
        self.0.extend_from_slice(&bytes[..end.unwrap_or(bytes.len()).min(room)]);
        let is_whole = end.is_some_and(|end| end <= room);
        match may_be_request(&self.0) {
            false => Verdict::Other,
            true if is_whole && has_version(&self.0) => Verdict::Request,
            true if is_whole => Verdict::Other,
            // A longer one than anything but a request has.
            true if is_last || self.0.len() == LONGEST => match self.0.contains(&b'/') {
                true => Verdict::Request,
                false => Verdict::Other,
            },
            true => Verdict::Open,
        }
    }
}

/// Whether it begins with a method and the beginning of a target, as far as they are there.
fn may_be_request(line: &[u8]) -> bool {
    let in_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let method = line.iter().take_while(|byte| in_method(byte)).count();
    if method == line.len() {
        return method <= LONGEST_METHOD;
    }
    let is_method = (1..=LONGEST_METHOD).contains(&method) && line[method] == b' ';
    let target = line.get(method + 1..).unwrap_or_default();
    is_method && target.first().is_none_or(|byte| b"/*h".contains(byte))
}

fn has_version(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    version.starts_with(b"HTTP/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(bytes: &[u8], is_last: bool) -> Verdict {
        Beginning::default().take(bytes, is_last)
    }

    #[test]
    fn a_request_is_told_from_lines_however_it_is_cut() {
        let request = b"POST /x?y=z HTTP/1.1\r\nHost: localhost\r\n\r\nstolen\n";
        for cut in 0..request.len() {
            let mut beginning = Beginning::default();
            let (first, rest) = request.split_at(cut);
            let expected = if first.contains(&b'\n') { Verdict::Request } else { Verdict::Open };
            assert_eq!(beginning.take(first, false), expected, "{cut}");
            if expected == Verdict::Open {
                assert_eq!(beginning.take(rest, false), Verdict::Request, "{cut}");
            }
        }
        for other in ["hello\n", "GET\n", "GET / now\n", "LOGIN ann\n", "get / HTTP/1.1\n", "\n"] {
            assert_eq!(verdict(other.as_bytes(), false), Verdict::Other, "{other:?}");
        }
    }

    #[test]
    fn what_a_read_brought_is_all_there_is() {
        assert_eq!(verdict(b"GET /long", true), Verdict::Request);
        assert_eq!(verdict(b"GET", true), Verdict::Other);
        assert_eq!(verdict(b"\x16\x03\x01", true), Verdict::Other);
        let long = [b"GET /".as_slice(), &[b'x'; 2 * LONGEST]].concat();
        assert_eq!(verdict(&long, false), Verdict::Request);
    }
}
