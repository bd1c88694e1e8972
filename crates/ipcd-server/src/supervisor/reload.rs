//! HUP: another configuration is put in force while the daemon runs.

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::listening::{Listening, bind, wanted_listeners};
use super::{Supervisor, core_config};
use crate::Error;
use crate::config::{Config, Daemon};
use crate::link::{Live, ToWorker};
use crate::listen::Listen;

impl Supervisor {
    /// Reads the configuration again. If it is no good, or cannot be put in force, nothing changes.
    pub(super) fn reload(&mut self) {
        let Some(reload) = &self.reload else {
            return match self.reload_listeners() {
                0 => warn!("nothing to reload: the daemon was started without a file"),
                count => info!(listeners = count, "reloaded"),
            };
        };
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        let _ = sd_notify::notify(&states);
        let outcome = reload().map_err(|error| Error::Config(error.to_string()));
        match outcome.and_then(|config| self.apply(config)) {
            Ok(()) => info!("reloaded"),
            Err(error) => error!(%error, "not reloaded, nothing has changed"),
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    /// Has the listeners read their certificates and the like again; how many have some. One whose
    /// files are no good goes on with what it had.
    fn reload_listeners(&mut self) -> usize {
        let mut count = 0;
        for Listening { listener, .. } in &mut self.listeners {
            match listener.reload() {
                Ok(has_any) => count += usize::from(has_any),
                Err(error) => {
                    count += 1;
                    let endpoint = listener.local();
                    error!(%endpoint, %error, "not read again, the listener keeps what it had");
                }
            }
        }
        count
    }

    /// Puts a configuration in force: what can fail comes first.
    fn apply(&mut self, config: Config) -> Result<(), Error> {
        let tokens = self.runtime_dir.tokens(&config.tokens)?;
        let wanted = wanted_listeners(&config, &self.runtime_dir);
        let is_open = |listen: &&Listen| self.listeners.iter().any(|open| open.asked == **listen);
        let mut added = Vec::new();
        for (listen, number) in wanted.iter().filter(|l| !is_open(l)).zip(self.next_listener..) {
            added.push(bind(listen, number)?);
        }
        self.next_listener += added.len();
        self.listeners.retain(|open| {
            let stays = wanted.contains(&open.asked);
            if !stays {
                info!(endpoint = %open.listener.local(), "listening no more");
            }
            stays
        });
        self.reload_listeners();
        self.listeners.extend(added);
        self.admission.set_limits(&config.limits);
        let started = self.core.daemon.started;
        self.core = core_config(&config, &self.listeners, tokens);
        self.core.daemon.started = started;
        let live = Box::new(Live::of(&self.core));
        self.tell_everybody(|| ToWorker::Configure(live.clone()));
        if config.needs_restart(&self.config) {
            warn!("changes in [daemon] and [log], but for the time-outs, need a restart");
        }
        let Daemon { drain_timeout, watchdog, .. } = config.daemon;
        let daemon = Daemon { drain_timeout, watchdog, ..self.config.daemon.clone() };
        self.config = Config { daemon, log: self.config.log, ..config };
        Ok(())
    }
}
