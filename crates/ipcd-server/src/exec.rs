//! Programs that the daemon runs, as they are configured.

use std::collections::BTreeSet;

use ipcd_proto::Codec;
use serde::{Deserialize, Serialize};

use crate::listen::RawProfile;

/// A coprocess: a program whose standard input and output are on the bus.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "ExecText", into = "ExecText")]
pub struct ExecConfig {
    /// A name for people.
    pub name: Option<String>,
    /// The program, and its arguments.
    pub command: Vec<String>,
    /// The messages for its standard input, and the subject of its standard output.
    pub raw_profile: RawProfile,
    /// The policy for starting it again.
    pub restart: RestartPolicy,
}

/// The cases in which a program that has ended is started again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// After an exit status other than 0, a signal, or when it was cut off.
    #[default]
    OnFailure,
    /// However it ended.
    Always,
    /// Not at all.
    Never,
}

/// Programs at the most, and filters of one.
pub(crate) const MOST_EXECS: usize = 64;
const MOST_FILTERS: usize = 64;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ExecText {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    command: Vec<String>,
    #[serde(default = "line")]
    codec: Codec,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish: Option<String>,
    #[serde(default)]
    restart: RestartPolicy,
}

fn line() -> Codec {
    Codec::Line
}

impl TryFrom<ExecText> for ExecConfig {
    type Error = String;

    fn try_from(written: ExecText) -> Result<Self, String> {
        let ExecText { name, command, codec, subscribe, publish, restart } = written;
        if command.first().is_none_or(String::is_empty) {
            return Err(
                "command is a program and its arguments: [\"awk\", \"{ print $1 }\"]".into()
            );
        }
        if command.iter().any(|word| word.contains('\0')) {
            return Err("command: a word contains NUL".into());
        }
        let raw_profile = RawProfile {
            codec,
            subject: publish,
            reply: subscribe,
            echo: false,
            chosen: true,
            nats: None,
        };
        check(&raw_profile).map_err(|why| format!("{}: {why}", command[0]))?;
        Ok(Self { name, command, raw_profile, restart })
    }
}

impl From<ExecConfig> for ExecText {
    fn from(exec: ExecConfig) -> Self {
        let ExecConfig { name, command, raw_profile, restart } = exec;
        let RawProfile { codec, subject: publish, reply: subscribe, .. } = raw_profile;
        Self { name, command, codec, subscribe, publish, restart }
    }
}

impl ExecConfig {
    /// The names that access rules may use for it: its name, if it has one.
    pub(crate) fn names(&self) -> Vec<String> {
        self.name.clone().into_iter().collect()
    }

    /// Its name in the log.
    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.command[0])
    }
}

fn check(raw_profile: &RawProfile) -> Result<(), String> {
    let filters = &raw_profile.reply;
    if !raw_profile.codec.is_for_raw_peers() {
        return Err("codec is line, nul or raw for a program's input and output".into());
    }
    if raw_profile.subject.is_none() && filters.is_empty() {
        return Err(
            "give subscribe (messages for its input), publish (the subject of its output), or both"
                .into(),
        );
    }
    if filters.len() > MOST_FILTERS {
        return Err(format!("subscribe has at most {MOST_FILTERS} filters"));
    }
    if filters.iter().collect::<BTreeSet<_>>().len() < filters.len() {
        return Err("subscribe has a filter twice: each message would arrive twice".into());
    }
    raw_profile.check(["publish", "subscribe"])
}
