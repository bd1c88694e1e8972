//! The cases, grouped by what they are about. Each is one test, made by
//! [`conformance!`](crate::conformance); some have a part in another process.

pub mod about;
pub mod ends;
pub mod places;
pub mod processes;
pub mod rendezvous;
pub mod rights;
pub mod transfer;

use ipcd_transport::Endpoint;

use crate::Suite;
use crate::child::ParentLink;

/// Plays a part in a process of its own.
pub(crate) fn play(suite: &Suite, part: &str, endpoint: &Endpoint) {
    match part {
        about::DESCRIPTORS => about::count_descriptors(suite, endpoint),
        processes::CLIENT => processes::be_a_client(suite, endpoint, &ParentLink),
        processes::DAEMON => processes::be_a_daemon(suite, endpoint, &ParentLink),
        processes::WORKER => processes::be_a_worker(suite, &ParentLink),
        rights::OTHER_CLIENT => rights::be_another_users_client(suite, endpoint, &ParentLink),
        rights::OTHER_SERVER => rights::be_another_users_server(suite, endpoint, &ParentLink),
        places::UMASK => places::publish_with_any_umask(suite, endpoint),
        _ => panic!("unknown part: {part}"),
    }
}
