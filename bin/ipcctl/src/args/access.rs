//! What `acl` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub(crate) enum AclVerb {
    /// Say whether the access rules allow something, and which rule decides: exit 0, or 6.
    Check(Box<CheckArgs>),
}

/// Without anything that says who, it is the caller.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Read the rules of this file. Otherwise the daemon is asked, by whom it takes orders from.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) what: AccessArgs,
    /// Somebody of this user number.
    #[arg(long, value_name = "UID", conflicts_with = "user")]
    pub(crate) uid: Option<u32>,
    /// Somebody of this group number.
    #[arg(long, value_name = "GID", conflicts_with = "group")]
    pub(crate) gid: Option<u32>,
    /// This user, and its own group unless another is given.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Somebody of this group.
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Somebody who came in by this listener: its name or its endpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
    /// Somebody who has proved this token; '' for the daemon's own.
    #[arg(long, value_name = "NAME")]
    pub(crate) token: Option<String>,
    /// Somebody who is known by a certificate of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) certificate: Option<String>,
    /// With --sub: as a member of a group of subscribers, who must be allowed all of it.
    #[arg(long, requires = "subscribe")]
    pub(crate) member: bool,
}

/// What is asked for.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AccessArgs {
    /// Publish to this subject; @ for messages to one peer.
    #[arg(long = "pub", value_name = "SUBJECT")]
    pub(crate) publish: Option<String>,
    /// Subscribe to this subject, in which * and > may stand.
    #[arg(long = "sub", value_name = "FILTER")]
    pub(crate) subscribe: Option<String>,
    /// Have this name (--name).
    #[arg(long, value_name = "NAME")]
    pub(crate) named: Option<String>,
    /// See other peers and cut them off: clients, subs, kick.
    #[arg(long)]
    pub(crate) admin: bool,
}
