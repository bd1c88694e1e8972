//! The files that other users may leave in a drop box: pairs of FIFOs, for as long as a client waits, and no
//! more of them than a user needs. Everything else of theirs is removed as soon as it comes: the
//! directory is on the daemon's file system, whose space the files would take.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ipcd_transport::{Error, FoundFile, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, UnlinkatFlags, geteuid, unlinkat};

use crate::record::PairName;

/// FIFOs that a user may have there: two for each client of its that the daemon has not met yet.
const MOST_OF_USER: usize = 1024;
/// The time that they may be there. A client that waits for longer has given up.
const LIFETIME: Duration = Duration::from_secs(60);
/// The interval between searches for older ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Names that are looked at in a call, where the kernel could not tell which ones are new.
const CHUNK: usize = 256;
/// Files below one name that are removed with it, and how deep: a user that makes more keeps some.
const TREE: usize = 1024;
const DEEPEST: usize = 16;

/// Watches a drop box.
pub(crate) struct FifoWarden {
    inotify: Inotify,
    known: HashMap<OsString, (Uid, Instant)>,
    of_user: HashMap<Uid, usize>,
    looked: Instant,
    /// Whether more came than the kernel could tell: the box stays shut until it has been cleared.
    is_shut: bool,
}

/// The result of a look at a drop box.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WardenLook {
    /// Nothing.
    Fine,
    /// No user may put anything in for now.
    Shut,
    /// Others may again.
    Open,
}

impl FifoWarden {
    pub(crate) fn over(drop_box: &FoundFile) -> Result<Self> {
        let made = || -> nix::Result<Inotify> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let events = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVED_FROM;
            inotify.add_watch(Path::new(&drop_box.link()), events)?;
            Ok(inotify)
        };
        let inotify = made().map_err(|error| Error::system("watch a drop box", error))?;
        let (known, of_user) = (HashMap::new(), HashMap::new());
        Ok(Self { inotify, known, of_user, looked: Instant::now(), is_shut: false })
    }

    /// Looks at what has come and gone, within bounds: there may be more to look at afterwards.
    pub(crate) fn look(&mut self, drop_box: &FoundFile, now: Instant) -> WardenLook {
        let events = self.inotify.read_events().unwrap_or_default();
        let was_shut = self.is_shut;
        for event in events {
            self.note(drop_box, event, now);
        }
        if now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.forget_late(drop_box, now);
        }
        if self.is_shut && self.clear(drop_box, now) {
            self.is_shut = false;
        }
        match (was_shut, self.is_shut) {
            (false, true) => WardenLook::Shut,
            (true, false) => WardenLook::Open,
            _ => WardenLook::Fine,
        }
    }

    fn note(&mut self, drop_box: &FoundFile, event: InotifyEvent, now: Instant) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.is_shut = true;
        }
        let Some(name) = event.name else { return };
        if event.mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            self.forget(&name);
        } else {
            self.consider(drop_box, name, now);
        }
    }

    /// Keeps what may be there, and removes what may not; whether it did.
    fn consider(&mut self, drop_box: &FoundFile, name: OsString, now: Instant) -> bool {
        let Ok(found) = FoundFile::inside(drop_box.fd(), Path::new(&name)) else { return false };
        let owner = found.owner();
        if is_ours(owner) || self.known.contains_key(&name) {
            return false;
        }
        let count = self.of_user.entry(owner).or_default();
        let is_of_pair = name.to_str().is_some_and(PairName::is_of_pair);
        if is_of_pair && found.is_fifo() && *count < MOST_OF_USER {
            *count += 1;
            self.known.insert(name, (owner, now));
            return false;
        }
        remove(drop_box.fd().as_fd(), &name, DEEPEST, &mut TREE.clone())
    }

    fn forget(&mut self, name: &OsStr) {
        if let Some((owner, _)) = self.known.remove(name)
            && let Some(count) = self.of_user.get_mut(&owner)
        {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(&owner);
            }
        }
    }

    fn forget_late(&mut self, drop_box: &FoundFile, now: Instant) {
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= LIFETIME;
        let late = self.known.iter().filter(|(_, (_, since))| is_late(since));
        let late: Vec<OsString> = late.map(|(name, _)| name.clone()).collect();
        for name in late {
            self.forget(&name);
            remove(drop_box.fd().as_fd(), &name, 0, &mut 0);
        }
    }

    /// Looks at the next names in the box; whether all are as they may be. What is removed is told by
    /// the kernel, so that there is another call.
    fn clear(&mut self, drop_box: &FoundFile, now: Instant) -> bool {
        let Ok(entries) = fs::read_dir(drop_box.link()) else { return true };
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.filter(|name| !self.known.contains_key(name));
        let names: Vec<_> = names.take(CHUNK).collect();
        let removed = names.into_iter().filter(|name| self.consider(drop_box, name.clone(), now));
        removed.count() == 0
    }
}

impl AsFd for FifoWarden {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Root and the daemon's own user may put there what they like.
fn is_ours(owner: Uid) -> bool {
    owner.is_root() || owner == geteuid()
}

/// Removes all that other users have in a drop box, within bounds.
pub(crate) fn clear_out(drop_box: &FoundFile) {
    let mut budget = CHUNK * TREE;
    for entry in fs::read_dir(drop_box.link()).into_iter().flatten().flatten().take(budget) {
        let name = entry.file_name();
        let found = FoundFile::inside(drop_box.fd(), Path::new(&name));
        if found.is_ok_and(|found| !is_ours(found.owner())) {
            remove(drop_box.fd().as_fd(), &name, DEEPEST, &mut budget);
        }
    }
}

/// Removes what stands in a directory under a name, and what is below it, so deep and so many at the
/// most; whether it is gone. No symlink is followed.
fn remove(directory: BorrowedFd<'_>, name: &OsStr, depth: usize, budget: &mut usize) -> bool {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {}
        removed => return removed.is_ok(),
    }
    if depth > 0 && unlinkat(directory, name, UnlinkatFlags::RemoveDir).is_err() {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        if let Ok(below) = openat(directory, name, flags, Mode::empty()) {
            empty(&below, depth - 1, budget);
        }
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir).is_ok()
}

fn empty(directory: &OwnedFd, depth: usize, budget: &mut usize) {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    for entry in fs::read_dir(link).into_iter().flatten().flatten() {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        remove(directory.as_fd(), &entry.file_name(), depth, budget);
    }
}
