//! The identity of a peer.

use std::fmt;

use ipcd_address::PeerAddress;
use serde::{Deserialize, Serialize};

/// The identity of a peer, as far as the kernel can tell; unknown parts are `None`.
///
/// A local peer is known by (process, user, group), a remote one by (address, protocol, port), of
/// which the protocol is the transport's scheme, and by its certificate if it has shown one.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// Process, at the time of connecting.
    pub pid: Option<u32>,
    /// Effective user, at the time of connecting.
    pub uid: Option<u32>,
    /// Effective group, at the time of connecting.
    pub gid: Option<u32>,
    /// The address that the peer comes from.
    pub addr: Option<PeerAddress>,
    /// The name in a certificate that was verified: printable ASCII, at most
    /// [`PeerIdentity::LONGEST_NAME`] bytes.
    pub certificate: Option<Box<str>>,
}

impl PeerIdentity {
    /// Bytes of the longest name that a peer is known by.
    pub const LONGEST_NAME: usize = 255;

    /// The identity of a peer that only an address is known of.
    pub fn from_addr(addr: impl Into<PeerAddress>) -> Self {
        Self { addr: Some(addr.into()), ..Self::default() }
    }

    /// The identity of a peer of which only the user is known.
    pub fn from_owner(uid: u32) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addr) = self.addr {
            write!(f, "{addr}")?;
            return match &self.certificate {
                Some(name) => write!(f, ",certificate={name}"),
                None => Ok(()),
            };
        }
        let known = [("pid", self.pid), ("uid", self.uid), ("gid", self.gid)];
        let mut separator = "";
        for (key, value) in known {
            if let Some(value) = value {
                write!(f, "{separator}{key}={value}")?;
                separator = ",";
            }
        }
        if separator.is_empty() { f.write_str("unknown") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_is_known() {
        assert_eq!(PeerIdentity::default().to_string(), "unknown");
        assert_eq!(PeerIdentity::from_owner(7).to_string(), "uid=7");
        let peer =
            PeerIdentity { pid: Some(1), uid: Some(2), gid: Some(3), ..PeerIdentity::default() };
        assert_eq!(peer.to_string(), "pid=1,uid=2,gid=3");
        let remote = PeerIdentity::from_addr("[::1]:9".parse::<PeerAddress>().unwrap());
        assert_eq!(remote.to_string(), "[::1]:9");
        let known = PeerIdentity { certificate: Some("ann.example".into()), ..remote };
        assert_eq!(known.to_string(), "[::1]:9,certificate=ann.example");
    }
}
