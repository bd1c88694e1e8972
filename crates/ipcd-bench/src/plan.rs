//! The choices of a measurement: modes, layers, sizes, rates and cores.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ipcd_client::{Endpoint, Options};
use serde::{Deserialize, Serialize};

/// The kinds of measurement.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasureMode {
    /// Round trips, one after the other.
    Pingpong,
    /// One way, as fast as it goes.
    Throughput,
    /// One way, at a rate that does not depend on the receiver.
    Load,
    /// One sender, several receivers of everything.
    Fanout,
    /// Requests and replies of the daemon, one after the other.
    Req,
}

impl MeasureMode {
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

/// The software between the two processes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasureLayer {
    /// The bare primitive.
    Raw,
    /// The transport crates of ipcd, without a daemon.
    Lib,
    /// ipcd.
    Daemon,
    /// Another server.
    Peer,
}

impl MeasureLayer {
    /// All of them but other servers, which are there on request.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Lib, Self::Daemon];
}

/// The length of a run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunExtent {
    /// A duration.
    Time(Duration),
    /// A number of messages.
    Count(u64),
}

/// The times at which messages are sent.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct SendPace {
    /// Messages a second; `None` for as many as possible.
    pub rate: Option<f64>,
    /// Whether they are sent at random times rather than at equal distances.
    pub is_poisson: bool,
}

/// The wanted placement of processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CorePin {
    /// On two cores; round trips on one, since there a wake-up crosses no core.
    Auto,
    /// Round trips on one core and on two.
    Both,
    /// Free choice of the kernel.
    Free,
    /// The senders on one core, the receivers on another or the same.
    Cores(usize, usize),
}

/// The placement of a measurement's processes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CorePlacement {
    /// Free choice of the kernel.
    Free,
    /// All of them, an embedded daemon too, on this core.
    One(usize),
    /// Senders and receivers on these, a daemon where the kernel likes.
    Two(usize, usize),
}

impl fmt::Display for CorePlacement {
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
pub struct RunningDaemon {
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// The options of each connection.
    pub options: Options,
}

/// All settings of a benchmark.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// The kinds of measurement.
    pub modes: Vec<MeasureMode>,
    /// The layers to measure.
    pub layers: Vec<MeasureLayer>,
    /// Over which transports and primitives, by name; all if none is named.
    pub targets: Vec<String>,
    /// Daemons that run already, which are measured instead of an embedded one.
    pub running: Vec<RunningDaemon>,
    /// Other servers to compare with.
    pub peers: Vec<OtherServer>,
    /// Bytes of messages.
    pub sizes: Vec<usize>,
    /// Pairs of processes at the same time.
    pub clients: usize,
    /// Receivers of [`MeasureMode::Fanout`].
    pub subs: usize,
    /// Messages a second of [`MeasureMode::Load`]; `None` for as many as possible.
    pub rates: Vec<Option<f64>>,
    /// Whether these come at random times.
    pub is_poisson: bool,
    /// The counted part of a run.
    pub extent: RunExtent,
    /// The warm-up before it.
    pub warmup: Duration,
    /// Runs of each measurement.
    pub runs: usize,
    /// Whether one run of everything follows another, rather than all runs of each.
    pub interleave: bool,
    /// The placement of processes.
    pub pin: CorePin,
    /// The bytes that bodies repeat; any bytes if it is empty.
    pub payload: Rc<[u8]>,
    /// Whether the checksum of each body is compared.
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

/// A measurement that was not possible, and the reason.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SkippedMeasurement {
    /// Its mode.
    pub mode: MeasureMode,
    /// The layers to measure.
    pub layer: MeasureLayer,
    /// Its transport or primitive.
    pub transport: String,
    /// The size in bytes.
    pub size: usize,
    /// The reason.
    pub why: String,
}

/// A server that is compared.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtherServer {
    /// ipcd over a Unix socket.
    IpcdUnix,
    /// ipcd over TCP, as the others are.
    IpcdTcp,
    /// ipcd as clients of NATS see it.
    IpcdNats,
    /// socat, which moves bytes between two connections and knows no messages.
    Socat,
    /// nats-server.
    Nats,
    /// mosquitto, over MQTT.
    Mosquitto,
    /// redis-server, its publish and subscribe.
    Redis,
    /// libzmq, which has no server: its forwarder, run by python3-zmq.
    Zeromq,
}

impl OtherServer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IpcdUnix => "ipcd-unix",
            Self::IpcdTcp => "ipcd-tcp",
            Self::IpcdNats => "ipcd-nats",
            Self::Socat => "socat",
            Self::Nats => "nats",
            Self::Mosquitto => "mosquitto",
            Self::Redis => "redis",
            Self::Zeromq => "zeromq",
        }
    }

    /// Whether it is ipcd, which is always there and loses nothing.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::IpcdUnix | Self::IpcdTcp | Self::IpcdNats)
    }

    /// Whether it has subjects, and so sends one message to several receivers.
    pub(crate) fn has_subjects(self) -> bool {
        self != Self::Socat
    }
}

/// An error about settings that make no sense.
pub(crate) fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
