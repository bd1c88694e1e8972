//! Runs every measurement, in its order, and puts the findings together.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::children::{
    ForkedChild, InterruptSignals, ProcessTeam, StartSignal, WATCHDOG, fork, pin,
};
use crate::daemon::{EmbeddedDaemon, SubjectLane, processes_of};
use crate::end::{FanOutEnd, Lane, LaneSide};
use crate::histogram::{self, PackedHistogram};
use crate::job::{MeasureJob, ProcessFindings, Timeline};
use crate::library::ChannelLane;
use crate::peers::ServedPeer;
use crate::plan::{
    BenchSettings, CorePlacement, MeasureLayer, MeasureMode, RunExtent, RunningDaemon,
};
use crate::tally::MessageCounts;
use crate::target::{BenchTarget, Measurement};
use crate::usage::ResourceUsage;
use crate::{one_way, round_trip};

/// The least time that the first receiver's last word and the sender's may lie apart, in ns.
const LEAST_ELAPSED: u64 = 1;
/// The number of end messages over a bare transport that may lose them.
const FAREWELLS: u32 = 20;
/// The time that a measurement may take beyond its length, where all share a budget.
const SHORT_GRACE: Duration = Duration::from_secs(3);

/// The findings of one run of one measurement.
#[derive(Clone, Debug)]
pub(crate) struct RunResult {
    pub(crate) counts: MessageCounts,
    pub(crate) elapsed_ns: u64,
    pub(crate) latency: PackedHistogram,
    pub(crate) service: PackedHistogram,
    pub(crate) clients: ResourceUsage,
    pub(crate) daemon: Option<ResourceUsage>,
    pub(crate) timeline: Timeline,
}

impl RunResult {
    pub(crate) fn per_s(&self, count: u64) -> f64 {
        count as f64 * 1e9 / self.elapsed_ns as f64
    }
}

/// Runs measurements, one at a time.
pub(crate) struct Runner<'a> {
    pub(crate) settings: &'a BenchSettings,
    pub(crate) dir: &'a Path,
    pub(crate) interrupts: &'a InterruptSignals,
    pub(crate) daemon: Option<EmbeddedDaemon>,
    pub(crate) cores: Vec<usize>,
    serial: u64,
}

