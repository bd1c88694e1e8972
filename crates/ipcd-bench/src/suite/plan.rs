//! What can be measured: modes, layers, ways, sizes, and where processes run.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use ipcd_client::{Endpoint, Options};
use serde::{Deserialize, Serialize};

use super::peers::Peer;
use super::raw::Primitive;

/// What is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Round trips, one after the other.
    Pingpong,
    /// One way, as fast as it goes.
    Throughput,
    /// One way, at a rate that does not wait for what comes of it.
    Load,
    /// One sender, several receivers of everything.
    Fanout,
    /// Requests and replies of the daemon, one after the other.
    Req,
}

impl Mode {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 5] =
        [Self::Pingpong, Self::Throughput, Self::Load, Self::Fanout, Self::Req];

    /// Whether it measures how long messages take.
    pub fn has_latency(self) -> bool {
        matches!(self, Self::Pingpong | Self::Load | Self::Req)
    }

    /// Whether something comes back.
    pub(crate) fn is_two_way(self) -> bool {
        matches!(self, Self::Pingpong | Self::Req)
    }
}

/// What stands between the two processes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The bare primitive.
    Raw,
    /// The transport crates of ipcd, without a daemon.
    Lib,
    /// ipcd.
    Daemon,
    /// Another server.
    Peer,
}

impl Layer {
    /// All of them but other servers, which are there on request.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Lib, Self::Daemon];
}

/// How much is counted in a run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// So long.
    Time(Duration),
    /// So many messages.
    Count(u64),
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Pace {
    /// Messages a second; `None` for as many as go.
    pub rate: Option<f64>,
    /// Whether they are sent at random times rather than at equal distances.
    pub is_poisson: bool,
}

/// Where processes are to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pin {
    /// On two cores; round trips on one, where nobody has to be woken elsewhere.
    Auto,
    /// Round trips on one core and on two.
    Both,
    /// Where the kernel likes.
    Free,
    /// The senders on one core, the receivers on another or the same.
    Cores(usize, usize),
}

/// Where the processes of a measurement run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Where the kernel likes.
    Free,
    /// All of them, an embedded daemon too, on this core.
    One(usize),
    /// Senders and receivers on these, a daemon where the kernel likes.
    Two(usize, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Free => "free",
            Self::One(_) => "one core",
            Self::Two(..) => "two cores",
        })
    }
}

/// A daemon that runs already.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How to connect.
    pub options: Options,
}

/// Everything that can be chosen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is done.
    pub modes: Vec<Mode>,
    /// Between what.
    pub layers: Vec<Layer>,
    /// Over which transports and primitives, by name; all if none is named.
    pub ways: Vec<String>,
    /// Daemons that run already, which are measured instead of an embedded one.
    pub running: Vec<Running>,
    /// Other servers to compare with.
    pub peers: Vec<Peer>,
    /// Bytes of messages.
    pub sizes: Vec<usize>,
    /// Pairs of processes at the same time.
    pub clients: usize,
    /// Receivers of [`Mode::Fanout`].
    pub subs: usize,
    /// Messages a second of [`Mode::Load`]; `None` for as many as go.
    pub rates: Vec<Option<f64>>,
    /// Whether these come at random times.
    pub is_poisson: bool,
    /// What is counted in a run.
    pub extent: Extent,
    /// What is not, before that.
    pub warmup: Duration,
    /// Runs of each measurement.
    pub runs: usize,
    /// Whether one run of everything follows another, rather than all runs of each.
    pub interleave: bool,
    /// Where processes run.
    pub pin: Pin,
    /// What bodies are taken from; any bytes if it is empty.
    pub payload: Rc<[u8]>,
    /// Whether bodies are compared with what was sent.
    pub has_crc: bool,
    /// Bytes that streams gather for one call; 1 for a call for each message.
    pub batch: usize,
    /// The time that everything may take, instead of `extent` and `warmup`.
    pub budget: Option<Duration>,
    /// Whether a reduced choice is made of sizes for round trips, and of ways for load and fan-out.
    pub is_matrix: bool,
    /// Work that is added to each message through the daemon, to try a comparison out.
    pub inject: Option<Duration>,
}

/// What the messages travel over.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Raw(Primitive),
    Lib(&'static str),
    Daemon(&'static str),
    Running(Running),
    Peer(Peer),
}

impl Way {
    pub(crate) fn layer(&self) -> Layer {
        match self {
            Self::Raw(_) => Layer::Raw,
            Self::Lib(_) => Layer::Lib,
            Self::Daemon(_) | Self::Running(_) => Layer::Daemon,
            Self::Peer(_) => Layer::Peer,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Raw(primitive) => primitive.name,
            Self::Lib(scheme) | Self::Daemon(scheme) => scheme,
            Self::Running(running) => running.endpoint.scheme(),
            Self::Peer(peer) => peer.name(),
        }
    }

    pub(crate) fn may_lose(&self) -> bool {
        match self {
            Self::Raw(primitive) => primitive.may_lose(),
            // What a slow receiver misses, most others drop.
            Self::Peer(peer) => !peer.is_ours(),
            way => ipcd_transports::find(way.name()).is_ok_and(|it| !it.capabilities().reliable),
        }
    }

    /// Whether what is sent arrives, rather than only wakes somebody.
    pub(crate) fn carries_payload(&self) -> bool {
        !matches!(self, Self::Raw(primitive) if !primitive.carries_payload())
    }

    pub(crate) fn largest(&self) -> Option<usize> {
        if let Self::Raw(primitive) = self { primitive.largest() } else { None }
    }

    /// Whether one message to it goes to several receivers.
    pub(crate) fn fans_out(&self) -> bool {
        match self {
            Self::Peer(peer) => peer.has_subjects(),
            way => way.layer() == Layer::Daemon,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) mode: Mode,
    pub(crate) way: Way,
    pub(crate) size: usize,
    pub(crate) pace: Option<Pace>,
    pub(crate) place: Place,
}

/// What cannot be measured, and why.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Skipped {
    /// What it would have been.
    pub mode: Mode,
    /// Between what.
    pub layer: Layer,
    /// Over what.
    pub transport: String,
    /// Bytes of a message.
    pub size: usize,
    /// Why not.
    pub why: String,
}
