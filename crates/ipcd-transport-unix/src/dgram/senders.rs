//! The senders, and the queues that their datagrams wait in.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ipcd_transport::{Error, PeerIdentity, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::unistd::Pid;

use super::reply::socket_of;
use super::sender_name::SenderName;

/// Bytes of the largest datagram. The kernel's default for a socket's buffer allows a little less.
pub(crate) const LARGEST: usize = 256 * 1024;
/// Senders at a time. For one more, the one that has been silent for longest makes room.
const MOST_SENDERS: usize = 512;
/// The number of times that an unread queue is given to a worker before it is given up.
const MOST_ATTEMPTS: u8 = 3;
/// Bytes of a queue's buffer, of which the kernel makes twice as many (socket(7)): the largest
/// datagram fits, and what 512 senders can make the kernel hold stays below 140 MiB.
const QUEUE_BYTES: usize = (LARGEST + 8 * 1024) / 2;

/// A sender and its queue: a SEQPACKET pair, because that has an end. In front of each datagram
/// goes a byte, for an empty record would be that end.
struct DatagramSender {
    name: SenderName,
    identity: PeerIdentity,
    /// Datagrams go in here.
    near: OwnedFd,
    /// The worker has a copy of this. With ours, what a worker left unread is there for the next.
    far: OwnedFd,
    /// Device and inode of the socket that the name led to.
    socket: Option<(u64, u64)>,
    heard: Instant,
    attempts: u8,
}

/// The outcome of offering a datagram to a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum QueueOutcome {
    Taken,
    Full,
}

/// All senders that were not silent for too long.
#[derive(Default)]
pub(crate) struct SenderTable {
    /// The processes that send by each name, and the sender that each is.
    ids: HashMap<SenderName, Vec<(Option<u32>, u64)>>,
    senders: HashMap<u64, DatagramSender>,
    /// The senders whose queues hold something and are served by no worker.
    orphans: VecDeque<u64>,
    /// The one whose queue has no room for the datagram that is held.
    blocked: Option<u64>,
    last: u64,
}

impl SenderTable {
    /// The sender with this name and process. A name alone does not distinguish senders: a relative
    /// path is another socket in each directory, and a process can pass its socket on.
    pub(crate) fn find(&mut self, name: &SenderName, identity: &PeerIdentity) -> Option<u64> {
        let (_, id) = *self.ids.get(name)?.iter().find(|(pid, _)| *pid == identity.pid)?;
        if self.senders.get(&id)?.identity == *identity {
            return Some(id);
        }
        self.forget(id);
        None
    }

    /// A new sender, with its first datagram.
    pub(crate) fn add(
        &mut self,
        name: SenderName,
        identity: PeerIdentity,
        first: &[u8],
        now: Instant,
    ) -> Result<u64> {
        let failed = |error: Errno| Error::system("make a queue for a sender", error);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(failed)?;
        setsockopt(&near, sockopt::SndBuf, &QUEUE_BYTES).map_err(failed)?;
        put(&near, first)?;
        if self.senders.len() >= MOST_SENDERS {
            self.make_room();
        }
        self.forget_replaced(&name);
        self.last += 1;
        self.ids.entry(name.clone()).or_default().push((identity.pid, self.last));
        let socket = socket_of(&name, identity.pid);
        let sender = DatagramSender { name, identity, near, far, socket, heard: now, attempts: 0 };
        self.senders.insert(self.last, sender);
        Ok(self.last)
    }

    pub(crate) fn put(&mut self, id: u64, datagram: &[u8]) -> Result<QueueOutcome> {
        let Some(sender) = self.senders.get_mut(&id) else { return Ok(QueueOutcome::Taken) };
        if sender.attempts > 0 && !has_unread(&sender.far) {
            sender.attempts = 0;
        }
        let put = put(&sender.near, datagram)?;
        sender.heard = Instant::now();
        if self.blocked == Some(id) && put == QueueOutcome::Taken {
            self.blocked = None;
        }
        Ok(put)
    }

    /// Notes that a datagram waits for room in this queue.
    pub(crate) fn wait_for(&mut self, id: u64) {
        self.blocked = Some(id);
    }

