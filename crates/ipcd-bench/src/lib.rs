//! Measures what ipcd relays, beside what a machine could relay at all.
//!
//! Three servers move the same load from a publisher process to a subscriber process: the bare
//! byte relay, the yardstick (the least that routes frames by subject) and the real
//! daemon. Their rounds are interleaved, and only ratios of neighbours are compared: on a busy
//! or throttled machine the figures themselves say little. Over UDP the bare relay are two paced hops
//! of datagrams, and there is no yardstick. The same goes for the round trip of a
//! request, and for how fast peers come and go. `ipcctl relay`, which needs no daemon, is measured
//! beside socat.
//!
//! Everything forks, so it runs in a process of its own with one thread: the `relay` benchmark
//! (`cargo bench`) or the `smoke` test.

mod connecting;
mod cores;
mod count;
mod daemon;
mod datagrams;
mod gate;
mod line;
mod load;
mod options;
mod process;
mod relay;
mod relaying;
mod report;
mod round;
mod round_trip;
mod run;
mod server;
mod session;
mod stats;
pub mod suite;
mod yardstick;

pub use cores::Cores;
pub use options::Options;
pub use run::{bench, smoke};
pub use server::Via;
