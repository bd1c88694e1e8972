//! Quotas of principals: bytes in send queues and subscriptions, over all workers.
//!
//! Each worker counts those of its own peers, and tells the directory when they have changed by a part
//! of the limit. Until it hears of that itself, it uses no more of the rest than its share, because the
//! other workers may be using theirs. There are as many shares as workers, so a burst everywhere at once
//! stays below twice the limit, however many workers there are.

use crate::directory::messages::DirectoryRequest;
use crate::model::ids::PeerKey;
use crate::model::principal::Principal;
use crate::peers::Peers;
use crate::peers::quota::Quota;
use crate::peers::rights::Failure;
use ipcd_proto::control::Code;
use std::rc::Rc;

/// In how many parts what is allowed is counted between workers, at the least.
const PARTS: u64 = 16;

/// In how many what each worker may use whatever the others do, likewise.
const SHARES: u64 = 8;

impl Peers {
    /// The charge that a new peer of this source shares.
    pub(crate) fn quota_of(&mut self, source: Principal) -> Rc<Quota> {
        let (cluster, own) = (&self.cluster, self.config.slot);
        let quota = self.quotas.0.entry(source).or_insert_with(|| {
            let (_, elsewhere) = cluster.directory.spent_by(source, own);
            Rc::new(Quota::new(source, elsewhere))
        });
        Rc::clone(quota)
    }

    /// Counts what is in a peer's outbox now.
    pub(crate) fn update_charge(&mut self, key: PeerKey) {
        let peer = &mut self.table[key];
        let bytes = peer.queue.len();
        let before = std::mem::replace(&mut peer.charged, bytes);
        if before != bytes {
            let (before, bytes) = (before as u64, bytes as u64);
            peer.quota.change(|spent| spent.bytes = spent.bytes - before + bytes);
            self.report_usage(key);
            if self.is_relieved(key) {
                self.resume_relieved();
            }
        }
    }

    /// Counts a subscription more, or one less.
    pub(crate) fn charge_subscription(&mut self, key: PeerKey, is_more: bool) {
        let quota = &self.table[key].quota;
        quota.change(|spent| match is_more {
            true => spent.subscriptions += 1,
            false => spent.subscriptions -= 1,
        });
        self.report_usage(key);
    }

    /// A peer goes, with what was left in its outbox.
    pub(crate) fn discharge(&mut self, key: PeerKey) {
        let peer = &mut self.table[key];
        let left = std::mem::take(&mut peer.charged) as u64;
        peer.quota.change(|spent| spent.bytes -= left);
        let source = peer.quota.source;
        self.report_usage(key);
        if self.is_relieved(key) {
            self.resume_relieved();
        }
        // This peer's, and the one in the list.
        self.forget_charge(source, 2);
    }

    /// Charges all peers to the sources that they are of by the configuration that is in force now.
    pub(crate) fn move_quotas(&mut self) {
        for key in self.keys() {
            let peer = &self.table[key];
            let source = Principal::of(peer.origin.uid, peer.origin.addr, self.config.prefixes);
            let before = peer.quota.source;
            if source == before {
                continue;
            }
            let bytes = peer.charged as u64;
            let subscriptions = peer.subscriptions.len() as u64;
            peer.quota.change(|spent| {
                spent.bytes -= bytes;
                spent.subscriptions -= subscriptions;
            });
            self.report_usage(key);
            self.table[key].quota = self.quota_of(source);
            self.table[key].quota.change(|spent| {
                spent.bytes += bytes;
                spent.subscriptions += subscriptions;
            });
            self.report_usage(key);
            self.forget_charge(before, 1);
        }
    }

    /// Forgets a source of which nobody is left but so many.
    fn forget_charge(&mut self, source: Principal, left: usize) {
        if self.quotas.0.get(&source).is_some_and(|quota| Rc::strong_count(quota) <= left) {
            self.quotas.0.remove(&source);
        }
    }

    /// Whether as much waits for the peers of this one's source as may, and some of it for this one:
    /// who takes all that it gets is not concerned.
    pub(crate) fn is_overcharged(&self, key: PeerKey) -> bool {
        let peer = &self.table[key];
        !peer.queue.is_empty() && self.is_over(&peer.quota, 0)
    }

    /// Whether that has not changed much since.
    pub(crate) fn stays_overcharged(&self, key: PeerKey) -> bool {
        let peer = &self.table[key];
        let has_rest = !peer.queue.is_empty();
        has_rest && peer.quota.was_over.get() && self.is_over(&peer.quota, self.step())
    }

    /// Whether it is a quarter more, which messages to one peer may fill.
    pub(crate) fn is_beyond_charge(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_source, &self.table[key]);
        most > 0 && !peer.queue.is_empty() && peer.quota.spent.get().bytes >= most / 4 * 5
    }

    fn is_over(&self, quota: &Quota, margin: u64) -> bool {
        let (most, here) = (self.config.max_bytes_per_source, quota.spent.get().bytes);
        let workers = self.workers();
        // Nobody has to share what is left if nothing like it is used.
        most > 0
            && here + margin >= most / workers.max(SHARES)
            && here + margin >= quota.allowance(most, workers)
    }

    /// A change of so many bytes is worth telling: much less than a worker's share of all, or who is
    /// alone would wait before it has used most of what the others leave.
    fn step(&self) -> u64 {
        self.config.max_bytes_per_source / PARTS.max(8 * self.workers())
    }

    fn workers(&self) -> u64 {
        self.cluster.directory.living().max(1)
    }

    pub(crate) fn check_source(&self, key: PeerKey) -> Result<(), Failure> {
        let most = self.config.max_subscriptions_per_source;
        let quota = &self.table[key].quota;
        if most == 0 || quota.subscriptions() < most {
            return Ok(());
        }
        let source = quota.source;
        let why = format!(
            "the limit of {most} subscriptions of {source} is reached (max_subscriptions_per_uid)"
        );
        Err((Code::Limit, why))
    }

    /// The table has other amounts now.
    pub(crate) fn update_charges(&mut self) {
        let own = self.config.slot;
        for quota in self.quotas.0.values() {
            let (known, elsewhere) = self.cluster.directory.spent_by(quota.source, own);
            quota.handle(known, elsewhere);
        }
        self.resume_relieved();
    }

    /// Lets publishers go on to peers that were full for the sake of others and are not any more.
    fn resume_relieved(&mut self) {
        let half = self.config.outbox / 2;
        for key in self.keys() {
            let peer = &self.table[key];
            if peer.full && peer.queue.len() <= half && !self.stays_overcharged(key) {
                self.set_full(key, false);
                self.resume_waiters(key);
            }
        }
    }

    /// Whether a source that was over its limit is not any more.
    fn is_relieved(&self, key: PeerKey) -> bool {
        let quota = &self.table[key].quota;
        if self.is_over(quota, 0) {
            quota.was_over.set(true);
        }
        let is_over = |margin| self.is_over(quota, margin);
        quota.was_over.get() && !is_over(self.step()) && quota.was_over.replace(false)
    }

    /// Tells the table what peers here take up, if it is to know and it is another part of it.
    fn report_usage(&mut self, key: PeerKey) {
        if self.cluster.is_alone() {
            return;
        }
        let config = &self.config;
        let quota = &self.table[key].quota;
        let (spent, told) = (quota.spent.get(), quota.told.get());
        // Who has used its share gets another when all have heard of it.
        let wants_more = spent.bytes != told.bytes && self.is_over(quota, 0);
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
            quota.tell(spent);
            let request = DirectoryRequest::QuotaUsage { source: quota.source, spent };
            self.cluster.tell_directory(request);
        }
    }
}
