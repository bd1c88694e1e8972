//! Listeners as they are configured: where, and for peers that speak our protocol or none.

use std::net::SocketAddr;
use std::str::FromStr;

use ipcd_proto::{Codec, Filter, Subject};
use ipcd_transport::{Access, Endpoint, Error, IdentityKind, Transport};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::word;

/// A listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Listen {
    /// A name for people.
    pub name: Option<String>,
    /// Where it listens, with the rights of its path among the options.
    pub endpoint: Endpoint,
    /// What its peers say and hear, if they know nothing of frames.
    pub dialect: Option<Dialect>,
    /// The networks that its peers may come from; all, if there are none.
    pub allow: Vec<IpNet>,
    /// Whether anybody on the network may come who proves nothing.
    pub insecure: bool,
}

/// What bare peers say and hear: programs that know nothing of our protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dialect {
    /// How their bytes become messages, and back.
    pub codec: Codec,
    /// Where their messages go; `$1` in it stands for the first word of each.
    pub subject: Option<String>,
    /// The filter of the messages that go to them.
    pub reply: Option<String>,
    /// Whether they hear themselves.
    pub echo: bool,
}

/// Stands for the first word of a message.
pub(crate) const FIRST_WORD: &str = "$1";

/// A listener as it is written, where what may stand among the endpoint's options may also stand
/// beside it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    insecure: Option<bool>,
    #[serde(skip_serializing)]
    mode: Option<String>,
    #[serde(skip_serializing)]
    owner: Option<String>,
    #[serde(skip_serializing)]
    group: Option<String>,
}

impl TryFrom<Written> for Listen {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let mut endpoint: Endpoint =
            written.endpoint.parse().map_err(|error: Error| error.to_string())?;
        let rights = [written.mode, written.owner, written.group];
        for (key, value) in Access::OPTIONS.into_iter().zip(rights) {
            if let Some(value) = value {
                endpoint.set_option(key, value);
            }
        }
        let mut take = |key: &str| endpoint.take_option(key);
        let codec = take("codec").map(|text| word(&text)).transpose()?.or(written.codec);
        let (subject, reply) =
            (take("subject").or(written.subject), take("reply").or(written.reply));
        let echo = flag(take("echo"), "echo")?.or(written.echo).unwrap_or(false);
        let insecure = flag(take("insecure"), "insecure")?.or(written.insecure).unwrap_or(false);
        let mut allow = written.allow;
        for network in take("allow").iter().flat_map(|list| list.split(',')) {
            let bad = |_| format!("allow={network}: a network is needed, as in 10.0.0.0/8");
            allow.push(network.parse().map_err(bad)?);
        }
        let is_bare = codec.is_some_and(|codec| codec != Codec::Frame);
        let codec = codec.unwrap_or_default();
        let dialect = is_bare.then_some(Dialect { codec, subject, reply, echo });
        let listen = Self { name: written.name, endpoint, dialect, allow, insecure };
        listen.check()?;
        Ok(listen)
    }
}

impl From<Listen> for Written {
    fn from(listen: Listen) -> Self {
        let codec = Some(listen.codec());
        let Listen { name, endpoint, dialect, allow, insecure } = listen;
        let (subject, reply, echo) =
            dialect.map_or((None, None, false), |d| (d.subject, d.reply, d.echo));
        let (echo, insecure) = (echo.then_some(true), insecure.then_some(true));
        let endpoint = endpoint.to_string();
        Self { name, endpoint, codec, subject, reply, echo, allow, insecure, ..Self::default() }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// An endpoint as `--listen` has it.
    fn from_str(text: &str) -> Result<Self, String> {
        Written { endpoint: text.to_owned(), ..Written::default() }.try_into()
    }
}

impl Listen {
    /// For peers that speak our protocol.
    pub(crate) fn frames(endpoint: Endpoint) -> Self {
        Self { name: None, endpoint, dialect: None, allow: Vec::new(), insecure: false }
    }

    /// How bytes become messages.
    pub(crate) fn codec(&self) -> Codec {
        self.dialect.as_ref().map_or(Codec::Frame, |dialect| dialect.codec)
    }

    /// What access rules may call it: its endpoint, and its name.
    pub(crate) fn names(&self) -> Vec<String> {
        [self.endpoint.to_string()].into_iter().chain(self.name.clone()).collect()
    }

