//! `ipcctl bench`: turns arguments into settings, and prints the report.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use clap::parser::ValueSource;
use ipcd_bench::{
    BenchSettings, Comparison, MeasureLayer, MeasureMode, OtherServer, Progress, Report, RunExtent,
    RunningDaemon, baseline, csv, markdown, terminal,
};
use ipcd_client::Client;

use crate::args::{
    Arguments, ArrivalPattern, BenchArgs, BenchLayer, BenchMode, BenchPeer, OutputFormat,
    VerifyLevel,
};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::output::write_all;

/// The time that the measurements of `--quick` may take.
const BUDGET: Duration = Duration::from_secs(42);
/// The default number of runs: with `--quick`, and without.
const RUNS: (usize, usize) = (3, 5);
/// The default length of a run, and of its warm-up.
const DURATION: Duration = Duration::from_millis(500);
const WARMUP: Duration = Duration::from_millis(100);
/// The default rates in messages per second: with `--quick`, and without.
const RATES: (&[f64], &[f64]) = (&[5_000.0, 50_000.0], &[1_000.0, 10_000.0, 100_000.0]);
/// Bytes that are gathered for one system call, as in the client library.
const BATCH: usize = 64 * 1024;

pub(crate) fn run(context: &Context, args: &BenchArgs) -> Outcome {
    let settings = settings(context, args)?;
    check_places(args)?;
    if args.mode == BenchMode::Selftest {
        return selftest(&settings);
    }
    let then = args.baseline.as_deref().map(|name| baseline::load(&baseline::path_of(name)?));
    let then = then.transpose().map_err(failure)?;
    let is_quiet = Arguments::command().get_matches().get_flag("quiet");
    let is_shown = io::stderr().is_terminal() && !is_quiet;
    let mut watch = |progress: Progress<'_>| {
        if is_shown {
            show(progress);
        }
    };
    let report = ipcd_bench::measure(&settings, &mut watch);
    if is_shown {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let mut report = report.map_err(failure)?;
    let name = args.baseline.as_deref().unwrap_or_default();
    report.comparison = then.map(|then| Comparison::of(name, &then, &report));
    print(context, args, &report)?;
    save(args, &report)?;
    if report.results.is_empty() {
        return Err(nothing_measured(&report));
    }
    report.comparison.map_or(Ok(()), |comparison| judge(context, args, &comparison))
}

/// Checks the places for the reports before anything is measured, and not after minutes of measuring.
fn check_places(args: &BenchArgs) -> Outcome {
    args.save_baseline.as_deref().map(baseline::path_of).transpose().map_err(failure)?;
    let files = [&args.json_file, &args.csv, &args.html].into_iter().flatten();
    for path in files {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if dir.is_some_and(|dir| !dir.is_dir()) {
            let why = format!("write {}: no such directory", path.display());
            return Err(Failure::new(FailureKind::Usage, why));
        }
    }
    Ok(())
}

fn settings(context: &Context, args: &BenchArgs) -> Outcome<BenchSettings> {
    let (targets, running) = targets(context)?;
    let (runs, extent, warmup) = lengths(args);
    let payload = args.payload.as_ref().map(|path| {
        let named =
            |error| Failure::new(FailureKind::Usage, format!("{}: {error}", path.display()));
        std::fs::read(path).map_err(named)
    });
    let is_matrix = args.mode == BenchMode::Matrix;
    let rates = if args.quick { RATES.0 } else { RATES.1 };
    let default_rates = || rates.iter().copied().map(Some).collect();
    Ok(BenchSettings {
        modes: modes(args.mode),
        layers: layers(&args.layer),
        targets,
        running,
        peers: peers(&args.peers),
        sizes: args.size.iter().map(|size| size.0).collect(),
        clients: args.clients.into(),
        subs: args.subs.into(),
        rates: match args.rate.is_empty() {
            true => default_rates(),
            false => args.rate.iter().map(|rate| rate.0).collect(),
        },
        is_poisson: args.arrivals == ArrivalPattern::Poisson,
        extent,
        warmup,
        runs,
        interleave: args.interleave,
        pin: args.pin.0,
        payload: payload.transpose()?.unwrap_or_default().into(),
        has_crc: args.verify == VerifyLevel::Crc,
        batch: if args.no_batch { 1 } else { BATCH },
        budget: args.quick.then_some(BUDGET),
        is_matrix,
        inject: args.inject.map(|work| work.duration()),
    })
}

