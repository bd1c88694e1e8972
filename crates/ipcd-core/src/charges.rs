//! What the peers of one source take up together: bytes in outboxes, and subscriptions.
//!
//! Each worker counts those of its own peers, and tells the table when they have changed by a part of
//! what is allowed. Until it hears of itself again, it uses no more of what is left than its share,
//! as the others may be using theirs. There are as many shares as workers, so a burst everywhere at
//! once stays below twice what is allowed, however many there are.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::core::{Output, Router};
use crate::directory::messages::DirectoryRequest;
use crate::directory::state::DirectoryState;
use crate::directory::violation::MAX_SOURCES;
use crate::model::ids::PeerKey;
use crate::model::principal::Principal;
use crate::session::Failure;
use foldhash::fast::RandomState;
use ipcd_proto::control::Code;
use serde::{Deserialize, Serialize};

/// In how many parts what is allowed is counted between workers, at the least.
const PARTS: u64 = 16;

/// In how many what each worker may use whatever the others do, likewise.
const SHARES: u64 = 8;

/// What a source takes up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaUsage {
    /// Bytes in outboxes.
    pub bytes: u64,
    /// Subscriptions.
    pub subscriptions: u64,
}

/// A source that has peers here.
#[derive(Debug)]
pub(crate) struct Quota {
    source: Principal,
    /// By peers here.
    spent: Cell<QuotaUsage>,
    /// What of it the other workers are told.
    told: Cell<QuotaUsage>,
    /// The least bytes told since this worker has last heard what it had told.
    least_told: Cell<u64>,
    /// What all know that the peers here take up; and what those of the other workers do.
    known: Cell<QuotaUsage>,
    elsewhere: Cell<QuotaUsage>,
    /// Whether it was over its limit, and has not fallen to half of it since.
    was_over: Cell<bool>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Quotas(HashMap<Principal, Rc<Quota>, RandomState>);

impl Quota {
    fn change(&self, change: impl FnOnce(&mut QuotaUsage)) {
        let mut spent = self.spent.get();
        change(&mut spent);
        self.spent.set(spent);
    }

    /// Bytes that may wait for peers here, of so many in all: what all know of, and a share of what
    /// is left. What was given back is the others' as soon as they are told.
    fn allowance(&self, most: u64, shares: u64) -> u64 {
        let elsewhere = self.elsewhere.get().bytes;
        let known = self.known.get().bytes.min(self.least_told.get());
        let left = most.saturating_sub(known.saturating_add(elsewhere));
        known.saturating_add(left / shares).min(most.saturating_sub(elsewhere))
    }

    /// Notes what all know.
    fn hear(&self, known: QuotaUsage, elsewhere: QuotaUsage) {
        self.known.set(known);
        self.elsewhere.set(elsewhere);
        if known == self.told.get() {
            self.least_told.set(known.bytes);
        }
    }

    /// Notes what all are told.
    fn tell(&self, spent: QuotaUsage) {
        self.told.set(spent);
        self.least_told.set(self.least_told.get().min(spent.bytes));
    }

    fn subscriptions(&self) -> u64 {
        self.spent.get().subscriptions.saturating_add(self.elsewhere.get().subscriptions)
    }
}

impl Router {
    /// The charge that a new peer of this source shares.
    pub(crate) fn charge_of(&mut self, source: Principal) -> Rc<Quota> {
        let (cluster, own) = (&self.cluster, self.config.slot);
        let charge = self.charges.0.entry(source).or_insert_with(|| {
            let shared = cluster.as_ref().map(|cluster| &cluster.shared);
            let elsewhere = shared.map(|shared| shared.spent_by(source, own).1).unwrap_or_default();
            let elsewhere = Cell::new(elsewhere);
            let [spent, told, known] =
                [const { QuotaUsage { bytes: 0, subscriptions: 0 } }; 3].map(Cell::new);
            let (least_told, was_over) = (Cell::new(0), Cell::default());
            Rc::new(Quota { source, spent, told, least_told, known, elsewhere, was_over })
        });
        Rc::clone(charge)
    }

