//! The rights of a path that a listener makes.

use std::fmt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use crate::error::ErrorContext;
use crate::{Endpoint, Error, FoundFile, PeerIdentity, Result};

/// Mode, owner and group of a path, from the options `mode=`, `owner=` and `group=`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PathRights {
    mode: u32,
    owner: Option<Uid>,
    group: Option<Gid>,
}

impl PathRights {
    /// The endpoint options that this type reads.
    pub const OPTIONS: [&'static str; 3] = ["mode", "owner", "group"];

    /// Access for the daemon's own user only.
    pub const PRIVATE: u32 = 0o600;

    /// The rights that the endpoint asks for; the mode is `default_mode` unless it says otherwise.
    pub fn of(endpoint: &Endpoint, default_mode: u32) -> Result<Self> {
        let mode = match endpoint.option("mode") {
            None => default_mode,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 => mode,
                _ => {
                    return Err(
                        endpoint.error(format_args!("mode={text}: no octal mode like 0660"))
                    );
                }
            },
        };
        let owner = endpoint.option("owner").map(|name| user(endpoint, name)).transpose()?;
        let group = endpoint.option("group").map(|name| group(endpoint, name)).transpose()?;
        Ok(Self { mode, owner, group })
    }

    /// Whether users other than the owner may write, which for a socket or FIFO means connect.
    pub fn is_shared(&self) -> bool {
        self.mode & 0o022 != 0
    }

    /// Whether users other than the owner may read it.
    pub fn is_readable_by_others(&self) -> bool {
        self.mode & 0o044 != 0
    }

    /// The user that `owner=` names.
    pub fn owner_of(endpoint: &Endpoint) -> Result<Option<Uid>> {
        endpoint.option("owner").map(|name| user(endpoint, name)).transpose()
    }

    /// Whether the endpoint says anything about it.
    pub fn is_given(endpoint: &Endpoint) -> bool {
        Self::OPTIONS.into_iter().any(|key| endpoint.option(key).is_some())
    }

    /// Whether a file of this user may be the one that is meant.
    pub fn may_be_of(&self, owner: Uid) -> bool {
        owner == geteuid() || self.owner == Some(owner)
    }

    /// Whether the file system would let a process with these credentials write to a path with
    /// these rights, and so connect: for what has no path. The first group is the process' own.
    pub fn admits(&self, user: u32, groups: &[u32]) -> bool {
        let owner = self.owner.unwrap_or_else(geteuid);
        let group = self.group.unwrap_or_else(getegid);
        let right = match Uid::from_raw(user) {
            // Root passes permission checks of files (capabilities(7), CAP_DAC_OVERRIDE).
            user if user.is_root() => return true,
            user if user == owner => 0o200,
            _ if groups.contains(&group.as_raw()) => 0o020,
            _ => 0o002,
        };
        self.mode & right != 0
    }

    /// Refuses a peer that is [not admitted](PathRights::admits).
    pub fn check(&self, who: &PeerIdentity, groups: &[u32], at: &Endpoint) -> Result<()> {
        match who.uid.is_some_and(|user| self.admits(user, groups)) {
            true => Ok(()),
            false => Err(Error::Protocol(format!(
                "{at}: connection of {who} refused: rights are {self}"
            ))),
        }
    }

    /// Sets owner, group and then the mode, whatever the umask; the path is for errors.
    pub fn apply(&self, file: &FoundFile, path: &Path) -> Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            file.set_owner(self.owner, self.group)
                .context(|| format!("change the owner of {}", path.display()))?;
        }
        // After chown(2), which clears set-id bits and may be refused.
        file.set_mode(self.mode).context(|| format!("change the mode of {}", path.display()))
    }
}

impl fmt::Display for PathRights {
    /// As options have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode={:04o}", self.mode)?;
        self.owner.map_or(Ok(()), |owner| write!(f, "&owner={owner}"))?;
        self.group.map_or(Ok(()), |group| write!(f, "&group={group}"))
    }
}

fn user(endpoint: &Endpoint, name: &str) -> Result<Uid> {
    if let Ok(uid) = name.parse() {
        return Ok(Uid::from_raw(uid));
    }
    let user = User::from_name(name).ok().flatten();
    Ok(user.ok_or_else(|| endpoint.error(format_args!("owner={name}: no such user")))?.uid)
}

fn group(endpoint: &Endpoint, name: &str) -> Result<Gid> {
    if let Ok(gid) = name.parse() {
        return Ok(Gid::from_raw(gid));
    }
    let group = Group::from_name(name).ok().flatten();
    Ok(group.ok_or_else(|| endpoint.error(format_args!("group={name}: no such group")))?.gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_modes_and_names() {
        let access = |text: &str| PathRights::of(&text.parse().unwrap(), 0o600);
        assert_eq!(access("unix:///x").unwrap().mode, 0o600);
        assert!(!access("unix:///x?mode=0640").unwrap().is_shared());
        assert!(access("unix:///x?mode=0660&owner=root&group=0").unwrap().is_shared());
        for bad in ["mode=9", "mode=1777", "mode=rw", "owner=no-such-user", "group=no-such-group"] {
            assert!(access(&format!("unix:///x?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn admits_whom_the_file_system_would() {
        let access = |text: &str| PathRights::of(&format!("unix:@x{text}").parse().unwrap(), 0o600);
        let (us, group) = (geteuid().as_raw(), getegid().as_raw());
        let (other, foreign) = (us + 70_001, group + 70_001);
        let admits = |text: &str, user, groups: &[u32]| access(text).unwrap().admits(user, groups);
        assert!(admits("", us, &[foreign]) && admits("", 0, &[foreign]));
        assert!(!admits("", other, &[group]) && !admits("?mode=0644", other, &[group]));
        assert!(admits("?mode=0620", other, &[foreign, group]));
        assert!(!admits("?mode=0620", other, &[foreign]));
        assert!(admits("?mode=0602", other, &[foreign]) && !admits("?mode=0602", other, &[group]));
        let given = format!("?mode=0600&owner={other}");
        assert!(admits(&given, other, &[foreign]) && !admits(&given, other + 1, &[foreign]));
        assert!(admits(&format!("?mode=0660&group={foreign}"), other, &[1, foreign]));
    }
}
