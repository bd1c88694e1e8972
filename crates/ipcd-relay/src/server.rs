//! The loop that serves pairs: all of them, or the only one of a child.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipcd_sys::inherited::raise_descriptor_limit;
use ipcd_sys::{Keeper, end_children};
use ipcd_transport::{ChannelParts, Listener, PeerIdentity};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use slab::Slab;

use crate::connecting::{Connected, Waiting, adopt, connect};
use crate::end::End;
use crate::flow::Room;
use crate::pair::{Origin, Pair};
use crate::side::Side;
use crate::signals::{Signals, reap};
use crate::variables::about;
use crate::watch::{INPUT, Token, Wanted, Watch};
use crate::{Error, Observer, Relay, Result};

/// Peers at a time; further ones wait in the listener's queue.
const MAX_PEERS: usize = 4096;
/// Peers that wait for a server which does not answer, each with a process.
const MAX_WAITING: usize = 256;
/// Descriptors that all of them may need. With fewer, peers wait in the listener's queue.
const DESCRIPTORS: u64 = 4 * MAX_PEERS as u64;
/// Peers that are accepted in a turn.
const ACCEPTED: usize = 64;
/// How long a listener is left alone when the system has no more descriptors, or its only peer was
/// refused.
const PAUSE: Duration = Duration::from_millis(500);
/// How long commands may take to end when they are told to.
const ENDING: Duration = Duration::from_secs(1);

pub(crate) struct Server<'a> {
    relay: &'a Relay,
    observer: &'a dyn Observer,
    watch: Watch,
    signals: Signals,
    listener: Option<Box<dyn Listener>>,
    /// What is watched of the listener.
    listens: Wanted,
    /// Until when it is left alone.
    paused: Option<Instant>,
    pairs: Slab<Pair>,
    connecting: Slab<Coming>,
    /// When pairs want a turn, whatever comes.
    alarms: BTreeSet<(Instant, usize)>,
    /// When each of them does.
    alarm_of: Vec<Option<Instant>>,
    /// Pairs that want another turn at once.
    again: Vec<usize>,
    /// Commands that run, or have not been reaped.
    commands: Vec<Pid>,
    /// Sees to them if the relay is killed; there from the first one on.
    keeper: Option<Keeper>,
    /// Peers that were refused, and of which the listener hears after the pause.
    released: Vec<Origin>,
    room: Room,
    now: Instant,
    /// Why the only peer was lost.
    failure: Option<Error>,
}

/// A peer that has come in, and is not connected yet.
struct Coming {
    waiting: Waiting,
    end: End,
    who: String,
    origin: Origin,
}

impl<'a> Server<'a> {
    /// Without a listener it ends with its last pair.
    pub(crate) fn new(
        relay: &'a Relay,
        observer: &'a dyn Observer,
        listener: Option<(Box<dyn Listener>, Signals)>,
    ) -> Result<Self> {
        // What commands leave behind comes to us, and ends with us. Where it fails, their groups do.
        let _ = set_child_subreaper(true);
        let watch = Watch::new()?;
        let (listener, signals) = match listener {
            Some((listener, signals)) => {
                raise_descriptor_limit(DESCRIPTORS);
                (Some(listener), signals)
            }
            None => (None, Signals::new()?),
        };
        watch.set(signals.fd(), Token::Signals, None, Some(INPUT))?;
        Ok(Self {
            relay,
            observer,
            watch,
            signals,
            listener,
            listens: None,
            paused: None,
            pairs: Slab::new(),
            connecting: Slab::new(),
            alarms: BTreeSet::new(),
            alarm_of: Vec::new(),
            again: Vec::new(),
            commands: Vec::new(),
            keeper: None,
            released: Vec::new(),
            room: Room::new(),
            now: Instant::now(),
            failure: None,
        })
    }

    /// Connects the subject that peers come from to the other side.
    pub(crate) fn serve_subject(&mut self) -> Result<()> {
        let (relay, side) = (self.relay, &self.relay.from);
        let variables = about(side, None, relay.ucspi);
        let Connected::End(from) = connect(relay, side, &[], false)? else { return Ok(()) };
        self.keep();
        let Connected::End(to) = connect(relay, &relay.to, &variables, false)? else {
            return Ok(());
        };
        self.add(from, to, side.to_string(), (PeerIdentity::default(), Vec::new()))
    }

    /// Connects the only peer that there is.
    pub(crate) fn serve_one(&mut self, parts: ChannelParts) -> Result<()> {
        self.begin(parts, false)
    }

