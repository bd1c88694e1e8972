//! The turns in which everything is written and read, calls that wait for their outcome, and the
//! return to the daemon after a loss.

use std::time::Instant;

use ipcd_proto::control::{Answer, Notice, Welcome};
use ipcd_proto::{Frame, FrameKind, Header};

use super::Client;
use crate::frame_channel::{FrameChannel, TurnGoal, TurnOutcome};
use crate::incoming::IncomingFrame;
use crate::outcomes::CallOutcome;
use crate::session::{SessionEnd, reason};
use crate::{Error, Event, Result};

/// Bytes of untaken events at which a client that only sends stops reading. The daemon then sees a
/// slow receiver, and its memory and ours stay bounded.
const MAX_PENDING: usize = 64 * 1024 * 1024;

impl Client {
    /// Sends a control frame and waits for the answer to it. `awaited` names that for the error.
    pub(super) fn call(
        &mut self,
        kind: FrameKind,
        body: &[u8],
        awaited: &'static str,
    ) -> Result<Vec<Answer>> {
        self.call_with(Header::new(kind, 0), body, awaited)
    }

    /// The same with a header, in which the number is filled in.
    pub(super) fn call_with(
        &mut self,
        header: Header,
        body: &[u8],
        awaited: &'static str,
    ) -> Result<Vec<Answer>> {
        let deadline = self.session.deadline();
        self.ensure_connected(deadline)?;
        let id = self.publisher.take_id();
        self.session.channel().control_with(Header { correlation: id, ..header }, body);
        let (_, answers) = self.await_outcome(id, deadline, awaited)?;
        Ok(answers)
    }

    /// Waits for the outcome of a frame. The frame must be in the channel's buffer and unwritten,
    /// so that its answer cannot have come before this looks for it.
    pub(super) fn await_outcome(
        &mut self,
        id: u64,
        deadline: Instant,
        awaited: &'static str,
    ) -> Result<(CallOutcome, Vec<Answer>)> {
        self.outcomes.begin_call(id);
        let ended = loop {
            let turn = self.turn(TurnGoal::input(Some(deadline)));
            // Looked at before an error: the answer may be the last that came.
            if self.outcomes.is_call_done(id) {
                break Ok(());
            }
            match turn {
                Ok(TurnOutcome::Late) => break Err(Error::TimedOut(awaited)),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.outcomes.end_call(id, ended, awaited)
    }

    /// Reads and writes once, or waits to be able to. Then ends the requests that are too late.
    pub(super) fn turn(&mut self, goal: TurnGoal<'_>) -> Result<TurnOutcome> {
        self.subscriptions.check()?;
        let turn = self.session.channel().turn(goal);
        // Frames that came before the end of the connection count, so they go first.
        let turn = self.dispatch().and(turn);
        self.expire_requests();
        let turn = turn.map_err(|error| self.lose(error));
        self.subscriptions.check().and(turn)
    }

    /// One turn that is over as soon as something was written.
    pub(super) fn write_some(&mut self) -> Result<()> {
        let only_write = self.is_overfull();
        self.turn(TurnGoal { only_write, ..TurnGoal::default() }).map(drop)
    }

    pub(super) fn is_overfull(&self) -> bool {
        self.events.bytes() >= MAX_PENDING
    }

    /// Handles the frames that were read.
    fn dispatch(&mut self) -> Result<()> {
        let number = self.session.number();
        let read = |frame: &Frame<'_>| IncomingFrame::read(frame, number);
        while let Some(incoming) = self.session.channel().next_frame(read)? {
            let event = self.handle(incoming);
            self.events.extend(event);
        }
        Ok(())
    }

    /// Hands a frame to the part that it concerns. Returns the event that comes of it.
    fn handle(&mut self, incoming: IncomingFrame) -> Option<Event> {
        match incoming {
            IncomingFrame::Message(message) => {
                self.subscriptions.count_message();
                match message.answers(self.session.welcome().peer) {
                    Some(request) => return self.outcomes.take_reply(request, message),
                    None => return Some(Event::Message(message)),
                }
            }
            IncomingFrame::Done(id) => self.outcomes.conclude(id),
            IncomingFrame::Receipt(id, receipt) => return self.outcomes.take_receipt(id, receipt),
            // It refuses no frame of ours: the daemon ends the session, and closes.
            IncomingFrame::Refused(0, refusal) => {
                self.session.note_end(SessionEnd::Refused(refusal));
            }
            IncomingFrame::Refused(id, refusal) => match self.outcomes.take_refusal(id, refusal) {
                Ok(event) => return event,
                Err(refusal) => {
                    if let Some(refusal) = self.subscriptions.take_refusal(id, refusal) {
                        self.outcomes.keep_refusal(id, refusal);
                    }
                }
            },
            IncomingFrame::Answer { id, more, answer } => {
                self.outcomes.take_answer(id, more, answer);
            }
            IncomingFrame::Notice(Notice::Origin(origin)) => self.origins.introduce(origin),
            IncomingFrame::Notice(Notice::Gap { subscription, reason, dropped }) => {
                return Some(Event::Gap { subscription, reason, dropped });
            }
            IncomingFrame::Ping(id) => self.session.channel().control(FrameKind::Pong, id, &[]),
            IncomingFrame::Unknown => {}
        }
        None
    }

    fn expire_requests(&mut self) {
        // The clock is read only where a request waits.
        if self.outcomes.pending.next_deadline().is_none() {
            return;
        }
        let now = Instant::now();
        self.events.extend(std::iter::from_fn(|| self.outcomes.expire(now)));
    }

    /// Ends the connection after an error, and with it everything that is pending. Returns the best
    /// reason that is known.
    fn lose(&mut self, error: Error) -> Error {
        let error = self.session.fail(error);
        self.events.extend(self.outcomes.end_all(&reason(&error)));
        error
    }

    /// Connects again if the connection has ended and the options ask for it.
    pub(super) fn ensure_connected(&mut self, deadline: Instant) -> Result<()> {
        let ended = self.session.channel_ref().ended().map(str::to_owned);
        let Some(why) = ended else { return Ok(()) };
        if !self.session.reconnects() {
            return Err(self.session.ended_error(why));
        }
        self.session.drop_connection();
        let is_there = self.reconnect(&why, Some(deadline))?;
        if is_there { Ok(()) } else { Err(Error::TimedOut("connection")) }
    }

    /// Makes the connection and its subscriptions again; false at the deadline.
    pub(super) fn reconnect(&mut self, why: &str, deadline: Option<Instant>) -> Result<bool> {
        let Some((channel, welcome)) = self.session.reconnect(deadline)? else { return Ok(false) };
        self.resume(channel, welcome, why);
        Ok(true)
    }

    /// Continues over a new connection: makes the subscriptions again, and sends what was not
    /// written.
    pub(super) fn resume(&mut self, channel: FrameChannel, welcome: Welcome, why: &str) {
        let untouched = self.session.resume(channel, welcome);
        self.publisher.note_loss();
        self.origins.clear();
        // Subscriptions go before messages, so that the client hears its own.
        for (header, body) in self.subscriptions.restore(|| self.publisher.take_id()) {
            self.session.channel().control_with(header, &body);
        }
        self.session.channel().put(&untouched);
        self.events.push(Event::Reconnected { why: why.to_owned() });
    }
}