    /// Whether a peer from there may come in.
    pub(crate) fn admits(&self, from: Option<SocketAddr>) -> bool {
        let is_inside = |addr: SocketAddr| self.allow.iter().any(|net| net.contains(&addr.ip()));
        self.allow.is_empty() || from.is_none_or(is_inside)
    }

    fn check(&self) -> Result<(), String> {
        let said = |error: Error| error.to_string();
        let transport = ipcd_transports::of(&self.endpoint).map_err(said)?;
        Access::of(&self.endpoint, Access::PRIVATE).map_err(said)?;
        match &self.dialect {
            Some(dialect) => self.check_dialect(dialect, transport),
            None => Ok(()),
        }
    }

    fn check_dialect(&self, dialect: &Dialect, transport: &dyn Transport) -> Result<(), String> {
        let at = &self.endpoint;
        let bad = |why: &str| Err(format!("{at}: {why}"));
        match (&dialect.subject, &dialect.reply) {
            (None, None) => {
                return bad(
                    "with a codec, subject= says where messages go, reply= what comes back",
                );
            }
            (Some(subject), _) => {
                let plain = subject.replace(FIRST_WORD, "x");
                Subject::parse(plain.as_bytes()).map_err(|error| format!("subject: {error}"))?;
            }
            (None, Some(_)) => {}
        }
        if let Some(reply) = &dialect.reply {
            Filter::parse(reply.as_bytes()).map_err(|error| format!("reply: {error}"))?;
        }
        let is_known = transport.capabilities().identity != IdentityKind::Address;
        if is_known || self.insecure || !self.allow.is_empty() {
            return Ok(());
        }
        let addresses = at.resolve().map_err(|error| error.to_string())?;
        match addresses.iter().all(|addr| addr.ip().is_loopback()) {
            true => Ok(()),
            false => bad(
                "whoever connects there proves nothing: off the loopback this needs allow=NETWORK, \
                 or insecure=true",
            ),
        }
    }
}

fn flag(text: Option<String>, key: &str) -> Result<Option<bool>, String> {
    let parse = |text: String| text.parse().map_err(|_| format!("{key} is true or false"));
    text.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Result<Listen, String> {
        text.parse()
    }

    #[test]
    fn reads_what_bare_peers_say_and_hear() {
        let chat = listen("tcp://127.0.0.1:0?codec=raw&subject=chat&reply=chat").unwrap();
        assert_eq!(chat.endpoint.to_string(), "tcp://127.0.0.1:0");
        let (subject, reply) = (Some("chat".into()), Some("chat".into()));
        let dialect = Dialect { codec: Codec::Raw, subject, reply, echo: false };
        assert_eq!(chat.dialect, Some(dialect));
        assert_eq!(listen("tcp://127.0.0.1:0?codec=frame").unwrap().dialect, None);
        let first = listen("unix:///x?codec=line&subject=$1&echo=true&mode=0660").unwrap();
        assert!(first.dialect.unwrap().echo);
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| listen(text).unwrap_err();
        assert!(error("tcp://127.0.0.1:0?codec=morse&subject=a").contains("line"));
        assert!(error("tcp://127.0.0.1:0?codec=line").contains("subject="));
        assert!(error("tcp://127.0.0.1:0?codec=line&subject=a..b").contains("empty"));
        assert!(error("tcp://127.0.0.1:0?codec=line&subject=a&echo=maybe").contains("echo"));
        assert!(error("tcp://0.0.0.0:0?codec=line&subject=a").contains("insecure=true"));
        assert!(error("tcp://0.0.0.0:0?codec=line&subject=a&allow=here").contains("10.0.0.0/8"));
        assert!(listen("udp://0.0.0.0:0?codec=raw&subject=a&insecure=true").is_ok());
        assert!(listen("tcp://0.0.0.0:0").is_ok(), "peers prove a token there");
    }

    #[test]
    fn admits_who_is_allowed() {
        let some = listen("tcp://0.0.0.0:0?codec=line&subject=a&allow=10.0.0.0/8,127.0.0.1/32");
        let admits = |addr: &str| some.as_ref().unwrap().admits(Some(addr.parse().unwrap()));
        assert!(admits("10.1.2.3:4") && admits("127.0.0.1:9") && !admits("127.0.0.2:9"));
        assert!(listen("unix:///x").unwrap().admits(None));
    }
}
