//! What users type.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipcd_server::Span;

mod access;
mod bench;
mod messages;
mod relay;

pub(crate) use access::{AclVerb, CheckArgs};
pub(crate) use bench::{ArrivalPattern, BenchArgs, BenchLayer, BenchMode, BenchPeer, VerifyLevel};
pub(crate) use messages::{
    AckLevel, BodyArgs, ChatArgs, OverflowArg, RecvArgs, ReplyArgs, ReqArgs, SendArgs, ServeArgs,
};
pub(crate) use relay::RelayArgs;

/// The tool of the ipcd daemon: send and receive messages, and look at the daemon.
#[derive(Parser)]
#[command(name = "ipcctl", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The variable that stands for `--via`.
pub(crate) const VIA: &str = "IPCD_VIA";

/// Where help lists them.
const GLOBAL: &str = "Options of every verb";

/// Options of every verb.
#[derive(Args)]
pub(crate) struct GlobalArgs {
    /// How to reach the daemon: a transport (unix, pipe, fifo, tcp, udp) or an endpoint.
    #[arg(long, global = true, help_heading = GLOBAL, env = VIA, default_value = "unix", value_name = "VIA")]
    pub(crate) via: String,
    /// How long to wait for a connection, a confirmation or an answer.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "5s", value_name = "DURATION")]
    pub(crate) timeout: Span,
    /// How to print: text, json, or jsonl (an object a line).
    #[arg(short, long, global = true, help_heading = GLOBAL, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// The same as --output json.
    #[arg(short, global = true, help_heading = GLOBAL, conflicts_with = "output")]
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
    pub(crate) color: ColorChoice,
}

/// How to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OutputFormat {
    Text,
    Json,
    Jsonl,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ColorChoice {
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
    /// Send a request and print the reply.
    #[command(visible_alias = "request")]
    Req(ReqArgs),
    /// Answer requests: with what they hold, with a fixed reply, or with a command's output.
    #[command(visible_alias = "reply")]
    Serve(ServeArgs),
    /// Talk to others on a subject, line by line.
    Chat(ChatArgs),
    /// Listen at one endpoint, connect to another for each peer, and move messages or bytes.
    Relay(RelayArgs),
    /// Measure how long the daemon takes to answer.
    Ping(PingArgs),
    /// What each transport promises.
    Transports,
    /// The daemon, its workers, listeners and counters.
    Status,
    /// Every peer of the daemon.
    Clients,
    /// Every subscription, and what became of its messages.
    Subs,
    /// Cut a peer off.
    Kick {
        /// Its id or its name, as `clients` tells them.
        #[arg(value_name = "ID|NAME")]
        who: String,
    },
    /// The access rules.
    #[command(subcommand)]
    Acl(AclVerb),
    /// Measure local IPC: bare, with the transports of ipcd, and through the daemon.
    Bench(Box<BenchArgs>),
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

#[derive(Args)]
pub(crate) struct PingArgs {
    /// Ping so many times.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u64,
    /// Wait so long between pings.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    pub(crate) interval: Span,
    /// End with exit status 10 if a round trip takes longer.
    #[arg(long, value_name = "DURATION")]
    pub(crate) max: Option<Span>,
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
