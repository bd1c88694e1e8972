//! WebSockets (RFC 6455) between a stream and the bytes of a channel, for every transport that uses
//! them: the upgrade of HTTP/1.1 with the check of the origin, frames in both directions, and the end.
//!
//! The payloads of binary and text messages, one after the other, are the bytes that a channel reads;
//! the limits of messages mean nothing. What a channel writes travels as binary messages. Nothing of a
//! message is kept until more of it comes, so its length needs no limit. Extensions, such as
//! compression, are not used.
//!
//! The process that serves the channel answers the upgrade: the bytes of a peer are read nowhere else.

mod channel;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod incoming;
mod listener;
mod mask;
mod origin;
mod outgoing;
mod place;
mod request;
mod response;
mod socket;

pub use crate::channel::WebSocketChannel;
pub use crate::listener::WebSocketListener;
pub use crate::origin::ORIGIN_OPTION;
pub use crate::place::Place;
pub use crate::socket::client_parts;
