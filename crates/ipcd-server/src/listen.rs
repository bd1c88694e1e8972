//! Listeners as they are configured: where, and for peers that speak our protocol or none.

use std::str::FromStr;

use ipcd_proto::{Codec, Filter, Subject};
use ipcd_transport::{
    Endpoint, EndpointPurpose, Error, PathRights, PeerAddress, RawDirections, Transport,
};
use ipcd_transports::allowlist;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::nats::{AuthMode, NatsProfile, NatsProfileText, SlowClients};

/// A listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "ListenText", into = "ListenText")]
pub struct ListenConfig {
    /// A name for people.
    pub name: Option<String>,
    /// The endpoint, with the rights of its path among the options.
    pub endpoint: Endpoint,
    /// The profile of its peers, if they are raw ones.
    pub raw_profile: Option<RawProfile>,
    /// The networks that its peers may come from; all, if there are none.
    pub allow: Vec<IpNet>,
    /// Whether peers on the network may come in without proof.
    pub insecure: bool,
}

/// The messages of raw peers, in both directions: of programs that do not speak the protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RawProfile {
    /// The translation between their bytes and messages.
    pub codec: Codec,
    /// The subject of their messages; `$1` in it stands for the first word of each.
    pub subject: Option<String>,
    /// The filters of the messages that go to them.
    pub reply: Vec<String>,
    /// Whether they hear themselves.
    pub echo: bool,
    /// Whether the daemon has chosen them: then they have not forged their address.
    pub chosen: bool,
    /// The options for NATS clients, which have their own subjects.
    pub nats: Option<NatsProfile>,
}

impl RawProfile {
    /// Which way their bytes go.
    pub(crate) fn raw_directions(&self) -> RawDirections {
        let both = self.nats.is_some();
        RawDirections {
            inward: both || self.subject.is_some(),
            outward: both || !self.reply.is_empty(),
        }
    }

    /// Whether a peer that comes from this transport has to prove something before it is served.
    pub(crate) fn must_prove(profile: Option<&Self>, transport: &dyn Transport) -> bool {
        match profile {
            None => !transport.capabilities().identity.is_vouched(),
            Some(profile) => profile.nats.as_ref().is_some_and(NatsProfile::requires_proof),
        }
    }

    /// Whether there is anything in it beside the codec.
    fn says_something(&self) -> bool {
        self.subject.is_some() || !self.reply.is_empty() || self.echo
    }

    /// Whether subject and filters are such; the keys are for the error.
    pub(crate) fn check(&self, [subject_key, reply_key]: [&str; 2]) -> Result<(), String> {
        if let Some(subject) = &self.subject {
            let plain = subject.replace(FIRST_WORD, "x");
            Subject::parse(plain.as_bytes()).map_err(|error| format!("{subject_key}: {error}"))?;
        }
        for reply in &self.reply {
            Filter::parse(reply.as_bytes()).map_err(|error| format!("{reply_key}: {error}"))?;
        }
        Ok(())
    }
}

/// Stands for the first word of a message.
pub(crate) const FIRST_WORD: &str = "$1";

/// A listener as it is written, where what may stand among the endpoint's options may also stand
/// beside it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ListenText {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<AuthMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow: Option<SlowClients>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_first: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_urls: Option<String>,
    #[serde(skip_serializing)]
    mode: Option<String>,
    #[serde(skip_serializing)]
    owner: Option<String>,
    #[serde(skip_serializing)]
    group: Option<String>,
}

impl TryFrom<ListenText> for ListenConfig {
    type Error = String;

