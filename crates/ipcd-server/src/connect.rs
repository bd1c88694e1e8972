//! Servers that the daemon connects to, as they are configured.

use std::time::Duration;

use ipcd_proto::Codec;
use ipcd_transport::{Endpoint, EndpointPurpose, Error};
use serde::{Deserialize, Serialize};

use crate::listen::{ProfileText, RawProfile, word_or};
use crate::values::RetryPauses;

/// A server that knows nothing of frames.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "ConnectText", into = "ConnectText")]
pub struct ConnectConfig {
    /// A name for people.
    pub name: Option<String>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its messages in both directions.
    pub raw_profile: RawProfile,
    /// The pauses before the next attempt.
    pub retry: RetryPauses,
}

/// Servers at the most, so that a mistake does not become a flood.
pub(crate) const MOST_CONNECTS: usize = 256;

const DEFAULT_RETRY: RetryPauses =
    RetryPauses { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// A server as it is written, where what may stand among the endpoint's options may also stand
/// beside it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ConnectText {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    endpoint: String,
    #[serde(default)]
    codec: Option<Codec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    retry: Option<RetryPauses>,
}

impl TryFrom<ConnectText> for ConnectConfig {
    type Error = String;

    fn try_from(written: ConnectText) -> Result<Self, String> {
        let mut endpoint: Endpoint =
            written.endpoint.parse().map_err(|error: Error| error.to_string())?;
        let ConnectText { name, codec, subject, reply, echo, retry, .. } = written;
        let (codec, raw_profile) =
            ProfileText { codec, subject, reply, echo }.resolve_with(&mut endpoint, true)?;
        if codec == Codec::Nats {
            let why =
                "codec=nats is for listeners: a connection to a NATS server is not in this version";
            return Err(format!("{endpoint}: {why}"));
        }
        if codec == Codec::Frame {
            let why = "links between daemons are not in this version: codec= says how a server \
                       speaks that knows nothing of ipcd (line, nul or raw)";
            return Err(format!("{endpoint}: {why}"));
        }
        let retry = word_or(endpoint.take_option("retry"), retry)?.unwrap_or(DEFAULT_RETRY);
        let connect = Self { name, endpoint, raw_profile, retry };
        connect.check().map(|()| connect)
    }
}

impl From<ConnectConfig> for ConnectText {
    fn from(connect: ConnectConfig) -> Self {
        let ConnectConfig { name, endpoint, raw_profile, retry } = connect;
        let ProfileText { codec, subject, reply, echo } = raw_profile.into();
        let (endpoint, retry) = (endpoint.to_string(), Some(retry));
        Self { name, endpoint, codec, subject, reply, echo, retry }
    }
}

impl ConnectConfig {
    /// The names that access rules may use for it: its endpoint, and its name.
    pub(crate) fn names(&self) -> Vec<String> {
        [self.endpoint.to_string()].into_iter().chain(self.name.clone()).collect()
    }

    fn check(&self) -> Result<(), String> {
        let at = &self.endpoint;
        let transport = ipcd_transports::of(at, EndpointPurpose::ConnectRaw);
        let transport = transport.map_err(|error| error.to_string())?;
        if self.raw_profile.subject.is_none() && self.raw_profile.reply.is_empty() {
            let why = "subject= (for the server's messages) and reply= (for messages to it)";
            return Err(format!("{at}: give at least one of {why}"));
        }
        self.raw_profile.check(["subject", "reply"])?;
        transport
            .raw_at(at)
            .and_then(|raw| raw.check_raw(at, self.raw_profile.raw_directions()))
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
