//! Subscriptions of a peer: their start and their end. Messages are not delivered here.

use crate::cluster::PendingAck;
use crate::directory::violation::MAX_INTERESTS;
use crate::model::failure::Failure;
use crate::model::ids::PeerKey;
use crate::model::names::check_name;
use crate::peers::pacing::Pacing;
use crate::peers::peer::{SessionState, Subscription, SubscriptionEnd};
use crate::routing::index::{LocalSubscriber, QueueGroup};
use crate::sessions::Sessions;
use crate::sessions::handshake::{bad_subject, malformed};
use crate::sessions::work::DeferredWork;
use ipcd_proto::Filter;
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::Subscribe;
use ipcd_proto::control::Unsubscribe;
use ipcd_proto::control::decode;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Instant;

/// Steps for removing a subscription.
const STEPS_TO_FORGET: usize = 32;

impl Sessions {
    pub(crate) fn subscribe(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &Frame<'_>,
    ) -> Result<(), Failure> {
        let body: Subscribe = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        let most = self.peers.config.max_subscriptions;
        if self.peers.table[key].subscriptions.len() >= most {
            let why = format!(
                "the limit of {most} subscriptions of a peer is reached (max_subscriptions)"
            );
            self.peers.refuse(now, key, correlation, RefusalCode::Limit, why);
            return Ok(());
        }
        let may = self
            .peers
            .check_right_to_subscribe(key, &body)
            .and_then(|()| self.peers.check_subscription_quota(key));
        // In a SUBSCRIBE this header field limits the messages of groups.
        let group_limit =
            body.group.as_ref().and_then(|_| NonZeroU32::new(frame.header.subscription));
        let added = may.and_then(|()| self.add_subscription(key, body, correlation));
        if let Some(group_limit) = group_limit.filter(|_| added.is_ok()) {
            self.limit_groups(now, key, group_limit);
        }
        match added {
            Ok(true) => self.peers.send(now, key, Header::new(FrameKind::Ack, correlation), &[]),
            // The acknowledgement follows once the interest is in the table.
            Ok(false) => {}
            Err((code, why)) => self.peers.refuse(now, key, correlation, code, why),
        }
        Ok(())
    }

    /// Adds a subscription. Returns whether it can be acknowledged at once.
    fn add_subscription(
        &mut self,
        key: PeerKey,
        body: Subscribe,
        correlation: u64,
    ) -> Result<bool, Failure> {
        let filter = Filter::parse(body.filter.as_bytes()).map_err(bad_subject)?;
        if let Some(group) = &body.group {
            check_name(group)?;
        }
        // With more interests, the directory would end this worker.
        if self.peers.cluster.has_too_many_interests() {
            let why =
                format!("the limit of {MAX_INTERESTS} filters and groups of a worker is reached");
            return Err((RefusalCode::Limit, why));
        }
        // Other workers choose the member of a group, so they have to know its filter.
        if body.group.is_some() && self.peers.cluster.lacks_pattern(&filter) {
            let why = "groups with this pattern of tokens and wildcards: there are too many other \
                       patterns";
            return Err((RefusalCode::Limit, why.into()));
        }
        let peer = &mut self.peers.table[key];
        let number = body.subscription;
        let Err(at) = peer.find(number) else {
            return Err((RefusalCode::Protocol, format!("subscription {number} exists already")));
        };
        if number == 0 {
            let why = "invalid subscription number 0: it stands for messages to the peer itself";
            return Err((RefusalCode::Protocol, why.into()));
        }
        // A subscriber to everything below a subject must not be able to stop all publishers.
        let default =
            if filter.has_tail() { OverflowPolicy::DropOldest } else { OverflowPolicy::Block };
        let overflow = self.peers.allowed_overflow(key, &filter, body.overflow.unwrap_or(default));
        let group = body.group.map(|name| Rc::new(QueueGroup { filter: filter.clone(), name }));
        self.peers.table[key].wants_origins |= body.origin;
        let member = LocalSubscriber {
            peer: key,
            subscription: number,
            overflow,
            origin: body.origin,
            group: group.clone(),
        };
        self.index.add(&filter, member);
        self.peers.charge_subscription(key, true);
        // A deferred fan-out recognises newer subscriptions by this number.
        self.births += 1;
        let birth = self.births;
        let subscription = Subscription {
            number,
            filter,
            overflow,
            group,
            birth,
            matched: 0,
            end: None,
            drops: None,
        };
        let is_shared = subscription.group.is_some();
        let at_once = self.share(key, &subscription, correlation);
        self.peers.table[key].subscriptions.insert(at, subscription);
        // Publishers may wait for a group in which all other members are full.
        if is_shared {
            self.resume_group_waiters();
        }
        Ok(at_once)
    }

    /// Adds a subscription to the interests that other workers know. Returns false if the
    /// acknowledgement has to wait until they do.
    fn share(&mut self, key: PeerKey, subscription: &Subscription, correlation: u64) -> bool {
        let peer = &self.peers.table[key];
        if self.peers.cluster.is_alone() {
            return true;
        }
        let is_full = peer.full && subscription.blocks();
        let ack = PendingAck { ticket: 0, key, peer: peer.origin.peer, correlation };
        let (interest, group) = (subscription.interest(), subscription.group.as_ref());
        self.peers.cluster.add_interest(interest, group, is_full, ack)
    }

    pub(crate) fn subscribe_raw(&mut self, key: PeerKey, filters: Vec<Filter>) {
        for (filter, subscription) in filters.into_iter().zip(1..) {
            let (filter, group, overflow) = (filter.as_str().to_owned(), None, None);
            let body = Subscribe { subscription, filter, group, overflow, origin: false };
            // The filters are parsed and the numbers differ, so that only rights or limits can
            // refuse one. The peer then does not get those messages.
            let _ = self.add_subscription(key, body, 0);
        }
    }

