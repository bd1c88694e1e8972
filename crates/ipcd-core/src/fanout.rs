//! To many at once: what goes to several subscribers is kept once, and each outbox holds it.

use std::time::Instant;

use ipcd_proto::control::Overflow;
use ipcd_proto::{Frame, frame_len};

use crate::core::Core;
use crate::interest::Member;
use crate::peer::PeerKey;
use crate::publish::{Load, Sender};
use crate::store::Span;
use crate::tracked::Ticket;

/// Bytes of a run from which on it always pays to keep it apart rather than copy it to each. A
/// shorter one is kept if it can go where the one before is, or if the one before was for the same.
const SHARED_BYTES: usize = 4 * 1024;

/// Messages for all members of a route, and the subscription that they are stamped for.
pub(crate) struct Stamped<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) count: u64,
    pub(crate) subscription: u32,
    /// Where the fate of the copies is noted.
    pub(crate) ticket: Option<Ticket>,
}

/// Some of whom a run was for, which tells most runs of different routes apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Audience {
    first: PeerKey,
    subscription: u32,
    members: usize,
}

impl Core {
    /// Delivers messages to subscriptions, which are in the order of their numbers: all that
    /// differs is the number, so those that have the same one share the bytes.
    pub(crate) fn deliver_to_all(
        &mut self,
        now: Instant,
        from: Sender,
        to: &[Member],
        run: Stamped<'_>,
    ) {
        let Stamped { bytes, count, mut subscription, ticket } = run;
        for alike in to.chunk_by(|a, b| a.subscription == b.subscription) {
            let number = alike[0].subscription;
            if std::mem::replace(&mut subscription, number) != number {
                stamp_subscription(bytes, number);
            }
            let shared = self.keep_for(alike, from, bytes);
            for member in alike {
                self.deliver(now, from, member, Load { bytes, count, ticket, shared });
            }
            if let Some(span) = shared {
                self.store.release(span.chunk);
            }
        }
    }

    /// Keeps a run for those who will get it, if that pays.
    fn keep_for(&mut self, to: &[Member], from: Sender, run: &[u8]) -> Option<Span> {
        if to.len() < self.config.sharers {
            return None;
        }
        let (mut takers, mut heirs) = (0, 0);
        for member in to.iter().filter(|member| self.will_take(from, member)) {
            takers += 1;
            let outbox = &self.peers[member.peer.0 as usize].outbox;
            heirs += usize::from(outbox.ends_shared(&self.store));
        }
        let Member { peer: first, subscription, .. } = to[0];
        let audience = Some(Audience { first, subscription, members: to.len() });
        let is_again = std::mem::replace(&mut self.last_audience, audience) == audience;
        let pays = run.len() >= SHARED_BYTES || is_again || self.store.goes_on(heirs, run.len());
        (takers >= self.config.sharers && pays).then(|| self.store.keep(run, heirs))
    }

    /// Whether a run will go into a member's outbox, as far as is known before.
    fn will_take(&self, from: Sender, member: &Member) -> bool {
        let peer = &self.peers[member.peer.0 as usize];
        let has_room =
            !peer.full || matches!(member.overflow, Overflow::Block | Overflow::DropOldest);
        has_room && peer.is_open() && peer.largest.is_none() && self.hears(from.key, member)
    }
}

fn stamp_subscription(mut run: &mut [u8], subscription: u32) {
    while let Some(length) = frame_len(run) {
        Frame::stamp_subscription(run, subscription);
        run = &mut run[length..];
    }
}
