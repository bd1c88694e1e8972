//! How to connect, and what to subscribe to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use ipcd_proto::auth::Token;
use ipcd_proto::control::Overflow;
use ipcd_transport::{Exposure, SecretFile};

use crate::{Error, Result};

/// The longest pause between two attempts to connect; a longer one counts as this.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name that no other peer has.
    pub name: Option<String>,
    /// The proof for transports on which only an address is known.
    pub token: TokenSource,
    /// Which of the daemon's named tokens that is; `None` for the daemon's own.
    pub token_name: Option<String>,
    /// How long to wait for a connection or an answer.
    pub timeout: Duration,
    /// Whether to connect again when the connection is lost, and how patiently.
    pub reconnect: Option<Backoff>,
    /// Whether own messages are kept from own subscriptions.
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

/// Where the token is.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Nowhere.
    None,
    /// In this file, which is read only if the daemon asks for a token.
    File(PathBuf),
    /// Here.
    Secret(Token),
}

impl fmt::Display for TokenSource {
    /// Where the token is; not what it is.
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

/// How patiently to connect again: pauses double from the first to the longest, and each is up to a half
/// shorter by chance, so that those who were disconnected together do not come together.
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
    /// The pauses, without end.
    pub fn pauses(self) -> impl Iterator<Item = Duration> {
        // A float holds it: the product with one would panic beyond `Duration::MAX`.
        let longest = self.longest.min(LONGEST_PAUSE);
        let doubled = move |pause: &Duration| Some(pause.saturating_mul(2).min(longest));
        std::iter::successors(Some(self.first.min(LONGEST_PAUSE)), doubled).map(|pause| {
            // Without randomness they are whole.
            let chance =
                getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX));
            pause.mul_f64(1.0 - chance / 2.0)
        })
    }
}

/// How to subscribe.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// Share the work with the other subscribers of this filter and group: each message goes to
    /// one of them.
    pub group: Option<String>,
    /// What happens when this client does not take messages fast enough; `None` for the daemon's
    /// choice.
    pub overflow: Option<Overflow>,
    /// Whether to be told who senders are.
    pub origin: bool,
    /// Of a member of a group: after so many messages in all, whatever they are for, this client is a
    /// member of no group any more. What it would leave unread goes to other members. Where the
    /// transport may lose messages there is no such end, for some of them might never come.
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
