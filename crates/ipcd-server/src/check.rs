//! `--test-config`: what a start checks, without what a start makes. It must not bind, write or lock.

use std::path::Path;

use ipcd_transport::TrustedDir;
use nix::unistd::{AccessFlags, access};

use crate::config::{Config, SandboxMode, TokenProof};
use crate::listen::ListenConfig;
use crate::runtime::{check_dir, locate, read_safe_token};
use crate::sandbox::Sandbox;
use crate::{Error, TOKEN_FILE, pid_file, privileges};

/// Whether a daemon with this configuration, started by this user, has what it needs: its user, its
/// directories, tokens, certificates and keys. Ports are not tried, for a daemon that runs has them.
///
/// # Errors
/// The one that would end the start.
pub fn check(config: &Config) -> Result<(), Error> {
    privileges::UserSwitch::of(&config.daemon)?;
    if config.daemon.sandbox == SandboxMode::Required {
        Sandbox::prepare(config.daemon.sandbox)?;
    }
    let runtime_dir = locate(config)?;
    check_runtime_dir(&runtime_dir)?;
    for token in &config.tokens {
        if let TokenProof::Secret(file) = &token.proof {
            check_token(file)?;
        }
    }
    for listen in &config.listeners {
        check_listener(listen, &runtime_dir)?;
    }
    match &config.daemon.pid_file {
        Some(path) => {
            pid_file::examine_path(path)?;
            check_writable(path, "write")
        }
        None => Ok(()),
    }
}

/// It is made if it is not there, but not the one that it is in.
fn check_runtime_dir(path: &Path) -> Result<(), Error> {
    if path.exists() {
        check_dir(path)?;
        let token = path.join(TOKEN_FILE);
        return if token.exists() { check_token(&token) } else { Ok(()) };
    }
    TrustedDir::of(path)?;
    check_writable(path, "make the runtime directory")
}

/// A daemon goes on without a token that others may read, but not as it was meant to.
fn check_token(file: &Path) -> Result<(), Error> {
    match read_safe_token(file)? {
        Some(_) => Ok(()),
        None => {
            let why = "other users may read or change the token: chmod 600 it, and change it";
            Err(Error::Config(format!("{}: {why}", file.display())))
        }
    }
}

fn check_listener(listen: &ListenConfig, runtime_dir: &Path) -> Result<(), Error> {
    let endpoint = &listen.endpoint;
    let transport = ipcd_transports::of(endpoint, listen.purpose())?;
    // Its directory may be the one that the start makes.
    let is_to_come = endpoint.path().is_ok_and(|path| path.parent() == Some(runtime_dir));
    if is_to_come && !runtime_dir.exists() {
        return Ok(());
    }
    Ok(transport.check_listen(endpoint)?)
}

/// Whether something can be made at the path.
fn check_writable(path: &Path, what: &str) -> Result<(), Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let may = access(parent.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK);
    may.map_err(|error| Error::system(format!("{what} {}", path.display()), error))
}
