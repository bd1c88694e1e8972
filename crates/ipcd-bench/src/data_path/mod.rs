//! `cargo bench -p ipcd-bench`: the cost of the daemon's data path, beside the limits of the
//! machine.
//!
//! Several servers move the same load from a publisher process to subscribers in another: the bare
//! byte relay, the yardstick (the least that routes frames by subject) and the real daemon. Their
//! rounds are interleaved, and only the ratios of neighbours are compared: on a busy or throttled
//! machine the figures themselves say little. Over UDP the bare relay is two paced hops of
//! datagrams, and there is no yardstick. The round trip of a request, the rate of connections, and
//! `ipcctl relay` beside socat are measured in the same way.
//!
//! The clients do less than those of `ipcctl bench`: they only number and compare frames, since on
//! one core all other work would hide the server's. Processes, embedded daemon, clock and
//! histograms are the same.

mod connecting;
mod contender;
mod count;
mod datagrams;
mod forwarder;
mod gate;
mod line;
mod load;
mod options;
mod requests;
mod socat;
mod tables;
mod yardstick;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

use crate::children::{InterruptSignals, ProcessTeam, WATCHDOG, pin};
use crate::job::{MeasureJob, ProcessFindings};
use crate::runner::allowed_cores;
use crate::scratch::ScratchDir;
use contender::{RelayContender, RelayStage, WorkerMode};
use load::LoadShape;
use requests::RequestServer;
use socat::RelayProgram;

pub use contender::Via;
pub use options::{CoreChoice, DataPathOptions};

/// The time limit of a round.
const LIMIT: Duration = Duration::from_secs(120);
/// Payload bytes per load of the smoke test.
const SMOKE_BYTES: u64 = 2 << 20;
/// Connections of the smoke test.
const SMOKE_CONNECTS: u32 = 20;
/// Round trips of the smoke test.
const SMOKE_TRIPS: u64 = 50;
/// The most that the smoke test accepts per message. It is far above the measured costs, and far
/// below one allocation or call for each message.
const SMOKE_COSTS: f64 = 0.1;

/// The state that all rounds share.
struct RoundContext {
    interrupts: InterruptSignals,
    scratch: ScratchDir,
    cores: Vec<usize>,
    serial: Cell<u64>,
}

impl RoundContext {
    fn begin() -> io::Result<Self> {
        let (interrupts, scratch) = (InterruptSignals::catch()?, ScratchDir::make()?);
        Ok(Self { interrupts, scratch, cores: allowed_cores()?, serial: Cell::new(0) })
    }

