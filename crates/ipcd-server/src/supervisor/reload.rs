//! HUP: another configuration is put in force while the daemon runs, all of it or nothing.

use std::collections::BTreeMap;

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::listener_changes::ListenerChanges;
use super::listeners::{ListenerSet, TrustAnchors, close};
use super::open_listener::AdaptOutcome;
use super::{Supervisor, router_config};
use crate::activation::WantedListener;
use crate::config::{Config, DaemonConfig};
use crate::ids::OwnerId;
use crate::link::{LiveConfig, ToWorker};
use crate::listen::RawProfile;
use crate::{Error, access};

impl Supervisor {
    /// Reads the configuration again. If it is bad, or cannot be put in force, nothing changes.
    pub(super) fn reload(&mut self) {
        let mut states = vec![NotifyState::Reloading, NotifyState::Status("reloading")];
        states.extend(NotifyState::monotonic_usec_now());
        self.notifier.notify(&states);
        let trusted = self.listeners.trust_anchors();
        let outcome = match &self.reload {
            Some(reload) => reload().map_err(|error| Error::Config(error.to_string())),
            None => {
                match self.listeners.reload_files() {
                    0 => warn!("nothing to reload: the daemon was started without a file"),
                    count => info!(listeners = count, "reloaded"),
                }
                self.end_distrusted(&trusted);
                // systemctl reload waits for READY=1 after RELOADING=1, also when nothing was done.
                return self.notify_ready("");
            }
        };
        match outcome.and_then(|config| self.apply(config)) {
            Ok(()) => {
                self.end_distrusted(&trusted);
                info!("reloaded");
                self.notify_ready("");
            }
            Err(error) => {
                error!(%error, "not reloaded, nothing has changed");
                self.notify_ready(&format!("; not reloaded: {error}"));
            }
        }
    }

    /// Ends the sessions of a listener's peers if it has stopped trusting an authority: a peer that is
    /// still trusted opens another one.
    fn end_distrusted(&mut self, before: &TrustAnchors) {
        for (owner, before) in before {
            let Some(open) = self.listeners.find(*owner) else { continue };
            let now = open.listener.trusted();
            let is_trusted = |anchor: &Vec<u8>| now.contains(anchor);
            let (owner, may_return) = (*owner, before.iter().any(is_trusted));
            if !before.iter().all(is_trusted) {
                self.workers.send_to_all(&ToWorker::Distrust { owner, may_return });
            }
        }
    }

    /// Puts a configuration in force: what can fail comes first.
    fn apply(&mut self, config: Config) -> Result<(), Error> {
        let tokens = self.runtime_dir.tokens(&config.tokens)?;
        let wanted = self.listeners.wanted(&config, &self.runtime_dir)?;
        let raw_profiles = self.listeners.raw_profiles();
        let changes = self.listeners.changes_to(wanted);
        let sandbox = self.router_config.daemon.sandbox.clone();
        let router = self.change_listeners(&config, changes, |listeners| {
            let router = router_config(&config, listeners, tokens, sandbox);
            LiveConfig::check(&router).map(|()| router)
        })?;
        self.listeners.reload_files();
        self.admission.set_limits(&config.limits);
        let started = self.router_config.daemon.started;
        // The old rules stay until the new ones are in force: closed listeners keep their names.
        let acl = std::mem::take(&mut self.router_config.acl);
        self.router_config = ipcd_core::Config { acl, ..router };
        self.router_config.daemon.started = started;
        if config.needs_restart(&self.config) {
            warn!("changes in [daemon] and [log], but for the time-outs, need a restart");
        }
        let DaemonConfig { drain_timeout, watchdog, .. } = config.daemon;
        let daemon = DaemonConfig { drain_timeout, watchdog, ..self.config.daemon.clone() };
        self.config = Config { daemon, log: self.config.log, ..config };
        self.set_owners();
        self.set_rules();
        let live = Box::new(LiveConfig::of(&self.router_config));
        self.workers.send_to_all(&ToWorker::Configure(live));
        self.resubscribe_raw(raw_profiles);
        Ok(())
    }