    /// Counts what is in a peer's outbox now.
    pub(crate) fn recharge(&mut self, key: PeerKey) {
        let peer = &mut self.peers[key.0 as usize];
        let bytes = peer.outbox.len();
        let before = std::mem::replace(&mut peer.charged, bytes);
        if before != bytes {
            let (before, bytes) = (before as u64, bytes as u64);
            peer.charge.change(|spent| spent.bytes = spent.bytes - before + bytes);
            self.tell_spent(key);
            if self.is_relieved(key) {
                self.relieve();
            }
        }
    }

    /// Counts a subscription more, or one less.
    pub(crate) fn charge_subscription(&mut self, key: PeerKey, is_more: bool) {
        let charge = &self.peers[key.0 as usize].charge;
        charge.change(|spent| match is_more {
            true => spent.subscriptions += 1,
            false => spent.subscriptions -= 1,
        });
        self.tell_spent(key);
    }

    /// A peer goes, with what was left in its outbox.
    pub(crate) fn discharge(&mut self, key: PeerKey) {
        let peer = &mut self.peers[key.0 as usize];
        let left = std::mem::take(&mut peer.charged) as u64;
        peer.charge.change(|spent| spent.bytes -= left);
        let source = peer.charge.source;
        self.tell_spent(key);
        if self.is_relieved(key) {
            self.relieve();
        }
        // This peer's, and the one in the list.
        self.forget_charge(source, 2);
    }

    /// Charges all peers to the sources that they are of by the configuration that is in force now.
    pub(crate) fn charge_anew(&mut self) {
        for key in self.keys() {
            let peer = &self.peers[key.0 as usize];
            let source = Principal::of(peer.origin.uid, peer.origin.addr, self.config.prefixes);
            let before = peer.charge.source;
            if source == before {
                continue;
            }
            let bytes = peer.charged as u64;
            let subscriptions = peer.subscriptions.len() as u64;
            peer.charge.change(|spent| {
                spent.bytes -= bytes;
                spent.subscriptions -= subscriptions;
            });
            self.tell_spent(key);
            self.peer(key).charge = self.charge_of(source);
            self.peer(key).charge.change(|spent| {
                spent.bytes += bytes;
                spent.subscriptions += subscriptions;
            });
            self.tell_spent(key);
            self.forget_charge(before, 1);
        }
    }

    /// Forgets a source of which nobody is left but so many.
    fn forget_charge(&mut self, source: Principal, left: usize) {
        if self.charges.0.get(&source).is_some_and(|charge| Rc::strong_count(charge) <= left) {
            self.charges.0.remove(&source);
        }
    }

    /// Whether as much waits for the peers of this one's source as may, and some of it for this one:
    /// who takes all that it gets is not concerned.
    pub(crate) fn is_overcharged(&self, key: PeerKey) -> bool {
        let peer = &self.peers[key.0 as usize];
        !peer.outbox.is_empty() && self.is_over(&peer.charge, 0)
    }

    /// Whether that has not changed much since.
    pub(crate) fn stays_overcharged(&self, key: PeerKey) -> bool {
        let peer = &self.peers[key.0 as usize];
        let has_rest = !peer.outbox.is_empty();
        has_rest && peer.charge.was_over.get() && self.is_over(&peer.charge, self.step())
    }

    /// Whether it is a quarter more, which messages to one peer may fill.
    pub(crate) fn is_beyond_charge(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_source, &self.peers[key.0 as usize]);
        most > 0 && !peer.outbox.is_empty() && peer.charge.spent.get().bytes >= most / 4 * 5
    }

    fn is_over(&self, charge: &Quota, margin: u64) -> bool {
        let (most, here) = (self.config.max_bytes_per_source, charge.spent.get().bytes);
        let workers = self.workers();
        // Nobody has to share what is left if nothing like it is used.
        most > 0
            && here + margin >= most / workers.max(SHARES)
            && here + margin >= charge.allowance(most, workers)
    }

    /// A change of so many bytes is worth telling: much less than a worker's share of all, or who is
    /// alone would wait before it has used most of what the others leave.
    fn step(&self) -> u64 {
        self.config.max_bytes_per_source / PARTS.max(8 * self.workers())
    }

    fn workers(&self) -> u64 {
        self.cluster.as_ref().map_or(1, |cluster| cluster.shared.living().max(1))
    }

    pub(crate) fn check_source(&self, key: PeerKey) -> Result<(), Failure> {
        let most = self.config.max_subscriptions_per_source;
        let charge = &self.peers[key.0 as usize].charge;
        if most == 0 || charge.subscriptions() < most {
            return Ok(());
        }
        let source = charge.source;
        let why = format!(
            "the limit of {most} subscriptions of {source} is reached (max_subscriptions_per_uid)"
        );
        Err((Code::Limit, why))
    }

