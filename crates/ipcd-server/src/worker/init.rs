//! The start of a worker: what a freshly forked child gets, and how it gives up everything else.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use ipcd_core::DirectoryState;
use ipcd_sys::crash_markers::CrashMarkers;
use ipcd_sys::{MAX_PASSED, close_all_except};
use ipcd_transport::{ChannelParts, Transport};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use crate::alarm::WakeupTimer;
use crate::ids::{AdmissionId, OwnerId};
use crate::link::Link;
use crate::listen::RawProfile;
use crate::sandbox::Sandbox;
use crate::{Error, log, privileges};

/// The arguments of a worker.
pub(crate) struct WorkerInit<'a> {
    pub(crate) link: &'a Link,
    pub(crate) supervisor: Pid,
    pub(crate) router_config: ipcd_core::Config,
    /// The directory that all workers share, if there are several.
    pub(crate) directory: Option<DirectoryState>,
    /// The one peer that the worker is forked for, with `--fork connection`.
    pub(crate) only: Option<NewPeer>,
    pub(crate) user: Option<privileges::UserSwitch>,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) mark: CrashMarker,
    /// Becomes standard input and output.
    pub(crate) null: &'a File,
    /// The pipe that it logs through: becomes standard error.
    pub(crate) log: &'a OwnedFd,
}

/// A peer to be served.
pub(crate) struct NewPeer {
    /// The supervisor's number for it.
    pub(crate) number: AdmissionId,
    /// The listener, server or program that it belongs to.
    pub(crate) owner: OwnerId,
    pub(crate) transport: &'static dyn Transport,
    pub(crate) parts: ChannelParts,
    /// The profile of a raw peer; `None` for one that speaks frames.
    pub(crate) raw_profile: Option<RawProfile>,
}

/// A place in memory that outlives the worker, which notes there the peer that it serves.
pub(crate) struct CrashMarker {
    pub(crate) marks: CrashMarkers,
    pub(crate) place: usize,
}

impl CrashMarker {
    pub(super) fn set(&self, AdmissionId(number): AdmissionId) {
        self.marks.set(self.place, number);
    }
}

/// The descriptors of a worker that is confined.
pub(super) struct ConfinedWorker {
    pub(super) epoll: Epoll,
    pub(super) alarm: WakeupTimer,
    pub(super) link: Link,
    /// From this number on there may be no room for the descriptors of another peer.
    pub(super) last_descriptor: u64,
}

/// Gives up everything that a worker does not need. The order matters: descriptors have to be closed
/// and the user changed before the sandbox forbids it, and epoll and timer made before, too.
pub(super) fn confine(init: &mut WorkerInit<'_>) -> Result<ConfinedWorker, Error> {
    let link = init.link.duplicate().map_err(|error| Error::system("take the link", error))?;
    let mut keep = vec![link.as_fd()];
    let only = init.only.iter().flat_map(|only| &only.parts.descriptors);
    keep.extend(only.map(AsFd::as_fd));
    log::become_worker(init.null, init.log)
        .map_err(|error| Error::system("set the standard descriptors", error))?;
    close_all_except(&keep).map_err(|error| Error::system("close inherited descriptors", error))?;
    if let Some(user) = init.user {
        user.apply()?;
    }
    // After the change of user, which resets it (prctl(2)).
    set_pdeathsig(Signal::SIGKILL).map_err(|error| Error::system("set PDEATHSIG", error))?;
    // A supervisor that died before that has sent no signal.
    if getppid() != init.supervisor {
        return Err(Error::Config("the supervisor is gone".into()));
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|error| Error::system("make an epoll instance", error))?;
    let alarm = WakeupTimer::new().map_err(|error| Error::system("make a timer", error))?;
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| Error::system("ask for the limit on descriptors", error))?;
    // A message brings up to so many descriptors, and those that do not fit are lost. Each other
    // worker may need one, too.
    let others = init.directory.as_ref().map_or(0, |directory| directory.slots());
    let last_descriptor = most.saturating_sub((MAX_PASSED + others) as u64);
    init.sandbox.enter(link.as_fd())?;
    Ok(ConfinedWorker { epoll, alarm, link, last_descriptor })
}
