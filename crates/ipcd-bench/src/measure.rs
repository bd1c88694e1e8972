//! Runs all measurements that the settings ask for, and makes a report of them.
//!
//! The time budget is kept here. A single run is in `runner.rs`.

use std::io;
use std::time::{Duration, Instant};

use crate::children::{InterruptSignals, Interrupted};
use crate::choice;
use crate::environment::Environment;
use crate::job;
use crate::order::order;
use crate::plan::{BenchSettings, MeasureMode, RunExtent, SkippedMeasurement, invalid};
use crate::report::{Report, RunLength, SCHEMA};
use crate::rows::{measurement_key, result_row};
use crate::runner::{InjectedFaults, Progress, RunResult, Runner, allowed_cores};
use crate::scratch::ScratchDir;
use crate::target::Measurement;

/// Runs of a measurement that is compared, the counted time and the warm-up of each. They are many
/// and short: then neighbours meet the same machine, and many runs are undisturbed.
pub const COMPARED: (usize, Duration, Duration) =
    (120, Duration::from_millis(30), Duration::from_millis(5));

/// The part of a run's time that is warm-up, when there is a budget.
const WARM_PART: f64 = 0.15;
/// The least and the most that a run may take, when there is a budget.
const RUN_LIMITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// The time of a run besides measuring: forking, connecting, ending.
const RUN_COSTS: Duration = Duration::from_millis(20);
/// The time beyond the budget after which the remaining runs are left out.
const OVERDRAFT: Duration = Duration::from_secs(8);

/// Measures everything that the settings ask for, and tells `watch` how far it is.
///
/// # Errors
/// If it was interrupted ([`Interrupted`] is inside then), an unknown transport or primitive is named, or the daemon
/// cannot be started. A measurement that fails is reported, and the others go on.
pub fn measure(
    settings: &BenchSettings,
    watch: &mut dyn FnMut(Progress<'_>),
) -> io::Result<Report> {
    let interrupts = InterruptSignals::catch()?;
    let cores = allowed_cores()?;
    let (measurements, mut skipped) = choice::measurements(settings, &cores).map_err(invalid)?;
    if measurements.is_empty() {
        return Err(invalid(
            "no measurement exists for these options: see --via, --layer and --size".into(),
        ));
    }
    let environment = Environment::find(cores);
    let dir = ScratchDir::make()?;
    let mut runner = Runner::new(settings, dir.path(), &interrupts, &measurements)?;
    let mut runs: Vec<Vec<RunResult>> = vec![Vec::new(); measurements.len()];
    let mut failed = vec![false; measurements.len()];
    let faults = InjectedFaults { work: settings.inject, ..InjectedFaults::default() };
    // With a budget everything comes once before anything comes again.
    let is_interleaved = settings.interleave || settings.budget.is_some();
    let order = order(&measurements, settings.runs, is_interleaved);
    let share = settings.budget.map(|budget| time_share(budget, order.iter(), &measurements));
    let (extent, warmup) = run_length(settings, share);
    let since = Instant::now();
    for (done, &index) in order.iter().enumerate() {
        let measurement = &measurements[index];
        let name = measurement_key(settings, measurement).to_string();
        watch(Progress { done, of: order.len(), since, now: &name });
        // A measurement that has failed once is not tried again.
        if failed[index] {
            continue;
        }
        if settings.budget.is_some_and(|budget| since.elapsed() > budget + OVERDRAFT) {
            failed[index] = true;
            if runs[index].is_empty() {
                skipped.push(failure(measurement, &io::Error::other("no time was left")));
            }
            continue;
        }
        // On a busy machine everything takes longer, so the later runs get less.
        let left = settings.budget.map(|budget| budget.saturating_sub(since.elapsed()));
        let now = left.map(|left| time_share(left, order[done..].iter(), &measurements));
        let (extent, warmup) = run_length(settings, now.min(share));
        match runner.run(measurement, scaled_extent(extent, measurement), warmup, faults) {
            Ok(run) => runs[index].push(run),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                failed[index] = true;
                skipped.push(failure(measurement, &error));
            }
        }
    }
    let rows = measurements.iter().zip(&runs).filter(|(_, runs)| !runs.is_empty());
    let results = rows.map(|(measurement, runs)| result_row(settings, measurement, runs)).collect();
    let run = RunLength {
        extent,
        warmup_ns: warmup.as_nanos() as u64,
        runs: settings.runs,
        interleaved: is_interleaved,
        batch_bytes: settings.batch,
        timeline_step_ns: job::STEP,
    };
    let mut warnings = environment.warnings();
    if let Some(work) = settings.inject {
        warnings.push(format!("{work:?} of work were added to each message through the daemon"));
    }
    let schema = SCHEMA.to_owned();
    Ok(Report { schema, environment, run, results, skipped, warnings, comparison: None })
}

/// If a signal interrupted the measurement, ends this process by that signal.
pub fn die_if_interrupted(error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Interrupted>());
    if let Some(&Interrupted(signal)) = inner {
        let _ = InterruptSignals::die_of(signal);
    }
}

fn failure(measurement: &Measurement, error: &io::Error) -> SkippedMeasurement {
    SkippedMeasurement {
        mode: measurement.mode,
        layer: measurement.target.layer(),
        transport: measurement.target.name().to_owned(),
        size: measurement.size,
        why: format!("failed: {error}"),
    }
}

/// The share of the time for each of these runs.
fn time_share<'o>(
    time: Duration,
    order: impl ExactSizeIterator<Item = &'o usize>,
    measurements: &[Measurement],
) -> Duration {
    let costs = RUN_COSTS * order.len() as u32;
    let shares: u32 = order.map(|&index| time_weight(&measurements[index])).sum();
    (time.saturating_sub(costs) / shares.max(1)).clamp(RUN_LIMITS.0, RUN_LIMITS.1)
}

/// The counted part of a run, and its warm-up: as asked for, or from its share of the budget.
fn run_length(settings: &BenchSettings, share: Option<Duration>) -> (RunExtent, Duration) {
    match share {
        None => (settings.extent, settings.warmup),
        Some(each) => (RunExtent::Time(each.mul_f64(1.0 - WARM_PART)), each.mul_f64(WARM_PART)),
    }
}

/// Messages at a given rate need more time than those that come as fast as they can.
fn time_weight(measurement: &Measurement) -> u32 {
    if measurement.mode == MeasureMode::Load { 3 } else { 1 }
}

fn scaled_extent(extent: RunExtent, measurement: &Measurement) -> RunExtent {
    match extent {
        RunExtent::Time(time) => RunExtent::Time(time * time_weight(measurement)),
        count => count,
    }
}
