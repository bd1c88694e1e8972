//! Operations in two halves, which the async client begins and concludes apart. Nothing here waits.

use std::time::{Duration, Instant};

use super::Client;
use crate::frame_channel::{BATCH, FrameChannel, TurnGoal, TurnOutcome};
use crate::message::{Message, Publication};
use crate::options::{Backoff, SubscribeOptions};
use crate::outcomes::CallOutcome;
use crate::session::ConnectAttempt;
use crate::{Error, Event, Result};
use ipcd_proto::control::{Answer, Unsubscribe, Welcome, encode};
use ipcd_proto::{Filter, FrameKind, Header};

impl Client {
    /// Writes as much as there is room for and, if it `takes` messages, reads once. The outcome is
    /// [`TurnOutcome::Moved`] if something was read.
    pub(crate) fn step(&mut self, takes: bool) -> Result<TurnOutcome> {
        let deadline = Some(Instant::now());
        let goal = TurnGoal { deadline, only_write: !takes, ..TurnGoal::input(deadline) };
        self.turn(goal)
    }

    /// The time of the next [`Client::step`] even if no descriptor is ready.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let tick = self.session.channel_ref().next_tick();
        tick.into_iter().chain(self.outcomes.pending.next_deadline()).min()
    }

    /// Whether the buffer takes another message.
    pub(crate) fn has_room(&self) -> bool {
        self.session.channel_ref().unwritten() < BATCH
    }

    /// Buffers a message, also while there is no connection.
    pub(crate) fn begin_message(&mut self, message: &Publication<'_>) -> Result<()> {
        self.buffer(message, false)
    }

    /// Buffers a reply.
    pub(crate) fn begin_reply(
        &mut self,
        to: &Message,
        headers: &[u8],
        payload: &[u8],
        more: bool,
    ) -> Result<()> {
        match self.reply_subject(to)? {
            Some(subject) => {
                self.buffer(&Publication { subject, reply: "", headers, payload }, more)
            }
            None => Ok(()),
        }
    }

    /// Begins a call by a control frame, and returns its number.
    pub(crate) fn begin_call(&mut self, header: Header, body: &[u8]) -> u64 {
        let id = self.publisher.take_id();
        self.session.channel().control_with(Header { correlation: id, ..header }, body);
        self.outcomes.begin_call(id);
        id
    }

    /// Begins a subscription. Returns its number and that of the call.
    pub(crate) fn begin_subscription(
        &mut self,
        filter: &Filter,
        options: &SubscribeOptions,
    ) -> (u32, u64) {
        let number = self.subscriptions.take_number();
        let (header, body) = self.subscriptions.frame(number, filter, options);
        (number, self.begin_call(header, &body))
    }

    /// Notes a subscription that the daemon has confirmed, so that a new connection gets it again.
    pub(crate) fn keep_subscription(
        &mut self,
        number: u32,
        filter: Filter,
        options: SubscribeOptions,
    ) {
        self.subscriptions.insert(number, filter, options);
    }

    /// Begins to end a subscription.
    pub(crate) fn begin_unsubscription(&mut self, subscription: u32) -> u64 {
        // First, so that a loss during the call does not bring it back.
        self.subscriptions.remove(subscription);
        let body = encode(&Unsubscribe { subscription });
        self.begin_call(Header::new(FrameKind::Unsubscribe, 0), &body)
    }

    /// Begins a request. Its replies are events.
    pub(crate) fn start_buffered_request(
        &mut self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<u64> {
        let (id, deadline) = self.begin_request(message, timeout)?;
        self.outcomes.pending.request(id, deadline);
        Ok(id)
    }

    /// Begins a call by a message with a receipt.
    pub(crate) fn begin_acked(&mut self, message: &Publication<'_>) -> Result<u64> {
        let id = self.begin_tracked(message)?;
        self.outcomes.begin_call(id);
        Ok(id)
    }

    /// The calls that have an outcome since this was last asked.
    pub(crate) fn take_done(&mut self) -> Vec<u64> {
        self.outcomes.take_done()
    }

    /// The result of a call that has an outcome.
    pub(crate) fn conclude_call(&mut self, id: u64) -> Result<(CallOutcome, Vec<Answer>)> {
        self.outcomes.end_call(id, Ok(()), "answer")
    }

    /// Gives a call up. Its answer may still come, and is then ignored.
    pub(crate) fn abandon_call(&mut self, id: u64) {
        let _ = self.outcomes.end_call(id, Ok(()), "answer");
    }

    /// The deadline of an operation that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        self.session.deadline()
    }

    /// Notes the loss of the connection if it is worth connecting again after this error, and
    /// returns the pauses between the attempts.
    pub(crate) fn begin_return(&mut self, error: &Error) -> Option<(ConnectAttempt, Backoff)> {
        if !self.is_worth_retrying(error) {
            return None;
        }
        let why = error.to_string();
        self.session.note_loss(why.clone());
        self.events.push(Event::Disconnected { why });
        Some((self.session.attempt(), self.session.backoff()))
    }

    /// Continues over a new connection.
    pub(crate) fn conclude_return(&mut self, made: (FrameChannel, Welcome)) {
        let why = self.session.lost().unwrap_or_default().to_owned();
        self.resume(made.0, made.1, &why);
    }
}
