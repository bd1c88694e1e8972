//! Quotas of principals: bytes in send queues and subscriptions, over all workers.
//!
//! Each worker counts the use by its own peers, and tells the directory when it has changed by a
//! part of the limit. Until it receives that report back, it uses no more of the rest than its
//! share, because the other workers may be using theirs. There are as many shares as workers, so a
//! burst on all of them at once stays below twice the limit, no matter how many workers there are.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::directory::messages::DirectoryRequest;
use crate::model::failure::Failure;
use crate::model::ids::PeerKey;
use crate::model::principal::Principal;
use crate::peers::Peers;
use crate::peers::peer::Peer;
use crate::peers::quota::{PARTS, Quota, QuotaLimit};
use ipcd_proto::control::RefusalCode;
use std::rc::Rc;

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

    /// Updates the quota to the present length of a peer's send queue. Returns the length that was
    /// counted before.
    pub(crate) fn update_quota(&mut self, key: PeerKey) -> usize {
        let limit = self.quota_limit();
        let Self { table, cluster, config, .. } = self;
        let peer = &mut table[key];
        let bytes = peer.queue.len();
        let before = std::mem::replace(&mut peer.charged, bytes);
        if before == bytes {
            return before;
        }
        let quota = &peer.quota;
        quota.change(|usage| usage.bytes = usage.bytes - before as u64 + bytes as u64);
        report_usage(quota, limit, config, cluster);
        // Other peers of the principal may have been full only because of these bytes.
        if quota.is_relieved(limit) {
            self.resume_relieved();
        }
        before
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
        if self.table[key].quota.is_relieved(self.quota_limit()) {
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

    pub(crate) fn is_over_quota(&self, key: PeerKey) -> bool {
        self.table[key].is_over_quota(self.quota_limit())
    }

    /// Whether a principal that was over its limit is still close to it. The margin keeps the state
    /// from changing with each message.
    pub(crate) fn stays_over_quota(&self, key: PeerKey) -> bool {
        let (peer, limit) = (&self.table[key], self.quota_limit());
        let has_rest = !peer.queue.is_empty();
        has_rest && peer.quota.was_over.get() && peer.quota.is_over(limit, limit.step())
    }

    /// Whether the use is a quarter above the limit. Messages to a single peer may use that
    /// quarter.
    pub(crate) fn is_beyond_quota(&self, key: PeerKey) -> bool {
        let (most, peer) = (self.config.max_bytes_per_principal, &self.table[key]);
        most > 0 && !peer.queue.is_empty() && peer.quota.usage.get().bytes >= most / 4 * 5
    }

    pub(crate) fn quota_limit(&self) -> QuotaLimit {
        QuotaLimit::new(
            self.config.max_bytes_per_principal,
            self.cluster.directory.interests.living(),
        )
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

    /// Tells the directory the use by peers of this peer's principal, if it has changed enough.
    fn report_usage(&mut self, key: PeerKey) {
        let limit = self.quota_limit();
        report_usage(&self.table[key].quota, limit, &self.config, &mut self.cluster);
    }
}

impl Peer {
    /// Whether the principal of this peer has used up its limit, and this peer has a part in that.
    /// A peer that takes its bytes at once is not blocked for the others.
    pub(crate) fn is_over_quota(&self, limit: QuotaLimit) -> bool {
        !self.queue.is_empty() && self.quota.is_over(limit, 0)
    }
}

/// Tells the directory the use of a principal by peers here, if it has changed enough.
fn report_usage(quota: &Quota, limit: QuotaLimit, config: &Config, cluster: &mut Cluster) {
    if cluster.is_alone() {
        return;
    }
    let (usage, told) = (quota.usage.get(), quota.told.get());
    // A worker that has used up its share gets a new one once all workers know its use.
    let wants_more = usage.bytes != told.bytes && quota.is_over(limit, 0);
    // The last byte is always worth a report, so that the directory can forget the principal.
    let has_moved = |now: u64, told: u64, part: u64| {
        now.abs_diff(told) >= part.max(1) || (now == 0 && told > 0)
    };
    let most = config.max_subscriptions_per_principal;
    let moved = |part| has_moved(usage.subscriptions * PARTS, told.subscriptions * PARTS, part);
    let is_counted = config.max_bytes_per_principal > 0;
    if wants_more
        || (is_counted && has_moved(usage.bytes, told.bytes, limit.step()))
        || (most > 0 && moved(most / PARTS))
    {
        quota.tell(usage);
        cluster.tell_directory(DirectoryRequest::QuotaUsage { principal: quota.principal, usage });
    }
}
