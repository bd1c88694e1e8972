//! Forks workers: what all of them inherit, and nothing of what they become.

use std::fs::File;
use std::os::fd::OwnedFd;

use ipcd_core::Directory;
use ipcd_sys::crash_markers::CrashMarkers;
use nix::unistd::Pid;

use crate::Error;
use crate::config::ForkMode;
use crate::ids::SlotId;
use crate::link::Link;
use crate::privileges;
use crate::sandbox::Sandbox;
use crate::supervisor::worker_log;
use crate::supervisor::worker_slot::WorkerSlot;
use crate::worker::{self, CrashMarker, NewPeer, WorkerInit};

const NULL: &str = "/dev/null";

/// The state that workers inherit.
pub(super) struct WorkerLauncher {
    pub(super) fork_mode: ForkMode,
    user: Option<privileges::UserSwitch>,
    sandbox: Sandbox,
    /// Whether there are several slots.
    has_others: bool,
    /// Notes which peer each worker is serving. A worker's death leaves it.
    marks: CrashMarkers,
    /// `/dev/null`, for the standard input and output of workers.
    null: File,
}

impl WorkerLauncher {
    /// For so many slots.
    pub(super) fn new(
        slots: usize,
        fork_mode: ForkMode,
        user: Option<privileges::UserSwitch>,
        sandbox: Sandbox,
    ) -> Result<Self, Error> {
        let marks = CrashMarkers::new(slots).map_err(|error| Error::system("map memory", error))?;
        let null = File::options().read(true).write(true).open(NULL);
        let null = null.map_err(|error| Error::system(format!("open {NULL}"), error))?;
        Ok(Self { fork_mode, user, sandbox, has_others: slots > 1, marks, null })
    }

    /// Forks the next generation of a slot's worker, perhaps for one peer: `only` still has that
    /// afterwards, because the child takes a copy of its own.
    pub(super) fn fork(
        &mut self,
        id: SlotId,
        slot: &mut WorkerSlot,
        directory: &mut Directory,
        config: &mut ipcd_core::Config,
        only: &mut Option<NewPeer>,
        (log, log_end): (OwnedFd, OwnedFd),
    ) -> Result<Pid, Error> {
        slot.generation += 1;
        let generation = slot.generation;
        directory.add_worker(id.0, generation);
        let Self { user, sandbox, has_others, marks, null, .. } = self;
        let far_end = &slot.far_end;
        let supervisor = Pid::this();
        // The closure runs in the child, whose copies of all this are its own: what it takes out of
        // them, the parent still has.
        let forked = ipcd_sys::fork(|| {
            let router_config = ipcd_core::Config { slot: id.0, generation, ..config.take() };
            worker::main(WorkerInit {
                link: far_end,
                supervisor,
                router_config,
                user: *user,
                sandbox,
                directory: has_others.then(|| directory.state()),
                only: only.take(),
                mark: CrashMarker { marks: *marks, place: id.index() },
                null,
                log: &log_end,
            })
        });
        let pid = forked.map_err(|error| Error::system("fork a worker", error))?;
        slot.start(pid, worker_log::reader(log));
        if self.fork_mode == ForkMode::Connection {
            // A child has to close everything that the supervisor holds, so the fewer the better.
            slot.far_end = Link::unconnected();
        }
        Ok(pid)
    }

    /// The peer that a slot's worker was serving when it died. Clears the note.
    pub(super) fn take_crash_marker(&self, slot: SlotId) -> u64 {
        let number = self.marks.get(slot.index());
        self.marks.set(slot.index(), 0);
        number
    }
}
