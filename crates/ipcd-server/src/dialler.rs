//! A dialler: a child that connects to one server, hands what came of it to the supervisor, and
//! ends. Names are resolved and connections made in it because both may take their time.

use std::os::fd::AsFd;
use std::time::Instant;

use ipcd_sys::close_all_except;
use ipcd_transport::{ChannelParts, Endpoint, PeerIdentity, Transport};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use serde::{Deserialize, Serialize};

use crate::link::Link;
use crate::{Error, privileges};

/// The task of a dialler.
pub(crate) struct DialTask<'a> {
    pub(crate) link: Link,
    pub(crate) supervisor: Pid,
    pub(crate) user: Option<privileges::UserSwitch>,
    pub(crate) transport: &'static dyn Transport,
    pub(crate) to: &'a Endpoint,
    pub(crate) deadline: Instant,
}

/// The outcome that a dialler reports. The descriptors come with the message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum DialOutcome {
    /// The server is connected.
    Connected { identity: PeerIdentity, state: Vec<u8> },
    /// Why it is not.
    Failed(String),
}

/// Bytes of an explanation, which must fit a message.
const LONGEST_REASON: usize = 1024;

/// Runs a dialler in a freshly forked child; returns its exit status.
pub(crate) fn main(mut errand: DialTask<'_>) -> i32 {
    let (message, descriptors) = match dial(&errand) {
        Ok(parts) => {
            let ChannelParts { descriptors, identity, state } = parts;
            (DialOutcome::Connected { identity, state }, descriptors)
        }
        Err(error) => {
            let why = error.to_string().chars().take(LONGEST_REASON).collect();
            (DialOutcome::Failed(why), Vec::new())
        }
    };
    // The socket has room for the only message. If it is lost, the supervisor sees the end of the
    // link.
    i32::from(errand.link.send(&message, descriptors).is_err())
}

fn dial(errand: &DialTask<'_>) -> Result<ChannelParts, Error> {
    // A copy of a peer's descriptor here would keep its connection open while the server is
    // dialled.
    close_all_except(&[errand.link.as_fd()])
        .map_err(|error| Error::system("close inherited descriptors", error))?;
    if let Some(user) = errand.user {
        user.apply()?;
    }
    // After the change of user, which resets it (prctl(2)).
    set_pdeathsig(Signal::SIGKILL).map_err(|error| Error::system("set PDEATHSIG", error))?;
    if getppid() != errand.supervisor {
        return Err(Error::Config("the supervisor is gone".into()));
    }
    Ok(errand.transport.raw_at(errand.to)?.connect_raw(errand.to, errand.deadline, &[])?)
}
