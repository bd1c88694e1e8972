//! The place of the daemon, if the program does not say: the same place as for `ipcctl`.

use ipcd_transport::Endpoint;
use ipcd_transports::{DEFAULT_VIA, TOKEN_FILE, VIA_VAR, find_runtime_dir, resolve};

use crate::options::TokenSource;
use crate::{Error, Result};

/// A daemon's endpoint, and the file of its token.
///
/// The runtime directory is `$IPCD_RUNTIME_DIR`, else `/run/ipcd` for root, else
/// `$XDG_RUNTIME_DIR/ipcd` or `/run/user/UID/ipcd` if there is such a directory, else `/run/ipcd`.
#[derive(Clone, Debug)]
pub struct DaemonLocation {
    /// The endpoint to connect to.
    pub endpoint: Endpoint,
    /// The token in the runtime directory. It is read only if the daemon asks for one.
    pub token: TokenSource,
}

impl DaemonLocation {
    /// The daemon that `ipcctl` connects to without options: over `$IPCD_VIA`, else over the
    /// Unix-domain socket in the runtime directory.
    ///
    /// # Errors
    /// If `$IPCD_VIA` is neither an endpoint nor a transport of this build.
    pub fn find() -> Result<Self> {
        let via = std::env::var_os(VIA_VAR).filter(|via| !via.is_empty());
        let via = via.map(|via| via.to_string_lossy().into_owned());
        Self::via(via.as_deref().unwrap_or(DEFAULT_VIA))
    }

    /// The same over this endpoint, or over this transport's default endpoint: the meaning of
    /// `ipcctl --via`.
    ///
    /// # Errors
    /// If it is neither an endpoint nor a transport of this build.
    pub fn via(via: &str) -> Result<Self> {
        let runtime_dir = find_runtime_dir();
        let endpoint = resolve(via, &runtime_dir).map_err(Error::Connect)?;
        Ok(Self { endpoint, token: TokenSource::File(runtime_dir.join(TOKEN_FILE)) })
    }
}
