//! One open listener, and binding it.

use std::time::Instant;

use ipcd_transport::{Endpoint, Listener, Transport};
use nix::sys::epoll::{Epoll, EpollFlags};
use tracing::info;

use crate::Error;
use crate::activation::{PassedSocket, WantedListener};
use crate::ids::OwnerId;
use crate::listen::ListenConfig;
use crate::supervisor::event_source::EventSource;

/// An open listener.
pub(super) struct OpenListener {
    pub(super) owner: OwnerId,
    pub(super) config: ListenConfig,
    pub(super) listener: Box<dyn Listener>,
    /// The passed socket that it is made of, if a service manager has bound it.
    pub(super) socket: Option<usize>,
    pub(super) transport: &'static dyn Transport,
    /// Whether epoll watches it.
    is_armed: bool,
    /// No peer is accepted until then.
    pub(super) paused_until: Option<Instant>,
}

/// The outcome of giving a listener other options.
#[must_use]
pub(super) enum AdaptOutcome {
    /// They are in force.
    Done,
    /// They need another socket.
    MustReopen,
}

impl OpenListener {
    /// Binds a listener, or makes it of the socket that was passed for it.
    pub(super) fn bind(
        wanted: &WantedListener,
        owner: OwnerId,
        sockets: &[PassedSocket],
    ) -> Result<Self, Error> {
        let WantedListener { listen, socket } = wanted;
        let ListenConfig { name, endpoint, .. } = listen;
        let transport = ipcd_transports::of(endpoint, listen.purpose())?;
        let listener = match (socket, &listen.raw_profile) {
            (Some(socket), _) => sockets[*socket].open(listen, transport)?,
            (None, None) => transport.listen(endpoint)?,
            (None, Some(raw_profile)) => {
                let raw = transport.raw_at(endpoint)?;
                raw.listen_raw(&raw.check_raw(endpoint, raw_profile.raw_directions())?)?
            }
        };
        let codec = listen.codec();
        let passed = socket.map(|_| true);
        info!(endpoint = %listener.local(), %codec, name = name.as_deref(), passed, "listening");
        let (config, socket) = (listen.clone(), *socket);
        let (is_armed, paused_until) = (false, None);
        Ok(Self { owner, config, listener, socket, transport, is_armed, paused_until })
    }

    /// The same as it was wanted.
    pub(super) fn wanted(&self) -> WantedListener {
        WantedListener { listen: self.config.clone(), socket: self.socket }
    }

    /// Whether it is exactly the one that is wanted.
    pub(super) fn matches_exactly(&self, wanted: &WantedListener) -> bool {
        (&self.config, self.socket) == (&wanted.listen, wanted.socket)
    }

    /// Whether it is at the wanted place, perhaps with other options.
    pub(super) fn is_at(&self, wanted: &WantedListener) -> bool {
        let (ours, other) = (&self.config.endpoint, &wanted.listen.endpoint);
        let is_there =
            other.address() == ours.address() || other.address() == self.listener.local().address();
        is_there
            && (ours.scheme(), ours.is_opaque(), self.socket)
                == (other.scheme(), other.is_opaque(), wanted.socket)
    }

    /// The names that access rules may use for it. The address that it really has comes first: no
    /// other listener has that. A passed socket's own name is among them.
    pub(super) fn names(&self, sockets: &[PassedSocket]) -> Vec<String> {
        let passed = self.socket.and_then(|number| sockets.get(number)?.name());
        let mut names = vec![self.listener.local().to_string()];
        names.extend(self.config.names());
        names.extend(passed.map(str::to_owned));
        names.dedup();
        names
    }

    /// Has epoll watch it while it is to accept.
    pub(super) fn arm(&mut self, epoll: &Epoll, accepts: bool) -> nix::Result<()> {
        if accepts == self.is_armed {
            return Ok(());
        }
        let fd = self.listener.fd();
        match accepts {
            true => {
                epoll.add(fd, EventSource::Listener(self.owner).event(EpollFlags::EPOLLIN))?;
            }
            false => epoll.delete(fd)?,
        }
        self.is_armed = accepts;
        Ok(())
    }

    /// Takes it out of epoll. Closing is not enough for a socket that another process has open, too.
    pub(super) fn disarm(&self, epoll: &Epoll) {
        if self.is_armed {
            let _ = epoll.delete(self.listener.fd());
        }
    }

    /// Gives it other options, if its socket may stay open.
    pub(super) fn adapt(&mut self, wanted: &WantedListener) -> Result<AdaptOutcome, Error> {
        let at = endpoint_to_open(&wanted.listen, self.transport)?;
        let is_bare = wanted.listen.raw_profile.is_some();
        let opened_at = endpoint_to_open(&self.config, self.transport)?;
        let is_alike = (&at, is_bare) == (&opened_at, self.config.raw_profile.is_some());
        if !is_alike && (self.socket.is_some() || !self.listener.adapt(&at, is_bare)?) {
            return Ok(AdaptOutcome::MustReopen);
        }
        let (endpoint, codec) = (self.listener.local(), wanted.listen.codec());
        info!(%endpoint, %codec, name = wanted.listen.name, "listener options changed");
        self.config = wanted.listen.clone();
        Ok(AdaptOutcome::Done)
    }
}

/// The endpoint to open. For raw peers it has the direction of their bytes, where the transport has
/// to know that.
fn endpoint_to_open(listen: &ListenConfig, transport: &dyn Transport) -> Result<Endpoint, Error> {
    match &listen.raw_profile {
        Some(raw_profile) => Ok(transport
            .raw_at(&listen.endpoint)?
            .check_raw(&listen.endpoint, raw_profile.raw_directions())?),
        None => Ok(listen.endpoint.clone()),
    }
}
