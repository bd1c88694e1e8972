//! A client inside another event loop: nothing here waits.
//!
//! The loop waits for [`Client::read_fd`] and, while [`Client::wants_room`], for
//! [`Client::write_fd`]; then it calls [`Client::advance`]. It bounds memory by not taking
//! messages, and by a look at [`Client::unwritten`] before it queues more.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use ipcd_proto::FrameKind;
use ipcd_proto::control::Refusal;

use super::{Client, Event};
use crate::frame_channel::TurnGoal;
use crate::message::Publication;
use crate::{Error, Result};

impl Client {
    /// The descriptor that is readable when [`Client::advance`] has something to read.
    pub fn read_fd(&self) -> BorrowedFd<'_> {
        self.session.channel_ref().inner().read_fd()
    }

    /// The descriptor to write to. For sockets it is that of [`Client::read_fd`].
    pub fn write_fd(&self) -> BorrowedFd<'_> {
        self.session.channel_ref().inner().write_fd()
    }

    /// Whether unwritten bytes wait for room on [`Client::write_fd`].
    pub fn wants_room(&self) -> bool {
        self.session.channel_ref().wants_room()
    }

    /// Whether [`Client::advance`] has to be called at each readable event, even with
    /// `takes == false`: the transport has traffic of its own.
    pub fn wants_service(&self) -> bool {
        self.session.channel_ref().inner().wants_service()
    }

    /// Bytes in the buffer that are not written yet.
    pub fn unwritten(&self) -> usize {
        self.session.channel_ref().unwritten()
    }

    /// Buffers a message. The next [`Client::advance`] writes it, as far as there is room.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub fn queue(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        if let Some(why) = self.session.channel_ref().ended() {
            return Err(Error::Disconnected(why.to_owned()));
        }
        self.buffer(&Publication { subject, payload, ..Publication::default() }, false)
    }

    /// Sends BYE behind everything that is buffered. The daemon closes the connection once it has
    /// accepted all messages; [`Client::advance`] then returns an error.
    pub fn leave(&mut self) {
        self.session.channel().control(FrameKind::Bye, 0, &[]);
    }

    /// Closes the connection at once. Unwritten bytes are lost, and dropping waits for nothing.
    pub fn abandon(&mut self) {
        let channel = self.session.channel();
        channel.abandon();
        channel.end("it was abandoned".into());
    }

    /// Writes as much as there is room for and, if it `takes` messages, reads once. Returns the time
    /// at which it has to be called again even if no descriptor is ready.
    ///
    /// # Errors
    /// If the connection has ended. Events that came before can still be taken.
    pub fn advance(&mut self, takes: bool) -> Result<Option<Instant>> {
        // A deadline that has passed: the turn looks once, and does not wait.
        let deadline = Some(Instant::now());
        let only_write = !takes;
        self.turn(TurnGoal { deadline, only_write, for_input: true, ..TurnGoal::default() })?;
        Ok(self.session.channel_ref().next_tick())
    }

    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        self.take_event()
    }

    /// The first refusal of a message since the last call, if there is one.
    pub fn take_refused(&mut self) -> Option<Refusal> {
        self.outcomes.take_refused()
    }
}