    /// Makes the changes, and then does what may fail, too. If that does, all is as it was.
    fn change_listeners<T>(
        &mut self,
        config: &Config,
        changes: ListenerChanges,
        then: impl FnOnce(&ListenerSet) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let ListenerChanges { changed, added, removed } = changes;
        // First, because it is the most likely failure, and nothing has changed yet.
        let opened = self.listeners.bind_all(config, &added, &mut self.owners)?;
        let mut before = Vec::new();
        let changed = self.change_all(&changed, &mut before);
        // Out of the set, for `then` must not see them, but still open: a failure puts them back.
        let closing = self.listeners.remove(&removed);
        let new: Vec<OwnerId> = opened.iter().map(|open| open.owner).collect();
        self.listeners.add(opened);
        let outcome = changed.and_then(|()| then(&self.listeners));
        if outcome.is_ok() {
            closing.iter().for_each(|open| close(open, &self.epoll));
            return outcome;
        }
        drop(self.listeners.remove(&new));
        self.listeners.add(closing);
        // In reverse, because a later change may have taken the address that an earlier one freed.
        for (owner, was) in before.into_iter().rev() {
            if let Err(error) = self.change(owner, &was) {
                error!(endpoint = %was.listen.endpoint, %error, "cannot restore a listener after a failed reload");
            }
        }
        outcome
    }

    /// Changes these, and notes their numbers and options of before.
    fn change_all(
        &mut self,
        changed: &[(OwnerId, WantedListener)],
        before: &mut Vec<(OwnerId, WantedListener)>,
    ) -> Result<(), Error> {
        for (owner, wanted) in changed {
            let was = self.listeners.find(*owner).map(|open| open.wanted());
            let owner = self.change(*owner, wanted)?;
            before.extend(was.map(|was| (owner, was)));
        }
        Ok(())
    }

    /// Gives a listener other options; the number that it has then. The peers that wait at a socket
    /// which has to be closed are accepted before.
    fn change(&mut self, owner: OwnerId, wanted: &WantedListener) -> Result<OwnerId, Error> {
        if let AdaptOutcome::Done = self.listeners.adapt(owner, wanted)? {
            return Ok(owner);
        }
        self.peer_intake().accept(owner);
        let now = self.listeners.reopen(owner, wanted, &mut self.owners, &self.epoll)?;
        if now != owner {
            for peer in self.admission.of_owner(owner) {
                self.peer_intake().disconnect(peer);
            }
        }
        Ok(now)
    }

    /// Tells workers the subjects of raw peers, where they have changed.
    fn resubscribe_raw(&mut self, before: Vec<(OwnerId, RawProfile)>) {
        let now: BTreeMap<OwnerId, RawProfile> =
            self.listeners.raw_profiles().into_iter().collect();
        for (owner, was) in before {
            if let Some(raw_profile) = now.get(&owner).filter(|now| **now != was) {
                let raw_profile = raw_profile.clone();
                self.workers.send_to_all(&ToWorker::Redirect { owner, raw_profile });
            }
        }
    }

    /// Makes these the servers that are dialled and the programs that run.
    pub(super) fn set_owners(&mut self) {
        let Config { connects, execs, .. } = self.config.clone();
        let patience = self.program_patience();
        let mut ended = self.servers.replace(connects, &mut self.owners);
        ended.extend(self.programs.replace(execs, &mut self.owners, patience));
        ended.into_iter().for_each(|peer| self.peer_intake().disconnect(peer));
    }

    /// Puts the access rules in force for the listeners, servers and programs that there are. A rule
    /// for a name that nothing has may be for something that is to come; or be misspelt, and then
    /// not deny what it should.
    pub(super) fn set_rules(&mut self) {
        let owners = self.listeners.names().chain(self.servers.names());
        let owners =
            owners.chain(self.programs.names()).map(|(OwnerId(owner), names)| (owner, names));
        let acl = access::acl(&self.config.access, owners.collect());
        let before = std::mem::replace(&mut self.router_config.acl, acl);
        // A listener that is closed keeps its names while peers are there that came in by it.
        for (owner, names) in before.listeners {
            if self.admission.has_peers_of(OwnerId(owner)) {
                self.router_config.acl.listeners.entry(owner).or_insert(names);
            }
        }
        let tokens = &self.router_config.tokens;
        let is_token = |name: &str| name.is_empty() || tokens.has_name(name);
        for why in access::unknown_names(&self.router_config.acl, is_token) {
            warn!("{why}");
        }
    }
}
