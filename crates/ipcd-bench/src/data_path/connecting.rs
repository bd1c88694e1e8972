//! The rate of connections: connect, HELLO, WELCOME, close, one after the other.

use std::io;

use super::contender::{Via, WorkerMode, start_daemon};
use super::{LIMIT, RoundContext, elapsed_ns};
use crate::children::{ProcessTeam, WATCHDOG};
use crate::clock;
use crate::job::ProcessFindings;

/// Processes that connect at the same time.
const CLIENTS: u32 = 2;

/// Connections of a round. A fork for each takes many times longer: with as many, a run on a busy
/// machine took minutes and looked as if it hung.
pub(super) fn connects(most: u32, mode: WorkerMode) -> u32 {
    match mode {
        WorkerMode::Pool(_) => most,
        WorkerMode::Connection => most / 4,
    }
}

/// Connections a second to a fresh daemon.
pub(super) fn round(bench: &RoundContext, mode: WorkerMode, connects: u32) -> io::Result<f64> {
    let daemon = start_daemon(bench, Via::Unix, mode)?;
    let mut team = ProcessTeam::default();
    for _ in 0..CLIENTS {
        team.add(c"bench-client", None, |start| {
            start()?;
            let first = clock::now();
            let mut connects = 0..connects / CLIENTS;
            connects.try_for_each(|_| daemon.session(Via::Unix.scheme()).map(drop))?;
            Ok(ProcessFindings { first, last: clock::now(), ..ProcessFindings::default() })
        })?;
    }
    let found = team.run(&bench.interrupts, WATCHDOG, LIMIT)?;
    Ok(f64::from(connects) * 1e9 / elapsed_ns(&found) as f64)
}
