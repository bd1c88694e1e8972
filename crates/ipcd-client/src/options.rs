//! Options of connections and of subscriptions.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use ipcd_proto::auth::Token;
use ipcd_proto::control::OverflowPolicy;
use ipcd_transport::{Exposure, SecretFile};

use crate::{Error, Result};

/// The longest pause between two attempts to connect; a longer one counts as this.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Options of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name for this peer, of 1 to 64 bytes. The daemon refuses one that another peer has.
    pub name: Option<String>,
    /// The token to prove. The daemon asks for one where it knows only the address of a peer.
    pub token: TokenSource,
    /// The name of that token in the daemon's configuration; `None` for the daemon's own token.
    pub token_name: Option<String>,
    /// The longest wait for a connection, a confirmation or an answer.
    pub timeout: Duration,
    /// The pauses between attempts to connect again after a loss; `None` to stay disconnected.
    pub reconnect: Option<Backoff>,
    /// Whether subscriptions of this peer leave out its own messages.
    pub no_echo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            token: TokenSource::None,
            token_name: None,
            timeout: Duration::from_secs(5),
            reconnect: None,
            no_echo: false,
        }
    }
}

/// The place of the token.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// There is no token.
    None,
    /// The token is in this file, which is read only if the daemon asks for a token. A file that
    /// other users can read or change is refused.
    File(PathBuf),
    /// The token itself.
    Secret(Token),
}

impl fmt::Display for TokenSource {
    /// Names the place, and never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no token"),
            Self::File(path) => write!(f, "the token in {}", path.display()),
            Self::Secret(_) => f.write_str("the token given"),
        }
    }
}

impl TokenSource {
    /// A warning about a token file that is open to other users and protected by a directory only.
    /// The daemon warns of such a file, and takes it, too.
    pub fn warning(&self) -> Option<String> {
        let Self::File(path) = self else { return None };
        let is_sheltered =
            SecretFile::open(path).is_ok_and(|file| matches!(file.exposure(), Exposure::Sheltered));
        is_sheltered.then(|| {
            let path = path.display();
            format!("{path}: only a directory keeps other users from this token: chmod 600 it")
        })
    }

    /// Reads the token.
    pub(crate) fn load(&self) -> Result<Token> {
        match self {
            Self::None => Err(Error::Token("the daemon asks for one".into())),
            Self::Secret(token) => Ok(token.clone()),
            Self::File(path) => read_token(path),
        }
    }
}

fn read_token(path: &Path) -> Result<Token> {
    let failed = |what: String| Error::Token(format!("{}: {what}", path.display()));
    let file = SecretFile::open(path).map_err(|error| failed(error.to_string()))?;
    // A token that others know proves nothing about its holder, and one that others can change
    // may be that of a daemon of theirs. The daemon refuses such a file by the same rule.
    if file.exposure() == Exposure::Exposed {
        let mode = file.mode();
        return Err(failed(format!(
            "other users may read or change it (mode {mode:04o}): chmod 600 it, and change it if \
             they have seen it"
        )));
    }
    let text = file.read().map_err(|error| failed(error.to_string()))?;
    Token::from_text(&text).ok_or_else(|| failed("it is too short".into()))
}

/// Pauses between attempts to connect again. They double from the first to the longest. Each is up to
/// a half shorter at random, so that peers that were disconnected together do not return together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(20), longest: Duration::from_secs(2) }
    }
}

impl Backoff {
    /// The pauses, as an endless iterator.
    pub fn pauses(self) -> impl Iterator<Item = Duration> {
        // A float holds it: the product with one would panic beyond `Duration::MAX`.
        let longest = self.longest.min(LONGEST_PAUSE);
        let doubled = move |pause: &Duration| Some(pause.saturating_mul(2).min(longest));
        std::iter::successors(Some(self.first.min(LONGEST_PAUSE)), doubled).map(|pause| {
            // Without a source of randomness the pause is a whole one: still correct, only less even.
            let chance =
                getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX));
            pause.mul_f64(1.0 - chance / 2.0)
        })
    }
}

/// Options of a subscription.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// The group to share the messages with: each message goes to one subscriber of the same filter
    /// and group.
    pub group: Option<String>,
    /// The policy for a full send queue, when this client does not take messages fast enough; `None`
    /// for the daemon's choice.
    pub overflow: Option<OverflowPolicy>,
    /// Whether the daemon tells the identity of senders ([`Client::origin`](crate::Client::origin)).
    pub origin: bool,
    /// The number of messages, of all subscriptions together, after which this client leaves its
    /// groups. Other members then get the messages that it would leave unread. The limit has no
    /// effect without a group, nor on a transport that may lose messages: some of those counted
    /// would never come.
    pub limit: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ_by_chance() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(8) };
        let whole = [1, 2, 4, 8, 8, 8].map(Duration::from_secs);
        for (pause, whole) in backoff.pauses().zip(whole) {
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
        }
        let endless = Backoff { first: Duration::MAX, longest: Duration::MAX };
        assert!(endless.pauses().take(3).all(|pause| pause >= LONGEST_PAUSE / 2));
        let first: Vec<_> = (0..8).filter_map(|_| backoff.pauses().next()).collect();
        assert!(first.iter().any(|pause| *pause != first[0]), "{first:?}");
    }
}
