//! A client for ipcd: a blocking one, and with the feature `async` one for tokio (`AsyncClient`).
//!
//! A program on the daemon's machine needs Unix-domain sockets only. Its dependency, with the path of
//! a copy of ipcd, is:
//!
//! ```toml
//! [dependencies]
//! ipcd-client = { path = "../ipcd/crates/ipcd-client", default-features = false }
//! ```
//!
//! | feature | brings |
//! |---|---|
//! | `all-transports` (default) | every transport |
//! | `fifo`, `pipe`, `tcp`, `udp`, `vsock`, `ws` | that transport |
//! | `tls`, `wss` | that transport, with rustls and ring, which need a C compiler |
//! | `async` | `AsyncClient`, with tokio |
//!
//! # Messages
//!
//! ```no_run
//! use ipcd_client::{Client, Options};
//!
//! // The daemon that `ipcctl` finds. Another: Client::connect(&"tcp://host:7117".parse()?, …).
//! let mut client = Client::connect_default(Options::default())?;
//! client.subscribe("logs.>", Default::default())?;
//! client.send("logs.web", b"hello")?;
//! for message in client.messages() {
//!     println!("{}", String::from_utf8_lossy(message?.payload()));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A request goes to the subscribers of its subject, and waits for the first reply. The members of a
//! group share the requests:
//!
//! ```no_run
//! use std::time::Duration;
//! use ipcd_client::{Client, Event, Options, SubscribeOptions};
//!
//! # let endpoint = "unix:///run/ipcd/ipcd.sock".parse()?;
//! # let mut client = Client::connect(&endpoint, Options::default())?;
//! let reply = client.request("shout", b"hello", Duration::from_secs(2))?;
//!
//! # let mut responder = Client::connect(&endpoint, Options::default())?;
//! let group = Some("shouters".to_owned());
//! responder.subscribe("shout", SubscribeOptions { group, ..Default::default() })?;
//! while let Some(event) = responder.next_event(None)? {
//!     if let Event::Message(request) = event {
//!         responder.reply(&request, &request.payload().to_ascii_uppercase())?;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When bytes leave
//!
//! | call | the message is | returns when |
//! |---|---|---|
//! | [`publish`](Client::publish), [`publish_message`](Client::publish_message), [`reply`](Client::reply) | in the client's buffer | it is copied; at 64 KiB, when the buffer has room again |
//! | [`push`](Client::push) | with the kernel | everything in the buffer is written |
//! | [`flush`](Client::flush), [`close`](Client::close) | with the daemon | the daemon has accepted everything; the only call that reports a refusal |
//! | [`send`](Client::send) | with the daemon | as `publish` and `flush` |
//! | [`publish_acked`](Client::publish_acked) | with its receivers | every copy is delivered or dropped |
//!
//! A call that waits for anything else, such as [`next_event`](Client::next_event) or
//! [`request`](Client::request), writes the buffer meanwhile. So a program that publishes and then
//! does other work calls `push` first. The buffer costs a message no time and no loss of order: it
//! makes one system call of hundreds of small messages.
//!
//! # Without threads
//!
//! A blocking client has no threads. While it waits for anything, it reads what comes and writes what is
//! buffered, so that two peers that flood each other never block each other for ever.

#[cfg(feature = "async")]
mod asynchronous;
mod client;
mod error;
mod event;
mod frame_channel;
mod handshake;
mod incoming;
mod location;
mod message;
mod options;
mod origins;
mod outcomes;
mod pending;
mod publisher;
mod session;
mod subscriptions;

#[cfg(feature = "async")]
pub use asynchronous::{AsyncClient, Replies, Subscription};
pub use client::{Client, MessageIter};
pub use error::{Error, Result};
pub use event::{Event, WakeReason};
pub use ipcd_proto::control::{
    AccessRequest, AccessVerdict, Answer, DaemonStatus, DropReason, Origin, OverflowPolicy,
    PeerAttributes, PeerStatus, Query, Receipt, Refusal, RefusalCode, SubscriptionStatus,
};
pub use ipcd_proto::{DirectAddress, Filter, Headers, Subject};
pub use ipcd_transport::Endpoint;
pub use location::DaemonLocation;
pub use message::{Message, Publication};
pub use options::{Backoff, Options, SubscribeOptions, Token, TokenSource};
