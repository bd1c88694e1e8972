//! The quota of one principal: the use by its peers here, and the share that this worker may use.

use crate::model::ids::PeerKey;
use crate::model::principal::{Principal, QuotaUsage};
use crate::model::waiting::WaitingList;
use foldhash::fast::RandomState;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The least number of parts in which workers report the use of a limit.
pub(crate) const PARTS: u64 = 16;
/// The least number of parts of a limit, one of which each worker may always use.
const SHARES: u64 = 8;

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

/// The limit for the bytes in the send queues of one principal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaLimit {
    /// Bytes on all workers together; 0 for any number.
    most: u64,
    /// The number of living workers.
    workers: u64,
}

impl QuotaLimit {
    pub(crate) fn new(most: u64, living: u64) -> Self {
        Self { most, workers: living.max(1) }
    }

    /// Returns the change in bytes that is worth a report. It is much less than a worker's share:
    /// otherwise a worker would wait before it has used most of the rest that others leave.
    pub(crate) fn step(self) -> u64 {
        self.most / PARTS.max(8 * self.workers)
    }
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

    /// Whether the use is above the limit, or less than `margin` bytes below it.
    pub(crate) fn is_over(&self, limit: QuotaLimit, margin: u64) -> bool {
        let QuotaLimit { most, workers } = limit;
        let here = self.usage.get().bytes + margin;
        // Below this part the shares need not be computed, even if every worker uses as much.
        most > 0 && here >= most / workers.max(SHARES) && here >= self.allowance(most, workers)
    }

    /// Whether a principal that was over its limit has now fallen clearly below it.
    pub(crate) fn is_relieved(&self, limit: QuotaLimit) -> bool {
        if self.is_over(limit, 0) {
            self.was_over.set(true);
            return false;
        }
        self.was_over.get() && !self.is_over(limit, limit.step()) && self.was_over.replace(false)
    }

    /// Returns the bytes that may be queued for peers here, out of a limit of `most` for all
    /// workers: the known use, and a share of the rest. Bytes that were freed here belong to the
    /// others as soon as they are told, hence the lowest report counts.
    fn allowance(&self, most: u64, shares: u64) -> u64 {
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
