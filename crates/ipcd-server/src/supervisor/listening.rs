//! The listeners: which are wanted, and binding them.

use std::collections::BTreeMap;
use std::time::Instant;

use ipcd_transport::{Listener, Transport};
use tracing::{info, warn};

use super::Supervisor;
use super::dialling::Dial;
use crate::Error;
use crate::activation::{Socket, Wanted, assign};
use crate::config::Config;
use crate::listen::Listen;
use crate::runtime::RuntimeDir;

/// An open listener.
pub(super) struct Listening {
    pub(super) number: usize,
    /// What was configured.
    pub(super) asked: Listen,
    pub(super) listener: Box<dyn Listener>,
    /// The passed socket that it is, if it is none of ours.
    pub(super) socket: Option<usize>,
    pub(super) transport: &'static dyn Transport,
    /// Whether it is waited for.
    pub(super) armed: bool,
    /// Not to be waited for until then, because the system had no descriptor for a peer.
    pub(super) paused: Option<Instant>,
}

impl Listening {
    /// What was wanted when it was opened.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { listen: self.asked.clone(), socket: self.socket }
    }

    /// Whether it is what is wanted.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        (&self.asked, self.socket) == (&wanted.listen, wanted.socket)
    }

    /// Whether it is where something is wanted, perhaps with other options.
    pub(super) fn is_at(&self, wanted: &Wanted) -> bool {
        let (ours, other) = (&self.asked.endpoint, &wanted.listen.endpoint);
        let is_there =
            other.address() == ours.address() || other.address() == self.listener.local().address();
        is_there
            && (ours.scheme(), ours.is_opaque(), self.socket)
                == (other.scheme(), other.is_opaque(), wanted.socket)
    }

    /// What access rules may call it, which of a passed socket is its own name, too. Where it really
    /// listens comes first: no other has that.
    pub(super) fn names(&self, sockets: &[Socket]) -> Vec<String> {
        let passed = self.socket.and_then(|number| sockets.get(number)?.name());
        let mut names = vec![self.listener.local().to_string()];
        names.extend(self.asked.names());
        names.extend(passed.map(str::to_owned));
        names.dedup();
        names
    }
}

impl Supervisor {
    /// What access rules may call those that peers are of. They do with servers and programs as with
    /// listeners.
    pub(super) fn names(&self) -> BTreeMap<usize, Vec<String>> {
        let listeners = self.listeners.iter().map(|l| (l.number, l.names(&self.sockets)));
        let servers = self.dials.iter().map(Dial::names);
        let programs = self.children.iter().map(|child| (child.number, child.asked.names()));
        listeners.chain(servers).chain(programs).collect()
    }
}

/// The listener of a number, if it is open.
pub(super) fn find(listeners: &mut [Listening], number: usize) -> Option<&mut Listening> {
    listeners.iter_mut().find(|listening| listening.number == number)
}

/// Binds all that are wanted.
pub(super) fn bind_all(
    config: &Config,
    runtime_dir: &RuntimeDir,
    sockets: &[Socket],
) -> Result<Vec<Listening>, Error> {
    let wanted = wanted_listeners(config, runtime_dir, sockets)?;
    bind_those(config, wanted.iter(), 0, sockets)
}

/// Binds these, numbered from `first` on. A default endpoint that cannot be had, because another has
/// the port, is left out with a warning: nobody has asked for just that one. If it is all of them,
/// there is nothing to run for.
pub(super) fn bind_those<'a>(
    config: &Config,
    wanted: impl Iterator<Item = &'a Wanted>,
    first: usize,
    sockets: &[Socket],
) -> Result<Vec<Listening>, Error> {
    let (mut bound, mut failed) = (Vec::new(), None);
    for wanted in wanted {
        match bind(wanted, first + bound.len(), sockets) {
            Ok(listening) => bound.push(listening),
            Err(error) if config.listeners.is_empty() && wanted.socket.is_none() => {
                let endpoint = &wanted.listen.endpoint;
                warn!(%endpoint, %error, "this default endpoint is left out (see --listen)");
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match failed {
        Some(error) if bound.is_empty() && first == 0 => Err(error),
        _ => Ok(bound),
    }
}

/// Those that are configured, or the default endpoint of every transport that has one; and what was passed.
pub(super) fn wanted_listeners(
    config: &Config,
    runtime_dir: &RuntimeDir,
    sockets: &[Socket],
) -> Result<Vec<Wanted>, Error> {
    // Those that have to be told more have none.
    let default = |transport: &dyn Transport| transport.default_endpoint(runtime_dir.path()).ok();
    let listeners = match config.listeners.is_empty() {
        true => ipcd_transports::ALL.into_iter().filter_map(default).map(Listen::frames).collect(),
        false => config.listeners.clone(),
    };
    assign(listeners, sockets)
}

/// Binds one, or takes the socket that was passed for it.
pub(super) fn bind(wanted: &Wanted, number: usize, sockets: &[Socket]) -> Result<Listening, Error> {
    let Wanted { listen, socket } = wanted;
    let Listen { name, endpoint, .. } = listen;
    let transport = ipcd_transports::of(endpoint, listen.purpose())?;
    let listener = match (socket, &listen.dialect) {
        (Some(socket), _) => sockets[*socket].open(listen, transport)?,
        (None, None) => transport.listen(endpoint)?,
        (None, Some(dialect)) => {
            let raw = transport.raw_at(endpoint)?;
            raw.listen_raw(&raw.check_raw(endpoint, dialect.flow())?)?
        }
    };
    let codec = listen.codec();
    let passed = socket.map(|_| true);
    info!(endpoint = %listener.local(), %codec, name = name.as_deref(), passed, "listening");
    let (asked, socket) = (listen.clone(), *socket);
    Ok(Listening { number, asked, listener, socket, transport, armed: false, paused: None })
}
