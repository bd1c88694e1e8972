//! The bare primitives, each between two processes and with nothing of ipcd.

mod datagram;
mod queue;
mod ring;
mod signals;
mod stream;

use std::io;
use std::path::Path;

use ipcd_sys::shm::Bell;

use crate::end::Lane;

/// A primitive of the kernel, or made from some. Those that a transport of ipcd stands on have its
/// name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Primitive {
    pub(crate) name: &'static str,
    kind: PrimitiveKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PrimitiveKind {
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
    named("pipe", PrimitiveKind::Pipe),
    named("fifo", PrimitiveKind::Fifo),
    named("unix", PrimitiveKind::UnixStream),
    named("unix-seqpacket", PrimitiveKind::UnixSeqpacket),
    named("unix-dgram", PrimitiveKind::UnixDgram),
    named("tcp", PrimitiveKind::Tcp),
    named("udp", PrimitiveKind::Udp),
    named("posix-mq", PrimitiveKind::PosixQueue),
    named("sysv-mq", PrimitiveKind::SysvQueue),
    named("shm-futex", PrimitiveKind::Ring(Bell::Futex)),
    named("shm-eventfd", PrimitiveKind::Ring(Bell::Eventfd)),
    named("shm-semaphore", PrimitiveKind::Ring(Bell::Semaphore)),
    named("shm-spin", PrimitiveKind::Ring(Bell::Spin)),
    named("signals", PrimitiveKind::Signals),
];

/// The primitive of this name, which must be one of [`ALL`].
pub(crate) fn find(name: &str) -> Primitive {
    ALL.into_iter().find(|it| it.name == name).expect("it is one of all")
}

const fn named(name: &'static str, kind: PrimitiveKind) -> Primitive {
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
            PrimitiveKind::Pipe => Box::new(stream::pipe(size, batch)?),
            PrimitiveKind::Fifo => Box::new(stream::fifo(dir, size, batch)?),
            PrimitiveKind::UnixStream => Box::new(stream::unix(size, batch)?),
            PrimitiveKind::Tcp => Box::new(stream::tcp(size, batch)?),
            PrimitiveKind::UnixSeqpacket => Box::new(datagram::seqpacket(size)?),
            PrimitiveKind::UnixDgram => Box::new(datagram::dgram(size)?),
            PrimitiveKind::Udp => Box::new(datagram::udp(size)?),
            PrimitiveKind::PosixQueue => Box::new(queue::posix(size)?),
            PrimitiveKind::SysvQueue => Box::new(queue::sysv(size)?),
            PrimitiveKind::Ring(bell) => Box::new(ring::RingLane::new(size, bell)?),
            PrimitiveKind::Signals => Box::new(signals::SignalLane::new(size)?),
        })
    }

    /// Whether messages may be lost on the way.
    pub(crate) fn may_lose(&self) -> bool {
        self.kind == PrimitiveKind::Udp
    }

    /// Whether it carries a payload, rather than only a wake-up.
    pub(crate) fn carries_payload(&self) -> bool {
        self.kind != PrimitiveKind::Signals
    }

    /// Whether waiting on it keeps a core busy.
    pub(crate) fn spins(&self) -> bool {
        self.kind == PrimitiveKind::Ring(Bell::Spin)
    }

    /// Bytes of the largest message, if there is a limit.
    pub(crate) fn largest(&self) -> Option<usize> {
        let limit = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        match self.kind {
            // An IPv4 packet has at most 65,535 bytes, with 28 of headers (udp(7)).
            PrimitiveKind::Udp => Some(65_507),
            PrimitiveKind::PosixQueue => limit("/proc/sys/fs/mqueue/msgsize_max").or(Some(8192)),
            PrimitiveKind::SysvQueue => limit("/proc/sys/kernel/msgmax").or(Some(8192)),
            _ => None,
        }
    }
}
