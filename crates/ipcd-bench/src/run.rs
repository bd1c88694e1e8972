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
    if options.crowd {
        return in_a_crowd(options, allowed);
    }
    report::print_head();
    for &cores in &options.cores {
        allowed.place(cores)?;
        for (via, payload) in options.loads() {
            report::print_row(cores, via, &measure(options, via, payload)?);
        }
    }
    Ok(())
}

/// Measures messages to many subjects beside themselves: with one subscription, and with 100,000
/// others.
fn in_a_crowd(options: &Options, allowed: Allowed) -> io::Result<()> {
    for &cores in &options.cores {
        allowed.place(cores)?;
        let load = calibrate(options, Via::Unix, 64)?;
        let alone = Load { has_many_subjects: true, ..load };
        let crowded = Load { has_crowd: true, ..alone };
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds() {
            for (load, rates) in [alone, crowded].into_iter().zip(&mut rates) {
                let took = round::run(Server::Ipcd, Via::Unix, load)?;
                rates.push(load.count as f64 / took.time.as_secs_f64());
            }
        }
        report::print_crowd(cores, &rates[0], &rates[1]);
    }
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
            let load = Load { is_thorough: true, ..Load::plain(payload, count) };
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
    smoke_shapes()?;
    let load = Load::plain(64, 100_000);
    let counted = count::run(Via::Unix, load, false)?;
    if counted.most_per_message() > SMOKE_COSTS {
        return Err(io::Error::other(format!("too much is spent per message: {counted:?}")));
    }
    Ok(())
}

/// The same for loads of other shapes.
fn smoke_shapes() -> io::Result<()> {
    let load = Load { is_thorough: true, ..Load::plain(64, 2000) };
    let single = Load { is_single: true, ..load };
    let fan_out = Load { subscribers: 8, ..load };
    for via in [Via::Unix, Via::Tcp, Via::Pipe, Via::Fifo] {
        for server in [Server::Relay, Server::Yardstick, Server::Ipcd] {
            round::run(server, via, single)?;
            round::run(server, via, fan_out)?;
        }
    }
    for server in Server::ALL.into_iter().filter(|server| server.serves(Via::Udp, load)) {
        round::run(server, Via::Udp, load)?;
        round::run(server, Via::Udp, Load { payload: 65536, count: 30, ..load })?;
    }
    let many = Load { has_many_subjects: true, has_crowd: true, ..load };
    round::run(Server::Ipcd, Via::Unix, many).map(drop)
}

/// All rounds of one load, interleaved.
fn measure(options: &Options, via: Via, payload: usize) -> io::Result<Figures> {
    let load = calibrate(options, via, payload)?;
    let mut figures = Figures::new(load);
    for _ in 0..options.rounds() {
        for server in Server::ALL.into_iter().filter(|server| server.serves(via, load)) {
            figures.add(server, round::run(server, via, load)?);
        }
    }
    Ok(figures)
}

/// Finds a count of messages for which the bare relay, the fastest, takes long enough.
fn calibrate(options: &Options, via: Via, payload: usize) -> io::Result<Load> {
    let mut load = options.load(payload, 1000);
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
