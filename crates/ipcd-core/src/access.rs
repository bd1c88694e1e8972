//! The one place that is asked what a peer may do: when it publishes, subscribes or asks, and when
//! the route of a subject is made, whoever publishes there and however its message came here.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use foldhash::fast::RandomState;
use ipcd_proto::control::{Code, Overflow, Query, Subscribe, Who};
use ipcd_proto::{Address, Filter, Subject};

use crate::acl::{Acl, Rights};
use crate::core::{Core, Output};
use crate::peer::{PeerKey, State};
use crate::session::Failure;

/// The rights that peers have, by the rules that concern them: those of one kind share theirs.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    known: HashMap<Box<[usize]>, Option<Rc<Rights>>, RandomState>,
}

impl Core {
    /// Whether a peer may hear messages on this subject.
    pub(crate) fn may_hear(&self, key: PeerKey, subject: Subject<'_>) -> bool {
        let rights = &self.peers[key.0 as usize].rights;
        rights.as_ref().is_none_or(|rights| rights.may_hear(subject))
    }

    /// Whether a peer may send a message to that address: if it may write to any, or was asked for
    /// this answer. That it was not, or not lately, cannot be told from an answer that is late.
    pub(crate) fn may_write_to(&self, key: PeerKey, to: Address) -> bool {
        let peer = &self.peers[key.0 as usize];
        let was_asked = |request| {
            let calls = peer.calls.as_ref();
            calls.is_some_and(|calls| calls.unanswered.contains_key(&(to.peer, request)))
        };
        let may = |rights: &Rc<Rights>| rights.may_address() || to.request.is_some_and(was_asked);
        peer.rights.as_ref().is_none_or(may)
    }

    pub(crate) fn check_right_to_publish(
        &self,
        key: PeerKey,
        subject: &[u8],
        address: Option<Address>,
    ) -> Result<(), Failure> {
        let Some(rights) = &self.peers[key.0 as usize].rights else { return Ok(()) };
        match (address, Subject::parse(subject)) {
            // Whether it is one that somebody waits for is seen when it is delivered.
            (Some(Address { request: Some(_), .. }), _) => Ok(()),
            (Some(_), _) if rights.may_address() => Ok(()),
            (Some(_), _) => Err(denied("send messages to one peer")),
            (None, Ok(subject)) if !rights.may_publish(subject) => {
                Err(denied(&format!("publish to {}", subject.as_str())))
            }
            // What is no subject is refused as such.
            (None, _) => Ok(()),
        }
    }

    pub(crate) fn check_right_to_subscribe(
        &self,
        key: PeerKey,
        body: &Subscribe,
    ) -> Result<(), Failure> {
        let Some(rights) = &self.peers[key.0 as usize].rights else { return Ok(()) };
        let Ok(filter) = Filter::parse(body.filter.as_bytes()) else { return Ok(()) };
        match (rights.may_subscribe(&filter, body.group.is_some()), &body.group) {
            (true, _) => Ok(()),
            (false, None) => Err(denied(&format!("subscribe to {}", filter.as_str()))),
            (false, Some(_)) => {
                Err(denied(&format!("share all of {} with a group", filter.as_str())))
            }
        }
    }

    /// What happens to messages for a subscription when the peer is too slow. Other workers wait for
    /// whoever has subscribed, also where it may not hear: who may hear only some makes nobody wait.
    pub(crate) fn allowed_overflow(
        &self,
        key: PeerKey,
        filter: &Filter,
        wanted: Overflow,
    ) -> Overflow {
        let rights = &self.peers[key.0 as usize].rights;
        let hears_all = rights.as_ref().is_none_or(|rights| rights.may_subscribe(filter, true));
        let is_held_back = wanted == Overflow::Block && !hears_all;
        if is_held_back { Overflow::DropOldest } else { wanted }
    }

    pub(crate) fn check_right_to_ask(&self, key: PeerKey, query: &Query) -> Result<(), Failure> {
        let Some(rights) = &self.peers[key.0 as usize].rights else { return Ok(()) };
        let may = match query {
            Query::Status | Query::Sandbox => Ok(()),
            Query::Peers | Query::Subscriptions => Err("see other peers"),
            Query::Access { .. } => Err("ask for the rights of others"),
            Query::Kick(_) => Err("cut off peers"),
            Query::Find(_) if rights.may_address() => Ok(()),
            Query::Find(_) => Err("send messages to one peer"),
            Query::Matching(subject) => {
                let subject = Subject::parse(subject.as_bytes());
                let may = subject.is_ok_and(|subject| rights.may_publish(subject));
                if may { Ok(()) } else { Err("know who listens where it may not publish") }
            }
        };
        match may {
            Err(what) if !rights.may_administer() => Err(denied(what)),
            _ => Ok(()),
        }
    }

