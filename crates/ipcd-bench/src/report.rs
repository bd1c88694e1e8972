//! The report: the schema `ipcd-bench/1`, described in `docs/bench-json.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::Comparison;
use crate::environment::Environment;
use crate::histogram::LatencySummary;
use crate::job::Timeline;
use crate::plan::{
    CorePlacement, MeasureLayer, MeasureMode, RunExtent, SendPace, SkippedMeasurement,
};
use crate::stats::Estimate;
use crate::tally::MessageCounts;
use crate::usage::ResourceUsage;

/// The schema that this code writes and reads.
pub const SCHEMA: &str = "ipcd-bench/1";
/// The transport of other servers.
pub(crate) const PEERS_OVER: &str = "tcp";

/// Everything that was measured, and where.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The machine and the program.
    pub environment: Environment,
    /// The length of runs.
    pub run: RunLength,
    /// One for each measurement.
    pub results: Vec<ResultRow>,
    /// Measurements that were not possible.
    pub skipped: Vec<SkippedMeasurement>,
    /// Reasons to doubt the whole report.
    pub warnings: Vec<String>,
    /// The changes since an earlier report, if there is one.
    #[serde(default)]
    pub comparison: Option<Comparison>,
}

/// The length of runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunLength {
    /// The counted part of a run.
    pub extent: RunExtent,
    /// The warm-up before it, in ns.
    pub warmup_ns: u64,
    /// Runs of each measurement.
    pub runs: usize,
    /// Whether the runs of different measurements took turns.
    pub interleaved: bool,
    /// Bytes that streams gather for a call when nothing waits.
    pub batch_bytes: usize,
    /// Nanoseconds of a step of the timelines.
    pub timeline_step_ns: u64,
}

/// One measurement, of several runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ResultRow {
    /// The identity of the measurement.
    #[serde(flatten)]
    pub key: MeasurementKey,
    /// The placement of its processes.
    pub place: CorePlacement,
    /// The rate; `null` for as fast as possible.
    pub pace: Option<SendPace>,
    /// Messages a second, at the receivers.
    pub messages_per_s: Estimate,
    /// Bytes of messages a second, at the receivers.
    pub bytes_per_s: Estimate,
    /// Messages a second that were sent, times the receivers of each.
    pub sent_per_s: Estimate,
    /// Bytes of messages a second that were sent, times the receivers of each.
    #[serde(default)]
    pub sent_bytes_per_s: Estimate,
    /// Whether less than 99 % of the rate was achieved.
    pub saturated: bool,
    /// From the time at which a message should have been sent; there and back for round trips. All
    /// runs together.
    pub latency: Option<LatencySummary>,
    /// From the time at which it was sent.
    pub service: Option<LatencySummary>,
    /// Medians of runs of the mean and of each percentile that most runs have, in ns.
    pub latency_runs: BTreeMap<String, Estimate>,
    /// The same figures and the `rate` of every run, in their order; `null` where a run had too few
    /// samples. Runs of the same number of different layers were neighbours in time.
    #[serde(default)]
    pub rounds: BTreeMap<String, Vec<Option<f64>>>,
    /// The counts of all runs.
    pub counts: MessageCounts,
    /// The resources that the measuring processes used in all runs.
    pub clients_used: ResourceUsage,
    /// The resources that the daemon's processes used, where the kernel tells.
    pub daemon: Option<ResourceUsage>,
    /// The first run, step by step.
    pub timeline: Timeline,
    /// Reasons to doubt it.
    pub warnings: Vec<String>,
}

/// The identity of a measurement.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MeasurementKey {
    /// The mode.
    pub mode: MeasureMode,
    /// The layer.
    pub layer: MeasureLayer,
    /// The transport or primitive.
    pub transport: String,
    /// Bytes of a message.
    pub size: usize,
    /// Pairs of processes.
    pub clients: usize,
    /// Receivers of each message.
    pub subs: usize,
    /// `one core`, `two cores` or `free`.
    pub cores: String,
    /// The rate asked for, as text: `max` for as many as go; nothing where none was asked for.
    pub rate: Option<String>,
}

impl Report {
    /// The same measurement with another layer between.
    pub fn sibling(&self, row: &ResultRow, layer: MeasureLayer) -> Option<&ResultRow> {
        let key = MeasurementKey { layer, ..row.key.clone() };
        self.results.iter().find(|other| other.key == key)
    }

    /// The daemon's difference and ratio to the bare primitive, in the unit of
    /// [`ResultRow::figure`].
    pub fn daemon_tax(&self, row: &ResultRow) -> Option<DaemonTax> {
        if row.key.layer != MeasureLayer::Daemon {
            return None;
        }
        let (raw, daemon) = (self.yardstick(row)?.figure()?.median, row.figure()?.median);
        Some(DaemonTax { raw, daemon, ratio: daemon / raw })
    }

    /// The bare primitive that was measured beside it. For requests that is a round trip, for other
    /// servers the transport that they are reached over.
    pub fn yardstick(&self, row: &ResultRow) -> Option<&ResultRow> {
        let MeasurementKey { mode, layer, transport, .. } = &row.key;
        if *layer == MeasureLayer::Raw {
            return None;
        }
        let mode = if *mode == MeasureMode::Req { MeasureMode::Pingpong } else { *mode };
        let transport = if *layer == MeasureLayer::Peer { PEERS_OVER } else { transport };
        let key = MeasurementKey {
            mode,
            layer: MeasureLayer::Raw,
            transport: transport.to_owned(),
            ..row.key.clone()
        };
        self.results.iter().find(|other| other.key == key)
    }
}

/// A daemon's figure beside that of its bare primitive.
#[derive(Clone, Copy, Debug)]
pub struct DaemonTax {
    /// The primitive's figure.
    pub raw: f64,
    /// The daemon's.
    pub daemon: f64,
    /// Daemon divided by raw.
    pub ratio: f64,
}

impl ResultRow {
    /// The most telling figure: the median latency in ns, or messages a second.
    pub fn figure(&self) -> Option<&Estimate> {
        if self.key.mode.has_latency() {
            self.latency_runs.get("p50")
        } else {
            Some(&self.messages_per_s)
        }
    }
}

impl std::fmt::Display for MeasurementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, layer, transport, size, cores, .. } = self;
        let word = |it: &dyn std::fmt::Debug| format!("{it:?}").to_lowercase();
        write!(f, "{} {} {transport} {size} B, {cores}", word(mode), word(layer))?;
        self.rate.as_ref().map_or(Ok(()), |rate| write!(f, ", {rate}/s"))
    }
}