    /// The sender whose queue must have room first.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        self.blocked
    }

    /// The end at which datagrams go into a queue.
    pub(crate) fn end_of(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.senders.get(&id).map(|sender| sender.near.as_fd())
    }

    /// A copy of that, where what is for the sender comes out.
    pub(crate) fn copy_of_end(&self, id: u64) -> Result<OwnedFd> {
        let end = self.end_of(id).ok_or_else(|| Error::Protocol("no such sender".into()))?;
        end.try_clone_to_owned().map_err(|error| Error::system("duplicate a socket", error))
    }

    /// A copy of the other end, for a worker, and the sender's name.
    pub(crate) fn queue_of(&self, id: u64) -> Result<(OwnedFd, &SenderName)> {
        let sender = self.senders.get(&id);
        let sender = sender.ok_or_else(|| Error::Protocol("no such sender".into()))?;
        let copy = sender.far.try_clone();
        Ok((copy.map_err(|error| Error::system("duplicate a socket", error))?, &sender.name))
    }

    /// No worker serves the sender any more. Unless something is left in its queue, it is forgotten.
    pub(crate) fn release(&mut self, id: u64) {
        let Some(sender) = self.senders.get_mut(&id) else { return };
        sender.attempts += 1;
        let is_over = !has_unread(&sender.far) && self.blocked != Some(id);
        match is_over || sender.attempts > MOST_ATTEMPTS {
            true => self.forget(id),
            false => self.orphans.push_back(id),
        }
    }

    /// Closes the queue. Who serves it reads what is left, and then its end.
    pub(crate) fn forget(&mut self, id: u64) {
        if let Some(sender) = self.senders.remove(&id) {
            if let Some(processes) = self.ids.get_mut(&sender.name) {
                processes.retain(|(_, other)| *other != id);
                if processes.is_empty() {
                    self.ids.remove(&sender.name);
                }
            }
            self.orphans.retain(|orphan| *orphan != id);
            self.blocked.take_if(|blocked| *blocked == id);
        }
    }

    pub(crate) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// The next sender without a worker, to be given to another one.
    pub(crate) fn take_orphan(&mut self) -> Option<(u64, PeerIdentity)> {
        let id = self.orphans.pop_front()?;
        Some((id, self.senders.get(&id)?.identity.clone()))
    }

    /// The sender could not be given to a worker. That is tried again when the system has run out of
    /// something.
    pub(crate) fn put_back(&mut self, id: u64, error: &Error) {
        match error.is_exhaustion() {
            true => self.orphans.push_front(id),
            false => self.forget(id),
        }
    }

    /// Forgets the senders of this name whose process has ended, or whose name leads to another socket
    /// now. A program that starts anew at its old name would otherwise leave a peer behind each time.
    fn forget_replaced(&mut self, name: &SenderName) {
        let others = self.ids.get(name).cloned().unwrap_or_default();
        for (pid, id) in others {
            let has_ended = pid.is_some_and(|pid| {
                kill(Pid::from_raw(pid as i32), None::<Signal>) == Err(Errno::ESRCH)
            });
            let bound = self.senders.get(&id).and_then(|sender| sender.socket);
            if has_ended || bound.is_some() && socket_of(name, pid) != bound {
                self.forget(id);
            }
        }
    }

    /// Forgets the sender that has been silent for longest; rather one whose queue is empty, for what it
    /// sends next goes another way than what is left there.
    fn make_room(&mut self) {
        let mut by_age: Vec<_> = self.senders.iter().map(|(&id, s)| (s.heard, id)).collect();
        by_age.sort_unstable();
        let is_idle = |(_, id): &&(Instant, u64)| !has_unread(&self.senders[id].far);
        let oldest = by_age.iter().find(is_idle).or(by_age.first()).copied();
        if let Some((_, id)) = oldest {
            self.forget(id);
        }
    }
}

