//! What users type to send and receive messages.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipcd_server::{ByteCount, Span};

/// Without a body, standard input is sent: all of it as one message, unless -l or -0 is given.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// Where the message goes, such as logs.web; or @NAME or @ID for one peer.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// A header of each message; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    pub(crate) headers: Vec<String>,
    /// Where answers should go.
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) reply: Option<String>,
    /// Send the body so many times.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u64,
    /// Wait so long between messages.
    #[arg(long, value_name = "DURATION")]
    pub(crate) interval: Option<Span>,
    /// What to wait for at the end.
    #[arg(long, default_value = "accepted", value_name = "WHAT")]
    pub(crate) ack: AckLevel,
    /// Wait until so many subscriptions match first.
    #[arg(long, value_name = "N")]
    pub(crate) wait_subs: Option<u64>,
    /// Wait for a daemon that is not there, also when the connection is lost; what it had not
    /// accepted by then is sent again.
    #[arg(long)]
    pub(crate) reconnect: bool,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct BodyArgs {
    /// The message; after -- if it looks like an option.
    #[arg(allow_hyphen_values = true)]
    pub(crate) body: Option<OsString>,
    /// The message.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<OsString>,
    /// The message is what this file holds; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A message for each line of standard input.
    #[arg(short, long)]
    pub(crate) lines: bool,
    /// A message for each part of standard input that a NUL ends.
    #[arg(short = '0', long)]
    pub(crate) nul: bool,
    /// One message: all of standard input (the default without a body).
    #[arg(short, long)]
    pub(crate) stdin: bool,
    /// An empty message.
    #[arg(short = 'n', long)]
    pub(crate) empty: bool,
}

/// What to wait for at the end of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum AckLevel {
    /// Nothing.
    None,
    /// Until the daemon has accepted all messages.
    Accepted,
    /// Until every copy of every message is at its receiver or dropped.
    Delivered,
}

/// On standard output come payloads, and nothing else.
#[derive(Args)]
pub(crate) struct RecvArgs {
    /// What to receive: subjects, in which * stands for a token and a last > for one or more.
    #[arg(required = true, value_name = "SUBJECT")]
    pub(crate) subjects: Vec<String>,
    /// End after so many messages.
    #[arg(short = 'C', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after this time; with --count, exit status 4 if it was not reached.
    #[arg(short = 'W', long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
    /// End when nothing came for this time.
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle: Option<Span>,
    /// Share the messages with the other members of this group: each goes to one of them.
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// What happens when this peer does not take messages fast enough.
    #[arg(long, value_name = "WHAT")]
    pub(crate) overflow: Option<OverflowArg>,
    /// Say "subscribed" on standard error when everything that is sent from now on will come.
    #[arg(short = 'E', long)]
    pub(crate) announce: bool,
    /// Print the subject before each payload.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print no newline after a payload.
    #[arg(short = 'N', long, conflicts_with = "nul")]
    pub(crate) no_newline: bool,
    /// Print a NUL after a payload, instead of a newline.
    #[arg(short = '0', long)]
    pub(crate) nul: bool,
    /// How to print a message, such as '%s %p'.
    ///
    /// %s subject, %p payload, %x payload in hexadecimal digits, %l its length, %r reply subject,
    /// %i the sender's number for the message, %f the sender's id, %n its name, %T its transport,
    /// %t the time, %h headers as KEY:VALUE,KEY:VALUE, %% a percent sign; \n, \t, \0, \\.
    #[arg(short = 'F', long, value_name = "FORMAT", conflicts_with = "verbose")]
    pub(crate) format: Option<String>,
    /// Run a command for each message, one at a time, with the payload on its standard input.
    #[arg(long, requires = "command", conflicts_with_all = ["verbose", "no_newline", "nul", "format"])]
    pub(crate) exec: bool,
    /// The command and its arguments.
    #[arg(last = true, requires = "exec", value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
    /// End when the connection is lost, instead of making it again.
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// Wait also for a daemon that is not there yet.
    #[arg(long, conflicts_with = "no_reconnect")]
    pub(crate) reconnect: bool,
}

/// What happens when a subscriber's outbox is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OverflowArg {
    /// Senders wait.
    Block,
    /// The oldest messages are dropped.
    DropOldest,
    /// New messages are dropped.
    DropNewest,
    /// This peer is cut off.
    Disconnect,
}

/// The reply is printed as it is, with a newline if it does not end in one.
///
/// Without a body, standard input is sent: all of it as one request, unless -l or -0 is given.
#[derive(Args)]
pub(crate) struct ReqArgs {
    /// Where the request goes, such as jobs.resize; or @NAME or @ID for one peer.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// A header of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE")]
    pub(crate) headers: Vec<String>,
    /// Wait for so many replies.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) replies: u64,
    /// How long to wait for each reply after the first; as --timeout if it is not given.
    #[arg(long, value_name = "DURATION")]
    pub(crate) reply_timeout: Option<Span>,
    /// Wait until so many subscriptions match first.
    #[arg(long, value_name = "N")]
    pub(crate) wait_subs: Option<u64>,
    /// Print no newline after a reply.
    #[arg(short = 'N', long)]
    pub(crate) no_newline: bool,
}

/// Messages that ask for no reply are handled too.
// Left to itself, the usage would have what is required first, and so the reply before the subject.
#[derive(Args)]
#[command(
    override_usage = "ipcctl serve [OPTIONS] <SUBJECT> <BODY|-m TEXT|-f FILE|-n|--echo>\n       \
                            ipcctl serve [OPTIONS] <SUBJECT> -- <CMD>..."
)]
pub(crate) struct ServeArgs {
    /// Which requests to answer: a subject, in which * stands for a token and a last > for one or
    /// more.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) reply: ReplyArgs,
    /// Share the requests with the other members of this group: each goes to one of them.
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Run so many commands at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: u16,
    /// End a command that takes longer, with all that it has started; 0 for never.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) job_timeout: Span,
    /// End a command whose output is longer; the daemon's largest payload if it is not given.
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_output: Option<ByteCount>,
    /// Say "subscribed" on standard error when everything that is asked from now on will come.
    #[arg(short = 'E', long)]
    pub(crate) announce: bool,
    /// Wait also for a daemon that is not there yet.
    #[arg(long)]
    pub(crate) reconnect: bool,
}

/// What `serve` replies with.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReplyArgs {
    /// The reply; with -m if it begins with a hyphen.
    pub(crate) body: Option<OsString>,
    /// The reply.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<OsString>,
    /// The reply is what this file holds; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// An empty reply.
    #[arg(short = 'n', long)]
    pub(crate) empty: bool,
    /// The reply is the payload of the request.
    #[arg(long)]
    pub(crate) echo: bool,
    /// A command that is run for each request: the payload on its standard input, the reply on its
    /// standard output.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Each line of standard input is sent, and what others send is printed with who sent it. "exit" or
/// the end of input leaves.
#[derive(Args)]
pub(crate) struct ChatArgs {
    /// The subject on which to talk.
    pub(crate) subject: String,
    /// Wait also for a daemon that is not there yet.
    #[arg(long)]
    pub(crate) reconnect: bool,
}
