//! The one place that is asked what a peer may do: when it publishes, subscribes or asks, and when
//! the route of a subject is made, whoever publishes there and however its message came here.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use crate::acl::Acl;
use crate::acl::rights::PeerRights;
use crate::core::{Output, Router};
use crate::directory::messages::RequestingPeer;
use crate::model::config::TokenSet;
use crate::model::ids::PeerKey;
use crate::peer::SessionState;
use crate::session::Failure;
use foldhash::fast::RandomState;
use ipcd_proto::control::{Code, Overflow, Query, Subscribe, Who};
use ipcd_proto::{Address, Filter, Subject};

/// The rights that peers have, by the rules that concern them: those of one kind share theirs.
#[derive(Debug, Default)]
pub(crate) struct RightsCache {
    known: HashMap<Box<[usize]>, Option<Rc<PeerRights>>, RandomState>,
}

impl Router {
    /// Whether a peer may hear messages on this subject.
    pub(crate) fn may_hear(&self, key: PeerKey, subject: Subject<'_>) -> bool {
        let rights = &self.peers[key.0 as usize].rights;
        rights.as_ref().is_none_or(|rights| rights.may_hear(subject))
    }

    /// Whether what a peer sends to that address is delivered: an answer only if the peer has the
    /// request and has not answered it, whatever it may publish. The numbers of requests can be
    /// guessed. That it was not asked, or not lately, cannot be told from an answer that is late.
    pub(crate) fn may_write_to(&self, key: PeerKey, to: Address) -> bool {
        let Some(request) = to.request else { return true };
        let calls = self.peers[key.0 as usize].calls.as_ref();
        calls.is_some_and(|calls| calls.unanswered.contains_key(&(to.peer, request)))
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
        rights.may_ask(query).map_err(denied)
    }

    /// Whether a peer may have the name that it asks for. Its rights have been read.
    pub(crate) fn check_right_to_name(&self, key: PeerKey, name: &str) -> Result<(), Failure> {
        let rights = self.peers[key.0 as usize].rights.as_ref();
        match rights.is_none_or(|rights| rights.may_be_named(name)) {
            true => Ok(()),
            false => Err(denied(&format!("be called {}", name.escape_debug()))),
        }
    }

