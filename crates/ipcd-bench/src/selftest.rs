//! Checks that the benchmark detects faults of known length, loss, and known distributions.

use std::io;
use std::time::Duration;

use crate::children::InterruptSignals;
use crate::compare::Comparison;
use crate::format::time;
use crate::histogram::{self, LatencySummary};
use crate::measure::{COMPARED, measure};
use crate::plan::{
    BenchSettings, CorePin, CorePlacement, MeasureLayer, MeasureMode, RunExtent, SendPace,
};
use crate::report::{Report, ResultRow};
use crate::runner::{InjectedFaults, RunResult, Runner};
use crate::scratch::ScratchDir;
use crate::tally::MessageCounts;
use crate::target::{BenchTarget, Measurement};
use crate::{baseline, raw};

/// The length of a fault.
const STALL: Duration = Duration::from_millis(300);
/// The time before it.
const AFTER: Duration = Duration::from_millis(500);
/// The length of a measurement with a fault. It is short enough that the fault delays far more than
/// a thousandth of all messages.
const LENGTH: Duration = Duration::from_secs(3);
const WARMUP: Duration = Duration::from_millis(200);
/// Messages a second.
const RATE: f64 = 2000.0;
/// The least p99.9 under a fault. The delays of affected messages are spread evenly over its
/// length; a thousandth of all messages is 2 % of the affected ones.
const SEEN: Duration = Duration::from_millis(270);

/// The part of a round trip that is injected.
const INJECTED: f64 = 0.2;

/// The result of one check.
#[derive(Clone, Debug)]
pub struct SelfCheck {
    /// The checked property.
    pub what: &'static str,
    /// The measured value.
    pub found: String,
    /// Whether it is correct.
    pub is_right: bool,
}

/// All checks.
///
/// # Errors
/// If a measurement could not be made, or was interrupted.
pub fn selftest(settings: &BenchSettings) -> io::Result<Vec<SelfCheck>> {
    let interrupts = InterruptSignals::catch()?;
    let dir = ScratchDir::make()?;
    let load = |target| Measurement {
        mode: MeasureMode::Load,
        target,
        size: settings.sizes[0],
        pace: Some(SendPace { rate: Some(RATE), is_poisson: settings.is_poisson }),
        place: CorePlacement::Free,
    };
    let (daemon, unix) =
        (load(BenchTarget::Daemon("unix")), load(BenchTarget::Raw(raw::find("unix"))));
    let flood = Measurement {
        mode: MeasureMode::Throughput,
        pace: None,
        ..load(BenchTarget::Raw(raw::find("udp")))
    };
    let measurements = [daemon.clone()];
    let mut runner = Runner::new(settings, dir.path(), &interrupts, &measurements)?;
    let trial = trial_settings(settings);
    let base = measure(&trial, &mut |_| {})?;
    let slowed = BenchSettings { inject: Some(part_of_a_round_trip(&base)?), ..trial.clone() };
    let mut run = |measurement: &Measurement, faults| {
        runner.run(measurement, RunExtent::Time(LENGTH), WARMUP, faults)
    };
    let stop = InjectedFaults { stop: Some((WARMUP + AFTER, STALL)), ..InjectedFaults::default() };
    let stall = InjectedFaults { stall: Some((AFTER, STALL)), ..InjectedFaults::default() };
    Ok(vec![
        detects_fault("the daemon stopped for 300 ms", &run(&daemon, stop)?),
        detects_fault("the receiver stalled for 300 ms", &run(&unix, stall)?),
        reports_loss(&run(&flood, stall)?),
        knows_an_exponential_distribution(),
        finds_nothing_where_nothing_is(&base, &measure(&trial, &mut |_| {})?),
        finds_what_was_injected(&base, &measure(&slowed, &mut |_| {})?),
    ])
}

fn detects_fault(what: &'static str, run: &RunResult) -> SelfCheck {
    let p999 = Duration::from_nanos(run.latency.open().value_at_quantile(0.999));
    let service = Duration::from_nanos(run.service.open().value_at_quantile(0.5));
    let MessageCounts { sent, lost, .. } = run.counts;
    SelfCheck {
        what,
        found: format!(
            "response p99.9 {p999:.1?}, service p50 {service:.1?}, {lost} of {sent} lost"
        ),
        is_right: p999 >= SEEN && lost == 0,
    }
}

