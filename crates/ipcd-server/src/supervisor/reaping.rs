//! Children that have ended: workers, diallers and programs.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tracing::warn;

use super::Supervisor;
use crate::slot::WorkerState;

impl Supervisor {
    /// Collects children that have ended, and notes workers that were stopped.
    pub(super) fn reap(&mut self) {
        self.end_leftovers();
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, status)) => self.bury(pid, status, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.bury(pid, 0, Some(signal)),
                Ok(WaitStatus::Stopped(pid, _)) => self.note_stopped(pid, true),
                Ok(WaitStatus::Continued(pid)) => self.note_stopped(pid, false),
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn slot_of(&self, pid: Pid) -> Option<usize> {
        self.occupied.iter().copied().find(|index| self.slots[*index].pid() == Some(pid))
    }

    fn note_stopped(&mut self, pid: Pid, is_stopped: bool) {
        if let Some(index) = self.slot_of(pid) {
            self.slots[index].is_stopped = is_stopped;
        }
    }

    fn bury(&mut self, pid: Pid, status: i32, signal: Option<Signal>) {
        let Some(index) = self.slot_of(pid) else {
            self.dialler_ended(pid);
            return self.program_ended(pid, status, signal);
        };
        // What the dead one had said comes before anything that its successor says.
        self.hear_last_words(index);
        self.finish_log(index, pid);
        let has_done_its_work = status == 0 && signal.is_none();
        // Who sends SIGKILL from outside means the worker.
        if !has_done_its_work && (signal != Some(Signal::SIGKILL) || self.slots[index].has_hung) {
            self.suspect(index);
        }
        self.release_orphans(index);
        let told = self.table.died(index as u32);
        let per_connection = self.serves_per_connection();
        let slot = &mut self.slots[index];
        if self.ending.is_none() && !has_done_its_work {
            let why =
                (signal == Some(Signal::SIGSYS)).then_some("its sandbox forbids what it tried");
            let signal = signal.map(Signal::as_str);
            warn!(pid = pid.as_raw(), slot = index, status, signal, why, "worker died");
        }
        slot.owes_since = None;
        match per_connection {
            true => {
                // It leaves the set by itself only when no other process has it any more.
                let _ = self.epoll.delete(&slot.link);
                self.vacate(index);
            }
            false => slot.state = WorkerState::Dead { until: slot.next_birth() },
        }
        self.tell_news(told);
    }
}
