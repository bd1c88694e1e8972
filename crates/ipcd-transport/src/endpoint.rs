//! Endpoints: where a transport listens or connects, as text.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;

use nix::net::if_::if_nametoindex;

use crate::{Error, Result};

/// The place where a transport listens or connects: `scheme://address?option=value&…` or `scheme:address`.
///
/// The second form holds what is no path and no host: an abstract name (`unix:@name`, which may
/// carry options too) or a command (`pipe:COMMAND`, taken as it is). `unix:/path` is `unix:///path`. Which schemes, addresses and
/// options exist is for the transports to say.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    scheme: String,
    address: String,
    opaque: bool,
    options: Vec<(String, String)>,
}

/// The scheme of which what follows the colon is a command.
const COMMANDS: &str = "pipe";

impl Endpoint {
    /// The endpoint `scheme://address`.
    pub fn new(scheme: &str, address: impl Into<String>) -> Self {
        let (scheme, address) = (scheme.to_owned(), address.into());
        Self { scheme, address, opaque: false, options: Vec::new() }
    }

    /// The endpoint `scheme:///path`. Bytes of the path that are not UTF-8 are replaced.
    pub fn from_path(scheme: &str, path: &Path) -> Self {
        Self::new(scheme, path.to_string_lossy())
    }

    /// The part before the colon.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The part between scheme and options.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it was written `scheme:address`, without slashes.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// The value of an option; the last one if it is given twice.
    pub fn option(&self, key: &str) -> Option<&str> {
        let found = self.options.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The names of all options given.
    pub fn option_names(&self) -> impl Iterator<Item = &str> {
        self.options.iter().map(|(name, _)| name.as_str())
    }

    /// Takes an option away, for a caller that handles it before the transport.
    pub fn take_option(&mut self, key: &str) -> Option<String> {
        let value = self.option(key).map(str::to_owned);
        self.options.retain(|(name, _)| name != key);
        value
    }

    /// Sets an option.
    pub fn set_option(&mut self, key: &str, value: impl Into<String>) {
        self.take_option(key);
        self.options.push((key.to_owned(), value.into()));
    }

    /// The same endpoint with another address.
    pub fn with_address(&self, address: impl Into<String>) -> Self {
        Self { address: address.into(), ..self.clone() }
    }

    /// The same endpoint with port 0, for a port that the kernel chooses; one without a port as it is.
    pub fn with_any_port(&self) -> Self {
        match self.address.rsplit_once(':') {
            Some((host, _)) if self.host_and_port().is_ok() && self.path().is_err() => {
                self.with_address(format!("{host}:0"))
            }
            _ => self.clone(),
        }
    }

    /// The address as an absolute path.
    pub fn path(&self) -> Result<&Path> {
        let path = Path::new(&self.address);
        if self.opaque || !path.is_absolute() || self.address.ends_with('/') {
            let scheme = &self.scheme;
            return Err(
                self.error(format_args!("an absolute path is needed, as in {scheme}:///run/x"))
            );
        }
        Ok(path)
    }

    /// The address as host and port.
    pub fn host_and_port(&self) -> Result<&str> {
        let port = self.address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) if !self.opaque => Ok(&self.address),
            _ => {
                let scheme = &self.scheme;
                let needed =
                    format_args!("host and port are needed, as in {scheme}://127.0.0.1:7117");
                Err(self.error(needed))
            }
        }
    }

    /// The same endpoint without the path that follows host and port, if there is one.
    pub fn without_path(&self) -> Self {
        self.with_address(self.address.split('/').next().unwrap_or_default())
    }

    /// The addresses that host and port stand for, which may ask the resolver.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let address = self.host_and_port()?;
        if let Some(zoned) = zoned(address) {
            return match zoned {
                Some(address) => Ok(vec![address]),
                None => Err(self.error("no network interface has that name")),
            };
        }
        let found = address.to_socket_addrs();
        Ok(found.map_err(|error| Error::system(format!("resolve {self}"), error))?.collect())
    }

    /// An error about this endpoint.
    pub fn error(&self, what: impl fmt::Display) -> Error {
        Error::Endpoint(format!("{self}: {what}"))
    }
}

