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
//! A client has no threads. While it waits for anything, it reads what comes, and writes what it
//! has buffered: two peers that flood each other never wait for each other for ever. Nothing stays
//! in its buffer while it waits, or is dropped.

mod client;
mod error;
mod message;
mod options;
mod session;
mod wire;

pub use client::{Client, Event, Messages};
pub use error::{Error, Result};
pub use ipcd_proto::control::{Answer, Code, Origin, Overflow, PeerStatus, Query, Refusal, Status};
pub use ipcd_proto::{Filter, Headers, Subject};
pub use ipcd_transport::Endpoint;
pub use message::{Message, Publication};
pub use options::{Backoff, Options, SubscribeOptions, Token, TokenSource};
