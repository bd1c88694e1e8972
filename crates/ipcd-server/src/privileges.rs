//! Giving up root's rights in a worker, and the limits that a daemon needs.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{
    Gid, Group, Uid, User, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
};

use crate::Error;
use crate::config::Daemon;

/// The user and group that workers run as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drop {
    uid: Uid,
    gid: Gid,
}

impl Drop {
    /// What the configuration asks for; `None` to stay as one is.
    pub(crate) fn of(daemon: &Daemon) -> Result<Option<Self>, Error> {
        let Some(name) = &daemon.user else {
            return Ok(None);
        };
        if !Uid::effective().is_root() {
            return Err(Error::Config(format!("user = {name}: only root can change the user")));
        }
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| Error::Config(format!("user = {name}: no such user")))?;
        let gid = match &daemon.group {
            None => user.gid,
            Some(name) => {
                let group = Group::from_name(name).ok().flatten();
                group.ok_or_else(|| Error::Config(format!("group = {name}: no such group")))?.gid
            }
        };
        Ok(Some(Self { uid: user.uid, gid }))
    }

    /// The user's and the group's number.
    pub(crate) fn ids(self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Becomes that user for good: groups first, for they need the right to, and then checks it.
    pub(crate) fn apply(self) -> Result<(), Error> {
        let failed = |error| Error::system("give up root's rights", error);
        setgroups(&[self.gid]).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        let is_gone =
            self.uid.is_root() || setresuid(Uid::from_raw(0), self.uid, self.uid).is_err();
        let groups = getgroups().map_err(failed)?;
        let (users, primary) = (getresuid().map_err(failed)?, getresgid().map_err(failed)?);
        let is_user = [users.real, users.effective, users.saved] == [self.uid; 3]
            && [primary.real, primary.effective, primary.saved] == [self.gid; 3];
        if !is_gone || groups != [self.gid] || !is_user {
            return Err(Error::Config("root's rights could not be given up".into()));
        }
        Ok(())
    }
}

/// A limit on open descriptors, as setrlimit(2) has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorLimit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Allows as many open descriptors as the system lets us; returns what was allowed before.
pub(crate) fn raise_descriptor_limit() -> Option<DescriptorLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // Where it fails, the limit stays, and admission meets it peer by peer.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Some(DescriptorLimit { soft, hard })
}