    fn try_from(written: ListenText) -> Result<Self, String> {
        let mut endpoint: Endpoint =
            written.endpoint.parse().map_err(|error: Error| error.to_string())?;
        let rights = [written.mode, written.owner, written.group];
        for (key, value) in PathRights::OPTIONS.into_iter().zip(rights) {
            if let Some(value) = value {
                endpoint.set_option(key, value);
            }
        }
        let ListenText { codec, subject, reply, echo, .. } = written;
        let (codec, mut raw_profile) =
            ProfileText { codec, subject, reply, echo }.resolve_with(&mut endpoint, false)?;
        let ListenText { auth, slow, handshake_first, connect_urls, .. } = written;
        let nats = NatsProfileText { auth, slow, handshake_first, connect_urls };
        let nats = nats.take_from(&mut endpoint)?;
        let mut take = |key: &str| endpoint.take_option(key);
        let insecure = flag(take("insecure"), "insecure")?.or(written.insecure).unwrap_or(false);
        let mut allow = written.allow;
        if let Some(list) = take("allow") {
            allow.extend(allowlist::networks(&list)?);
        }
        if codec == Codec::Nats {
            raw_profile.nats = Some(nats.resolve(insecure));
        } else if nats.says_something() {
            let why = "auth=, slow=, handshake_first= and connect_urls= are for NATS clients: add codec=nats";
            return Err(format!("{endpoint}: {why}"));
        }
        if codec == Codec::Frame && raw_profile.says_something() {
            let why = "subject=, reply= and echo= are for raw peers: add codec=line, nul or raw";
            return Err(format!("{endpoint}: {why}"));
        }
        let raw_profile = (codec != Codec::Frame).then_some(raw_profile);
        let listen = Self { name: written.name, endpoint, raw_profile, allow, insecure };
        listen.check()?;
        Ok(listen)
    }
}

impl From<ListenConfig> for ListenText {
    fn from(listen: ListenConfig) -> Self {
        let codec = Some(listen.codec());
        let ListenConfig { name, endpoint, raw_profile, allow, insecure } = listen;
        let nats = raw_profile.as_ref().and_then(|raw_profile| raw_profile.nats.clone());
        let ProfileText { subject, reply, echo, .. } =
            raw_profile.map(ProfileText::from).unwrap_or_default();
        let NatsProfileText { auth, slow, handshake_first, connect_urls } =
            nats.map(NatsProfileText::from).unwrap_or_default();
        let insecure = insecure.then_some(true);
        let endpoint = endpoint.to_string();
        Self {
            name,
            endpoint,
            codec,
            subject,
            reply,
            echo,
            allow,
            insecure,
            auth,
            slow,
            handshake_first,
            connect_urls,
            ..Self::default()
        }
    }
}

/// A profile as it is written. Each key may also stand among the endpoint's options.
#[derive(Default)]
pub(crate) struct ProfileText {
    pub(crate) codec: Option<Codec>,
    pub(crate) subject: Option<String>,
    pub(crate) reply: Option<String>,
    pub(crate) echo: Option<bool>,
}

impl ProfileText {
    /// The dialect that is meant. The options are taken off the endpoint, and win.
    pub(crate) fn resolve_with(
        self,
        endpoint: &mut Endpoint,
        chosen: bool,
    ) -> Result<(Codec, RawProfile), String> {
        let mut take = |key: &str| endpoint.take_option(key);
        let codec = take("codec").map(|text| text.parse()).transpose()?.or(self.codec);
        let codec = codec.unwrap_or_default();
        let subject = take("subject").or(self.subject);
        let reply = take("reply").or(self.reply).into_iter().collect();
        let echo = flag(take("echo"), "echo")?.or(self.echo).unwrap_or(false);
        Ok((codec, RawProfile { codec, subject, reply, echo, chosen, nats: None }))
    }
}

impl From<RawProfile> for ProfileText {
    fn from(raw_profile: RawProfile) -> Self {
        let RawProfile { codec, subject, reply, echo, .. } = raw_profile;
        let reply = reply.into_iter().next();
        Self { codec: Some(codec), subject, reply, echo: echo.then_some(true) }
    }
}

impl FromStr for ListenConfig {
    type Err = String;

    /// An endpoint as `--listen` has it.
    fn from_str(text: &str) -> Result<Self, String> {
        ListenText { endpoint: text.to_owned(), ..ListenText::default() }.try_into()
    }
}

impl ListenConfig {
    /// For peers that speak our protocol.
    pub(crate) fn frames(endpoint: Endpoint) -> Self {
        Self { name: None, endpoint, raw_profile: None, allow: Vec::new(), insecure: false }
    }

    /// The codec of its peers.
    pub(crate) fn codec(&self) -> Codec {
        self.raw_profile.as_ref().map_or(Codec::Frame, |raw_profile| raw_profile.codec)
    }

