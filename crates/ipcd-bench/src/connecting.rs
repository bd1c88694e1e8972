//! How fast peers come and go: connect, HELLO, WELCOME, close, one after the other.

use std::io;
use std::time::Instant;

use crate::daemon::{Mode, Private};
use crate::options::Options;
use crate::process::Child;
use crate::report;
use crate::server::Via;
use crate::stats::Summary;

/// Processes that connect at the same time.
const CLIENTS: u32 = 2;

/// Measures every mode of the daemon, in turn, and prints a table.
pub(crate) fn bench(options: &Options) -> io::Result<()> {
    let modes = [Mode::Pool(1), Mode::Pool(2), Mode::Connection];
    let mut rates = modes.map(|_| Vec::new());
    for _ in 0..options.rounds() {
        for (mode, rates) in modes.into_iter().zip(&mut rates) {
            rates.push(round(mode, connects(options, mode))?);
        }
    }
    report::print_connect_head();
    for (mode, rates) in modes.into_iter().zip(&rates) {
        report::print_connect_row(mode, Summary::of(rates.iter().copied()));
    }
    Ok(())
}

/// Connections of a round. Forking for each takes many times longer: with as many, a run on a busy
/// machine took minutes, and looked as if it hung.
fn connects(options: &Options, mode: Mode) -> u32 {
    match mode {
        Mode::Pool(_) => options.connects(),
        Mode::Connection => options.connects() / 4,
    }
}

/// Connections a second, of a fresh daemon.
pub(crate) fn round(mode: Mode, connects: u32) -> io::Result<f64> {
    let daemon = Private::start(Via::Unix, mode)?;
    let start = Instant::now();
    let clients: io::Result<Vec<Child>> = (0..CLIENTS)
        .map(|_| {
            Child::start(c"bench-client", &[], || {
                (0..connects / CLIENTS).try_for_each(|_| daemon.session().map(drop))
            })
        })
        .collect();
    clients?.into_iter().try_for_each(Child::join)?;
    Ok(f64::from(connects) / start.elapsed().as_secs_f64())
}
