//! Coprocesses: programs that the daemon runs, whose standard input and output are peers like any
//! other. They are started again when they end, and ended with the daemon. Must not admit peers: what
//! a program's pipes bring comes out as a [`StartedProgram`].

use std::time::{Duration, Instant};

use ipcd_sys::Keeper;
use ipcd_transport::ChannelParts;
use nix::sys::epoll::Epoll;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::exec::ExecConfig;
use crate::ids::{AdmissionId, OwnerId, OwnerSequence};
use crate::listen::RawProfile;
use crate::privileges;
use crate::supervisor::program::{LaunchOutcome, ProcessExit, Program};

/// The programs of the configuration that is in force.
pub(super) struct ProgramSet {
    programs: Vec<Program>,
    /// Ends the programs if this process is killed. It is there while there are programs.
    keeper: Option<Keeper>,
    user: Option<privileges::UserSwitch>,
}

/// A program whose exec(2) has gone well. Its pipes are to be admitted as a peer.
pub(super) struct StartedProgram {
    pub(super) parts: ChannelParts,
    pub(super) raw_profile: RawProfile,
}

impl ProgramSet {
    /// An empty set of programs that run as this user.
    pub(super) fn new(user: Option<privileges::UserSwitch>) -> Self {
        Self { programs: Vec::new(), keeper: None, user }
    }

    /// Makes these the programs that run; those that stay the same go on. The peers of the others,
    /// whose sessions have to end.
    #[must_use]
    pub(super) fn replace(
        &mut self,
        mut wanted: Vec<ExecConfig>,
        owners: &mut OwnerSequence,
        patience: Duration,
    ) -> Vec<AdmissionId> {
        let mut ended = Vec::new();
        for program in self.programs.iter_mut().filter(|program| !program.is_unwanted) {
            match wanted.iter().position(|exec| *exec == program.config) {
                Some(found) => drop(wanted.remove(found)),
                None => {
                    info!(
                        program = program.config.display_name(),
                        "program removed from the configuration"
                    );
                    program.is_unwanted = true;
                    ended.extend(program.peer());
                    program.schedule_end(patience);
                }
            }
        }
        self.forget_ended();
        self.programs.extend(wanted.into_iter().map(|exec| Program::new(owners.take(), exec)));
        ended
    }

    /// The time at which something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.programs.iter().filter_map(Program::next).min()
    }

    /// Does what is due. The peers whose sessions have to end.
    #[must_use]
    pub(super) fn tick(&mut self, now: Instant, epoll: &Epoll) -> Vec<AdmissionId> {
        let mut ended = Vec::new();
        for program in &mut self.programs {
            if program.is_due(now) {
                if self.keeper.is_none() {
                    // Without it, which takes a process, the kernel still ends programs when this
                    // process is killed (PDEATHSIG), but not what they have started.
                    self.keeper = Keeper::start().ok();
                }
                program.start(self.user, epoll);
            }
            ended.extend(program.tick(now, epoll));
        }
        self.forget_ended();
        ended
    }

    /// Reads whether a program was started. [`ProgramSet::set_peer`] has to follow if it was.
    pub(super) fn read_launch(&mut self, owner: OwnerId) -> Option<StartedProgram> {
        let program = self.find(owner)?;
        match program.read_launch() {
            LaunchOutcome::Pending => None,
            LaunchOutcome::Started(parts) => {
                Some(StartedProgram { parts, raw_profile: program.config.raw_profile.clone() })
            }
        }
    }

    /// The peer that a started program has become; `None` if no worker could take it.
    pub(super) fn set_peer(&mut self, owner: OwnerId, peer: Option<AdmissionId>) {
        if let Some(program) = self.find(owner) {
            program.set_peer(peer);
        }
    }

    pub(super) fn read_stderr(&mut self, owner: OwnerId, epoll: &Epoll) {
        if let Some(program) = self.find(owner) {
            program.read_stderr(Instant::now(), epoll);
        }
    }

    /// A program's peer has gone.
    pub(super) fn lose_peer(
        &mut self,
        owner: OwnerId,
        gone: AdmissionId,
        was_cut_off: bool,
        epoll: &Epoll,
    ) {
        if let Some(program) = self.find(owner) {
            program.lose_peer(gone, was_cut_off, epoll);
        }
    }

    /// Kills what programs that have ended leave behind in their process groups. To be called before
    /// they are waited for: then the number of the group may be another's.
    pub(super) fn kill_leftovers(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        for pid in self.programs.iter().filter_map(Program::pid) {
            // WNOWAIT leaves the zombie, and with it the number of the process group.
            let waited = waitid(Id::Pid(pid), flags);
            if matches!(waited, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))) {
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
    }

    /// The program that this process runs.
    pub(super) fn owner_of(&self, pid: Pid) -> Option<OwnerId> {
        let program = self.programs.iter().find(|program| program.pid() == Some(pid));
        program.map(|program| program.owner)
    }

    /// A program's process has ended and was waited for.
    pub(super) fn note_exit(&mut self, owner: OwnerId, pid: Pid, exit: ProcessExit, epoll: &Epoll) {
        self.keeper.iter().for_each(|keeper| keeper.ended(pid));
        if let Some(program) = self.find(owner) {
            program.note_exit(exit, epoll);
        }
    }

    /// Starts no program from now on. Those that run go on until [`ProgramSet::end`].
    pub(super) fn stop(&mut self) {
        for program in &mut self.programs {
            program.is_unwanted = true;
            if program.is_before_exec() {
                program.signal(Signal::SIGKILL);
            }
        }
        self.forget_ended();
    }

    /// Ends the programs. Each gets the messages for it first, and then the end of its input, for at
    /// most `patience`.
    pub(super) fn end(&mut self, patience: Duration) {
        self.programs.iter_mut().for_each(|program| program.schedule_end(patience));
    }

    pub(super) fn kill_all(&self) {
        self.programs.iter().for_each(|program| program.signal(Signal::SIGKILL));
    }

    /// Kills and reaps the programs that did not end in time.
    pub(super) fn kill_remaining(&mut self) {
        for program in self.programs.drain(..) {
            program.signal(Signal::SIGKILL);
            if let Some(pid) = program.pid() {
                let shown = program.config.display_name();
                warn!(program = shown, pid = pid.as_raw(), "program did not end in time");
                let _ = waitpid(pid, None);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    /// The names that access rules may use for each.
    pub(super) fn names(&self) -> impl Iterator<Item = (OwnerId, Vec<String>)> {
        self.programs.iter().map(|program| (program.owner, program.config.names()))
    }

    fn find(&mut self, owner: OwnerId) -> Option<&mut Program> {
        self.programs.iter_mut().find(|program| program.owner == owner)
    }

    fn forget_ended(&mut self) {
        self.programs.retain(|program| !program.is_unwanted || program.is_running());
        if self.programs.is_empty() {
            self.keeper.take().into_iter().for_each(Keeper::leave);
        }
    }
}