    /// The transport has found out who the peer is, by a certificate of this name and before anything
    /// was heard of it: it need not prove a token. True if the session is open already, as that of
    /// one is that does not speak the protocol, and the peer may do something else now.
    pub fn vouch(&mut self, key: PeerKey, name: &str) -> bool {
        let peer = self.peer(key);
        peer.proven.get_or_insert_default().certificate = Some(name.into());
        if let SessionState::New { challenge } = &mut peer.state {
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

    /// Puts other rules in force for the peers that are here. A session ends if it has a name or a
    /// subscription that would be refused now; of the others each gets what is left to it.
    pub(crate) fn recheck(&mut self, now: Instant, before: &Acl) {
        self.keep_names(before);
        self.permissions.known.clear();
        self.interests.touch();
        let open: Vec<_> =
            self.keys().into_iter().filter(|key| self.peer(*key).is_open()).collect();
        for key in open {
            self.read_rights(key);
            if !self.end_without_right(now, key) {
                self.hold_back(key);
            }
        }
    }

    /// Ends a session that has something which would be refused now.
    pub(crate) fn end_without_right(&mut self, now: Instant, key: PeerKey) -> bool {
        let Some(what) = self.lost_right(key) else { return false };
        let (_, why) = denied(&format!("{what} any more"));
        self.note_denied(key, &why);
        self.fail(now, key, Code::Denied, why);
        true
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

    /// What the peer has and would be refused now: its name, or a subscription. What a bare one hears
    /// was not asked for by itself, and is never refused.
    fn lost_right(&self, key: PeerKey) -> Option<String> {
        let peer = &self.peers[key.0 as usize];
        let rights = peer.rights.as_ref().filter(|_| !peer.is_bare)?;
        if let Some(name) = peer.origin.name.as_ref().filter(|name| !rights.may_be_named(name)) {
            return Some(format!("be called {}", name.escape_debug()));
        }
        let is_lost = |filter: &Filter, is_member| !rights.may_subscribe(filter, is_member);
        let mut subscriptions = peer.subscriptions.iter();
        let lost = subscriptions.find(|known| is_lost(&known.filter, known.group.is_some()));
        lost.map(|known| format!("subscribe to {}", known.filter.as_str()))
    }

    /// Ends the sessions of peers that have proved a token which is not what it was: whoever holds the
    /// old one could come in no more. A peer that has not sent its proof yet is told when it does.
    pub(crate) fn revoke(&mut self, now: Instant, before: &TokenSet) {
        for key in self.keys() {
            let peer = &self.peers[key.0 as usize];
            let proved = match &peer.state {
                SessionState::Open | SessionState::Naming(_) => peer.proven.as_ref(),
                SessionState::New { .. }
                | SessionState::Challenged(_)
                | SessionState::Closing
                | SessionState::Gone => None,
            };
            let Some(token) = proved.and_then(|proven| proven.token.as_deref()) else { continue };
            let name = Some(token).filter(|name| !name.is_empty());
            if before.find(name) != self.config.tokens.find(name) {
                let which = name.map_or("the daemon's token".into(), |name| {
                    format!("the token {}", name.escape_debug())
                });
                let why = format!("{which} was revoked or changed: it was proved at the start");
                self.note_denied(key, &why);
                self.fail(now, key, Code::Denied, why);
            }
        }
    }

    /// Ends the sessions of a listener's peers that are known by a certificate, or may be about to be:
    /// it does not trust all any more that it did.
    pub fn distrust(&mut self, now: Instant, listener: usize, may_return: bool) {
        for key in self.keys() {
            let peer = &self.peers[key.0 as usize];
            let is_known = peer.proven.as_ref().is_some_and(|proven| proven.certificate.is_some());
            if peer.listener as usize == listener && (is_known || !peer.is_open()) {
                let why = "who signs certificates here was revoked or changed (ca=)";
                let code = if may_return { Code::Ending } else { Code::Denied };
                self.note_denied(key, why);
                self.fail(now, key, code, why);
            }
        }
    }

    /// For whom the supervisor is asked something, and what of that only this router can know.
    pub(crate) fn principal(&self, key: PeerKey) -> RequestingPeer {
        let proven = self.peers[key.0 as usize].proven.as_deref();
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        RequestingPeer {
            key,
            token: proven.and_then(|proven| text(&proven.token)),
            certificate: proven.and_then(|proven| text(&proven.certificate)),
        }
    }

    fn who(&self, key: PeerKey, acl: &Acl) -> Who {
        let peer = &self.peers[key.0 as usize];
        let names = acl.listeners.get(&(peer.listener as usize));
        let RequestingPeer { token, certificate, .. } = self.principal(key);
        let listener = names.and_then(|names| names.first().cloned());
        Who { uid: peer.origin.uid, gid: peer.origin.gid, listener, token, certificate }
    }
}

pub(crate) fn denied(what: &str) -> Failure {
    (Code::Denied, format!("this peer may not {what} (see [[acl]] in ipcd's configuration)"))
}

#[cfg(test)]
mod tests {
    use ipcd_proto::auth::Token;
    use ipcd_proto::control::{Auth, Challenge, Hello, Origin, Refusal, decode as body, encode};
    use ipcd_proto::{Decoded, FrameWriter, Header, Kind, decode};

    use super::*;
    use crate::model::config::{Config, DaemonInfo, PeerInfo};

    fn secret(text: &str) -> Token {
        Token::from_text(text.repeat(16).as_bytes()).expect("it is long enough")
    }

    /// A session that was opened with this token.
    fn prove(core: &mut Router, now: Instant, name: Option<&str>, token: &Token) -> PeerKey {
        let (uid, transport) = (None, "test".into());
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: Some([7; 32]), bare: None };
        let key = core.attach(now, info);
        let (magic, nonce, token_name) = (Hello::MAGIC, [3; 32], name.map(str::to_owned));
        let (oldest, newest, features, no_echo) = (1, 1, 0, false);
        let hello = Hello {
            magic,
            oldest,
            newest,
            features,
            nonce,
            name: None,
            token: token_name,
            no_echo,
        };
        let mut said = Vec::new();
        FrameWriter(&mut said).control(Header::new(Kind::Hello, 0), &encode(&hello));
        let _ = core.receive(now, key, &mut said);
        let heard = last(core, now, key);
        let challenge: Challenge = body(&heard).expect("a challenge");
        let auth = Auth { proof: token.peer_proof(&nonce, &challenge.nonce) };
        said.clear();
        FrameWriter(&mut said).control(Header::new(Kind::Auth, 0), &encode(&auth));
        let _ = core.receive(now, key, &mut said);
        last(core, now, key);
        assert!(core.peer(key).is_open());
        key
    }

    /// The body of the last frame but BYE that a peer has got.
    fn last(core: &mut Router, now: Instant, key: PeerKey) -> Vec<u8> {
        let bytes = core.outbox(key).to_vec();
        core.wrote(now, key, bytes.len());
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
            if frame.header.kind != Kind::Bye {
                found = frame.payload.to_vec();
            }
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn sessions_end_with_the_token_that_they_have_proved() {
        let now = Instant::now();
        let mut config = Config::new(DaemonInfo::unknown(now));
        config.tokens.own = Some(secret("own"));
        for name in ["gone", "other", "same"] {
            config.tokens.named.insert(name.into(), secret(name));
        }
        let mut core = Router::new(config, None);
        let own = prove(&mut core, now, None, &secret("own"));
        let [gone, other, same] =
            ["gone", "other", "same"].map(|name| prove(&mut core, now, Some(name), &secret(name)));
        core.configure(now, |config| {
            config.tokens.named.remove("gone");
            config.tokens.named.insert("other".into(), secret("another"));
            config.tokens.named.insert("new".into(), secret("new"));
        });
        let is_open = |core: &mut Router, key| core.peer(key).is_open();
        assert!(is_open(&mut core, own) && is_open(&mut core, same));
        for (key, name) in [(gone, "the token gone"), (other, "the token other")] {
            assert!(!is_open(&mut core, key));
            let refusal: Refusal = body(&last(&mut core, now, key)).expect("a refusal");
            assert!(refusal.code == Code::Denied && refusal.message.contains(name), "{refusal:?}");
        }
        core.configure(now, |config| config.tokens.own = Some(secret("renewed")));
        assert!(!is_open(&mut core, own) && is_open(&mut core, same));
    }
}
