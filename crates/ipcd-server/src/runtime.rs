//! The runtime directory: where sockets, FIFOs, the token and the lock are.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipcd_core::Tokens;
use ipcd_proto::auth::{PROOF_BYTES, Token};
use ipcd_transport::open_lock;
use nix::unistd::Uid;

use crate::Error;
use crate::config::{Config, TokenFile};

/// The name of the daemon's own token in the runtime directory.
pub const TOKEN_FILE: &str = "token";
const LOCK_FILE: &str = "ipcd.lock";

/// The runtime directory of this daemon, owned by it as long as this lives.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
    _lock: File,
}

impl RuntimeDir {
    /// Finds, makes and locks the directory.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let path = locate(config)?;
        make_dir(&path)?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = open_lock(&lock_path)?;
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
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The secrets that peers may prove. The daemon's own is made at its first start.
    pub(crate) fn tokens(&self, files: &[TokenFile]) -> Result<Tokens, Error> {
        let own = self.path.join(TOKEN_FILE);
        if !own.exists() {
            make_token(&own)?;
        }
        let mut tokens = Tokens { own: Some(read_token(&own)?), ..Tokens::default() };
        for TokenFile { name, file } in files {
            tokens.named.insert(name.clone(), read_token(file)?);
        }
        Ok(tokens)
    }
}

/// Where the runtime directory is.
///
/// # Errors
/// If nothing says so.
pub fn locate(config: &Config) -> Result<PathBuf, Error> {
    let is_root = Uid::effective().is_root();
    let path = config.daemon.runtime_dir.clone();
    let path = path.or_else(|| ipcd_transports::own_runtime_dir(is_root)).ok_or_else(|| {
        Error::Config("no runtime directory: set XDG_RUNTIME_DIR, or give --runtime-dir".into())
    })?;
    std::path::absolute(&path).map_err(|error| Error::system(path.display().to_string(), error))
}

/// Writes the process id to the file that is configured.
pub(crate) fn write_pid_file(config: &Config) -> Result<(), Error> {
    let Some(path) = &config.daemon.pid_file else {
        return Ok(());
    };
    fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| Error::system(format!("write {}", path.display()), error))
}

/// Others may enter the directory: what they may open there, each path's own mode says.
fn make_dir(path: &Path) -> Result<(), Error> {
    let what = || format!("make the runtime directory {}", path.display());
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {
            // Whatever the umask has taken away.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path, mode).map_err(|error| Error::system(what(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_dir(path),
        Err(error) => Err(Error::system(what(), error)),
    }
}

/// Who can write to the directory can replace what is in it, so that must be only we.
fn check_dir(path: &Path) -> Result<(), Error> {
    let found = fs::metadata(path)
        .map_err(|error| Error::system(format!("look at {}", path.display()), error))?;
    let ours = found.uid() == Uid::effective().as_raw() || found.uid() == 0;
    if !found.is_dir() || !ours || found.mode() & 0o022 != 0 {
        return Err(Error::Config(format!(
            "{} must be a directory that only this user can write to",
            path.display()
        )));
    }
    Ok(())
}

fn make_token(path: &Path) -> Result<(), Error> {
    let mut secret = [0; PROOF_BYTES];
    getrandom::fill(&mut secret)
        .map_err(|error| Error::system("get random bytes", io::Error::other(error)))?;
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written aside and renamed, so that nobody ever reads half a token.
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            writeln!(file, "{text}")
        })
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|error| Error::system(format!("write {}", path.display()), error))
}

fn read_token(path: &Path) -> Result<Token, Error> {
    let text = fs::read(path)
        .map_err(|error| Error::system(format!("read the token {}", path.display()), error))?;
    Token::from_text(&text).ok_or_else(|| {
        let (path, least) = (path.display(), Token::SHORTEST);
        Error::Config(format!("{path}: a token has at least {least} bytes"))
    })
}
