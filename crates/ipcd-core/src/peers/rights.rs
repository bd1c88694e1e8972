//! The rights of a peer: whether it may publish, subscribe, ask, reply, or bear a name. The rules
//! themselves are read in `acl`.

use crate::acl::Acl;
use crate::directory::messages::RequestingPeer;
use crate::model::failure::Failure;
use crate::model::ids::{PeerKey, Ticket};
use crate::peers::Peers;
use crate::peers::peer::{MAX_OUTSTANDING, ReceivedRequest};
use ipcd_proto::DecodedFrame;
use ipcd_proto::DirectAddress;
use ipcd_proto::Filter;
use ipcd_proto::Subject;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::control::PeerAttributes;
use ipcd_proto::control::Query;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::Subscribe;
use ipcd_proto::decode;
use std::collections::hash_map::Entry;

/// Unanswered requests of a peer. A peer with so many gets no more until some are answered or
/// expired.
const MAX_UNANSWERED: usize = 1024 * 1024;

/// The beginning of the subjects on which NATS clients receive replies.
const INBOX: &[u8] = b"_INBOX";

/// The text of a denial, around what was denied.
const DENIED: (&str, &str) = ("this peer may not ", " (see [[acl]] in ipcd's configuration)");
const PUBLISH_TO: &str = "publish to ";
const SUBSCRIBE_TO: &str = "subscribe to ";
const SUBSCRIBE_TO_ALL: (&str, &str) = ("subscribe to all of ", " in a group");

pub(crate) fn denied(what: &str) -> Failure {
    let (before, behind) = DENIED;
    (RefusalCode::Denied, format!("{before}{what}{behind}"))
}

