//! FIFOs (named pipes, fifo(7)): a fresh pair for each peer, named by a record that the client
//! writes into the daemon's well-known FIFO.
//!
//! The client makes the pair in the *drop box*, a directory beside the well-known FIFO, because a
//! file's owner is all that the kernel vouches for here. For `/run/ipcd/ipcd.fifo` the drop box is
//! `/run/ipcd/fifo`; for any other `PATH` it is `PATH.d`, so that each listener has its own.
//!
//! 1. The client makes `NAME.up` and `NAME.down` with mode 0600, NAME being 128 random bits in
//!    hexadecimal. It opens `down` for reading, and `up` both for writing and `O_RDWR`, so that
//!    `up` has a reader before the daemon comes.
//! 2. It writes the record (see `record.rs` for the layout) with one write(2). At most `PIPE_BUF`
//!    bytes, it does not mix with another client's.
//! 3. The daemon examines both FIFOs before it opens them, takes their owner for the peer's
//!    identity, removes both names, and writes `ipcd-fifo/1` (11 bytes) into `down`.
//! 4. The client reads these bytes, which is how it knows that the daemon has both ends, and closes
//!    its `O_RDWR` descriptor, so that the daemon's end is a broken pipe from now on.

mod bare;
mod connect;
mod drop_box;
mod found;
#[cfg(fuzzing)]
pub mod fuzzing;
mod listener;
mod record;

use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Access, BareChannel, Capabilities, Channel, ChannelParts, Endpoint, IdentityKind, Listener,
    Result, StreamChannel, Transport,
};

/// The FIFO transport.
pub struct Fifo;

/// What the daemon writes into a peer's `down` FIFO before any frame: the rendezvous' version.
const GREETING: &[u8; 11] = b"ipcd-fifo/1";

impl Transport for Fifo {
    fn scheme(&self) -> &'static str {
        "fifo"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "two named pipes; the kernel names the peer's user",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: false,
            largest_record: None,
            identity: IdentityKind::Owner,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &Access::OPTIONS
    }

    fn check(&self, endpoint: &Endpoint) -> Result<()> {
        endpoint.path().map(drop)
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Endpoint {
        Endpoint::from_path(self.scheme(), &runtime_dir.join("ipcd.fifo"))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(listener::Listening::open(at)?))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        Ok(Box::new(connect::connect(to, deadline)?))
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn listen_bare(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(bare::Listening::open(at)?))
    }

    fn adopt_bare(&self, parts: ChannelParts) -> Result<BareChannel> {
        let channel = self.adopt(parts)?;
        Ok(BareChannel { channel, keeps_records: false, has_end: false, largest: None })
    }
}