/// The number of runs, their length and their warm-up. A comparison needs many short runs, so that
/// slow changes of the machine fall on both sides alike.
fn lengths(args: &BenchArgs) -> (usize, RunExtent, Duration) {
    let is_compared = args.baseline.is_some() || args.save_baseline.is_some();
    let (runs, duration, warmup) = match (args.quick, is_compared) {
        (true, _) => (RUNS.0, DURATION, WARMUP),
        (false, true) => ipcd_bench::COMPARED,
        (false, false) => (RUNS.1, DURATION, WARMUP),
    };
    let duration = args.duration.map_or(duration, |given| given.duration());
    let extent = args.count.map_or(RunExtent::Time(duration), RunExtent::Count);
    (
        args.runs.map_or(runs, usize::from),
        extent,
        args.warmup.map_or(warmup, |given| given.duration()),
    )
}

fn modes(mode: BenchMode) -> Vec<MeasureMode> {
    match mode {
        BenchMode::Matrix => MeasureMode::ALL.to_vec(),
        BenchMode::Pingpong => vec![MeasureMode::Pingpong],
        BenchMode::Throughput => vec![MeasureMode::Throughput],
        BenchMode::Load => vec![MeasureMode::Load],
        BenchMode::Fanout => vec![MeasureMode::Fanout],
        BenchMode::Req => vec![MeasureMode::Req],
        BenchMode::Selftest => Vec::new(),
    }
}

/// The servers to compare. ipcd is always among them, through the same kind of client as the others.
fn peers(given: &[BenchPeer]) -> Vec<OtherServer> {
    let peer = |peer: &BenchPeer| match peer {
        BenchPeer::Socat => OtherServer::Socat,
        BenchPeer::Nats => OtherServer::Nats,
        BenchPeer::Mosquitto => OtherServer::Mosquitto,
        BenchPeer::Redis => OtherServer::Redis,
        BenchPeer::Zeromq => OtherServer::Zeromq,
    };
    let ours = [OtherServer::IpcdUnix, OtherServer::IpcdTcp].into_iter();
    // The client of nats-server reaches ipcd, too.
    let as_nats = given.contains(&BenchPeer::Nats).then_some(OtherServer::IpcdNats);
    let ours = ours.chain(as_nats);
    if given.is_empty() { Vec::new() } else { ours.chain(given.iter().map(peer)).collect() }
}

fn layers(given: &[BenchLayer]) -> Vec<MeasureLayer> {
    let layer = |layer: &BenchLayer| match layer {
        BenchLayer::Raw => MeasureLayer::Raw,
        BenchLayer::Lib => MeasureLayer::Lib,
        BenchLayer::Daemon => MeasureLayer::Daemon,
    };
    if given.is_empty() { MeasureLayer::ALL.to_vec() } else { given.iter().map(layer).collect() }
}

/// The targets to measure: `--via` names transports, primitives, and endpoints of running daemons. Its
/// default stands for all.
fn targets(context: &Context) -> Outcome<(Vec<String>, Vec<RunningDaemon>)> {
    let (mut targets, mut running) = (Vec::new(), Vec::new());
    let matches = Arguments::command().get_matches();
    if matches.value_source("via") == Some(ValueSource::DefaultValue) {
        return Ok((targets, running));
    }
    let given = matches.get_one::<String>("via").map_or("all", String::as_str);
    for via in given.split(',').filter(|&via| via != "all") {
        if via.contains(':') {
            let endpoint = ipcd_transports::resolve(via, context.runtime_dir())?;
            // An unreachable daemon is an error of usage (3), not a measurement that failed.
            drop(Client::connect(&endpoint, context.options())?);
            targets.push(endpoint.scheme().to_owned());
            running.push(RunningDaemon { endpoint, options: context.options() });
        } else {
            targets.push(via.to_owned());
        }
    }
    Ok((targets, running))
}

