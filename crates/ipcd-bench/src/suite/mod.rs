//! `ipcctl bench`: what local IPC costs, bare, with our transports and through the daemon.
//!
//! Every measuring client is a forked process. The parent has one thread, starts all processes of a
//! measurement together, hears what they found, and never measures anything itself. It must not be
//! called in a process with threads.

pub mod baseline;
mod children;
mod clock;
mod csv;
mod daemon;
mod end;
mod environment;
mod histogram;
mod html;
mod job;
mod library;
mod message;
mod one_way;
mod peers;
mod plan;
mod raw;
mod report;
mod round_trip;
mod runner;
mod selftest;
mod stats;
mod tables;
mod tally;
mod text;
mod usage;

use std::io;
use std::time::{Duration, Instant};

pub use baseline::Limit;
pub use children::Interrupted;
pub use csv::csv;
pub use environment::Environment;
pub use histogram::{Latency, PERCENTILES};
pub use html::html;
pub use job::Timeline;
pub use peers::Peer;
pub use plan::{Extent, Layer, Mode, Pace, Pin, Place, Running, Settings, Skipped};
pub use report::{Key, Report, Row, RunLength, SCHEMA, Tax};
pub use runner::Progress;
pub use selftest::{Check, selftest};
pub use stats::Estimate;
pub use tables::{Table, layer_name, mode_name, tables};
pub use tally::Counts;
pub use text::{markdown, terminal};
pub use usage::Usage;

use children::Interrupts;
use plan::Cell;
use runner::{Faults, Run, Runner, cores};

/// The part of a run's time that is warm-up, when there is a budget.
const WARM_PART: f64 = 0.15;
/// The least and the most that a run may take, when there is a budget.
const RUN_LIMITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// What a run takes besides measuring: forking, connecting, ending.
const RUN_COSTS: Duration = Duration::from_millis(20);
/// What everything may take beyond a budget before the rest is left out.
const OVERDRAFT: Duration = Duration::from_secs(8);
/// The part of a rate below which it was not achieved.
const ACHIEVED: f64 = 0.99;

/// Measures everything that the settings ask for, and tells `watch` how far it is.
///
/// # Errors
/// If it was interrupted ([`Interrupted`] is inside then), an unknown way is named, or the daemon
/// cannot be started. A measurement that fails is reported, and the others go on.
pub fn measure(settings: &Settings, watch: &mut dyn FnMut(Progress<'_>)) -> io::Result<Report> {
    let interrupts = Interrupts::catch()?;
    let cores = cores()?;
    let (cells, mut skipped) = plan::cells(settings, &cores).map_err(invalid)?;
    if cells.is_empty() {
        return Err(invalid(
            "nothing of this can be measured: see --via, --layer and --size".into(),
        ));
    }
    let environment = Environment::find(cores);
    let dir = tempfile::Builder::new().prefix("ipcd-bench-").tempdir()?;
    let mut runner = Runner::new(settings, dir.path(), &interrupts, &cells)?;
    let (extent, warmup) = run_length(settings, &cells);
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); cells.len()];
    let mut failed = vec![false; cells.len()];
    let (since, of) = (Instant::now(), cells.len() * settings.runs);
    for (done, index) in order(settings, cells.len()).into_iter().enumerate() {
        let cell = &cells[index];
        let name = key(settings, cell).to_string();
        watch(Progress { done, of, since, now: &name });
        if failed[index] {
            continue;
        }
        if settings.budget.is_some_and(|budget| since.elapsed() > budget + OVERDRAFT) {
            failed[index] = true;
            if runs[index].is_empty() {
                skipped.push(failure(cell, &io::Error::other("no time was left")));
            }
            continue;
        }
        match runner.run(cell, scaled(extent, cell), warmup, Faults::default()) {
            Ok(run) => runs[index].push(run),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                failed[index] = true;
                skipped.push(failure(cell, &error));
            }
        }
    }
    let rows = cells.iter().zip(&runs).filter(|(_, runs)| !runs.is_empty());
    let results = rows.map(|(cell, runs)| row(settings, cell, runs)).collect();
    let run = RunLength {
        extent,
        warmup_ns: warmup.as_nanos() as u64,
        runs: settings.runs,
        interleaved: settings.interleave,
        batch_bytes: settings.batch,
        timeline_step_ns: job::STEP,
    };
    let warnings = environment.warnings();
    Ok(Report { schema: SCHEMA.to_owned(), environment, run, results, skipped, warnings })
}