    pub(crate) fn unsubscribe(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &Frame<'_>,
    ) -> Result<(), Failure> {
        let Unsubscribe { subscription } = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        match self.peers.table[key].find(subscription) {
            Ok(at) => {
                // In an UNSUBSCRIBE this header field is the number of messages after which it holds.
                let end = SubscriptionEnd { max: frame.header.subscription.into(), correlation };
                let peer = &mut self.peers.table[key];
                peer.subscriptions[at].end = Some(end);
                match peer.subscriptions[at].is_over() {
                    true => self.end_subscription(now, key, at),
                    false => peer.has_ends = true,
                }
            }
            Err(_) => {
                let why = format!("subscription {subscription} does not exist");
                self.peers.refuse(now, key, correlation, RefusalCode::Protocol, why);
            }
        }
        Ok(())
    }

    /// Ends a subscription, and acknowledges its UNSUBSCRIBE.
    pub(crate) fn end_subscription(&mut self, now: Instant, key: PeerKey, at: usize) {
        let peer = &mut self.peers.table[key];
        let mut gone = peer.subscriptions.remove(at);
        peer.has_ends = peer.subscriptions.iter().any(|known| known.end.is_some());
        let was_full = peer.full;
        self.forget(key, &gone, was_full);
        self.peers.resume_waiters(key);
        // Ahead of the ACK: afterwards the client does not know the number any more.
        self.peers.tell_gaps(now, key, gone.take_gaps());
        if let Some(SubscriptionEnd { correlation, .. }) = gone.end {
            self.peers.send(now, key, Header::new(FrameKind::Ack, correlation), &[]);
        }
    }

    /// Ends a peer's part in groups after this many messages of its session, of any kind. A peer
    /// that ends at that number would otherwise throw away messages that another member could take.
    pub(crate) fn limit_groups(&mut self, now: Instant, key: PeerKey, group_limit: NonZeroU32) {
        self.peers.table[key].group_limit = group_limit.get().into();
        if self.peers.table[key].has_reached_limit() {
            self.leave_groups(now, key);
        }
    }

    /// Ends a peer's part in groups.
    pub(crate) fn leave_groups(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.peers.table[key];
        let (was_full, is_member) = (peer.full, |known: &mut Subscription| known.group.is_some());
        let left: Vec<Subscription> = peer.subscriptions.extract_if(.., is_member).collect();
        for mut gone in left {
            self.forget(key, &gone, was_full);
            self.peers.tell_gaps(now, key, gone.take_gaps());
        }
        self.peers.resume_waiters(key);
    }

    /// Removes all subscriptions of a peer. Its send queue blocks no publisher any more. Thousands
    /// of subscriptions are removed over several turns.
    pub(crate) fn forget_subscriptions(&mut self, key: PeerKey) {
        let peer = &mut self.peers.table[key];
        let was_full = std::mem::take(&mut peer.full);
        peer.pace = Pacing::default();
        let leaving = std::mem::take(&mut peer.subscriptions);
        if leaving.len() * STEPS_TO_FORGET <= self.peers.config.slice {
            leaving.iter().for_each(|gone| self.forget_one(key, gone, was_full));
            self.index.touch();
        } else {
            self.peers.table[key].is_leaving = true;
            self.work.queue.push_back(DeferredWork::Leaving { key, leaving, was_full });
        }
    }

    /// Continues to remove the subscriptions of a peer that leaves.
    pub(crate) fn continue_leaving(
        &mut self,
        key: PeerKey,
        mut leaving: Vec<Subscription>,
        was_full: bool,
    ) {
        while let Some(gone) = leaving.pop() {
            self.forget_one(key, &gone, was_full);
            self.work.budget.spend(STEPS_TO_FORGET);
            if self.work.budget.is_spent() && !leaving.is_empty() {
                return self.work.queue.push_back(DeferredWork::Leaving { key, leaving, was_full });
            }
        }
        // Once for all of them: until now the key belonged to no other peer, and a peer without an
        // open session gets nothing.
        self.index.touch();
        let peer = &mut self.peers.table[key];
        peer.is_leaving = false;
        if matches!(peer.state, SessionState::Gone) {
            self.vacate(key);
        }
    }

    pub(crate) fn forget(&mut self, key: PeerKey, gone: &Subscription, was_full: bool) {
        self.index.touch();
        self.forget_one(key, gone, was_full);
    }

    /// Removes a subscription. The caller tells the index that routes have changed.
    fn forget_one(&mut self, key: PeerKey, gone: &Subscription, was_full: bool) {
        self.index.remove(&gone.filter, &(key, gone.number));
        if !self.peers.cluster.is_alone() {
            self.peers.cluster.remove_interest(gone.interest(), was_full && gone.blocks());
        }
        self.peers.charge_subscription(key, false);
    }

    /// Changes subscriptions of which the peer may now receive only a part: publishers must not
    /// wait for them any more.
    pub(crate) fn stop_blocking(&mut self, key: PeerKey) {
        for at in 0..self.peers.table[key].subscriptions.len() {
            let known = &self.peers.table[key].subscriptions[at];
            let overflow = self.peers.allowed_overflow(key, &known.filter, known.overflow);
            if overflow != known.overflow {
                let (number, filter) = (known.number, known.filter.clone());
                // While it still counts as blocking: afterwards no flow state is told for it.
                self.peers.unblock(key, at);
                self.peers.table[key].subscriptions[at].overflow = overflow;
                self.index.change(&filter, &(key, number), |member| member.overflow = overflow);
                self.peers.resume_waiters(key);
            }
        }
    }
}
