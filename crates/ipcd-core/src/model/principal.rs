//! The principal of a peer: the user or network whose limits the peer uses up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipcd_proto::{HostName, PeerAddress};
use serde::{Deserialize, Serialize};

/// The user or network that a peer is charged to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Principal {
    /// A user of this machine.
    User(u32),
    /// An IP network: its address, and the number of its leading bits. A single address has all
    /// bits.
    Network(IpAddr, u8),
    /// A host whose addresses are not IP: all its ports are one principal.
    Host(HostName),
    /// The transport knows neither a user nor an address.
    Unknown,
}

/// The number of leading address bits that make one network, and so one principal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AddressPrefixes {
    /// Bits of an IPv4 address, up to 32.
    pub v4: u8,
    /// Bits of an IPv6 address, up to 128. A host usually owns a whole /64, so single addresses
    /// would not limit it.
    pub v6: u8,
}

impl Default for AddressPrefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl Principal {
    /// Returns the principal of a peer of this user, or from this address.
    pub fn of(uid: Option<u32>, addr: Option<PeerAddress>, prefixes: AddressPrefixes) -> Self {
        match (uid, addr) {
            (Some(uid), _) => Self::User(uid),
            (None, Some(PeerAddress::Ip(addr))) => {
                // A mapped address (::ffff:a.b.c.d) is IPv4; both forms must be the same principal.
                Self::network(addr.ip().to_canonical(), prefixes)
            }
            (None, Some(PeerAddress::Other(host, _))) => Self::Host(host),
            (None, None) => Self::Unknown,
        }
    }

    fn network(ip: IpAddr, prefixes: AddressPrefixes) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let bits = prefixes.v4.min(32);
                // With 0 bits the shift would overflow: all addresses are one network then.
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                Self::Network(Ipv4Addr::from_bits(ip.to_bits() & mask).into(), bits)
            }
            IpAddr::V6(ip) => {
                let bits = prefixes.v6.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                Self::Network(Ipv6Addr::from_bits(ip.to_bits() & mask).into(), bits)
            }
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Network(IpAddr::V4(ip), 32) => write!(f, "address {ip}"),
            Self::Network(IpAddr::V6(ip), 128) => write!(f, "address {ip}"),
            Self::Network(ip, bits) => write!(f, "network {ip}/{bits}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Unknown => f.write_str("unknown user"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let of = |addr: &str, v4, v6| {
            let addr = Some(addr.parse().unwrap());
            Principal::of(None, addr, AddressPrefixes { v4, v6 }).to_string()
        };
        assert_eq!(of("10.1.2.3:4", 32, 64), "address 10.1.2.3");
        assert_eq!(of("10.1.2.3:4", 24, 64), "network 10.1.2.0/24");
        assert_eq!(of("10.1.2.3:4", 0, 0), "network 0.0.0.0/0");
        assert_eq!(of("[2001:db8::1:2:3:4]:5", 32, 64), "network 2001:db8::/64");
        assert_eq!(of("[::ffff:10.1.2.3]:5", 32, 64), "address 10.1.2.3");
        assert_eq!(of("[::1]:5", 32, 128), "address ::1");
        assert_eq!([of("3:1024", 32, 64), of("3:1025", 0, 0)], ["host 3", "host 3"]);
        assert_eq!(Principal::of(Some(7), None, AddressPrefixes::default()).to_string(), "user 7");
    }
}

/// The use of a principal's quota.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaUsage {
    /// Bytes in the send queues of its peers.
    pub bytes: u64,
    /// Subscriptions of its peers.
    pub subscriptions: u64,
}
