//! Unix-domain sockets: binding a path, connecting, and accepting the users that may connect, at a
//! path or an abstract name.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use interprocess::local_socket::traits::Listener as _;
use interprocess::local_socket::{
    GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName,
};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::Listener;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, socket, sockopt};

use crate::error::ErrorContext;
use crate::{
    Endpoint, Error, FileKind, PathClaim, PathRights, PeerIdentity, Result, connect_until,
};

/// Binds a listening stream socket at the path, with the rights asked for; the claim removes the
/// path when it is dropped.
pub fn bind_local(path: &Path, access: &PathRights) -> Result<(OwnedFd, PathClaim)> {
    let mut claim = PathClaim::acquire(path, FileKind::Socket)?;
    let listener = claim.publish_socket(access, |path| {
        let name = path.to_fs_name::<GenericFilePath>();
        let name = name.context(|| format!("bind {}", path.display()))?;
        // The claim removes the path. If the listener did, so would each forked child's copy.
        let options = ListenerOptions::new()
            .name(name)
            // Private until the rights are applied: between bind and chmod another user could connect.
            .mode(PathRights::PRIVATE as _)
            .nonblocking(ListenerNonblockingMode::Accept)
            .reclaim_name(false);
        Listener::from_options(options).context(|| format!("bind {}", path.display()))
    })?;
    Ok((listener.into(), claim))
}

/// Puts other rights in force. Those of a path that another process has made are not ours to set.
pub fn set_local_access(
    at: &Endpoint,
    claim: Option<&PathClaim>,
    guard: &mut Option<PathRights>,
) -> Result<()> {
    let access = PathRights::of(at, PathRights::PRIVATE)?;
    if let Some(claim) = claim {
        claim.set_access(&access)?;
    }
    if let Some(guard) = guard {
        *guard = access;
    }
    Ok(())
}

/// The next connection, which does not block, and who has made it; `None` if there is none. The
/// socket may be of any type that listens, whatever std calls it.
///
/// # Errors
/// Also if the one who has come is none whom the guard admits.
pub fn accept_local(
    socket: &UnixListener,
    at: &Endpoint,
    guard: Option<&PathRights>,
) -> Result<Option<(OwnedFd, PeerIdentity)>> {
    let failed = || format!("accept on {at}");
    match socket.accept() {
        Ok((socket, _)) => {
            // Linux does not pass O_NONBLOCK on from the listener to the socket (accept(2)).
            socket.set_nonblocking(true).context(failed)?;
            let identity = peer_credentials(&socket)?;
            if let Some(access) = guard {
                check_guest(&socket, &identity, access, at)?;
            }
            Ok(Some((socket.into(), identity)))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Error::system(failed(), error)),
    }
}

/// Refuses whom the file system would not let in, were there a path with these rights.
fn check_guest(
    socket: &impl AsFd,
    who: &PeerIdentity,
    access: &PathRights,
    at: &Endpoint,
) -> Result<()> {
    // SO_PEERCRED has the first group only; the others come from SO_PEERGROUPS.
    let mut groups = ipcd_sys::peer_groups(socket.as_fd())
        .context(|| "ask the kernel for the peer's groups".into())?;
    groups.extend(who.gid);
    access.check(who, &groups, at)
}

/// The rights to check for peers of a socket that another process has bound: its path's, but for the options
/// of the endpoint; and where there is no path, they alone.
pub fn guard_of_passed(at: &Endpoint, local: &Endpoint) -> Result<Option<PathRights>> {
    match local.is_opaque() || PathRights::is_given(at) {
        true => PathRights::of(at, PathRights::PRIVATE).map(Some),
        false => Ok(None),
    }
}

/// Whether a socket's path or abstract name is short enough, as unix(7) has it.
pub fn check_length(endpoint: &Endpoint) -> Result<()> {
    let name = endpoint.address().strip_prefix('@').filter(|_| endpoint.is_opaque());
    let (what, length) = match name {
        Some(name) => ("name", name.len()),
        None => ("path", endpoint.address().len()),
    };
    match length <= LONGEST_NAME {
        true => Ok(()),
        false => Err(endpoint.error(format_args!(
            "the {what} has {length} bytes, and a socket's has at most {LONGEST_NAME}"
        ))),
    }
}

/// Bytes of the longest path or name: a NUL goes with it.
const LONGEST_NAME: usize = 107;

/// Connects a non-blocking socket of this kind to the address. While the listener's queue is
/// full, it tries again until the deadline.
pub fn connect_local(to: &UnixAddr, kind: SockType, deadline: Instant) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, kind, flags, None)
        .context(|| "make a Unix-domain socket".into())?;
    connect_until(&socket, to, deadline, &name_of(to))?;
    Ok(socket)
}

fn name_of(address: &UnixAddr) -> String {
    match (address.path(), address.as_abstract()) {
        (Some(path), _) => path.display().to_string(),
        (_, Some(name)) => format!("@{}", name.escape_ascii()),
        _ => "an unnamed socket".into(),
    }
}

/// The process that connected this Unix-domain socket, from `SO_PEERCRED` (unix(7)).
pub fn peer_credentials(socket: &impl AsFd) -> Result<PeerIdentity> {
    let peer = getsockopt(socket, sockopt::PeerCredentials)
        .context(|| "ask the kernel for the peer's credentials".into())?;
    // The kernel says 0 for a process outside our pid namespace.
    let pid = u32::try_from(peer.pid()).ok().filter(|&pid| pid != 0);
    Ok(PeerIdentity {
        pid,
        uid: Some(peer.uid()),
        gid: Some(peer.gid()),
        ..PeerIdentity::default()
    })
}