fn put(near: &OwnedFd, datagram: &[u8]) -> Result<QueueOutcome> {
    // The byte in front distinguishes an empty datagram from the end of the queue.
    let parts = [IoSlice::new(&[0]), IoSlice::new(datagram)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match sendmsg::<UnixAddr>(near.as_raw_fd(), &parts, &[], flags, None) {
        Ok(_) => Ok(QueueOutcome::Taken),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(QueueOutcome::Full),
        Err(error) => {
            let what = format!("hand on a datagram of {} bytes", datagram.len());
            Err(Error::system(what, error))
        }
    }
}

fn has_unread(far: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(far.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn add(senders: &mut SenderTable, number: usize, now: Instant) -> u64 {
        let name = SenderName::Bound(number.to_le_bytes().to_vec());
        senders.add(name, PeerIdentity::from_owner(7), b"first", now).unwrap()
    }

    fn read(senders: &SenderTable, id: u64) -> usize {
        let mut room = [0; 100];
        let (queue, _) = senders.queue_of(id).unwrap();
        nix::sys::socket::recv(queue.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT).unwrap_or(0)
    }

    fn of_process(pid: u32) -> PeerIdentity {
        PeerIdentity { pid: Some(pid), ..PeerIdentity::from_owner(7) }
    }

    #[test]
    fn two_processes_of_one_name_are_two_senders() {
        let (mut senders, now) = (SenderTable::default(), Instant::now());
        let name = SenderName::Bound(b"reply.sock".to_vec());
        let ours = of_process(std::process::id());
        let theirs = of_process(std::os::unix::process::parent_id());
        let [first, second] = [&ours, &theirs].map(|process| {
            assert_eq!(senders.find(&name, process), None);
            senders.add(name.clone(), process.clone(), b"first", now).unwrap()
        });
        for _ in 0..2 {
            assert_eq!(senders.find(&name, &ours), Some(first));
            assert_eq!(senders.find(&name, &theirs), Some(second));
        }
        senders.forget(first);
        assert_eq!(senders.find(&name, &ours), None);
        assert_eq!(senders.find(&name, &theirs), Some(second));
    }

    #[test]
    fn a_process_that_has_ended_leaves_no_sender_behind_its_name() {
        let (mut senders, now) = (SenderTable::default(), Instant::now());
        let mut child = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        let name = SenderName::Bound(b"\0name".to_vec());
        let ended = senders.add(name.clone(), of_process(child.id()), b"x", now).unwrap();
        let ours = of_process(std::process::id());
        let id = senders.add(name.clone(), ours.clone(), b"x", now).unwrap();
        assert!(senders.end_of(ended).is_none());
        assert_eq!(senders.find(&name, &ours), Some(id));
    }

    #[test]
    fn a_path_that_is_bound_anew_is_a_new_sender_and_the_old_one_is_forgotten() {
        let (mut senders, now) = (SenderTable::default(), Instant::now());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reply.sock");
        let old = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let name = SenderName::Bound(path.to_str().unwrap().as_bytes().to_vec());
        let ours = of_process(std::process::id());
        let first = senders.add(name.clone(), ours, b"x", now).unwrap();
        assert!(senders.senders[&first].socket.is_some());
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        let new = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let theirs = of_process(std::os::unix::process::parent_id());
        senders.add(name, theirs, b"x", now).unwrap();
        assert!(senders.end_of(first).is_none());
        drop((old, new));
    }

    #[test]
    fn the_oldest_whose_queue_is_empty_makes_room() {
        let (mut senders, now) = (SenderTable::default(), Instant::now());
        let at = |number: usize| now + Duration::from_secs(number as u64);
        let ids: Vec<u64> = (0..MOST_SENDERS).map(|n| add(&mut senders, n, at(n))).collect();
        assert_eq!((read(&senders, ids[3]), read(&senders, ids[5])), (6, 6));
        for (number, gone) in [(MOST_SENDERS, 3), (MOST_SENDERS + 1, 5), (MOST_SENDERS + 2, 0)] {
            add(&mut senders, number, at(number));
            assert!(senders.end_of(ids[gone]).is_none(), "{gone} was to go");
            assert_eq!((senders.ids.len(), senders.senders.len()), (MOST_SENDERS, MOST_SENDERS));
        }
    }

    #[test]
    fn a_queue_is_handed_out_again_until_it_is_read_or_given_up() {
        let mut senders = SenderTable::default();
        let id = add(&mut senders, 1, Instant::now());
        for _ in 0..MOST_ATTEMPTS {
            senders.release(id);
            assert_eq!(senders.take_orphan().map(|(orphan, _)| orphan), Some(id));
        }
        senders.release(id);
        assert!(!senders.has_orphans() && senders.end_of(id).is_none());
        let id = add(&mut senders, 1, Instant::now());
        read(&senders, id);
        senders.release(id);
        assert!(!senders.has_orphans() && senders.senders.is_empty() && senders.ids.is_empty());
    }

    #[test]
    fn a_full_queue_takes_more_when_it_was_read() {
        let mut senders = SenderTable::default();
        let id = add(&mut senders, 1, Instant::now());
        while senders.put(id, &[1; 50]).unwrap() == QueueOutcome::Taken {}
        senders.wait_for(id);
        while read(&senders, id) > 0 {}
        assert_eq!(senders.put(id, &[1; 50]).unwrap(), QueueOutcome::Taken);
        assert_eq!(senders.waits_for(), None);
        assert!(senders.put(id, &[0; 4 << 20]).is_err(), "too long for any queue");
    }
}
