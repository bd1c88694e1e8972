//! The loop that serves pairs: all of them, or the only one of a child.

use std::time::{Duration, Instant};

use ipcd_sys::inherited::raise_descriptor_limit;
use ipcd_transport::{ChannelParts, Listener, PeerIdentity};
use slab::Slab;

use crate::alarms::PairAlarms;
use crate::commands::CommandSet;
use crate::connecting::{ConnectOutcome, PendingConnect, adopt, connect};
use crate::end::PairEnd;
use crate::flow::SharedBuffers;
use crate::listening::PeerListener;
use crate::pair::{PeerOrigin, RelayPair};
use crate::side::RelaySide;
use crate::signals::SignalWatch;
use crate::variables::peer_variables;
use crate::watch::{EpollWatch, INPUT, WatchToken};
use crate::{Error, Observer, Relay, Result};

/// Peers at a time; further ones wait in the listener's backlog.
const MAX_PEERS: usize = 4096;
/// Peers whose server has not answered yet; each of them has a process.
const MAX_WAITING: usize = 256;
/// The descriptors for this number of peers. With fewer, peers wait in the listener's backlog.
const DESCRIPTORS: u64 = 4 * MAX_PEERS as u64;
/// Peers that are accepted in one turn.
const ACCEPTED: usize = 64;
/// The time that commands may take to end after TERM.
const ENDING: Duration = Duration::from_secs(1);

pub(crate) struct PairServer<'a> {
    relay: &'a Relay,
    observer: &'a dyn Observer,
    watch: EpollWatch,
    signals: SignalWatch,
    listener: Option<PeerListener>,
    pairs: Slab<RelayPair>,
    connecting: Slab<PendingPeer>,
    alarms: PairAlarms,
    /// Pairs that want another turn at once.
    again: Vec<usize>,
    commands: CommandSet,
    buffers: SharedBuffers,
    now: Instant,
    /// The error that ended the only peer.
    failure: Option<Error>,
}

/// An accepted peer without a connection to the other side yet.
struct PendingPeer {
    waiting: PendingConnect,
    end: PairEnd,
    who: String,
    origin: PeerOrigin,
}

impl<'a> PairServer<'a> {
    /// Without a listener the server ends with its last pair.
    pub(crate) fn new(
        relay: &'a Relay,
        observer: &'a dyn Observer,
        listener: Option<(Box<dyn Listener>, SignalWatch)>,
    ) -> Result<Self> {
        let watch = EpollWatch::new()?;
        let (listener, signals) = match listener {
            Some((listener, signals)) => {
                raise_descriptor_limit(DESCRIPTORS);
                (Some(PeerListener::new(listener)), signals)
            }
            None => (None, SignalWatch::new()?),
        };
        watch.set(signals.fd(), WatchToken::Signals, None, Some(INPUT))?;
        Ok(Self {
            relay,
            observer,
            watch,
            signals,
            listener,
            pairs: Slab::new(),
            connecting: Slab::new(),
            alarms: PairAlarms::default(),
            again: Vec::new(),
            commands: CommandSet::new(),
            buffers: SharedBuffers::new(),
            now: Instant::now(),
            failure: None,
        })
    }

    /// Connects a first side that is a subject to the other side.
    pub(crate) fn serve_subject(&mut self) -> Result<()> {
        let (relay, side) = (self.relay, &self.relay.from);
        let variables = peer_variables(side, None, relay.ucspi);
        let ConnectOutcome::End(from) = connect(relay, side, &[], false)? else { return Ok(()) };
        self.start_keeper();
        let ConnectOutcome::End(to) = connect(relay, &relay.to, &variables, false)? else {
            return Ok(());
        };
        self.add_pair(from, to, side.to_string(), (PeerIdentity::default(), Vec::new()))
    }

    /// Connects the only peer of a child.
    pub(crate) fn serve_one(&mut self, parts: ChannelParts) -> Result<()> {
        self.connect_peer(parts, false)
    }

