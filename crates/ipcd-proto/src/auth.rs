//! Proof that both sides hold a token, without sending it (HMAC-SHA256, RFC 2104).
//!
//! The peer proves `HMAC(token, "ipcd peer" || peer's nonce || daemon's nonce)` and the daemon
//! `HMAC(token, "ipcd daemon" || peer's nonce || daemon's nonce)`. The labels end in a NUL. Nonces are
//! random and used once, so that a proof cannot be replayed in another session. The labels differ, so
//! that it cannot be reflected to its sender.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of a nonce and of a proof.
pub const PROOF_BYTES: usize = 32;

/// A random number that is used in one handshake only.
pub type Nonce = [u8; PROOF_BYTES];

/// An HMAC-SHA256 code.
pub type Proof = [u8; PROOF_BYTES];

/// A secret that the daemon shares with some of its peers. `Debug` does not show it.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Bytes of the shortest token that is accepted.
    pub const SHORTEST: usize = 16;

    /// Takes the token from the text of a file, without ASCII white space at both ends. `None` if it
    /// has fewer than [`Token::SHORTEST`] bytes.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let secret = text.trim_ascii();
        (secret.len() >= Self::SHORTEST).then(|| Self(secret.into()))
    }

    /// Whether a peer that does not speak our protocol has shown this very token. Takes as long for
    /// any other token of the same length.
    pub fn is_shown(&self, shown: &[u8]) -> bool {
        const NONE: Nonce = [0; PROOF_BYTES];
        // White space around it would be another secret for other servers.
        let shown = Some(shown).filter(|shown| shown.trim_ascii() == *shown);
        let proof = shown.and_then(Self::from_text).map(|shown| shown.peer_proof(&NONE, &NONE));
        proof.is_some_and(|proof| self.verify_peer(&proof, &NONE, &NONE))
    }

    /// The proof that a peer sends in AUTH.
    pub fn peer_proof(&self, peer: &Nonce, daemon: &Nonce) -> Proof {
        self.mac(b"ipcd peer\0", peer, daemon).finalize().into_bytes().into()
    }

    /// The proof that the daemon sends in WELCOME.
    pub fn daemon_proof(&self, peer: &Nonce, daemon: &Nonce) -> Proof {
        self.mac(b"ipcd daemon\0", peer, daemon).finalize().into_bytes().into()
    }

    /// Checks a peer's proof in constant time: the time of a plain comparison would reveal how many
    /// leading bytes are right.
    pub fn verify_peer(&self, proof: &Proof, peer: &Nonce, daemon: &Nonce) -> bool {
        self.mac(b"ipcd peer\0", peer, daemon).verify_slice(proof).is_ok()
    }

    /// Checks the daemon's proof in constant time.
    pub fn verify_daemon(&self, proof: &Proof, peer: &Nonce, daemon: &Nonce) -> bool {
        self.mac(b"ipcd daemon\0", peer, daemon).verify_slice(proof).is_ok()
    }

    fn mac(&self, label: &[u8], peer: &Nonce, daemon: &Nonce) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.chain_update(label).chain_update(peer).chain_update(daemon)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_token_nonces_and_direction_only() {
        let token = Token::from_text(b" 0123456789abcdef\n").unwrap();
        let other = Token::from_text(b"0123456789abcdeX").unwrap();
        assert!(token.is_shown(b"0123456789abcdef") && !other.is_shown(b"0123456789abcdef"));
        assert!(
            !token.is_shown(b"0123456789abcde")
                && !token.is_shown(b"0123456789abcdef ")
                && !token.is_shown(b"")
        );
        let (peer, daemon) = ([1; 32], [2; 32]);
        let proof = token.peer_proof(&peer, &daemon);
        assert!(token.verify_peer(&proof, &peer, &daemon));
        assert!(!other.verify_peer(&proof, &peer, &daemon));
        assert!(!token.verify_peer(&proof, &daemon, &peer));
        assert!(!token.verify_daemon(&proof, &peer, &daemon));
        assert!(token.verify_daemon(&token.daemon_proof(&peer, &daemon), &peer, &daemon));
        assert_eq!(Token::from_text(b"short"), None);
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
