//! The bare primitives, each between two processes and with nothing of ipcd.

mod datagram;
mod queue;
mod ring;
mod signals;
mod stream;

use std::io;
use std::path::Path;

use ipcd_sys::shm::Bell;

use super::end::Lane;

/// A primitive of the kernel, or made from some. Those that a transport of ipcd stands on have its
/// name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Primitive {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Pipe,
    Fifo,
    UnixStream,
    UnixSeqpacket,
    UnixDgram,
    Tcp,
    Udp,
    PosixQueue,
    SysvQueue,
    Ring(Bell),
    Signals,
}

pub(crate) const ALL: [Primitive; 14] = [
    named("pipe", Kind::Pipe),
    named("fifo", Kind::Fifo),
    named("unix", Kind::UnixStream),
    named("unix-seqpacket", Kind::UnixSeqpacket),
    named("unix-dgram", Kind::UnixDgram),
    named("tcp", Kind::Tcp),
    named("udp", Kind::Udp),
    named("posix-mq", Kind::PosixQueue),
    named("sysv-mq", Kind::SysvQueue),
    named("shm-futex", Kind::Ring(Bell::Futex)),
    named("shm-eventfd", Kind::Ring(Bell::Eventfd)),
    named("shm-semaphore", Kind::Ring(Bell::Semaphore)),
    named("shm-spin", Kind::Ring(Bell::Spin)),
    named("signals", Kind::Signals),
];

/// The primitive of this name, which must be one of [`ALL`].
pub(crate) fn find(name: &str) -> Primitive {
    ALL.into_iter().find(|it| it.name == name).expect("it is one of all")
}

const fn named(name: &'static str, kind: Kind) -> Primitive {
    Primitive { name, kind }
}

impl Primitive {
    /// Prepares a way for messages of this size. Streams gather up to `batch` bytes for a call.
    pub(crate) fn prepare(
        &self,
        dir: &Path,
        size: usize,
        batch: usize,
    ) -> io::Result<Box<dyn Lane>> {
        Ok(match self.kind {
            Kind::Pipe => Box::new(stream::pipe(size, batch)?),
            Kind::Fifo => Box::new(stream::fifo(dir, size, batch)?),
            Kind::UnixStream => Box::new(stream::unix(size, batch)?),
            Kind::Tcp => Box::new(stream::tcp(size, batch)?),
            Kind::UnixSeqpacket => Box::new(datagram::seqpacket(size)?),
            Kind::UnixDgram => Box::new(datagram::dgram(size)?),
            Kind::Udp => Box::new(datagram::udp(size)?),
            Kind::PosixQueue => Box::new(queue::posix(size)?),
            Kind::SysvQueue => Box::new(queue::sysv(size)?),
            Kind::Ring(bell) => Box::new(ring::Rings::new(size, bell)?),
            Kind::Signals => Box::new(signals::Signals::new(size)?),
        })
    }

    /// Whether messages may be lost on the way.
    pub(crate) fn may_lose(&self) -> bool {
        self.kind == Kind::Udp
    }

    /// Whether it moves payloads, rather than only waking somebody.
    pub(crate) fn carries_payload(&self) -> bool {
        self.kind != Kind::Signals
    }

    /// Whether waiting on it keeps a core busy.
    pub(crate) fn spins(&self) -> bool {
        self.kind == Kind::Ring(Bell::Spin)
    }

    /// Bytes of the largest message, if there is a limit.
    pub(crate) fn largest(&self) -> Option<usize> {
        let limit = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        match self.kind {
            // An IPv4 packet has at most 65,535 bytes, with 28 of headers (udp(7)).
            Kind::Udp => Some(65_507),
            Kind::PosixQueue => limit("/proc/sys/fs/mqueue/msgsize_max").or(Some(8192)),
            Kind::SysvQueue => limit("/proc/sys/kernel/msgmax").or(Some(8192)),
            _ => None,
        }
    }
}
