//! The arguments of the verbs that send and receive messages.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipcd_server::{ByteCount, TimeSpan};

/// The arguments of `send`.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// The subject to publish on, such as logs.web; or @NAME or @ID for one peer.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// Add a header to each message. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    pub(crate) headers: Vec<String>,
    /// Set a reply subject, for receivers that use it. Use `req` to wait for a reply.
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) reply: Option<String>,
    /// Send each message this many times.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u64,
    /// Wait this long between messages.
    #[arg(long, value_name = "DURATION")]
    pub(crate) interval: Option<TimeSpan>,
    /// Wait at the end for this level of acknowledgement.
    #[arg(long, default_value = "accepted", value_name = "LEVEL")]
    pub(crate) ack: AckLevel,
    /// First wait until this many subscriptions match the subject.
    #[arg(long, value_name = "N")]
    pub(crate) wait_subs: Option<u64>,
    /// Wait for the daemon at the start, and reconnect after a loss. Messages that the daemon had not
    /// confirmed are sent again.
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct BodyArgs {
    /// The message. Write -- before a message that looks like an option.
    #[arg(allow_hyphen_values = true)]
    pub(crate) body: Option<OsString>,
    /// Send this text.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<OsString>,
    /// Send the contents of this file; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Send a message for each line of standard input.
    #[arg(short, long)]
    pub(crate) lines: bool,
    /// Send a message for each NUL-terminated part of standard input.
    #[arg(short = '0', long)]
    pub(crate) nul: bool,
    /// Send all of standard input as one message (the default without a body).
    #[arg(short, long)]
    pub(crate) stdin: bool,
    /// Send an empty message.
    #[arg(short = 'n', long)]
    pub(crate) empty: bool,
}

/// The acknowledgement that `send` waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum AckLevel {
    /// Wait for nothing; only write.
    None,
    /// Wait until the daemon has accepted all messages.
    Accepted,
    /// Wait until every copy of every message is delivered or dropped.
    Delivered,
}

/// The arguments of `recv`.
#[derive(Args)]
pub(crate) struct RecvArgs {
    /// The subjects to subscribe to: * matches one token, a final > one or more.
    #[arg(required = true, value_name = "SUBJECT")]
    pub(crate) subjects: Vec<String>,
    /// Exit after this many messages.
    #[arg(short = 'C', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Exit after this time; with status 4 if --count was not reached.
    #[arg(short = 'W', long, value_name = "DURATION")]
    pub(crate) wait: Option<TimeSpan>,
    /// Exit when no message has come for this time.
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle: Option<TimeSpan>,
    /// Join this group: each message goes to one of its members.
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// The policy when this receiver is too slow and its send queue is full.
    #[arg(long, value_name = "POLICY")]
    pub(crate) overflow: Option<OverflowArg>,
    /// Print "subscribed" on standard error once every message sent from then on will come.
    #[arg(short = 'E', long)]
    pub(crate) announce: bool,
    /// Print the subject before each payload.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print no newline after each payload.
    #[arg(short = 'N', long, conflicts_with = "nul")]
    pub(crate) no_newline: bool,
    /// Print a NUL after each payload, instead of a newline.
    #[arg(short = '0', long)]
    pub(crate) nul: bool,
    /// Print each message in this format, such as '%s %p'.
    ///
    /// %s subject, %p payload, %x payload in hexadecimal digits, %l its length, %r reply subject,
    /// %i the sender's number for the message, %f the sender's id, %n its name, %T its transport,
    /// %t the time, %h headers as KEY:VALUE,KEY:VALUE, %% a percent sign. The escapes \n, \t, \0
    /// and \\ stand for newline, tab, NUL and backslash.
    #[arg(short = 'F', long, value_name = "FORMAT", conflicts_with = "verbose")]
    pub(crate) format: Option<String>,
    /// Run the command after -- for each message, one at a time, with the payload on its standard
    /// input.
    #[arg(long, requires = "command", conflicts_with_all = ["verbose", "no_newline", "nul", "format"])]
    pub(crate) exec: bool,
    /// The command and its arguments.
    #[arg(last = true, requires = "exec", value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
    /// Exit when the connection is lost, instead of reconnecting.
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// Wait for a daemon that is not running yet.
    #[arg(long, conflicts_with = "no_reconnect")]
    pub(crate) reconnect: bool,
}

/// The policy for a subscriber whose send queue is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OverflowArg {
    /// Senders wait.
    Block,
    /// Drop the oldest messages.
    DropOldest,
    /// Drop new messages.
    DropNewest,
    /// Disconnect this receiver.
    Disconnect,
}

/// The arguments of `req`.
#[derive(Args)]
pub(crate) struct ReqArgs {
    /// The subject to send the request to, such as jobs.resize; or @NAME or @ID for one peer.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// Add a header to the request. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    pub(crate) headers: Vec<String>,
    /// Wait for this many replies.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) replies: u64,
    /// Wait at most this long for each reply after the first [default: as --timeout].
    #[arg(long, value_name = "DURATION")]
    pub(crate) reply_timeout: Option<TimeSpan>,
    /// First wait until this many subscriptions match the subject.
    #[arg(long, value_name = "N")]
    pub(crate) wait_subs: Option<u64>,
    /// Print no newline after each reply.
    #[arg(short = 'N', long)]
    pub(crate) no_newline: bool,
}

/// The arguments of `serve`.
// clap would put required options first, and so the reply before the subject.
#[derive(Args)]
#[command(
    override_usage = "ipcctl serve [OPTIONS] <SUBJECT> <BODY|-m TEXT|-f FILE|-n|--echo>\n       \
                            ipcctl serve [OPTIONS] <SUBJECT> -- <CMD>..."
)]
pub(crate) struct ServeArgs {
    /// The subject to answer requests on: * matches one token, a final > one or more.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) reply: ReplyArgs,
    /// Join this group: each request goes to one of its members.
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Run at most this many commands at the same time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: u16,
    /// Kill a command, and every process it has started, after this time; 0 for no limit.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) job_timeout: TimeSpan,
    /// Kill a command that prints more than this [default: the daemon's largest payload].
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_output: Option<ByteCount>,
    /// Print "subscribed" on standard error once every request sent from then on will come.
    #[arg(short = 'E', long)]
    pub(crate) announce: bool,
    /// Wait for a daemon that is not running yet.
    #[arg(long)]
    pub(crate) reconnect: bool,
}

/// The source of the replies of `serve`.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReplyArgs {
    /// The reply. Use -m for a reply that begins with a hyphen.
    pub(crate) body: Option<OsString>,
    /// Reply with this text.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<OsString>,
    /// Reply with the contents of this file; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Reply with an empty message.
    #[arg(short = 'n', long)]
    pub(crate) empty: bool,
    /// Reply with the payload of the request.
    #[arg(long)]
    pub(crate) echo: bool,
    /// Run this command for each request: it reads the payload on standard input, and its standard
    /// output is the reply.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// The arguments of `chat`.
#[derive(Args)]
pub(crate) struct ChatArgs {
    /// The subject to chat on.
    pub(crate) subject: String,
    /// Wait for a daemon that is not running yet.
    #[arg(long)]
    pub(crate) reconnect: bool,
}