    /// Serves until a signal ends it, or until the last pair has ended.
    pub(crate) fn run(&mut self) -> Result<()> {
        while !self.is_over() {
            self.watch_listener()?;
            if self.run_once(self.deadline())? {
                return self.shut_down();
            }
        }
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits once and handles the events. Returns whether a signal ends the relay.
    fn run_once(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let woken = self.watch.wait(deadline)?;
        self.now = Instant::now();
        let (mut turns, mut answers) = (std::mem::take(&mut self.again), Vec::new());
        let (mut comes, mut ends) = (false, false);
        for woken in woken {
            match woken.token {
                WatchToken::Listener => comes = true,
                WatchToken::Signals => ends |= self.read_signals(),
                WatchToken::Connecting(key) => answers.push(key),
                WatchToken::Pair(key, end) => {
                    if let (true, Some(pair)) = (woken.is_gone, self.pairs.get_mut(key)) {
                        pair.end_is_gone(end);
                    }
                    turns.push(key);
                }
            }
        }
        turns.extend(self.alarms.take_due(self.now));
        // A pair with several events gets one turn only.
        turns.sort_unstable();
        turns.dedup();
        // Pairs come before new peers: a pair that ends makes room for one.
        turns.into_iter().try_for_each(|key| self.turn_pair(key))?;
        answers.into_iter().try_for_each(|key| self.finish_connect(key))?;
        if comes {
            self.accept_peers()?;
        }
        Ok(ends)
    }

    fn read_signals(&mut self) -> bool {
        let heard = self.signals.read_pending();
        if heard.child {
            self.commands.reap_ended();
        }
        heard.ends
    }

    fn is_over(&self) -> bool {
        let is_idle = self.pairs.is_empty() && self.connecting.is_empty();
        self.listener.is_none() && is_idle && self.commands.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.again.is_empty() {
            return Some(self.now);
        }
        let pause_end = self.listener.as_ref().and_then(PeerListener::pause_end);
        self.alarms.first().into_iter().chain(pause_end).min()
    }

    fn watch_listener(&mut self) -> Result<()> {
        let has_room = self.has_room();
        let Some(listener) = &mut self.listener else { return Ok(()) };
        listener.watch(&self.watch, has_room, self.now)
    }

    fn has_room(&self) -> bool {
        let peers = self.pairs.len() + self.connecting.len() + self.commands.count();
        peers < MAX_PEERS && self.connecting.len() < MAX_WAITING
    }

    fn accept_peers(&mut self) -> Result<()> {
        for _ in 0..ACCEPTED {
            let listener = self.listener.as_mut();
            let accepted = listener.and_then(|it| it.accept(self.observer, self.now));
            let Some(parts) = accepted else { break };
            self.connect_peer(parts, true).or_else(|error| self.report_error(error))?;
            if !self.has_room() {
                break;
            }
        }
        Ok(())
    }

    fn report_error(&self, error: Error) -> Result<()> {
        self.observer.trouble(&error.to_string());
        Ok(())
    }

    /// Connects an accepted peer. A failure closes it and is reported.
    fn connect_peer(&mut self, parts: ChannelParts, serves_others: bool) -> Result<()> {
        let relay = self.relay;
        let RelaySide::Endpoint(place) = &relay.from else { return Ok(()) };
        let who = name(&parts.identity, &relay.from);
        if !relay.from.admits(parts.identity.addr) {
            self.observer.trouble(&format!("{who}: connection refused: address not in allow="));
            return Ok(());
        }
        let origin = (parts.identity.clone(), parts.state.clone());
        // The variables name addresses of the socket, which the channel takes over below.
        let variables = peer_variables(&relay.from, Some(&parts), relay.ucspi);
        self.start_keeper();
        let connected = connect(relay, &relay.to, &variables, serves_others);
        let added = connected.and_then(|connected| {
            let may_be_browser = parts.identity.addr.is_some_and(|addr| addr.ip().is_some());
            let mut end = adopt(relay, place, parts)?;
            // Browsers connect over IP only. Any other side than a subject may be an HTTP server.
            if may_be_browser && matches!(relay.to, RelaySide::Subject { .. }) {
                end.refuse_http();
            }
            match connected {
                ConnectOutcome::End(to) => self.add_pair(end, to, who.clone(), origin.clone()),
                ConnectOutcome::Later(waiting) => self.wait_for(PendingPeer {
                    waiting,
                    end,
                    who: who.clone(),
                    origin: origin.clone(),
                }),
            }
        });
        added.or_else(|error| {
            self.refuse_peer(&who, &error, origin);
            Ok(())
        })
    }

    fn wait_for(&mut self, coming: PendingPeer) -> Result<()> {
        let entry = self.connecting.vacant_entry();
        let token = WatchToken::Connecting(entry.key());
        self.watch.set(coming.waiting.fd(), token, None, Some(INPUT))?;
        entry.insert(coming);
        Ok(())
    }

    fn finish_connect(&mut self, key: usize) -> Result<()> {
        let RelaySide::Endpoint(place) = &self.relay.to else { return Ok(()) };
        let Some(coming) = self.connecting.get(key) else { return Ok(()) };
        let Some(answer) = coming.waiting.take(self.relay, place) else { return Ok(()) };
        let PendingPeer { waiting, end, who, origin } = self.connecting.remove(key);
        self.watch.set(waiting.fd(), WatchToken::Connecting(key), Some(INPUT), None)?;
        match answer {
            Ok(to) => self.add_pair(end, to, who, origin),
            Err(error) => {
                self.refuse_peer(&who, &error, origin);
                Ok(())
            }
        }
    }

    /// Closes a peer that cannot be connected.
    fn refuse_peer(&mut self, who: &str, error: &Error, origin: PeerOrigin) {
        self.observer.trouble(&format!("{who}: {error}"));
        let Some(listener) = &mut self.listener else { return };
        // The listener of a FIFO would hand the same writers over again at once.
        match is_unknown(&origin.0) {
            true => listener.release_later(origin, self.now),
            false => listener.release(&origin),
        }
    }

    fn add_pair(
        &mut self,
        from: PairEnd,
        to: PairEnd,
        who: String,
        origin: PeerOrigin,
    ) -> Result<()> {
        let pair = RelayPair::new(from, to, who, origin);
        pair.child().into_iter().for_each(|process| self.commands.add(process));
        let key = self.pairs.insert(pair);
        self.turn_pair(key)
    }

    /// Prepares the start of a command, if the other side is one.
    fn start_keeper(&mut self) {
        if matches!(&self.relay.to, RelaySide::Endpoint(to) if to.endpoint.is_opaque()) {
            self.commands.start_keeper();
        }
    }

    fn turn_pair(&mut self, key: usize) -> Result<()> {
        let Some(pair) = self.pairs.get_mut(key) else { return Ok(()) };
        let state = pair.turn(key, self.now, &mut self.buffers, &self.watch, self.observer)?;
        if state.more {
            self.again.push(key);
        }
        self.alarms.set(key, state.deadline.filter(|_| !state.is_over));
        if state.is_over {
            self.remove_pair(key);
        }
        Ok(())
    }

    fn remove_pair(&mut self, key: usize) {
        let pair = self.pairs.remove(key);
        pair.tell_end(self.listener.is_none(), self.observer);
        let (origin, failure) = pair.into_end();
        self.failure = failure;
        self.listener.iter_mut().for_each(|listener| listener.release(&origin));
    }

    /// Ends everything: the listener's files are removed, pairs close once the daemon has accepted
    /// the published messages, commands get TERM, and KILL after a second.
    fn shut_down(&mut self) -> Result<()> {
        if let Some(listener) = self.listener.take() {
            listener.close(&self.watch)?;
        }
        // Dropping a pending connection kills its process.
        self.connecting.clear();
        self.commands.terminate();
        for (key, pair) in &mut self.pairs {
            pair.stop();
            self.again.push(key);
        }
        let deadline = Instant::now() + ENDING;
        while !self.is_over() && Instant::now() < deadline {
            let wake = self.deadline().map_or(deadline, |wake| wake.min(deadline));
            // A second signal ends the wait.
            if self.run_once(Some(wake))? {
                break;
            }
        }
        self.pairs.clear();
        self.commands.kill();
        Ok(())
    }
}

/// The name of a peer for people.
pub(crate) fn name(identity: &PeerIdentity, side: &RelaySide) -> String {
    if is_unknown(identity) { side.to_string() } else { identity.to_string() }
}

/// Whether the peer has no identity, as the writers of a FIFO. There is only one such peer, and it
/// comes again as soon as it is refused.
fn is_unknown(identity: &PeerIdentity) -> bool {
    *identity == PeerIdentity::default()
}
