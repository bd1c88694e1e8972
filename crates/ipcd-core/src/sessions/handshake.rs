//! The handshake: HELLO, a challenge and its proof, a name, WELCOME. It decides nothing about
//! rights.

use crate::config::RawPeer;
use crate::directory::messages::DirectoryRequest;
use crate::model::failure::Failure;
use crate::model::ids::PeerKey;
use crate::model::names::check_peer_name;
use crate::output::Output;
use crate::peers::peer::{ChallengedPeer, PendingName, SessionState};
use crate::sessions::Sessions;
use ipcd_proto::BadSubject;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::VERSION;
use ipcd_proto::auth::Nonce;
use ipcd_proto::auth::Proof;
use ipcd_proto::control::Auth;
use ipcd_proto::control::BadBody;
use ipcd_proto::control::Challenge;
use ipcd_proto::control::Hello;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::Welcome;
use ipcd_proto::control::decode;
use ipcd_proto::control::encode;
use std::time::Instant;

impl Sessions {
    pub(crate) fn hello(&mut self, now: Instant, key: PeerKey, body: &[u8]) -> Result<(), Failure> {
        let hello: Hello = decode(body).map_err(malformed)?;
        if hello.magic != Hello::MAGIC {
            return Err((
                RefusalCode::Protocol,
                "the first frame is not of the ipcd protocol".into(),
            ));
        }
        if !(hello.oldest..=hello.newest).contains(&VERSION) {
            let why = format!("no common version: this daemon speaks {VERSION}");
            return Err((RefusalCode::Version, why));
        }
        if let Some(name) = &hello.name {
            check_peer_name(name)?;
        }
        match &self.peers.table[key].state {
            SessionState::New { challenge: Some(nonce) } => {
                let nonce = **nonce;
                let body = encode(&Challenge { nonce });
                self.peers.table[key].state =
                    SessionState::Challenged(Box::new(ChallengedPeer { hello, nonce }));
                self.peers.send(now, key, Header::new(FrameKind::Challenge, 0), &body);
                Ok(())
            }
            _ => self.welcome(now, key, hello, None),
        }
    }

    pub(crate) fn auth(&mut self, now: Instant, key: PeerKey, body: &[u8]) -> Result<(), Failure> {
        let auth: Auth = decode(body).map_err(malformed)?;
        // The nonce is used up, no matter how this ends.
        let state = std::mem::replace(
            &mut self.peers.table[key].state,
            SessionState::New { challenge: None },
        );
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
            (RefusalCode::Denied, which)
        })?;
        self.welcome(now, key, hello, Some(proof))
    }

    /// Notes a proof that the peer has given before its session opens.
    pub(crate) fn note_proven(&mut self, key: PeerKey, name: &str) {
        let peer = &mut self.peers.table[key];
        peer.proven.get_or_insert_default().token = Some(name.into());
        if let SessionState::New { challenge } = &mut peer.state {
            *challenge = None;
        }
    }

    /// Returns the daemon's own proof, if the peer's proof is valid.
    fn prove(&self, hello: &Hello, nonce: &Nonce, proof: &Proof) -> Option<Proof> {
        let token = self.peers.config.tokens.find(hello.token.as_deref())?;
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
            self.peers.table[key].proven.get_or_insert_default().token = Some(token);
        }
        let Some(name) = hello.name.clone() else {
            self.open(now, key, hello, proof);
            return Ok(());
        };
        // Rules for names may depend on the token that was just proved.
        self.read_rights(key);
        let may = self.peers.check_right_to_name(key, &name);
        may.inspect_err(|(_, why)| self.peers.note_denied(key, why))?;
        let is_alone = self.peers.cluster.is_alone();
        // Without a directory this router keeps the names itself.
        let is_free = is_alone && self.names.insert(name.clone());
        self.peers.table[key].state = SessionState::Naming(Box::new(PendingName { hello, proof }));
        match is_alone {
            false => {
                let peer = self.peers.table[key].origin.peer;
                let claim =
                    DirectoryRequest::ClaimName { by: self.peers.requesting_peer(key), peer, name };
                self.peers.cluster.tell_directory(claim);
            }
            true => self.answer_name(now, key, is_free),
        }
        Ok(())
    }

    /// Continues with the answer to the request for a name.
    pub(crate) fn answer_name(&mut self, now: Instant, key: PeerKey, granted: bool) {
        let state = std::mem::replace(
            &mut self.peers.table[key].state,
            SessionState::New { challenge: None },
        );
        match state {
            SessionState::Naming(naming) if granted => {
                let PendingName { hello, proof } = *naming;
                self.open(now, key, hello, proof);
                // The rules may have changed while the supervisor was asked.
                self.end_without_right(now, key);
            }
            SessionState::Naming(naming) => {
                let name = naming.hello.name.unwrap_or_default();
                let why = format!("the name {} is taken", name.escape_debug());
                self.fail(now, key, RefusalCode::NameTaken, why);
            }
            // The session has ended while the supervisor was asked.
            other => self.peers.table[key].state = other,
        }
    }

    /// Whether the peer still waits for its name. Keys are used again, so the id decides.
    pub(crate) fn is_waiting_for_name(&self, key: PeerKey, peer: u64) -> bool {
        self.peers.table.get(key).is_some_and(|found| {
            found.origin.peer == peer && matches!(found.state, SessionState::Naming(_))
        })
    }

    pub(crate) fn release_name(&mut self, name: String) {
        match self.peers.cluster.is_alone() {
            true => drop(self.names.remove(&name)),
            false => self.peers.cluster.tell_directory(DirectoryRequest::ReleaseName(name)),
        }
    }

    fn open(&mut self, now: Instant, key: PeerKey, hello: Hello, proof: Option<Proof>) {
        let told = self.peers.config.max_payload as u32;
        let peer = &mut self.peers.table[key];
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
            server: self.peers.config.daemon.version.clone(),
            proof,
        };
        self.peers.send(now, key, Header::new(FrameKind::Welcome, 0), &encode(&welcome));
        self.read_rights(key);
        self.opened(key);
    }

    /// Opens the session of a raw peer. Its subscriptions count at once, without waiting for other
    /// workers, because the peer cannot receive an acknowledgement.
    pub(crate) fn open_raw(&mut self, key: PeerKey, raw: RawPeer) {
        let told = self.peers.config.max_payload as u32;
        let peer = &mut self.peers.table[key];
        (peer.no_echo, peer.is_raw, peer.told) = (!raw.echo, true, told);
        peer.is_mute = !raw.speaks;
        peer.largest = raw.largest.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        peer.state = SessionState::Open;
        peer.deadlines.state = None;
        self.read_rights(key);
        self.subscribe_raw(key, raw.filters);
        self.opened(key);
    }

    pub(crate) fn opened(&mut self, key: PeerKey) {
        self.peers.outputs.push_back(Output::Opened(key));
    }
}

pub(crate) fn bad_subject(error: BadSubject) -> Failure {
    (RefusalCode::BadSubject, error.to_string())
}

pub(crate) fn malformed(error: BadBody) -> Failure {
    (RefusalCode::Protocol, error.to_string())
}
