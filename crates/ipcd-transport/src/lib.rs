//! The message-transport trait of ipcd, and what every transport shares.
//!
//! A transport moves batches of whole frames between two processes over non-blocking descriptors,
//! without a runtime. All it knows of a frame is that it begins with its own length, a `u32` in
//! little-endian order that counts the whole frame ([`frame_len`]). What a frame means, and where
//! it goes, is none of its business.
//!
//! The contract, which `ipcd-conformance` checks for every transport:
//!
//! * What is read is what the other side wrote, in order. An unreliable transport may lose whole
//!   frames, never parts of one, and never delivers one twice or out of turn.
//! * No call blocks, except [`Transport::connect`] and [`RawTransport::connect_raw`], which end by
//!   their deadline, but for the time that the system takes to resolve a name.
//! * A write may be taken in part; the caller offers the rest again, unchanged, with more behind it.
//! * The end of the stream is reported once all that was received before it has been read.
//! * What a channel says it has taken, the kernel has: it arrives even if this process dies.
//! * A channel can be taken apart ([`Channel::into_parts`]) and put together in another process: an
//!   encrypted one only before it was used, any other at any time.
//! * A peer for which the kernel vouches ([`IdentityKind::is_vouched`]) proves no token. So a listener
//!   refuses users that its rights do not admit: by default all but its own user and root. A client
//!   refuses servers that [`check_server`] refuses.
//! * No input from the peer makes a channel panic or hold more memory than the read buffer allows.

mod blocking_file;
mod buffer;
mod channel;
mod claim;
mod deadline;
mod endpoint;
mod error;
mod found_file;
mod identity;
mod inet;
pub mod inherited_fd;
mod listener;
mod local;
mod path_rights;
mod raw;
mod record_channel;
mod records;
mod secret;
mod send_buffer;
mod socket;
mod socket_listener;
mod stream;
mod transport;
mod trusted;

pub use blocking_file::BlockingFile;
pub use buffer::ReadBuffer;
pub use channel::{Channel, ChannelParts, ChannelTraffic, ReadOutcome, WriteOutcome};
pub use claim::{FileKind, PathClaim, open_lock};
pub use deadline::{deadline_after, later};
pub use endpoint::Endpoint;
pub use error::{Error, Result, is_of_the_network};
pub use found_file::{FoundFile, reopen};
pub use identity::PeerIdentity;
pub use inet::{InetListener, StreamListener, connect_inet};
pub use inherited_fd::{InheritedFd, SocketActivation};
pub use ipcd_address::{HostName, PeerAddress};
pub use listener::{Listener, PeerTracking, TrustAnchors};
pub use local::{
    accept_local, bind_local, check_length, connect_local, guard_of_passed, peer_credentials,
    set_local_access,
};
pub use path_rights::PathRights;
pub use raw::{EnvVariable, RawBehaviour, RawChannel, RawDirections, RawTransport};
pub use record_channel::{RecordChannel, SilenceLimit};
pub use records::{RecordJoiner, RecordSplitter, SplitRecord};
pub use secret::{Exposure, SecretFile};
pub use send_buffer::grow_send_buffer;
pub use socket::{
    PendingReset, connect_until, end_socket, poll_some, poll_until, receive_record, tells_records,
};
pub use socket_listener::{SocketListener, connect_socket};
pub use stream::StreamChannel;
pub use transport::{Capabilities, EndpointPurpose, IdentityKind, Transport};
pub use trusted::{TrustedDir, check_server, is_trusted};

/// Bytes of the length field at the start of every frame.
pub const LENGTH_BYTES: usize = 4;

/// The length of the frame that begins here, itself included, or `None` when fewer than
/// [`LENGTH_BYTES`] are there.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    Some(u32::from_le_bytes(*length) as usize)
}
