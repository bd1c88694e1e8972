//! The inboxes of workers: each has one, and all others write records to it.
//!
//! A record begins with the sender's slot, its generation and the receiver's, each a `u32`; then
//! come whole frames, or a piece of one. It stands behind one small type. Rings in shared
//! memory were tried in its place, and were slower (ADR 0016).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ipcd_sys::duplicate_from;
use ipcd_sys::generation_table::{GenerationTable, GenerationView};
use ipcd_transport::{ReadBuffer, RecordJoiner, RecordSplitter};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::uio::writev;
use nix::unistd::dup3;

use crate::lacking::is_exhaustion;
use crate::link::Link;

/// Bytes of the largest record, its header included: a frame with a payload of 64 KiB goes whole,
/// and the kernel's default buffer (`net.core.wmem_default`, 208 KiB) takes one while another waits.
const RECORD_BYTES: usize = 68 * 1024;
const HEADER_BYTES: usize = 12;

/// The inboxes of all workers, made before any worker is born.
#[derive(Debug)]
pub(crate) struct InboxSet {
    /// The reading end of each worker's inbox.
    reading: Vec<OwnedFd>,
    /// The descriptors that each worker shares with other processes, with consecutive numbers, so
    /// that its sandbox can protect the range: a placeholder for its own inbox, the writing ends of
    /// all inboxes, and a placeholder for its link.
    shared: Vec<OwnedFd>,
    /// Which life each place has last begun.
    generations: GenerationTable,
}

/// The place of a worker's own inbox among the shared descriptors, and the first of the writing
/// ends.
const OWN: usize = 0;
const FIRST_WAY: usize = 1;

impl InboxSet {
    /// Inboxes for this many workers.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = |_| socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let pairs: nix::Result<Vec<_>> = (0..count).map(pair).collect();
        let (reading, writing): (Vec<_>, Vec<_>) = pairs?.into_iter().unzip();
        // Takes the places of what only the child knows: its own inbox, and its link.
        let filler = reading.first().ok_or(Errno::EINVAL)?;
        let shared: Vec<_> = [filler].into_iter().chain(&writing).chain([filler]).collect();
        let shared = side_by_side(&shared)?;
        Ok(Self { reading, shared, generations: GenerationTable::new(count)? })
    }

    /// The number of workers.
    pub(crate) fn len(&self) -> usize {
        self.reading.len()
    }

    /// Begins a generation in a slot. To be called before that worker is forked: the receiver of
    /// its first record checks that the generation exists.
    pub(crate) fn begin(&self, slot: u32, generation: u32) {
        self.generations.set(slot as usize, generation);
    }
}

/// Duplicates with consecutive numbers.
fn side_by_side(fds: &[&OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let mut first = fds.iter().map(|fd| fd.as_raw_fd() + 1).max().unwrap_or(0);
    loop {
        let copies = fds.iter().map(|fd| duplicate_from(fd.as_fd(), first));
        let copies = copies.collect::<io::Result<Vec<_>>>()?;
        let follows = |pair: &[OwnedFd]| pair[0].as_raw_fd() + 1 == pair[1].as_raw_fd();
        if copies.windows(2).all(follows) {
            return Ok(copies);
        }
        // Some other descriptor lies between: behind it, then.
        first = copies.iter().map(|fd| fd.as_raw_fd() + 1).max().unwrap_or(first);
    }
}

/// A worker's own inbox, and the writing ends of all inboxes.
#[derive(Debug)]
pub(crate) struct WorkerInboxes {
    slot: u32,
    generation: u32,
    /// Its own inbox, and the ways into all.
    shared: Vec<OwnedFd>,
    /// The state of each route that was used. A child that serves one peer uses few.
    ways: Vec<Option<Box<InboxRoute>>>,
    /// Which life each place has last begun, as the supervisor says.
    generations: GenerationView,
    /// Records for or of a life that is over, which were dropped.
    stale: u64,
}

/// To and from the worker in one slot.
#[derive(Debug, Default)]
struct InboxRoute {
    splitter: RecordSplitter,
    /// The life that is written to.
    to_generation: u32,
    /// The life that pieces are being joined of.
    generation: u32,
    joiner: RecordJoiner,
}

/// The outcome of reading an inbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ReceivedRecord {
    /// There was nothing.
    Nothing,
    /// A record of this slot and life.
    Of(u32, u32),
    /// A record for a life that is over.
    Stale,
    /// A record that violates the protocol.
    Invalid,
}

/// The outcome of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SendOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// The inbox is full; wait until its descriptor is writable.
    Full,
    /// The kernel has no memory for a record now, and its descriptor is writable all the same.
    NoMemory,
}

