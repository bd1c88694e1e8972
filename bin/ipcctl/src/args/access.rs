//! The arguments of `acl`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub(crate) enum AclVerb {
    /// Check whether the access rules allow something: exit 0 if they do, else 6.
    ///
    /// The rule that decides is printed. The check is for the calling user, unless --uid, --gid,
    /// --user, --group, --listener, --token or --certificate describes another peer.
    Check(Box<CheckArgs>),
}

/// The arguments of `acl check`.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Check the rules in this configuration file. Without it, the daemon is asked for the rules in
    /// force, which needs the right `admin`.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) what: AccessArgs,
    /// A peer of this user, by number.
    #[arg(long, value_name = "UID", conflicts_with = "user")]
    pub(crate) uid: Option<u32>,
    /// A peer of this group, by number.
    #[arg(long, value_name = "GID", conflicts_with = "group")]
    pub(crate) gid: Option<u32>,
    /// A peer of this user, by name; and of its primary group, unless another is given.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A peer of this group, by name.
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// A peer of this listener, by its name or its endpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
    /// A peer that has proved this token; '' for the daemon's own token.
    #[arg(long, value_name = "NAME")]
    pub(crate) token: Option<String>,
    /// A peer with a certificate of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) certificate: Option<String>,
    /// With --sub: check for a member of a group, which must be allowed all of the filter.
    #[arg(long, requires = "subscribe")]
    pub(crate) member: bool,
}

/// The action to check.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AccessArgs {
    /// Check publishing on this subject; @ for messages to one peer.
    #[arg(long = "pub", value_name = "SUBJECT")]
    pub(crate) publish: Option<String>,
    /// Check subscribing to this filter, which may contain * and >.
    #[arg(long = "sub", value_name = "FILTER")]
    pub(crate) subscribe: Option<String>,
    /// Check registering under this name (--name).
    #[arg(long, value_name = "NAME")]
    pub(crate) named: Option<String>,
    /// Check administration: clients, subs, kick.
    #[arg(long)]
    pub(crate) admin: bool,
}
