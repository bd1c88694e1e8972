//! The transport itself: which endpoints there are, and how a listener or channel is made of one.

use std::path::Path;
use std::time::Instant;

use crate::{
    Channel, ChannelParts, Endpoint, Listener, RawTransport, Result, SocketActivation, TrustedDir,
};

/// A way to move frames between processes. One value per scheme, known to the registry.
///
/// Abilities of some transports only are in extension traits, which [`Transport::raw`] and
/// [`Transport::activation`] lead to.
pub trait Transport: Sync {
    /// The name of the transport and the scheme of its endpoints, such as `tcp`.
    fn scheme(&self) -> &'static str;

    /// The properties that users and the daemon rely on.
    fn capabilities(&self) -> Capabilities;

    /// The options that an endpoint of this transport may carry.
    fn options(&self) -> &'static [&'static str];

    /// The options that have an effect where the endpoint is used for this purpose.
    fn options_for(&self, _purpose: EndpointPurpose) -> &'static [&'static str] {
        self.options()
    }

    /// Checks that the endpoint can be used for this purpose. The check asks the system nothing.
    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()>;

    /// Checks that a listener there has what it needs beside its address, such as the directory of
    /// its path, or its certificates. The check makes nothing and binds nothing. By default an address
    /// that begins with a slash is a path.
    fn check_listen(&self, at: &Endpoint) -> Result<()> {
        match at.path() {
            Ok(path) => TrustedDir::of(path).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// The endpoint that this scheme alone stands for, as in `ipcctl --via tcp`, for a daemon with
    /// this runtime directory.
    ///
    /// # Errors
    /// If the transport has none. The error says what to write instead.
    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint>;

    /// Whether a daemon without configured listeners opens one at the default endpoint. A listener
    /// that cannot be bound there is left out with a warning.
    fn listens_by_default(&self) -> bool {
        false
    }

    /// Binds the endpoint.
    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>>;

    /// Connects to the endpoint, and fails with [`Error::TimedOut`](crate::Error::TimedOut) at the
    /// deadline.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>>;

    /// Makes a channel again of what [`Listener::accept`] or [`Channel::into_parts`] returned,
    /// perhaps in another process. A sandboxed worker calls this: it must not open, bind or connect
    /// anything.
    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>>;

    /// The operations for raw peers, if the transport serves them.
    fn raw(&self) -> Option<&dyn RawTransport> {
        None
    }

    /// The operations for listeners that a service manager has bound, if the transport takes them.
    fn activation(&self) -> Option<&dyn SocketActivation> {
        None
    }
}

impl dyn Transport + '_ {
    /// The operations for raw peers at this endpoint.
    ///
    /// # Errors
    /// If the transport does not serve raw peers.
    pub fn raw_at(&self, at: &Endpoint) -> Result<&dyn RawTransport> {
        self.raw().ok_or_else(|| at.error(format_args!("{} takes frames only", self.scheme())))
    }
}

/// The use of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndpointPurpose {
    /// A listener for peers that speak frames.
    Listen,
    /// A listener for raw peers.
    ListenRaw,
    /// A connection to a daemon.
    Connect,
    /// A connection to a raw server.
    ConnectRaw,
}

impl EndpointPurpose {
    /// Whether a listener is opened there.
    pub fn listens(self) -> bool {
        matches!(self, Self::Listen | Self::ListenRaw)
    }

    /// Whether the peers there are raw.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::ListenRaw | Self::ConnectRaw)
    }
}

/// The properties of a transport, for users (`ipcctl transports`) and for the daemon's decisions.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// One line about the transport.
    pub summary: &'static str,
    /// Whether the kernel keeps the boundaries between records.
    pub boundaries: bool,
    /// Whether frames arrive in the order in which they were sent.
    pub ordered: bool,
    /// Whether everything sent is delivered, or the connection ends.
    pub reliable: bool,
    /// Whether peers on other machines can connect.
    pub remote: bool,
    /// Whether only the two sides can read and change what is sent.
    pub encrypted: bool,
    /// Bytes of the largest record that travels in one piece; `None` for a stream.
    pub largest_record: Option<usize>,
    /// The way in which a peer is identified.
    pub identity: IdentityKind,
}

/// The kind of knowledge that a transport has of its peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdentityKind {
    /// The kernel vouches for process, user and group (`SO_PEERCRED`). The peer proves no token: the
    /// listener keeps other users out, by the mode of its path or by [`PathRights`](crate::PathRights).
    Credentials,
    /// The kernel vouches for the owner of a file that only the peer could make. The peer proves no
    /// token either.
    Owner,
    /// Only an IP address is known. The peer must prove that it holds a token, and `allow=` may
    /// name networks.
    Address,
    /// Only an address of another kind is known. The peer must prove that it holds a token.
    OtherAddress,
}

impl IdentityKind {
    /// Whether the kernel vouches for the peer's user.
    pub fn is_vouched(self) -> bool {
        matches!(self, Self::Credentials | Self::Owner)
    }

    /// Whether a peer is known by an address.
    pub fn has_address(self) -> bool {
        !self.is_vouched()
    }
}
