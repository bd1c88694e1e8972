//! The runtime directory: where sockets, FIFOs, the token and the lock are.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipcd_core::TokenSet;
use ipcd_proto::auth::{PROOF_BYTES, Token};
use ipcd_transport::{Exposure, SecretFile, TrustedDir, open_lock};
use ipcd_transports::TOKEN_FILE;
use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::Uid;
use tracing::{error, warn};

use crate::Error;
use crate::config::{Config, TokenFile, TokenProof};

const LOCK_FILE: &str = "ipcd.lock";

/// The runtime directory of this daemon, owned by it as long as this lives.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    directory: TrustedDir,
    _lock: File,
}

impl RuntimeDir {
    /// Finds, makes and locks the directory.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let path = locate(config)?;
        let directory = open_dir(&path)?;
        let mut lock = open_lock(&directory, Path::new(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let dir = path.display();
                let why = format!("another ipcd runs in {dir}: stop it, or give --runtime-dir");
                return Err(Error::Config(why));
            }
            Err(TryLockError::Error(error)) => return Err(Error::system("lock", error)),
        }
        // Only for people: the lock decides, not the number.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The secrets that peers may prove. The daemon's own is made at its first start. One that others
    /// may read or change proves nothing, so it is left out.
    pub(crate) fn tokens(&self, files: &[TokenFile]) -> Result<TokenSet, Error> {
        let name = Path::new(TOKEN_FILE);
        let own = self.path().join(name);
        if matches!(self.directory.find(name), Err(Errno::ENOENT)) {
            make_token(&self.directory, name)
                .map_err(|error| Error::system(format!("write {}", own.display()), error))?;
        }
        let mut tokens = TokenSet { own: read_safe_token(&own)?, ..TokenSet::default() };
        for TokenFile { name, proof } in files {
            match proof {
                TokenProof::Secret(file) => {
                    let token = read_safe_token(file)?;
                    tokens.named.extend(token.map(|token| (name.clone(), token)));
                }
                TokenProof::Nkey(nkey) => drop(tokens.keys.insert(name.clone(), *nkey)),
            }
        }
        Ok(tokens)
    }
}

/// The path of the runtime directory.
///
/// # Errors
/// If neither the configuration nor the environment names one.
pub fn locate(config: &Config) -> Result<PathBuf, Error> {
    let is_root = Uid::effective().is_root();
    let path = config.daemon.runtime_dir.clone();
    let path = path.or_else(|| ipcd_transports::own_runtime_dir(is_root)).ok_or_else(|| {
        Error::Config("no runtime directory: set XDG_RUNTIME_DIR, or give --runtime-dir".into())
    })?;
    std::path::absolute(&path).map_err(|error| Error::system(path.display().to_string(), error))
}

/// Opens the directory, or makes it. A user that can write to it could replace its files, so only
/// the daemon's user may. Others may enter it: the mode of each path says what they may open.
fn open_dir(path: &Path) -> Result<TrustedDir, Error> {
    if !path.exists() {
        let failed = |error| {
            let what = format!("make the runtime directory {}", path.display());
            Error::system(what, io::Error::from(error))
        };
        let (parent, name) = TrustedDir::of(path)?;
        match mkdirat(&parent, &name, Mode::from_bits_truncate(0o755)) {
            // Whatever the umask has taken away.
            Ok(()) => parent
                .find(&name)
                .map_err(io::Error::from)
                .and_then(|made| made.set_mode(0o755))
                .map_err(|error| Error::system(path.display().to_string(), error))?,
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    check_dir(path)
}

/// The existing directory, if no other user can write to it.
pub(crate) fn check_dir(path: &Path) -> Result<TrustedDir, Error> {
    let directory = TrustedDir::open(path)?;
    match directory.is_private() {
        true => Ok(directory),
        false => Err(Error::Config(format!(
            "{} must be a directory that only this user can write to",
            path.display()
        ))),
    }
}

/// The token is written aside and renamed, so that no reader ever gets half of it.
fn make_token(directory: &TrustedDir, name: &Path) -> io::Result<()> {
    let mut secret = [0; PROOF_BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let aside = name.with_extension("new");
    // A start that was killed may have left one.
    let _ = directory.remove(&aside);
    let mut file = directory.create(&aside)?;
    // Before the secret is in it: no other user can have opened it.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{text}")?;
    // Renamed only when it is complete: a start that is killed leaves no half token.
    Ok(renameat(directory, &aside, directory, name)?)
}

/// The token in a file; `None`, and a line in the log, if others may read or change it.
pub(crate) fn read_safe_token(path: &Path) -> Result<Option<Token>, Error> {
    let what = || format!("read the token {}", path.display());
    let file = SecretFile::open(path).map_err(|error| Error::system(what(), error))?;
    let shown = path.display();
    if !file.is_regular() {
        return Err(Error::Config(format!("{shown}: a token is in a regular file")));
    }
    let (mode, exposure) = (file.mode(), file.exposure());
    let text = file.read().map_err(|error| Error::system(what(), error))?;
    let token = Token::from_text(&text).ok_or_else(|| {
        let least = Token::SHORTEST;
        Error::Config(format!("{shown}: a token has at least {least} bytes"))
    })?;
    match exposure {
        Exposure::Private => {}
        Exposure::Sheltered => warn!(
            file = %shown,
            mode = format_args!("{mode:04o}"),
            "only a directory keeps other users from this token: chmod 600 it"
        ),
        Exposure::Exposed => {
            error!(
                file = %shown,
                mode = format_args!("{mode:04o}"),
                "token not in force: other users may read or change it; chmod 600 it, and change \
                 it if they have seen it"
            );
            return Ok(None);
        }
    }
    Ok(Some(token))
}
