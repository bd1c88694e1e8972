//! Sessions: the handshake, and what a peer asks for besides sending messages.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Instant;

use crate::core::{Output, Router};
use crate::directory::messages::DirectoryRequest;
use crate::directory::violation::{MAX_INTERESTS, MAX_QUESTIONS};
use crate::model::config::RawPeer;
use crate::model::ids::PeerKey;
use crate::model::names::{check_name, check_peer_name};
use crate::peer::{ChallengedPeer, PendingName, SessionState, Subscription};
use crate::routing::trie::{LocalSubscriber, QueueGroup};
use ipcd_proto::auth::{Nonce, Proof};
use ipcd_proto::control::{
    Answer, Auth, BadBody, Challenge, Code, Hello, Overflow, Query, Subscribe, Unsubscribe,
    Welcome, decode, encode,
};
use ipcd_proto::limits::MAX_NAME;
use ipcd_proto::{BadSubject, Filter, Frame, Header, Kind, Subject, VERSION};

/// What is refused, or ends the session, and why.
pub(crate) type Failure = (Code, String);

impl Router {
    /// Handles any frame but a message.
    pub(crate) fn control(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) {
        let kind = frame.header.kind;
        let outcome = match (&self.peer(key).state, kind) {
            (SessionState::Open, _) => self.command(now, key, frame),
            (SessionState::New { .. }, Kind::Hello) => self.hello(now, key, frame.payload),
            (SessionState::Challenged(_), Kind::Auth) => self.auth(now, key, frame.payload),
            (_, Kind::Bye) => {
                self.close(now, key, "it said goodbye".into());
                Ok(())
            }
            (_, Kind::Ping) => {
                self.send(now, key, Header::new(Kind::Pong, frame.header.correlation), &[]);
                Ok(())
            }
            _ => Err((Code::Protocol, format!("{kind:?} is not expected now"))),
        };
        if let Err((code, why)) = outcome {
            self.fail(now, key, code, why);
        }
    }

    fn command(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) -> Result<(), Failure> {
        let correlation = frame.header.correlation;
        match frame.header.kind {
            Kind::Subscribe => return self.subscribe(now, key, frame),
            Kind::Unsubscribe => return self.unsubscribe(now, key, frame),
            Kind::Query => return self.query(now, key, frame),
            Kind::Flush => self.send(now, key, Header::new(Kind::Ack, correlation), &[]),
            Kind::Ping => self.send(now, key, Header::new(Kind::Pong, correlation), &[]),
            Kind::Pong => {}
            Kind::Bye => self.close(now, key, "it said goodbye".into()),
            kind => return Err((Code::Protocol, format!("{kind:?} is not for the daemon"))),
        }
        Ok(())
    }

    fn hello(&mut self, now: Instant, key: PeerKey, body: &[u8]) -> Result<(), Failure> {
        let hello: Hello = decode(body).map_err(malformed)?;
        if hello.magic != Hello::MAGIC {
            return Err((Code::Protocol, "this is not the protocol of ipcd".into()));
        }
        if !(hello.oldest..=hello.newest).contains(&VERSION) {
            let why = format!("no common version: this daemon speaks {VERSION}");
            return Err((Code::Version, why));
        }
        if let Some(name) = &hello.name {
            check_peer_name(name)?;
        }
        match &self.peer(key).state {
            SessionState::New { challenge: Some(nonce) } => {
                let nonce = **nonce;
                let body = encode(&Challenge { nonce });
                self.peer(key).state =
                    SessionState::Challenged(Box::new(ChallengedPeer { hello, nonce }));
                self.send(now, key, Header::new(Kind::Challenge, 0), &body);
                Ok(())
            }
            _ => self.welcome(now, key, hello, None),
        }
    }

    fn auth(&mut self, now: Instant, key: PeerKey, body: &[u8]) -> Result<(), Failure> {
        let auth: Auth = decode(body).map_err(malformed)?;
        let state =
            std::mem::replace(&mut self.peer(key).state, SessionState::New { challenge: None });
        let SessionState::Challenged(challenged) = state else {
            unreachable!("the caller has matched the state");
        };
        let ChallengedPeer { hello, nonce } = *challenged;
        let proof = self.prove(&hello, &nonce, &auth.proof);
        let proof = proof.ok_or_else(|| {
            let which = match &hello.token {
                None => "the token is wrong".into(),
                Some(name) => format!("the token {} is wrong or unknown", name.escape_debug()),
            };
            (Code::Denied, which)
        })?;
        self.welcome(now, key, hello, Some(proof))
    }

    /// The daemon's proof in return for the peer's, if that is good.
    fn prove(&self, hello: &Hello, nonce: &Nonce, proof: &Proof) -> Option<Proof> {
        let token = self.config.tokens.find(hello.token.as_deref())?;
        let good = token.verify_peer(proof, &hello.nonce, nonce);
        good.then(|| token.daemon_proof(&hello.nonce, nonce))
    }

