//! Who a peer is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Who a peer is, as far as the kernel can tell; what it cannot tell is `None`.
///
/// A local peer is known by (process, user, group), a remote one by (address, protocol, port), of
/// which the protocol is the transport's scheme.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Process, at the time of connecting.
    pub pid: Option<u32>,
    /// Effective user, at the time of connecting.
    pub uid: Option<u32>,
    /// Effective group, at the time of connecting.
    pub gid: Option<u32>,
    /// Source address and port.
    pub addr: Option<SocketAddr>,
}

impl Identity {
    /// The identity of a peer on the network.
    pub fn from_addr(addr: SocketAddr) -> Self {
        Self { addr: Some(addr), ..Self::default() }
    }

    /// The identity of a peer of which only the user is known.
    pub fn from_owner(uid: u32) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addr) = self.addr {
            return write!(f, "{addr}");
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
        assert_eq!(Identity::default().to_string(), "unknown");
        assert_eq!(Identity::from_owner(7).to_string(), "uid=7");
        let peer = Identity { pid: Some(1), uid: Some(2), gid: Some(3), addr: None };
        assert_eq!(peer.to_string(), "pid=1,uid=2,gid=3");
        let remote = Identity::from_addr("[::1]:9".parse().unwrap());
        assert_eq!(remote.to_string(), "[::1]:9");
    }
}