    /// The transport has found out who the peer is, by a certificate of this name and before anything
    /// was heard of it: it need not prove a token. True if the session is open already, as that of
    /// one is that does not speak the protocol, and the peer may do something else now.
    pub fn vouch(&mut self, key: PeerKey, name: &str) -> bool {
        let peer = self.peer(key);
        peer.proven.get_or_insert_default().certificate = Some(name.into());
        if let State::New { challenge } = &mut peer.state {
            *challenge = None;
        }
        if !peer.is_open() {
            return false;
        }
        let before = peer.rights.clone();
        self.read_rights(key);
        self.interests.touch();
        self.hold_back(key);
        self.peers[key.0 as usize].rights.as_deref() != before.as_deref()
    }

    /// Finds what a peer may do whose session opens.
    pub(crate) fn read_rights(&mut self, key: PeerKey) {
        let acl = &self.config.acl;
        if acl.rules.is_empty() {
            self.peers[key.0 as usize].rights = None;
            return;
        }
        let concerning = acl.concerning(&self.who(key, acl));
        let known = self.permissions.known.entry(concerning);
        let rights = known.or_insert_with_key(|rules| acl.rights(rules).map(Rc::new));
        self.peers[key.0 as usize].rights = rights.clone();
    }

    /// Puts other rules in force for the peers that are here. A session ends if it has a
    /// subscription that would be refused now; of the others each gets what is left to it.
    pub(crate) fn recheck(&mut self, now: Instant, before: &Acl) {
        self.keep_names(before);
        self.permissions.known.clear();
        self.interests.touch();
        let open: Vec<_> =
            self.keys().into_iter().filter(|key| self.peer(*key).is_open()).collect();
        for key in open {
            self.read_rights(key);
            if let Some(filter) = self.lost_subscription(key) {
                let (_, why) = denied(&format!("subscribe to {filter} any more"));
                self.note_denied(key, &why);
                self.fail(now, key, Code::Denied, why);
            } else {
                self.hold_back(key);
            }
        }
    }

    /// Publishers wait no more for subscriptions of which the peer may now hear only some.
    fn hold_back(&mut self, key: PeerKey) {
        for at in 0..self.peer(key).subscriptions.len() {
            let known = &self.peers[key.0 as usize].subscriptions[at];
            let overflow = self.allowed_overflow(key, &known.filter, known.overflow);
            if overflow != known.overflow {
                let (number, filter) = (known.number, known.filter.clone());
                self.unblock(key, at);
                self.peer(key).subscriptions[at].overflow = overflow;
                self.interests.change(&filter, &(key, number), |member| member.overflow = overflow);
                self.resume_waiters(key);
            }
        }
    }

    /// Counts what was denied to a peer. The log hears of the first.
    pub(crate) fn note_denied(&mut self, key: PeerKey, why: &str) {
        self.counters.denied += 1;
        if !std::mem::replace(&mut self.peer(key).was_denied, true) {
            self.outputs.push_back(Output::Denied(key, why.to_owned()));
        }
    }

    /// Listeners that are closed have names for as long as peers are here that came in by them.
    fn keep_names(&mut self, before: &Acl) {
        for (_, peer) in &self.peers {
            if let Some(names) = before.listeners.get(&(peer.listener as usize)) {
                let listeners = &mut self.config.acl.listeners;
                listeners.entry(peer.listener as usize).or_insert_with(|| names.clone());
            }
        }
    }

    /// A subscription that the peer would be refused now. What a bare one hears was not asked for by
    /// itself, and is never refused.
    fn lost_subscription(&self, key: PeerKey) -> Option<String> {
        let peer = &self.peers[key.0 as usize];
        let rights = peer.rights.as_ref().filter(|_| !peer.is_bare)?;
        let is_lost = |filter: &Filter, is_member| !rights.may_subscribe(filter, is_member);
        let mut subscriptions = peer.subscriptions.iter();
        let lost = subscriptions.find(|known| is_lost(&known.filter, known.group.is_some()));
        lost.map(|known| known.filter.as_str().to_owned())
    }

    fn who(&self, key: PeerKey, acl: &Acl) -> Who {
        let peer = &self.peers[key.0 as usize];
        let names = acl.listeners.get(&(peer.listener as usize));
        let proven = peer.proven.as_deref();
        Who {
            uid: peer.origin.uid,
            gid: peer.origin.gid,
            listener: names.and_then(|names| names.first().cloned()),
            token: proven.and_then(|proven| proven.token.as_deref()).map(str::to_owned),
            certificate: proven.and_then(|proven| proven.certificate.as_deref()).map(str::to_owned),
        }
    }
}

fn denied(what: &str) -> Failure {
    (Code::Denied, format!("this peer may not {what} (see [[acl]] in ipcd's configuration)"))
}
