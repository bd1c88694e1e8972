//! Telling a browser from a program with a bare socket.
//!
//! A web page can have a browser send arbitrary lines to a port of the loopback, behind a request
//! line and headers, though it cannot read the answer. So a raw peer that begins like an HTTP
//! request (RFC 9112 §3) is refused where its lines would become messages.

/// Bytes of a request line that are waited for.
const LONGEST: usize = 16 * 1024;
/// Bytes of the longest method.
const LONGEST_METHOD: usize = 20;

/// Looks at the beginning of a stream.
#[derive(Debug, Default)]
pub struct HttpDetector(Vec<u8>);

/// The result of looking at the beginning of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HttpVerdict {
    /// More bytes are needed.
    Open,
    /// It is an HTTP request.
    Request,
    /// It is something else.
    Other,
}

impl HttpDetector {
    /// Takes the next bytes of the stream. With `is_last` it decides by the bytes that it has: where
    /// each read is a message, the next read comes too late.
    pub fn take(&mut self, bytes: &[u8], is_last: bool) -> HttpVerdict {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let room = LONGEST - self.0.len();
        self.0.extend_from_slice(&bytes[..end.unwrap_or(bytes.len()).min(room)]);
        let is_whole = end.is_some_and(|end| end <= room);
        match may_be_request(&self.0) {
            false => HttpVerdict::Other,
            true if is_whole && has_version(&self.0) => HttpVerdict::Request,
            true if is_whole => HttpVerdict::Other,
            // Only a request has a first line as long as this, or a target that begins so.
            true if is_last || self.0.len() == LONGEST => match self.0.contains(&b'/') {
                true => HttpVerdict::Request,
                false => HttpVerdict::Other,
            },
            true => HttpVerdict::Open,
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

    fn verdict(bytes: &[u8], is_last: bool) -> HttpVerdict {
        HttpDetector::default().take(bytes, is_last)
    }

    #[test]
    fn a_request_is_told_from_lines_however_it_is_cut() {
        let request = b"POST /x?y=z HTTP/1.1\r\nHost: localhost\r\n\r\nstolen\n";
        for cut in 0..request.len() {
            let mut detector = HttpDetector::default();
            let (first, rest) = request.split_at(cut);
            let expected =
                if first.contains(&b'\n') { HttpVerdict::Request } else { HttpVerdict::Open };
            assert_eq!(detector.take(first, false), expected, "{cut}");
            if expected == HttpVerdict::Open {
                assert_eq!(detector.take(rest, false), HttpVerdict::Request, "{cut}");
            }
        }
        for other in ["hello\n", "GET\n", "GET / now\n", "LOGIN ann\n", "get / HTTP/1.1\n", "\n"] {
            assert_eq!(verdict(other.as_bytes(), false), HttpVerdict::Other, "{other:?}");
        }
    }

    #[test]
    fn what_a_read_brought_is_all_there_is() {
        assert_eq!(verdict(b"GET /long", true), HttpVerdict::Request);
        assert_eq!(verdict(b"GET", true), HttpVerdict::Other);
        assert_eq!(verdict(b"\x16\x03\x01", true), HttpVerdict::Other);
        let long = [b"GET /".as_slice(), &[b'x'; 2 * LONGEST]].concat();
        assert_eq!(verdict(&long, false), HttpVerdict::Request);
    }
}
