//! Peers that come in: which worker they go to, and who is turned away.

use std::time::{Duration, Instant};

use ipcd_core::Principal;
use ipcd_transport::{ChannelParts, PeerIdentity, Transport};
use tracing::{error, warn};

use super::Supervisor;
use super::listening::find;
use super::slots::spare;
use crate::admission::{Arrival, Displaced, Entry};
use crate::config::Config;
use crate::link::{Gone, Link, ToWorker};
use crate::listen::Dialect;
use crate::refusal::tell_refusal;
use crate::slot::WorkerState;
use crate::worker::Admitted;

/// Peers accepted of one listener in a turn, so that the others have theirs.
const ACCEPT_BUDGET: usize = 64;
/// Messages that wait for a worker's link; until it takes them, nobody is accepted.
pub(super) const LINK_BACKLOG: usize = 64;
/// How long a listener waits when the system has no descriptor or memory for a peer.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// How long it waits when nonsense has come, of which a FIFO may bring any amount: who writes it
/// must not have the processor for it.
const NONSENSE_PAUSE: Duration = Duration::from_millis(20);
/// How long it waits when its only peer was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPT_BUDGET {
            let Some(slot) = self.slot_for_peer() else { return };
            let Some(listening) = find(&mut self.listeners, index) else { return };
            let transport = listening.transport;
            match listening.listener.accept() {
                Ok(None) => return,
                Ok(Some(parts)) if !listening.asked.admits(parts.identity.addr) => {
                    let identity = parts.identity;
                    let source = source_of(&identity, &self.config);
                    warn!(%source, transport = %transport.scheme(), %identity, "peer not allowed here");
                }
                Ok(Some(parts)) => {
                    let dialect = listening.asked.dialect.clone();
                    let only = listening.listener.has_one_peer().then(|| origin(&parts));
                    let admitted = self.admit(index, transport, slot, parts, dialect);
                    if let (Some(only), None) = (only, admitted) {
                        return self.accept_later(index, only);
                    }
                }
                Err(error) => {
                    let source = &listening.asked.endpoint;
                    warn!(%source, transport = %transport.scheme(), %error, "peer not accepted");
                    if error.is_exhaustion() {
                        listening.paused = Some(Instant::now() + EXHAUSTED_PAUSE);
                        return;
                    }
                    if matches!(error, ipcd_transport::Error::Protocol(_)) {
                        listening.paused = Some(Instant::now() + NONSENSE_PAUSE);
                        return;
                    }
                }
            }
        }
    }

    /// The only peer of a listener was refused: it is accepted when that may have changed.
    fn accept_later(&mut self, index: usize, (identity, state): (PeerIdentity, Vec<u8>)) {
        if let Some(listening) = find(&mut self.listeners, index) {
            listening.listener.released(&identity, &state);
            listening.paused = Some(Instant::now() + REFUSED_PAUSE);
        }
    }

    /// Which slot the next peer goes to: each in its turn, if its worker serves now, or one that is
    /// free. `None` while none can take it; where no slot is free, the peer is refused by whoever
    /// serves it.
    pub(super) fn slot_for_peer(&self) -> Option<Option<usize>> {
        let count = self.slots.len();
        let turn = self.turn;
        let mut order = (0..count).map(|step| (turn + step) % count);
        if self.serves_per_connection() {
            let is_free = |index: &usize| matches!(self.slots[*index].state, WorkerState::Free);
            return Some(order.find(is_free));
        }
        let mut with_room =
            order.filter(|index| self.slots[*index].link.waiting() < LINK_BACKLOG).peekable();
        // Where none serves, the peer waits for a worker that is to be born or goes on.
        let first = with_room.peek().copied();
        with_room.find(|index| self.slots[*index].serves()).or(first).map(Some)
    }

    /// Hands a peer to a worker, and says under which number; or refuses it.
    pub(super) fn admit(
        &mut self,
        listener: usize,
        transport: &'static dyn Transport,
        slot: Option<usize>,
        parts: ChannelParts,
        dialect: Option<Dialect>,
    ) -> Option<u64> {
        // Servers and programs are of no listener.
        let is_ours = find(&mut self.listeners, listener)
            .is_none_or(|listening| listening.listener.has_one_peer());
        let is_favoured = self.admission.is_favoured(&parts.identity, is_ours);
        let Some(index) = slot.filter(|_| self.has_child_for(is_favoured)) else {
            self.hurry_one();
            let why = "all children are taken, or about to end (max_children)";
            self.refuse(listener, transport, parts, dialect.is_some(), why);
            return None;
        };
        self.turn = index + 1;
        let must_prove = dialect.is_none() && !transport.capabilities().identity.is_vouched();
        let arrival = Arrival { listener, parts: &parts, must_prove, is_ours, slot: index };
        let Entry { number, instead_of } =
            match self.admission.admit(Instant::now(), arrival, percent) {
                Ok(entry) => entry,
                Err(why) => {
                    self.refuse(listener, transport, parts, dialect.is_some(), &why);
                    return None;
                }
            };
        let admitted = Admitted { number, listener, transport, parts, dialect };
        let is_admitted = match self.serves_per_connection() {
            true => self.fork_for(index, admitted),
            false => {
                hand_over(&mut self.slots[index].link, admitted);
                true
            }
        };
        self.displace(instead_of);
        is_admitted.then_some(number)
    }

    /// Whether there is a place for a child. Half of the spare ones are for the favoured: others could
    /// take them all by coming and going, for a place is taken until its child has been reaped.
    fn has_child_for(&self, is_favoured: bool) -> bool {
        let free = self.slots.len() - self.occupied.len();
        !self.serves_per_connection() || is_favoured || free > spare(&self.config) / 2
    }

    fn displace(&mut self, displaced: Vec<Displaced>) {
        for Displaced { slot, number, why, may_prove } in displaced {
            if self.serves_per_connection() {
                let admission = &self.admission;
                self.leaving.retain(|(slot, number)| admission.is_leaving(*number, *slot));
                self.leaving.push_back((slot as usize, number));
            }
            self.tell(vec![(slot, ToWorker::Displace { number, why, may_prove })]);
        }
    }

    /// Ends the child that has had the longest time to let its peer go: others wait for its place.
    fn hurry_one(&mut self) {
        while let Some((slot, number)) = self.leaving.pop_front() {
            if self.admission.is_leaving(number, slot) {
                return self.kill(slot);
            }
        }
    }

    /// Lets a peer go that is not admitted.
    fn refuse(
        &mut self,
        listener: usize,
        transport: &dyn Transport,
        parts: ChannelParts,
        is_bare: bool,
        why: &str,
    ) {
        let (identity, state) = (parts.identity.clone(), parts.state.clone());
        let (source, scheme) = (source_of(&identity, &self.config), transport.scheme());
        warn!(%source, transport = %scheme, %identity, why, "peer refused");
        tell_refusal(transport, parts, is_bare, why);
        if let Some(listening) = find(&mut self.listeners, listener) {
            listening.listener.refused(&identity, &state);
        }
    }

    /// A worker has died. Whom it was serving then may be the reason.
    pub(super) fn suspect(&mut self, index: usize) {
        let number = self.marks.get(index);
        self.marks.set(index, 0);
        if let Some(identity) = self.admission.suspect(number, index, Instant::now()) {
            warn!(slot = index, %identity, "the worker was serving this peer when it died");
        }
    }

    /// Peers that no worker has got are not there. Their descriptors are closed by now.
    pub(super) fn release_lost(&mut self) {
        for at in 0..self.occupied.len() {
            let index = self.occupied[at];
            for number in self.slots[index].link.take_lost() {
                self.release(Gone { number, was_cut_off: true }, index);
            }
        }
    }

    /// A peer has gone.
    pub(super) fn release(&mut self, gone: Gone, index: usize) {
        let Gone { number, was_cut_off } = gone;
        let Some(peer) = self.admission.release(number, index) else { return };
        match find(&mut self.listeners, peer.listener) {
            Some(listening) => listening.listener.released(&peer.identity, &peer.state),
            None => self.lost(peer.listener, number, was_cut_off),
        }
    }

    /// A worker has left these peers behind.
    pub(super) fn release_orphans(&mut self, index: usize) {
        for (number, peer) in self.admission.release_slot(index) {
            match find(&mut self.listeners, peer.listener) {
                Some(listening) => {
                    listening.listener.orphaned(&peer.identity, &peer.state);
                    listening.listener.released(&peer.identity, &peer.state);
                }
                None => {
                    // Perhaps it was still on its way, and the successor takes it.
                    if !self.serves_per_connection()
                        && let Err(error) =
                            self.slots[index].link.send(&ToWorker::LetGo(number), Vec::new())
                    {
                        error!(%error, "a worker cannot be told something");
                    }
                    self.lost(peer.listener, number, true);
                }
            }
        }
    }

    /// A server or a program is no peer any more. Its owner may have forgotten it by now.
    fn lost(&mut self, owner: usize, number: u64, was_cut_off: bool) {
        self.server_lost(owner, number);
        self.program_lost(owner, number, was_cut_off);
    }

    /// Has a peer's session ended, which gets what is left for it.
    pub(super) fn let_go(&mut self, number: u64) {
        let slot = self.admission.slot_of(number);
        self.tell(slot.into_iter().map(|slot| (slot, ToWorker::LetGo(number))).collect());
    }

    /// Forks a child for one peer. The parent's copies of its descriptors close here.
    fn fork_for(&mut self, index: usize, only: Admitted) -> bool {
        let (number, mut only) = (only.number, Some(only));
        let Err(error) = self.fork(index, &mut only) else { return true };
        let source = only.as_ref().map(|only| source_of(&only.parts.identity, &self.config));
        error!(source = source.map(tracing::field::display), %error, "cannot fork a child for a peer");
        if let Some(Admitted { listener, transport, parts, dialect, .. }) = only {
            let why = "the daemon cannot start another child now";
            self.refuse(listener, transport, parts, dialect.is_some(), why);
        }
        self.release(Gone { number, was_cut_off: true }, index);
        false
    }
}

/// The source that a line about a peer is charged to.
fn source_of(identity: &PeerIdentity, config: &Config) -> Principal {
    Principal::of(identity.uid, identity.addr, config.limits.prefixes())
}

fn origin(parts: &ChannelParts) -> (PeerIdentity, Vec<u8>) {
    (parts.identity.clone(), parts.state.clone())
}

/// A random number from 0 to 99.
fn percent() -> u32 {
    // Without randomness nobody is spared.
    getrandom::u32().map_or(0, |random| random % 100)
}

/// Hands a peer to a worker, or lets it go when that is impossible.
fn hand_over(link: &mut Link, admitted: Admitted) {
    let Admitted { number, listener, transport, parts, dialect } = admitted;
    let ChannelParts { descriptors, identity, state } = parts;
    let scheme = transport.scheme().to_owned();
    let message = ToWorker::Admit { number, listener, scheme, identity, state, dialect };
    if let Err(error) = link.hand_over(&message, descriptors, number) {
        warn!(source = "hand over", %error, "a peer could not be handed to its worker");
    }
}
