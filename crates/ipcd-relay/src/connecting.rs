//! Connects a peer to the other side.
//!
//! A loop that serves many peers must not wait for a slow server, nor for the resolver. So a
//! separate process connects to a side that may be on another machine, and hands the connection
//! over. It does the same for a local server whose backlog is full.
//!
//! A short attempt over the network in the loop itself does not help: the server would see a
//! connection that comes and goes whenever the moment was too short.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipcd_client::Options;
use ipcd_proto::Codec;
use ipcd_sys::{recv_with_fds, send_with_fds};
use ipcd_transport::{ChannelParts, EnvVariable, PeerIdentity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::end::PairEnd;
use crate::side::{RelaySide, SideEndpoint};
use crate::subject::SubjectSession;
use crate::{Relay, Result};

/// The time that a loop with other peers may wait for a server on the same machine.
const BRIEF: Duration = Duration::from_millis(10);
/// Bytes of the longest report of such a process.
const LONGEST_WORD: usize = 64 * 1024;
/// The first byte of a report.
const CONNECTED: u8 = 0;
const FAILED: u8 = 1;

/// The outcome of an attempt to connect.
pub(crate) enum ConnectOutcome {
    End(PairEnd),
    /// A separate process goes on trying.
    Later(PendingConnect),
}

/// Connects to a side. A caller that `serves_others` waits for a moment only.
pub(crate) fn connect(
    relay: &Relay,
    side: &RelaySide,
    variables: &[EnvVariable],
    serves_others: bool,
) -> Result<ConnectOutcome> {
    let place = match side {
        RelaySide::Endpoint(place) => place,
        RelaySide::Subject { subject, echo } => {
            // The daemon accepts a name once, so only a single session can have it.
            let is_only_one = !serves_others;
            let name = relay.client.name.clone().filter(|_| is_only_one);
            let options = Options { name, ..relay.client.clone() };
            let subject = SubjectSession::open(&relay.daemon, &options, subject, *echo)?;
            return Ok(ConnectOutcome::End(PairEnd::subject(subject)));
        }
    };
    let deadline = Instant::now() + relay.timeout;
    if serves_others && place.transport.capabilities().remote {
        return PendingConnect::start(place, deadline).map(ConnectOutcome::Later);
    }
    let patience = if serves_others { BRIEF.min(relay.timeout) } else { relay.timeout };
    let soon = Instant::now() + patience;
    let raw = place.transport.raw_at(&place.endpoint)?;
    match raw.connect_raw(&place.endpoint, soon, variables) {
        Ok(parts) => adopt(relay, place, parts).map(ConnectOutcome::End),
        Err(ipcd_transport::Error::TimedOut(_)) if patience < relay.timeout => {
            PendingConnect::start(place, deadline).map(ConnectOutcome::Later)
        }
        Err(error) => Err(error.into()),
    }
}

/// Adopts a channel that a listener accepted, or that was connected.
pub(crate) fn adopt(relay: &Relay, place: &SideEndpoint, parts: ChannelParts) -> Result<PairEnd> {
    let codec = if relay.is_raw { Some(Codec::Raw) } else { place.codec.or(relay.codec) };
    Ok(PairEnd::channel(place.transport.raw_at(&place.endpoint)?.adopt_raw(parts)?, codec))
}

/// A process that connects.
pub(crate) struct PendingConnect {
    process: Pid,
    socket: OwnedFd,
}

impl PendingConnect {
    fn start(place: &SideEndpoint, deadline: Instant) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let process = ipcd_sys::fork(|| match connect_and_report(place, deadline, &theirs) {
            Ok(()) => 0,
            Err(_) => 1,
        })?;
        Ok(Self { process, socket: ours })
    }

    /// Readable when it has an answer.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The report of the process; `None` if it has not come yet.
    pub(crate) fn take(&self, relay: &Relay, place: &SideEndpoint) -> Option<Result<PairEnd>> {
        let mut word = vec![0; LONGEST_WORD];
        let (count, descriptors) =
            match recv_with_fds(self.socket.as_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Err(error.into())),
                Ok(heard) => heard,
            };
        Some(match word[..count].split_first() {
            Some((&CONNECTED, state)) => {
                let (identity, state) = (PeerIdentity::default(), state.to_vec());
                adopt(relay, place, ChannelParts { descriptors, identity, state })
            }
            Some((_, why)) => Err(io::Error::other(String::from_utf8_lossy(why)).into()),
            None => Err(io::Error::other("the connecting process has ended early").into()),
        })
    }
}

impl Drop for PendingConnect {
    fn drop(&mut self) {
        // The process may have ended by itself. The loop's reaper collects it.
        let _ = kill(self.process, Signal::SIGKILL);
    }
}

/// The body of the process: it connects, and hands the connection or the error over.
fn connect_and_report(place: &SideEndpoint, deadline: Instant, to: &OwnedFd) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The loop blocks signals and reads them from a descriptor; this process has to end by them.
    SigSet::empty().thread_set_mask()?;
    // Descriptors of peers must not stay open here: their ends would go unnoticed.
    ipcd_sys::close_all_except(&[to.as_fd()])?;
    let raw = place.transport.raw_at(&place.endpoint);
    match raw.and_then(|raw| raw.connect_raw(&place.endpoint, deadline, &[])) {
        Ok(parts) => {
            let word = [&[CONNECTED], &parts.state[..]].concat();
            let descriptors: Vec<BorrowedFd<'_>> =
                parts.descriptors.iter().map(AsFd::as_fd).collect();
            send_with_fds(to.as_fd(), &word, &descriptors)
        }
        Err(error) => {
            let word = [&[FAILED], error.to_string().as_bytes()].concat();
            send_with_fds(to.as_fd(), &word[..word.len().min(LONGEST_WORD)], &[])
        }
    }
}
