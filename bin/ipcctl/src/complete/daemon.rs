//! The candidates that the running daemon knows.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;
use clap_complete::engine::CompletionCandidate;
use ipcd_client::{Answer, Client, PeerStatus, Query, SubscriptionStatus};

use crate::args::GlobalArgs;
use crate::context::Context;

/// The longest time for a connection and an answer: a person waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Options that say which daemon is meant, and how to reach it.
const REACHING: [&str; 4] = ["--via", "--runtime-dir", "--token-file", "--token-name"];

/// The daemon that a command line means. It is asked only if a word needs it.
#[derive(Clone)]
pub(super) struct DaemonView {
    /// The options of the command line that reach it.
    options: Vec<OsString>,
    /// The word that is completed.
    word: String,
}

/// Global options alone.
#[derive(Parser)]
struct ReachingOptions {
    #[command(flatten)]
    global: GlobalArgs,
}

impl DaemonView {
    pub(super) fn new(words: &[OsString]) -> Self {
        let word = words.last().map(|word| word.to_string_lossy().into_owned());
        Self { options: reaching_options(words), word: word.unwrap_or_default() }
    }

    /// The subjects that `recv` and `serve` may subscribe to: the filters of others.
    pub(super) fn filters(&self) -> Vec<CompletionCandidate> {
        let filters = self.subscriptions().into_iter().map(|found| found.filter);
        unique(filters).into_iter().map(CompletionCandidate::new).collect()
    }

    /// The subjects that `send` may publish on: the filters of others, up to their first wildcard; after an `@`,
    /// peers.
    pub(super) fn subjects(&self) -> Vec<CompletionCandidate> {
        if self.word.starts_with('@') {
            return self.peers().into_iter().map(|peer| peer.add_prefix("@")).collect();
        }
        let filters = self.subscriptions().into_iter().map(|found| found.filter);
        let subjects = filters.map(|filter| fixed_part(&filter).to_owned());
        let subjects = unique(subjects.filter(|subject| !subject.is_empty()));
        subjects.into_iter().map(CompletionCandidate::new).collect()
    }

    pub(super) fn groups(&self) -> Vec<CompletionCandidate> {
        let groups = self.subscriptions().into_iter().filter_map(|found| found.group);
        unique(groups).into_iter().map(CompletionCandidate::new).collect()
    }

    /// Peers by name, else by id.
    pub(super) fn peers(&self) -> Vec<CompletionCandidate> {
        let Some((own, answers)) = self.ask(&Query::Peers) else { return Vec::new() };
        let peers = answers.into_iter().filter_map(|answer| match answer {
            Answer::Peers(peers) => Some(peers),
            _ => None,
        });
        let others = peers.flatten().filter(|peer| peer.origin.peer != own);
        others.map(|peer| peer_candidate(&peer)).collect()
    }

    /// The transports, and the endpoints of the daemon.
    pub(super) fn endpoints(&self) -> Vec<CompletionCandidate> {
        let transports = ipcd_transports::ALL.iter().map(|transport| {
            let summary = transport.capabilities().summary;
            CompletionCandidate::new(transport.scheme()).help(Some(summary.into()))
        });
        transports.chain(self.listeners()).collect()
    }

    /// The beginnings of the sides of a relay, and the endpoints of the daemon.
    pub(super) fn sides(&self) -> Vec<CompletionCandidate> {
        let schemes = ipcd_transports::schemes().map(|scheme| format!("{scheme}:"));
        let schemes = schemes.chain(["ipcd:".to_owned()]).map(CompletionCandidate::new);
        schemes.chain(self.listeners()).collect()
    }

    fn listeners(&self) -> impl Iterator<Item = CompletionCandidate> {
        // An endpoint has a colon. Without one in sight the transports are enough.
        let is_endpoint = self.word.contains(':');
        let answer = if is_endpoint { self.ask(&Query::Status) } else { None };
        let status = answer.and_then(|(_, mut answers)| match answers.pop() {
            Some(Answer::Status(status)) => Some(status),
            _ => None,
        });
        let listeners = status.map(|status| status.listeners).unwrap_or_default();
        listeners.into_iter().map(|listener| CompletionCandidate::new(listener.endpoint))
    }

    fn subscriptions(&self) -> Vec<SubscriptionStatus> {
        let answers = self.ask(&Query::Subscriptions).map(|(_, answers)| answers);
        let found = answers.into_iter().flatten().filter_map(|answer| match answer {
            Answer::Subscriptions(found) => Some(found),
            _ => None,
        });
        found.flatten().collect()
    }

    /// The answers of the daemon, and our own peer id there.
    fn ask(&self, query: &Query) -> Option<(u64, Vec<Answer>)> {
        let options = ReachingOptions::try_parse_from(&self.options).ok()?;
        let context = Context::new(options.global);
        let options = ipcd_client::Options { timeout: PATIENCE, ..context.options() };
        let mut client = Client::connect(&context.endpoint().ok()?, options).ok()?;
        let answers = client.query(query).ok()?;
        Some((client.peer(), answers))
    }
}

fn peer_candidate(peer: &PeerStatus) -> CompletionCandidate {
    let origin = &peer.origin;
    let text = origin.name.clone().unwrap_or_else(|| origin.peer.to_string());
    CompletionCandidate::new(text).help(Some(format!("on {}", origin.transport).into()))
}

/// The part of a filter before its first wildcard.
fn fixed_part(filter: &str) -> &str {
    let is_wildcard = |token: &str| token == "*" || token == ">";
    let fixed = filter.split('.').take_while(|token| !is_wildcard(token));
    let length: usize = fixed.map(|token| token.len() + 1).sum();
    // Without a wildcard there is no dot after the last token.
    &filter[..length.min(filter.len())]
}

fn unique(texts: impl Iterator<Item = String>) -> Vec<String> {
    let sorted: std::collections::BTreeSet<String> = texts.collect();
    sorted.into_iter().collect()
}

/// The program, and those options among the words that are complete.
fn reaching_options(words: &[OsString]) -> Vec<OsString> {
    let (Some(program), Some(given)) = (words.first(), words.get(1..words.len() - 1)) else {
        return vec!["ipcctl".into()];
    };
    let given: Vec<&OsString> = given.iter().take_while(|word| *word != "--").collect();
    let is_joined = |word: &OsString| {
        let name = word.to_str().and_then(|text| text.split_once('='));
        name.is_some_and(|(name, _)| REACHING.contains(&name))
    };
    let pairs = given.windows(2).filter(|pair| REACHING.iter().any(|name| pair[0] == name));
    let joined = given.iter().copied().filter(|word| is_joined(word));
    let options = pairs.flatten().copied().chain(joined);
    [program].into_iter().chain(options).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_ends_before_the_first_wildcard() {
        for (filter, fixed) in [
            ("logs.web", "logs.web"),
            ("logs.>", "logs."),
            ("*", ""),
            ("a.*.b", "a."),
            ("a*.b", "a*.b"),
            (">", ""),
        ] {
            assert_eq!(fixed_part(filter), fixed, "{filter}");
        }
    }

    #[test]
    fn options_that_reach_the_daemon_are_found() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, options) in [
            ("ipcctl send --via tcp -H a:b lo", "ipcctl --via tcp"),
            ("ipcctl --runtime-dir=/r recv -C 1 lo", "ipcctl --runtime-dir=/r"),
            ("ipcctl recv --via", "ipcctl"),
            ("ipcctl recv a --exec -- x --via y z", "ipcctl"),
        ] {
            assert_eq!(reaching_options(&words(line)), words(options), "{line}");
        }
    }
}