    /// A new directory.
    fn dir(&self) -> io::Result<PathBuf> {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let dir = self.scratch.path().join(serial.to_string());
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Places this process, and those that it forks from now on.
    fn place(&self, cores: CoreChoice) -> io::Result<()> {
        let count = if cores == CoreChoice::One { 1 } else { self.cores.len() };
        pin(Pid::this(), &self.cores[..count])
    }
}

/// The result of a round.
#[derive(Clone, Copy, Debug)]
struct RoundResult {
    time: Duration,
    /// Processor time of the processes that move the messages.
    cpu: Duration,
}

impl RoundResult {
    fn of(found: &[ProcessFindings]) -> Self {
        let used = found.iter().map(|found| found.daemon.user_ns + found.daemon.system_ns);
        let time = Duration::from_nanos(elapsed_ns(found));
        Self { time, cpu: Duration::from_nanos(used.sum()) }
    }
}

/// From the first process that began to the last one that ended.
fn elapsed_ns(found: &[ProcessFindings]) -> u64 {
    let first = found.iter().map(|found| found.first).filter(|&first| first > 0).min();
    let last = found.iter().map(|found| found.last).max();
    last.unwrap_or(0).saturating_sub(first.unwrap_or(0)).max(1)
}

/// Measures, and prints a table.
///
/// # Errors
/// If a server could not be started, or lost or changed a message, or a signal came.
pub fn bench(options: &DataPathOptions) -> io::Result<()> {
    if options.smoke {
        return smoke();
    }
    let bench = RoundContext::begin()?;
    if options.count {
        count_all(&bench, options)
    } else if options.connect {
        connects(&bench, options)
    } else if options.relay {
        relays(&bench, options)
    } else if options.round_trip {
        round_trips(&bench, options)
    } else if options.crowd {
        crowds(&bench, options)
    } else {
        loads(&bench, options)
    }
}

/// Checks that every server relays all messages unaltered, that each request gets its reply, and
/// that the daemon spends little on each message.
///
/// # Errors
/// If one does not, or the daemon allocates or makes a system call for each message.
pub fn smoke() -> io::Result<()> {
    let bench = RoundContext::begin()?;
    for via in [Via::Unix, Via::Tcp] {
        for payload in [8, 64, 1024, 65536] {
            let count = SMOKE_BYTES / payload as u64;
            let load = LoadShape { is_thorough: true, ..LoadShape::plain(payload, count) };
            for contender in RelayContender::ALL {
                round(&bench, contender, via, load)?;
            }
        }
        for payload in [64, 1024, 65536] {
            let job = MeasureJob { has_crc: true, ..requests::job(payload, SMOKE_TRIPS) };
            for server in RequestServer::ALL {
                requests::round(&bench, server, via, &job)?;
            }
        }
        socat::round(&bench, RelayProgram::Ours, via, 65536, SMOKE_BYTES)?;
    }
    for mode in [WorkerMode::Pool(2), WorkerMode::Connection] {
        connecting::round(&bench, mode, SMOKE_CONNECTS)?;
    }
    smoke_shapes(&bench)?;
    let load = LoadShape::plain(64, 100_000);
    let costs = count::run(&bench, Via::Unix, load, false)?;
    if costs.most_per_message() > SMOKE_COSTS {
        return Err(io::Error::other(format!("too much is spent per message: {costs:?}")));
    }
    Ok(())
}

/// The same for loads of other shapes.
fn smoke_shapes(bench: &RoundContext) -> io::Result<()> {
    let load = LoadShape { is_thorough: true, ..LoadShape::plain(64, 2000) };
    let single = LoadShape { is_single: true, ..load };
    let fan_out = LoadShape { subscribers: 8, ..load };
    for via in [Via::Unix, Via::Tcp, Via::Pipe, Via::Fifo] {
        for contender in [RelayContender::Relay, RelayContender::Yardstick, RelayContender::Ipcd] {
            round(bench, contender, via, single)?;
            round(bench, contender, via, fan_out)?;
        }
    }
    for contender in RelayContender::ALL.into_iter().filter(|it| it.serves(Via::Udp, load)) {
        round(bench, contender, Via::Udp, load)?;
        round(bench, contender, Via::Udp, LoadShape { payload: 65536, count: 30, ..load })?;
    }
    let many = LoadShape { has_many_subjects: true, has_crowd: true, ..load };
    round(bench, RelayContender::Ipcd, Via::Unix, many).map(drop)
}

/// All rounds of each load.
fn loads(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    tables::print_load_head();
    for &cores in &options.cores {
        bench.place(cores)?;
        for (via, payload) in options.loads() {
            let load = calibrate(bench, options, via, payload)?;
            let rounds = take_turns(options, RelayContender::ALL, |contender| {
                contender.serves(via, load).then(|| round(bench, contender, via, load)).transpose()
            })?;
            tables::print_load_row(cores, via, load, &rounds);
        }
    }
    Ok(())
}

/// Messages to many subjects, with one subscription and with 100,000 others.
fn crowds(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    tables::print_crowd_head();
    for &cores in &options.cores {
        bench.place(cores)?;
        let load = calibrate(bench, options, Via::Unix, 64)?;
        let alone = LoadShape { has_many_subjects: true, ..load };
        let crowded = LoadShape { has_crowd: true, ..alone };
        let rates = take_turns(options, [alone, crowded], |load| {
            let round = round(bench, RelayContender::Ipcd, Via::Unix, load)?;
            Ok(Some(load.count as f64 / round.time.as_secs_f64()))
        })?;
        tables::print_crowd_row(cores, &rates);
    }
    Ok(())
}

fn count_all(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    tables::print_count_head();
    for (via, payload) in options.loads() {
        let load = calibrate(bench, options, via, payload)?;
        tables::print_count_row(via, payload, &count::run(bench, via, load, true)?);
    }
    Ok(())
}

fn connects(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    let modes = [WorkerMode::Pool(1), WorkerMode::Pool(2), WorkerMode::Connection];
    let rates = take_turns(options, modes, |mode| {
        let connects = connecting::connects(options.connects(), mode);
        connecting::round(bench, mode, connects).map(Some)
    })?;
    tables::print_connect(&modes, &rates);
    Ok(())
}

fn relays(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    tables::print_relay_head();
    let bytes = options.relayed();
    for &cores in &options.cores {
        bench.place(cores)?;
        for (via, written) in options.loads() {
            let rounds = take_turns(options, RelayProgram::ALL, |program| {
                socat::round(bench, program, via, written, bytes).map(Some)
            })?;
            tables::print_relay_row(cores, via, written, bytes, &rounds);
        }
    }
    tables::print_relay_target();
    Ok(())
}

fn round_trips(bench: &RoundContext, options: &DataPathOptions) -> io::Result<()> {
    tables::print_trip_head();
    for &cores in &options.cores {
        bench.place(cores)?;
        for (via, payload) in options.loads() {
            let job = requests::job(payload, options.trips());
            let trips = take_turns(options, RequestServer::ALL, |server| {
                requests::round(bench, server, via, &job).map(Some)
            })?;
            tables::print_trip_row(cores, via, payload, &trips);
        }
    }
    tables::print_trip_target();
    Ok(())
}

/// Interleaves the rounds of several servers, and returns the results of each, in order.
fn take_turns<S: Copy, R, const N: usize>(
    options: &DataPathOptions,
    servers: [S; N],
    mut round: impl FnMut(S) -> io::Result<Option<R>>,
) -> io::Result<[Vec<R>; N]> {
    let mut results = std::array::from_fn(|_| Vec::new());
    for _ in 0..options.rounds() {
        for (server, results) in servers.into_iter().zip(&mut results) {
            results.extend(round(server)?);
        }
    }
    Ok(results)
}

/// Finds a count of messages for which the bare relay, the fastest, takes long enough.
fn calibrate(
    bench: &RoundContext,
    options: &DataPathOptions,
    via: Via,
    payload: usize,
) -> io::Result<LoadShape> {
    let mut load = options.load(payload, 1000);
    let wanted = options.round_time();
    loop {
        let time = round(bench, RelayContender::Relay, via, load)?.time;
        if time >= wanted {
            return Ok(load);
        }
        // A little more than it seems to need, and not too much after a first short try.
        let factor = 1.3 * wanted.as_secs_f64() / time.as_secs_f64();
        load.count = (load.count as f64 * factor.clamp(1.3, 16.0)) as u64;
    }
}

/// One round on a fresh server.
fn round(
    bench: &RoundContext,
    contender: RelayContender,
    via: Via,
    load: LoadShape,
) -> io::Result<RoundResult> {
    let mut stage = contender.start(bench, via, load)?;
    drive(bench, &mut stage, load).map_err(|error| {
        named(error, &format!("{contender:?} over {via:?} with {} B", load.payload))
    })
}

/// Says what has failed. An interruption stays as it is: the process ends by its signal.
fn named(error: io::Error, what: &str) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => error,
        _ => io::Error::other(format!("{what}: {error}")),
    }
}

/// Publishes and receives the load through a server that runs.
fn drive(bench: &RoundContext, stage: &mut RelayStage, load: LoadShape) -> io::Result<RoundResult> {
    let RelayStage { publisher, subscribers, movers, .. } = stage;
    let mut team = ProcessTeam::default();
    team.add(c"bench-subscriber", None, |start| load.receive(subscribers, movers, start))?;
    team.add(c"bench-publisher", None, |start| load.publish(publisher, start))?;
    Ok(RoundResult::of(&team.run(&bench.interrupts, WATCHDOG, LIMIT)?))
}
