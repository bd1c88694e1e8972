//! The listening side of a transport.

use std::os::fd::BorrowedFd;

use crate::{ChannelParts, Endpoint, PeerIdentity, Result};

/// Accepts channels at one endpoint.
pub trait Listener {
    /// Readable when [`Listener::accept`] has something to do.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The endpoint as bound: with the real port when port 0 was asked for.
    fn local(&self) -> &Endpoint;

    /// The next peer, or `None` when there is none now. An error concerns one peer, not the
    /// listener: the caller reports it and goes on.
    fn accept(&mut self) -> Result<Option<ChannelParts>>;

    /// Goes on at the same address with the options of this endpoint, for peers that speak frames or
    /// for raw ones. False if the listener has to be opened anew instead; then nothing has changed,
    /// as after an error. The caller may go back to the former options.
    fn adapt(&mut self, _at: &Endpoint, _is_raw: bool) -> Result<bool> {
        Ok(false)
    }

    /// The reports that this listener wants about the peers it has accepted, if any.
    fn tracking(&self) -> Option<&dyn PeerTracking> {
        None
    }

    /// The same, to be told.
    fn tracking_mut(&mut self) -> Option<&mut dyn PeerTracking> {
        None
    }

    /// The certificates that this listener has read, if it uses any.
    fn trust(&self) -> Option<&dyn TrustAnchors> {
        None
    }

    /// The same, to be read again.
    fn trust_mut(&mut self) -> Option<&mut dyn TrustAnchors> {
        None
    }
}

/// A listener that has to know what became of the peers it has accepted.
pub trait PeerTracking {
    /// The process that served this peer has died, and its descriptors with it. The listener tells
    /// the peer where the kernel does not. Identity and state are those of the parts accepted.
    fn orphaned(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// Whether the listener has one peer only. It accepts that peer again when the peer was
    /// [released](PeerTracking::released), and not before.
    fn has_one_peer(&self) -> bool {
        false
    }

    /// No process serves this peer any more.
    fn released(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// The peer was refused, and its descriptors are closed.
    fn refused(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// The listener will be dropped, and another for other purposes takes its place at once. Nothing
    /// that this one has made may be left for it, though a process may still serve the peer.
    fn clear_place(&mut self) {}
}

/// A listener that identifies its peers by certificates.
pub trait TrustAnchors {
    /// Reads the files again, for the peers that come from now on. After an error the former
    /// certificates stay in force.
    fn reload(&mut self) -> Result<()>;

    /// The certificates of the CAs that vouch for peers.
    fn trusted(&self) -> &[Vec<u8>];
}

/// The methods of the extension traits, for callers. A listener without a trait has nothing to do.
impl dyn Listener + '_ {
    /// See [`PeerTracking::orphaned`].
    pub fn orphaned(&mut self, identity: &PeerIdentity, state: &[u8]) {
        if let Some(tracking) = self.tracking_mut() {
            tracking.orphaned(identity, state);
        }
    }

    /// See [`PeerTracking::has_one_peer`].
    pub fn has_one_peer(&self) -> bool {
        self.tracking().is_some_and(PeerTracking::has_one_peer)
    }

    /// See [`PeerTracking::released`].
    pub fn released(&mut self, identity: &PeerIdentity, state: &[u8]) {
        if let Some(tracking) = self.tracking_mut() {
            tracking.released(identity, state);
        }
    }

    /// See [`PeerTracking::refused`].
    pub fn refused(&mut self, identity: &PeerIdentity, state: &[u8]) {
        if let Some(tracking) = self.tracking_mut() {
            tracking.refused(identity, state);
        }
    }

    /// See [`PeerTracking::clear_place`].
    pub fn clear_place(&mut self) {
        if let Some(tracking) = self.tracking_mut() {
            tracking.clear_place();
        }
    }

    /// Reads certificates again. Returns whether the listener has any.
    ///
    /// # Errors
    /// See [`TrustAnchors::reload`].
    pub fn reload(&mut self) -> Result<bool> {
        self.trust_mut().map_or(Ok(false), |trust| trust.reload().map(|()| true))
    }

    /// See [`TrustAnchors::trusted`].
    pub fn trusted(&self) -> &[Vec<u8>] {
        self.trust().map_or(&[], TrustAnchors::trusted)
    }
}
