//! What the peers of one source take up together: bytes in outboxes, and subscriptions.
//!
//! Each worker counts those of its own peers, and tells the table when they have changed by a
//! sixteenth of what is allowed; so all know of all, and are wrong by an eighth for each worker at
//! the most.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;
use ipcd_proto::control::Code;
use serde::{Deserialize, Serialize};

use crate::core::{Core, Output};
use crate::peer::PeerKey;
use crate::session::Failure;
use crate::shared::Shared;
use crate::source::Source;
use crate::table::Request;

/// In how many parts what is allowed is counted between workers.
const PARTS: u64 = 16;

/// What a source takes up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spent {
    /// Bytes in outboxes.
    pub bytes: u64,
    /// Subscriptions.
    pub subscriptions: u64,
}

/// A source that has peers here.
#[derive(Debug)]
pub(crate) struct Charge {
    source: Source,
    /// By peers here.
    spent: Cell<Spent>,
    /// What of it the other workers know.
    told: Cell<Spent>,
    /// By peers of the other workers, as far as is known.
    elsewhere: Cell<Spent>,
    /// Whether it was over its limit, and has not fallen to half of it since.
    was_over: Cell<bool>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Charges(HashMap<Source, Rc<Charge>, RandomState>);

impl Charge {
    fn change(&self, change: impl FnOnce(&mut Spent)) {
        let mut spent = self.spent.get();
        change(&mut spent);
        self.spent.set(spent);
    }

    fn bytes(&self) -> u64 {
        self.spent.get().bytes + self.elsewhere.get().bytes
    }

    fn subscriptions(&self) -> u64 {
        self.spent.get().subscriptions + self.elsewhere.get().subscriptions
    }
}

impl Core {
    /// The charge that a new peer of this source shares.
    pub(crate) fn charge_of(&mut self, source: Source) -> Rc<Charge> {
        let (others, own) = (&self.others, self.config.slot);
        let charge = self.charges.0.entry(source).or_insert_with(|| {
            let shared = others.as_ref().map(|others| &others.shared);
            let elsewhere = shared.map_or_else(Spent::default, |s| s.spent_elsewhere(source, own));
            let (spent, told) = (Cell::default(), Cell::default());
            let (elsewhere, was_over) = (Cell::new(elsewhere), Cell::default());
            Rc::new(Charge { source, spent, told, elsewhere, was_over })
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
        let is_last = |charge: &Rc<Charge>| Rc::strong_count(charge) <= 2;
        if self.charges.0.get(&source).is_some_and(is_last) {
            self.charges.0.remove(&source);
        }
    }

    /// Whether what there is to be written to a peer, and to others of its source, is as much as may
    /// be; one that takes all that it gets is not concerned.
    pub(crate) fn is_overcharged(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_source, &self.peers[key.0 as usize]);
        most > 0 && !peer.outbox.is_empty() && peer.charge.bytes() >= most
    }

    /// Whether it has not fallen to half since.
    pub(crate) fn stays_overcharged(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_source, &self.peers[key.0 as usize]);
        most > 0 && !peer.outbox.is_empty() && peer.charge.bytes() > most / 2
    }

    /// Whether it is a quarter more, which messages to one peer may fill.
    pub(crate) fn is_beyond_charge(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_source, &self.peers[key.0 as usize]);
        most > 0 && !peer.outbox.is_empty() && peer.charge.bytes() >= most / 4 * 5
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

    /// Other workers have other amounts now.
    pub(crate) fn update_charges(&mut self) {
        let Some(others) = &self.others else { return };
        let own = self.config.slot;
        for charge in self.charges.0.values() {
            charge.elsewhere.set(others.shared.spent_elsewhere(charge.source, own));
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

    /// Whether a source that was over its limit has fallen to half of it.
    fn is_relieved(&self, key: PeerKey) -> bool {
        let charge = &self.peers[key.0 as usize].charge;
        let most = self.config.max_bytes_per_source;
        match charge.bytes() {
            bytes if most > 0 && bytes >= most => charge.was_over.set(true),
            bytes if bytes <= most / 2 => return charge.was_over.replace(false),
            _ => {}
        }
        false
    }

    /// Tells the table what peers here take up, if it is to know and it is another part of it.
    fn tell_spent(&mut self, key: PeerKey) {
        if self.others.is_none() {
            return;
        }
        let config = &self.config;
        let charge = &self.peers[key.0 as usize].charge;
        let (spent, told) = (charge.spent.get(), charge.told.get());
        let has_moved = |now: u64, told: u64, most: u64| {
            let part = (most / PARTS).max(1);
            most > 0 && (now.abs_diff(told) >= part || (now == 0 && told > 0))
        };
        if has_moved(spent.bytes, told.bytes, config.max_bytes_per_source)
            || has_moved(
                spent.subscriptions * PARTS,
                told.subscriptions * PARTS,
                config.max_subscriptions_per_source,
            )
        {
            charge.told.set(spent);
            let request = Request::Spent { source: charge.source, spent };
            self.outputs.push_back(Output::Tell(request));
        }
    }
}

impl Shared {
    /// What a source takes up at the workers but this one.
    fn spent_elsewhere(&self, source: Source, own: u32) -> Spent {
        let all = self.spent.get(&source).into_iter().flatten();
        let others = all.filter(|(slot, _)| *slot != own);
        others.fold(Spent::default(), |sum, (_, spent)| Spent {
            bytes: sum.bytes + spent.bytes,
            subscriptions: sum.subscriptions + spent.subscriptions,
        })
    }

    /// Notes what a source takes up at a worker.
    pub(crate) fn set_spent(&mut self, slot: u32, source: Source, spent: Spent) {
        let all = self.spent.entry(source).or_default();
        all.retain(|(known, _)| *known != slot);
        if spent != Spent::default() {
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
