//! Proof that both sides hold a token, without sending it (HMAC-SHA256, RFC 2104).
//!
//! The peer proves `HMAC(token, "ipcd peer" || peer's nonce || daemon's nonce)` and the daemon
//! `HMAC(token, "ipcd daemon" || peer's nonce || daemon's nonce)`; labels end in a NUL. Nonces are
//! random and used once, so that a proof is of no use in another session or direction.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of a nonce and of a proof.
pub const PROOF_BYTES: usize = 32;

/// A random number that is used once.
pub type Nonce = [u8; PROOF_BYTES];

/// A HMAC-SHA256 code.
pub type Proof = [u8; PROOF_BYTES];

/// A shared secret.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Bytes of the shortest token that is accepted.
    pub const SHORTEST: usize = 16;

    /// The token in a file's text: what is left without white space at both ends. `None` if that
    /// is too short to keep anything safe.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let secret = text.trim_ascii();
        (secret.len() >= Self::SHORTEST).then(|| Self(secret.into()))
    }

    /// What the peer sends in AUTH.
    pub fn peer_proof(&self, peer: &Nonce, daemon: &Nonce) -> Proof {
        self.mac(b"ipcd peer\0", peer, daemon).finalize().into_bytes().into()
    }

    /// What the daemon sends in WELCOME.
    pub fn daemon_proof(&self, peer: &Nonce, daemon: &Nonce) -> Proof {
        self.mac(b"ipcd daemon\0", peer, daemon).finalize().into_bytes().into()
    }

    /// Checks a peer's proof, in a time that does not depend on where it differs.
    pub fn verify_peer(&self, proof: &Proof, peer: &Nonce, daemon: &Nonce) -> bool {
        self.mac(b"ipcd peer\0", peer, daemon).verify_slice(proof).is_ok()
    }

    /// Checks the daemon's proof, likewise.
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
