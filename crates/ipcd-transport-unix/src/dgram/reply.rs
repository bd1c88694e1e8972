//! The way back to a sender of datagrams, by the name that its socket is bound to.
//!
//! A name is what the sender says, so it must not make us write to another user's socket: a path
//! counts only if the sender's user owns what is there, an abstract name only if its user is ours.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipcd_transport::{Error, PeerIdentity, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::geteuid;

use super::sender_name::SenderName;

/// The path of replies to a sender.
#[derive(Debug)]
pub(crate) enum ReplyPath {
    /// Not at all.
    Nowhere,
    /// By a socket of its own. It has a queue of its own, too, so that one who does not read is in
    /// no other sender's way.
    Own(OwnedFd),
    /// By the listener, which posts what is written into the queue.
    Posted,
}

/// The route of a reply.
#[derive(Debug)]
pub(crate) enum ReplyRoute {
    /// This says all.
    Direct(ReplyPath),
    /// To this address, from the well-known socket: a sender that is connected to that hears no
    /// other (unix(7)).
    Posted(SenderAddress),
}

/// The address of a sender.
#[derive(Debug)]
pub(crate) enum SenderAddress {
    /// The socket in the file system, held.
    File(OwnedFd),
    /// An abstract name.
    Abstract(Vec<u8>),
}

impl SenderAddress {
    /// The address for connect(2) and sendto(2). What is held is reached by its magic link, which
    /// leads to it and to nothing else (`proc_pid_fd(5)`).
    pub(crate) fn to_unix(&self) -> nix::Result<UnixAddr> {
        match self {
            Self::File(fd) => UnixAddr::new(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()),
            Self::Abstract(name) => UnixAddr::new_abstract(name),
        }
    }
}

impl ReplyRoute {
    /// The way to a sender. That there is none is no error; only to be out of descriptors is.
    pub(crate) fn to(name: &SenderName, identity: &PeerIdentity) -> Result<Self> {
        let found = find(name, identity).and_then(|address| match address {
            None => Ok(Self::Direct(ReplyPath::Nowhere)),
            Some(address) => open_way(address),
        });
        match found.map_err(|error| Error::system("find the way to a sender", error)) {
            Err(error) if error.is_exhaustion() => Err(error),
            Err(_) => Ok(Self::Direct(ReplyPath::Nowhere)),
            Ok(way) => Ok(way),
        }
    }
}

fn open_way(address: SenderAddress) -> nix::Result<ReplyRoute> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let own = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    match connect(own.as_raw_fd(), &address.to_unix()?) {
        Ok(()) => Ok(ReplyRoute::Direct(ReplyPath::Own(own))),
        // It has connected its socket, and to whom but us?
        Err(Errno::EPERM) => Ok(ReplyRoute::Posted(address)),
        Err(error) => Err(error),
    }
}

/// The sender's address, if it is the sender's own.
fn find(name: &SenderName, identity: &PeerIdentity) -> nix::Result<Option<SenderAddress>> {
    let (SenderName::Bound(name), Some(uid)) = (name, identity.uid) else { return Ok(None) };
    if let Some(name) = name.strip_prefix(&[0]) {
        let is_ours = uid == geteuid().as_raw();
        return Ok(is_ours.then(|| SenderAddress::Abstract(name.to_vec())));
    }
    let held = hold(Path::new(OsStr::from_bytes(name)), identity.pid)?;
    let found = fstat(&held)?;
    let is_socket = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
    Ok((is_socket && found.st_uid == uid).then_some(SenderAddress::File(held)))
}

const HOLD: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The device and inode of the socket that a sender's name leads to. Two senders with one name have
/// different sockets if the name is a relative path, or if they see different file systems.
pub(crate) fn socket_of(name: &SenderName, pid: Option<u32>) -> Option<(u64, u64)> {
    let SenderName::Bound(name) = name else { return None };
    if name.first() == Some(&0) {
        return None;
    }
    let found = fstat(hold(Path::new(OsStr::from_bytes(name)), pid).ok()?).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// Holds what is at the path: from the sender's root directory on, or from its working directory if
/// the path is a relative one.
///
/// A sender in a container has another root. The kernel shows it only to a process that may trace
/// the sender (proc_pid_root(5)); for any other sender, ours counts.
///
/// With `RESOLVE_CACHED` the kernel only looks where it has been already, and so never waits for a
/// slow file system, nor for a process that pretends to be one. A live socket keeps its path there.
fn hold(path: &Path, pid: Option<u32>) -> nix::Result<OwnedFd> {
    let directory = match pid {
        Some(pid) if path.is_relative() => {
            Some(open(format!("/proc/{pid}/cwd").as_str(), HOLD_DIRECTORY, Mode::empty())?)
        }
        _ if path.is_relative() => return Err(Errno::ENOENT),
        Some(pid) => open(format!("/proc/{pid}/root").as_str(), HOLD_DIRECTORY, Mode::empty()).ok(),
        None => None,
    };
    // Absolute paths and symlinks lead to the sender's files then, and not to ours.
    let in_root = match path.is_absolute() && directory.is_some() {
        true => ResolveFlag::RESOLVE_IN_ROOT,
        false => ResolveFlag::empty(),
    };
    let directory = directory.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
    let cached = ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
    let how = OpenHow::new().flags(HOLD);
    match openat2(directory, path, how.resolve(cached | in_root)) {
        // Linux before 5.12 does not know it.
        Err(Errno::EINVAL) => openat2(directory, path, how.resolve(in_root)),
        held => held,
    }
}

const HOLD_DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