    /// Serves until it is told to end, or until there is nobody left to serve.
    pub(crate) fn run(&mut self) -> Result<()> {
        while !self.is_over() {
            self.watch_listener()?;
            if self.step(self.deadline())? {
                return self.end();
            }
        }
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits once, and does what is to be done then; whether it is told to end.
    fn step(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let woken = self.watch.wait(deadline)?;
        self.now = Instant::now();
        let (mut turns, mut answers) = (std::mem::take(&mut self.again), Vec::new());
        let (mut comes, mut ends) = (false, false);
        for woken in woken {
            match woken.token {
                Token::Listener => comes = true,
                Token::Signals => ends |= self.hear(),
                Token::Connecting(key) => answers.push(key),
                Token::Pair(key, end) => {
                    if let (true, Some(pair)) = (woken.is_gone, self.pairs.get_mut(key)) {
                        pair.end_is_gone(end);
                    }
                    turns.push(key);
                }
            }
        }
        turns.extend(self.take_alarms());
        turns.sort_unstable();
        turns.dedup();
        turns.into_iter().try_for_each(|key| self.turn(key))?;
        answers.into_iter().try_for_each(|key| self.answer(key))?;
        if comes {
            self.accept()?;
        }
        Ok(ends)
    }

    fn hear(&mut self) -> bool {
        let heard = self.signals.hear();
        while heard.child
            && let Some((pid, _)) = reap()
        {
            if let Some(at) = self.commands.iter().position(|command| *command == pid) {
                self.commands.swap_remove(at);
                self.keeper.iter().for_each(|keeper| keeper.ended(pid));
            }
            if self.commands.is_empty() {
                self.keeper.take().into_iter().for_each(Keeper::leave);
            }
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
        let alarm = self.alarms.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.paused).min()
    }

    fn take_alarms(&mut self) -> Vec<usize> {
        let mut due = Vec::new();
        while let Some(&(at, key)) = self.alarms.first()
            && at <= self.now
        {
            self.alarms.pop_first();
            self.alarm_of[key] = None;
            due.push(key);
        }
        due
    }

    fn set_alarm(&mut self, key: usize, at: Option<Instant>) {
        if self.alarm_of.len() <= key {
            self.alarm_of.resize(key + 1, None);
        }
        let was = std::mem::replace(&mut self.alarm_of[key], at);
        if was == at {
            return;
        }
        was.map(|was| self.alarms.remove(&(was, key)));
        at.map(|at| self.alarms.insert((at, key)));
    }

    /// Listens while there is room for more, and no reason to wait.
    fn watch_listener(&mut self) -> Result<()> {
        if self.paused.is_some_and(|until| until <= self.now) {
            self.paused = None;
            for (identity, state) in std::mem::take(&mut self.released) {
                self.release(&identity, &state);
            }
        }
        let wanted = (self.paused.is_none() && self.has_room()).then_some(INPUT);
        let Some(listener) = &self.listener else { return Ok(()) };
        self.watch.set(listener.fd(), Token::Listener, self.listens, wanted)?;
        self.listens = wanted;
        Ok(())
    }

    fn has_room(&self) -> bool {
        let peers = self.pairs.len() + self.connecting.len() + self.commands.len();
        peers < MAX_PEERS && self.connecting.len() < MAX_WAITING
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..ACCEPTED {
            let Some(listener) = self.listener.as_mut().filter(|_| self.paused.is_none()) else {
                break;
            };
            match listener.accept() {
                Ok(Some(parts)) => self.begin(parts, true).or_else(|error| self.complain(error))?,
                Ok(None) => break,
                Err(error) => {
                    if error.is_exhaustion() {
                        self.paused = Some(self.now + PAUSE);
                    }
                    self.observer.trouble(&error.to_string());
                    break;
                }
            }
            if !self.has_room() {
                break;
            }
        }
        Ok(())
    }

    fn complain(&self, error: Error) -> Result<()> {
        self.observer.trouble(&error.to_string());
        Ok(())
    }

    /// Connects a peer that has come in; one that is refused is only told about.
    fn begin(&mut self, parts: ChannelParts, serves_others: bool) -> Result<()> {
        let relay = self.relay;
        let Side::Endpoint(place) = &relay.from else { return Ok(()) };
        let who = name(&parts.identity, &relay.from);
        if !relay.from.admits(parts.identity.addr) {
            self.observer.trouble(&format!("{who}: it may not come in (see allow=)"));
            return Ok(());
        }
        let origin = (parts.identity.clone(), parts.state.clone());
        let variables = about(&relay.from, Some(&parts), relay.ucspi);
        self.keep();
        let connected = connect(relay, &relay.to, &variables, serves_others);
        let added = connected.and_then(|connected| {
            let has_address = parts.identity.addr.is_some();
            let mut end = adopt(relay, place, parts)?;
            // To any other side, `--raw` or not, an HTTP request may be what is meant.
            if has_address && matches!(relay.to, Side::Subject { .. }) {
                end.refuse_http();
            }
            match connected {
                Connected::End(to) => self.add(end, to, who.clone(), origin.clone()),
                Connected::Later(waiting) => {
                    self.wait_for(Coming { waiting, end, who: who.clone(), origin: origin.clone() })
                }
            }
        });
        added.or_else(|error| {
            self.refuse(&who, &error, origin);
            Ok(())
        })
    }

    fn wait_for(&mut self, coming: Coming) -> Result<()> {
        let entry = self.connecting.vacant_entry();
        let token = Token::Connecting(entry.key());
        self.watch.set(coming.waiting.fd(), token, None, Some(INPUT))?;
        entry.insert(coming);
        Ok(())
    }

    fn answer(&mut self, key: usize) -> Result<()> {
        let Side::Endpoint(place) = &self.relay.to else { return Ok(()) };
        let Some(coming) = self.connecting.get(key) else { return Ok(()) };
        let Some(answer) = coming.waiting.take(self.relay, place) else { return Ok(()) };
        let Coming { waiting, end, who, origin } = self.connecting.remove(key);
        self.watch.set(waiting.fd(), Token::Connecting(key), Some(INPUT), None)?;
        match answer {
            Ok(to) => self.add(end, to, who, origin),
            Err(error) => {
                self.refuse(&who, &error, origin);
                Ok(())
            }
        }
    }

    /// A peer is closed, because it cannot be connected.
    fn refuse(&mut self, who: &str, error: &Error, origin: Origin) {
        self.observer.trouble(&format!("{who}: {error}"));
        if is_unknown(&origin.0) {
            self.paused = Some(self.now + PAUSE);
            self.released.push(origin);
        } else {
            self.release(&origin.0, &origin.1);
        }
    }

    fn add(&mut self, from: End, to: End, who: String, origin: Origin) -> Result<()> {
        let pair = Pair::new(from, to, who, origin);
        self.commands.extend(pair.child().map(|pid| Pid::from_raw(pid as i32)));
        let key = self.pairs.insert(pair);
        self.turn(key)
    }

    /// Has a command that is to be started end with the relay, also when that is killed. Without a keeper,
    /// which takes a process, it gets TERM then, and what it has started does not.
    fn keep(&mut self) {
        let may_start = matches!(&self.relay.to, Side::Endpoint(to) if to.endpoint.is_opaque());
        if may_start && self.keeper.is_none() {
            // Else it would be a child of ours all the same.
            let _ = set_child_subreaper(false);
            self.keeper = Keeper::start_apart().ok();
            let _ = set_child_subreaper(true);
        }
    }

    fn turn(&mut self, key: usize) -> Result<()> {
        let Some(pair) = self.pairs.get_mut(key) else { return Ok(()) };
        let state = pair.turn(key, self.now, &mut self.room, &self.watch, self.observer)?;
        if state.more {
            self.again.push(key);
        }
        self.set_alarm(key, state.deadline.filter(|_| !state.is_over));
        if state.is_over {
            self.remove(key);
        }
        Ok(())
    }

    fn remove(&mut self, key: usize) {
        let pair = self.pairs.remove(key);
        pair.tell_end(self.listener.is_none(), self.observer);
        let (origin, failure) = pair.into_end();
        self.failure = failure;
        self.release(&origin.0, &origin.1);
    }

    fn release(&mut self, identity: &PeerIdentity, state: &[u8]) {
        if let Some(listener) = &mut self.listener {
            listener.released(identity, state);
        }
    }

    /// Ends everything: the listener's files go, pairs are closed once the daemon has what was
    /// published, commands are told to end. Whoever takes too long is not waited for, but killed.
    fn end(&mut self) -> Result<()> {
        if let Some(listener) = self.listener.take() {
            self.watch.set(listener.fd(), Token::Listener, self.listens.take(), None)?;
        }
        self.connecting.clear();
        self.signal_commands(Signal::SIGTERM);
        for (key, pair) in &mut self.pairs {
            pair.stop();
            self.again.push(key);
        }
        let deadline = Instant::now() + ENDING;
        while !self.is_over() && Instant::now() < deadline {
            let wake = self.deadline().map_or(deadline, |wake| wake.min(deadline));
            if self.step(Some(wake))? {
                break;
            }
        }
        self.pairs.clear();
        self.signal_commands(Signal::SIGKILL);
        for command in std::mem::take(&mut self.commands) {
            // It was killed, so that this waits for no more than the kernel.
            let _ = waitpid(command, None);
        }
        end_children();
        Ok(())
    }

    fn signal_commands(&self, signal: Signal) {
        for command in &self.commands {
            // One that has just ended is still a zombie of ours, and nobody else's number. On a terminal
            // it has no group of its own, and then no group has its number.
            let _ = killpg(*command, signal).or_else(|_| kill(*command, signal));
        }
    }
}

/// Who a peer is, for people.
pub(crate) fn name(identity: &PeerIdentity, side: &Side) -> String {
    if is_unknown(identity) { side.to_string() } else { identity.to_string() }
}

/// Whether nothing is known of it, as of whoever writes into a file. There is only one such peer,
/// and it comes again as soon as it is refused.
fn is_unknown(identity: &PeerIdentity) -> bool {
    *identity == PeerIdentity::default()
}
