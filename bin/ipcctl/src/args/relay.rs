//! The arguments of `relay`.

use clap::Args;
use ipcd_proto::Codec;

/// The arguments of `relay`.
#[derive(Args)]
pub(crate) struct RelayArgs {
    /// The endpoint to listen at, such as tcp://127.0.0.1:9000.
    #[arg(value_name = "A")]
    pub(crate) from: String,
    /// The endpoint to connect to for each peer, such as unix:///run/x.sock or pipe:COMMAND.
    #[arg(value_name = "B")]
    pub(crate) to: String,
    /// Divide bytes into messages by this codec at a side without codec=, such as a command: line,
    /// nul or raw.
    #[arg(long, value_name = "CODEC", conflicts_with = "raw")]
    pub(crate) codec: Option<Codec>,
    /// Move bytes, without looking for messages.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Serve each peer in a child process of its own.
    #[arg(long)]
    pub(crate) fork: bool,
    /// Run at most this many children. Further peers wait.
    #[arg(long, requires = "fork", default_value_t = 256, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_children: u32,
    /// Describe the peer to a command in the variables of UCSPI: PROTO, TCPREMOTEIP,
    /// UNIXREMOTEEUID and so on.
    #[arg(long)]
    pub(crate) ucspi: bool,
}
