//! The place of a daemon if nothing says so: its runtime directory, and the names of files and
//! variables. The daemon, `ipcctl` and the client library all look here.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Names the endpoint, or the transport, in the environment.
pub const VIA_VAR: &str = "IPCD_VIA";
/// The transport where neither an option nor the environment names one.
pub const DEFAULT_VIA: &str = "unix";
/// The file of the daemon's own token in its runtime directory.
pub const TOKEN_FILE: &str = "token";
/// Names the runtime directory in the environment.
pub const RUNTIME_DIR_VAR: &str = "IPCD_RUNTIME_DIR";
/// The runtime directory of a daemon that root has started.
pub const SYSTEM_RUNTIME_DIR: &str = "/run/ipcd";

/// The runtime directory of a daemon that this user starts, if nothing is configured:
/// `$IPCD_RUNTIME_DIR`, `/run/ipcd` for root, else `$XDG_RUNTIME_DIR/ipcd`; where that is not set, as
/// in a session of su(1) or cron(8), the same in `/run/user/UID`, if there is such a directory.
pub fn own_runtime_dir(is_root: bool) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        std::path::absolute(value).ok()
    };
    absolute(RUNTIME_DIR_VAR).or_else(|| match is_root {
        true => Some(PathBuf::from(SYSTEM_RUNTIME_DIR)),
        false => {
            let dir = absolute("XDG_RUNTIME_DIR").or_else(login_dir);
            dir.map(|dir| dir.join("ipcd"))
        }
    })
}

/// The directory that pam_systemd(8) makes for a user who has logged in.
fn login_dir() -> Option<PathBuf> {
    let uid = nix::unistd::geteuid().as_raw();
    let dir = PathBuf::from(format!("/run/user/{uid}"));
    std::fs::metadata(&dir).is_ok_and(|found| found.is_dir() && found.uid() == uid).then_some(dir)
}

/// The runtime directory of the daemon to connect to: the user's own if it exists, else the
/// system's.
pub fn find_runtime_dir() -> PathBuf {
    let own = own_runtime_dir(nix::unistd::geteuid().is_root());
    let is_set = std::env::var_os(RUNTIME_DIR_VAR).is_some();
    // A directory that the user has named is not replaced by another daemon's without a word.
    let own = own.filter(|dir| is_set || dir.is_dir());
    own.unwrap_or_else(|| PathBuf::from(SYSTEM_RUNTIME_DIR))
}
