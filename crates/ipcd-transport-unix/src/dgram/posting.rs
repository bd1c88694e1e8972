//! The way back to senders that have connected their sockets: these hear the well-known socket and
//! no other (unix(7)), and only the listener can write through that. So what is for such a sender
//! comes out of its queue here, and is posted.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, sendto};

use super::reply::SenderAddress;
use super::senders::LARGEST;

/// Senders looked at in a turn, and datagrams posted to each, so that others have theirs.
const TURN_SENDERS: usize = 32;
const TURN_DATAGRAMS: usize = 16;
/// The number in events about room of the well-known socket; no sender has it.
const ROOM: u64 = u64::MAX;

/// Those that are written to so.
pub(crate) struct ReplyPoster {
    /// The well-known socket.
    socket: OwnedFd,
    posts: HashMap<u64, PendingReplies>,
    /// Readable when there is something to post.
    ready: Epoll,
    /// Those with a datagram that waits for room.
    waiting: usize,
    room: Vec<u8>,
}

struct PendingReplies {
    /// The end at which datagrams for the sender come out.
    queue: OwnedFd,
    to: SenderAddress,
    /// A datagram that its socket had no room for.
    waiting: Option<Vec<u8>>,
}

/// The outcome for a datagram.
enum PostOutcome {
    Away,
    NoRoom,
    /// The sender is gone.
    Gone,
}

impl ReplyPoster {
    pub(crate) fn new(socket: OwnedFd) -> nix::Result<Self> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (posts, room) = (HashMap::new(), Vec::new());
        Ok(Self { socket, posts, ready, waiting: 0, room })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    /// Sends to that address what is written into the other end of this queue.
    pub(crate) fn add(&mut self, id: u64, queue: OwnedFd, to: SenderAddress) -> nix::Result<()> {
        self.forget(id);
        self.ready.add(&queue, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
        self.posts.insert(id, PendingReplies { queue, to, waiting: None });
        Ok(())
    }

    pub(crate) fn forget(&mut self, id: u64) {
        let Some(post) = self.posts.remove(&id) else { return };
        match post.waiting {
            Some(_) => self.waits_no_more(),
            // The queue has other descriptors, so that closing this one does not take it out.
            None => drop(self.ready.delete(&post.queue)),
        }
    }

    /// Forgets those that are not to be kept.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.posts.keys().copied().filter(|id| !is_kept(*id)).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// Posts what there is; returns senders that are there no more.
    pub(crate) fn turn(&mut self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); TURN_SENDERS];
        let count = self.ready.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        self.room.resize(LARGEST, 0);
        let mut gone = Vec::new();
        for event in &events[..count] {
            match event.data() {
                ROOM => gone.extend(self.try_again()),
                id => gone.extend((!self.post(id)).then_some(id)),
            }
        }
        // Large, and seldom needed.
        self.room = Vec::new();
        gone
    }

    /// Whether the sender is still there.
    fn post(&mut self, id: u64) -> bool {
        for _ in 0..TURN_DATAGRAMS {
            let Some(PendingReplies { queue, to, waiting }) = self.posts.get_mut(&id) else {
                return true;
            };
            let count = match recv(queue.as_raw_fd(), &mut self.room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => return true,
                Ok(count) => count,
                Err(_) => return false,
            };
            match send(&self.socket, &self.room[..count], to) {
                PostOutcome::Away => {}
                PostOutcome::Gone => return false,
                PostOutcome::NoRoom => {
                    *waiting = Some(self.room[..count].to_vec());
                    let _ = self.ready.delete(queue);
                    return self.wait_for_room();
                }
            }
        }
        true
    }

    /// A receiver that has read makes room, which an edge tells: the socket itself may have been
    /// writable all the time.
    fn wait_for_room(&mut self) -> bool {
        self.waiting += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, ROOM);
        self.waiting > 1 || self.ready.add(&self.socket, event).is_ok()
    }

    fn waits_no_more(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            let _ = self.ready.delete(&self.socket);
        }
    }

    fn try_again(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        let mut done = 0;
        for (id, PendingReplies { queue, to, waiting }) in &mut self.posts {
            let Some(datagram) = waiting else { continue };
            match send(&self.socket, datagram, to) {
                PostOutcome::NoRoom => {}
                PostOutcome::Gone => gone.push(*id),
                PostOutcome::Away => {
                    *waiting = None;
                    done += 1;
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, *id);
                    gone.extend(self.ready.add(&*queue, event).is_err().then_some(*id));
                }
            }
        }
        (0..done).for_each(|_| self.waits_no_more());
        gone
    }
}

fn send(socket: &OwnedFd, datagram: &[u8], to: &SenderAddress) -> PostOutcome {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match to.to_unix().and_then(|to| sendto(socket.as_raw_fd(), datagram, &to, flags)) {
        // One that is too long is lost alone.
        Ok(_) | Err(Errno::EMSGSIZE) => PostOutcome::Away,
        Err(Errno::EAGAIN | Errno::EINTR) => PostOutcome::NoRoom,
        Err(_) => PostOutcome::Gone,
    }
}
