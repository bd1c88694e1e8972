//! The servers of `[[connect]]`. A child of its own dials each, because names and connections take
//! their time. When a connected server goes, it is dialled again. Must not admit peers: a connection
//! comes out as a [`DialledPeer`].

use std::time::{Duration, Instant};

use ipcd_transport::{ChannelParts, EndpointPurpose, Transport};
use nix::sys::epoll::Epoll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::Error;
use crate::backoff::Backoff;
use crate::connect::ConnectConfig;
use crate::dialler::{self, DialOutcome, DialTask};
use crate::ids::{AdmissionId, OwnerId, OwnerSequence};
use crate::link::{Link, ReceiveOutcome};
use crate::listen::RawProfile;
use crate::privileges;
use crate::supervisor::event_source::{EventSource, watch};

/// The time that connecting may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The dialler lives so much longer: the resolver may take longer than it is told to.
const DIALLER_GRACE: Duration = Duration::from_secs(1);

/// The servers of the configuration that is in force.
pub(super) struct ServerSet {
    servers: Vec<DialledServer>,
    user: Option<privileges::UserSwitch>,
}

/// A server, and how far the connection to it has come.
struct DialledServer {
    owner: OwnerId,
    config: ConnectConfig,
    transport: &'static dyn Transport,
    backoff: Backoff,
    state: DialState,
    /// Why the last attempt failed. The log says it once.
    failure: Option<String>,
}

enum DialState {
    /// It is dialled at this time.
    Due(Instant),
    /// A dialler tries it, until this time.
    Dialling { pid: Pid, link: Link, until: Instant },
    /// It is a peer.
    Connected { peer: AdmissionId, since: Instant },
}

/// A connection that a dialler has made. It is to be admitted as a peer.
pub(super) struct DialledPeer {
    pub(super) transport: &'static dyn Transport,
    pub(super) parts: ChannelParts,
    pub(super) raw_profile: RawProfile,
}

impl ServerSet {
    /// An empty set of servers, whose diallers run as this user.
    pub(super) fn new(user: Option<privileges::UserSwitch>) -> Self {
        Self { servers: Vec::new(), user }
    }

    /// Makes these the servers that are dialled; those that stay the same are left alone. The peers of
    /// the others, whose sessions have to end.
    #[must_use]
    pub(super) fn replace(
        &mut self,
        mut wanted: Vec<ConnectConfig>,
        owners: &mut OwnerSequence,
    ) -> Vec<AdmissionId> {
        let mut is_wanted = |server: &mut DialledServer| {
            let found = wanted.iter().position(|connect| *connect == server.config);
            found.map(|index| wanted.remove(index)).is_some()
        };
        let gone: Vec<_> = self.servers.extract_if(.., |server| !is_wanted(server)).collect();
        let added = wanted.into_iter().filter_map(|config| DialledServer::new(owners, config));
        self.servers.extend(added);
        gone.into_iter().filter_map(DialledServer::hang_up).collect()
    }

    /// The time at which something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.servers.iter().filter_map(DialledServer::next).min()
    }

    /// Dials the servers that are due, and gives up diallers that take too long.
    pub(super) fn tick(&mut self, now: Instant, epoll: &Epoll) {
        for server in &mut self.servers {
            match server.state {
                DialState::Due(at) if at <= now => server.dial(self.user, epoll),
                DialState::Dialling { pid, until, .. } if until <= now => {
                    // Its SIGCHLD comes when no server knows it any more, and is ignored.
                    kill_dialler(pid);
                    server.note_failure("the dialler timed out");
                }
                _ => {}
            }
        }
    }

    /// Reads what a dialler has come to. [`ServerSet::set_peer`] has to follow a connection.
    pub(super) fn read_dialler(&mut self, owner: OwnerId) -> Option<DialledPeer> {
        let server = self.find(owner)?;
        let DialState::Dialling { link, .. } = &mut server.state else { return None };
        match link.receive() {
            Ok(ReceiveOutcome::Message(
                DialOutcome::Connected { identity, state },
                descriptors,
            )) => {
                let ConnectConfig { endpoint, name, raw_profile, .. } = &server.config;
                info!(%endpoint, name = name.as_deref(), %identity, "connected");
                let parts = ChannelParts { descriptors, identity, state };
                let (transport, raw_profile) = (server.transport, raw_profile.clone());
                return Some(DialledPeer { transport, parts, raw_profile });
            }
            Ok(ReceiveOutcome::Message(DialOutcome::Failed(why), _)) => server.note_failure(&why),
            Ok(ReceiveOutcome::NotReady) => {}
            Ok(ReceiveOutcome::Closed) | Err(_) => server.note_failure("the dialler has died"),
        }
        None
    }

    /// The peer that a connection has become; `None` if no worker could take it.
    pub(super) fn set_peer(&mut self, owner: OwnerId, peer: Option<AdmissionId>) {
        let Some(server) = self.find(owner) else { return };
        match peer {
            Some(peer) => {
                server.state = DialState::Connected { peer, since: Instant::now() };
                server.failure = None;
            }
            None => server.note_failure("no worker can take it now"),
        }
    }

    /// The server that this process dials.
    pub(super) fn owner_of(&self, dialler: Pid) -> Option<OwnerId> {
        let is_its = |server: &&DialledServer| matches!(server.state, DialState::Dialling { pid, .. } if pid == dialler);
        self.servers.iter().find(is_its).map(|server| server.owner)
    }

    /// A server's peer has gone: dials again after a pause.
    pub(super) fn lose_peer(&mut self, owner: OwnerId, gone: AdmissionId) {
        if let Some(server) = self.find(owner)
            && let DialState::Connected { peer, since } = server.state
            && peer == gone
        {
            server.state = DialState::Due(server.backoff.after(since.elapsed()));
        }
    }

    /// Dials no server from now on. Connected ones stay peers.
    pub(super) fn stop(&mut self) {
        for server in self.servers.drain(..) {
            if let DialState::Dialling { pid, .. } = server.state {
                kill_dialler(pid);
            }
        }
    }

    /// The names that access rules may use for each.
    pub(super) fn names(&self) -> impl Iterator<Item = (OwnerId, Vec<String>)> {
        self.servers.iter().map(|server| (server.owner, server.config.names()))
    }

    fn find(&mut self, owner: OwnerId) -> Option<&mut DialledServer> {
        self.servers.iter_mut().find(|server| server.owner == owner)
    }
}

