//! What is run: the benchmark, the counting, or the smoke test.

use std::io;

use crate::connecting;
use crate::cores::Allowed;
use crate::count;
use crate::daemon::Mode;
use crate::load::Load;
use crate::options::Options;
use crate::relaying::{self, Program};
use crate::report::{self, Figures};
use crate::round;
use crate::round_trip::{self, Trips, Way};
use crate::server::{Server, Via};

/// Payload bytes per load of the smoke test.
const SMOKE_BYTES: u64 = 2 << 20;
/// Connections of the smoke test.
const SMOKE_CONNECTS: u32 = 20;
/// Round trips of the smoke test.
const SMOKE_TRIPS: u32 = 50;
/// What the smoke test allows per message. It is far above what is measured, and far below what
/// one allocation or call for each message would be.
const SMOKE_COSTS: f64 = 0.1;

/// Measures, and prints a table.
///
/// # Errors
/// If a server could not be started, or lost or changed a message.
pub fn bench(options: &Options) -> io::Result<()> {
    if options.smoke {
        return smoke();
    }
    if options.count {
        return count_all(options);
    }
    if options.connect {
        return connecting::bench(options);
    }
    if options.relay {
        return relaying::bench(options);
    }
    if options.round_trip {
        return round_trip::bench(options);
    }
    let allowed = Allowed::find()?;
    report::print_head();
    for &cores in &options.cores {
        allowed.place(cores)?;
        for (via, payload) in options.loads() {
            let figures = measure(options, via, payload)?;
            report::print_row(cores, via, payload, &figures);
        }
    }
    report::print_targets();
    Ok(())
}

/// Checks that every server relays all messages unaltered and brings each request its reply, and
/// what the daemon spends on each message.
///
/// # Errors
/// If one does not, or the daemon allocates or makes a system call for each message.
pub fn smoke() -> io::Result<()> {
    for via in [Via::Unix, Via::Tcp] {
        for payload in [8, 64, 1024, 65536] {
            let count = SMOKE_BYTES / payload as u64;
            let load = Load { payload, count, is_thorough: true };
            for server in Server::ALL {
                round::run(server, via, load)?;
            }
            for way in Way::ALL {
                round_trip::round(way, via, Trips { payload, count: SMOKE_TRIPS })?;
            }
        }
    }
    for via in [Via::Unix, Via::Tcp] {
        relaying::round(Program::Ours, via, 65536, SMOKE_BYTES)?;
    }
    for mode in [Mode::Pool(2), Mode::Connection] {
        connecting::round(mode, SMOKE_CONNECTS)?;
    }
    let load = Load { payload: 64, count: 100_000, is_thorough: false };
    let counted = count::run(Via::Unix, load, false)?;
    if counted.most_per_message() > SMOKE_COSTS {
        return Err(io::Error::other(format!("too much is spent per message: {counted:?}")));
    }
    Ok(())
}

/// All rounds of one load, interleaved.
fn measure(options: &Options, via: Via, payload: usize) -> io::Result<Figures> {
    let load = calibrate(options, via, payload)?;
    let mut figures = Figures::new(load.count);
    for _ in 0..options.rounds() {
        for server in Server::ALL {
            figures.add(server, round::run(server, via, load)?);
        }
    }
    Ok(figures)
}

/// Finds a count of messages for which the bare relay, the fastest, takes long enough.
fn calibrate(options: &Options, via: Via, payload: usize) -> io::Result<Load> {
    let mut load = Load { payload, count: 1000, is_thorough: false };
    let wanted = options.round_time();
    loop {
        let time = round::run(Server::Relay, via, load)?.time;
        if time >= wanted {
            return Ok(load);
        }
        // A little more than it seems to need, and not too much after a first short try.
        let factor = 1.3 * wanted.as_secs_f64() / time.as_secs_f64();
        load.count = (load.count as f64 * factor.clamp(1.3, 16.0)) as u64;
    }
}

fn count_all(options: &Options) -> io::Result<()> {
    report::print_count_head();
    for (via, payload) in options.loads() {
        let load = calibrate(options, via, payload)?;
        report::print_count_row(via, payload, &count::run(via, load, true)?);
    }
    Ok(())
}
