//! What users type to connect any endpoint to any other.

use clap::Args;
use ipcd_proto::Codec;

/// A side is an endpoint, or ipcd:SUBJECT for a subject of the daemon. Messages are moved from codec
/// to codec (codec=line, nul or raw among the options of an endpoint; lines, or the records of an
/// endpoint that has some, if it is not given), or bytes with --raw.
#[derive(Args)]
pub(crate) struct RelayArgs {
    /// Where to listen, such as tcp://127.0.0.1:9000.
    #[arg(value_name = "A")]
    pub(crate) from: String,
    /// Where to connect for each peer, such as unix:///run/x.sock, or pipe:COMMAND.
    #[arg(value_name = "B")]
    pub(crate) to: String,
    /// How bytes become messages at a side that has no codec= of its own, such as a command: line,
    /// nul or raw.
    #[arg(long, value_name = "CODEC", conflicts_with = "raw")]
    pub(crate) codec: Option<Codec>,
    /// Move bytes, and look for no messages in them.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Serve each peer in a child of its own.
    #[arg(long)]
    pub(crate) fork: bool,
    /// So many children at the most; further peers wait.
    #[arg(long, requires = "fork", default_value_t = 256, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_children: u32,
    /// Tell a command about its peer as UCSPI has it: PROTO, TCPREMOTEIP, UNIXREMOTEEUID and so on.
    #[arg(long)]
    pub(crate) ucspi: bool,
}
