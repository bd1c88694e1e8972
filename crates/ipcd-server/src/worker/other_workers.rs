//! The sockets to other workers. There is one for each worker that this one has met, and both ends
//! write records to it.
//!
//! A record is whole frames, or a piece of one. The supervisor makes the socket for two generations
//! of workers, so that the socket itself proves the sender of a record. Rings in shared memory were
//! tried in its place, and were slower (ADR 0016).

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ipcd_transport::{ReadBuffer, RecordJoiner, RecordSplitter};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::uio::writev;
use tracing::warn;

use crate::Error;
use crate::lacking::is_exhaustion;
use crate::worker::connection::EventToken;

/// Bytes of the largest record, its header included: a frame with a payload of 64 KiB goes whole,
/// and the kernel's default buffer (`net.core.wmem_default`, 208 KiB) takes one while another waits.
const RECORD_BYTES: usize = 68 * 1024;

/// The workers that this one has met, by slot.
pub(super) struct OtherWorkers {
    workers: BTreeMap<u32, OtherWorker>,
    /// The token of the socket to slot 0; those of the others follow.
    first_token: EventToken,
    /// Records that were dropped because they violate the protocol.
    invalid: u64,
    has_reported_invalid: bool,
}

/// A generation of a worker.
struct OtherWorker {
    generation: u32,
    socket: OwnedFd,
    splitter: RecordSplitter,
    joiner: RecordJoiner,
    /// Whether the socket takes no more for now.
    is_full: bool,
    /// Whether epoll watches the socket. The kernel may have no memory for that.
    is_watched: bool,
}

/// The outcome of reading a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ReceivedRecord {
    /// There was nothing.
    Nothing,
    /// A record of this generation.
    Of(u32),
    /// A record that violates the protocol.
    Invalid,
    /// The other worker has ended, and everything that it had sent was read.
    Closed,
}

/// The outcome of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ForwardOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// The socket is full. Epoll tells when there is room.
    Full,
    /// The kernel has no memory now: to be tried again after a pause.
    NoMemory,
}

impl OtherWorkers {
    /// Has epoll report events of the socket to a slot under the tokens from `first_token` on.
    pub(super) fn new(first_token: EventToken) -> Self {
        Self { workers: BTreeMap::new(), first_token, invalid: 0, has_reported_invalid: false }
    }

