//! One test suite for every ipcd transport: the contract at the head of `ipcd-transport`, case by
//! case. A transport's `tests/conformance.rs` calls it once for each kind of endpoint that it has:
//!
//! ```text
//! mod stream {
//!     ipcd_conformance::conformance!(Unix, |dir| Endpoint::from_path("unix", &dir.join("s")));
//! }
//! ```
//!
//! Each case becomes a `#[test]` of its own. A case has a private directory, from which the closure
//! makes an endpoint that no other case uses: a path in it, its own path as a name, or for a port
//! the address of [`loopback`].
//!
//! Nothing here sleeps, and nothing asserts that something was fast: a case waits for what must
//! happen, and the [watchdog] fails it if it does not.
//!
//! A third argument names what the environment may lack, such as a kernel module. It is a function
//! that returns the reason, or `None`; with a reason, every case is skipped and prints it:
//!
//! ```text
//! ipcd_conformance::conformance!(Vsock, endpoint, || (!has_loopback()).then(|| "no loopback".into()));
//! ```
//!
//! # Other processes
//! Some cases need a peer that can be killed, or a umask of its own. The test harness has threads,
//! so forking is out of the question; instead the test executable is started again, with the one
//! test `child_process` and with its part in the environment (see `child.rs`). Run by itself, that
//! test does nothing.

pub mod authority;
pub mod cases;
mod child;
mod frames;
mod peer;
mod scene;
mod server;
pub mod watchdog;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use ipcd_transport::{Endpoint, Transport};

/// The subject of the tests: a transport and one kind of endpoint.
#[derive(Clone, Copy)]
pub struct Suite {
    transport: &'static dyn Transport,
    endpoint: fn(&Path) -> Endpoint,
    lacks: fn() -> Option<String>,
    module: &'static str,
}

impl Suite {
    /// A suite whose tests live in this module (`module_path!()`).
    pub const fn new(
        transport: &'static dyn Transport,
        endpoint: fn(&Path) -> Endpoint,
        lacks: fn() -> Option<String>,
        module: &'static str,
    ) -> Self {
        Self { transport, endpoint, lacks, module }
    }

    /// Runs a case, or prints why this environment cannot.
    pub fn run(&self, case: fn(&Self)) {
        match (self.lacks)() {
            Some(reason) => scene::skip(&reason),
            None => case(self),
        }
    }

    /// Does nothing, except in a process that a case has started: there it plays its part.
    pub fn play_child(&self) {
        child::play(self);
    }
}

/// Makes a test of each case, for one transport and one kind of endpoint.
#[macro_export]
macro_rules! conformance {
    ($transport:expr, $endpoint:expr) => {
        $crate::conformance!($transport, $endpoint, || None);
    };
    ($transport:expr, $endpoint:expr, $lacks:expr) => {
        const SUITE: $crate::Suite =
            $crate::Suite::new(&$transport, $endpoint, $lacks, module_path!());

        #[test]
        fn child_process() {
            SUITE.play_child();
        }

        $crate::each_case! {
            about::describes_itself
            about::knows_who_the_peer_is
            about::opens_nothing_that_blocks_or_is_inherited
            about::leaves_no_descriptor_open
            transfer::moves_the_smallest_and_the_largest_frames
            transfer::moves_many_frames_in_order_both_ways_at_once
            transfer::goes_on_after_a_write_taken_in_part
            transfer::moves_frames_that_are_offered_in_pieces
            transfer::holds_a_fast_writer_back_and_loses_nothing
            transfer::refuses_a_frame_over_the_limit
            transfer::serves_many_peers_at_once
            ends::reports_the_end_after_everything_before_it
            ends::goes_on_reading_after_finish
            ends::refuses_a_write_after_finish
            ends::never_takes_an_end_inside_a_frame_for_a_whole_one
            ends::fails_a_write_to_a_peer_that_is_gone
            processes::notices_a_killed_client
            processes::notices_a_killed_daemon_and_replaces_what_it_left
            processes::hands_a_channel_to_another_process
            processes::hands_a_channel_over_in_mid_life
            places::refuses_a_second_listener
            places::leaves_nothing_behind
            places::refuses_to_replace_what_is_no_listener
            places::gives_a_path_its_mode_whatever_the_umask
            rendezvous::fails_at_once_when_nobody_is_there
            rendezvous::honours_the_deadline
            rendezvous::survives_junk
            rights::keeps_other_users_out
            rights::relies_on_no_server_of_another_user
        }
    };
}

/// Makes a test of each of these cases.
#[doc(hidden)]
#[macro_export]
macro_rules! each_case {
    ($($group:ident::$case:ident)*) => {
        $(
            #[test]
            fn $case() {
                SUITE.run($crate::cases::$group::$case);
            }
        )*
    };
}

/// A loopback address of the case's own, with port 0: a port that has become free is not taken by
/// another case then.
pub fn loopback(dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    let [a, b, c, ..] = hasher.finish().to_le_bytes();
    format!("127.{a}.{b}.{}:0", c.clamp(2, 254))
}