    fn welcome(
        &mut self,
        now: Instant,
        key: PeerKey,
        hello: Hello,
        proof: Option<Proof>,
    ) -> Result<(), Failure> {
        if proof.is_some() {
            let token = hello.token.clone().unwrap_or_default().into();
            self.peer(key).proven.get_or_insert_default().token = Some(token);
        }
        let Some(name) = hello.name.clone() else {
            self.open(now, key, hello, proof);
            return Ok(());
        };
        self.read_rights(key);
        self.check_right_to_name(key, &name).inspect_err(|(_, why)| self.note_denied(key, why))?;
        let is_shared = self.cluster.is_some();
        let is_free = !is_shared && self.names.insert(name.clone());
        self.peer(key).state = SessionState::Naming(Box::new(PendingName { hello, proof }));
        match is_shared {
            true => {
                let peer = self.peer(key).origin.peer;
                let claim = DirectoryRequest::ClaimName { by: self.principal(key), peer, name };
                self.outputs.push_back(Output::Tell(claim));
            }
            false => self.named(now, key, is_free),
        }
        Ok(())
    }

    /// Whether the peer may have the name that it asked for.
    pub(crate) fn named(&mut self, now: Instant, key: PeerKey, granted: bool) {
        let state =
            std::mem::replace(&mut self.peer(key).state, SessionState::New { challenge: None });
        match state {
            SessionState::Naming(naming) if granted => {
                let PendingName { hello, proof } = *naming;
                self.open(now, key, hello, proof);
                // The rules may have changed while the name was asked for.
                self.end_without_right(now, key);
            }
            SessionState::Naming(naming) => {
                let name = naming.hello.name.unwrap_or_default();
                let why = format!("the name {} is taken", name.escape_debug());
                self.fail(now, key, Code::NameTaken, why);
            }
            other => self.peer(key).state = other,
        }
    }

    /// Whether the peer still waits for its name.
    pub(crate) fn is_waiting_for_name(&self, key: PeerKey, peer: u64) -> bool {
        self.peers.get(key.0 as usize).is_some_and(|found| {
            found.origin.peer == peer && matches!(found.state, SessionState::Naming(_))
        })
    }

    pub(crate) fn release_name(&mut self, name: String) {
        match self.cluster {
            Some(_) => self.outputs.push_back(Output::Tell(DirectoryRequest::ReleaseName(name))),
            None => drop(self.names.remove(&name)),
        }
    }

    fn open(&mut self, now: Instant, key: PeerKey, hello: Hello, proof: Option<Proof>) {
        let told = self.config.max_payload as u32;
        let peer = self.peer(key);
        peer.origin.name = hello.name;
        peer.no_echo = hello.no_echo;
        peer.state = SessionState::Open;
        peer.deadlines.state = None;
        peer.told = told;
        let welcome = Welcome {
            version: VERSION,
            features: 0,
            peer: peer.origin.peer,
            max_payload: told,
            server: self.config.daemon.version.clone(),
            proof,
        };
        self.send(now, key, Header::new(Kind::Welcome, 0), &encode(&welcome));
        self.read_rights(key);
        self.opened(key);
    }

    /// Opens the session of a peer that does not speak the protocol. Nobody waits for what it wants
    /// to be known everywhere: it cannot be told.
    pub(crate) fn open_bare(&mut self, key: PeerKey, bare: RawPeer) {
        let told = self.config.max_payload as u32;
        let peer = self.peer(key);
        (peer.no_echo, peer.is_bare, peer.told) = (!bare.echo, true, told);
        peer.is_mute = !bare.speaks;
        peer.largest = bare.largest.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        peer.state = SessionState::Open;
        peer.deadlines.state = None;
        self.read_rights(key);
        self.hear_bare(key, bare.filters);
        self.opened(key);
    }

    /// Has a peer that does not speak the protocol hear something else from now on.
    pub fn redirect(&mut self, key: PeerKey, bare: RawPeer) {
        let peer = self.peer(key);
        if !peer.is_bare || !peer.is_open() {
            return;
        }
        peer.no_echo = !bare.echo;
        let filters = peer.subscriptions.iter().map(|subscription| &subscription.filter);
        if !filters.eq(&bare.filters) {
            self.forget_subscriptions(key);
            self.resume_waiters(key);
            self.hear_bare(key, bare.filters);
        }
    }

    fn hear_bare(&mut self, key: PeerKey, filters: Vec<Filter>) {
        for (filter, subscription) in filters.into_iter().zip(1..) {
            let (filter, group, overflow) = (filter.as_str().to_owned(), None, None);
            let body = Subscribe { subscription, filter, group, overflow, origin: false };
            // The filters are some, and their numbers differ. What of them the peer may not hear,
            // it does not get.
            let _ = self.add_subscription(key, body, 0);
        }
    }

