//! How long a request and its reply take, between two processes and through a server: one request
//! at a time, each answered with its own payload.
//!
//! The yardstick and the daemon have the same lean clients; with its client library the daemon is
//! what users have.

mod lean;
mod library;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::cores::Allowed;
use crate::daemon::{Mode, Private};
use crate::line::Line;
use crate::load::SUBJECT;
use crate::options::Options;
use crate::process::{Child, await_readable};
use crate::report;
use crate::round::pipe;
use crate::server::{Running, Via, start_bare};
use crate::stats::percentile;
use crate::yardstick;

/// One round trip in so many is made before a round is measured.
const WARM_UP: u32 = 5;
const NUMBER_BYTES: usize = size_of::<u64>();

/// Through what, and by whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// The yardstick, lean clients.
    Yardstick,
    /// The daemon, the same lean clients.
    Lean,
    /// The daemon, its client library.
    Library,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Yardstick, Self::Lean, Self::Library];
}

/// How many round trips of which size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trips {
    /// Bytes of a payload, which begins with the request's number.
    pub(crate) payload: usize,
    /// Those that are measured.
    pub(crate) count: u32,
}

/// What a round trip took: half of them no longer than the first, and all but one in a hundred no
/// longer than the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// What asks.
trait Requester {
    /// Sends a request and waits for the reply.
    fn ask(&mut self, payload: &[u8]) -> io::Result<()>;

    /// The payload of the last reply.
    fn reply(&self) -> &[u8];
}

/// What answers.
trait Responder {
    /// Waits for a request and replies with its payload.
    fn answer(&mut self) -> io::Result<()>;
}

/// Measures every way, in turn, and prints a table.
pub(crate) fn bench(options: &Options) -> io::Result<()> {
    let allowed = Allowed::find()?;
    report::print_trip_head();
    for &cores in &options.cores {
        allowed.place(cores)?;
        for (via, payload) in options.loads() {
            let trips = Trips { payload, count: options.trips() };
            let mut took = Way::ALL.map(|_| Vec::new());
            for _ in 0..options.rounds() {
                for (way, took) in Way::ALL.into_iter().zip(&mut took) {
                    took.push(round(way, via, trips)?);
                }
            }
            report::print_trip_row(cores, via, payload, &took);
        }
    }
    report::print_trip_targets();
    Ok(())
}

/// One round on a fresh server.
pub(crate) fn round(way: Way, via: Via, trips: Trips) -> io::Result<Took> {
    let took = match way {
        Way::Yardstick => through_yardstick(via, trips),
        Way::Lean => through_daemon(via, trips),
        Way::Library => with_library(via, trips),
    };
    took.map_err(|error| {
        let bytes = trips.payload;
        io::Error::other(format!("round trip, {way:?} over {via:?} with {bytes} B: {error}"))
    })
}

fn through_yardstick(via: Via, trips: Trips) -> io::Result<Took> {
    let running = start_bare(c"bench-yardstick", via, 1, yardstick::exchange)?;
    let Running { publisher: Line::Stream(publisher), subscribers, .. } = &running else {
        return Err(io::Error::other("round trips are measured over streams"));
    };
    let [Line::Stream(subscriber)] = &subscribers[..] else {
        unreachable!("there is one subscriber, connected as the publisher is");
    };
    trips.drive(
        (&[publisher.as_fd()], || Ok(lean::Requester::new(publisher, None))),
        (&[subscriber.as_fd()], || Ok(lean::Responder::new(subscriber))),
    )
}

fn through_daemon(via: Via, trips: Trips) -> io::Result<Took> {
    let daemon = Private::start(via, Mode::Pool(1))?;
    let (requester, mut responder) = (daemon.session()?, daemon.session()?);
    responder.subscribe([SUBJECT])?;
    let peer = requester.peer();
    let (requester, responder) = (requester.writer()?, responder.writer()?);
    trips.drive(
        (&[requester.as_fd()], || Ok(lean::Requester::new(&requester, Some(peer)))),
        (&[responder.as_fd()], || Ok(lean::Responder::new(&responder))),
    )
}

fn with_library(via: Via, trips: Trips) -> io::Result<Took> {
    let daemon = Private::start(via, Mode::Pool(1))?;
    trips.drive(
        (&[], || library::Requester::connect(&daemon)),
        (&[], || library::Responder::connect(&daemon)),
    )
}

