//! The arguments of the verbs for shells and manual pages.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The arguments of `complete`, which the completion scripts call.
#[derive(Args)]
pub(crate) struct CompleteArgs {
    /// The shell that calls.
    pub(crate) shell: CallingShell,
    /// The words up to the cursor. bash gives the line up to the cursor and the part of its last word
    /// that bash replaces.
    #[arg(last = true)]
    pub(crate) words: Vec<OsString>,
}

/// The shells whose completion asks the running daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum CallingShell {
    Bash,
    Zsh,
    Fish,
}

/// The arguments of `man`.
#[derive(Args)]
pub(crate) struct ManArgs {
    /// Print the page of this verb [default: the page of ipcctl].
    #[arg(value_name = "VERB")]
    pub(crate) verb: Vec<String>,
    /// Write all pages into this directory instead.
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    pub(crate) into: Option<PathBuf>,
}
