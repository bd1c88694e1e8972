//! The wire protocol between a peer and ipcd: frames, control bodies, subjects, header blocks and
//! token proofs. No I/O, no clock, no randomness.
//!
//! `docs/PROTOCOL.md` is its description for other implementations. The vectors in `tests/vectors/`
//! check this crate against it.

pub mod auth;
mod codec;
pub mod control;
mod frame;
mod headers;
mod http;
pub mod limits;
pub mod nats;
mod subject;

pub use codec::{Codec, MessageDecoder, TooLong};
pub use frame::{
    DecodedFrame, Frame, FrameError, FrameKind, FrameWriter, HEADER_BYTES, Header, decode,
    frame_len,
};
pub use headers::{BadHeaders, Headers};
pub use http::{HttpDetector, HttpVerdict};
pub use ipcd_address::{BadAddress, HostName, PeerAddress};
pub use subject::{BadSubject, DirectAddress, Filter, Subject};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
