//! What workers hand each other: one inbox for each, which all others write records to.
//!
//! A record begins with the sender's slot, its incarnation and the receiver's, each a `u32`; then
//! come whole frames, or a piece of one. It stands behind one small type, so that a ring for each
//! pair of workers can replace it where measurement asks for it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ipcd_sys::duplicate_from;
use ipcd_transport::{Joiner, ReadBuffer, Splitter};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::uio::writev;

/// Bytes of the largest record, its header included: a frame with a payload of 64 KiB goes whole,
/// and the kernel's default buffer (`net.core.wmem_default`, 208 KiB) takes one while another waits.
const RECORD_BYTES: usize = 68 * 1024;
const HEADER_BYTES: usize = 12;

/// Both ends of a worker's inbox, made before any worker is born.
#[derive(Debug)]
pub(crate) struct InboxPair {
    reading: OwnedFd,
    writing: OwnedFd,
}

impl InboxPair {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (reading, writing) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(Self { reading, writing })
    }
}

/// A worker's own inbox, and the way into everybody's.
#[derive(Debug)]
pub(crate) struct Inboxes {
    slot: u32,
    life: u32,
    own: OwnedFd,
    ways: Vec<Way>,
    /// Records for or of a life that is over, which were dropped.
    stale: u64,
}

/// To and from the worker in one slot.
#[derive(Debug)]
struct Way {
    fd: OwnedFd,
    splitter: Splitter,
    /// The life that is written to.
    to_life: u32,
    /// The life that pieces are being joined of.
    life: u32,
    joiner: Joiner,
}

/// What was taken out of an inbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrived {
    /// There was nothing.
    Nothing,
    /// A record of this slot and life.
    Of(u32, u32),
    /// A record for a life that is over.
    Stale,
    /// What no worker sends.
    Nonsense,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sent {
    /// So many bytes were taken.
    Bytes(usize),
    /// The inbox is full; wait until its descriptor is writable.
    Full,
}

impl Inboxes {
    /// For the worker that is born in this slot. The descriptors are duplicated, so that the
    /// originals can be closed with everything else; their numbers are `least` or higher.
    pub(crate) fn new(pairs: &[InboxPair], slot: u32, life: u32, least: RawFd) -> io::Result<Self> {
        // Side by side, behind what is there for good: the sandbox protects them as a range.
        let base = pairs.last().map_or(0, |pair| pair.writing.as_raw_fd() + 1).max(least);
        let own = duplicate_from(pairs[slot as usize].reading.as_fd(), base)?;
        let way = |pair: &InboxPair| {
            let fd = duplicate_from(pair.writing.as_fd(), base)?;
            Ok(Way {
                fd,
                splitter: Splitter::default(),
                to_life: 0,
                life: 0,
                joiner: Joiner::default(),
            })
        };
        let ways = pairs.iter().map(way).collect::<io::Result<_>>()?;
        Ok(Self { slot, life, own, ways, stale: 0 })
    }

    /// All descriptors that a worker keeps.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.own.as_fd()).chain(self.ways.iter().map(|way| way.fd.as_fd()))
    }

    pub(crate) fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    pub(crate) fn way(&self, slot: u32) -> BorrowedFd<'_> {
        self.ways[slot as usize].fd.as_fd()
    }

    /// How many records were dropped since the last call, because their life is over.
    pub(crate) fn take_stale(&mut self) -> u64 {
        std::mem::take(&mut self.stale)
    }

    /// Sends one record of these frames to the worker in a slot.
    pub(crate) fn send(&mut self, slot: u32, life: u32, frames: &[u8]) -> io::Result<Sent> {
        let way = &mut self.ways[slot as usize];
        if std::mem::replace(&mut way.to_life, life) != life {
            // What was begun for the one who lived there before is of no use to this one.
            way.splitter = Splitter::default();
        }
        let Some(record) = way.splitter.next(frames, RECORD_BYTES - HEADER_BYTES) else {
            return Ok(Sent::Bytes(0));
        };
        let mut header = [0; HEADER_BYTES];
        for (field, value) in header.chunks_exact_mut(4).zip([self.slot, self.life, life]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        let parts = [&header, record.header(), &frames[..record.taken()]].map(IoSlice::new);
        // Not sendmsg(2), which a worker may not call: it could pass descriptors on.
        match writev(&way.fd, &parts) {
            Ok(_) => {
                way.splitter.sent(&record);
                Ok(Sent::Bytes(record.taken()))
            }
            Err(error) if is_for_later(error) => Ok(Sent::Full),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next record, and appends its frames if it is for us. What is no record is passed
    /// over and counted: another worker may have been taken over, and is not to take us along.
    pub(crate) fn receive(&mut self, into: &mut ReadBuffer) -> io::Result<Arrived> {
        let room = into.spare(RECORD_BYTES);
        let count = match recv(self.own.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => count,
            Err(error) if is_for_later(error) => return Ok(Arrived::Nothing),
            Err(error) => return Err(error.into()),
        };
        let mut fields = room[..count].chunks_exact(4);
        let mut field = || fields.next()?.try_into().ok().map(u32::from_le_bytes);
        let (Some(slot), Some(life), Some(to)) = (field(), field(), field()) else {
            return Ok(Arrived::Nonsense);
        };
        let Some(way) = self.ways.get_mut(slot as usize) else {
            return Ok(Arrived::Nonsense);
        };
        // What was for the one who lived here before is of no use to us.
        if to != self.life {
            self.stale += 1;
            return Ok(Arrived::Stale);
        }
        if way.life != life {
            way.life = life;
            self.stale += u64::from(way.joiner.is_joining());
            way.joiner = Joiner::default();
        }
        match way.joiner.accept_spare(HEADER_BYTES..count, into) {
            Ok(_) => Ok(Arrived::Of(slot, life)),
            Err(_) => Ok(Arrived::Nonsense),
        }
    }
}

/// Whether to try again: also when the kernel has no memory for a record now, of which neither end
/// is to die.
fn is_for_later(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::send;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 2;

    fn inbox() -> (Inboxes, Vec<InboxPair>) {
        let pairs: Vec<InboxPair> = (0..SLOTS).map(|_| InboxPair::new().unwrap()).collect();
        (Inboxes::new(&pairs, 0, 1, 0).unwrap(), pairs)
    }

    proptest! {
        /// Any records, in anybody's name: each is taken, and the inbox is there for the next.
        #[test]
        fn takes_any_records(
            records in vec((0..3_u32, 0..3_u32, 0..3_u32, vec(any::<u8>(), 0..200)), 1..20),
            cut in 0..12_usize,
        ) {
            let (mut inbox, pairs) = inbox();
            let mut buffer = ReadBuffer::new(1024, 1024);
            for (slot, life, to, rest) in records {
                let header = [slot, life, to].map(u32::to_le_bytes).concat();
                let record = [&header[..], &rest].concat();
                let record = &record[..record.len() - cut.min(rest.len() + cut)];
                send(pairs[0].writing.as_raw_fd(), record, MsgFlags::empty()).unwrap();
                let arrived = inbox.receive(&mut buffer).unwrap();
                prop_assert!(arrived != Arrived::Nothing);
                if let Arrived::Of(of, _) = arrived {
                    prop_assert!(of < SLOTS && to == 1);
                }
                buffer.clear();
                prop_assert_eq!(inbox.receive(&mut buffer).unwrap(), Arrived::Nothing);
            }
        }
    }
}