fn selftest(settings: &BenchSettings) -> Outcome {
    let checks = ipcd_bench::selftest(settings).map_err(failure)?;
    let line = |check: &ipcd_bench::SelfCheck| {
        let verdict = if check.is_right { "ok    " } else { "FAILED" };
        format!("{verdict} {}: {}\n", check.what, check.found)
    };
    write_all(checks.iter().map(line).collect::<String>().as_bytes())?;
    match checks.iter().filter(|check| !check.is_right).count() {
        0 => Ok(()),
        failed => {
            let why = format!("{failed} of {} checks failed", checks.len());
            Err(Failure::new(FailureKind::Threshold, why))
        }
    }
}

fn show(progress: Progress<'_>) {
    let Progress { done, of, since, now } = progress;
    let elapsed = since.elapsed().as_secs_f64();
    let left = elapsed / done.max(1) as f64 * (of - done) as f64;
    // Progress is a courtesy: a closed standard error must not end the measurement.
    let _ = write!(io::stderr(), "\r\x1b[K[{done}/{of}, {left:.0} s left] {now}");
}

fn print(context: &Context, args: &BenchArgs, report: &Report) -> Outcome {
    let text = match context.format() {
        OutputFormat::Json => json(report)? + "\n",
        OutputFormat::Jsonl => {
            let rows: Vec<String> = report.results.iter().map(json).collect::<Outcome<_>>()?;
            rows.join("\n") + "\n"
        }
        OutputFormat::Text if args.md => markdown(report),
        OutputFormat::Text => terminal(report),
    };
    write_all(text.as_bytes())
}

fn json(value: &impl serde::Serialize) -> Outcome<String> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
}

fn save(args: &BenchArgs, report: &Report) -> Outcome {
    let write = |path: &Path, text: String| {
        let named =
            |error| Failure::new(FailureKind::Internal, format!("{}: {error}", path.display()));
        std::fs::write(path, text).map_err(named)
    };
    if let Some(path) = &args.json_file {
        write(path, json(report)?)?;
    }
    if let Some(path) = &args.csv {
        write(path, csv(report))?;
    }
    if let Some(path) = &args.html {
        write(path, ipcd_bench::html(report))?;
    }
    if let Some(name) = &args.save_baseline {
        baseline::path_of(name).and_then(|path| baseline::save(report, &path)).map_err(failure)?;
    }
    Ok(())
}

fn nothing_measured(report: &Report) -> Failure {
    let why = report.skipped.first().map_or("these options exclude each other", |it| &it.why);
    Failure::new(FailureKind::Internal, format!("bench: nothing was measured: {why}"))
}

/// Reports the changes that are more than chance. Fails if one is more than `--fail-on` allows.
fn judge(context: &Context, args: &BenchArgs, comparison: &Comparison) -> Outcome {
    let judged = comparison.changes.iter().filter(|change| change.is_judged).count();
    let real = comparison.real().count();
    comparison.warnings.iter().for_each(|warning| context.remark(warning));
    context.remark(&format!("{real} of {judged} figures differ by more than chance"));
    comparison.real().for_each(|change| context.remark(&change.to_string()));
    if comparison.changes.is_empty() && !args.fail_on.is_empty() {
        let why = format!("--baseline {}: it has none of these measurements", comparison.with);
        return Err(Failure::new(FailureKind::Usage, why));
    }
    let broken = baseline::broken(comparison, &args.fail_on);
    let Some((change, limit)) = broken.first() else { return Ok(()) };
    let more = match broken.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(Failure::new(FailureKind::Threshold, format!("{limit}: {change}{more}")))
}

/// Turns an error into a failure. After an interrupt the process dies of the signal itself, so that a
/// shell script sees it and stops, too.
fn failure(error: io::Error) -> Failure {
    ipcd_bench::die_if_interrupted(&error);
    let exit = match error.kind() {
        io::ErrorKind::InvalidInput => FailureKind::Usage,
        _ => FailureKind::Internal,
    };
    Failure::new(exit, error.to_string())
}
