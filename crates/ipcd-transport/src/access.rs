//! Who may open a path that a listener makes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, chown};

use crate::error::Context;
use crate::{Endpoint, Result};

/// Mode, owner and group of a path, from the options `mode=`, `owner=` and `group=`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    mode: u32,
    owner: Option<Uid>,
    group: Option<Gid>,
}

impl Access {
    /// The endpoint options that this type reads.
    pub const OPTIONS: [&'static str; 3] = ["mode", "owner", "group"];

    /// Access for the daemon's own user only.
    pub const PRIVATE: u32 = 0o600;

    /// What the endpoint asks for; the mode is `default_mode` unless it says otherwise.
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

    /// Sets owner, group and then the mode, whatever the umask.
    pub fn apply(&self, path: &Path) -> Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            chown(path, self.owner, self.group)
                .context(|| format!("change the owner of {}", path.display()))?;
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(self.mode))
            .context(|| format!("change the mode of {}", path.display()))
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
        let access = |text: &str| Access::of(&text.parse().unwrap(), 0o600);
        assert_eq!(access("unix:///x").unwrap().mode, 0o600);
        assert!(!access("unix:///x?mode=0640").unwrap().is_shared());
        assert!(access("unix:///x?mode=0660&owner=root&group=0").unwrap().is_shared());
        for bad in ["mode=9", "mode=1777", "mode=rw", "owner=no-such-user", "group=no-such-group"] {
            assert!(access(&format!("unix:///x?{bad}")).is_err(), "{bad}");
        }
    }
}
