//! The endpoints of WebSockets: host and port, and perhaps a path.

use ipcd_transport::{Endpoint, Result};

/// Bytes of the longest path.
const LONGEST_PATH: usize = 512;

/// An endpoint in its two parts.
#[derive(Clone, Debug)]
pub struct Place {
    /// The endpoint without its path: what the stream below knows.
    pub stream: Endpoint,
    /// The path, which begins with a slash; empty if there is none.
    pub path: String,
}

impl Place {
    /// The parts of this endpoint.
    ///
    /// # Errors
    /// If host and port are missing, or the path cannot stand in a request.
    pub fn of(endpoint: &Endpoint) -> Result<Self> {
        let stream = endpoint.without_path();
        let path = &endpoint.address()[stream.address().len()..];
        stream.host_and_port()?;
        let is_fit = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if path.len() > LONGEST_PATH || !path.bytes().all(is_fit) {
            let needed = format_args!(
                "a path has at most {LONGEST_PATH} bytes of printable ASCII, and no #: others are \
                 written %XX"
            );
            return Err(endpoint.error(needed));
        }
        Ok(Self { stream, path: path.to_owned() })
    }

    /// The endpoint again, at the address that its stream has got.
    pub(crate) fn at(&self, stream: &Endpoint) -> Endpoint {
        stream.with_address(format!("{}{}", stream.address(), self.path))
    }

    /// Host and port, as a request names them.
    pub(crate) fn host(&self) -> String {
        let address = self.stream.address();
        // The interface of an address is known on this machine only (RFC 6874 §1).
        match (address.find('%'), address.find(']')) {
            (Some(zone), Some(end)) if zone < end => {
                format!("{}{}", &address[..zone], &address[end..])
            }
            _ => address.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Place> {
        Place::of(&text.parse().unwrap())
    }

    #[test]
    fn a_path_is_no_part_of_the_port() {
        let found = place("ws://127.0.0.1:7118/bus/one?origin=*").unwrap();
        assert_eq!(found.stream.to_string(), "ws://127.0.0.1:7118?origin=*");
        assert_eq!(found.path, "/bus/one");
        let bound: Endpoint = "ws://127.0.0.1:9?origin=*".parse().unwrap();
        assert_eq!(found.at(&bound).to_string(), "ws://127.0.0.1:9/bus/one?origin=*");
        assert_eq!(place("ws://[::1]:1").unwrap().path, "");
    }

    #[test]
    fn a_host_is_named_without_its_interface() {
        let host = |text| place(text).unwrap().host();
        assert_eq!(host("ws://[fe80::1%eth0]:1/x"), "[fe80::1]:1");
        assert_eq!(host("ws://a.example:80"), "a.example:80");
    }

    #[test]
    fn refuses_what_cannot_stand_in_a_request() {
        let error = |text: &str| place(text).unwrap_err().to_string();
        assert!(error("ws://localhost/x").contains("host and port"));
        assert!(error("ws://h:1/a b").contains("a path"));
        assert!(error("ws://h:1/a#b").contains("no #"));
        assert!(error(&format!("ws://h:1/{}", "x".repeat(600))).contains("512"));
    }
}
