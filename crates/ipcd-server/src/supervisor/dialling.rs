//! Servers that the daemon connects to. A child of its own dials each, because names and
//! connections take their time; what it brings is served like any other peer, and when that goes,
//! the server is dialled again.

use std::time::{Duration, Instant};

use ipcd_transport::{ChannelParts, EndpointPurpose, Transport};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{info, warn};

use super::{FIRST_DIALLER, Supervisor, watch};
use crate::Error;
use crate::backoff::Backoff;
use crate::connect::Connect;
use crate::dialler::{self, Dialled, Errand};
use crate::link::{Link, Received};

/// How long connecting may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer the dialler lives: a name can take longer to resolve than it is told.
const DIALLER_GRACE: Duration = Duration::from_secs(1);

/// A server, and how far we are with it.
pub(super) struct Dial {
    number: usize,
    asked: Connect,
    transport: &'static dyn Transport,
    backoff: Backoff,
    stage: Stage,
    /// Why the last attempt failed: the log is told once.
    failure: Option<String>,
}

enum Stage {
    /// It is to be dialled then.
    Due(Instant),
    /// A dialler is on its way, and is ended then.
    Dialling { pid: Pid, link: Link, until: Instant },
    /// It is a peer.
    Connected { peer: u64, since: Instant },
}

impl Dial {
    /// When something is to be done about it.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.stage {
            Stage::Due(at) | Stage::Dialling { until: at, .. } => Some(at),
            Stage::Connected { .. } => None,
        }
    }

    /// Its number, and what access rules may call it.
    pub(super) fn names(&self) -> (usize, Vec<String>) {
        (self.number, self.asked.names())
    }
}

