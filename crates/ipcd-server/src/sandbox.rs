//! The sandbox of workers: what a worker that a peer has taken over can still do.
//!
//! The supervisor tries it once, in a child that does what a worker will do, so that it knows what
//! this system gives before the first peer comes; a worker that gets less than that ends. A worker
//! enters it when it has all its descriptors and before it says READY, so before it has read a byte
//! of a peer.

mod filter;
mod landlock;

use std::fmt;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::prctl::{get_no_new_privs, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::filter::CallFilter;
use crate::Error;
use crate::config::SandboxMode;
use crate::link::{Link, ReceiveOutcome};

/// The confinement of workers.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    level: SandboxLevel,
    filter: Result<CallFilter, String>,
}

/// The layers of the sandbox, and which of them are in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct SandboxLevel {
    seccomp: SandboxLayer,
    landlock: SandboxLayer,
    no_new_privs: SandboxLayer,
}

/// One of the kernel's means.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
enum SandboxLayer {
    /// It was not asked for.
    #[default]
    Off,
    /// It is in force; its name.
    On(String),
    /// Part of it is in force; its name, and what is missing.
    Partly(String, String),
    /// It is not in force, and why.
    Missing(String),
}

impl Sandbox {
    /// Finds out what this system gives.
    ///
    /// # Errors
    /// If something is missing that is required.
    pub(crate) fn prepare(mode: SandboxMode) -> Result<Self, Error> {
        if mode == SandboxMode::Off {
            let filter = Err("it was not asked for".into());
            return Ok(Self { level: SandboxLevel::default(), filter });
        }
        let filter = CallFilter::compile();
        let level = try_out(&filter)?;
        let missing = level.missing();
        if mode == SandboxMode::Required && !missing.is_empty() {
            return Err(Error::Config(format!(
                "sandbox = \"required\", but {missing}: \"best-effort\" takes what there is"
            )));
        }
        Ok(Self { level, filter })
    }

    /// Tells the log what is in force.
    pub(crate) fn log(&self) {
        let Self { level, .. } = self;
        match level.missing().is_empty() {
            // No field: in JSON it would have the name of the line's own level.
            true => info!("sandbox level={level}"),
            false => warn!("sandbox level={level}"),
        }
    }

    /// The layers that are in force.
    pub(crate) fn level(&self) -> &SandboxLevel {
        &self.level
    }

    /// Confines this process for good, as far as the trial has shown to be possible. It can use its
    /// link, which a successor may take over, but not change what it is: close the connection, make
    /// it block, shrink its buffer.
    ///
    /// # Errors
    /// If less is in force than in the trial.
    pub(crate) fn enter(&self, link: BorrowedFd<'_>) -> Result<(), Error> {
        if self.level == SandboxLevel::default() {
            return Ok(());
        }
        let shared = link.as_raw_fd();
        let level = confine(&self.filter, shared..=shared);
        if level != self.level {
            let (got, expected) = (level.to_string(), self.level.to_string());
            return Err(Error::Config(format!("the sandbox is {got}, where it was {expected}")));
        }
        Ok(())
    }
}

impl SandboxLevel {
    fn layers(&self) -> [&SandboxLayer; 3] {
        [&self.seccomp, &self.landlock, &self.no_new_privs]
    }

    /// The layers that were asked for and are not in force; empty if all are.
    fn missing(&self) -> String {
        let missing = self.layers().into_iter().filter_map(|layer| match layer {
            SandboxLayer::Partly(_, why) | SandboxLayer::Missing(why) => Some(why.as_str()),
            SandboxLayer::Off | SandboxLayer::On(_) => None,
        });
        missing.collect::<Vec<_>>().join("; ")
    }
}

/// `full (seccomp, landlock ABI 6, no_new_privs)`, `partial (seccomp: why not the rest)`, `off`.
impl fmt::Display for SandboxLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_force = self.layers().into_iter().filter_map(|layer| match layer {
            SandboxLayer::On(name) | SandboxLayer::Partly(name, _) => Some(name.as_str()),
            SandboxLayer::Off | SandboxLayer::Missing(_) => None,
        });
        let (in_force, missing) = (in_force.collect::<Vec<_>>().join(", "), self.missing());
        match (in_force.is_empty(), missing.is_empty()) {
            (true, true) => f.write_str("off"),
            (true, false) => write!(f, "off ({missing})"),
            (false, true) => write!(f, "full ({in_force})"),
            (false, false) => write!(f, "partial ({in_force}: {missing})"),
        }
    }
}

