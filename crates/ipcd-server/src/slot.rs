//! The place of a worker: its link, and the life in it.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::link::Link;
use crate::supervisor::line_reader::LineReader;

/// A worker that dies younger than this is started again only after a pause.
const INFANCY: Duration = Duration::from_secs(1);
/// The pause before the first such start; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The place of a worker. In a pool, its link and inbox outlive the worker: peers on their way to it
/// are its successor's. A child that serves one peer has a link of its own: hundreds of places would
/// be two descriptors each, which every child has to close.
pub(crate) struct Slot {
    pub(crate) link: Link,
    pub(crate) far_end: Link,
    /// Whether messages wait for room on the link.
    pub(crate) is_blocked: bool,
    /// What the worker logs.
    pub(crate) log: Option<LineReader>,
    pub(crate) state: WorkerState,
    pub(crate) generation: u32,
    /// Since when the worker owes us something.
    pub(crate) owes_since: Option<Instant>,
    /// Whether it has been stopped by a signal.
    pub(crate) is_stopped: bool,
    /// Whether it has said what no worker says, and is being ended: nothing of it counts any more.
    pub(crate) is_condemned: bool,
    /// Whether it was ended because it did not answer.
    pub(crate) has_hung: bool,
    /// Whether it has sent on everything, while the daemon ends.
    pub(crate) is_quiet: bool,
    pause: Duration,
}

/// What lives in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WorkerState {
    /// Nothing.
    Free,
    /// A worker.
    Running {
        /// Its process.
        pid: Pid,
        /// When it was born.
        since: Instant,
        /// Whether it has said that it serves.
        is_ready: bool,
    },
    /// Nothing until then, when it is to be born again.
    Dead {
        /// When.
        until: Instant,
    },
}

impl Slot {
    /// An empty place, without a link yet.
    pub(crate) fn new(state: WorkerState) -> Self {
        Self {
            link: Link::none(),
            far_end: Link::none(),
            is_blocked: false,
            log: None,
            state,
            generation: 0,
            owes_since: None,
            is_stopped: false,
            is_condemned: false,
            has_hung: false,
            is_quiet: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Makes the link.
    pub(crate) fn open(&mut self) -> std::io::Result<()> {
        (self.link, self.far_end) = Link::pair()?;
        Ok(())
    }

    /// Nobody lives here for now, and nothing is left for anybody.
    pub(crate) fn close(&mut self) {
        (self.link, self.far_end) = (Link::none(), Link::none());
        self.is_blocked = false;
        self.state = WorkerState::Free;
    }

    /// The worker's process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.state {
            WorkerState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Whether a worker lives here and was not stopped.
    pub(crate) fn serves(&self) -> bool {
        self.pid().is_some() && !self.is_stopped
    }

    /// A worker was born.
    pub(crate) fn born(&mut self, pid: Pid) {
        self.state = WorkerState::Running { pid, since: Instant::now(), is_ready: false };
        (self.owes_since, self.is_stopped, self.is_quiet) = (None, false, false);
        self.is_condemned = false;
        self.has_hung = false;
    }

    /// When a successor is to be born: at once, unless the worker died in its infancy.
    pub(crate) fn next_birth(&mut self) -> Instant {
        let now = Instant::now();
        match self.state {
            WorkerState::Running { since, is_ready: true, .. } if now - since >= INFANCY => {
                self.pause = FIRST_PAUSE;
                now
            }
            _ => self.after_pause(),
        }
    }

    /// When to try again after a birth that failed.
    pub(crate) fn after_pause(&mut self) -> Instant {
        let pause = self.pause;
        self.pause = (2 * pause).min(LONGEST_PAUSE);
        Instant::now() + pause
    }

    /// Notes whether the worker owes us something now.
    pub(crate) fn note_debt(&mut self, owes: bool, now: Instant) {
        let is_unborn = matches!(self.state, WorkerState::Running { is_ready: false, .. });
        match owes || is_unborn || self.is_stopped {
            true => drop(self.owes_since.get_or_insert(now)),
            false => self.owes_since = None,
        }
    }
}