    /// The slots of the workers that this one has met.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.workers.keys().copied().collect()
    }

    /// Adds a worker, with the socket to it. The caller has read everything of its predecessor, and
    /// calls [`OtherWorkers::watch`].
    pub(super) fn add(&mut self, slot: u32, generation: u32, socket: OwnedFd, epoll: &Epoll) {
        self.remove(slot, epoll);
        let (splitter, joiner) = (RecordSplitter::default(), RecordJoiner::default());
        let (is_full, is_watched) = (false, false);
        let worker = OtherWorker { generation, socket, splitter, joiner, is_full, is_watched };
        self.workers.insert(slot, worker);
    }

    /// Has epoll watch the socket to a slot, if it does not yet. Returns false if the kernel has no
    /// memory for that: it has to be tried again.
    pub(super) fn watch(&mut self, slot: u32, epoll: &Epoll) -> Result<bool, Error> {
        let event = self.event(slot, EpollFlags::EPOLLIN);
        let Some(worker) = self.workers.get_mut(&slot).filter(|worker| !worker.is_watched) else {
            return Ok(true);
        };
        match epoll.add(&worker.socket, event) {
            Ok(()) => worker.is_watched = true,
            Err(error) if is_exhaustion(error) => {}
            Err(error) => return Err(Error::system("watch the socket to another worker", error)),
        }
        Ok(worker.is_watched)
    }

    fn remove(&mut self, slot: u32, epoll: &Epoll) {
        if let Some(worker) = self.workers.remove(&slot) {
            // The end of the descriptor ends the watch, too, because no other process has it.
            let _ = epoll.delete(&worker.socket);
        }
    }

    /// Takes the next record of a worker, and appends its frames. An invalid record is no error of
    /// ours: another worker may have been taken over, and must not end this one.
    pub(super) fn receive(
        &mut self,
        slot: u32,
        into: &mut ReadBuffer,
        epoll: &Epoll,
    ) -> Result<ReceivedRecord, Error> {
        let Some(worker) = self.workers.get_mut(&slot) else { return Ok(ReceivedRecord::Nothing) };
        let room = into.spare(RECORD_BYTES);
        let fd = worker.socket.as_raw_fd();
        let mut receive = || recv(fd, room, MsgFlags::MSG_DONTWAIT);
        // That the other one ended with records unread is told once, and ahead of what it had still
        // sent (unix_release_sock).
        let received = match receive() {
            Err(Errno::ECONNRESET) => receive(),
            received => received,
        };
        let count = match received {
            Ok(0) => {
                self.remove(slot, epoll);
                return Ok(ReceivedRecord::Closed);
            }
            Ok(count) => count,
            Err(error) if is_for_later(error) => return Ok(ReceivedRecord::Nothing),
            Err(error) => return Err(Error::system("read from another worker", error)),
        };
        if worker.joiner.accept_spare(0..count, into).is_ok() {
            return Ok(ReceivedRecord::Of(worker.generation));
        }
        self.invalid += 1;
        if !std::mem::replace(&mut self.has_reported_invalid, true) {
            warn!("dropped an invalid record of another worker; later ones are only counted");
        }
        Ok(ReceivedRecord::Invalid)
    }

    /// The number of records that were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.invalid)
    }

    /// Whether the socket to a slot takes no more for now.
    pub(super) fn is_full(&self, slot: u32) -> bool {
        self.workers.get(&slot).is_some_and(|worker| worker.is_full)
    }

    /// Sends frames to the worker in a slot, as one record. Frames for a worker that has ended are
    /// taken and dropped.
    pub(super) fn send(
        &mut self,
        slot: u32,
        generation: u32,
        frames: &[u8],
        epoll: &Epoll,
    ) -> Result<ForwardOutcome, Error> {
        let full = self.event(slot, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        let living = self.workers.get_mut(&slot).filter(|known| known.generation == generation);
        let Some(worker) = living else { return Ok(ForwardOutcome::Bytes(frames.len())) };
        let Some(record) = worker.splitter.next(frames, RECORD_BYTES) else {
            return Ok(ForwardOutcome::Bytes(0));
        };
        let parts = [record.header(), &frames[..record.taken()]].map(IoSlice::new);
        // Not sendmsg(2), which a worker may not call: it could pass descriptors on.
        match writev(&worker.socket, &parts) {
            Ok(_) => {
                worker.splitter.sent(&record);
                return Ok(ForwardOutcome::Bytes(record.taken()));
            }
            Err(Errno::EPIPE | Errno::ECONNRESET) => {
                return Ok(ForwardOutcome::Bytes(frames.len()));
            }
            Err(error) if is_exhaustion(error) => return Ok(ForwardOutcome::NoMemory),
            Err(error) if is_for_later(error) => {}
            Err(error) => return Err(Error::system("write to another worker", error)),
        }
        // Without a watch nothing would tell of room.
        if !worker.is_watched {
            return Ok(ForwardOutcome::NoMemory);
        }
        worker.rewatch(full, true, epoll)
    }

    /// Notes that a socket that was full has room. Returns whether it was full.
    pub(super) fn note_room(&mut self, slot: u32, epoll: &Epoll) -> Result<bool, Error> {
        let event = self.event(slot, EpollFlags::EPOLLIN);
        match self.workers.get_mut(&slot).filter(|worker| worker.is_full) {
            Some(worker) => worker.rewatch(event, false, epoll).map(|_| true),
            None => Ok(false),
        }
    }

    fn event(&self, slot: u32, flags: EpollFlags) -> EpollEvent {
        let place = self.first_token.place + slot;
        EpollEvent::new(flags, EventToken { place, number: 0 }.to_u64())
    }
}

