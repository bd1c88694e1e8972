//! TERM and INT: how the daemon ends.

use std::time::{Duration, Instant};

use ipcd_sys::ONE_STOP;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tracing::{info, warn};

use super::Supervisor;
use crate::link::ToWorker;
use crate::slot::Slot;

/// How long workers may take to send on what they have accepted.
const QUIET: Duration = Duration::from_secs(2);

/// How far the daemon's end has come.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// When it began.
    since: Instant,
    /// Workers send on what they have accepted, until then at the latest; then they end.
    pub(super) quiet_by: Option<Instant>,
    /// When it must be over.
    pub(super) deadline: Instant,
}

impl Supervisor {
    /// Stops accepting and lets the workers end; at a later signal, ends them.
    pub(super) fn drain(&mut self, signal: Signal) {
        if let Some(ending) = self.ending {
            if ending.since.elapsed() < ONE_STOP {
                return;
            }
            info!(%signal, "ending at once");
            self.children.iter().for_each(|child| child.signal(Signal::SIGKILL));
            return (0..self.slots.len()).for_each(|index| self.kill(index));
        }
        info!(%signal, "draining");
        let status = format!("draining, for at most {}", self.config.daemon.drain_timeout);
        self.herald.say(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        self.listeners.clear();
        self.stop_dialling();
        self.stop_programs();
        let now = Instant::now();
        let deadline = now + self.config.daemon.drain_timeout.duration();
        let quiet_by = Some((now + QUIET).min(deadline));
        self.ending = Some(Ending { since: now, quiet_by, deadline });
        self.tell_everybody(|| ToWorker::Quiesce);
    }

    /// Whether the daemon's end is over: nobody is left, or the time is up. On the way there,
    /// workers are told to end once all have sent on what they had accepted.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(Ending { since, quiet_by, deadline }) = self.ending else {
            return false;
        };
        let now = Instant::now();
        let is_quiet = |slot: &Slot| slot.is_quiet || slot.pid().is_none();
        if quiet_by.is_some_and(|by| now >= by || self.slots.iter().all(is_quiet)) {
            self.ending = Some(Ending { since, quiet_by: None, deadline });
            self.tell_everybody(|| ToWorker::Drain);
            self.end_programs();
        }
        let left: Vec<(usize, Pid)> = self
            .slots
            .iter()
            .map(Slot::pid)
            .enumerate()
            .filter_map(|(index, pid)| Some((index, pid?)))
            .collect();
        let is_left = !left.is_empty() || !self.children.is_empty();
        if is_left && now < deadline {
            return false;
        }
        self.kill_programs();
        for (index, pid) in left {
            warn!(slot = index, "peers did not take what was left for them in time");
            self.kill(index);
            let _ = waitpid(pid, None);
            self.finish_log(index, pid);
        }
        self.pid_file = None;
        info!("ended");
        true
    }
}