/// Ends this process as the signal would have that interrupted it, if it was that.
pub fn die_if_interrupted(error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Interrupted>());
    if let Some(&Interrupted(signal)) = inner {
        let _ = Interrupts::die_of(signal);
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn failure(cell: &Cell, error: &io::Error) -> Skipped {
    Skipped {
        mode: cell.mode,
        layer: cell.way.layer(),
        transport: cell.way.name().to_owned(),
        size: cell.size,
        why: format!("failed: {error}"),
    }
}

/// Which measurement comes when.
fn order(settings: &Settings, cells: usize) -> Vec<usize> {
    match settings.interleave {
        true => (0..settings.runs).flat_map(|_| 0..cells).collect(),
        false => (0..cells).flat_map(|cell| vec![cell; settings.runs]).collect(),
    }
}

/// What a run counts, and its warm-up: as asked for, or as the budget allows.
fn run_length(settings: &Settings, cells: &[Cell]) -> (Extent, Duration) {
    let Some(budget) = settings.budget else {
        return (settings.extent, settings.warmup);
    };
    let shares: u32 = cells.iter().map(share).sum::<u32>() * settings.runs as u32;
    let costs = RUN_COSTS * (cells.len() * settings.runs) as u32;
    let each = budget.saturating_sub(costs) / shares.max(1);
    let each = each.clamp(RUN_LIMITS.0, RUN_LIMITS.1);
    (Extent::Time(each.mul_f64(1.0 - WARM_PART)), each.mul_f64(WARM_PART))
}

/// Messages at a given rate need more time than those that come as fast as they can.
fn share(cell: &Cell) -> u32 {
    if cell.mode == Mode::Load { 3 } else { 1 }
}

fn scaled(extent: Extent, cell: &Cell) -> Extent {
    match extent {
        Extent::Time(time) => Extent::Time(time * share(cell)),
        count => count,
    }
}

fn key(settings: &Settings, cell: &Cell) -> Key {
    let rate = cell.pace.map(|pace| pace.rate.map_or("max".to_owned(), |rate| rate.to_string()));
    Key {
        mode: cell.mode,
        layer: cell.way.layer(),
        transport: cell.way.name().to_owned(),
        size: if cell.way.carries_payload() { cell.size } else { 0 },
        clients: if cell.mode == Mode::Fanout { 1 } else { settings.clients },
        subs: if cell.mode == Mode::Fanout { settings.subs } else { 1 },
        cores: cell.place.to_string(),
        rate,
    }
}

fn row(settings: &Settings, cell: &Cell, runs: &[Run]) -> Row {
    let estimate = |figure: &dyn Fn(&Run) -> f64| {
        Estimate::of(runs.iter().map(figure).collect()).expect("there is a run")
    };
    let (mut latency, mut service) = (histogram::empty(), histogram::empty());
    let (mut counts, mut clients) = (Counts::default(), Usage::default());
    let mut daemon: Option<Usage> = None;
    for run in runs {
        latency.add(&run.latency).expect("all histograms have the same bounds");
        service.add(&run.service).expect("all histograms have the same bounds");
        counts.add(&run.counts);
        clients.add(&run.clients);
        run.daemon.iter().for_each(|used| daemon.get_or_insert_default().add(used));
    }
    let key = key(settings, cell);
    let messages_per_s = estimate(&|run| run.per_s(run.counts.received));
    let asked = cell.pace.and_then(|pace| pace.rate);
    let wanted = asked.map(|rate| rate * settings.clients as f64);
    let latency_runs = latency_runs(runs);
    let mut row = Row {
        bytes_per_s: estimate(&|run| run.per_s(run.counts.received) * cell.size as f64),
        sent_per_s: estimate(&|run| run.per_s(run.counts.sent)),
        saturated: wanted.is_some_and(|rate| messages_per_s.median < rate * ACHIEVED),
        key,
        place: cell.place,
        pace: cell.pace,
        messages_per_s,
        latency: Latency::of(&latency),
        service: Latency::of(&service),
        latency_runs,
        counts,
        clients_used: clients,
        daemon,
        timeline: runs[0].timeline.clone(),
        warnings: Vec::new(),
    };
    row.warnings = warnings(&row, cell);
    row
}

/// The mean, and those percentiles that every run has samples enough for.
fn latency_runs(runs: &[Run]) -> std::collections::BTreeMap<String, Estimate> {
    let each: Option<Vec<Latency>> = runs.iter().map(|run| Latency::of(&run.latency)).collect();
    let each = each.unwrap_or_default();
    let of = |figure: &dyn Fn(&Latency) -> Option<u64>| {
        let values: Option<Vec<f64>> = each.iter().map(|it| Some(figure(it)? as f64)).collect();
        Estimate::of(values?)
    };
    let percentiles = PERCENTILES
        .iter()
        .filter_map(|(name, _)| Some(((*name).to_owned(), of(&|it| it.percentile(name))?)));
    percentiles.chain(of(&|it| Some(it.mean)).map(|mean| ("mean".to_owned(), mean))).collect()
}

fn warnings(row: &Row, cell: &Cell) -> Vec<String> {
    let mut warnings = match row.latency_runs.get("p50") {
        Some(p50) => p50.warnings("p50"),
        None => row.messages_per_s.warnings("messages/s"),
    };
    if row.saturated {
        let asked = cell.pace.and_then(|pace| pace.rate).unwrap_or(0.0) * row.key.clients as f64;
        let got = row.messages_per_s.median;
        warnings.push(format!("saturated: {got:.0} of {asked:.0} messages/s were achieved"));
    }
    let Counts { sent, lost, duplicated, reordered, corrupted, .. } = row.counts;
    if lost > 0 {
        let percent = 100.0 * lost as f64 / sent.max(1) as f64;
        warnings.push(format!("lost {lost} of {sent} messages ({percent:.2} %)"));
    }
    for (count, what) in
        [(duplicated, "came twice"), (reordered, "came out of turn"), (corrupted, "were changed")]
    {
        if count > 0 {
            warnings.push(format!("{count} messages {what}"));
        }
    }
    if matches!(cell.way, plan::Way::Raw(primitive) if primitive.spins())
        && matches!(cell.place, Place::One(_))
    {
        warnings.push("two that spin on one core measure the scheduler".to_owned());
    }
    warnings
}
