//! A blocking client for ipcd.
//!
//! ```no_run
//! use ipcd_client::{Client, Options};
//!
//! let mut client = Client::connect(&"unix:///run/ipcd/ipcd.sock".parse()?, Options::default())?;
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
//! [`Client::publish`] buffers: a message leaves when the buffer is full, the client waits, or
//! [`Client::push`] or [`Client::flush`] is called.
//!
//! A client has no threads. While it waits for anything, it reads what comes and writes what is
//! buffered, so that two peers that flood each other never block each other for ever.

mod client;
mod error;
mod event;
mod frame_channel;
mod handshake;
mod incoming;
mod message;
mod options;
mod origins;
mod outcomes;
mod pending;
mod publisher;
mod session;
mod subscriptions;

pub use client::{Client, MessageIter};
pub use error::{Error, Result};
pub use event::{Event, WakeReason};
pub use ipcd_proto::control::{
    AccessRequest, AccessVerdict, Answer, DaemonStatus, DropReason, Origin, OverflowPolicy,
    PeerAttributes, PeerStatus, Query, Receipt, Refusal, RefusalCode, SubscriptionStatus,
};
pub use ipcd_proto::{DirectAddress, Filter, Headers, Subject};
pub use ipcd_transport::Endpoint;
pub use message::{Message, Publication};
pub use options::{Backoff, Options, SubscribeOptions, Token, TokenSource};
