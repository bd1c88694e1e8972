//! The command line of the benchmark, after `cargo bench -p ipcd-bench --`.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use super::contender::Via;
use super::load::LoadShape;

/// Measures the daemon's relaying beside a bare byte relay and a yardstick.
#[derive(Clone, Debug, Parser)]
#[command(name = "relay")]
pub struct DataPathOptions {
    /// Given by `cargo bench`; without it nothing is measured.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Fewer and shorter rounds.
    #[arg(long)]
    pub quick: bool,
    /// Only check that nothing is lost.
    #[arg(long)]
    pub smoke: bool,
    /// Count system calls and allocations of the daemon instead of measuring.
    #[arg(long)]
    pub count: bool,
    /// Measure the round trip of a request instead.
    #[arg(long)]
    pub round_trip: bool,
    /// Measure how fast peers come and go instead, over unix.
    #[arg(long)]
    pub connect: bool,
    /// Measure messages to 1,000 subjects instead, over unix, with and without 100,000
    /// subscriptions to others, of which one in ten has a wildcard.
    #[arg(long)]
    pub crowd: bool,
    /// Subscribers, each of which gets every message.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub subscribers: u32,
    /// Write each message by itself instead of as many as fit 64 KiB.
    #[arg(long)]
    pub single: bool,
    /// Measure `ipcctl relay --raw` beside socat instead.
    #[arg(long)]
    pub relay: bool,
    /// Rounds of each server.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Which cores the processes run on.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["one", "all"])]
    pub cores: Vec<CoreChoice>,
    /// Transports; unix and tcp if none is given, and unix with --round-trip.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub via: Vec<Via>,
    /// Bytes of a payload; 64, 1024 and 65536 if none is given, and 64 with --round-trip. With
    /// --relay: bytes of each write, 65536 if none is given.
    #[arg(long, value_name = "BYTES", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub payload: Vec<u32>,
}

impl DataPathOptions {
    /// The transports and payload sizes to measure.
    pub(super) fn loads(&self) -> impl Iterator<Item = (Via, usize)> {
        let (vias, payloads): (&[Via], &[u32]) = match (self.round_trip, self.relay) {
            (true, _) => (&[Via::Unix], &[64]),
            (_, true) => (&[Via::Unix, Via::Tcp], &[65536]),
            _ => (&[Via::Unix, Via::Tcp], &[64, 1024, 65536]),
        };
        let vias = if self.via.is_empty() { vias } else { &self.via };
        let payloads = if self.payload.is_empty() { payloads } else { &self.payload };
        let with = |&via| payloads.iter().map(move |&bytes| (via, bytes as usize));
        vias.iter().flat_map(with)
    }

    /// A load of the shape that is asked for.
    pub(super) fn load(&self, payload: usize, count: u64) -> LoadShape {
        let (subscribers, is_single) = (self.subscribers as usize, self.single);
        LoadShape { subscribers, is_single, ..LoadShape::plain(payload, count) }
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 11 })
    }

    /// Connections of a round.
    pub(super) fn connects(&self) -> u32 {
        if self.quick { 500 } else { 4000 }
    }

    /// Round trips of a round.
    pub(super) fn trips(&self) -> u64 {
        if self.quick { 1000 } else { 5000 }
    }

    /// Bytes of a round of the relay.
    pub(super) fn relayed(&self) -> u64 {
        if self.quick { 512 << 20 } else { 4 << 30 }
    }

    /// The least duration of the fastest round.
    pub(super) fn round_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 500 })
    }
}

/// The placement of the processes. On one core only work counts, and figures hardly vary. On all
/// cores the kernel places and wakes processes as it does for users, and figures vary more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CoreChoice {
    /// All of them on the same.
    One,
    /// The kernel chooses.
    All,
}
