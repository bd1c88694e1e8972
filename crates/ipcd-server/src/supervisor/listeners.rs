//! The listeners that are open. Must not admit peers: those that accept get one listener at a time.

use std::time::Instant;

use ipcd_transport::PeerIdentity;
use nix::sys::epoll::Epoll;
use tracing::{error, info, warn};

use crate::Error;
use crate::activation::{PassedSocket, WantedListener, assign};
use crate::config::Config;
use crate::ids::{OwnerId, OwnerSequence};
use crate::lacking::is_exhaustion;
use crate::listen::{ListenConfig, RawProfile};
use crate::runtime::RuntimeDir;
use crate::supervisor::listener_changes::ListenerChanges;
use crate::supervisor::open_listener::{AdaptOutcome, OpenListener};

/// The open listeners.
pub(super) struct ListenerSet {
    open: Vec<OpenListener>,
    /// The sockets that a service manager has bound. They stay open, for another configuration may
    /// use them otherwise.
    sockets: Vec<PassedSocket>,
}

/// The trust anchors of each listener that has some.
pub(super) type TrustAnchors = Vec<(OwnerId, Vec<Vec<u8>>)>;

impl ListenerSet {
    /// Binds all listeners of a configuration.
    pub(super) fn bind(
        config: &Config,
        runtime_dir: &RuntimeDir,
        sockets: Vec<PassedSocket>,
        owners: &mut OwnerSequence,
    ) -> Result<Self, Error> {
        let mut listeners = Self { open: Vec::new(), sockets };
        let wanted = listeners.wanted(config, runtime_dir)?;
        listeners.open = listeners.bind_all(config, &wanted, owners)?;
        Ok(listeners)
    }

    /// The listeners that a configuration wants: those of `[[listen]]`, or else the default endpoint
    /// of every transport that listens by default; and the passed sockets.
    pub(super) fn wanted(
        &self,
        config: &Config,
        runtime_dir: &RuntimeDir,
    ) -> Result<Vec<WantedListener>, Error> {
        let listeners = match config.listeners.is_empty() {
            true => ipcd_transports::default_endpoints(runtime_dir.path())
                .map(ListenConfig::frames)
                .collect(),
            false => config.listeners.clone(),
        };
        assign(listeners, &self.sockets)
    }

