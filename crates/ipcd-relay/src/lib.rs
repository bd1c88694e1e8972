//! The engine of `ipcctl relay`. It listens at one side, connects to the other for each peer, and
//! moves messages or bytes between them in both directions.
//!
//! Only the loop in `server.rs` waits. With a child for each peer, the parent's loop is in
//! `parent.rs`, and each child runs the loop of `server.rs` for its peer. `pair.rs` is a peer and
//! the connection made for it; each direction is a `flow.rs`. Transports come from the registry,
//! and none is known by name.

mod alarms;
mod commands;
mod connecting;
mod end;
mod flow;
mod listening;
mod pair;
mod parent;
mod queue;
mod server;
mod side;
mod signals;
mod splice;
mod subject;
mod variables;
mod watch;

use std::io;
use std::time::Duration;

use ipcd_proto::Codec;
use ipcd_transport::{Endpoint, Listener};

pub use ipcd_client::Options as ClientOptions;
pub use side::RelaySide;

/// Frames are the daemon's protocol, which has its own kind of side.
const NO_FRAMES: &str = "codec=frame is the protocol of the daemon: use codec=line, nul or raw, or ipcd:SUBJECT as a side";

/// The sides and options of a relay.
#[derive(Clone, Debug)]
pub struct Relay {
    /// The side that peers come from.
    pub from: RelaySide,
    /// The side that each peer is connected to.
    pub to: RelaySide,
    /// Whether bytes are moved, without looking for messages in them.
    pub is_raw: bool,
    /// The codec of a side without one.
    pub codec: Option<Codec>,
    /// The most children at a time, if each peer has a child; `None` for one process.
    pub children: Option<usize>,
    /// Whether commands get the UCSPI variables about their peer.
    pub ucspi: bool,
    /// The time limit of connecting.
    pub timeout: Duration,
    /// The daemon's endpoint, for a side that is a subject.
    pub daemon: Endpoint,
    /// The options to connect to it.
    pub client: ClientOptions,
}

/// Receives the events of a relay.
pub trait Observer {
    /// Peers can connect from now on.
    fn listening(&self, at: &Endpoint);

    /// An error that affects one peer only.
    fn trouble(&self, what: &str);
}

/// Why a relay ends, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sides or options are invalid.
    #[error("{0}")]
    Usage(String),
    /// It cannot listen, or cannot connect for the only peer that there is.
    #[error(transparent)]
    Transport(#[from] ipcd_transport::Error),
    /// The daemon cannot be reached, or ended the only session that there is.
    #[error(transparent)]
    Client(#[from] ipcd_client::Error),
    /// The system refuses a resource that the relay itself needs.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<nix::Error> for Error {
    fn from(error: nix::Error) -> Self {
        Self::System(error.into())
    }
}

/// The result of a relay's operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Relay {
    /// Relays until TERM, INT or HUP, or if the first side is a subject, until the other side ends.
    /// All commands that it has started have ended then.
    ///
    /// # Errors
    /// If the options are invalid, the relay cannot listen at the first side, or its only peer is
    /// lost.
    ///
    /// # Panics
    /// If children are wanted and the process has several threads.
    pub fn run(&self, observer: &dyn Observer) -> Result<()> {
        self.check()?;
        let Some(listener) = self.listen()? else {
            let mut server = server::PairServer::new(self, observer, None)?;
            server.serve_subject()?;
            return server.run();
        };
        let signals = signals::SignalWatch::new()?;
        observer.listening(listener.local());
        match self.children {
            Some(most) => parent::ForkParent::new(self, observer, listener, signals, most)?.run(),
            None => server::PairServer::new(self, observer, Some((listener, signals)))?.run(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.codec.is_some_and(|codec| !codec.is_for_raw_peers()) {
            return Err(Error::Usage(NO_FRAMES.to_owned()));
        }
        match [&self.from, &self.to].iter().find(|side| self.is_raw && side.has_codec()) {
            Some(side) => Err(Error::Usage(format!(
                "{side}: codec= has no effect with --raw, which moves bytes: leave it out"
            ))),
            None => Ok(()),
        }
    }

    fn listen(&self) -> Result<Option<Box<dyn Listener>>> {
        match &self.from {
            RelaySide::Subject { .. } => Ok(None),
            RelaySide::Endpoint(from) => {
                Ok(Some(from.transport.raw_at(&from.endpoint)?.listen_raw(&from.endpoint)?))
            }
        }
    }
}
