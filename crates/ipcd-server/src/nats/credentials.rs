//! The identity that a client claims. The router decides whether that is true; only a signature is checked
//! here.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ipcd_proto::nats::{ConnectOptions, Nkey};
use ring::signature::{ED25519, UnparsedPublicKey};

/// The credentials that a client has shown.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Credentials<'a> {
    /// Nothing.
    Nothing,
    /// A secret, in clear text: a named token, or the daemon's own.
    Secret {
        /// The name of the token.
        name: Option<&'a str>,
        /// The token.
        secret: &'a [u8],
    },
    /// A signature of the nonce.
    Signature {
        /// The public key.
        nkey: &'a str,
        /// The signature, in base64.
        signature: &'a str,
    },
    /// Something that the daemon knows nothing of.
    Unusable(&'static str),
}

impl<'a> Credentials<'a> {
    /// The credentials in a CONNECT.
    pub(super) fn of(options: &'a ConnectOptions) -> Self {
        let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
        match options {
            ConnectOptions { nkey: Some(nkey), .. } => {
                Self::Signature { nkey, signature: text(&options.sig) }
            }
            ConnectOptions { user: Some(user), .. } => {
                Self::Secret { name: Some(user), secret: text(&options.pass).as_bytes() }
            }
            ConnectOptions { auth_token: Some(token), .. } => {
                Self::Secret { name: None, secret: token.as_bytes() }
            }
            ConnectOptions { jwt: Some(_), .. } => {
                Self::Unusable("JSON web tokens are not supported: use an nkey, a user or a token")
            }
            ConnectOptions { pass: Some(_), .. } => Self::Unusable("a password needs a user"),
            _ => Self::Nothing,
        }
    }
}

/// The public key, if this is its signature of the nonce.
pub(crate) fn has_signed(nkey: &str, signature: &str, nonce: &str) -> Option<Nkey> {
    let key: Nkey = nkey.parse().ok()?;
    // Clients use one or the other alphabet, with padding or without.
    let signature = signature.trim_end_matches('=');
    let signature = BASE64_URL_SAFE_NO_PAD
        .decode(signature)
        .or_else(|_| BASE64_STANDARD.decode(format!("{signature}==")))
        .ok()?;
    let public = UnparsedPublicKey::new(&ED25519, key.as_bytes());
    public.verify(nonce.as_bytes(), &signature).is_ok().then_some(key)
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_nonce_only() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let other = Ed25519KeyPair::from_seed_unchecked(&[4; 32]).unwrap();
        let public = |pair: &Ed25519KeyPair| {
            let bytes: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
            Nkey::from_bytes(bytes).to_string()
        };
        let bytes = pair.sign(b"nonce");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(bytes.as_ref());
        assert!(has_signed(&public(&pair), &signature, "nonce").is_some());
        assert!(
            has_signed(&public(&pair), &BASE64_STANDARD.encode(bytes.as_ref()), "nonce").is_some()
        );
        assert!(has_signed(&public(&pair), &signature, "other").is_none());
        assert!(has_signed(&public(&other), &signature, "nonce").is_none());
        assert!(has_signed("U", &signature, "nonce").is_none());
        assert!(has_signed(&public(&pair), "?", "nonce").is_none());
    }

    #[test]
    fn the_strongest_proof_counts() {
        let mut options = ConnectOptions::default();
        assert_eq!(Credentials::of(&options), Credentials::Nothing);
        assert!(options.update(br#"{"auth_token":"t"}"#));
        assert_eq!(Credentials::of(&options), Credentials::Secret { name: None, secret: b"t" });
        assert!(options.update(br#"{"user":"ann","pass":"p"}"#));
        let named = Credentials::Secret { name: Some("ann"), secret: b"p" };
        assert_eq!(Credentials::of(&options), named);
        assert!(options.update(br#"{"nkey":"U","sig":"s"}"#));
        let signed = Credentials::Signature { nkey: "U", signature: "s" };
        assert_eq!(Credentials::of(&options), signed);
        let mut web = ConnectOptions::default();
        assert!(web.update(br#"{"jwt":"j","sig":"s"}"#));
        assert!(matches!(Credentials::of(&web), Credentials::Unusable(_)));
    }
}
