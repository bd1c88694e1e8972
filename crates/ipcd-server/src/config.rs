//! The configuration: one type for the file, the flags that win over it, and what is in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipcd_core::{Acl, AddressPrefixes};
use ipcd_proto::limits::{DEFAULT_MAX_PAYLOAD, MAX_MAX_PAYLOAD};
use ipcd_proto::nats::Nkey;
use serde::de::value::StringDeserializer;
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::access::{self, AccessRule};
use crate::connect::{ConnectConfig, MOST_CONNECTS};
use crate::counts::{MaxChildren, MaxStartups, WorkerCount};
use crate::exec::{ExecConfig, MOST_EXECS};
use crate::listen::ListenConfig;
use crate::values::{ByteCount, TimeSpan};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The processes.
    pub daemon: DaemonConfig,
    /// The limits.
    pub limits: Limits,
    /// The log.
    pub log: LogConfig,
    /// The listeners; empty for the default endpoint of every transport.
    #[serde(rename = "listen", skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenConfig>,
    /// Servers that the daemon connects to.
    #[serde(
        rename = "connect",
        deserialize_with = "at_most::<_, _, MOST_CONNECTS>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub connects: Vec<ConnectConfig>,
    /// Programs that it runs.
    #[serde(
        rename = "exec",
        deserialize_with = "at_most::<_, _, MOST_EXECS>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub execs: Vec<ExecConfig>,
    /// Secrets besides the daemon's own.
    #[serde(rename = "token", skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenFile>,
    /// The access rules. Without any, every peer may do everything.
    #[serde(rename = "acl", skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessRule>,
}

/// The processes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonConfig {
    /// The user that workers run as, if the daemon is started as root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Their group, instead of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The way that peers are spread over workers.
    pub fork: ForkMode,
    /// Workers of a pool; 0 for as many as fit the machine.
    pub workers: WorkerCount,
    /// Children at the most, with `fork = "connection"`.
    pub max_children: MaxChildren,
    /// The confinement of workers.
    pub sandbox: SandboxMode,
    /// The time that a worker may owe an answer before it is ended.
    pub watchdog: TimeSpan,
    /// The time that draining may take.
    pub drain_timeout: TimeSpan,
    /// The process id goes here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
    /// The directory of sockets, FIFOs and the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_dir: Option<PathBuf>,
}

/// The way that peers are spread over workers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkMode {
    /// Few workers with many peers each.
    #[default]
    Pool,
    /// A child for each peer.
    Connection,
}

/// Whether workers are confined to what they need.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// As far as the system can; else the daemon does not start.
    Required,
    /// As far as the system can.
    #[default]
    BestEffort,
    /// Not at all.
    Off,
}

/// The limits.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of the largest payload.
    pub max_message: MaxMessage,
    /// Peers in all.
    pub max_peers: u32,
    /// Peers of one user.
    pub max_peers_per_uid: u32,
    /// Peers of one network of addresses; as many as of a user, if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_peers_per_prefix: Option<u32>,
    /// Bits of an IPv4 address that make such a network.
    pub prefix_v4: PrefixBits<32>,
    /// Bits of an IPv6 address that do.
    pub prefix_v6: PrefixBits<128>,
    /// Peers that have to prove a token and have not yet.
    pub max_startups: MaxStartups,
    /// Connections of one user or network in a second; 0 for any number.
    pub max_connect_rate: u32,
    /// Bytes that wait for the peers of one user or network, before their send queues count as
    /// full; 0 for any number.
    pub max_bytes_per_uid: ByteCount,
    /// Subscriptions of one peer.
    pub max_subscriptions: usize,
    /// Subscriptions of the peers of one user or network; 0 for any number.
    pub max_subscriptions_per_uid: u64,
    /// From connecting to the end of the handshake.
    pub handshake_timeout: TimeSpan,
    /// From the first byte of a frame to its last.
    pub frame_timeout: TimeSpan,
    /// Without a byte from a peer; 0 for ever.
    pub idle_timeout: TimeSpan,
    /// The age that the oldest byte of a send queue may reach.
    pub stall_timeout: TimeSpan,
    /// Bytes of a send queue before it counts as full.
    pub outbox: ByteCount,
}

/// The proofs of a peer, and its name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "TokenText", into = "TokenText")]
pub struct TokenFile {
    /// The name that peers and rules use for it.
    pub name: String,
    /// The proof.
    pub proof: TokenProof,
}

/// A proof of a peer.
#[derive(Clone, Debug)]
pub enum TokenProof {
    /// That it has the secret in this file.
    Secret(PathBuf),
    /// That it has the private key to this public one, as NATS clients can.
    Nkey(Nkey),
}

/// A token as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TokenText {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<Nkey>,
}

impl TryFrom<TokenText> for TokenFile {
    type Error = String;

    fn try_from(written: TokenText) -> Result<Self, String> {
        let TokenText { name, file, nkey } = written;
        let proof = match (file, nkey) {
            (Some(file), None) => TokenProof::Secret(file),
            (None, Some(nkey)) => TokenProof::Nkey(nkey),
            _ => return Err(format!("the token {name} needs file or nkey, and not both")),
        };
        Ok(Self { name, proof })
    }
}

