//! One round: one server, one load, from the first byte to the last message checked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::process::{Child, await_readable};
use crate::server::{Running, Server, Via};

/// What a round took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) time: Duration,
    /// Processor time of the processes that move the messages.
    pub(crate) cpu: Duration,
}

/// Runs one round on a fresh server.
pub(crate) fn run(server: Server, via: Via, load: Load) -> io::Result<Took> {
    let running = server.start(via, load)?;
    drive(&running, load).map_err(|error| {
        let bytes = load.payload;
        io::Error::other(format!("{server:?} over {via:?} with {bytes} B: {error}"))
    })
}

/// Publishes and receives the load through a server that runs.
pub(crate) fn drive(running: &Running, load: Load) -> io::Result<Took> {
    let Running { publisher, subscribers, .. } = running;
    let (go, mut give_go) = pipe()?;
    let (mut done, say_done) = pipe()?;
    let sender = Child::start(c"bench-publisher", &[go.as_fd(), publisher.as_fd()], || {
        load.publish(&go, publisher)
    })?;
    let keep: Vec<_> = subscribers.iter().map(AsFd::as_fd).chain([say_done.as_fd()]).collect();
    let receiver = Child::start(c"bench-subscriber", &keep, || {
        load.receive(subscribers)?;
        (&say_done).write_all(&[1])
    })?;
    drop((go, say_done));
    let cpu_before = cpu_of(&running.movers)?;
    let start = Instant::now();
    give_go.write_all(&[1])?;
    await_readable(&done, "end of the load")?;
    let time = start.elapsed();
    let cpu = cpu_of(&running.movers)?.saturating_sub(cpu_before);
    done.read_exact(&mut [0]).map_err(|_| io::Error::other("not all arrived unaltered"))?;
    sender.join()?;
    receiver.join()?;
    Ok(Took { time, cpu })
}

pub(crate) fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    Ok((OwnedFd::from(reader).into(), OwnedFd::from(writer).into()))
}

/// Processor time of processes with one thread each (proc_pid_schedstat(5)).
pub(crate) fn cpu_of(pids: &[u32]) -> io::Result<Duration> {
    let of_one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        let nanos = nanos.ok_or_else(|| io::Error::other("/proc/PID/schedstat: no number"))?;
        Ok(Duration::from_nanos(nanos))
    };
    pids.iter().map(of_one).sum()
}
