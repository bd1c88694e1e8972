//! Reaps children that have ended: workers, diallers and programs.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tracing::warn;

use super::Supervisor;
use super::program::ProcessExit;
use crate::ids::SlotId;

impl Supervisor {
    /// Reaps children that have ended, and notes workers that a signal has stopped or continued. One
    /// SIGCHLD may stand for several children (signal(7)), so it goes on until none is left.
    pub(super) fn reap(&mut self) {
        self.programs.kill_leftovers();
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, status)) => {
                    self.bury(pid, ProcessExit { status, signal: None });
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.bury(pid, ProcessExit { status: 0, signal: Some(signal) });
                }
                Ok(WaitStatus::Stopped(pid, _)) => self.note_stopped(pid, true),
                Ok(WaitStatus::Continued(pid)) => self.note_stopped(pid, false),
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn note_stopped(&mut self, pid: Pid, is_stopped: bool) {
        if let Some(slot) = self.workers.slot_of(pid) {
            self.workers.slot(slot).is_stopped = is_stopped;
        }
    }

    fn bury(&mut self, pid: Pid, exit: ProcessExit) {
        if let Some(slot) = self.workers.slot_of(pid) {
            return self.bury_worker(slot, pid, exit);
        }
        // Its last message may be on its link still.
        if let Some(server) = self.servers.owner_of(pid) {
            return self.read_dialler(server);
        }
        if let Some(program) = self.programs.owner_of(pid) {
            // It may have run for a moment, and have written something for its subject.
            self.read_launch(program);
            self.programs.note_exit(program, pid, exit, &self.epoll);
        }
    }

    fn bury_worker(&mut self, id: SlotId, pid: Pid, exit: ProcessExit) {
        let ProcessExit { status, signal } = exit;
        // Before anything that its successor says.
        self.read_last_messages(id);
        self.workers.slot(id).finish_log(pid, &self.epoll);
        let has_ended_well = status == 0 && signal.is_none();
        let has_hung = self.workers.slot(id).has_hung;
        // A SIGKILL that is not the watchdog's comes from outside, and no peer is to blame.
        if !has_ended_well && (signal != Some(Signal::SIGKILL) || has_hung) {
            self.peer_intake().suspect(id);
        }
        let lost = self.peer_intake().release_orphans(id);
        lost.into_iter().for_each(|lost| self.lose_peer(lost));
        if self.shutdown.is_none() && !has_ended_well {
            let why =
                (signal == Some(Signal::SIGSYS)).then_some("its sandbox forbids what it tried");
            let signal = signal.map(Signal::as_str);
            warn!(pid = pid.as_raw(), slot = id.0, status, signal, why, "worker died");
        }
        self.workers.bury(id, &self.epoll);
    }
}