impl Supervisor {
    /// Makes these the servers that are dialled: those that are the same are left alone.
    pub(super) fn set_servers(&mut self, mut wanted: Vec<Connect>) {
        let mut is_wanted = |dial: &Dial| {
            let found = wanted.iter().position(|connect| *connect == dial.asked);
            found.map(|index| wanted.remove(index)).is_some()
        };
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.dials).into_iter().partition(|dial| is_wanted(dial));
        self.dials = kept;
        gone.into_iter().for_each(|dial| self.hang_up(dial));
        for asked in wanted {
            self.add_server(asked);
        }
    }

    /// Dials those servers whose time has come, and gives up diallers that take too long.
    pub(super) fn dial_servers(&mut self) {
        let now = Instant::now();
        for index in 0..self.dials.len() {
            match self.dials[index].stage {
                Stage::Due(at) if at <= now => self.dial(index),
                Stage::Dialling { pid, until, .. } if until <= now => {
                    end_dialler(pid);
                    self.dial_failed(index, "nothing came of it in time");
                }
                _ => {}
            }
        }
    }

    /// Hears what came of a dialler's errand.
    pub(super) fn hear_dialler(&mut self, number: usize) {
        let Some(index) = self.dials.iter().position(|dial| dial.number == number) else { return };
        let Stage::Dialling { link, .. } = &mut self.dials[index].stage else { return };
        match link.receive() {
            Ok(Received::Message(Dialled::Connected { identity, state }, descriptors)) => {
                self.connected(index, ChannelParts { descriptors, identity, state });
            }
            Ok(Received::Message(Dialled::Failed(why), _)) => self.dial_failed(index, &why),
            Ok(Received::NotReady) => {}
            Ok(Received::Closed) | Err(_) => self.dial_failed(index, "the dialler has died"),
        }
    }

    /// A child that was no worker has ended. What it had to say is there.
    pub(super) fn dialler_ended(&mut self, ended: Pid) {
        let is_its = |dial: &Dial| match dial.stage {
            Stage::Dialling { pid, .. } if pid == ended => Some(dial.number),
            _ => None,
        };
        if let Some(number) = self.dials.iter().find_map(is_its) {
            self.hear_dialler(number);
        }
    }

    /// Dials again, after a pause, a server that is no peer any more.
    pub(super) fn server_lost(&mut self, number: usize, gone: u64) {
        let dial = self.dials.iter_mut().find(|dial| dial.number == number);
        if let Some(dial) = dial
            && let Stage::Connected { peer, since } = dial.stage
            && peer == gone
        {
            dial.stage = Stage::Due(dial.backoff.after(since.elapsed()));
        }
    }

    /// Dials nobody any more. Who is connected stays a peer.
    pub(super) fn stop_dialling(&mut self) {
        for dial in std::mem::take(&mut self.dials) {
            if let Stage::Dialling { pid, .. } = dial.stage {
                end_dialler(pid);
            }
        }
    }

    fn dial(&mut self, index: usize) {
        match self.fork_dialler(index) {
            Ok(stage) => self.dials[index].stage = stage,
            Err(error) => self.dial_failed(index, &error.to_string()),
        }
    }

    fn fork_dialler(&self, index: usize) -> Result<Stage, Error> {
        let Dial { number, asked, transport, .. } = &self.dials[index];
        let failed = |error| Error::system("fork a dialler", error);
        let to =
            transport.raw_at(&asked.endpoint)?.check_raw(&asked.endpoint, asked.dialect.flow())?;
        let (link, far_end) = Link::pair().map_err(failed)?;
        let deadline = Instant::now() + DIAL_TIMEOUT;
        watch(&self.epoll, &link, FIRST_DIALLER + *number as u64)?;
        let (supervisor, user, transport) = (Pid::this(), self.user, *transport);
        let errand = Errand { link: far_end, supervisor, user, transport, to: &to, deadline };
        let pid = ipcd_sys::fork(|| dialler::main(errand)).map_err(failed)?;
        Ok(Stage::Dialling { pid, link, until: deadline + DIALLER_GRACE })
    }

    fn connected(&mut self, index: usize, parts: ChannelParts) {
        let Dial { number, asked, transport, .. } = &self.dials[index];
        let (number, transport, dialect) = (*number, *transport, asked.dialect.clone());
        let (endpoint, name) = (&asked.endpoint, asked.name.as_deref());
        info!(%endpoint, name, identity = %parts.identity, "connected");
        let slot = self.slot_for_peer();
        let admitted =
            slot.and_then(|slot| self.admit(number, transport, slot, parts, Some(dialect)));
        match admitted {
            Some(peer) => {
                let dial = &mut self.dials[index];
                dial.stage = Stage::Connected { peer, since: Instant::now() };
                dial.failure = None;
            }
            None => self.dial_failed(index, "no worker can take it now"),
        }
    }

    fn dial_failed(&mut self, index: usize, why: &str) {
        let dial = &mut self.dials[index];
        dial.stage = Stage::Due(dial.backoff.after(Duration::ZERO));
        if dial.failure.as_deref() != Some(why) {
            let Connect { endpoint, name, retry, .. } = &dial.asked;
            let name = name.as_deref();
            warn!(%endpoint, name, why, %retry, "cannot connect: trying again");
            dial.failure = Some(why.to_owned());
        }
    }

    fn add_server(&mut self, asked: Connect) {
        let transport = match ipcd_transports::of(&asked.endpoint, EndpointPurpose::ConnectRaw) {
            Ok(transport) => transport,
            // It was checked when it was read.
            Err(error) => return warn!(%error, "not dialled"),
        };
        let (backoff, stage) = (Backoff::new(asked.retry), Stage::Due(Instant::now()));
        let number = self.take_number();
        self.dials.push(Dial { number, asked, transport, backoff, stage, failure: None });
    }

    /// Ends the connection to a server, or the attempt.
    fn hang_up(&mut self, dial: Dial) {
        info!(endpoint = %dial.asked.endpoint, "connecting no more");
        match dial.stage {
            Stage::Due(_) => {}
            Stage::Dialling { pid, .. } => end_dialler(pid),
            Stage::Connected { peer, .. } => self.let_go(peer),
        }
    }
}

/// It is our child and was not waited for, so the number is still its own.
fn end_dialler(pid: Pid) {
    let _ = kill(pid, Signal::SIGKILL);
}
