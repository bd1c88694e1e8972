//! The names of senders, as the kernel tells them with a datagram.

use ipcd_transport::PeerIdentity;

/// The name of a sender's socket. Together with the process it distinguishes senders.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum SenderName {
    /// A path, or a NUL and an abstract name.
    Bound(Vec<u8>),
    /// No name: all such processes of a user and group are one sender, for nothing can go back to
    /// any of them.
    Unbound(Option<(u32, u32)>),
}

impl SenderName {
    pub(crate) fn of(from: Vec<u8>, known: Option<(Option<u32>, u32, u32)>) -> Self {
        match from.is_empty() {
            false => Self::Bound(from),
            true => Self::Unbound(known.map(|(_, uid, gid)| (uid, gid))),
        }
    }

    /// The sender's identity, as far as the kernel tells.
    pub(crate) fn identity(&self, known: Option<(Option<u32>, u32, u32)>) -> PeerIdentity {
        let Some((pid, uid, gid)) = known else { return PeerIdentity::default() };
        let pid = pid.filter(|_| matches!(self, Self::Bound(_)));
        PeerIdentity { pid, uid: Some(uid), gid: Some(gid), ..PeerIdentity::default() }
    }
}
