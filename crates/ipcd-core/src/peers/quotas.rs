//! Quotas of principals: bytes in send queues and subscriptions, over all workers.
//!
//! Each worker counts the use by its own peers, and tells the directory when it has changed by a
//! part of the limit. Until it receives that report back, it uses no more of the rest than its
//! share, because the other workers may be using theirs. There are as many shares as workers, so a
//! burst on all of them at once stays below twice the limit, no matter how many workers there are.

use crate::directory::messages::DirectoryRequest;
use crate::model::failure::Failure;
use crate::model::ids::PeerKey;
use crate::model::principal::Principal;
use crate::peers::Peers;
use crate::peers::quota::Quota;
use ipcd_proto::control::RefusalCode;
use std::rc::Rc;

/// The least number of parts in which workers report the use of a limit.
const PARTS: u64 = 16;

/// The least number of parts of a limit, one of which each worker may always use.
const SHARES: u64 = 8;

impl Peers {
    /// Returns the quota that a new peer of this principal uses.
    pub(crate) fn quota_of(&mut self, principal: Principal) -> Rc<Quota> {
        let (cluster, own) = (&self.cluster, self.config.slot);
        let quota = self.quotas.0.entry(principal).or_insert_with(|| {
            let (_, elsewhere) = cluster.directory.usage_of(principal, own);
            Rc::new(Quota::new(principal, elsewhere))
        });
        Rc::clone(quota)
    }

    /// Updates the quota to the present length of a peer's send queue.
    pub(crate) fn update_quota(&mut self, key: PeerKey) {
        let peer = &mut self.table[key];
        let bytes = peer.queue.len();
        let before = std::mem::replace(&mut peer.charged, bytes);
        if before != bytes {
            let (before, bytes) = (before as u64, bytes as u64);
            peer.quota.change(|usage| usage.bytes = usage.bytes - before + bytes);
            self.report_usage(key);
            // Other peers of the principal may have been full only because of these bytes.
            if self.is_relieved(key) {
                self.resume_relieved();
            }
        }
    }

    /// Counts one subscription more, or one less.
    pub(crate) fn charge_subscription(&mut self, key: PeerKey, is_more: bool) {
        let quota = &self.table[key].quota;
        quota.change(|usage| match is_more {
            true => usage.subscriptions += 1,
            false => usage.subscriptions -= 1,
        });
        self.report_usage(key);
    }

    /// Removes a leaving peer from its quota, with the bytes left in its send queue.
    pub(crate) fn leave_quota(&mut self, key: PeerKey) {
        let peer = &mut self.table[key];
        let left = std::mem::take(&mut peer.charged) as u64;
        peer.quota.change(|usage| usage.bytes -= left);
        let principal = peer.quota.principal;
        self.report_usage(key);
        if self.is_relieved(key) {
            self.resume_relieved();
        }
        // Two references: this peer's, and the map's.
        self.forget_quota(principal, 2);
    }

    /// Assigns each peer to its principal by the configuration that applies now.
    pub(crate) fn move_quotas(&mut self) {
        for key in self.keys() {
            let peer = &self.table[key];
            let principal = Principal::of(peer.origin.uid, peer.origin.addr, self.config.prefixes);
            let before = peer.quota.principal;
            if principal == before {
                continue;
            }
            let bytes = peer.charged as u64;
            let subscriptions = peer.subscriptions.len() as u64;
            let pending = peer.outstanding() as u64;
            peer.quota.change(|usage| {
                usage.bytes -= bytes;
                usage.subscriptions -= subscriptions;
            });
            self.settle_pending(key, pending);
            self.report_usage(key);
            self.table[key].quota = self.quota_of(principal);
            self.table[key].quota.add_pending(pending);
            self.table[key].quota.change(|usage| {
                usage.bytes += bytes;
                usage.subscriptions += subscriptions;
            });
            self.report_usage(key);
            self.forget_quota(before, 1);
        }
    }

    /// Counts outcomes that are known, and lets the publishers go on that wait for them.
    pub(crate) fn settle_pending(&mut self, key: PeerKey, messages: u64) {
        let waiters = self.table[key].quota.settle(messages, self.config.max_pending_per_principal);
        if !waiters.is_empty() {
            self.resume(waiters);
        }
    }

    /// Forgets a principal, if at most this many references to its quota are left.
    fn forget_quota(&mut self, principal: Principal, left: usize) {
        if self.quotas.0.get(&principal).is_some_and(|quota| Rc::strong_count(quota) <= left) {
            self.quotas.0.remove(&principal);
        }
    }

