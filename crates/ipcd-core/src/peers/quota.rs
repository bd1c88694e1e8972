//! A principal that has peers here, and what they use together.

use crate::model::principal::{Principal, QuotaUsage};
use foldhash::fast::RandomState;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

/// A source that has peers here.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) source: Principal,
    /// By peers here.
    pub(crate) spent: Cell<QuotaUsage>,
    /// What of it the other workers are told.
    pub(crate) told: Cell<QuotaUsage>,
    /// The least bytes told since this worker has last heard what it had told.
    least_told: Cell<u64>,
    /// What all know that the peers here take up; and what those of the other workers do.
    known: Cell<QuotaUsage>,
    elsewhere: Cell<QuotaUsage>,
    /// Whether it was over its limit, and has not fallen to half of it since.
    pub(crate) was_over: Cell<bool>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Quotas(pub(crate) HashMap<Principal, Rc<Quota>, RandomState>);

impl Quota {
    /// The quota of a principal of which no peer is here yet.
    pub(crate) fn new(source: Principal, elsewhere: QuotaUsage) -> Self {
        let [spent, told, known] =
            [const { Cell::new(QuotaUsage { bytes: 0, subscriptions: 0 }) }; 3];
        let (least_told, was_over) = (Cell::new(0), Cell::default());
        let elsewhere = Cell::new(elsewhere);
        Self { source, spent, told, least_told, known, elsewhere, was_over }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut QuotaUsage)) {
        let mut spent = self.spent.get();
        change(&mut spent);
        self.spent.set(spent);
    }

    /// Bytes that may wait for peers here, of so many in all: what all know of, and a share of what
    /// is left. What was given back is the others' as soon as they are told.
    pub(crate) fn allowance(&self, most: u64, shares: u64) -> u64 {
        let elsewhere = self.elsewhere.get().bytes;
        let known = self.known.get().bytes.min(self.least_told.get());
        let left = most.saturating_sub(known.saturating_add(elsewhere));
        known.saturating_add(left / shares).min(most.saturating_sub(elsewhere))
    }

    /// Notes what all know.
    pub(crate) fn handle(&self, known: QuotaUsage, elsewhere: QuotaUsage) {
        self.known.set(known);
        self.elsewhere.set(elsewhere);
        if known == self.told.get() {
            self.least_told.set(known.bytes);
        }
    }

    /// Notes what all are told.
    pub(crate) fn tell(&self, spent: QuotaUsage) {
        self.told.set(spent);
        self.least_told.set(self.least_told.get().min(spent.bytes));
    }

    pub(crate) fn subscriptions(&self) -> u64 {
        self.spent.get().subscriptions.saturating_add(self.elsewhere.get().subscriptions)
    }
}