/// The denial of a peer, as the text of the denial says: for peers of other protocols, which have
/// words of their own for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeniedUse<'a> {
    /// To publish to a subject.
    Publish(&'a str),
    /// To subscribe with a filter.
    Subscribe(&'a str),
}

impl<'a> DeniedUse<'a> {
    /// Reads the text of a denial.
    pub fn of(why: &'a str) -> Option<Self> {
        let what = why.strip_prefix(DENIED.0)?.strip_suffix(DENIED.1)?;
        let of_all = what.strip_prefix(SUBSCRIBE_TO_ALL.0);
        if let Some(filter) = of_all.and_then(|what| what.strip_suffix(SUBSCRIBE_TO_ALL.1)) {
            return Some(Self::Subscribe(filter));
        }
        let publish = what.strip_prefix(PUBLISH_TO).map(Self::Publish);
        publish.or_else(|| what.strip_prefix(SUBSCRIBE_TO).map(Self::Subscribe))
    }
}

impl Peers {
    /// Whether a peer may receive messages on this subject.
    pub(crate) fn may_hear(&self, key: PeerKey, subject: Subject<'_>) -> bool {
        let rights = &self.table[key].rights;
        rights.as_ref().is_none_or(|rights| rights.may_hear(subject))
    }

    /// Whether the router delivers a peer's message to this address. A reply requires that the peer
    /// has the request and has not answered it, no matter what the peer may publish: the numbers of
    /// requests can be guessed. A reply without a request cannot be told from a late one, so both
    /// count as undeliverable.
    pub(crate) fn may_reply_to(&self, key: PeerKey, to: DirectAddress) -> bool {
        let Some(request) = to.request else { return true };
        let requests = self.table[key].requests.as_ref();
        requests.is_some_and(|requests| requests.unanswered.contains_key(&(to.peer, request)))
    }

    /// Whether a receiver may publish its reply to the reply subject of a peer's message, with
    /// rights that the peer itself may not have: the peer may publish there, or it is an inbox from
    /// which the peer may receive.
    pub(crate) fn is_answerable(&self, key: PeerKey, reply: &[u8]) -> bool {
        let Ok(subject) = Subject::parse(reply) else { return false };
        let Some(rights) = &self.table[key].rights else { return !reply.starts_with(b"@") };
        !reply.starts_with(b"@")
            && (rights.may_publish(subject) || reply.starts_with(INBOX) && rights.may_hear(subject))
    }

    pub(crate) fn check_right_to_publish(
        &self,
        key: PeerKey,
        subject: &[u8],
        address: Option<DirectAddress>,
    ) -> Result<(), Failure> {
        let Some(rights) = &self.table[key].rights else { return Ok(()) };
        match (address, Subject::parse(subject)) {
            // Delivery checks whether the peer has that request ([`Peers::may_reply_to`]).
            (Some(DirectAddress { request: Some(_), .. }), _) => Ok(()),
            (Some(_), _) if rights.may_address() => Ok(()),
            (Some(_), _) => Err(denied("send messages to one peer")),
            (None, Ok(subject)) if !rights.may_publish(subject) => {
                Err(denied(&format!("{PUBLISH_TO}{}", subject.as_str())))
            }
            // The route lookup refuses a malformed subject with a better reason.
            (None, _) => Ok(()),
        }
    }

    pub(crate) fn check_right_to_subscribe(
        &self,
        key: PeerKey,
        body: &Subscribe,
    ) -> Result<(), Failure> {
        let Some(rights) = &self.table[key].rights else { return Ok(()) };
        let Ok(filter) = Filter::parse(body.filter.as_bytes()) else { return Ok(()) };
        match (rights.may_subscribe(&filter, body.group.is_some()), &body.group) {
            (true, _) => Ok(()),
            (false, None) => Err(denied(&format!("{SUBSCRIBE_TO}{}", filter.as_str()))),
            (false, Some(_)) => {
                let (before, behind) = SUBSCRIBE_TO_ALL;
                Err(denied(&format!("{before}{}{behind}", filter.as_str())))
            }
        }
    }

    /// Returns the overflow for a subscription. Publishers on other workers wait for a blocked
    /// interest as a whole, even with subjects that this peer may not receive. So a peer that may
    /// receive only some of them must not block.
    pub(crate) fn allowed_overflow(
        &self,
        key: PeerKey,
        filter: &Filter,
        wanted: OverflowPolicy,
    ) -> OverflowPolicy {
        let rights = &self.table[key].rights;
        let hears_all = rights.as_ref().is_none_or(|rights| rights.may_subscribe(filter, true));
        let is_held_back = wanted == OverflowPolicy::Block && !hears_all;
        match is_held_back {
            true if self.table[key].ends_when_slow => OverflowPolicy::Disconnect,
            true => OverflowPolicy::DropOldest,
            false => wanted,
        }
    }

    pub(crate) fn check_right_to_ask(&self, key: PeerKey, query: &Query) -> Result<(), Failure> {
        let Some(rights) = &self.table[key].rights else { return Ok(()) };
        rights.may_ask(query).map_err(denied)
    }

    /// Checks whether a peer may have the name that it asks for. Its rights have been read.
    pub(crate) fn check_right_to_name(&self, key: PeerKey, name: &str) -> Result<(), Failure> {
        let rights = self.table[key].rights.as_ref();
        match rights.is_none_or(|rights| rights.may_be_named(name)) {
            true => Ok(()),
            false => Err(denied(&format!("use the name {}", name.escape_debug()))),
        }
    }

    /// Checks that replies to a request go to the requester itself. Responders publish to this
    /// subject with rights that the requester may not have.
    pub(crate) fn check_reply_subject(
        &self,
        key: PeerKey,
        correlation: u64,
        reply: &[u8],
    ) -> Result<(), Failure> {
        let peer = self.table[key].origin.peer;
        let own = DirectAddress { peer, request: Some(correlation) };
        if DirectAddress::parse(reply) == Some(own) {
            return Ok(());
        }
        let why = format!("the reply subject of a request must be its own address, {own}");
        Err((RefusalCode::BadSubject, why))
    }

    pub(crate) fn is_outstanding(&self, key: PeerKey, correlation: u64) -> bool {
        let requests = self.table[key].requests.as_ref();
        correlation == 0
            || requests.is_some_and(|requests| requests.outstanding.contains_key(&correlation))
    }

    /// Keeps the names of closed listeners while peers are attached that came from them, because
    /// rules refer to those names.
    pub(crate) fn keep_names(&mut self, before: &Acl) {
        for peer in self.table.values() {
            if let Some(names) = before.listeners.get(&(peer.listener as usize)) {
                let listeners = &mut self.config.acl.listeners;
                listeners.entry(peer.listener as usize).or_insert_with(|| names.clone());
            }
        }
    }

    /// Returns the right that the peer uses and does not have any more: to its name or to a
    /// subscription. The filters of a raw peer come from the configuration, and are never refused.
    pub(crate) fn lost_right(&self, key: PeerKey) -> Option<String> {
        let peer = &self.table[key];
        let rights = peer.rights.as_ref().filter(|_| !peer.is_raw)?;
        if let Some(name) = peer.origin.name.as_ref().filter(|name| !rights.may_be_named(name)) {
            return Some(format!("use the name {}", name.escape_debug()));
        }
        let is_lost = |filter: &Filter, is_member| !rights.may_subscribe(filter, is_member);
        let mut subscriptions = peer.subscriptions.iter();
        let lost = subscriptions.find(|known| is_lost(&known.filter, known.group.is_some()));
        lost.map(|known| format!("subscribe to {}", known.filter.as_str()))
    }

    /// Returns the peer for a request to the supervisor, with the proofs that only this router
    /// knows.
    pub(crate) fn requesting_peer(&self, key: PeerKey) -> RequestingPeer {
        let proven = self.table[key].proven.as_deref();
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        RequestingPeer {
            key,
            token: proven.and_then(|proven| text(&proven.token)),
            certificate: proven.and_then(|proven| text(&proven.certificate)),
        }
    }

    /// Returns the identity of a peer for the access rules.
    pub(crate) fn who(&self, key: PeerKey, acl: &Acl) -> PeerAttributes {
        let peer = &self.table[key];
        let names = acl.listeners.get(&(peer.listener as usize));
        let RequestingPeer { token, certificate, .. } = self.requesting_peer(key);
        let listener = names.and_then(|names| names.first().cloned());
        PeerAttributes { uid: peer.origin.uid, gid: peer.origin.gid, listener, token, certificate }
    }

    /// Notes that a peer has received a request.
    pub(crate) fn note_request(&mut self, key: PeerKey, requester: u64, id: u64, ticket: Ticket) {
        match self.table[key].requests().unanswered.entry((requester, id)) {
            Entry::Occupied(mut asked) => asked.get_mut().again.push(ticket),
            Entry::Vacant(free) => {
                free.insert(ReceivedRequest { ticket, again: Vec::new() });
            }
        }
    }

    /// Whether this is a request, and the peer has as many as allowed. No older request is
    /// forgotten instead, because the peer's reply to it would then be refused.
    pub(crate) fn has_no_room_for(&self, key: PeerKey, frame: &[u8]) -> bool {
        let requests = self.table[key].requests.as_ref();
        requests.is_some_and(|requests| requests.unanswered.len() >= MAX_UNANSWERED)
            && matches!(decode(frame, usize::MAX), Ok(DecodedFrame::Frame(one, _)) if one.header.request)
    }

    /// Notes that a peer waits for one outcome less.
    pub(crate) fn note_settled(&mut self, key: PeerKey, correlation: u64) {
        let outstanding = &mut self.table[key].requests().outstanding;
        let was_full = outstanding.len() >= MAX_OUTSTANDING;
        let was_pending = outstanding.remove(&correlation).is_some();
        if was_full {
            self.resume_waiters(key);
        }
        if was_pending {
            self.settle_pending(key, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_can_be_read() {
        let why = |what: &str| denied(what).1;
        assert_eq!(DeniedUse::of(&why("publish to a.b")), Some(DeniedUse::Publish("a.b")));
        assert_eq!(DeniedUse::of(&why("subscribe to a.>")), Some(DeniedUse::Subscribe("a.>")));
        let all = why("subscribe to all of a.> in a group");
        assert_eq!(DeniedUse::of(&all), Some(DeniedUse::Subscribe("a.>")));
        assert_eq!(DeniedUse::of(&why("send messages to one peer")), None);
        assert_eq!(DeniedUse::of("publish to a"), None);
    }
}