    /// The purpose of its endpoint.
    pub(crate) fn purpose(&self) -> EndpointPurpose {
        if self.raw_profile.is_some() {
            EndpointPurpose::ListenRaw
        } else {
            EndpointPurpose::Listen
        }
    }

    /// The names that access rules may use for it: its endpoint, and its name.
    pub(crate) fn names(&self) -> Vec<String> {
        [self.endpoint.to_string()].into_iter().chain(self.name.clone()).collect()
    }

    /// Whether a peer from there may come in.
    pub(crate) fn admits(&self, from: Option<PeerAddress>) -> bool {
        allowlist::admits(&self.allow, from)
    }

    /// Whether it can be listened there, and is safe to.
    pub(crate) fn check(&self) -> Result<(), String> {
        let said = |error: Error| error.to_string();
        let transport = ipcd_transports::of(&self.endpoint, self.purpose()).map_err(said)?;
        PathRights::of(&self.endpoint, PathRights::PRIVATE).map_err(said)?;
        let (at, allow) = (&self.endpoint, self.allow.as_slice());
        match &self.raw_profile {
            Some(RawProfile { nats: Some(nats), .. }) => self.check_nats(nats, transport),
            Some(raw_profile) => self.check_profile(raw_profile, transport),
            None => allowlist::check_frames(at, transport, allow, self.insecure).map_err(said),
        }
    }

    fn check_nats(&self, nats: &NatsProfile, transport: &dyn Transport) -> Result<(), String> {
        let (at, said) = (&self.endpoint, |error: Error| error.to_string());
        if self.raw_profile.as_ref().is_some_and(RawProfile::says_something) {
            let why = "subject=, reply= and echo= have no effect: NATS clients say that themselves";
            return Err(format!("{at}: {why}"));
        }
        nats.check(at, transport)?;
        let directions = RawDirections { inward: true, outward: true };
        transport.raw_at(at).and_then(|raw| raw.check_raw(at, directions)).map_err(said)?;
        match nats.requires_proof() && !self.insecure {
            true => allowlist::check_frames(at, transport, &self.allow, false).map_err(said),
            false => allowlist::check(at, transport, &self.allow, self.insecure).map_err(said),
        }
    }

    fn check_profile(
        &self,
        raw_profile: &RawProfile,
        transport: &dyn Transport,
    ) -> Result<(), String> {
        let at = &self.endpoint;
        let bad = |why: &str| Err(format!("{at}: {why}"));
        if raw_profile.subject.is_none() && raw_profile.reply.is_empty() {
            return bad(
                "a codec needs subject= (for messages of peers), reply= (to them), or both",
            );
        }
        raw_profile.check(["subject", "reply"])?;
        transport
            .raw_at(at)
            .and_then(|raw| raw.check_raw(at, raw_profile.raw_directions()))
            .map_err(|error| error.to_string())?;
        allowlist::check(at, transport, &self.allow, self.insecure)
            .map_err(|error| error.to_string())
    }
}

/// The value among the options, or else the one beside them.
pub(crate) fn word_or<T: FromStr<Err = String>>(
    option: Option<String>,
    beside: Option<T>,
) -> Result<Option<T>, String> {
    option.map_or(Ok(beside), |text| text.parse().map(Some))
}

