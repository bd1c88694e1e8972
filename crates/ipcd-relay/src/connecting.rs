//! Connecting a peer to the other side.
//!
//! A loop that serves many cannot wait for a server that does not answer, nor for the resolver. So
//! what may be on another machine is connected to by a process of its own, which hands the
//! connection over; and so is what is on this one and has no room in its queue.
//!
//! To try over the network for a moment only would be no help: the server would see a connection
//! that comes and goes, whenever the moment was too short.

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

use crate::end::End;
use crate::side::{Place, Side};
use crate::subject::Subject;
use crate::{Relay, Result};

/// How long a loop that serves others may wait for somebody on the same machine.
const BRIEF: Duration = Duration::from_millis(10);
/// Bytes of what such a process says, at the most.
const LONGEST_WORD: usize = 64 * 1024;
/// What it begins with.
const CONNECTED: u8 = 0;
const FAILED: u8 = 1;

/// What came of trying.
pub(crate) enum Connected {
    End(End),
    /// Somebody else goes on trying.
    Later(Waiting),
}

/// Connects to a side; for somebody who `serves_others`, without waiting for long.
pub(crate) fn connect(
    relay: &Relay,
    side: &Side,
    variables: &[EnvVariable],
    serves_others: bool,
) -> Result<Connected> {
    let place = match side {
        Side::Endpoint(place) => place,
        Side::Subject { subject, echo } => {
            let is_only_one = !serves_others;
            let name = relay.client.name.clone().filter(|_| is_only_one);
            let options = Options { name, ..relay.client.clone() };
            let subject = Subject::open(&relay.daemon, &options, subject, *echo)?;
            return Ok(Connected::End(End::subject(subject)));
        }
    };
    let deadline = Instant::now() + relay.timeout;
    if serves_others && place.transport.capabilities().remote {
        return Waiting::start(place, deadline).map(Connected::Later);
    }
    let patience = if serves_others { BRIEF.min(relay.timeout) } else { relay.timeout };
    let soon = Instant::now() + patience;
    let raw = place.transport.raw_at(&place.endpoint)?;
    match raw.connect_raw(&place.endpoint, soon, variables) {
        Ok(parts) => adopt(relay, place, parts).map(Connected::End),
        Err(ipcd_transport::Error::TimedOut(_)) if patience < relay.timeout => {
            Waiting::start(place, deadline).map(Connected::Later)
        }
        Err(error) => Err(error.into()),
    }
}

/// The end of a side that a listener accepted, or that was connected to.
pub(crate) fn adopt(relay: &Relay, place: &Place, parts: ChannelParts) -> Result<End> {
    let codec = if relay.is_raw { Some(Codec::Raw) } else { place.codec.or(relay.codec) };
    Ok(End::channel(place.transport.raw_at(&place.endpoint)?.adopt_raw(parts)?, codec))
}

/// A process that connects.
pub(crate) struct Waiting {
    process: Pid,
    socket: OwnedFd,
}

impl Waiting {
    fn start(place: &Place, deadline: Instant) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let process = ipcd_sys::fork(|| match report(place, deadline, &theirs) {
            Ok(()) => 0,
            Err(_) => 1,
        })?;
        Ok(Self { process, socket: ours })
    }

    /// Readable when it has an answer.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The answer; `None` when there is none yet.
    pub(crate) fn take(&self, relay: &Relay, place: &Place) -> Option<Result<End>> {
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
            None => Err(io::Error::other("the process that connects has died").into()),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended by itself. Whoever hears of its end reaps it.
        let _ = kill(self.process, Signal::SIGKILL);
    }
}

/// What the process does: connect, and hand over what came of it.
fn report(place: &Place, deadline: Instant, to: &OwnedFd) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    SigSet::empty().thread_set_mask()?;
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
