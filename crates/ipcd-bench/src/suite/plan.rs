//! What is measured: modes, layers, ways, sizes, and where processes run.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ipcd_client::{Endpoint, Options};
use ipcd_transport::Transport;
use serde::{Deserialize, Serialize};

use super::message::LEAST;
use super::peers::Peer;
use super::raw::{self, Primitive};

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
    /// On two cores; round trips also on one.
    Auto,
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
            // What a slow receiver misses, most of them drop.
            Self::Peer(_) => true,
            way => ipcd_transports::find(way.name()).is_ok_and(|it| !it.capabilities().reliable),
        }
    }

    /// Whether what is sent arrives, rather than only wakes somebody.
    pub(crate) fn carries_payload(&self) -> bool {
        !matches!(self, Self::Raw(primitive) if !primitive.carries_payload())
    }

    fn largest(&self) -> Option<usize> {
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

/// All measurements, and what cannot be measured.
///
/// # Errors
/// If a way is named that does not exist; the error names those that do.
pub(crate) fn cells(
    settings: &Settings,
    cores: &[usize],
) -> Result<(Vec<Cell>, Vec<Skipped>), String> {
    let (mut cells, mut skipped) = (Vec::new(), Vec::new());
    let ways = ways(settings)?;
    for &mode in &settings.modes {
        for way in ways.iter().filter(|way| suits(settings, mode, way)) {
            for &size in sizes(settings, mode, way) {
                if let Some(limit) = way.largest().filter(|&limit| size > limit) {
                    let why = format!("a message holds at most {limit} bytes");
                    let (layer, transport) = (way.layer(), way.name().to_owned());
                    skipped.push(Skipped { mode, layer, transport, size, why });
                    continue;
                }
                for place in places(settings.pin, mode, cores) {
                    for pace in paces(settings, mode) {
                        cells.push(Cell { mode, way: way.clone(), size, pace, place });
                    }
                }
            }
        }
    }
    Ok((cells, skipped))
}

fn ways(settings: &Settings) -> Result<Vec<Way>, String> {
    let all = ipcd_transports::ALL;
    let known: Vec<&str> = all
        .map(Transport::scheme)
        .into_iter()
        .chain(raw::ALL.iter().map(|it| it.name).filter(|name| !is_scheme(name)))
        .collect();
    if let Some(unknown) = settings.ways.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("there is no {unknown}: choose of {}", known.join(", ")));
    }
    // What needs more than a place to listen at is measured on a daemon that runs.
    let default = |transport: &dyn Transport| transport.default_endpoint(Path::new("/"));
    let is_running = |name: &str| settings.running.iter().any(|it| it.endpoint.scheme() == name);
    let is_asked = |name: &str| settings.ways.iter().any(|it| it == name) && !is_running(name);
    for transport in all.into_iter().filter(|it| is_asked(it.scheme())) {
        default(transport).map_err(|error| error.to_string())?;
    }
    let schemes =
        || all.into_iter().filter(|&it| default(it).is_ok()).map(|transport| transport.scheme());
    let is_wanted =
        |name: &str| settings.ways.is_empty() || settings.ways.iter().any(|it| it == name);
    let mut ways = Vec::new();
    for layer in &settings.layers {
        match layer {
            Layer::Raw => {
                ways.extend(raw::ALL.into_iter().filter(|it| is_wanted(it.name)).map(Way::Raw));
            }
            Layer::Lib => ways.extend(schemes().filter(|it| is_wanted(it)).map(Way::Lib)),
            Layer::Daemon if settings.running.is_empty() => {
                ways.extend(schemes().filter(|it| is_wanted(it)).map(Way::Daemon));
            }
            Layer::Daemon => ways.extend(settings.running.iter().cloned().map(Way::Running)),
            Layer::Peer => {}
        }
    }
    ways.extend(settings.peers.iter().copied().map(Way::Peer));
    Ok(ways)
}

fn is_scheme(name: &str) -> bool {
    ipcd_transports::find(name).is_ok()
}

/// Whether the mode makes sense over it, and is not left out of the matrix for the time it takes.
fn suits(settings: &Settings, mode: Mode, way: &Way) -> bool {
    if let Way::Raw(primitive) = way {
        let is_left_out = settings.is_matrix && !matches!(primitive.name, "unix" | "tcp");
        return match mode {
            Mode::Pingpong => true,
            Mode::Req => false,
            Mode::Throughput => primitive.carries_payload(),
            Mode::Load | Mode::Fanout => primitive.carries_payload() && !is_left_out,
        };
    }
    if let Way::Peer(peer) = way {
        return match mode {
            Mode::Req => false,
            Mode::Fanout => peer.has_subjects(),
            Mode::Pingpong | Mode::Throughput | Mode::Load => true,
        };
    }
    match mode {
        Mode::Req => way.layer() == Layer::Daemon,
        Mode::Load | Mode::Fanout => way.layer() == Layer::Daemon || !settings.is_matrix,
        Mode::Pingpong | Mode::Throughput => true,
    }
}

/// Round trips of the quick matrix, and all modes but throughput, take the first size only. Signals
/// have none.
fn sizes<'a>(settings: &'a Settings, mode: Mode, way: &Way) -> &'a [usize] {
    if !way.carries_payload() {
        return &[LEAST];
    }
    let is_one = settings.is_matrix
        && match mode {
            Mode::Throughput => false,
            Mode::Pingpong => settings.budget.is_some(),
            Mode::Load | Mode::Fanout | Mode::Req => true,
        };
    if is_one { &settings.sizes[..1] } else { &settings.sizes }
}

fn places(pin: Pin, mode: Mode, cores: &[usize]) -> Vec<Place> {
    match (pin, cores) {
        (Pin::Free, _) => vec![Place::Free],
        (Pin::Cores(near, far), _) if near == far => vec![Place::One(near)],
        (Pin::Cores(near, far), _) => vec![Place::Two(near, far)],
        (Pin::Auto, &[first, second, ..]) if mode.is_two_way() => {
            vec![Place::One(first), Place::Two(first, second)]
        }
        (Pin::Auto, &[first, second, ..]) => vec![Place::Two(first, second)],
        (Pin::Auto, &[only]) => vec![Place::One(only)],
        (Pin::Auto, []) => vec![Place::Free],
    }
}

fn paces(settings: &Settings, mode: Mode) -> Vec<Option<Pace>> {
    if mode != Mode::Load {
        return vec![None];
    }
    let is_poisson = settings.is_poisson;
    let pace = |&rate: &Option<f64>| Some(Pace { rate, is_poisson });
    settings.rates.iter().map(pace).collect()
}