/// Does in a child what each worker will do, and asks it how that went.
fn try_out(filter: &Result<CallFilter, String>) -> Result<SandboxLevel, Error> {
    let failed = |error| Error::system("try the sandbox", error);
    let (mut here, mut there) = Link::pair().map_err(failed)?;
    let child = ipcd_sys::fork(|| {
        match there.send(&check_filtering(confine(filter, NOBODYS)), Vec::new()) {
            Ok(()) => 0,
            Err(_) => 1,
        }
    });
    let ended = waitpid(child.map_err(failed)?, None);
    let ended = ended.map_err(|error| Error::system("wait for the trial of the sandbox", error))?;
    match (ended, here.receive()) {
        (WaitStatus::Exited(_, 0), Ok(ReceiveOutcome::Message(level, _))) => Ok(level),
        (ended, _) => {
            let why = format!("the trial of the sandbox has failed ({ended:?})");
            Ok(SandboxLevel { seccomp: SandboxLayer::Missing(why), ..SandboxLevel::default() })
        }
    }
}

/// A descriptor that there is not.
const NOBODYS: RangeInclusive<RawFd> = RawFd::MAX..=RawFd::MAX;

/// Confines this process as far as the system allows, and says how far that is.
fn confine(filter: &Result<CallFilter, String>, shared: RangeInclusive<RawFd>) -> SandboxLevel {
    limit_resources();
    // First: without root's rights the others require it (seccomp(2), landlock_restrict_self(2)).
    let no_new_privs = match set_no_new_privs().and_then(|()| get_no_new_privs()) {
        Ok(true) => SandboxLayer::On("no_new_privs".into()),
        Ok(false) => SandboxLayer::Missing("no no_new_privs: it has no effect".into()),
        Err(error) => SandboxLayer::Missing(format!("no no_new_privs: {error}")),
    };
    let landlock = landlock::restrict();
    // Last: it forbids what the others need.
    let seccomp = match filter.clone().and_then(|filter| filter.install(shared)) {
        Ok(()) => SandboxLayer::On("seccomp".into()),
        Err(why) => SandboxLayer::Missing(format!("no seccomp: {why}")),
    };
    SandboxLevel { seccomp, landlock, no_new_privs }
}

/// The rest of what a worker never needs. No limit on the size of files: the log may be one.
fn limit_resources() {
    for resource in [
        // Secrets and messages are in memory.
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_MSGQUEUE,
    ] {
        // To lower a limit is always allowed (setrlimit(2)).
        let _ = setrlimit(resource, 0, 0);
    }
}

/// The same level, without a filter that does not filter: a system that imitates Linux may take it
/// and not heed it.
fn check_filtering(level: SandboxLevel) -> SandboxLevel {
    // Landlock alone would say EACCES.
    let refused = File::open("/").err().and_then(|error| error.raw_os_error());
    if !matches!(level.seccomp, SandboxLayer::On(_)) || refused == Some(Errno::EPERM as i32) {
        return level;
    }
    SandboxLevel { seccomp: SandboxLayer::Missing("no seccomp: it has no effect".into()), ..level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_says_what_is_in_force_and_what_is_missing() {
        let on = |name: &str| SandboxLayer::On(name.into());
        let level = |seccomp, landlock| SandboxLevel { seccomp, landlock, no_new_privs: on("nnp") };
        let missing = || SandboxLayer::Missing("no landlock".into());
        let partly = SandboxLayer::Partly("landlock ABI 4".into(), "no scopes".into());
        for (level, text) in [
            (level(on("seccomp"), on("landlock ABI 6")), "full (seccomp, landlock ABI 6, nnp)"),
            (level(on("seccomp"), partly), "partial (seccomp, landlock ABI 4, nnp: no scopes)"),
            (
                level(SandboxLayer::Missing("no seccomp".into()), missing()),
                "partial (nnp: no seccomp; no landlock)",
            ),
            (SandboxLevel { landlock: missing(), ..SandboxLevel::default() }, "off (no landlock)"),
            (SandboxLevel::default(), "off"),
        ] {
            assert_eq!(level.to_string(), text);
        }
    }
}