impl Trips {
    /// Runs both ends, each in a process that has these descriptors.
    fn drive<Q: Requester, R: Responder>(
        self,
        (requester_fds, requester): (&[BorrowedFd<'_>], impl FnOnce() -> io::Result<Q>),
        (responder_fds, responder): (&[BorrowedFd<'_>], impl FnOnce() -> io::Result<R>),
    ) -> io::Result<Took> {
        let (ready, say_ready) = pipe()?;
        let (mut done, say_done) = pipe()?;
        let keep = [responder_fds, &[say_ready.as_fd()]].concat();
        let responder = Child::start(c"bench-responder", &keep, || {
            let mut responder = responder()?;
            (&say_ready).write_all(&[1])?;
            (0..self.all()).try_for_each(|_| responder.answer())
        })?;
        let keep = [requester_fds, &[ready.as_fd(), say_done.as_fd()]].concat();
        let requester = Child::start(c"bench-requester", &keep, || {
            let mut requester = requester()?;
            await_readable(&ready, "responder")?;
            self.measure(&mut requester)?.tell(&say_done)
        })?;
        drop((ready, say_ready, say_done));
        await_readable(&done, "end of the round trips")?;
        let took = Took::hear(&mut done)?;
        requester.join()?;
        responder.join()?;
        Ok(took)
    }

    fn measure(self, requester: &mut impl Requester) -> io::Result<Took> {
        let mut payload: Vec<u8> = (0..self.payload).map(|at| at as u8).collect();
        let mut times = Vec::with_capacity(self.all() as usize);
        for number in 0..self.all() {
            payload[..NUMBER_BYTES].copy_from_slice(&u64::from(number).to_le_bytes());
            let start = Instant::now();
            requester.ask(&payload)?;
            times.push(start.elapsed());
            if requester.reply() != payload {
                return Err(io::Error::other(format!("a wrong reply to request {number}")));
            }
        }
        let measured = &mut times[self.warm_up() as usize..];
        measured.sort_unstable();
        Ok(Took { p50: percentile(measured, 50), p99: percentile(measured, 99) })
    }

    fn warm_up(self) -> u32 {
        self.count / WARM_UP
    }

    fn all(self) -> u32 {
        self.warm_up() + self.count
    }
}

impl Took {
    fn tell(self, mut to: &File) -> io::Result<()> {
        let nanos = [self.p50, self.p99].map(|time| (time.as_nanos() as u64).to_ne_bytes());
        to.write_all(nanos.as_flattened())
    }

    fn hear(from: &mut File) -> io::Result<Self> {
        let mut nanos = [[0; NUMBER_BYTES]; 2];
        let heard = from.read_exact(nanos.as_flattened_mut());
        heard.map_err(|_| io::Error::other("not every request got its reply"))?;
        let [p50, p99] = nanos.map(|bytes| Duration::from_nanos(u64::from_ne_bytes(bytes)));
        Ok(Self { p50, p99 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gets its own payload back, but for one request.
    struct Echo {
        reply: Vec<u8>,
        asked: u32,
        wrong: Option<u32>,
    }

    impl Requester for Echo {
        fn ask(&mut self, payload: &[u8]) -> io::Result<()> {
            if self.wrong != Some(self.asked) {
                payload.clone_into(&mut self.reply);
            }
            self.asked += 1;
            Ok(())
        }

        fn reply(&self) -> &[u8] {
            &self.reply
        }
    }

    fn measure(wrong: Option<u32>) -> (io::Result<Took>, u32) {
        let mut echo = Echo { reply: Vec::new(), asked: 0, wrong };
        let took = Trips { payload: 8, count: 10 }.measure(&mut echo);
        (took, echo.asked)
    }

    #[test]
    fn checks_every_reply_also_while_it_warms_up() {
        let (took, asked) = measure(None);
        assert_eq!((took.is_ok(), asked), (true, 12));
        assert!(took.is_ok_and(|took| took.p50 <= took.p99));
        for wrong in 0..asked {
            let (took, asked) = measure(Some(wrong));
            assert_eq!((took.is_err(), asked), (true, wrong + 1), "the reply before, once more");
        }
    }

    #[test]
    fn tells_what_it_took() {
        let (mut from, to) = pipe().unwrap();
        let [p50, p99] = [20, 70].map(Duration::from_micros);
        Took { p50, p99 }.tell(&to).unwrap();
        let heard = Took::hear(&mut from).unwrap();
        assert_eq!((heard.p50, heard.p99), (p50, p99));
        drop(to);
        assert!(Took::hear(&mut from).is_err());
    }
}
