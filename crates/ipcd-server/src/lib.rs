//! The ipcd daemon: a supervisor that admits peers, and forked workers that serve them.
//!
//! One file per process role or concern: the list of files is the list of processes and of what
//! they do.

mod access;
mod activation;
mod adapter;
mod admission;
mod alarm;
mod authority;
mod backoff;
mod check;
mod codec_adapter;
mod config;
mod connect;
mod coprocess;
mod counts;
mod dialler;
mod exec;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ids;
mod lacking;
mod link;
mod listen;
mod log;
mod nats;
mod pid_file;
mod privileges;
mod refusal;
mod runtime;
mod sandbox;
mod staged_bytes;
mod supervisor;

mod values;
mod worker;

pub use access::AccessRule;
pub use activation::{PassedSocket, take as take_sockets};
pub use check::check;
pub use config::{
    Config, ConfigError, DaemonConfig, ForkMode, Limits, LogConfig, LogFormat, LogLevel,
    MaxMessage, PrefixBits, SandboxMode, TokenFile, TokenProof, word,
};
pub use connect::ConnectConfig;
pub use counts::{MaxChildren, MaxStartups, WorkerCount};
pub use exec::{ExecConfig, RestartPolicy};
pub use ipcd_transports::TOKEN_FILE;
pub use listen::{ListenConfig, RawProfile};
pub use log::{LogOutlet, LogQuotas, init as init_log};
pub use nats::{AuthMode, NatsProfile, SlowClients};
pub use runtime::locate as runtime_dir;
pub use supervisor::{ConfigLoader, StartOptions, run};
pub use values::{ByteCount, RetryPauses, TimeSpan};

/// The version of the daemon.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An error that ends the daemon or its start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(String),
    /// A transport failed.
    #[error(transparent)]
    Transport(#[from] ipcd_transport::Error),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// The call that failed, and its object.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// The daemon's exit status: 2 for what the user can mend in arguments or configuration.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Transport(ipcd_transport::Error::Endpoint(_)) => 2,
            _ => 1,
        }
    }

    /// An error of the system, with what was tried.
    fn system(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}
