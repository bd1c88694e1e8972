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
mod neighbour;
mod process;
mod raw;
mod refusal;
#[cfg(target_arch = "x86_64")]
mod remote;
mod scene;
mod skip;
mod system;
mod text;
mod warden;
mod watchdog;

pub use binaries::{example, ipcctl, ipcd};
pub use capture::Capture;
pub use classes::classes;
pub use ctl::Ctl;
pub use daemon::{Daemon, SCHEMES, Setup, Worker};
pub use flow::{Receiver, Sender};
pub use load::{Latency, Load};
pub use neighbour::Neighbour;
pub use process::{Ended, Running};
pub use raw::{Raw, RawFrame};
pub use refusal::refusal;
#[cfg(target_arch = "x86_64")]
pub use remote::{Called, Puppet};
pub use scene::Scene;
pub use skip::{is_without, skip};
pub use system::{
    Descriptor, anonymous, assert_asleep, children, descriptor, descriptors, is_alive, memory,
    raise_limit, state, whole_memory,
};
pub use text::{Stream, check_lines, feed_lines, message};
pub use warden::{guard, private_dir};
pub use watchdog::{PATIENCE, eventually};
