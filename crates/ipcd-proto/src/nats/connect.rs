//! The options of CONNECT.

use std::fmt;

use serde::Deserialize;

/// The options of a client, as the CONNECT operations so far have set them.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Whether each operation is answered with `+OK`.
    pub verbose: bool,
    /// Whether the client receives its own messages.
    pub echo: bool,
    /// Whether the client knows headers.
    pub headers: bool,
    /// Whether a request without subscribers is answered with status 503.
    pub no_responders: bool,
    /// The version of the client's protocol: 0 or 1.
    pub protocol: i64,
    /// A user name, which is the name of a token here.
    pub user: Option<String>,
    /// The secret of the user.
    pub pass: Option<String>,
    /// A secret without a name.
    pub auth_token: Option<String>,
    /// A public key.
    pub nkey: Option<String>,
    /// The signature of the nonce with that key, in base64.
    pub sig: Option<String>,
    /// A JSON web token, which is not supported.
    pub jwt: Option<String>,
}

impl Default for ConnectOptions {
    /// The options of a client that has not sent CONNECT, as in nats-server.
    fn default() -> Self {
        Self {
            verbose: true,
            echo: true,
            headers: false,
            no_responders: false,
            protocol: 0,
            user: None,
            pass: None,
            auth_token: None,
            nkey: None,
            sig: None,
            jwt: None,
        }
    }
}

/// The secrets must not get into a log.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The members of the JSON that matter here; a missing one changes nothing.
#[derive(Deserialize)]
struct ConnectText {
    verbose: Option<bool>,
    echo: Option<bool>,
    headers: Option<bool>,
    no_responders: Option<bool>,
    protocol: Option<i64>,
    user: Option<String>,
    pass: Option<String>,
    auth_token: Option<String>,
    nkey: Option<String>,
    sig: Option<String>,
    jwt: Option<String>,
}

impl ConnectOptions {
    /// Changes the options as the JSON of a CONNECT says. False if it is not the JSON of one.
    #[must_use]
    pub fn update(&mut self, json: &[u8]) -> bool {
        let Ok(text) = serde_json::from_slice::<ConnectText>(json) else { return false };
        self.verbose = text.verbose.unwrap_or(self.verbose);
        self.echo = text.echo.unwrap_or(self.echo);
        self.headers = text.headers.unwrap_or(self.headers);
        self.no_responders = text.no_responders.unwrap_or(self.no_responders);
        self.protocol = text.protocol.unwrap_or(self.protocol);
        for (ours, theirs) in [
            (&mut self.user, text.user),
            (&mut self.pass, text.pass),
            (&mut self.auth_token, text.auth_token),
            (&mut self.nkey, text.nkey),
            (&mut self.sig, text.sig),
            (&mut self.jwt, text.jwt),
        ] {
            // Some clients send empty texts for what they do not have.
            if let Some(text) = theirs {
                *ours = Some(text).filter(|text| !text.is_empty());
            }
        }
        true
    }

    /// Forgets the secrets once they have been checked.
    pub fn forget_secrets(&mut self) {
        (self.pass, self.auth_token, self.sig, self.jwt) = (None, None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_changes_what_it_names() {
        let mut options = ConnectOptions::default();
        assert!(options.verbose && options.echo && !options.headers);
        let json = br#"{"verbose":false,"headers":true,"user":"ann","pass":"","extra":[1]}"#;
        assert!(options.update(json));
        assert!(!options.verbose && options.headers && options.echo);
        assert_eq!((options.user.as_deref(), options.pass.as_deref()), (Some("ann"), None));
        assert!(options.update(br#"{"echo":false}"#) && !options.echo && !options.verbose);
        for bad in [&b""[..], b"{", b"[]", b"{} x", br#"{"verbose":1}"#, b"\xff"] {
            assert!(!options.update(bad), "{}", bad.escape_ascii());
        }
        options.forget_secrets();
        assert!(!format!("{options:?}").contains("pass"));
    }
}