    /// The table has other amounts now.
    pub(crate) fn update_charges(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let own = self.config.slot;
        for charge in self.charges.0.values() {
            let (known, elsewhere) = cluster.shared.spent_by(charge.source, own);
            charge.hear(known, elsewhere);
        }
        self.relieve();
    }

    /// Lets publishers go on to peers that were full for the sake of others and are not any more.
    fn relieve(&mut self) {
        let half = self.config.outbox / 2;
        for key in self.keys() {
            let peer = &self.peers[key.0 as usize];
            if peer.full && peer.outbox.len() <= half && !self.stays_overcharged(key) {
                self.set_full(key, false);
                self.resume_waiters(key);
            }
        }
    }

    /// Whether a source that was over its limit is not any more.
    fn is_relieved(&self, key: PeerKey) -> bool {
        let charge = &self.peers[key.0 as usize].charge;
        if self.is_over(charge, 0) {
            charge.was_over.set(true);
        }
        let is_over = |margin| self.is_over(charge, margin);
        charge.was_over.get() && !is_over(self.step()) && charge.was_over.replace(false)
    }

    /// Tells the table what peers here take up, if it is to know and it is another part of it.
    fn tell_spent(&mut self, key: PeerKey) {
        if self.cluster.is_none() {
            return;
        }
        let config = &self.config;
        let charge = &self.peers[key.0 as usize].charge;
        let (spent, told) = (charge.spent.get(), charge.told.get());
        // Who has used its share gets another when all have heard of it.
        let wants_more = spent.bytes != told.bytes && self.is_over(charge, 0);
        let has_moved = |now: u64, told: u64, part: u64| {
            now.abs_diff(told) >= part.max(1) || (now == 0 && told > 0)
        };
        let most = config.max_subscriptions_per_source;
        let moved = |part| has_moved(spent.subscriptions * PARTS, told.subscriptions * PARTS, part);
        let is_counted = config.max_bytes_per_source > 0;
        if wants_more
            || (is_counted && has_moved(spent.bytes, told.bytes, self.step()))
            || (most > 0 && moved(most / PARTS))
        {
            charge.tell(spent);
            let request = DirectoryRequest::QuotaUsage { source: charge.source, spent };
            self.outputs.push_back(Output::Tell(request));
        }
    }
}

impl DirectoryState {
    /// What a source takes up at a worker, and at the others.
    fn spent_by(&self, source: Principal, own: u32) -> (QuotaUsage, QuotaUsage) {
        let (mut here, mut elsewhere) = (QuotaUsage::default(), QuotaUsage::default());
        for (slot, spent) in self.spent.get(&source).into_iter().flatten() {
            let sum = if *slot == own { &mut here } else { &mut elsewhere };
            // What another worker says may be anything.
            sum.bytes = sum.bytes.saturating_add(spent.bytes);
            sum.subscriptions = sum.subscriptions.saturating_add(spent.subscriptions);
        }
        (here, elsewhere)
    }

    /// Whether this would be more sources of one worker than it may have.
    pub(crate) fn has_too_many_sources(&self, slot: u32, source: Principal) -> bool {
        let is_of = |all: &Vec<(u32, QuotaUsage)>| all.iter().any(|(known, _)| *known == slot);
        self.spent.len() >= MAX_SOURCES
            && !self.spent.get(&source).is_some_and(is_of)
            && self.spent.values().filter(|all| is_of(all)).count() >= MAX_SOURCES
    }

    /// Notes what a source takes up at a worker.
    pub(crate) fn set_spent(&mut self, slot: u32, source: Principal, spent: QuotaUsage) {
        let all = self.spent.entry(source).or_default();
        all.retain(|(known, _)| *known != slot);
        if spent != QuotaUsage::default() {
            all.push((slot, spent));
        }
        if all.is_empty() {
            self.spent.remove(&source);
        }
    }

    /// Forgets what was taken up at a worker that has gone.
    pub(crate) fn forget_spent(&mut self, slot: u32) {
        self.spent.retain(|_, all| {
            all.retain(|(known, _)| *known != slot);
            !all.is_empty()
        });
    }
}
