//! The slot of a worker: its link, its log, and the worker that lives in it now.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcd_core::DirectoryEvent;
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{error, warn};

use crate::Error;
use crate::ids::SlotId;
use crate::link::{Link, ToWorker, is_gone};
use crate::supervisor::event_source::{EventSource, watch};
use crate::supervisor::line_reader::LineReader;
use crate::supervisor::worker_log;
use crate::supervisor::worker_watchdog::{LinkState, WorkerWatchdog, sample_process};

/// A worker that dies younger than this is started again only after a pause.
const INFANCY: Duration = Duration::from_secs(1);
/// The pause before the first such start; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The slot of a worker. In a pool, its link outlives the worker: peers on their way to it go
/// to its successor. A child that serves one peer has a link of its own: hundreds of slots would hold
/// two descriptors each, which every child has to close.
pub(super) struct WorkerSlot {
    pub(super) link: Link,
    pub(super) far_end: Link,
    /// Whether messages wait for room on the link.
    pub(super) is_blocked: bool,
    /// The pipe that the worker logs through.
    log: Option<LineReader>,
    pub(super) state: WorkerState,
    pub(super) generation: u32,
    watchdog: WorkerWatchdog,
    /// The last change of the directory that was sent to it, and the last one that it has confirmed.
    sent_epoch: u64,
    confirmed_epoch: u64,
    /// Whether messages of it are left for the next turn.
    pub(super) has_unread: bool,
    /// Whether a signal has stopped it.
    pub(super) is_stopped: bool,
    /// Whether it has violated the protocol and is being ended: nothing of it counts any more.
    is_condemned: bool,
    /// Whether it was ended because it did not answer.
    pub(super) has_hung: bool,
    /// Whether it has sent on everything, while the daemon ends.
    pub(super) is_quiet: bool,
    pause: Duration,
}

/// The state of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorkerState {
    /// No worker, and none to come unless a peer needs one.
    Free,
    /// A worker.
    Running {
        pid: Pid,
        since: Instant,
        /// Whether it has said that it serves.
        is_ready: bool,
    },
    /// No worker until this time, when one is forked.
    Dead { until: Instant },
}