    /// Whether the principal of this peer has used up its limit, and this peer has a part in that.
    /// A peer that takes its bytes at once is not blocked for the others.
    pub(crate) fn is_over_quota(&self, key: PeerKey) -> bool {
        let peer = &self.table[key];
        !peer.queue.is_empty() && self.is_over(&peer.quota, 0)
    }

    /// Whether a principal that was over its limit is still close to it. The margin keeps the state
    /// from changing with each message.
    pub(crate) fn stays_over_quota(&self, key: PeerKey) -> bool {
        let peer = &self.table[key];
        let has_rest = !peer.queue.is_empty();
        has_rest && peer.quota.was_over.get() && self.is_over(&peer.quota, self.step())
    }

    /// Whether the use is a quarter above the limit. Messages to a single peer may use that
    /// quarter.
    pub(crate) fn is_beyond_quota(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_principal, &self.table[key]);
        most > 0 && !peer.queue.is_empty() && peer.quota.usage.get().bytes >= most / 4 * 5
    }

    fn is_over(&self, quota: &Quota, margin: u64) -> bool {
        let (most, here) = (self.config.max_bytes_per_principal, quota.usage.get().bytes);
        let workers = self.workers();
        // Below this part the shares need not be computed, even if every worker uses as much.
        most > 0
            && here + margin >= most / workers.max(SHARES)
            && here + margin >= quota.allowance(most, workers)
    }

    /// Returns the change in bytes that is worth a report. It is much less than a worker's share:
    /// otherwise a worker would wait before it has used most of the rest that others leave.
    fn step(&self) -> u64 {
        self.config.max_bytes_per_principal / PARTS.max(8 * self.workers())
    }

    fn workers(&self) -> u64 {
        self.cluster.directory.living().max(1)
    }

    pub(crate) fn check_subscription_quota(&self, key: PeerKey) -> Result<(), Failure> {
        let most = self.config.max_subscriptions_per_principal;
        let quota = &self.table[key].quota;
        if most == 0 || quota.subscriptions() < most {
            return Ok(());
        }
        let principal = quota.principal;
        let why = format!(
            "the limit of {most} subscriptions of {principal} is reached (max_subscriptions_per_uid)"
        );
        Err((RefusalCode::Limit, why))
    }

    /// Takes over the use that the directory knows now.
    pub(crate) fn update_quotas(&mut self) {
        let own = self.config.slot;
        for quota in self.quotas.0.values() {
            let (known, elsewhere) = self.cluster.directory.usage_of(quota.principal, own);
            quota.handle(known, elsewhere);
        }
        self.resume_relieved();
    }

    /// Lets publishers continue to peers that were full only because of their principal's limit.
    fn resume_relieved(&mut self) {
        let half = self.config.queue_limit / 2;
        for key in self.keys() {
            let peer = &self.table[key];
            if peer.full && peer.queue.len() <= half && !self.stays_over_quota(key) {
                self.set_full(key, false);
                self.resume_waiters(key);
            }
        }
    }

    /// Whether a principal that was over its limit has now fallen clearly below it.
    fn is_relieved(&self, key: PeerKey) -> bool {
        let quota = &self.table[key].quota;
        if self.is_over(quota, 0) {
            quota.was_over.set(true);
        }
        let is_over = |margin| self.is_over(quota, margin);
        quota.was_over.get() && !is_over(self.step()) && quota.was_over.replace(false)
    }

    /// Tells the directory the use by peers here, if it has changed enough.
    fn report_usage(&mut self, key: PeerKey) {
        if self.cluster.is_alone() {
            return;
        }
        let config = &self.config;
        let quota = &self.table[key].quota;
        let (usage, told) = (quota.usage.get(), quota.told.get());
        // A worker that has used up its share gets a new one once all workers know its use.
        let wants_more = usage.bytes != told.bytes && self.is_over(quota, 0);
        // The last byte is always worth a report, so that the directory can forget the principal.
        let has_moved = |now: u64, told: u64, part: u64| {
            now.abs_diff(told) >= part.max(1) || (now == 0 && told > 0)
        };
        let most = config.max_subscriptions_per_principal;
        let moved = |part| has_moved(usage.subscriptions * PARTS, told.subscriptions * PARTS, part);
        let is_counted = config.max_bytes_per_principal > 0;
        if wants_more
            || (is_counted && has_moved(usage.bytes, told.bytes, self.step()))
            || (most > 0 && moved(most / PARTS))
        {
            quota.tell(usage);
            let request = DirectoryRequest::QuotaUsage { principal: quota.principal, usage };
            self.cluster.tell_directory(request);
        }
    }
}
