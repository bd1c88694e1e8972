//! The settings of one side of a connection: they are read from the files that the endpoint names,
//! and travels with each channel to the process that serves it.
//!
//! It travels as a sealed memory file (memfd_create(2)) beside the socket. So a key of some
//! kilobytes is not copied for every peer, neither through the link nor into what the supervisor
//! remembers of peers, and a worker that has it already does not look.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use bincode::config::{Configuration, Limit};
use ipcd_transport::{Endpoint, Error, Result};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::files;

/// Bytes of the largest encoded settings: three files and what is around them.
const LARGEST: usize = 4 * 1024 * 1024;
/// Bytes of the random number that tells settings apart.
const ID_BYTES: usize = 16;

const CODING: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<LARGEST>,
> = bincode::config::standard().with_limit::<LARGEST>();

/// The settings of one side.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TlsSettings {
    pub(crate) role: TlsRole,
    /// Our own certificate first, then those that lead to a CA; DER.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The key of the first one, if there is one.
    pub(crate) key: Option<Vec<u8>>,
    /// The certificates that the other side's must be signed by.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// The file that they were in, for errors.
    pub(crate) authorities_file: Option<String>,
    /// The name of the protocol inside TLS.
    pub(crate) protocol: Option<Vec<u8>>,
}

/// The side of the connection.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum TlsRole {
    /// The one that was connected to.
    Server(ClientAuth),
    /// The one that connects, and the name that the other one must prove.
    Client(String),
}

/// The certificates that a listener requires of its peers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum ClientAuth {
    /// No certificate.
    None,
    /// A good certificate or none.
    Optional,
    /// A good certificate.
    Required,
}

/// Checks a listener's options without opening files.
pub(crate) fn check_to_listen(at: &Endpoint) -> Result<()> {
    check_pair(at)?;
    if at.option("cert").is_none() {
        return Err(at.error("a listener needs cert=FILE&key=FILE, its certificate and key"));
    }
    client_auth(at).map(drop)
}

/// That who signs the peers' certificates is not named where no peer is asked for one.
pub(crate) fn check_effect(at: &Endpoint) -> Result<()> {
    match (client_auth(at)?, at.option("ca")) {
        (ClientAuth::None, Some(_)) => Err(at.error(
            "ca= has no effect with client_auth=none, which asks nobody for a certificate: choose \
             optional or required, or leave ca= away",
        )),
        _ => Ok(()),
    }
}

/// The same for one that connects.
pub(crate) fn check_to_connect(to: &Endpoint) -> Result<()> {
    check_pair(to)?;
    match to.option("ca") {
        None => {
            Err(to.error("ca=FILE is needed: the certificate of the CA that signed the daemon's"))
        }
        Some(_) => Ok(()),
    }
}

fn check_pair(endpoint: &Endpoint) -> Result<()> {
    match endpoint.option("cert").is_some() == endpoint.option("key").is_some() {
        true => Ok(()),
        false => Err(endpoint.error("cert= and key= go together")),
    }
}

/// A CA that is named is asked for: without a word, a certificate is looked at and not demanded.
fn client_auth(endpoint: &Endpoint) -> Result<ClientAuth> {
    let has_ca = endpoint.option("ca").is_some();
    let auth = match endpoint.option("client_auth") {
        None if has_ca => ClientAuth::Optional,
        None | Some("none") => ClientAuth::None,
        Some("optional") => ClientAuth::Optional,
        Some("required") => ClientAuth::Required,
        Some(other) => {
            let known = "choose one of none, optional, required";
            return Err(endpoint.error(format_args!("client_auth={other}: {known}")));
        }
    };
    match has_ca || auth == ClientAuth::None {
        true => Ok(auth),
        false => Err(endpoint
            .error("client_auth= needs ca=FILE: the certificates of the CAs that sign the peers'")),
    }
}

impl TlsSettings {
    /// The settings in the endpoint's files, for a listener.
    pub(crate) fn to_listen(at: &Endpoint, protocol: Option<&[u8]>) -> Result<Self> {
        check_to_listen(at)?;
        Self::read(at, TlsRole::Server(client_auth(at)?), protocol)
    }

    /// The settings in the endpoint's files, for a connection.
    pub(crate) fn to_connect(to: &Endpoint, protocol: Option<&[u8]>) -> Result<Self> {
        check_to_connect(to)?;
        let (host, _) = to.host_and_port()?.rsplit_once(':').unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // The interface is ours, and stands in no certificate.
        let host = host.split_once('%').map_or(host, |(host, _)| host);
        let name = to.option("name").unwrap_or(host).to_owned();
        Self::read(to, TlsRole::Client(name), protocol)
    }

