//! The two sides of a relay as users write them: an endpoint, or a subject of the daemon.

use std::fmt;

use ipcd_proto::{Codec, Subject};
use ipcd_transport::{Endpoint, EndpointPurpose, PeerAddress, Transport};
use ipcd_transports::allowlist;
use ipnet::IpNet;

use crate::{Error, NO_FRAMES, Result};

/// The prefix of a subject, in place of a transport's scheme.
const SUBJECT: &str = "ipcd:";

/// A side.
#[derive(Clone, Debug)]
pub enum RelaySide {
    /// A subject of the daemon.
    Subject {
        /// The subject.
        subject: String,
        /// Whether the relay receives its own messages.
        echo: bool,
    },
    /// An endpoint.
    Endpoint(SideEndpoint),
}

/// An endpoint, and the codec of its peers.
#[derive(Clone)]
pub struct SideEndpoint {
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: &'static dyn Transport,
    /// `None` for the default of the channel.
    pub(crate) codec: Option<Codec>,
    allow: Vec<IpNet>,
}

impl RelaySide {
    /// The side that peers come from.
    ///
    /// # Errors
    /// If it is invalid, or reachable from other machines without `allow=` or `insecure=true`.
    pub fn listening(text: &str) -> Result<Self> {
        if let Some(subject) = text.strip_prefix(SUBJECT) {
            return parse_subject(subject);
        }
        let mut endpoint: Endpoint = text.parse()?;
        let allow = endpoint.take_option("allow").map(|list| allowlist::networks(&list));
        let allow = allow.transpose().map_err(Error::Usage)?.unwrap_or_default();
        let insecure = parse_flag(endpoint.take_option("insecure"), "insecure")?;
        let place = SideEndpoint { allow, ..parse_endpoint(endpoint, EndpointPurpose::ListenRaw)? };
        allowlist::check(&place.endpoint, place.transport, &place.allow, insecure)?;
        Ok(Self::Endpoint(place))
    }

    /// The side that each peer is connected to.
    ///
    /// # Errors
    /// If it is invalid.
    pub fn connecting(text: &str) -> Result<Self> {
        match text.strip_prefix(SUBJECT) {
            Some(subject) => parse_subject(subject),
            None => Ok(Self::Endpoint(parse_endpoint(text.parse()?, EndpointPurpose::ConnectRaw)?)),
        }
    }

    pub(crate) fn has_codec(&self) -> bool {
        matches!(self, Self::Endpoint(SideEndpoint { codec: Some(_), .. }))
    }

    /// Whether a peer from this address is admitted.
    pub(crate) fn admits(&self, from: Option<PeerAddress>) -> bool {
        match self {
            Self::Subject { .. } => true,
            Self::Endpoint(place) => allowlist::admits(&place.allow, from),
        }
    }
}

fn parse_subject(text: &str) -> Result<RelaySide> {
    let (subject, query) = text.split_once('?').unwrap_or((text, ""));
    let bad = |why: String| Error::Usage(format!("{SUBJECT}{}: {why}", text.escape_debug()));
    Subject::parse(subject.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let mut echo = false;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("echo", value)) => echo = parse_flag(Some(value.to_owned()), "echo")?,
            _ => return Err(bad("a subject has no option but echo=true".to_owned())),
        }
    }
    Ok(RelaySide::Subject { subject: subject.to_owned(), echo })
}

fn parse_endpoint(mut endpoint: Endpoint, purpose: EndpointPurpose) -> Result<SideEndpoint> {
    let codec = endpoint.take_option("codec").map(|text| text.parse::<Codec>());
    let codec = codec.transpose().map_err(Error::Usage)?;
    if codec.is_some_and(|codec| !codec.is_for_raw_peers()) {
        return Err(endpoint.error(NO_FRAMES).into());
    }
    let transport = ipcd_transports::of(&endpoint, purpose)?;
    Ok(SideEndpoint { endpoint, transport, codec, allow: Vec::new() })
}

fn parse_flag(text: Option<String>, key: &str) -> Result<bool> {
    let Some(text) = text else { return Ok(false) };
    text.parse().map_err(|_| Error::Usage(format!("{key}= must be true or false")))
}

impl fmt::Display for RelaySide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject { subject, .. } => write!(f, "{SUBJECT}{subject}"),
            Self::Endpoint(place) => place.endpoint.fmt(f),
        }
    }
}

impl fmt::Debug for SideEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.endpoint, self.codec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(side: Result<RelaySide>) -> String {
        side.unwrap_err().to_string()
    }

    #[test]
    fn reads_endpoints_and_subjects() {
        let side = RelaySide::listening("tcp://127.0.0.1:0?codec=nul").unwrap();
        assert!(side.has_codec() && side.to_string() == "tcp://127.0.0.1:0");
        let side = RelaySide::connecting("ipcd:chat.room?echo=true").unwrap();
        assert!(matches!(&side, RelaySide::Subject { echo: true, .. }), "{side:?}");
        assert!(RelaySide::connecting("pipe:sh -c 'echo a?b=c'").is_ok());
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(error(RelaySide::listening("tcp://127.0.0.1:0?codec=morse")).contains("line"));
        assert!(error(RelaySide::connecting("unix:///x?codec=frame")).contains("ipcd:SUBJECT"));
        assert!(error(RelaySide::connecting("unix:///x?colour=red")).contains("type"));
        assert!(
            error(RelaySide::connecting("unix:///x?mode=0600")).contains("mode= has no effect")
        );
        assert!(error(RelaySide::connecting("tcp://h:1?allow=::1/128")).contains("allow"));
        assert!(error(RelaySide::connecting("unix:///x?type=dgram")).contains("with a codec only"));
        assert!(
            error(RelaySide::listening("unix:///x?allow=::1/128")).contains("allow= has no effect")
        );
        assert!(error(RelaySide::listening("unix:@x?insecure=true")).contains("insecure= has no"));
        assert!(error(RelaySide::listening("pipe:cat")).contains("absolute path"));
        assert!(error(RelaySide::connecting("ipcd:a.*")).contains("ipcd:a.*"));
        assert!(error(RelaySide::connecting("ipcd:a?reply=b")).contains("echo"));
        assert!(error(RelaySide::listening("tcp://0.0.0.0:0")).contains("insecure=true"));
        assert!(error(RelaySide::listening("tcp://0.0.0.0:0?allow=here")).contains("10.0.0.0/8"));
    }

    #[test]
    fn strangers_come_in_where_that_is_meant() {
        let some = RelaySide::listening("tcp://0.0.0.0:0?allow=10.0.0.0/8").unwrap();
        let admits = |addr: &str| some.admits(Some(addr.parse().unwrap()));
        assert!(admits("10.1.2.3:4") && !admits("127.0.0.1:4"));
        assert!(RelaySide::listening("tcp://0.0.0.0:0?insecure=true").is_ok());
    }
}