    /// Binds new listeners, which are not among the open ones yet. A default endpoint that cannot be
    /// bound, because another process has the port, is left out with a warning: the user has not asked
    /// for just that one. If nothing else is left, the daemon has nothing to serve.
    pub(super) fn bind_all(
        &self,
        config: &Config,
        wanted: &[WantedListener],
        owners: &mut OwnerSequence,
    ) -> Result<Vec<OpenListener>, Error> {
        let (mut bound, mut failed) = (Vec::new(), None);
        for wanted in wanted {
            match OpenListener::bind(wanted, owners.take(), &self.sockets) {
                Ok(open) => bound.push(open),
                Err(error) if config.listeners.is_empty() && wanted.socket.is_none() => {
                    let endpoint = &wanted.listen.endpoint;
                    warn!(%endpoint, %error, "this default endpoint is left out (see --listen)");
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if bound.is_empty() && self.open.is_empty() => Err(error),
            _ => Ok(bound),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OpenListener> {
        self.open.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// A listener, if it is open.
    pub(super) fn find(&mut self, owner: OwnerId) -> Option<&mut OpenListener> {
        self.open.iter_mut().find(|open| open.owner == owner)
    }

    /// Has epoll watch the listeners that are to accept now. Whether the kernel had no memory for one.
    pub(super) fn arm(
        &mut self,
        epoll: &Epoll,
        has_room: bool,
        now: Instant,
    ) -> Result<bool, Error> {
        let mut lacks_memory = false;
        for open in &mut self.open {
            open.paused_until.take_if(|until| *until <= now);
            let accepts = has_room && open.paused_until.is_none();
            match open.arm(epoll, accepts) {
                Ok(()) => {}
                Err(error) if is_exhaustion(error) => lacks_memory = true,
                Err(error) => return Err(Error::system("watch a descriptor", error)),
            }
        }
        Ok(lacks_memory)
    }

    /// The end of the first pause.
    pub(super) fn next(&self) -> Option<Instant> {
        self.open.iter().filter_map(|open| open.paused_until).min()
    }

    /// Tells a listener that a peer has gone; false if the listener is not open.
    pub(super) fn release(
        &mut self,
        owner: OwnerId,
        identity: &PeerIdentity,
        state: &[u8],
    ) -> bool {
        let open = self.find(owner);
        let is_open = open.is_some();
        open.into_iter().for_each(|open| open.listener.released(identity, state));
        is_open
    }

    /// The names that access rules may use for each.
    pub(super) fn names(&self) -> impl Iterator<Item = (OwnerId, Vec<String>)> {
        self.open.iter().map(|open| (open.owner, open.names(&self.sockets)))
    }

    /// The profile of each listener's raw peers.
    pub(super) fn raw_profiles(&self) -> Vec<(OwnerId, RawProfile)> {
        let of = |open: &OpenListener| Some((open.owner, open.config.raw_profile.clone()?));
        self.open.iter().filter_map(of).collect()
    }

    /// The certificate authorities that each listener trusts.
    pub(super) fn trust_anchors(&self) -> TrustAnchors {
        let of = |open: &OpenListener| (open.owner, open.listener.trusted().to_vec());
        self.open.iter().map(of).collect()
    }

    /// Has the listeners read their certificates and the like again; the number of listeners that
    /// have some. A listener with invalid files keeps those that it had.
    pub(super) fn reload_files(&mut self) -> usize {
        let mut count = 0;
        for OpenListener { listener, .. } in &mut self.open {
            match listener.reload() {
                Ok(has_any) => count += usize::from(has_any),
                Err(error) => {
                    count += 1;
                    let endpoint = listener.local();
                    error!(%endpoint, %error, "files not reloaded: the listener keeps the old ones");
                }
            }
        }
        count
    }

    /// The differences to the listeners that are wanted.
    pub(super) fn changes_to(&self, wanted: Vec<WantedListener>) -> ListenerChanges {
        ListenerChanges::between(&self.open, wanted)
    }

    pub(super) fn add(&mut self, opened: Vec<OpenListener>) {
        self.open.extend(opened);
    }

    /// Takes these out, still open and armed.
    pub(super) fn remove(&mut self, owners: &[OwnerId]) -> Vec<OpenListener> {
        self.open.extract_if(.., |open| owners.contains(&open.owner)).collect()
    }

    /// Closes all listeners.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// Gives a listener other options, if its socket may stay open. One that is not open needs none.
    pub(super) fn adapt(
        &mut self,
        owner: OwnerId,
        wanted: &WantedListener,
    ) -> Result<AdaptOutcome, Error> {
        self.find(owner).map_or(Ok(AdaptOutcome::Done), |open| open.adapt(wanted))
    }

    /// Closes a listener and opens it anew with other options; the number that it has then. If that
    /// fails, it is opened as it was.
    pub(super) fn reopen(
        &mut self,
        owner: OwnerId,
        wanted: &WantedListener,
        owners: &mut OwnerSequence,
        epoll: &Epoll,
    ) -> Result<OwnerId, Error> {
        let Some(at) = self.open.iter().position(|open| open.owner == owner) else {
            return Ok(owner);
        };
        let mut old = self.open.remove(at);
        old.listener.clear_place();
        old.disarm(epoll);
        let (was, real) = (old.wanted(), old.listener.local().clone());
        // A peer that stands for all would stay with the socket that was open before.
        let next_owner = if old.listener.has_one_peer() { owners.take() } else { owner };
        // Two sockets cannot be bound to one address, so the old one has to go first.
        drop(old);
        let opened = self.bind_where_it_was(wanted, real.address(), next_owner);
        match opened {
            Ok(open) => self.open.insert(at, open),
            Err(error) => {
                match self.bind_where_it_was(&was, real.address(), owner) {
                    Ok(open) => self.open.insert(at, open),
                    Err(error) => error!(endpoint = %real, %error, "listener closed"),
                }
                return Err(error);
            }
        }
        Ok(next_owner)
    }

    /// Binds a listener at the address that it really had: the kernel may have chosen the port.
    fn bind_where_it_was(
        &self,
        wanted: &WantedListener,
        address: &str,
        owner: OwnerId,
    ) -> Result<OpenListener, Error> {
        let endpoint = wanted.listen.endpoint.with_address(address);
        let listen = ListenConfig { endpoint, ..wanted.listen.clone() };
        let there = WantedListener { listen, socket: wanted.socket };
        let mut open = OpenListener::bind(&there, owner, &self.sockets)?;
        open.config = wanted.listen.clone();
        Ok(open)
    }
}

/// Closes a listener for good.
pub(super) fn close(open: &OpenListener, epoll: &Epoll) {
    info!(endpoint = %open.listener.local(), "listener closed");
    open.disarm(epoll);
}