    fn subscribe(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) -> Result<(), Failure> {
        let body: Subscribe = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        let most = self.config.max_subscriptions;
        if self.peer(key).subscriptions.len() >= most {
            let why = format!("a peer has at most {most} subscriptions");
            self.refuse(now, key, correlation, Code::Limit, why);
            return Ok(());
        }
        let may = self.check_right_to_subscribe(key, &body).and_then(|()| self.check_source(key));
        let fill = body.group.as_ref().and_then(|_| NonZeroU32::new(frame.header.subscription));
        let added = may.and_then(|()| self.add_subscription(key, body, correlation));
        if let Some(fill) = fill.filter(|_| added.is_ok()) {
            self.limit_groups(now, key, fill);
        }
        match added {
            Ok(true) => self.send(now, key, Header::new(Kind::Ack, correlation), &[]),
            // When all workers know of it.
            Ok(false) => {}
            Err((code, why)) => self.refuse(now, key, correlation, code, why),
        }
        Ok(())
    }

    /// Whether it may be acknowledged at once.
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
        if self.has_too_many_interests() {
            let why = format!("a worker has at most {MAX_INTERESTS} filters and groups");
            return Err((Code::Limit, why));
        }
        let peer = self.peer(key);
        let number = body.subscription;
        let Err(at) = peer.find(number) else {
            return Err((Code::Protocol, format!("subscription {number} exists already")));
        };
        if number == 0 {
            let why = "a subscription needs a number; 0 stands for messages to the peer alone";
            return Err((Code::Protocol, why.into()));
        }
        // A tap on everything below a subject must not be able to stop the bus.
        let default = if filter.has_tail() { Overflow::DropOldest } else { Overflow::Block };
        let overflow = self.allowed_overflow(key, &filter, body.overflow.unwrap_or(default));
        let group = body.group.map(|name| Rc::new(QueueGroup { filter: filter.clone(), name }));
        self.peer(key).wants_origins |= body.origin;
        let member = LocalSubscriber {
            peer: key,
            subscription: number,
            overflow,
            origin: body.origin,
            group: group.clone(),
        };
        self.interests.add(&filter, member);
        self.charge_subscription(key, true);
        self.births += 1;
        let birth = self.births;
        let subscription =
            Subscription { number, filter, overflow, group, birth, matched: 0, drops: None };
        let is_shared = subscription.group.is_some();
        let at_once = self.share(key, &subscription, correlation);
        self.peer(key).subscriptions.insert(at, subscription);
        if is_shared {
            self.resume_group_waiters();
        }
        Ok(at_once)
    }

    fn unsubscribe(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &Frame<'_>,
    ) -> Result<(), Failure> {
        let Unsubscribe { subscription } = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        match self.peer(key).find(subscription) {
            Ok(at) => {
                let mut gone = self.peer(key).subscriptions.remove(at);
                let was_full = self.peer(key).full;
                self.forget(key, &gone, was_full);
                self.resume_waiters(key);
                self.tell_gaps(now, key, gone.take_gaps());
                self.send(now, key, Header::new(Kind::Ack, correlation), &[]);
            }
            Err(_) => {
                let why = format!("there is no subscription {subscription}");
                self.refuse(now, key, correlation, Code::Protocol, why);
            }
        }
        Ok(())
    }

    /// Whether the question is one, and the peer may ask it.
    fn check_query(&self, key: PeerKey, query: &Query) -> Result<(), Failure> {
        match query {
            Query::Matching(subject) => {
                Subject::parse(subject.as_bytes()).map_err(bad_subject)?;
            }
            Query::Access { who, access } => {
                self.config.acl.verdict(who, access).map_err(bad_subject)?;
            }
            _ => {}
        }
        self.check_right_to_ask(key, query)?;
        if self.has_too_many_questions() {
            let why = format!("a worker has at most {MAX_QUESTIONS} questions open");
            return Err((Code::Limit, why));
        }
        Ok(())
    }

    fn query(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) -> Result<(), Failure> {
        let query: Query = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        match self.check_query(key, &query) {
            // Nobody has such a name.
            Ok(()) if matches!(&query, Query::Find(who) if who.len() > MAX_NAME) => {
                self.answer(now, key, correlation, false, &Answer::Found(None));
            }
            Ok(()) => self.ask(now, key, correlation, query),
            Err((code, why)) => self.refuse(now, key, correlation, code, why),
        }
        Ok(())
    }
}

fn bad_subject(error: BadSubject) -> Failure {
    (Code::BadSubject, error.to_string())
}

fn malformed(error: BadBody) -> Failure {
    (Code::Protocol, error.to_string())
}