impl WorkerInboxes {
    /// For the worker that is born in this slot, with its link. Only for a freshly forked child,
    /// which takes the descriptors' numbers over from its parent's values.
    ///
    /// # Errors
    /// As dup3(2).
    pub(crate) fn take(
        places: &mut InboxSet,
        slot: u32,
        generation: u32,
        link: &Link,
    ) -> io::Result<(Self, Link)> {
        let mut shared = std::mem::take(&mut places.shared);
        let link = link.move_to(shared.pop().expect("the link's place is the last one"))?;
        // In one step, so that no other descriptor gets the number in between.
        dup3(&places.reading[slot as usize], &mut shared[OWN], OFlag::O_CLOEXEC)?;
        let mut ways = Vec::new();
        ways.resize_with(shared.len() - FIRST_WAY, || None);
        let generations = places.generations.view();
        Ok((Self { slot, generation, shared, ways, generations, stale: 0 }, link))
    }

    /// All descriptors that a worker shares with others, but for its link.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.shared.iter().map(AsFd::as_fd)
    }

    pub(crate) fn own_inbox(&self) -> BorrowedFd<'_> {
        self.shared[OWN].as_fd()
    }

    pub(crate) fn writing_end(&self, slot: u32) -> BorrowedFd<'_> {
        self.shared[FIRST_WAY + slot as usize].as_fd()
    }

    /// The number of records that were dropped since the last call, because their generation is
    /// over.
    pub(crate) fn take_stale(&mut self) -> u64 {
        std::mem::take(&mut self.stale)
    }

    /// Sends one record of these frames to the worker in a slot.
    pub(crate) fn send(
        &mut self,
        slot: u32,
        generation: u32,
        frames: &[u8],
    ) -> io::Result<SendOutcome> {
        let fd = self.shared[FIRST_WAY + slot as usize].as_fd();
        let way = self.ways[slot as usize].get_or_insert_default();
        if std::mem::replace(&mut way.to_generation, generation) != generation {
            // A record that was begun for the previous generation is of no use to this one.
            way.splitter = RecordSplitter::default();
        }
        let Some(record) = way.splitter.next(frames, RECORD_BYTES - HEADER_BYTES) else {
            return Ok(SendOutcome::Bytes(0));
        };
        let mut header = [0; HEADER_BYTES];
        for (field, value) in
            header.chunks_exact_mut(4).zip([self.slot, self.generation, generation])
        {
            field.copy_from_slice(&value.to_le_bytes());
        }
        let parts = [&header, record.header(), &frames[..record.taken()]].map(IoSlice::new);
        // Not sendmsg(2), which a worker may not call: it could pass descriptors on.
        match writev(fd, &parts) {
            Ok(_) => {
                way.splitter.sent(&record);
                Ok(SendOutcome::Bytes(record.taken()))
            }
            Err(error) if is_exhaustion(error) => Ok(SendOutcome::NoMemory),
            Err(error) if is_for_later(error) => Ok(SendOutcome::Full),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next record, and appends its frames if it is for this generation. An invalid
    /// record is no error of ours: another worker may have been taken over, and must not end this
    /// one.
    pub(crate) fn receive(&mut self, into: &mut ReadBuffer) -> io::Result<ReceivedRecord> {
        let room = into.spare(RECORD_BYTES);
        // The flag of the socket does not suffice: it belongs to the open file description, which
        // other processes share.
        let count = match recv(self.shared[OWN].as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => count,
            Err(error) if is_for_later(error) => return Ok(ReceivedRecord::Nothing),
            Err(error) => return Err(error.into()),
        };
        let mut fields = room[..count].chunks_exact(4);
        let mut field = || fields.next()?.try_into().ok().map(u32::from_le_bytes);
        let (Some(slot), Some(generation), Some(to)) = (field(), field(), field()) else {
            return Ok(ReceivedRecord::Invalid);
        };
        let Some(way) = self.ways.get_mut(slot as usize) else {
            return Ok(ReceivedRecord::Invalid);
        };
        // A sender that claims a generation of the future would have its successors taken for dead.
        let last = self.generations.get(slot as usize).unwrap_or(0);
        if generation == 0 || generation > last {
            return Ok(ReceivedRecord::Invalid);
        }
        // A record for the previous generation is of no use to this one.
        if to != self.generation {
            self.stale += 1;
            return Ok(ReceivedRecord::Stale);
        }
        let way = way.get_or_insert_default();
        if way.generation != generation {
            way.generation = generation;
            self.stale += u64::from(way.joiner.is_joining());
            way.joiner = RecordJoiner::default();
        }
        match way.joiner.accept_spare(HEADER_BYTES..count, into) {
            Ok(_) => Ok(ReceivedRecord::Of(slot, generation)),
            Err(_) => Ok(ReceivedRecord::Invalid),
        }
    }
}

/// Whether to try again: also when the kernel has no memory for a record now, of which neither end
/// is to die.
fn is_for_later(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::EINTR) || is_exhaustion(error)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::send;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 2;

    /// That of slot 0, beside a worker that lives for the second time.
    fn inbox() -> (WorkerInboxes, InboxSet) {
        let mut places = InboxSet::new(SLOTS as usize).unwrap();
        let (link, _) = Link::pair().unwrap();
        places.begin(0, 1);
        places.begin(1, 2);
        (WorkerInboxes::take(&mut places, 0, 1, &link).unwrap().0, places)
    }

    /// A record without frames, and what comes of it.
    fn say(inbox: &mut WorkerInboxes, slot: u32, generation: u32) -> ReceivedRecord {
        let header = [slot, generation, 1].map(u32::to_le_bytes).concat();
        send(inbox.writing_end(0).as_raw_fd(), &[&header[..], &[0]].concat(), MsgFlags::empty())
            .unwrap();
        inbox.receive(&mut ReadBuffer::new(1024, 1024)).unwrap()
    }

    #[test]
    fn nobody_is_believed_to_be_a_life_that_has_not_begun() {
        let (mut inbox, places) = inbox();
        for generation in [0, 3, u32::MAX] {
            assert_eq!(say(&mut inbox, 1, generation), ReceivedRecord::Invalid, "{generation}");
        }
        assert_eq!(say(&mut inbox, 1, 2), ReceivedRecord::Of(1, 2));
        // A record that was sent before the death is valid after it, and the next generation at
        // once.
        places.begin(1, 3);
        assert_eq!(say(&mut inbox, 1, 2), ReceivedRecord::Of(1, 2));
        assert_eq!(say(&mut inbox, 1, 3), ReceivedRecord::Of(1, 3));
    }

    #[test]
    fn what_a_worker_shares_is_a_range() {
        let mut numbers: Vec<_> = {
            let mut places = InboxSet::new(5).unwrap();
            let (link, _) = Link::pair().unwrap();
            let (inbox, link) = WorkerInboxes::take(&mut places, 3, 1, &link).unwrap();
            inbox.descriptors().chain([link.as_fd()]).map(|fd| fd.as_raw_fd()).collect()
        };
        numbers.sort_unstable();
        assert_eq!(numbers, (numbers[0]..numbers[0] + 7).collect::<Vec<_>>());
    }

    /// A foreign descriptor within the range would be protected although it is no shared one.
    #[test]
    fn a_range_goes_round_what_lies_in_its_way() {
        let filler = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let far = duplicate_from(filler.as_fd(), filler.as_raw_fd() + 2).unwrap();
        let copies = side_by_side(&[&filler, &filler, &filler]).unwrap();
        assert!(copies.windows(2).all(|pair| pair[0].as_raw_fd() + 1 == pair[1].as_raw_fd()));
        assert!(copies.iter().all(|copy| copy.as_raw_fd() != far.as_raw_fd()));
    }

    proptest! {
        /// Any record in any name is taken, and the inbox is there for the next.
        #[test]
        fn takes_any_records(
            records in vec((0..3_u32, 0..3_u32, 0..3_u32, vec(any::<u8>(), 0..200)), 1..20),
            cut in 0..12_usize,
        ) {
            let (mut inbox, _) = inbox();
            let mut buffer = ReadBuffer::new(1024, 1024);
            for (slot, generation, to, rest) in records {
                let header = [slot, generation, to].map(u32::to_le_bytes).concat();
                let record = [&header[..], &rest].concat();
                let record = &record[..record.len() - cut.min(rest.len() + cut)];
                send(inbox.writing_end(0).as_raw_fd(), record, MsgFlags::empty()).unwrap();
                let arrived = inbox.receive(&mut buffer).unwrap();
                prop_assert!(arrived != ReceivedRecord::Nothing);
                if let ReceivedRecord::Of(of, as_generation) = arrived {
                    prop_assert!(of < SLOTS && to == 1 && as_generation == generation && generation <= of + 1);
                }
                buffer.clear();
                prop_assert_eq!(inbox.receive(&mut buffer).unwrap(), ReceivedRecord::Nothing);
            }
        }
    }
}
