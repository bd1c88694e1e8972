//! A daemon with healthy peers that meets a fault, and the state that it must have afterwards.

use std::time::{Duration, Instant};

use crate::schemes::is_encrypted;
use crate::system::{find_descriptors, find_memory};
use crate::{Daemon, DaemonSetup, HealthyLoad, Latency, children, eventually, is_alive, state};

/// Memory that a daemon may keep after a fault: buffers for later use.
const KEPT: u64 = 4 << 20;
/// Messages of the healthy peers for their latency without a fault.
const UNDISTURBED: u64 = 1000;

/// A daemon, its healthy peers, and the state of both before the fault.
#[derive(Debug)]
pub struct FaultScene {
    /// The daemon.
    pub daemon: Daemon,
    load: HealthyLoad,
    before: Baseline,
    latency: Latency,
}

/// The kernel's figures of a daemon that is idle but for its healthy peers.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Baseline {
    children: usize,
    /// Open descriptors of the supervisor, and of all workers.
    descriptors: [usize; 2],
    memory: u64,
}

impl Baseline {
    fn of(daemon: &Daemon) -> Self {
        eventually("a sample in which all processes live", || Self::find(daemon.process.pid()))
    }

    /// `None` if a worker ends during the call, as one that serves a single peer may.
    fn find(supervisor: i32) -> Option<Self> {
        let workers = children(supervisor);
        let count = |pid: &i32| Some(find_descriptors(*pid)?.len());
        let of_workers: Option<usize> = workers.iter().map(count).sum();
        let mut all = workers.clone();
        all.push(supervisor);
        Some(Self {
            children: workers.len(),
            descriptors: [count(&supervisor)?, of_workers?],
            memory: find_memory(&all)?,
        })
    }
}

impl Baseline {
    /// Whether nothing has leaked. Workers have a socket to each other worker that they have met:
    /// some meet only during the fault, and those that were replaced have not met again.
    fn has_as_many_descriptors_as(&self, other: &Self) -> bool {
        let [supervisor, workers] = self.descriptors;
        let sockets = self.children * self.children.saturating_sub(1);
        supervisor == other.descriptors[0] && workers.abs_diff(other.descriptors[1]) <= sockets
    }
}

impl FaultScene {
    /// Starts a daemon, and healthy peers over these transports.
    pub fn start(setup: DaemonSetup, schemes: &[&str]) -> Self {
        let daemon = setup.start();
        let load = HealthyLoad::start(&daemon, schemes);
        Self::set(daemon, load)
    }

    /// Takes a daemon and its healthy peers, and waits until both are steady.
    pub fn set(daemon: Daemon, load: HealthyLoad) -> Self {
        daemon.wait_for_peers(load.peers());
        let enough = || (load.counts().0 > UNDISTURBED).then_some(());
        eventually("messages to compare with", enough);
        let latency = load.take_latency();
        let before = settled(&daemon);
        Self { daemon, load, before, latency }
    }

    /// Takes the present state as the baseline: the daemon has met the fault once, and has the
    /// buffers that it needs.
    pub fn rehearsed(&mut self) {
        self.daemon.wait_for_peers(self.load.peers());
        self.before = settled(&self.daemon);
    }

    /// The healthy peers.
    pub fn load(&self) -> &HealthyLoad {
        &self.load
    }

    /// Waits until the healthy peers have exchanged messages for this time, which is the time of
    /// the fault, and proves nothing.
    pub fn endure(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.load.goes_on();
        }
    }

    /// Checks what holds after every fault: supervisor and workers live, or were replaced;
    /// children, descriptors and memory are as before; every transport without TLS answers; and the
    /// healthy peers have lost nothing. Their latencies before and during the fault are printed,
    /// not judged.
    ///
    /// # Panics
    /// If one of these does not hold.
    #[track_caller]
    pub fn check(self, what: &str) {
        let Self { mut daemon, load, before, latency } = self;
        load.goes_on();
        let during = load.take_latency();
        let ratio = during.p99.as_secs_f64() / latency.p99.as_secs_f64().max(f64::EPSILON);
        eprintln!("{what}: before: {latency}; meanwhile: {during}: p99 × {ratio:.1}");
        assert_eq!(daemon.process.has_ended(), None, "{what}: the supervisor has ended");
        // TLS requires certificates, so its own cases ping it.
        for scheme in daemon.schemes().into_iter().filter(|scheme| !is_encrypted(scheme)) {
            daemon.ctl(&scheme, &["ping"]).run().expect(0);
        }
        daemon.wait_for_peers(load.peers());
        eventually(&format!("{what}: children as before"), || {
            let living = children(daemon.process.pid());
            let well = living.iter().all(|pid| is_alive(*pid) && state(*pid) != Some('T'));
            (well && living.len() == before.children).then_some(())
        });
        eventually(&format!("{what}: descriptors as before, {before:?}"), || {
            Baseline::of(&daemon).has_as_many_descriptors_as(&before).then_some(())
        });
        // The daemon gives buffers back after a while.
        let most = before.memory + KEPT;
        eventually(&format!("{what}: no more than {most} bytes"), || {
            (Baseline::of(&daemon).memory <= most).then_some(())
        });
        load.goes_on();
        load.finish();
    }
}

/// Waits until two looks in a row are the same, but for memory.
fn settled(daemon: &Daemon) -> Baseline {
    let mut last = Baseline::of(daemon);
    eventually("quiet descriptors", || {
        // The last `status` is a peer too, and may not be closed yet.
        daemon.status();
        let now = Baseline::of(daemon);
        let is_same = now.descriptors == last.descriptors;
        last = now.clone();
        is_same.then_some(now)
    })
}
