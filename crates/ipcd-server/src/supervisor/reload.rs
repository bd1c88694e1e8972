//! HUP: another configuration is put in force while the daemon runs.

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::listening::{Listening, find, wanted_listeners};
use super::relisten::Difference;
use super::{Supervisor, core_config};
use crate::config::{Config, Daemon};
use crate::link::{Live, ToWorker};
use crate::listen::Dialect;
use crate::{Error, access};

impl Supervisor {
    /// Reads the configuration again. If it is no good, or cannot be put in force, nothing changes.
    pub(super) fn reload(&mut self) {
        let mut states = vec![NotifyState::Reloading, NotifyState::Status("reloading")];
        states.extend(NotifyState::monotonic_usec_now());
        self.herald.say(&states);
        let trusted = self.trusted();
        let outcome = match &self.reload {
            Some(reload) => reload().map_err(|error| Error::Config(error.to_string())),
            None => {
                match self.reload_listeners() {
                    0 => warn!("nothing to reload: the daemon was started without a file"),
                    count => info!(listeners = count, "reloaded"),
                }
                self.end_who_were_trusted(&trusted);
                // Who asked for it waits for an answer.
                return self.notify_ready("");
            }
        };
        match outcome.and_then(|config| self.apply(config)) {
            Ok(()) => {
                self.end_who_were_trusted(&trusted);
                info!("reloaded");
                self.notify_ready("");
            }
            Err(error) => {
                error!(%error, "not reloaded, nothing has changed");
                self.notify_ready(&format!("; not reloaded: {error}"));
            }
        }
    }

    /// Whose word each listener takes for who its peers are.
    fn trusted(&self) -> Vec<(usize, Vec<Vec<u8>>)> {
        let of = |open: &Listening| (open.number, open.listener.trusted().to_vec());
        self.listeners.iter().map(of).collect()
    }

    /// Ends the sessions of peers of a listener that does not take the word of all any more that it
    /// took it of: whoever is still trusted opens another one.
    fn end_who_were_trusted(&mut self, before: &[(usize, Vec<Vec<u8>>)]) {
        for (listener, before) in before {
            let open = self.listeners.iter().find(|open| open.number == *listener);
            let Some(now) = open.map(|open| open.listener.trusted()) else { continue };
            let is_trusted = |one: &Vec<u8>| now.contains(one);
            let (listener, may_return) = (*listener, before.iter().any(is_trusted));
            if !before.iter().all(is_trusted) {
                self.tell_everybody(|| ToWorker::Distrust { listener, may_return });
            }
        }
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
        let wanted = wanted_listeners(&config, &self.runtime_dir, &self.sockets)?;
        let spoken: Vec<_> =
            self.listeners.iter().map(|open| (open.number, open.asked.dialect.clone())).collect();
        let difference = Difference::between(&self.listeners, wanted);
        let sandbox = self.sandbox.level().to_string();
        let core = self.relisten(&config, difference, |listeners| {
            let core = core_config(&config, listeners, tokens, sandbox);
            Live::check(&core).map(|()| core)
        })?;
        self.reload_listeners();
        self.admission.set_limits(&config.limits);
        let started = self.core.daemon.started;
        // Until the new rules are in force; what closed listeners are called stays known.
        self.core = ipcd_core::Config { acl: std::mem::take(&mut self.core.acl), ..core };
        self.core.daemon.started = started;
        if config.needs_restart(&self.config) {
            warn!("changes in [daemon] and [log], but for the time-outs, need a restart");
        }
        let Daemon { drain_timeout, watchdog, .. } = config.daemon;
        let daemon = Daemon { drain_timeout, watchdog, ..self.config.daemon.clone() };
        self.config = Config { daemon, log: self.config.log, ..config };
        self.set_servers(self.config.connects.clone());
        self.set_programs(self.config.execs.clone());
        self.set_rules();
        let live = Box::new(Live::of(&self.core));
        self.tell_everybody(|| ToWorker::Configure(live.clone()));
        self.redirect(spoken);
        Ok(())
    }

    /// Tells workers what bare peers say and hear now, where that is something else than before.
    fn redirect(&mut self, before: Vec<(usize, Option<Dialect>)>) {
        for (listener, was) in before {
            let now =
                find(&mut self.listeners, listener).and_then(|open| open.asked.dialect.clone());
            if let (Some(was), Some(dialect)) = (was, now)
                && was != dialect
            {
                self.tell_everybody(|| ToWorker::Redirect { listener, dialect: dialect.clone() });
            }
        }
    }

    /// Puts the access rules in force for the listeners, servers and programs that there are. A rule
    /// for a name that nothing has may be for something that is to come; or be misspelt, and then
    /// not deny what it should.
    pub(super) fn set_rules(&mut self) {
        let acl = access::acl(&self.config.access, self.names());
        let before = std::mem::replace(&mut self.core.acl, acl);
        // A listener that is closed has its names for as long as peers are here that came in by it.
        for (number, names) in before.listeners {
            if self.admission.has_peers_of(number) {
                self.core.acl.listeners.entry(number).or_insert(names);
            }
        }
        let tokens = &self.core.tokens.named;
        let is_token = |name: &str| name.is_empty() || tokens.contains_key(name);
        for why in access::strangers(&self.core.acl, is_token) {
            warn!("{why}");
        }
    }
}