/// Round trips as they are compared.
fn trial_settings(settings: &BenchSettings) -> BenchSettings {
    let (runs, duration, warmup) = COMPARED;
    BenchSettings {
        modes: vec![MeasureMode::Pingpong],
        layers: vec![MeasureLayer::Raw, MeasureLayer::Daemon],
        targets: vec!["unix".to_owned()],
        extent: RunExtent::Time(duration),
        sizes: settings.sizes[..1].to_vec(),
        runs,
        warmup,
        running: Vec::new(),
        peers: Vec::new(),
        clients: 1,
        pin: CorePin::Auto,
        budget: None,
        inject: None,
        ..settings.clone()
    }
}

fn part_of_a_round_trip(report: &Report) -> io::Result<Duration> {
    let rows = report.results.iter();
    let mut p50s =
        rows.filter(|row| row.key.layer == MeasureLayer::Daemon).filter_map(ResultRow::figure);
    let p50 = p50s.next().ok_or_else(|| io::Error::other("no round trip was measured"))?;
    Ok(Duration::from_nanos((p50.median * INJECTED) as u64))
}

fn finds_nothing_where_nothing_is(then: &Report, now: &Report) -> SelfCheck {
    compares("two equal measurements, with p50>+10%", then, now, false)
}

fn finds_what_was_injected(then: &Report, now: &Report) -> SelfCheck {
    compares("a fifth of a round trip more, with p50>+10%", then, now, true)
}

fn compares(what: &'static str, then: &Report, now: &Report, is_worse: bool) -> SelfCheck {
    let limit = "p50>+10%".parse().expect("that is a limit");
    let comparison = Comparison::of("before", then, now);
    let is_broken = !baseline::broken(&comparison, &[limit]).is_empty();
    let p50 = comparison.changes.iter().find(|change| change.is_judged && change.metric == "p50");
    SelfCheck {
        what,
        found: p50.map_or_else(|| "nothing to compare".to_owned(), ToString::to_string),
        is_right: p50.is_some() && is_broken == is_worse,
    }
}

/// A receiver that does not read during a flood over bare UDP must lose messages, and sent must
/// equal received plus lost.
fn reports_loss(run: &RunResult) -> SelfCheck {
    let MessageCounts { sent, received, lost, .. } = run.counts;
    SelfCheck {
        what: "a receiver over bare UDP stalled under a flood",
        found: format!("{lost} of {sent} messages reported lost, {received} counted"),
        is_right: lost > 0 && sent == received + lost,
    }
}

/// The exponential distribution: its σ is its mean m, and its quantile q is −m · ln(1 − q).
fn knows_an_exponential_distribution() -> SelfCheck {
    const MEAN: f64 = 50_000.0;
    const SAMPLES: u32 = 1_000_000;
    let mut histogram = histogram::empty();
    for sample in 0..SAMPLES {
        let quantile = (f64::from(sample) + 0.5) / f64::from(SAMPLES);
        histogram.saturating_record((-(1.0 - quantile).ln() * MEAN).round() as u64);
    }
    let latency = LatencySummary::of(&histogram).unwrap_or_default();
    let is_near = |is: u64, should: f64| (is as f64 / should - 1.0).abs() < 0.005;
    let mut is_right = is_near(latency.mean, MEAN) && is_near(latency.stdev, MEAN);
    for (name, quantile) in histogram::PERCENTILES {
        let should = -(1.0 - quantile).ln() * MEAN;
        is_right &= latency.percentile(name).is_some_and(|is| is_near(is, should));
    }
    let shown = |is: u64| time(is as f64);
    let told = histogram::PERCENTILES.iter().filter_map(|(name, _)| {
        latency.percentile(name).map(|is| format!(", {name} {}", shown(is)))
    });
    let (mean, sigma, told) = (shown(latency.mean), shown(latency.stdev), told.collect::<String>());
    SelfCheck {
        what: "an exponential distribution of mean 50 µs",
        found: format!("mean {mean}, σ {sigma}{told}"),
        is_right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_distribution_is_known() {
        let check = knows_an_exponential_distribution();
        assert!(check.is_right, "{check:?}");
    }
}
