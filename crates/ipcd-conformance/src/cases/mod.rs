//! The cases, grouped by what they are about. Each is one test, made by
//! [`conformance!`](crate::conformance); some have a part in another process.

pub mod about;
pub mod ends;
pub mod places;
pub mod processes;
pub mod rendezvous;
pub mod transfer;

use ipcd_transport::Endpoint;

use crate::Suite;
use crate::child::Parent;

/// Plays a part in a process of its own.
pub(crate) fn play(suite: &Suite, part: &str, endpoint: &Endpoint) {
    match part {
        about::DESCRIPTORS => about::count_descriptors(suite, endpoint),
        processes::CLIENT => processes::be_a_client(suite, endpoint, &Parent),
        processes::DAEMON => processes::be_a_daemon(suite, endpoint, &Parent),
        processes::WORKER => processes::be_a_worker(suite, &Parent),
        places::UMASK => places::publish_with_any_umask(suite, endpoint),
        _ => panic!("nobody knows the part {part}"),
    }
}
