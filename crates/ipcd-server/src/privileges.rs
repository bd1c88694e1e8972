//! Giving up root's rights in a worker.

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    Gid, Group, Uid, User, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
};
use tracing::{info, warn};

use crate::Error;
use crate::config::DaemonConfig;

/// The user and group that workers run as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserSwitch {
    uid: Uid,
    gid: Gid,
}

impl UserSwitch {
    /// The configured user; `None` to stay the same.
    pub(crate) fn of(daemon: &DaemonConfig) -> Result<Option<Self>, Error> {
        let Some(name) = &daemon.user else {
            return Ok(None);
        };
        if !Uid::effective().is_root() {
            return Err(Error::Config(format!("user = {name}: only root can change the user")));
        }
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| Error::Config(format!("user = {name}: no such user")))?;
        Ok(Some(Self { uid: user.uid, gid: group_of(daemon)?.unwrap_or(user.gid) }))
    }

    /// The user that workers run as. They read bytes of strangers, so a missing `user` does not
    /// leave them root's rights: they run as an unprivileged user then.
    pub(crate) fn of_workers(daemon: &DaemonConfig) -> Result<Option<Self>, Error> {
        let asked = Self::of(daemon)?;
        if asked.is_some() || !Uid::effective().is_root() {
            return Ok(asked);
        }
        let known = |name: &str| User::from_name(name).ok().flatten();
        let found = NOBODIES.into_iter().find_map(|name| Some((name, known(name)?)));
        let (name, uid, gid) = match found {
            Some((name, user)) => (name, user.uid, user.gid),
            None => ("nobody", Uid::from_raw(OVERFLOW_ID), Gid::from_raw(OVERFLOW_ID)),
        };
        let nobody = Self { uid, gid: group_of(daemon)?.unwrap_or(gid) };
        // Root may lack the right, or that user does not exist in its namespace (user_namespaces(7)).
        if nobody.is_possible() {
            info!(user = name, "workers give up root's rights");
            return Ok(Some(nobody));
        }
        warn!("workers keep root's rights: this root cannot become another user");
        Ok(None)
    }

    /// Whether a process of ours can become that user: one tries.
    fn is_possible(self) -> bool {
        // Tried in a child, because there is no way back for the process that succeeds.
        let tried = ipcd_sys::fork(|| i32::from(self.apply().is_err()));
        loop {
            match tried.as_ref().map(|pid| waitpid(*pid, None)) {
                Ok(Err(Errno::EINTR)) => {}
                outcome => return matches!(outcome, Ok(Ok(WaitStatus::Exited(_, 0)))),
            }
        }
    }

    /// The user's and the group's number.
    pub(crate) fn ids(self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Becomes that user for good: groups first, for they need the right to, and then checks it.
    pub(crate) fn apply(self) -> Result<(), Error> {
        let failed = |error| Error::system("give up root's rights", error);
        // The groups first and the user last: without root's rights the others could not be
        // changed.
        setgroups(&[self.gid]).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        // A container may let the calls succeed without effect, so it is tried to get root back.
        let is_gone =
            self.uid.is_root() || setresuid(Uid::from_raw(0), self.uid, self.uid).is_err();
        let groups = getgroups().map_err(failed)?;
        let (users, primary) = (getresuid().map_err(failed)?, getresgid().map_err(failed)?);
        let is_user = [users.real, users.effective, users.saved] == [self.uid; 3]
            && [primary.real, primary.effective, primary.saved] == [self.gid; 3];
        if !is_gone || groups != [self.gid] || !is_user {
            return Err(Error::Config("root's rights are still there after giving them up".into()));
        }
        Ok(())
    }
}

/// The default users of workers: the daemon's own, if it exists, or one that owns no files.
const NOBODIES: [&str; 2] = ["ipcd", "nobody"];
/// That one's number where no user has such a name (user_namespaces(7)).
const OVERFLOW_ID: u32 = 65_534;

fn group_of(daemon: &DaemonConfig) -> Result<Option<Gid>, Error> {
    let Some(name) = &daemon.group else { return Ok(None) };
    let group = Group::from_name(name).ok().flatten();
    Ok(Some(group.ok_or_else(|| Error::Config(format!("group = {name}: no such group")))?.gid))
}
