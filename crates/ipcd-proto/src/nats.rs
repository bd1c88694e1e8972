//! The client protocol of NATS, as nats-server 2.15 speaks it: the operations of clients, the
//! messages of the server, and header blocks. No I/O and no state: callers keep the bytes.
//!
//! There are no accounts, no clusters, and no JetStream here.

mod connect;
mod decode;
mod encode;
mod headers;
mod nkey;

pub use connect::ConnectOptions;
pub use decode::{ClientOperation, DecodedOperation, MAX_CONTROL_LINE, NatsError, Publish, decode};
pub use encode::{NatsMessage, NatsWriter, ServerInfo};
pub use headers::{BadNatsHeaders, headers_from_nats, headers_to_nats};
pub use nkey::{BadNkey, Nkey};

/// The version of nats-server that this crate follows. Clients decide by it what they may use.
pub const VERSION: &str = "2.15.0";
