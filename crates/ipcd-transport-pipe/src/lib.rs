//! Anonymous pipes: two of them make a channel, handed over on a rendezvous socket.
//!
//! The daemon makes the pipes and gives the far ends away. `O_NONBLOCK` belongs to the open file
//! description, which a descriptor and its copies share, so with a pipe of the client's making the
//! client could make a worker block; each end of a pipe is a description of its own.
//!
//! `pipe:COMMAND` starts a child and speaks over its standard input and output.

mod child;

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use ipcd_sys::{recv_with_fds, send_with_fds};
use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, Error,
    IdentityKind, InheritedFd, Listener, PathClaim, PathRights, RawChannel, RawDirections,
    RawTransport, Result, SocketActivation, StreamChannel, Transport, accept_local, bind_local,
    check_length, check_server, connect_local, guard_of_passed, inherited_fd::prepare,
    peer_credentials, poll_until, set_local_access,
};
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, SockType, UnixAddr};
use nix::unistd::pipe2;

/// The pipe transport.
pub struct Pipe;

/// The bytes that come with the two descriptors: the version of the rendezvous.
const HAND_OVER: &[u8] = b"ipcd-pipe/1";

impl Transport for Pipe {
    fn scheme(&self) -> &'static str {
        "pipe"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "two anonymous pipes, or a child's stdin and stdout; the kernel names the peer",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: false,
            encrypted: false,
            largest_record: None,
            identity: IdentityKind::Credentials,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &PathRights::OPTIONS
    }

    fn options_for(&self, purpose: EndpointPurpose) -> &'static [&'static str] {
        match purpose {
            EndpointPurpose::Listen | EndpointPurpose::ListenRaw => self.options(),
            EndpointPurpose::Connect => &["owner"],
            EndpointPurpose::ConnectRaw => &[],
        }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        if endpoint.is_opaque() && !purpose.listens() {
            return Ok(());
        }
        endpoint.path()?;
        check_length(endpoint)
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::from_path(self.scheme(), &runtime_dir.join("pipe.sock")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let (socket, claim) = bind_local(at.path()?, &PathRights::of(at, PathRights::PRIVATE)?)?;
        let (socket, local, guard) = (socket.into(), at.clone(), None);
        Ok(Box::new(PipeListener { socket, local, guard, claim: Some(claim) }))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        if to.is_opaque() {
            return child::spawn(to);
        }
        let address = UnixAddr::new(to.path()?)
            .map_err(|error| Error::system(format!("connect to {to}"), error))?;
        let socket = connect_local(&address, SockType::Stream, deadline)?;
        let identity = peer_credentials(&socket)?;
        check_server(to, identity.uid)?;
        let (read, write) = receive_pipes(&socket, to, deadline)?;
        Ok(Box::new(StreamChannel::pair(read, write, identity)?))
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }

    fn activation(&self) -> Option<&dyn SocketActivation> {
        Some(self)
    }
}

impl SocketActivation for Pipe {
    fn endpoint_of(&self, passed: &InheritedFd) -> Option<Endpoint> {
        passed.bound(SockType::Stream)?.local_endpoint(self.scheme()).filter(|at| !at.is_opaque())
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let found = InheritedFd::of(passed.as_fd());
        let local = self.endpoint_of(&found);
        let needed = "a Unix-domain stream socket that listens at a path";
        let local = local.ok_or_else(|| found.refused(at, needed))?;
        prepare(&passed)?;
        let guard = guard_of_passed(at, &local)?;
        Ok(Box::new(PipeListener { socket: passed.into(), local, guard, claim: None }))
    }

    fn inherit_raw(&self, at: &Endpoint, _passed: OwnedFd) -> Result<Box<dyn Listener>> {
        Err(frames_only(at))
    }
}

fn frames_only(at: &Endpoint) -> Error {
    at.error("pipe takes frames only")
}

impl RawTransport for Pipe {
    fn check_raw(&self, at: &Endpoint, _directions: RawDirections) -> Result<Endpoint> {
        Err(frames_only(at))
    }

    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Err(frames_only(at))
    }

    /// A command is a raw server; a server with a path is a daemon.
    fn connect_raw(
        &self,
        to: &Endpoint,
        _deadline: Instant,
        variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        match to.is_opaque() {
            true => child::spawn_raw(to, variables),
            false => Err(to.error("only a command takes anything but frames, as in pipe:COMMAND")),
        }
    }

    fn adopt_raw(&self, parts: ChannelParts) -> Result<RawChannel> {
        child::adopt_raw(parts)
    }
}

struct PipeListener {
    socket: UnixListener,
    local: Endpoint,
    guard: Option<PathRights>,
    claim: Option<PathClaim>,
}

impl Listener for PipeListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, _is_raw: bool) -> Result<bool> {
        set_local_access(at, self.claim.as_ref(), &mut self.guard)?;
        self.local = at.clone();
        Ok(true)
    }

    /// Gives each peer its ends at once, so that nothing is kept for one that has not got them.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let accepted = accept_local(&self.socket, &self.local, self.guard.as_ref())?;
        let Some((socket, identity)) = accepted else {
            return Ok(None);
        };
        let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let make = || pipe2(flags).map_err(|error| Error::system("make a pipe", error));
        let (our_read, their_write) = make()?;
        let (their_read, our_write) = make()?;
        // Sent, not shared: each end is an open file description of its own, so the client cannot
        // make ours block.
        let theirs = [their_read.as_fd(), their_write.as_fd()];
        send_with_fds(socket.as_fd(), HAND_OVER, &theirs)
            .map_err(|error| Error::system("hand a pipe over", error))?;
        let descriptors = vec![our_read, our_write];
        Ok(Some(ChannelParts { descriptors, identity, state: Vec::new() }))
    }
}

fn receive_pipes(
    socket: &OwnedFd,
    from: &Endpoint,
    deadline: Instant,
) -> Result<(OwnedFd, OwnedFd)> {
    if !poll_until(socket, PollFlags::POLLIN, deadline)? {
        return Err(Error::TimedOut(format!("connect to {from}")));
    }
    let mut greeting = [0; 64];
    let (count, fds) = recv_with_fds(socket.as_fd(), &mut greeting, MsgFlags::MSG_DONTWAIT)
        .map_err(|error| Error::system(format!("connect to {from}"), error))?;
    let mut fds = fds.into_iter();
    match (&greeting[..count], fds.next(), fds.next()) {
        (HAND_OVER, Some(read), Some(write)) => Ok((read, write)),
        // An end in place of the message: the daemon has refused us, or has died.
        ([], ..) => {
            let reset = std::io::Error::from(ErrorKind::ConnectionReset);
            Err(Error::system(format!("connect to {from}"), reset))
        }
        _ => Err(Error::Protocol(format!("{from}: that is no rendezvous of ipcd"))),
    }
}