/// The cores that this process may use.
pub(crate) fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::this())?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Faults that a self-test injects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InjectedFaults {
    /// The receiver pauses: time after its first message, and length.
    pub(crate) stall: Option<(Duration, Duration)>,
    /// The daemon is stopped: time after the start, and length.
    pub(crate) stop: Option<(Duration, Duration)>,
    /// Extra work for each message through the daemon.
    pub(crate) work: Option<Duration>,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        settings: &'a BenchSettings,
        dir: &'a Path,
        interrupts: &'a InterruptSignals,
        measurements: &[Measurement],
    ) -> io::Result<Self> {
        let mut runner =
            Self { settings, dir, interrupts, daemon: None, cores: allowed_cores()?, serial: 0 };
        // A daemon that cannot start is an error before the first measurement.
        if measurements
            .iter()
            .any(|measurement| matches!(measurement.target, BenchTarget::Daemon(_)))
        {
            runner.start_daemon()?;
        }
        Ok(runner)
    }

    /// The place of its memory makes a process faster or slower for all its life. So each run has
    /// its own daemon, as it has its own clients, and the runs differ by that too.
    fn start_daemon(&mut self) -> io::Result<()> {
        self.daemon = None;
        let dir = self.dir.join(format!("ipcd-{}", self.serial));
        std::fs::create_dir(&dir)?;
        self.daemon = Some(EmbeddedDaemon::start(&dir, |_| {})?);
        Ok(())
    }

    /// One run of one measurement.
    pub(crate) fn run(
        &mut self,
        measurement: &Measurement,
        extent: RunExtent,
        warmup: Duration,
        faults: InjectedFaults,
    ) -> io::Result<RunResult> {
        self.serial += 1;
        self.interrupts.check()?;
        if matches!(measurement.target, BenchTarget::Daemon(_)) {
            self.start_daemon()?;
        }
        let served = self.start_peers(measurement)?;
        let daemon = self.place_server(measurement, &served)?;
        let job = self.job(measurement, extent, warmup, faults, daemon);
        let mut lanes = self.lanes(measurement, &served)?;
        let mut team = ProcessTeam::default();
        let (near, far) = match measurement.place {
            CorePlacement::Free => (None, None),
            CorePlacement::One(core) => (Some(core), Some(core)),
            CorePlacement::Two(near, far) => (Some(near), Some(far)),
        };
        for lane in &mut lanes {
            team.add(c"bench-far", far, |start| {
                far_end(measurement.mode, &mut **lane, &job, start)
            })?;
        }
        let senders = if measurement.mode == MeasureMode::Fanout { 1 } else { lanes.len() };
        for index in 0..senders {
            // Without a server that fans out, the sender writes to each receiver itself.
            let of_all = measurement.mode == MeasureMode::Fanout && !measurement.target.fans_out();
            let mine = if of_all { &mut lanes[..] } else { &mut lanes[index..=index] };
            let mut job = job.clone();
            // With one seed all senders would send at the same random times.
            job.seed += 2 * index as u64;
            // The first sender meters the daemon. A second one would count it twice.
            if index > 0 {
                job.daemon.clear();
            }
            team.add(c"bench-near", near, |start| near_end(measurement.mode, mine, &job, start))?;
        }
        let stopper = faults.stop.map(|stop| stop_daemon(&job.daemon, stop)).transpose()?;
        let limit = 3 * expected_length(extent, measurement) + warmup + one_way::SILENCE;
        let grace = if self.settings.budget.is_some() { SHORT_GRACE } else { WATCHDOG };
        let findings = team.run(self.interrupts, grace, limit);
        if stopper.is_some() {
            drop(stopper);
            // The daemon must be able to end, also after a failed measurement.
            signal_processes(&job.daemon, Signal::SIGCONT)?;
        }
        let findings = findings?;
        let (fars, nears) = findings.split_at(lanes.len());
        combine_findings(measurement, nears, fars)
    }

    fn job(
        &self,
        measurement: &Measurement,
        extent: RunExtent,
        warmup: Duration,
        faults: InjectedFaults,
        daemon: Vec<u32>,
    ) -> MeasureJob {
        MeasureJob {
            payload: self.settings.payload.clone(),
            has_crc: self.settings.has_crc,
            may_lose: measurement.target.may_lose(),
            farewells: if measurement.target.layer() == MeasureLayer::Raw
                && measurement.target.may_lose()
            {
                FAREWELLS
            } else {
                1
            },
            pace: measurement.pace,
            seed: self.serial,
            daemon,
            stall: faults.stall,
            work: faults.work.filter(|_| measurement.target.layer() == MeasureLayer::Daemon),
            ..MeasureJob::new(measurement.size, extent, warmup)
        }
    }

    /// Places the server's processes on the cores of the measurement, and returns them.
    fn place_server(
        &self,
        measurement: &Measurement,
        served: &[ServedPeer],
    ) -> io::Result<Vec<u32>> {
        let processes = match (&measurement.target, &self.daemon) {
            (BenchTarget::Running(running), _) => return Ok(processes_of(running)),
            (BenchTarget::Daemon(_), Some(daemon)) => daemon.processes.clone(),
            (BenchTarget::Peer(_), _) => served.iter().flat_map(ServedPeer::processes).collect(),
            _ => return Ok(Vec::new()),
        };
        let core = if let CorePlacement::One(core) = measurement.place { Some(core) } else { None };
        let cores = core.as_ref().map_or(&self.cores[..], std::slice::from_ref);
        for &process in &processes {
            for thread in thread_ids(process)? {
                pin(thread, cores)?;
            }
        }
        Ok(processes)
    }

    /// Starts another server, if the measurement is of one: one for each pair if it serves no more.
    fn start_peers(&self, measurement: &Measurement) -> io::Result<Vec<ServedPeer>> {
        let BenchTarget::Peer(peer) = &measurement.target else { return Ok(Vec::new()) };
        let count = if peer.has_subjects() { 1 } else { self.settings.clients };
        let dir = |index| self.dir.join(format!("served-{}-{index}", self.serial));
        (0..count).map(|index| ServedPeer::start(*peer, &dir(index))).collect()
    }

    fn lanes(
        &self,
        measurement: &Measurement,
        served: &[ServedPeer],
    ) -> io::Result<Vec<Box<dyn Lane>>> {
        let is_fan = measurement.mode == MeasureMode::Fanout;
        let count = if is_fan { self.settings.subs } else { self.settings.clients };
        let lane = |index| self.lane(measurement, if is_fan { 0 } else { index }, index, served);
        (0..count).map(lane).collect()
    }

    fn lane(
        &self,
        measurement: &Measurement,
        subject: usize,
        index: usize,
        served: &[ServedPeer],
    ) -> io::Result<Box<dyn Lane>> {
        let batch = self.settings.batch;
        let dir = self.dir.join(format!("{}-{index}", self.serial));
        let name = format!("bench.{}.{}.{subject}", std::process::id(), self.serial);
        match &measurement.target {
            BenchTarget::Raw(primitive) => {
                std::fs::create_dir(&dir)?;
                primitive.prepare(&dir, measurement.size, batch)
            }
            BenchTarget::Lib(scheme) => {
                std::fs::create_dir(&dir)?;
                Ok(Box::new(ChannelLane::listen(scheme, &dir, batch)?))
            }
            BenchTarget::Daemon(scheme) => {
                let none = || io::Error::other("there is no embedded daemon");
                let daemon = self.daemon.as_ref().ok_or_else(none)?;
                Ok(Box::new(subject_lane(measurement, daemon.via(scheme)?, name)))
            }
            BenchTarget::Running(running) => {
                Ok(Box::new(subject_lane(measurement, running.clone(), name)))
            }
            BenchTarget::Peer(peer) => {
                let server = &served[index % served.len()];
                Ok(Box::new(server.lane(*peer, name, measurement.size, batch)))
            }
        }
    }
}