/// An address of IPv6 with its interface, as in `[fe80::1%eth0]:7117`, of which std knows numbers only; a
/// URI has `%25` for the percent sign (RFC 6874). None within if there is no such interface.
fn zoned(address: &str) -> Option<Option<SocketAddr>> {
    let (host, port) = address.strip_prefix('[')?.split_once("]:")?;
    let (host, zone) = host.split_once('%')?;
    let (host, port): (Ipv6Addr, u16) = (host.parse().ok()?, port.parse().ok()?);
    let scope = if_nametoindex(zone).ok().or_else(|| zone.parse().ok());
    let scope = scope.or_else(|| if_nametoindex(zone.strip_prefix("25")?).ok());
    Some(scope.map(|scope| SocketAddrV6::new(host, port, 0, scope).into()))
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::Endpoint(format!("{}: {what}", text.escape_debug()));
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(bad("no endpoint: scheme://address is needed, as in tcp://127.0.0.1:7117"));
        };
        let in_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(in_scheme) {
            return Err(bad("no endpoint: a scheme has letters, digits, +, - and . only"));
        }
        // A path or name with a NUL would be cut there by the kernel, and mean another one.
        if rest.contains('\0') {
            return Err(bad("an endpoint cannot hold a NUL"));
        }
        let (opaque, rest) = match rest.strip_prefix("//") {
            Some(rest) => (false, rest),
            // A path, as in unix:/run/x.sock; but a command may begin with a slash, too.
            None => (!rest.starts_with('/') || scheme == COMMANDS, rest),
        };
        let takes_options = !opaque || rest.starts_with('@');
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) if takes_options => (address, query),
            _ => (rest, ""),
        };
        if address.is_empty() {
            return Err(bad("the address is missing"));
        }
        let mut options = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                return Err(bad("an option is written key=value"));
            };
            options.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { scheme: scheme.to_owned(), address: address.to_owned(), opaque, options })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slashes = if self.opaque { "" } else { "//" };
        write!(f, "{}:{slashes}{}", self.scheme, self.address)?;
        for (index, (key, value)) in self.options.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "unix:///run/ipcd/ipcd.sock",
            "unix:///x?mode=0660&group=g&type=seqpacket",
            "unix:@name?type=stream",
            "pipe:ssh host 'a?b=c' ipcd --stdio",
            "tcp://[::1]:7117",
            "udp://127.0.0.1:0",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn a_path_needs_no_two_slashes_before_it() {
        let shown = |text: &str| text.parse::<Endpoint>().unwrap().to_string();
        assert_eq!(shown("unix:/run/x.sock?mode=0660"), "unix:///run/x.sock?mode=0660");
        assert_eq!(shown("fifo:/run/x"), "fifo:///run/x");
        assert_eq!(shown("pipe:/usr/bin/env ipcd --stdio"), "pipe:/usr/bin/env ipcd --stdio");
        let relative: Endpoint = "unix:run/x.sock".parse().unwrap();
        assert!(relative.path().unwrap_err().to_string().contains("unix:///run/x"));
    }

    #[test]
    fn takes_endpoints_apart() {
        let mut endpoint: Endpoint = "fifo:///a/b?mode=0620&codec=line".parse().unwrap();
        assert_eq!(endpoint.scheme(), "fifo");
        assert_eq!(endpoint.path().unwrap(), Path::new("/a/b"));
        assert_eq!(endpoint.take_option("codec").as_deref(), Some("line"));
        assert_eq!(endpoint.option("mode"), Some("0620"));
        assert_eq!(endpoint.to_string(), "fifo:///a/b?mode=0620");
    }

    #[test]
    fn only_a_port_gives_way_to_any_port() {
        let shown = |text: &str| text.parse::<Endpoint>().unwrap().with_any_port().to_string();
        assert_eq!(shown("tcp://[::1]:7117?a=b"), "tcp://[::1]:0?a=b");
        for without in ["unix:///a:1", "unix:@x:1", "pipe:ssh h:1", "fifo:///x", "x://name"] {
            assert_eq!(shown(without), without);
        }
    }

    #[test]
    fn an_address_may_name_its_interface() {
        let lo = if_nametoindex("lo").unwrap();
        for zone in ["lo".to_owned(), "25lo".to_owned(), lo.to_string()] {
            let endpoint: Endpoint = format!("tcp://[fe80::1%{zone}]:7117").parse().unwrap();
            let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), 7117, 0, lo);
            assert_eq!(endpoint.resolve().unwrap(), [expected.into()], "{endpoint}");
        }
        let unknown: Endpoint = "tcp://[fe80::1%no-such-if0]:7117".parse().unwrap();
        assert!(unknown.resolve().unwrap_err().to_string().contains("interface"));
    }

    #[test]
    fn refuses_what_is_no_endpoint() {
        for text in ["", "tcp", "://x", "a b://x", "unix://", "tcp://h:1?mode", "unix:///a\0b"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
        assert!("unix://relative".parse::<Endpoint>().unwrap().path().is_err());
        assert!("unix:@abstract".parse::<Endpoint>().unwrap().path().is_err());
    }
}