impl WorkerSlot {
    /// An empty slot, without a link yet.
    pub(super) fn new(state: WorkerState) -> Self {
        Self {
            link: Link::unconnected(),
            far_end: Link::unconnected(),
            is_blocked: false,
            log: None,
            state,
            generation: 0,
            watchdog: WorkerWatchdog::default(),
            sent_epoch: 0,
            confirmed_epoch: 0,
            has_unread: false,
            is_stopped: false,
            is_condemned: false,
            has_hung: false,
            is_quiet: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Makes the link, and has epoll watch it.
    pub(super) fn open(&mut self, id: SlotId, epoll: &Epoll) -> Result<(), Error> {
        (self.link, self.far_end) =
            Link::pair().map_err(|error| Error::system("make the link of a worker", error))?;
        watch(epoll, &self.link, EventSource::WorkerLink(id))
    }

    /// Frees the slot. Nothing is left for a successor.
    pub(super) fn close(&mut self) {
        (self.link, self.far_end) = (Link::unconnected(), Link::unconnected());
        self.is_blocked = false;
        self.state = WorkerState::Free;
    }

    /// The worker's process.
    pub(super) fn pid(&self) -> Option<Pid> {
        match self.state {
            WorkerState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.state, WorkerState::Free)
    }

    /// Whether a worker lives here that no signal has stopped.
    pub(super) fn serves(&self) -> bool {
        self.pid().is_some() && !self.is_stopped
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, WorkerState::Running { is_ready: true, .. })
    }

    /// The worker has said that it serves.
    pub(super) fn set_ready(&mut self) {
        if let WorkerState::Running { is_ready, .. } = &mut self.state {
            *is_ready = true;
        }
    }

    /// A worker was forked.
    pub(super) fn start(&mut self, pid: Pid, log: LineReader) {
        self.state = WorkerState::Running { pid, since: Instant::now(), is_ready: false };
        (self.is_stopped, self.is_quiet, self.has_unread) = (false, false, false);
        (self.sent_epoch, self.confirmed_epoch) = (0, 0);
        self.watchdog.clear();
        (self.is_condemned, self.has_hung) = (false, false);
        self.log = Some(log);
    }

    /// The worker has died. Its successor is due at once, unless it died in its infancy: what kills
    /// workers at their start would otherwise have the processor for itself.
    pub(super) fn schedule_successor(&mut self) {
        let now = Instant::now();
        self.watchdog.clear();
        match self.state {
            WorkerState::Running { since, is_ready: true, .. } if now - since >= INFANCY => {
                self.pause = FIRST_PAUSE;
                self.state = WorkerState::Dead { until: now };
            }
            _ => self.schedule_retry(),
        }
    }

    /// Forks again after a pause.
    pub(super) fn schedule_retry(&mut self) {
        let pause = self.pause;
        self.pause = (2 * pause).min(LONGEST_PAUSE);
        self.state = WorkerState::Dead { until: Instant::now() + pause };
    }

    /// The time at which a worker is to be forked.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.state {
            WorkerState::Dead { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn kill(&self) {
        if let Some(pid) = self.pid() {
            // It is our child and was not waited for, so the number is still its own.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Sends a message to the worker, if one lives here.
    pub(super) fn send(&mut self, message: &ToWorker, fds: Vec<OwnedFd>) {
        if self.pid().is_none() {
            return;
        }
        if let ToWorker::DirectoryEvent(DirectoryEvent::Changes { epoch, .. }) = message {
            self.sent_epoch = *epoch;
        }
        if let Err(error) = self.link.send(message, fds)
            // A worker that has just ended needs no message.
            && !is_gone(&error)
        {
            error!(%error, "cannot send a message to a worker");
        }
    }

    /// Sends what waits for room on the link.
    pub(super) fn flush(&mut self) {
        if let Err(error) = self.link.flush()
            && !is_gone(&error)
        {
            warn!(source = "hand over", %error, "cannot hand a peer to its worker");
        }
    }

    /// Has epoll report room on the link while messages wait for it.
    pub(super) fn arm(&mut self, id: SlotId, epoll: &Epoll) -> nix::Result<()> {
        let is_blocked = self.link.waiting() > 0 && !self.link.lacks_memory();
        if is_blocked != self.is_blocked {
            let write = if is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut event = EventSource::WorkerLink(id).event(EpollFlags::EPOLLIN | write);
            epoll.modify(&self.link, &mut event)?;
            self.is_blocked = is_blocked;
        }
        Ok(())
    }

    /// Whether the worker has violated the protocol: nothing that it says counts any more.
    pub(super) fn is_condemned(&self) -> bool {
        self.is_condemned
    }

    pub(super) fn condemn(&mut self, id: SlotId, why: &str) {
        if !std::mem::replace(&mut self.is_condemned, true) {
            error!(slot = id.0, why, "worker violated the protocol: killing it");
        }
    }

    /// Notes that the worker has confirmed all changes up to this one.
    pub(super) fn note_confirmed(&mut self, epoch: u64) {
        self.confirmed_epoch = epoch;
    }

    /// Kills a worker that hangs.
    pub(super) fn check_watchdog(&mut self, id: SlotId, now: Instant, limit: Duration) {
        let Some(pid) = self.pid() else { return };
        if self.link.lacks_memory() {
            // Then the kernel is to blame, and not the worker.
            return self.watchdog.clear();
        }
        let link = LinkState {
            sent_epoch: self.sent_epoch,
            confirmed_epoch: self.confirmed_epoch,
            sent: self.link.sent(),
            blocked: self.link.waiting() as u64,
            is_starting: !self.is_ready(),
            is_stopped: self.is_stopped,
            has_unread: self.has_unread,
        };
        if self.watchdog.check(link, now, limit, || sample_process(pid)) {
            warn!(slot = id.0, "worker does not answer: killing it");
            self.has_hung = !self.is_stopped;
            self.kill();
        }
    }

    /// The time of the watchdog's next check.
    pub(super) fn next_check(&self, limit: Duration) -> Option<Instant> {
        self.watchdog.next(limit)
    }

    /// The time at which its log is to be read although it may be silent.
    pub(super) fn next_of_log(&self) -> Option<Instant> {
        self.log.as_ref().and_then(LineReader::next)
    }

    /// Logs what the worker has written.
    pub(super) fn read_log(&mut self, id: SlotId, epoll: &Epoll) {
        if let (Some(pid), Some(log)) = (self.pid(), &mut self.log) {
            worker_log::relay(pid, log.read(Instant::now()));
        }
        self.arm_log(id, epoll);
    }

    /// Logs what a dead worker had written, and closes its pipe.
    pub(super) fn finish_log(&mut self, pid: Pid, epoll: &Epoll) {
        if let Some(mut log) = self.log.take() {
            log.disarm(epoll);
            worker_log::relay(pid, log.finish());
        }
    }

    pub(super) fn arm_log(&mut self, id: SlotId, epoll: &Epoll) {
        if let Some(log) = &mut self.log {
            log.arm(epoll, EventSource::WorkerLog(id));
        }
    }
}