fn subject_lane(measurement: &Measurement, daemon: RunningDaemon, name: String) -> SubjectLane {
    let are_requests = measurement.mode == MeasureMode::Req;
    SubjectLane { daemon, name, is_two_way: measurement.mode.is_two_way(), are_requests }
}

pub(crate) fn near_end(
    mode: MeasureMode,
    lanes: &mut [Box<dyn Lane>],
    job: &MeasureJob,
    start: &mut StartSignal<'_>,
) -> io::Result<ProcessFindings> {
    let mut ends =
        lanes.iter_mut().map(|lane| lane.open(LaneSide::Near)).collect::<io::Result<Vec<_>>>()?;
    let mut end = if ends.len() == 1 { ends.remove(0) } else { Box::new(FanOutEnd(ends)) };
    start()?;
    if mode.is_two_way() {
        round_trip::measure_trips(&mut *end, job)
    } else {
        one_way::send(&mut *end, job)
    }
}

pub(crate) fn far_end(
    mode: MeasureMode,
    lane: &mut dyn Lane,
    job: &MeasureJob,
    start: &mut StartSignal<'_>,
) -> io::Result<ProcessFindings> {
    let mut end = lane.open(LaneSide::Far)?;
    start()?;
    match mode.is_two_way() {
        true => round_trip::answer_trips(&mut *end, job),
        false => one_way::receive(&mut *end, job),
    }
}

/// The expected length of the counted part.
fn expected_length(extent: RunExtent, measurement: &Measurement) -> Duration {
    /// Messages a second that anything manages, also a round trip at a time between two cores.
    const SLOWEST: f64 = 1000.0;
    match extent {
        RunExtent::Time(time) => time,
        RunExtent::Count(count) => {
            let rate = measurement
                .pace
                .and_then(|pace| pace.rate)
                .map_or(SLOWEST, |rate| rate.min(SLOWEST));
            Duration::from_secs_f64(count as f64 / rate)
        }
    }
}

/// Other servers have several threads, and affinity is per thread (sched(7)).
fn thread_ids(process: u32) -> io::Result<Vec<Pid>> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task"))?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.map(Pid::from_raw).collect())
}

/// Forks a process that stops these for a while.
fn stop_daemon(processes: &[u32], (after, long): (Duration, Duration)) -> io::Result<ForkedChild> {
    fork(c"bench-stopper", || {
        std::thread::sleep(after);
        signal_processes(processes, Signal::SIGSTOP)?;
        std::thread::sleep(long);
        signal_processes(processes, Signal::SIGCONT)
    })
}

fn signal_processes(processes: &[u32], signal: Signal) -> io::Result<()> {
    let each = |&pid: &u32| kill(Pid::from_raw(pid as i32), signal);
    Ok(processes.iter().try_for_each(each)?)
}

fn combine_findings(
    measurement: &Measurement,
    nears: &[ProcessFindings],
    fars: &[ProcessFindings],
) -> io::Result<RunResult> {
    let is_two_way = measurement.mode.is_two_way();
    let receivers = if is_two_way { nears } else { fars };
    let mut counts = MessageCounts::default();
    receivers.iter().for_each(|found| counts.add(&found.counts));
    if is_two_way {
        fars.iter().for_each(|found| counts.corrupted += found.counts.corrupted);
    } else {
        let sent: u64 = nears.iter().map(|found| found.counts.sent).sum();
        counts.sent =
            if measurement.mode == MeasureMode::Fanout { sent * fars.len() as u64 } else { sent };
        counts.lost = counts.sent.saturating_sub(counts.received);
    }
    let first = nears.iter().map(|found| found.first).min().unwrap_or(0);
    // Without a received message, the time of sending counts.
    let has_come = counts.received > 0;
    let last = if has_come { receivers } else { nears }.iter().map(|found| found.last).max();
    let last = last.unwrap_or(0);
    let (mut clients, mut daemon) = (ResourceUsage::default(), ResourceUsage::default());
    nears.iter().chain(fars).for_each(|found| clients.add(&found.usage));
    nears.iter().for_each(|found| daemon.add(&found.daemon));
    Ok(RunResult {
        counts,
        elapsed_ns: last.saturating_sub(first).max(LEAST_ELAPSED),
        latency: merge_histograms(receivers.iter().filter_map(|found| found.latency.as_deref()))?,
        service: merge_histograms(receivers.iter().filter_map(|found| found.service.as_deref()))?,
        clients,
        daemon: (daemon.peak_bytes > 0).then_some(daemon),
        timeline: receivers.first().map(|found| found.timeline.clone()).unwrap_or_default(),
    })
}

fn merge_histograms<'t>(texts: impl Iterator<Item = &'t str>) -> io::Result<PackedHistogram> {
    let mut sum = histogram::empty();
    for text in texts {
        sum.add(histogram::from_text(text)?).map_err(io::Error::other)?;
    }
    Ok(PackedHistogram::of(&sum))
}

/// The progress of a benchmark, for display.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Runs done.
    pub done: usize,
    /// Runs in all.
    pub of: usize,
    /// The start.
    pub since: Instant,
    /// The current measurement.
    pub now: &'a str,
}