impl From<TokenFile> for TokenText {
    fn from(token: TokenFile) -> Self {
        let (file, nkey) = match token.proof {
            TokenProof::Secret(file) => (Some(file), None),
            TokenProof::Nkey(nkey) => (None, Some(nkey)),
        };
        Self { name: token.name, file, nkey }
    }
}

/// The log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// The format of lines.
    pub format: LogFormat,
}

/// The importance of a line of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something may need attention.
    Warn,
    /// The events of the daemon and its peers.
    #[default]
    Info,
    /// The daemon's inner events.
    Debug,
    /// Everything.
    Trace,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// An error in a configuration file: `file:line:column: what`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is invalid; the error names the place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file; the path is for the error.
    ///
    /// # Errors
    /// If it is invalid; the error names the place.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Result<Self, _> = toml::from_str(text);
        let mut config = config.map_err(|error| {
            let before = &text[..error.span().map_or(0, |span| span.start).min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
            let mut what = error.message().replace('\n', " ");
            if let Some(key) = duplicate(&error, text) {
                what += &format!(" `{key}`: already defined above");
            }
            ConfigError(format!("{}:{line}:{column}: {what}", path.display()))
        })?;
        let finished = access::finish(&mut config.access, text);
        finished.map_err(|why| ConfigError(format!("{}: {why}", path.display())))?;
        Ok(config)
    }

    /// The access rules, with what its listeners, servers and programs are called where they are
    /// configured.
    pub fn acl(&self) -> Acl {
        let own = self
            .connects
            .iter()
            .map(ConnectConfig::names)
            .chain(self.execs.iter().map(ExecConfig::names));
        let names = self.listeners.iter().map(ListenConfig::names).chain(own);
        access::acl(&self.access, (0..).zip(names).collect())
    }

    /// Whether it differs from another in what is decided at the start.
    pub(crate) fn needs_restart(&self, other: &Self) -> bool {
        let at_start = |config: &Self| {
            let mut config = config.clone();
            (config.daemon.drain_timeout, config.daemon.watchdog) = (seconds(0), seconds(0));
            let daemon = toml::to_string(&config.daemon);
            (daemon.unwrap_or_default(), toml::to_string(&config.log).unwrap_or_default())
        };
        at_start(self) != at_start(other)
    }

    /// The same as the text of a file.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("a configuration has only what TOML can say")
    }
}

/// The key that is given twice, if that is what is wrong. The error does not name it.
fn duplicate<'a>(error: &toml::de::Error, text: &'a str) -> Option<&'a str> {
    let is_duplicate = error.message().starts_with("duplicate key");
    error.span().filter(|_| is_duplicate).and_then(|span| text.get(span)).map(str::trim)
}

/// Reads a list of bounded length.
fn at_most<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let items = Vec::deserialize(deserializer)?;
    match items.len() <= MOST {
        true => Ok(items),
        false => Err(D::Error::custom(format!("there are at most {MOST} of these"))),
    }
}

/// Reads a word of the configuration, such as a log level, from the command line.
///
/// # Errors
/// If the word is unknown; the error names those that exist.
pub fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let text: StringDeserializer<serde::de::value::Error> = text.to_owned().into_deserializer();
    T::deserialize(text).map_err(|error| error.to_string())
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            user: None,
            group: None,
            fork: ForkMode::Pool,
            workers: WorkerCount::default(),
            max_children: MaxChildren::default(),
            sandbox: SandboxMode::default(),
            watchdog: seconds(5),
            drain_timeout: seconds(10),
            pid_file: None,
            runtime_dir: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: MaxMessage(ByteCount::new(DEFAULT_MAX_PAYLOAD)),
            max_peers: 10_000,
            max_peers_per_uid: 10_000,
            max_peers_per_prefix: None,
            prefix_v4: PrefixBits(32),
            prefix_v6: PrefixBits(64),
            max_startups: MaxStartups::default(),
            max_connect_rate: 30_000,
            max_bytes_per_uid: ByteCount::new(1 << 30),
            max_subscriptions: 10_000,
            max_subscriptions_per_uid: 0,
            handshake_timeout: seconds(5),
            frame_timeout: seconds(30),
            idle_timeout: seconds(0),
            stall_timeout: seconds(10),
            outbox: ByteCount::new(8 << 20),
        }
    }
}

impl Limits {
    /// Which addresses are one source.
    pub(crate) fn prefixes(&self) -> AddressPrefixes {
        AddressPrefixes { v4: self.prefix_v4.0, v6: self.prefix_v6.0 }
    }
}

fn seconds(count: u64) -> TimeSpan {
    TimeSpan::new(Duration::from_secs(count))
}

/// Bits of an address that has so many at the most.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u8")]
pub struct PrefixBits<const MOST: u8>(pub(crate) u8);

impl<const MOST: u8> TryFrom<u8> for PrefixBits<MOST> {
    type Error = String;

