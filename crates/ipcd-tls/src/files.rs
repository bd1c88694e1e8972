//! Certificates and keys in PEM files. Errors name the option and the file, and say what to do.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use ipcd_transport::{Endpoint, Error, Result};
use nix::libc::O_NONBLOCK;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of the largest file that is read: several times what systems trust, all CAs together.
const LARGEST: u64 = 1024 * 1024;
/// Rights of users who are neither the owner nor of the group.
const OTHERS: u32 = 0o007;

/// The certificates in the file that an option names; none without the option.
pub(crate) fn certificates(endpoint: &Endpoint, option: &str) -> Result<Vec<Vec<u8>>> {
    let Some(path) = endpoint.option(option) else { return Ok(Vec::new()) };
    let bad = |what: &str| Error::Endpoint(format!("{option}={path}: {what}"));
    let (text, _) = read(option, path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| bad(&format!("not PEM: {error}")))?;
    match found.is_empty() {
        true => Err(bad("there is no certificate in it: a PEM file is needed")),
        false => Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect()),
    }
}

/// The private key in the file that `key=` names, which no other user may read.
pub(crate) fn key(endpoint: &Endpoint) -> Result<Option<Vec<u8>>> {
    let Some(path) = endpoint.option("key") else { return Ok(None) };
    let bad = |what: &str| Error::Endpoint(format!("key={path}: {what}"));
    let (text, mode) = read("key", path)?;
    if mode & OTHERS != 0 {
        let mode = mode & 0o777;
        return Err(bad(&format!("every user can read it (mode {mode:04o}): chmod 600 {path}")));
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(Some(key.secret_der().to_vec())),
        Err(_) if text.windows(9).any(|word| word == b"ENCRYPTED") => {
            Err(bad("the key is encrypted: decrypt it with openssl pkey"))
        }
        Err(_) => Err(bad("there is no private key in it: a PEM file is needed")),
    }
}

/// The contents of a file, and its mode.
fn read(option: &str, path: &str) -> Result<(Vec<u8>, u32)> {
    let bad = |what: String| Error::Endpoint(format!("{option}={path}: {what}"));
    let file = open(path).map_err(|error| bad(error.to_string()))?;
    let found = file.metadata().map_err(|error| bad(error.to_string()))?;
    if !found.is_file() {
        return Err(bad("it is no file".into()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
    match bytes.len() as u64 {
        0..=LARGEST => Ok((bytes, found.mode())),
        _ => Err(bad(format!("it is larger than {} KiB", LARGEST / 1024))),
    }
}

/// Whatever stands there: opening a FIFO must not wait for its other end.
fn open(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)
}
