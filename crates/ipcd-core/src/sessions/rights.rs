//! Rights of open sessions, and the effect of new rules on them.

use crate::acl::Acl;
use crate::acl::rights::PeerRights;
use crate::config::TokenSet;
use crate::model::ids::PeerKey;
use crate::peers::peer::SessionState;
use crate::peers::rights::denied;
use crate::sessions::Sessions;
use foldhash::fast::RandomState;
use ipcd_proto::control::RefusalCode;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

/// The rights for each set of rules. Peers with the same rules share one entry.
#[derive(Debug, Default)]
pub(crate) struct RightsCache {
    known: HashMap<Box<[usize]>, Option<Rc<PeerRights>>, RandomState>,
}

impl Sessions {
    /// Determines the rights of a peer whose session opens.
    pub(crate) fn read_rights(&mut self, key: PeerKey) {
        let acl = &self.peers.config.acl;
        if acl.rules.is_empty() {
            self.peers.table[key].rights = None;
            return;
        }
        let concerning = acl.concerning(&self.peers.who(key, acl));
        let known = self.rights_cache.known.entry(concerning);
        let rights = known.or_insert_with_key(|rules| acl.rights(rules).map(Rc::new));
        self.peers.table[key].rights = rights.clone();
    }

    /// Applies new rules to the attached peers. A session ends if the rules now refuse its name or
    /// a subscription. Other sessions keep the part of their rights that is left.
    pub(crate) fn recheck_rights(&mut self, now: Instant, before: &Acl) {
        self.peers.keep_names(before);
        self.rights_cache.known.clear();
        // Remembered routes contain the receivers by their former rights.
        self.index.touch();
        let open: Vec<_> =
            self.peers.keys().into_iter().filter(|key| self.peers.table[*key].is_open()).collect();
        for key in open {
            self.read_rights(key);
            if !self.end_without_right(now, key) {
                self.stop_blocking(key);
            }
        }
    }

    /// Ends a session that uses a right which it has lost.
    pub(crate) fn end_without_right(&mut self, now: Instant, key: PeerKey) -> bool {
        let Some(what) = self.peers.lost_right(key) else { return false };
        let (_, why) = denied(&format!("{what} any more"));
        self.peers.note_denied(key, &why);
        self.fail(now, key, RefusalCode::Denied, why);
        true
    }

    /// Ends the sessions of peers whose proved token has changed or is gone: a holder of the old
    /// token must not stay. A peer that has not sent its proof yet fails when it does.
    pub(crate) fn revoke(&mut self, now: Instant, before: &TokenSet) {
        for key in self.peers.keys() {
            let peer = &self.peers.table[key];
            let proved = match &peer.state {
                SessionState::Open | SessionState::Naming(_) => peer.proven.as_ref(),
                SessionState::New { .. }
                | SessionState::Challenged(_)
                | SessionState::Closing
                | SessionState::Gone => None,
            };
            let Some(token) = proved.and_then(|proven| proven.token.as_deref()) else { continue };
            let name = Some(token).filter(|name| !name.is_empty());
            if !before.is_unchanged(&self.peers.config.tokens, name) {
                let which = name.map_or("the daemon's token".into(), |name| {
                    format!("the token {}", name.escape_debug())
                });
                let why = format!("{which} was revoked or changed after this peer had proved it");
                self.peers.note_denied(key, &why);
                self.fail(now, key, RefusalCode::Denied, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::auth::Token;
    use ipcd_proto::control::{Auth, Challenge, Hello, Origin, Refusal, decode as body, encode};
    use ipcd_proto::{DecodedFrame, FrameKind, FrameWriter, Header, decode};

    use super::*;
    use crate::config::{Config, DaemonInfo, PeerInfo};
    use crate::router::Router;

    fn secret(text: &str) -> Token {
        Token::from_text(text.repeat(16).as_bytes()).expect("it is long enough")
    }

    /// Opens a session with this token.
    fn prove(core: &mut Router, now: Instant, name: Option<&str>, token: &Token) -> PeerKey {
        let (uid, transport) = (None, "test".into());
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: Some([7; 32]), raw: None };
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
        FrameWriter(&mut said).control(Header::new(FrameKind::Hello, 0), &encode(&hello));
        let _ = core.receive(now, key, &mut said);
        let heard = last(core, now, key);
        let challenge: Challenge = body(&heard).expect("a challenge");
        let auth = Auth { proof: token.peer_proof(&nonce, &challenge.nonce) };
        said.clear();
        FrameWriter(&mut said).control(Header::new(FrameKind::Auth, 0), &encode(&auth));
        let _ = core.receive(now, key, &mut said);
        last(core, now, key);
        assert!(core.delivery.sessions.peers.table[key].is_open());
        key
    }

    /// Returns the body of the last frame before BYE that a peer has received.
    fn last(core: &mut Router, now: Instant, key: PeerKey) -> Vec<u8> {
        let bytes = core.send_queue(key).to_vec();
        core.wrote(now, key, bytes.len());
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            if frame.header.kind != FrameKind::Bye {
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
        let is_open = |core: &mut Router, key| core.delivery.sessions.peers.table[key].is_open();
        assert!(is_open(&mut core, own) && is_open(&mut core, same));
        for (key, name) in [(gone, "the token gone"), (other, "the token other")] {
            assert!(!is_open(&mut core, key));
            let refusal: Refusal = body(&last(&mut core, now, key)).expect("a refusal");
            assert!(
                refusal.code == RefusalCode::Denied && refusal.message.contains(name),
                "{refusal:?}"
            );
        }
        core.configure(now, |config| config.tokens.own = Some(secret("renewed")));
        assert!(!is_open(&mut core, own) && is_open(&mut core, same));
    }
}