pub(crate) fn flag(text: Option<String>, key: &str) -> Result<Option<bool>, String> {
    let parse = |text: String| text.parse().map_err(|_| format!("{key} is true or false"));
    text.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Result<ListenConfig, String> {
        text.parse()
    }

    #[test]
    fn reads_what_bare_peers_say_and_hear() {
        let chat = listen("tcp://127.0.0.1:0?codec=raw&subject=chat&reply=chat").unwrap();
        assert_eq!(chat.endpoint.to_string(), "tcp://127.0.0.1:0");
        let (subject, reply) = (Some("chat".into()), vec!["chat".into()]);
        let raw_profile = RawProfile {
            codec: Codec::Raw,
            subject,
            reply,
            echo: false,
            chosen: false,
            nats: None,
        };
        assert_eq!(chat.raw_profile, Some(raw_profile));
        assert_eq!(listen("tcp://127.0.0.1:0?codec=frame").unwrap().raw_profile, None);
        let first = listen("unix:///x?codec=line&subject=$1&echo=true&mode=0660").unwrap();
        assert!(first.raw_profile.unwrap().echo);
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
        assert!(error("fifo:///x?codec=line&subject=a&reply=b").contains("one direction"));
        assert!(error("pipe:///x?codec=line&subject=a").contains("frames only"));
        for option in ["subject=a", "reply=a", "echo=true", "codec=frame&subject=a"] {
            assert!(error(&format!("unix:///x?{option}")).contains("add codec=line"), "{option}");
        }
        assert!(listen("udp://0.0.0.0:0?codec=raw&subject=a&insecure=true").is_ok());
        assert!(listen("tcp://0.0.0.0:0").is_ok(), "peers prove a token there");
    }

    /// An option without effect would be a promise that is not kept.
    #[test]
    fn each_option_holds_or_is_refused() {
        let raw = "codec=line&subject=a";
        for (refused, why) in [
            ("unix:///x?allow=10.0.0.0/8".into(), "allow= has no effect"),
            (format!("unix:@x?{raw}&allow=::1/128"), "allow= has no effect"),
            ("pipe:///x?allow=10.0.0.0/8".into(), "allow= has no effect"),
            (format!("fifo:///x?{raw}&allow=10.0.0.0/8"), "allow= has no effect"),
            (format!("unix:///x?{raw}&insecure=true"), "insecure= has no effect"),
            ("tcp://127.0.0.1:0?insecure=true".into(), "insecure= has no effect"),
            ("fifo:///x?insecure=true".into(), "insecure= has no effect"),
            ("fifo:///x?direction=in".into(), "direction= has no effect"),
            ("pipe:///x?type=stream".into(), "no option type"),
            ("pipe:cat".into(), "absolute path"),
            ("unix:///x?type=dgram".into(), "with a codec only"),
            ("tls://127.0.0.1:0".into(), "cert=FILE&key=FILE"),
            ("tls://127.0.0.1:0?cert=/c&key=/k&name=n".into(), "name= has no effect"),
            ("tls://127.0.0.1:0?cert=/c&key=/k&ca=/a&client_auth=none".into(), "ca= has no effect"),
            ("tcp://127.0.0.1:0?mode=0600".into(), "takes none"),
            ("udp://127.0.0.1:0?group=0".into(), "takes none"),
            ("tls://127.0.0.1:0?owner=0".into(), "no option owner"),
            ("fifo:///x?mode=0660".into(), "mode=0620"),
            (format!("fifo:///x?{raw}&mode=0644"), "mode=0620"),
            ("fifo:///x?codec=line&reply=a&mode=0622".into(), "mode=0644"),
            (format!("unix:///{}", "x".repeat(107)), "at most 107"),
            (format!("pipe:///{}", "x".repeat(107)), "at most 107"),
            (format!("unix:@{}", "x".repeat(108)), "at most 107"),
        ] {
            let said = listen(&refused).expect_err(&refused);
            assert!(said.contains(why), "{refused}: {said}");
        }
        for holds in [
            format!("unix:@x?{raw}&mode=0660&owner=0&group=0&type=dgram"),
            format!("fifo:///x?{raw}&mode=0622&group=0"),
            "fifo:///x?codec=line&reply=a&mode=0644&direction=out".into(),
            "pipe:///x?mode=0666&owner=0".into(),
            format!("tcp://[::]:0?{raw}&allow=10.0.0.0/8,::1/128"),
            "tls://127.0.0.1:0?cert=/c&key=/k&ca=/a&client_auth=required&allow=::1/128".into(),
            format!("unix:///{}", "x".repeat(106)),
            format!("unix:@{}", "x".repeat(107)),
        ] {
            listen(&holds).expect(&holds);
        }
    }

    #[test]
    fn admits_who_is_allowed() {
        let some = listen("tcp://0.0.0.0:0?codec=line&subject=a&allow=10.0.0.0/8,127.0.0.1/32");
        let admits = |addr: &str| some.as_ref().unwrap().admits(Some(addr.parse().unwrap()));
        assert!(admits("10.1.2.3:4") && admits("127.0.0.1:9") && !admits("127.0.0.2:9"));
        assert!(listen("unix:///x").unwrap().admits(None));
    }
}
