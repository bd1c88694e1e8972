//! The options of a listener for NATS clients.

use std::str::FromStr;

use ipcd_proto::control::OverflowPolicy;
use ipcd_transport::{Endpoint, Transport};
use serde::{Deserialize, Serialize};

use crate::config::word;
use crate::listen::flag;

/// The options that are in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NatsProfile {
    /// Whether only peers that have shown who they are come in.
    pub auth: AuthMode,
    /// The treatment of clients that do not read fast enough.
    pub slow: SlowClients,
    /// Whether TLS begins before INFO.
    pub handshake_first: bool,
    /// Other addresses that clients are told, for when this one cannot be reached.
    pub connect_urls: Vec<String>,
    /// Whether secrets are taken that others on the network can read.
    pub takes_open_secrets: bool,
}

/// Whether peers have to show who they are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// They may.
    #[default]
    Optional,
    /// They must.
    Required,
}

/// The treatment of clients that do not read fast enough.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowClients {
    /// They are disconnected, as by nats-server.
    #[default]
    Disconnect,
    /// Publishers wait for them.
    Block,
    /// Their oldest messages are dropped.
    Drop,
}

impl SlowClients {
    /// The overflow of their subscriptions.
    pub(crate) fn overflow(self) -> OverflowPolicy {
        match self {
            // Publishers wait for a moment, so that a client which reads is not cut off.
            Self::Disconnect | Self::Block => OverflowPolicy::Block,
            Self::Drop => OverflowPolicy::DropOldest,
        }
    }
}

impl FromStr for AuthMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text)
    }
}

impl FromStr for SlowClients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text)
    }
}

/// The options as they are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct NatsProfileText {
    pub(crate) auth: Option<AuthMode>,
    pub(crate) slow: Option<SlowClients>,
    pub(crate) handshake_first: Option<bool>,
    pub(crate) connect_urls: Option<String>,
}

impl NatsProfileText {
    /// Takes the options off the endpoint, which win.
    pub(crate) fn take_from(self, endpoint: &mut Endpoint) -> Result<Self, String> {
        let mut take = |key: &str| endpoint.take_option(key);
        let said = |key: &str, why: String| format!("{key}=: {why}");
        Ok(Self {
            auth: take("auth")
                .map(|text| text.parse().map_err(|why| said("auth", why)))
                .transpose()?
                .or(self.auth),
            slow: take("slow")
                .map(|text| text.parse().map_err(|why| said("slow", why)))
                .transpose()?
                .or(self.slow),
            handshake_first: flag(take("handshake_first"), "handshake_first")?
                .or(self.handshake_first),
            connect_urls: take("connect_urls").or(self.connect_urls),
        })
    }

    /// Whether there is anything in it.
    pub(crate) fn says_something(&self) -> bool {
        self.auth.is_some()
            || self.slow.is_some()
            || self.handshake_first.is_some()
            || self.connect_urls.is_some()
    }

    /// The options that are meant.
    pub(crate) fn resolve(self, insecure: bool) -> NatsProfile {
        NatsProfile {
            auth: self.auth.unwrap_or_default(),
            slow: self.slow.unwrap_or_default(),
            handshake_first: self.handshake_first.unwrap_or(false),
            connect_urls: self
                .connect_urls
                .map(|urls| urls.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            takes_open_secrets: insecure,
        }
    }
}

impl From<NatsProfile> for NatsProfileText {
    fn from(profile: NatsProfile) -> Self {
        let NatsProfile { auth, slow, handshake_first, connect_urls, .. } = profile;
        Self {
            auth: Some(auth),
            slow: Some(slow),
            handshake_first: handshake_first.then_some(true),
            connect_urls: (!connect_urls.is_empty()).then(|| connect_urls.join(",")),
        }
    }
}

impl NatsProfile {
    /// Whether peers have to show who they are.
    pub(crate) fn requires_proof(&self) -> bool {
        self.auth == AuthMode::Required
    }

    /// Checks that the options have an effect at the endpoint.
    pub(crate) fn check(&self, at: &Endpoint, transport: &dyn Transport) -> Result<(), String> {
        let bad = |why: &str| Err(format!("{at}: {why}"));
        let capabilities = transport.capabilities();
        let is_stream = capabilities.reliable && capabilities.largest_record.is_none();
        if !is_stream || at.option("type").is_some_and(|of| of != "stream") {
            return bad("codec=nats needs a byte stream");
        }
        let is_place = |url: &String| {
            let port = url.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_some_and(|port| port > 0)
        };
        if let Some(url) = self.connect_urls.iter().find(|url| !is_place(url)) {
            return bad(&format!(
                "connect_urls={url}: HOST:PORT is needed, or several with commas"
            ));
        }
        let may_greet = transport.raw().is_some_and(|raw| raw.takes_greeting());
        if self.handshake_first && !may_greet {
            return bad("handshake_first= has no effect: it is for TLS");
        }
        Ok(())
    }
}
