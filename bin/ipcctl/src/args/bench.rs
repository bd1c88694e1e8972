//! What users type to measure.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipcd_server::Span;

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// What to do.
    #[arg(default_value = "matrix", value_name = "MODE")]
    pub(crate) mode: BenchMode,
    /// Shorter and fewer runs: the matrix in less than a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// What stands between sender and receiver; all if none is given.
    #[arg(long, value_delimiter = ',', value_name = "LAYER")]
    pub(crate) layer: Vec<BenchLayer>,
    /// Other servers to compare with, if they are installed.
    #[arg(long, value_delimiter = ',', value_name = "SERVER")]
    pub(crate) peers: Vec<BenchPeer>,
    /// Bytes of a message, at least 32: 64, 1k, 1m.
    #[arg(long, value_delimiter = ',', default_value = "64,1k,64k", value_name = "BYTES")]
    pub(crate) size: Vec<SizeArg>,
    /// Pairs of processes at the same time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) clients: u16,
    /// Receivers of fan-out.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) subs: u16,
    /// Messages a second for load, or max; 1000, 10000 and 100000 if none is given.
    #[arg(long, value_delimiter = ',', value_name = "RATE")]
    pub(crate) rate: Vec<RateArg>,
    /// How the messages of load follow each other.
    #[arg(long, default_value = "uniform", value_name = "ARRIVALS")]
    pub(crate) arrivals: ArrivalPattern,
    /// Count for so long in each run (load: three times as long); 500ms, or 30ms with a baseline.
    #[arg(long, value_name = "DURATION")]
    pub(crate) duration: Option<Span>,
    /// Count so many messages of each sender instead.
    #[arg(long, conflicts_with = "duration", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Run for so long before anything is counted; 100ms, or 5ms with a baseline.
    #[arg(long, value_name = "DURATION")]
    pub(crate) warmup: Option<Span>,
    /// Runs of each measurement; 5, or 3 with --quick, or 120 with a baseline.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) runs: Option<u16>,
    /// Let all measurements take turns, instead of only the layers of each kind.
    #[arg(long)]
    pub(crate) interleave: bool,
    /// Where to run: auto (two cores, but round trips on one), both (round trips on one core and on
    /// two), free, or the senders' core and the receivers' core, as in 0,1.
    #[arg(long, default_value = "auto", value_name = "CORES")]
    pub(crate) pin: PinArg,
    /// Add so much work to each message through the daemon: what would --baseline find?
    #[arg(long, value_name = "DURATION")]
    pub(crate) inject: Option<Span>,
    /// Send what this file holds, again and again.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload: Option<PathBuf>,
    /// What is checked of each message: its number, or its bytes too.
    #[arg(long, default_value = "seq", value_name = "WHAT")]
    pub(crate) verify: VerifyLevel,
    /// A call for each message, where streams otherwise gather 64 KiB for one.
    #[arg(long)]
    pub(crate) no_batch: bool,
    /// Write the whole report as JSON to a file; -j writes it to standard output.
    #[arg(long = "json", value_name = "FILE")]
    pub(crate) json_file: Option<PathBuf>,
    /// Write a line for each measurement to a CSV file.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write a page with charts, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print Markdown instead of tables for a terminal.
    #[arg(long)]
    pub(crate) md: bool,
    /// Keep the report under this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) save_baseline: Option<String>,
    /// Compare with what was kept under this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: Option<String>,
    /// End with exit status 10 if this holds of any measurement, compared with the baseline, and is
    /// more than chance: p99>+10%, rate<-5%.
    #[arg(long, requires = "baseline", value_name = "LIMIT")]
    pub(crate) fail_on: Vec<ipcd_bench::ChangeLimit>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchMode {
    /// All of the modes below but selftest.
    Matrix,
    /// Round trips, one after the other.
    Pingpong,
    /// One way, as fast as it goes.
    Throughput,
    /// One way at a rate, whatever comes of it.
    Load,
    /// One sender, several receivers.
    Fanout,
    /// Requests and replies of the daemon.
    Req,
    /// Check that the benchmark sees what it has to see; exit status 10 if it does not.
    Selftest,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchLayer {
    /// The bare primitive.
    Raw,
    /// The transports of ipcd, without the daemon.
    Lib,
    /// The daemon.
    Daemon,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchPeer {
    /// socat, which moves bytes and knows no messages.
    Socat,
    /// nats-server.
    Nats,
    /// mosquitto.
    Mosquitto,
    /// redis-server, its publish and subscribe.
    Redis,
    /// A forwarder of ZeroMQ, which python3-zmq runs.
    Zeromq,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ArrivalPattern {
    /// At equal distances.
    Uniform,
    /// At random.
    Poisson,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum VerifyLevel {
    /// Numbers: what is lost, doubled or out of turn.
    Seq,
    /// And a checksum of the bytes.
    Crc,
}

/// Bytes: a number, with k or m for 1024 or 1024² times as many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SizeArg(pub(crate) usize);

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (digits, shift) = match lower.as_bytes().last() {
            Some(b'k') => (&lower[..lower.len() - 1], 10),
            Some(b'm') => (&lower[..lower.len() - 1], 20),
            _ => (&lower[..], 0),
        };
        let number: usize = digits.parse().map_err(|_| "write 64, 1k or 1m".to_owned())?;
        let bytes = number.checked_mul(1 << shift).filter(|bytes| (32..=1 << 20).contains(bytes));
        bytes.map(Self).ok_or_else(|| "from 32 bytes to 1m".to_owned())
    }
}

/// Messages a second; as many as go if there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateArg(pub(crate) Option<f64>);

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self(None));
        }
        let rate: f64 = text.parse().map_err(|_| "write a number or max".to_owned())?;
        let is_sound = rate.is_finite() && rate > 0.0 && rate <= 1e9;
        is_sound.then_some(Self(Some(rate))).ok_or_else(|| "from above 0 to 1e9".to_owned())
    }
}

/// Where processes run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PinArg(pub(crate) ipcd_bench::CorePin);

impl FromStr for PinArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use ipcd_bench::CorePin;
        let core = |text: &str| text.parse::<usize>().map_err(|_| "write auto, both, free or 0,1");
        Ok(Self(match text.split_once(',') {
            Some((near, far)) => CorePin::Cores(core(near)?, core(far)?),
            None if text == "auto" => CorePin::Auto,
            None if text == "both" => CorePin::Both,
            None if text == "free" => CorePin::Free,
            None => return Err("write auto, both, free or 0,1".to_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_rates_and_cores() {
        use ipcd_bench::CorePin;
        let size = |text: &str| text.parse::<SizeArg>().ok().map(|size| size.0);
        assert_eq!(["64", "1k", "64K", "1m"].map(size), [64, 1024, 65536, 1 << 20].map(Some));
        assert_eq!(["31", "2m", "k", "1g", ""].map(size), [None; 5]);
        assert_eq!("max".parse(), Ok(RateArg(None)));
        assert_eq!("2.5e3".parse(), Ok(RateArg(Some(2500.0))));
        assert!(
            ["0", "-1", "nan", "inf", "fast"].iter().all(|text| text.parse::<RateArg>().is_err())
        );
        assert_eq!("0,1".parse(), Ok(PinArg(CorePin::Cores(0, 1))));
        assert_eq!("both".parse(), Ok(PinArg(CorePin::Both)));
        assert!("0".parse::<PinArg>().is_err());
    }
}