    fn read(endpoint: &Endpoint, role: TlsRole, protocol: Option<&[u8]>) -> Result<Self> {
        let wants_authorities = role != TlsRole::Server(ClientAuth::None);
        let authorities = match wants_authorities {
            true => files::certificates(endpoint, "ca")?,
            false => Vec::new(),
        };
        Ok(Self {
            role,
            chain: files::certificates(endpoint, "cert")?,
            key: files::key(endpoint)?,
            authorities,
            authorities_file: endpoint.option("ca").map(str::to_owned),
            protocol: protocol.map(<[u8]>::to_vec),
        })
    }
}

/// Settings in a memory file that cannot change any more.
#[derive(Debug)]
pub(crate) struct SealedSettings {
    file: OwnedFd,
    id: Vec<u8>,
    authorities: Vec<Vec<u8>>,
}

impl SealedSettings {
    /// Seals these.
    pub(crate) fn new(settings: &TlsSettings) -> Result<Self> {
        let bytes = bincode::serde::encode_to_vec(settings, CODING)
            .map_err(|error| Error::Endpoint(format!("certificates and key: {error}")))?;
        let file = seal(&bytes).map_err(|error| Error::system("make a memory file", error))?;
        let mut id = vec![0; ID_BYTES];
        getrandom::fill(&mut id)
            .map_err(|error| Error::system("get random bytes", std::io::Error::other(error)))?;
        Ok(Self { file, id, authorities: settings.authorities.clone() })
    }

    /// The certificates that the other side's must be signed by.
    pub(crate) fn authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    /// A descriptor of the file to hand over, and what tells it from others.
    pub(crate) fn share(&self) -> Result<(OwnedFd, Vec<u8>)> {
        let file = self.file.try_clone();
        Ok((file.map_err(|error| Error::system("duplicate a descriptor", error))?, self.id.clone()))
    }
}

/// The contents of the memory file.
pub(crate) fn open(file: &OwnedFd) -> Result<TlsSettings> {
    let failed = |error| Error::system("read the settings of a channel", error);
    let file = File::from(file.try_clone().map_err(failed)?);
    let (mut bytes, mut length) = (vec![0; LARGEST], 0);
    // From its start, wherever another process has read to. A sandboxed process cannot ask how long
    // it is.
    while length < LARGEST {
        match file.read_at(&mut bytes[length..], length as u64).map_err(failed)? {
            0 => break,
            count => length += count,
        }
    }
    match bincode::serde::decode_from_slice(&bytes[..length], CODING) {
        Ok((settings, used)) if used == length => Ok(settings),
        _ => Err(Error::Protocol("the settings of a channel cannot be decoded".into())),
    }
}

fn seal(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"ipcd-tls", flags)?);
    file.write_all(bytes)?;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, ask: fn(&Endpoint, Option<&[u8]>) -> Result<TlsSettings>) -> String {
        ask(&text.parse().unwrap(), None).unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_missing() {
        let listen = |options: &str| error(&format!("tls://h:1{options}"), TlsSettings::to_listen);
        assert!(listen("").contains("cert=FILE&key=FILE"));
        assert!(listen("?cert=/c").contains("go together"));
        assert!(listen("?cert=/c&key=/k&client_auth=maybe").contains("none, optional, required"));
        assert!(listen("?cert=/c&key=/k&client_auth=required").contains("ca=FILE"));
        assert!(listen("?cert=/nowhere/c&key=/k").starts_with("cert=/nowhere/c: No such file"));
        assert!(listen("?cert=/dev/null&key=/k").contains("it is no file"));
        let connect =
            |options: &str| error(&format!("tls://h:1{options}"), TlsSettings::to_connect);
        assert!(connect("").contains("ca=FILE is needed"));
        assert!(connect("?ca=/nowhere/ca").starts_with("ca=/nowhere/ca: No such file"));
    }

    /// Debian's /etc/ssl/certs/ca-certificates.crt has more than 200 KiB.
    #[test]
    fn take_all_cas_that_a_system_trusts() {
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        let key = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
        let pem = key.cert.pem();
        ca.write_all(pem.repeat((300 * 1024usize).div_ceil(pem.len())).as_bytes()).unwrap();
        let to = format!("tls://h:1?ca={}", ca.path().display()).parse().unwrap();
        let settings = TlsSettings::to_connect(&to, None).unwrap();
        let (file, _) = SealedSettings::new(&settings).unwrap().share().unwrap();
        assert_eq!(open(&file).unwrap().authorities, settings.authorities);
        settings.config().map(drop).unwrap();
    }

    #[test]
    fn come_out_of_the_memory_file_as_they_went_in() {
        let settings = TlsSettings {
            role: TlsRole::Client("h".into()),
            chain: vec![vec![1, 2], vec![3]],
            key: Some(vec![4; 3000]),
            authorities: Vec::new(),
            authorities_file: Some("/ca".into()),
            protocol: None,
        };
        let sealed = SealedSettings::new(&settings).unwrap();
        let (file, _) = sealed.share().unwrap();
        for _ in 0..2 {
            assert_eq!(format!("{:?}", open(&file).unwrap()), format!("{settings:?}"));
        }
        assert!(File::from(file).write_all(b"x").is_err(), "a sealed file was changed");
    }
}
