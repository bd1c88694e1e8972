//! A row of the report from the runs of one measurement.

use std::collections::BTreeMap;

use crate::histogram::{self, LatencySummary, PERCENTILES};
use crate::plan::{BenchSettings, CorePlacement, MeasureMode};
use crate::report::{MeasurementKey, ResultRow};
use crate::runner::RunResult;
use crate::stats::Estimate;
use crate::tally::MessageCounts;
use crate::target::{BenchTarget, Measurement};
use crate::usage::ResourceUsage;

/// The part of a rate below which it was not achieved.
const ACHIEVED: f64 = 0.99;
/// The part of all runs that need enough samples for a percentile to be reported.
const TOLD: f64 = 0.75;

pub(crate) fn measurement_key(
    settings: &BenchSettings,
    measurement: &Measurement,
) -> MeasurementKey {
    let rate =
        measurement.pace.map(|pace| pace.rate.map_or("max".to_owned(), |rate| rate.to_string()));
    MeasurementKey {
        mode: measurement.mode,
        layer: measurement.target.layer(),
        transport: measurement.target.name().to_owned(),
        size: if measurement.target.carries_payload() { measurement.size } else { 0 },
        clients: if measurement.mode == MeasureMode::Fanout { 1 } else { settings.clients },
        subs: if measurement.mode == MeasureMode::Fanout { settings.subs } else { 1 },
        cores: measurement.place.to_string(),
        rate,
    }
}

pub(crate) fn result_row(
    settings: &BenchSettings,
    measurement: &Measurement,
    runs: &[RunResult],
) -> ResultRow {
    let estimate = |figure: &dyn Fn(&RunResult) -> f64| {
        Estimate::of(runs.iter().map(figure).collect()).expect("there is a run")
    };
    let (mut latency, mut service) = (histogram::empty(), histogram::empty());
    let (mut counts, mut clients) = (MessageCounts::default(), ResourceUsage::default());
    let mut daemon: Option<ResourceUsage> = None;
    for run in runs {
        latency.add(run.latency.open()).expect("all histograms have the same bounds");
        service.add(run.service.open()).expect("all histograms have the same bounds");
        counts.add(&run.counts);
        clients.add(&run.clients);
        run.daemon.iter().for_each(|used| daemon.get_or_insert_default().add(used));
    }
    let key = measurement_key(settings, measurement);
    let messages_per_s = estimate(&|run| run.per_s(run.counts.received));
    let asked = measurement.pace.and_then(|pace| pace.rate);
    let wanted = asked.map(|rate| rate * settings.clients as f64);
    let rounds = rounds(runs);
    let latency_runs = latency_runs(&rounds);
    let mut row = ResultRow {
        bytes_per_s: estimate(&|run| run.per_s(run.counts.received) * measurement.size as f64),
        sent_per_s: estimate(&|run| run.per_s(run.counts.sent)),
        sent_bytes_per_s: estimate(&|run| run.per_s(run.counts.sent) * measurement.size as f64),
        saturated: wanted.is_some_and(|rate| messages_per_s.median < rate * ACHIEVED),
        key,
        place: measurement.place,
        pace: measurement.pace,
        messages_per_s,
        latency: LatencySummary::of(&latency),
        service: LatencySummary::of(&service),
        latency_runs,
        rounds,
        counts,
        clients_used: clients,
        daemon,
        timeline: runs[0].timeline.clone(),
        warnings: Vec::new(),
    };
    row.warnings = warnings(&row, measurement);
    row
}

/// By name: the mean, each percentile that has enough samples, and the rate, of each run.
fn rounds(runs: &[RunResult]) -> BTreeMap<String, Vec<Option<f64>>> {
    let each: Vec<Option<LatencySummary>> =
        runs.iter().map(|run| LatencySummary::of(&run.latency.open())).collect();
    let of = |figure: &dyn Fn(&LatencySummary) -> Option<u64>| -> Vec<Option<f64>> {
        each.iter().map(|it| figure(it.as_ref()?).map(|value| value as f64)).collect()
    };
    let percentiles =
        PERCENTILES.iter().map(|(name, _)| ((*name).to_owned(), of(&|it| it.percentile(name))));
    let mut rounds: BTreeMap<_, _> = percentiles.collect();
    rounds.insert("mean".to_owned(), of(&|it| Some(it.mean)));
    rounds.retain(|_, figures| figures.iter().any(Option::is_some));
    let rates = runs.iter().map(|run| Some(run.per_s(run.counts.received)));
    rounds.insert("rate".to_owned(), rates.collect());
    rounds
}

/// Estimates of those times that most runs have.
fn latency_runs(rounds: &BTreeMap<String, Vec<Option<f64>>>) -> BTreeMap<String, Estimate> {
    let estimate = |figures: &Vec<Option<f64>>| {
        let told: Vec<f64> = figures.iter().copied().flatten().collect();
        let is_enough = told.len() as f64 >= TOLD * figures.len() as f64;
        is_enough.then(|| Estimate::of(told))?
    };
    let times = rounds.iter().filter(|(name, _)| *name != "rate");
    times.filter_map(|(name, figures)| Some((name.clone(), estimate(figures)?))).collect()
}

fn warnings(row: &ResultRow, measurement: &Measurement) -> Vec<String> {
    let mut warnings = match row.latency_runs.get("p50") {
        Some(p50) => p50.warnings("p50"),
        None => row.messages_per_s.warnings("messages/s"),
    };
    if row.saturated {
        let asked =
            measurement.pace.and_then(|pace| pace.rate).unwrap_or(0.0) * row.key.clients as f64;
        let got = row.messages_per_s.median;
        warnings.push(format!("saturated: {got:.0} of {asked:.0} messages/s were achieved"));
    }
    let MessageCounts { sent, lost, duplicated, reordered, corrupted, .. } = row.counts;
    if lost > 0 {
        let percent = 100.0 * lost as f64 / sent.max(1) as f64;
        warnings.push(format!("lost {lost} of {sent} messages ({percent:.2} %)"));
    }
    for (count, what) in [
        (duplicated, "were duplicated"),
        (reordered, "were reordered"),
        (corrupted, "were corrupted"),
    ] {
        if count > 0 {
            warnings.push(format!("{count} messages {what}"));
        }
    }
    if matches!(measurement.target, BenchTarget::Raw(primitive) if primitive.spins())
        && matches!(measurement.place, CorePlacement::One(_))
    {
        warnings.push("two processes that spin on one core measure the scheduler".to_owned());
    }
    warnings
}
