//! The engine of `ipcctl relay`: listens at one side, connects to the other for each peer, and moves
//! messages or bytes between them, both ways.
//!
//! Nothing here waits but the loop, in `server.rs`; with a child for each peer, the parent's loop is
//! in `parent.rs`, and each child runs the same loop for its one peer. A `pair.rs` is a peer and what
//! it was connected to; each direction is a `flow.rs` by itself. Transports are known through the
//! registry, and none by name.

mod connecting;
mod end;
mod flow;
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
pub use side::Side;

/// Who speaks frames is the daemon, and has a way of its own to be reached.
const NO_FRAMES: &str =
    "frames are for the daemon: write codec=line, nul or raw, or ipcd:SUBJECT for a side";

/// What is relayed, and how.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Where peers come from.
    pub from: Side,
    /// Where each is connected to.
    pub to: Side,
    /// Whether bytes are moved, without looking for messages in them.
    pub is_raw: bool,
    /// How bytes become messages at a side that does not say.
    pub codec: Option<Codec>,
    /// Whether each peer has a child of its own, and how many there are at the most.
    pub children: Option<usize>,
    /// Whether commands are told about their peers as UCSPI has it.
    pub ucspi: bool,
    /// How long connecting may take.
    pub timeout: Duration,
    /// Where the daemon is, for a side that is a subject.
    pub daemon: Endpoint,
    /// How to connect to it.
    pub client: ClientOptions,
}

/// Hears what is going on.
pub trait Observer {
    /// Peers can come from now on.
    fn listening(&self, at: &Endpoint);

    /// Something failed that concerns one peer only.
    fn trouble(&self, what: &str);
}

/// Why a relay ends, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It cannot listen, or cannot connect for the only peer that there is.
    #[error(transparent)]
    Transport(#[from] ipcd_transport::Error),
    /// The daemon cannot be reached, or ended the only session that there is.
    #[error(transparent)]
    Client(#[from] ipcd_client::Error),
    /// The system refuses what the relay itself needs.
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
    /// Relays until TERM, INT or HUP; or, where the first side is a subject, until the other side
    /// ends. Nothing that it has started is left then.
    ///
    /// # Errors
    /// If it makes no sense, the first side cannot be listened at, or its only peer is lost.
    ///
    /// # Panics
    /// If there is more than one thread, and children are wanted.
    pub fn run(&self, observer: &dyn Observer) -> Result<()> {
        self.check()?;
        let Some(listener) = self.listen()? else {
            let mut server = server::Server::new(self, observer, None)?;
            server.serve_subject()?;
            return server.run();
        };
        let signals = signals::Signals::new()?;
        observer.listening(listener.local());
        match self.children {
            Some(most) => parent::Parent::new(self, observer, listener, signals, most)?.run(),
            None => server::Server::new(self, observer, Some((listener, signals)))?.run(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.codec == Some(Codec::Frame) {
            return Err(Error::Usage(NO_FRAMES.to_owned()));
        }
        match [&self.from, &self.to].iter().find(|side| self.is_raw && side.has_codec()) {
            Some(side) => Err(Error::Usage(format!(
                "{side}: --raw moves bytes and looks for no messages: leave codec= away"
            ))),
            None => Ok(()),
        }
    }

    fn listen(&self) -> Result<Option<Box<dyn Listener>>> {
        match &self.from {
            Side::Subject { .. } => Ok(None),
            Side::Endpoint(from) => {
                Ok(Some(from.transport.raw_at(&from.endpoint)?.listen_raw(&from.endpoint)?))
            }
        }
    }
}