impl OtherWorker {
    fn rewatch(
        &mut self,
        mut event: EpollEvent,
        is_full: bool,
        epoll: &Epoll,
    ) -> Result<ForwardOutcome, Error> {
        match epoll.modify(self.socket.as_fd(), &mut event) {
            Ok(()) => {
                self.is_full = is_full;
                Ok(ForwardOutcome::Full)
            }
            // Epoll reports the same again.
            Err(error) if is_exhaustion(error) => Ok(ForwardOutcome::NoMemory),
            Err(error) => Err(Error::system("watch the socket to another worker", error)),
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
    use ipcd_proto::{FrameKind, FrameWriter, Header};
    use nix::sys::epoll::EpollCreateFlags;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, send, socketpair};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const FIRST: EventToken = EventToken { place: 3, number: 0 };

    /// A worker that has met one in slot 1, the far end of the socket, and an epoll instance.
    fn workers() -> (OtherWorkers, OwnedFd, Epoll) {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut others = OtherWorkers::new(FIRST);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        others.add(1, 7, near, &epoll);
        assert!(others.watch(1, &epoll).unwrap());
        (others, far, epoll)
    }

    fn frame() -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(FrameKind::Ping, 1), &[]);
        bytes
    }

    #[test]
    fn records_of_a_worker_that_has_ended_are_read_before_its_end() {
        let (mut one, far, epoll) = workers();
        let mut other = OtherWorkers::new(FIRST);
        other.add(0, 1, far, &epoll);
        assert!(other.watch(0, &epoll).unwrap());
        let sent = other.send(0, 1, &frame(), &epoll).unwrap();
        assert_eq!(sent, ForwardOutcome::Bytes(frame().len()));
        // It dies with a record unread.
        one.send(1, 7, &frame(), &epoll).unwrap();
        drop(other);
        let mut buffer = ReadBuffer::new(1024, 1024);
        assert_eq!(one.receive(1, &mut buffer, &epoll).unwrap(), ReceivedRecord::Of(7));
        assert_eq!(buffer.filled(), frame());
        assert_eq!(one.receive(1, &mut buffer, &epoll).unwrap(), ReceivedRecord::Closed);
        assert_eq!(one.receive(1, &mut buffer, &epoll).unwrap(), ReceivedRecord::Nothing);
        // Frames for it would otherwise wait for ever.
        let dropped = one.send(1, 7, &frame(), &epoll).unwrap();
        assert_eq!(dropped, ForwardOutcome::Bytes(frame().len()));
    }

    #[test]
    fn frames_for_an_earlier_generation_do_not_reach_the_present_one() {
        let (mut others, far, epoll) = workers();
        let sent = others.send(1, 6, &frame(), &epoll).unwrap();
        assert_eq!(sent, ForwardOutcome::Bytes(frame().len()));
        let mut room = [0; 100];
        assert_eq!(recv(far.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_full_socket_has_room_again_once_the_other_worker_reads() {
        let (mut others, far, epoll) = workers();
        let mut frames = Vec::new();
        FrameWriter(&mut frames).control(Header::new(FrameKind::Ping, 1), &[0; 60 * 1024]);
        while others.send(1, 7, &frames, &epoll).unwrap() != ForwardOutcome::Full {}
        assert!(others.is_full(1) && !others.is_full(2));
        let mut room = vec![0; RECORD_BYTES];
        while recv(far.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT).is_ok() {}
        assert!(others.note_room(1, &epoll).unwrap() && !others.is_full(1));
        assert!(!others.note_room(1, &epoll).unwrap());
    }

    proptest! {
        /// Any records are taken, and the worker is there for the next.
        #[test]
        fn takes_any_records(records in vec(vec(any::<u8>(), 1..200), 1..20)) {
            let (mut others, far, epoll) = workers();
            let mut buffer = ReadBuffer::new(1024, 1024);
            for record in records {
                send(far.as_raw_fd(), &record, MsgFlags::empty()).unwrap();
                let received = others.receive(1, &mut buffer, &epoll).unwrap();
                prop_assert!(matches!(received, ReceivedRecord::Of(7) | ReceivedRecord::Invalid));
                buffer.clear();
                let next = others.receive(1, &mut buffer, &epoll).unwrap();
                prop_assert_eq!(next, ReceivedRecord::Nothing);
            }
        }
    }
}