    fn try_from(count: u8) -> Result<Self, String> {
        match count <= MOST {
            true => Ok(Self(count)),
            false => Err(format!("a prefix has 0 to {MOST} bits")),
        }
    }
}

/// Bytes of the largest payload, up to what the protocol allows.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "ByteCount", into = "ByteCount")]
pub struct MaxMessage(ByteCount);

impl MaxMessage {
    /// The number of bytes.
    pub fn bytes(self) -> usize {
        self.0.bytes()
    }
}

impl From<MaxMessage> for ByteCount {
    fn from(most: MaxMessage) -> Self {
        most.0
    }
}

impl TryFrom<ByteCount> for MaxMessage {
    type Error = String;

    fn try_from(count: ByteCount) -> Result<Self, String> {
        if !(1..=MAX_MAX_PAYLOAD).contains(&count.bytes()) {
            let most = ByteCount::new(MAX_MAX_PAYLOAD);
            return Err(format!("max_message is 1 to {most}"));
        }
        Ok(Self(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("f.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_it_writes() {
        let text = r#"
            [daemon]
            workers = 1
            drain_timeout = "2s"
            [limits]
            max_message = "64KiB"
            outbox = 65536
            [[listen]]
            endpoint = "unix:///x"
            mode = "0660"
            [[listen]]
            name = "net"
            endpoint = "tcp://127.0.0.1:0?codec=frame"
            [[connect]]
            endpoint = "tcp://example.org:1?codec=line&subject=in.$1"
            reply = "out.>"
            retry = "50ms..2s"
            [[exec]]
            command = ["awk", "{ print }"]
            subscribe = ["a.*", "b"]
            publish = "c"
            restart = "on-failure"
            [[token]]
            name = "ci"
            file = "/etc/ipcd/ci"
            [[token]]
            name = "ann"
            nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
            [log]
            level = "debug"
        "#;
        let config = parse(text).unwrap();
        assert_eq!(config.listeners[0].endpoint.to_string(), "unix:///x?mode=0660");
        assert_eq!(config.limits.max_message.bytes(), 65_536);
        let again = parse(&config.to_text()).unwrap();
        assert_eq!(again.to_text(), config.to_text());
        assert_eq!(parse("").unwrap().to_text(), Config::default().to_text());
    }

    #[test]
    fn says_what_is_wrong_with_servers_and_programs() {
        for (text, word) in [
            ("connect]]\nendpoint = \"pipe:cat\"\ncodec = \"line\"\nreply = \"a\"", "frames only"),
            ("connect]]\nendpoint = \"unix:///x?mode=0600&codec=raw&reply=a\"", "mode"),
            ("connect]]\nendpoint = \"fifo:///x?codec=raw&reply=a&subject=b\"", "one direction"),
            ("connect]]\nendpoint = \"tcp://h:1?codec=raw&reply=a&retry=0s..1s\"", "at least"),
            ("connect]]\nendpoint = \"tcp://h:1?codec=raw&reply=a..b\"", "reply"),
            ("exec]]\ncommand = [\"a\"]\nsubscribe = [\"b\", \"b\"]", "twice"),
            ("exec]]\ncommand = [\"a\"]\npublish = \"b..c\"", "publish"),
            ("exec]]\ncommand = [\"a\"]\npublish = \"b\"\ncodec = \"frame\"", "line, nul or raw"),
        ] {
            let error = parse(&format!("[[{text}")).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        let many = "[[exec]]\ncommand = [\"a\"]\npublish = \"b\"\n".repeat(MOST_EXECS + 1);
        assert!(parse(&many).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn names_line_and_column_of_what_is_wrong() {
        for (text, place, word) in [
            ("[daemon]\nwrokers = 1", "f.toml:2:1: ", "wrokers"),
            ("[daemon]\nworkers = 65", "f.toml:2:11: ", "0 to 64"),
            ("[limits]\nmax_message = \"1GiB\"", "f.toml:2:15: ", "256MiB"),
            ("[limits]\n  idle_timeout = \"ten\"", "f.toml:2:18: ", "10s"),
            ("[log]\nlevel = \"loud\"", "f.toml:2:9: ", "debug"),
            ("[[listen]]\nendpoint = \"quic://x\"", "f.toml:1:1: ", "unix, pipe, fifo"),
            ("[[listen]]\nendpoint = \"unix:///x\"\nmode = \"rw\"", "f.toml:1:1: ", "mode=rw"),
            ("[[connect]]\nendpoint = \"tcp://h:1\"", "f.toml:1:1: ", "links between daemons"),
            ("[[connect]]\nendpoint = \"tcp://h:1?codec=raw\"", "f.toml:1:1: ", "at least one"),
            ("[[exec]]\ncommand = []\npublish = \"a\"", "f.toml:1:1: ", "arguments"),
            ("[[exec]]\ncommand = [\"a\"]", "f.toml:1:1: ", "subscribe"),
            ("[[exec]]\ncommand = [\"a\"]\nrestart = \"often\"", "f.toml:3:11: ", "on-failure"),
            ("[daemon", "f.toml:1:8: ", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(place) && error.contains(word), "{text:?}: {error}");
        }
    }
}
