//! The command line of `ipcctl`, as clap parses it. Doc comments here are the text of `--help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipcd_server::TimeSpan;
use ipcd_transports::{DEFAULT_VIA, VIA_VAR};

mod access;
mod bench;
mod completion;
mod messages;
mod relay;

pub(crate) use access::{AclVerb, CheckArgs};
pub(crate) use bench::{ArrivalPattern, BenchArgs, BenchLayer, BenchMode, BenchPeer, VerifyLevel};
pub(crate) use completion::{CallingShell, CompleteArgs, ManArgs};
pub(crate) use messages::{
    AckLevel, BodyArgs, ChatArgs, OverflowArg, RecvArgs, ReplyArgs, ReqArgs, SendArgs, ServeArgs,
};
pub(crate) use relay::RelayArgs;

/// Send and receive messages through the ipcd daemon, and inspect the daemon.
#[derive(Parser)]
#[command(name = "ipcctl", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Their heading in the help.
const GLOBAL: &str = "Global options";

/// The options that every verb takes.
#[derive(Args)]
pub(crate) struct GlobalArgs {
    /// Connect to the daemon by this endpoint or transport (see `ipcctl transports`).
    #[arg(long, global = true, help_heading = GLOBAL, env = VIA_VAR, default_value = DEFAULT_VIA, value_name = "VIA")]
    pub(crate) via: String,
    /// Wait at most this long for a connection, a confirmation or an answer; then exit 4.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "5s", value_name = "DURATION")]
    pub(crate) timeout: TimeSpan,
    /// Print text, json, or jsonl (one JSON object per line).
    #[arg(short, long, global = true, help_heading = GLOBAL, default_value = "text", value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// Print JSON, as --output json.
    #[arg(short, global = true, help_heading = GLOBAL, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Register under this name. The daemon refuses a name that another peer has.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Prove the token in this file, instead of the one in the runtime directory.
    ///
    /// The daemon asks for a token where it knows no more of a peer than an address. A file that
    /// other users can read or change is refused.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The name of that token in the daemon's configuration (a token table).
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    pub(crate) token_name: Option<String>,
    /// Look for the daemon's sockets, FIFOs and token in this directory.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Print errors only: no remarks on standard error.
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Accepted for compatibility. Output has no colours in this version.
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: ColorChoice,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OutputFormat {
    Text,
    Json,
    Jsonl,
}

/// The use of colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Send messages to a subject or to one peer.
    ///
    /// Without a body, all of standard input is sent as one message. ipcctl exits with 0 once the
    /// daemon has accepted every message; that says nothing about receivers (see --ack).
    #[command(visible_alias = "pub")]
    Send(SendArgs),
    /// Receive the messages on subjects, and print them.
    ///
    /// Standard output carries payloads and nothing else. Remarks go to standard error.
    #[command(visible_alias = "sub")]
    Recv(RecvArgs),
    /// Send a request, and print the reply.
    ///
    /// The reply is printed unchanged, with a newline if it does not end in one. Without a body, all
    /// of standard input is sent as one request.
    #[command(visible_alias = "request")]
    Req(ReqArgs),
    /// Answer requests with their own payload, a fixed reply, or the output of a command.
    ///
    /// A message that is not a request is handled as well, and gets no reply.
    #[command(visible_alias = "reply")]
    Serve(ServeArgs),
    /// Chat on a subject: send the lines of standard input, print the lines of others.
    ///
    /// Each line is printed with its sender's name. A line "exit" or the end of standard input ends
    /// the chat.
    Chat(ChatArgs),
    /// Connect any endpoint to any other, without a daemon.
    ///
    /// The relay listens at A, connects to B for each peer of A, and moves messages both ways. A and
    /// B are endpoints, or ipcd:SUBJECT for a subject of the daemon.
    ///
    /// The codec of a side (codec=line, nul or raw in its endpoint, or --codec) divides its bytes
    /// into messages. The default is a record where the transport has records, else a line. --raw
    /// moves bytes without looking for messages.
    Relay(RelayArgs),
    /// Measure the round trip to the daemon.
    Ping(PingArgs),
    /// List the transports and their guarantees.
    Transports,
    /// Show the daemon, its workers, listeners and counters.
    Status,
    /// List the peers of the daemon.
    Clients,
    /// List the subscriptions, and count their messages: delivered, dropped, queued.
    Subs,
    /// Disconnect a peer.
    Kick {
        /// The id or the name of the peer, as `ipcctl clients` lists them.
        #[arg(value_name = "ID|NAME")]
        who: String,
    },
    /// Check the access rules.
    #[command(subcommand)]
    Acl(AclVerb),
    /// Measure local IPC: the bare primitives, the transports of ipcd, and the daemon.
    Bench(Box<BenchArgs>),
    /// Start a private daemon, and send messages between every pair of transports.
    Demo(DemoArgs),
    #[command(hide = true)]
    DemoSender(DemoPeerArgs),
    #[command(hide = true)]
    DemoReceiver(DemoPeerArgs),
    /// Print a completion script for a shell.
    ///
    /// In bash, zsh and fish it completes subjects, groups, peers and endpoints of the running daemon
    /// as well.
    Completion {
        /// The shell.
        shell: Shell,
    },
    #[command(hide = true)]
    Complete(CompleteArgs),
    /// Print a manual page: ipcctl man recv | man -l -
    Man(ManArgs),
    /// Print the version of ipcctl and of the protocol.
    Version,
}

#[derive(Args)]
pub(crate) struct PingArgs {
    /// Send this many pings.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub(crate) count: u64,
    /// Wait this long between pings.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    pub(crate) interval: TimeSpan,
    /// Exit with status 10 if a round trip takes longer.
    #[arg(long, value_name = "DURATION")]
    pub(crate) max: Option<TimeSpan>,
}

#[derive(Args, Clone)]
pub(crate) struct DemoArgs {
    /// Send this many messages between each pair.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) messages: u64,
    /// Send messages of 1 byte up to this many bytes.
    #[arg(long, default_value_t = 8000, value_name = "BYTES")]
    pub(crate) size: usize,
    /// Measure this many round trips between each pair.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) pings: u64,
}

/// The arguments of a process of the demo.
#[derive(Args)]
pub(crate) struct DemoPeerArgs {
    #[command(flatten)]
    pub(crate) load: DemoArgs,
}