impl DialledServer {
    fn new(owners: &mut OwnerSequence, config: ConnectConfig) -> Option<Self> {
        let transport = match ipcd_transports::of(&config.endpoint, EndpointPurpose::ConnectRaw) {
            Ok(transport) => transport,
            // The configuration was checked when it was read.
            Err(error) => {
                warn!(%error, "cannot dial a server");
                return None;
            }
        };
        let (backoff, state) = (Backoff::new(config.retry), DialState::Due(Instant::now()));
        Some(Self { owner: owners.take(), config, transport, backoff, state, failure: None })
    }

    fn next(&self) -> Option<Instant> {
        match self.state {
            DialState::Due(at) | DialState::Dialling { until: at, .. } => Some(at),
            DialState::Connected { .. } => None,
        }
    }

    fn dial(&mut self, user: Option<privileges::UserSwitch>, epoll: &Epoll) {
        match self.fork_dialler(user, epoll) {
            Ok(state) => self.state = state,
            Err(error) => self.note_failure(&error.to_string()),
        }
    }

    fn fork_dialler(
        &self,
        user: Option<privileges::UserSwitch>,
        epoll: &Epoll,
    ) -> Result<DialState, Error> {
        let failed = |error| Error::system("fork a dialler", error);
        let ConnectConfig { endpoint, raw_profile, .. } = &self.config;
        let to =
            self.transport.raw_at(endpoint)?.check_raw(endpoint, raw_profile.raw_directions())?;
        let (link, far_end) = Link::pair().map_err(failed)?;
        let deadline = Instant::now() + DIAL_TIMEOUT;
        watch(epoll, &link, EventSource::Dialler(self.owner))?;
        let (supervisor, transport) = (Pid::this(), self.transport);
        let errand = DialTask { link: far_end, supervisor, user, transport, to: &to, deadline };
        let pid = ipcd_sys::fork(|| dialler::main(errand)).map_err(failed)?;
        Ok(DialState::Dialling { pid, link, until: deadline + DIALLER_GRACE })
    }

    fn note_failure(&mut self, why: &str) {
        self.state = DialState::Due(self.backoff.after(Duration::ZERO));
        if self.failure.as_deref() != Some(why) {
            let ConnectConfig { endpoint, name, retry, .. } = &self.config;
            let name = name.as_deref();
            warn!(%endpoint, name, why, %retry, "cannot connect: trying again");
            self.failure = Some(why.to_owned());
        }
    }

    /// Ends the attempt, or returns the peer whose session has to end.
    fn hang_up(self) -> Option<AdmissionId> {
        info!(endpoint = %self.config.endpoint, "server removed from the configuration");
        match self.state {
            DialState::Due(_) => None,
            DialState::Dialling { pid, .. } => {
                kill_dialler(pid);
                None
            }
            DialState::Connected { peer, .. } => Some(peer),
        }
    }
}

fn kill_dialler(pid: Pid) {
    // It is our child and was not waited for, so the number is still its own.
    let _ = kill(pid, Signal::SIGKILL);
}
