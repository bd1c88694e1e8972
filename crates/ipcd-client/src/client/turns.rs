//! A client in somebody else's event loop: nothing here waits.
//!
//! The owner waits for [`Client::read_fd`] and, while [`Client::wants_room`], for
//! [`Client::write_fd`]; then it calls [`Client::advance`]. It bounds what piles up by not taking
//! messages, and by looking at [`Client::unwritten`] before it queues more.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use ipcd_proto::control::Refusal;
use ipcd_proto::{Header, Kind};

use super::{Client, Event, frame};
use crate::message::Publication;
use crate::wire::Wish;
use crate::{Error, Result};

impl Client {
    /// Wait here for [`Client::advance`] to have something to read.
    pub fn read_fd(&self) -> BorrowedFd<'_> {
        self.wire.channel().read_fd()
    }

    /// The same as [`Client::read_fd`] for sockets.
    pub fn write_fd(&self) -> BorrowedFd<'_> {
        self.wire.channel().write_fd()
    }

    /// Whether what is unwritten waits for room on [`Client::write_fd`].
    pub fn wants_room(&self) -> bool {
        self.wire.wants_room()
    }

    /// Whether [`Client::advance`] has to read even what it does not take.
    pub fn wants_service(&self) -> bool {
        self.wire.channel().wants_service()
    }

    /// Bytes that are not written yet.
    pub fn unwritten(&self) -> usize {
        self.wire.unwritten()
    }

    /// Publishes a message with the next [`Client::advance`].
    ///
    /// # Errors
    /// If the message is no good, or the connection is lost.
    pub fn queue(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        if let Some(why) = self.wire.ended() {
            return Err(Error::Disconnected(why.to_owned()));
        }
        let message = Publication { subject, payload, ..Publication::default() };
        self.check(&message)?;
        let header = Header::new(Kind::Message, self.take_id());
        self.wire.frame(&frame(header, &message));
        Ok(())
    }

    /// Says goodbye once all is written. The daemon closes the connection when it has accepted
    /// everything, which ends [`Client::advance`] with an error.
    pub fn leave(&mut self) {
        self.wire.control(Kind::Bye, 0, &[]);
    }

    /// Lets go of the connection at once: what is unwritten is lost, and dropping waits for nothing.
    pub fn abandon(&mut self) {
        self.wire.abandon();
        self.wire.end("it was let go".into());
    }

    /// Writes what can be written and, if it `takes` messages, reads once. Returns when it wants to
    /// be called again in any case.
    ///
    /// # Errors
    /// If the connection has ended. What came before is still handed out.
    pub fn advance(&mut self, takes: bool) -> Result<Option<Instant>> {
        let deadline = Some(Instant::now());
        self.turn(Wish { deadline, only_write: !takes, for_input: true, ..Wish::default() })?;
        Ok(self.wire.next_tick())
    }

    /// What has come.
    pub fn take(&mut self) -> Option<Event> {
        self.take_event()
    }

    /// Why the first message since the last call was refused, if one was.
    pub fn take_refused(&mut self) -> Option<Refusal> {
        self.refused.take()
    }
}
