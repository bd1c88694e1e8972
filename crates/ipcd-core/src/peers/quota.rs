//! The quota of one principal: the use by its peers here, and the share that this worker may use.

use crate::model::ids::PeerKey;
use crate::model::principal::{Principal, QuotaUsage};
use crate::model::waiting::WaitingList;
use foldhash::fast::RandomState;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The use of one principal that has peers on this worker.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) principal: Principal,
    /// The use by peers of this worker.
    pub(crate) usage: Cell<QuotaUsage>,
    /// The use that the other workers were told last.
    pub(crate) told: Cell<QuotaUsage>,
    /// The lowest number of bytes that was told since this worker last received its own report
    /// back.
    least_told: Cell<u64>,
    /// The use here that all workers know, and the use on the other workers.
    known: Cell<QuotaUsage>,
    elsewhere: Cell<QuotaUsage>,
    /// Whether the principal was over its limit, and has not fallen clearly below it since.
    pub(crate) was_over: Cell<bool>,
    /// Messages of peers here whose outcomes are pending.
    pending: Cell<u64>,
    /// Publishers that wait until some of these outcomes are known.
    waiters: RefCell<WaitingList>,
}

/// The quotas of all principals with peers on this worker.
#[derive(Debug, Default)]
pub(crate) struct Quotas(pub(crate) HashMap<Principal, Rc<Quota>, RandomState>);

impl Quota {
    /// Returns the quota of a principal without peers here.
    pub(crate) fn new(principal: Principal, elsewhere: QuotaUsage) -> Self {
        let [usage, told, known] =
            [const { Cell::new(QuotaUsage { bytes: 0, subscriptions: 0 }) }; 3];
        let (least_told, was_over) = (Cell::new(0), Cell::default());
        let (pending, waiters) = (Cell::new(0), RefCell::default());
        let elsewhere = Cell::new(elsewhere);
        Self { principal, usage, told, least_told, known, elsewhere, was_over, pending, waiters }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut QuotaUsage)) {
        let mut usage = self.usage.get();
        change(&mut usage);
        self.usage.set(usage);
    }

    /// Returns the bytes that may be queued for peers here, out of a limit of `most` for all
    /// workers: the known use, and a share of the rest. Bytes that were freed here belong to the
    /// others as soon as they are told, hence the lowest report counts.
    pub(crate) fn allowance(&self, most: u64, shares: u64) -> u64 {
        let elsewhere = self.elsewhere.get().bytes;
        let known = self.known.get().bytes.min(self.least_told.get());
        let left = most.saturating_sub(known.saturating_add(elsewhere));
        known.saturating_add(left / shares).min(most.saturating_sub(elsewhere))
    }

    /// Notes the use that all workers know now.
    pub(crate) fn handle(&self, known: QuotaUsage, elsewhere: QuotaUsage) {
        self.known.set(known);
        self.elsewhere.set(elsewhere);
        if known == self.told.get() {
            self.least_told.set(known.bytes);
        }
    }

    /// Notes the use that is being told to all workers.
    pub(crate) fn tell(&self, usage: QuotaUsage) {
        self.told.set(usage);
        self.least_told.set(self.least_told.get().min(usage.bytes));
    }

    pub(crate) fn pending(&self) -> u64 {
        self.pending.get()
    }

    /// Counts messages whose outcomes are pending from now on.
    pub(crate) fn add_pending(&self, messages: u64) {
        self.pending.set(self.pending.get() + messages);
    }

    /// Counts outcomes that are known, or that no publisher waits for any more; returns the publishers
    /// that go on, once fewer than `most` are pending.
    pub(crate) fn settle(&self, messages: u64, most: u64) -> Vec<PeerKey> {
        self.pending.set(self.pending.get().saturating_sub(messages));
        match self.pending.get() < most {
            true => self.waiters.borrow_mut().take(),
            false => Vec::new(),
        }
    }

    pub(crate) fn add_waiter(&self, publisher: PeerKey) {
        self.waiters.borrow_mut().push(publisher);
    }

    pub(crate) fn subscriptions(&self) -> u64 {
        self.usage.get().subscriptions.saturating_add(self.elsewhere.get().subscriptions)
    }
}
