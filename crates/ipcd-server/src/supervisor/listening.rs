//! The listeners: which are wanted, and binding them.

use std::time::Instant;

use ipcd_transport::{Listener, Transport};
use tracing::info;

use crate::Error;
use crate::config::Config;
use crate::listen::Listen;
use crate::runtime::RuntimeDir;

/// An open listener.
pub(super) struct Listening {
    pub(super) number: usize,
    /// What was configured.
    pub(super) asked: Listen,
    pub(super) listener: Box<dyn Listener>,
    pub(super) transport: &'static dyn Transport,
    /// Whether it is waited for.
    pub(super) armed: bool,
    /// Not to be waited for until then, because the system had no descriptor for a peer.
    pub(super) paused: Option<Instant>,
}

/// The listener of a number, if it is open.
pub(super) fn find(listeners: &mut [Listening], number: usize) -> Option<&mut Listening> {
    listeners.iter_mut().find(|listening| listening.number == number)
}

/// Binds all that are wanted.
pub(super) fn bind_all(config: &Config, runtime_dir: &RuntimeDir) -> Result<Vec<Listening>, Error> {
    let wanted = wanted_listeners(config, runtime_dir);
    wanted.iter().zip(0..).map(|(listen, number)| bind(listen, number)).collect()
}

/// Those that are configured, or the default endpoint of every transport that has one.
pub(super) fn wanted_listeners(config: &Config, runtime_dir: &RuntimeDir) -> Vec<Listen> {
    // Those that have to be told more have none.
    let default = |transport: &dyn Transport| transport.default_endpoint(runtime_dir.path()).ok();
    match config.listeners.is_empty() {
        true => ipcd_transports::ALL.into_iter().filter_map(default).map(Listen::frames).collect(),
        false => config.listeners.clone(),
    }
}

/// Binds one.
pub(super) fn bind(listen: &Listen, number: usize) -> Result<Listening, Error> {
    let Listen { name, endpoint, .. } = listen;
    let transport = ipcd_transports::of(endpoint)?;
    let listener = match listen.dialect {
        None => transport.listen(endpoint)?,
        Some(_) => transport.listen_bare(endpoint)?,
    };
    let codec = listen.codec();
    info!(endpoint = %listener.local(), %codec, name = name.as_deref(), "listening");
    let asked = listen.clone();
    Ok(Listening { number, asked, listener, transport, armed: false, paused: None })
}
