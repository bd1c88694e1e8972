//! TLS 1.3 between a TCP socket and the bytes of a channel, for every transport that uses it: listener,
//! channel, and the options of the endpoints. A peer is known by its address, and by its certificate if
//! it shows one that is signed by the listener's CA.
//!
//! The process that opens an endpoint reads its files; the one that serves the channel gets them as a
//! sealed memory file beside the socket, and opens no file itself. The handshake is a part of the
//! channel's traffic: it goes on in the loop of the channel's owner, on both sides.

mod channel;
mod config;
mod explain;
mod files;
mod listener;
mod names;
mod outgoing;
mod progress;
mod settings;
mod verify;

use std::os::fd::AsRawFd as _;
use std::time::Instant;

use ipcd_transport::{
    ChannelParts, Endpoint, EndpointPurpose, Error, PeerIdentity, Result, connect_inet,
};
use nix::sys::socket::{self, MsgFlags};

pub use crate::channel::TlsChannel;
pub use crate::listener::{ProtocolNames, TlsListener};
use crate::settings::{SealedSettings, TlsSettings};

/// The options of an endpoint that uses TLS.
pub const OPTIONS: [&str; 5] = ["cert", "key", "ca", "client_auth", "name"];
/// Those that have an effect for a listener.
pub const LISTEN_OPTIONS: [&str; 4] = ["cert", "key", "ca", "client_auth"];
/// Those that have an effect for a connection.
pub const CONNECT_OPTIONS: [&str; 4] = ["cert", "key", "ca", "name"];

/// Checks that the options fit together, without opening files.
///
/// # Errors
/// If they do not; the error says what is missing.
pub fn check(endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
    match purpose.listens() {
        true => {
            settings::check_to_listen(endpoint)?;
            settings::check_effect(endpoint)
        }
        false => settings::check_to_connect(endpoint),
    }
}

/// Checks that the files of a listener can be used.
///
/// # Errors
/// If not; the error names the file.
pub fn check_listen(at: &Endpoint) -> Result<()> {
    TlsSettings::to_listen(at, None)?.config().map(drop)
}

/// Sends bytes in clear text to a peer that was just accepted, ahead of the handshake.
///
/// # Errors
/// If the kernel does not take them at once.
pub fn greet(parts: &ChannelParts, bytes: &[u8]) -> Result<()> {
    let Some(socket) = parts.descriptors.first() else {
        return Err(Error::Protocol("a TLS channel has a socket and settings".into()));
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match socket::send(socket.as_raw_fd(), bytes, flags) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(Error::Protocol("the peer's socket has no room".into())),
        Err(error) => Err(Error::system("greet the peer", error)),
    }
}

/// Connects, and returns what [`TlsChannel::adopt`] makes a channel of. The handshake is still to come:
/// the first turns of the channel do it.
///
/// # Errors
/// If a file cannot be used, or as [`connect_inet`].
pub fn dial(to: &Endpoint, protocol: Option<&[u8]>, deadline: Instant) -> Result<ChannelParts> {
    let settings = TlsSettings::to_connect(to, protocol)?;
    let config = settings.config()?;
    let (descriptor, state) = SealedSettings::new(&settings)?.share()?;
    config.remember(&state);
    let (socket, address) = connect_inet(to, deadline)?;
    let (descriptors, identity) = (vec![socket, descriptor], PeerIdentity::from_addr(address));
    Ok(ChannelParts { descriptors, identity, state })
}
