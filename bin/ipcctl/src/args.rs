//! What users type.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipcd_server::Span;

/// The tool of the ipcd daemon: send and receive messages, and look at the daemon.
#[derive(Parser)]
#[command(name = "ipcctl", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Where help lists them.
const GLOBAL: &str = "Options of every verb";

/// Options of every verb.
#[derive(Args)]
pub(crate) struct Global {
    /// How to reach the daemon: a transport (unix, pipe, fifo, tcp, udp) or an endpoint.
    #[arg(long, global = true, help_heading = GLOBAL, env = "IPCD_VIA", default_value = "unix", value_name = "VIA")]
    pub(crate) via: String,
    /// How long to wait for a connection, a confirmation or an answer.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "5s", value_name = "DURATION")]
    pub(crate) timeout: Span,
    /// How to print: text, json, or jsonl (an object a line).
    #[arg(short, long, global = true, help_heading = GLOBAL, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: Format,
    /// The same as --output json.
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "output")]
    pub(crate) json: bool,
    /// A name for this peer that no other has.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The token to prove over TCP and UDP, instead of the one in the runtime directory.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Which of the daemon's named tokens that is.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    pub(crate) token_name: Option<String>,
    /// Where the daemon's sockets, FIFOs and token are.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Print no remarks on standard error.
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Whether to use colours.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,
}

/// How to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Jsonl,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Send messages to a subject.
    #[command(visible_alias = "pub")]
    Send(SendArgs),
    /// Receive the messages of subjects.
    #[command(visible_alias = "sub")]
    Recv(RecvArgs),
    /// Measure how long the daemon takes to answer.
    Ping(PingArgs),
    /// What each transport promises.
    Transports,
    /// The daemon, its workers, listeners and counters.
    Status,
    /// Every peer of the daemon.
    Clients,
    /// Cut a peer off.
    Kick {
        /// Its id, as `clients` tells it.
        id: u64,
    },
    /// Start a private daemon and send between every pair of transports.
    Demo(DemoArgs),
    #[command(hide = true)]
    DemoSender(DemoPeerArgs),
    #[command(hide = true)]
    DemoReceiver(DemoPeerArgs),
    /// Print a script that completes arguments in a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
    /// Print the version.
    Version,
}

/// Without a body, standard input is sent: all of it as one message, unless -l or -0 is given.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// Where the message goes, such as logs.web.
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
    pub(crate) ack: Ack,
    /// Wait until so many subscriptions match first.
    #[arg(long, value_name = "N")]
    pub(crate) wait_subs: Option<u64>,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct BodyArgs {
    /// The message; after -- if it looks like an option.
    #[arg(allow_hyphen_values = true)]
    pub(crate) body: Option<String>,
    /// The message.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<String>,
    /// The message is what this file holds.
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
pub(crate) enum Ack {
    /// Nothing.
    None,
    /// Until the daemon has accepted all messages.
    Accepted,
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
    #[arg(short = 'N', long)]
    pub(crate) no_newline: bool,
    /// End when the connection is lost, instead of making it again.
    #[arg(long)]
    pub(crate) no_reconnect: bool,
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

#[derive(Args)]
pub(crate) struct PingArgs {
    /// Ping so many times.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u64,
    /// Wait so long between pings.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    pub(crate) interval: Span,
}

#[derive(Args, Clone)]
pub(crate) struct DemoArgs {
    /// Messages of each pair.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) messages: u64,
    /// Bytes of the longest message; lengths go from 1 to this.
    #[arg(long, default_value_t = 8000, value_name = "BYTES")]
    pub(crate) size: usize,
    /// Round trips measured of each pair.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) pings: u64,
}

/// What a process of the demo is told.
#[derive(Args)]
pub(crate) struct DemoPeerArgs {
    #[command(flatten)]
    pub(crate) load: DemoArgs,
}
