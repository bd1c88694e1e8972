//! Shared parts of the end-to-end tests: the real binaries, run in private directories and watched.
//!
//! Nothing here forks, and every wait has a watchdog. When the value of a process is dropped, the
//! process ends with all that it has started, also after a panic. A warden ends them when the test
//! program is killed.

mod binaries;
mod capture;
mod classes;
mod ctl;
mod daemon;
mod far;
mod flow;
mod load;
mod nats;
mod neighbour;
mod process;
mod raw;
mod refusal;
#[cfg(target_arch = "x86_64")]
mod remote;
mod scene;
mod schemes;
mod skip;
mod system;
mod text;
mod warden;
mod watchdog;

pub use binaries::{example, ipcctl, ipcd};
pub use capture::OutputCapture;
pub use classes::classes;
pub use ctl::CtlCommand;
pub use daemon::{Daemon, DaemonSetup, WorkerInfo};
pub use flow::{Receiver, Sender};
pub use load::{HealthyLoad, Latency};
pub use nats::NatsConnection;
pub use neighbour::NeighbourPair;
pub use process::{ProcessResult, RunningProcess};
pub use raw::{RawConnection, RawFrame};
pub use refusal::refusal;
#[cfg(target_arch = "x86_64")]
pub use remote::{CallResult, TracedProcess};
pub use scene::FaultScene;
pub use schemes::{SCHEMES, SchemeList, identity_kind};
pub use skip::{is_without, python, skip};
pub use system::{
    OpenDescriptor, anonymous, assert_asleep, children, descriptor, descriptors, is_alive, memory,
    raise_limit, state, whole_memory,
};
pub use text::{MessageStream, check_lines, feed_lines, from_hex, message, to_hex};
pub use warden::{guard, private_dir};
pub use watchdog::{PATIENCE, eventually};
