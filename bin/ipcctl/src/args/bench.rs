//! The arguments of `bench`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipcd_server::TimeSpan;

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// The measurement to run.
    #[arg(default_value = "matrix", value_name = "MODE")]
    pub(crate) mode: BenchMode,
    /// Run fewer and shorter measurements: the matrix takes less than a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only these layers between sender and receiver [default: all].
    #[arg(long, value_delimiter = ',', value_name = "LAYER")]
    pub(crate) layer: Vec<BenchLayer>,
    /// Compare with these other servers, if they are installed.
    #[arg(long, value_delimiter = ',', value_name = "SERVER")]
    pub(crate) peers: Vec<BenchPeer>,
    /// Send messages of these sizes, of at least 32 bytes: 64, 1k, 1m.
    #[arg(long, value_delimiter = ',', default_value = "64,1k,64k", value_name = "BYTES")]
    pub(crate) size: Vec<SizeArg>,
    /// Run this many pairs of processes at the same time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) clients: u16,
    /// Run this many receivers for fanout.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) subs: u16,
    /// Send this many messages per second for load, or max [default: 1000,10000,100000].
    #[arg(long, value_delimiter = ',', value_name = "RATE")]
    pub(crate) rate: Vec<RateArg>,
    /// Space the messages of load in this way.
    #[arg(long, default_value = "uniform", value_name = "ARRIVALS")]
    pub(crate) arrivals: ArrivalPattern,
    /// Count for this long in each run, three times as long for load [default: 500ms; 30ms with a
    /// baseline].
    #[arg(long, value_name = "DURATION")]
    pub(crate) duration: Option<TimeSpan>,
    /// Count this many messages of each sender, instead of a time.
    #[arg(long, conflicts_with = "duration", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Warm up for this long before counting [default: 100ms; 5ms with a baseline].
    #[arg(long, value_name = "DURATION")]
    pub(crate) warmup: Option<TimeSpan>,
    /// Repeat each measurement this many times [default: 5; 3 with --quick; 120 with a baseline].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) runs: Option<u16>,
    /// Let all measurements take turns. By default only the layers of each kind do.
    #[arg(long)]
    pub(crate) interleave: bool,
    /// Pin processes to cores: auto (two cores; one for round trips), both (round trips on one core
    /// and on two), free (no pinning), or the core of senders and that of receivers, such as 0,1.
    #[arg(long, default_value = "auto", value_name = "CORES")]
    pub(crate) pin: PinArg,
    /// Delay each message through the daemon by this much work, to see whether --baseline finds it.
    #[arg(long, value_name = "DURATION")]
    pub(crate) inject: Option<TimeSpan>,
    /// Send the contents of this file, again and again.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload: Option<PathBuf>,
    /// Check this much of each message.
    #[arg(long, default_value = "seq", value_name = "LEVEL")]
    pub(crate) verify: VerifyLevel,
    /// Make a system call for each message. By default streams gather 64 KiB for one call.
    #[arg(long)]
    pub(crate) no_batch: bool,
    /// Write the report as JSON to this file. -j writes it to standard output.
    #[arg(long = "json", value_name = "FILE")]
    pub(crate) json_file: Option<PathBuf>,
    /// Write the report as CSV to this file, one line for each measurement.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the report as an HTML page with charts to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print Markdown tables.
    #[arg(long)]
    pub(crate) md: bool,
    /// Save the report as the baseline of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) save_baseline: Option<String>,
    /// Compare with the baseline of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: Option<String>,
    /// Exit with status 10 if a measurement differs from the baseline by more than this, and by more
    /// than chance: p99>+10%, rate<-5%.
    #[arg(long, requires = "baseline", value_name = "LIMIT")]
    pub(crate) fail_on: Vec<ipcd_bench::ChangeLimit>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchMode {
    /// Run all modes below, except selftest.
    Matrix,
    /// Measure round trips, one after the other.
    Pingpong,
    /// Send one way, as fast as possible.
    Throughput,
    /// Send one way at a fixed rate.
    Load,
    /// Send to several receivers.
    Fanout,
    /// Measure requests and replies through the daemon.
    Req,
    /// Check that the benchmark finds known differences; exit 10 if it does not.
    Selftest,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchLayer {
    /// The bare primitive, such as a socket.
    Raw,
    /// The transports of ipcd, without the daemon.
    Lib,
    /// Through the daemon.
    Daemon,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BenchPeer {
    /// socat, which moves bytes, not messages.
    Socat,
    /// nats-server.
    Nats,
    /// mosquitto.
    Mosquitto,
    /// redis-server, its publish and subscribe.
    Redis,
    /// A ZeroMQ forwarder, run by python3-zmq.
    Zeromq,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ArrivalPattern {
    /// At equal intervals.
    Uniform,
    /// At random intervals.
    Poisson,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum VerifyLevel {
    /// The number: finds messages that are lost, duplicated or out of order.
    Seq,
    /// The number, and a checksum of the bytes.
    Crc,
}

/// A number of bytes; k and m stand for 1024 and 1024².
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

/// Messages per second; `None` for as many as possible.
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

/// The cores of senders and receivers.
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
