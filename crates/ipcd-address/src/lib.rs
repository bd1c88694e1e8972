//! The address of a peer: an IP address and port, or a host and port of another kind.
//!
//! The protocol and the transports share this type, and it knows neither. It opens nothing and
//! resolves no name.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The address of a peer that the kernel does not vouch for.
///
/// As text it is `HOST:PORT`. In a binary format it is an enum: 0, 4 bytes of IPv4 address, `u16`
/// port; 1, 16 bytes of IPv6 address, `u16` port; 2, the host as a string, `u32` port.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PeerAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host and port that are not IP, such as a VM's context id and port.
    Other(HostName, u32),
}

impl PeerAddress {
    /// An address that is not IP.
    ///
    /// # Errors
    /// If the host is no [`HostName`], or the two would read as an IP address.
    pub fn other(host: &str, port: u32) -> Result<Self, BadAddress> {
        match format!("{host}:{port}").parse::<SocketAddr>() {
            Ok(_) => Err(BadAddress),
            Err(_) => Ok(Self::Other(host.parse()?, port)),
        }
    }

    /// An address whose host is a number.
    pub fn numbered(host: u32, port: u32) -> Self {
        Self::Other(HostName::from_number(host), port)
    }

    /// The address and port, if it is one of IP.
    pub fn ip(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Other(..) => None,
        }
    }

    /// Whether the peer is on this machine, as far as an IP address tells.
    pub fn is_loopback(self) -> bool {
        // On a socket for both families an IPv4 address comes mapped into IPv6 (RFC 4291 §2.5.5.2).
        self.ip().is_some_and(|address| address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// The host of an address that is not IP: printable ASCII without a blank or a colon at its end, at
/// most [`HostName::LONGEST`] bytes. It lies in place, so that an address can be copied.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName {
    bytes: [u8; Self::LONGEST],
    length: u8,
}

impl HostName {
    /// Bytes of the longest host.
    pub const LONGEST: usize = 22;

    /// The decimal digits of a number.
    pub fn from_number(number: u32) -> Self {
        // The digits of any u32 fit.
        Self::copied(number.to_string().as_bytes())
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    fn copied(text: &[u8]) -> Self {
        let mut bytes = [0; Self::LONGEST];
        let length = text.len().min(Self::LONGEST);
        bytes[..length].copy_from_slice(&text[..length]);
        Self { bytes, length: length as u8 }
    }
}

impl FromStr for HostName {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.ends_with(':');
        match (1..=Self::LONGEST).contains(&text.len()) && is_plain {
            true => Ok(Self::copied(text.as_bytes())),
            false => Err(BadAddress),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// That a text is no address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BadAddress;

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address: expected HOST:PORT")
    }
}

impl std::error::Error for BadAddress {}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Other(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        Self::other(host, port.parse().map_err(|_| BadAddress)?)
    }
}

/// The binary form. Two variants for IP spare a second tag.
#[derive(Serialize, Deserialize)]
enum BinaryAddress {
    V4(SocketAddrV4),
    V6(SocketAddrV6),
    Other(HostName, u32),
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let binary = match *self {
            Self::Ip(SocketAddr::V4(address)) => BinaryAddress::V4(address),
            Self::Ip(SocketAddr::V6(address)) => BinaryAddress::V6(address),
            Self::Other(host, port) => BinaryAddress::Other(host, port),
        };
        binary.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        match BinaryAddress::deserialize(deserializer)? {
            BinaryAddress::V4(address) => Ok(Self::Ip(address.into())),
            BinaryAddress::V6(address) => Ok(Self::Ip(address.into())),
            BinaryAddress::Other(host, port) => {
                Self::other(host.as_str(), port).map_err(de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: bincode::config::Configuration<
        bincode::config::LittleEndian,
        bincode::config::Fixint,
    > = bincode::config::standard().with_fixed_int_encoding();

    fn bytes(text: &str) -> Vec<u8> {
        let address: PeerAddress = text.parse().unwrap();
        bincode::serde::encode_to_vec(address, BINARY).unwrap()
    }

    #[test]
    fn reads_what_it_writes() {
        for text in ["192.0.2.7:40000", "[2001:db8::1]:7117", "3:1024", "4294967295:4294967295"] {
            let address: PeerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<PeerAddress>(&json).unwrap(), address);
            let (read, _) =
                bincode::serde::decode_from_slice::<PeerAddress, _>(&bytes(text), BINARY).unwrap();
            assert_eq!(read, address);
        }
        assert_eq!("3:1024".parse(), Ok(PeerAddress::numbered(3, 1024)));
    }

    #[test]
    fn an_ip_address_has_the_bytes_of_its_own_type() {
        for text in ["192.0.2.7:40000", "[2001:db8::1]:7117"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(bytes(text), bincode::serde::encode_to_vec(address, BINARY).unwrap());
        }
        assert_eq!(bytes("3:5"), [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'3', 5, 0, 0, 0]);
        assert_eq!(size_of::<PeerAddress>(), size_of::<SocketAddr>());
    }

    #[test]
    fn refuses_a_host_that_is_none_or_that_misleads() {
        for text in ["", "x", ":1", "a b:1", "a:", "a:x", "ä:1", "::1", "a:4294967296"] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text:?}");
        }
        assert!(PeerAddress::other("127.0.0.1", 80).is_err(), "it reads as an IP address");
        assert!(PeerAddress::other(&"x".repeat(HostName::LONGEST + 1), 1).is_err());
        let longest = "x".repeat(HostName::LONGEST);
        assert_eq!(PeerAddress::other(&longest, 1).unwrap().to_string(), format!("{longest}:1"));
        let mut hostile = bytes("3:5");
        hostile[12] = b'\n';
        let read = bincode::serde::decode_from_slice::<PeerAddress, _>(&hostile, BINARY);
        assert!(read.is_err(), "a line break is no host");
    }

    #[test]
    fn only_an_ip_address_can_be_the_loopback() {
        let near = |text: &str| text.parse::<PeerAddress>().unwrap().is_loopback();
        assert!(near("127.9.9.9:1") && near("[::1]:1") && near("[::ffff:127.0.0.1]:1"));
        assert!(!near("192.0.2.1:1") && !near("1:1"));
    }
}
