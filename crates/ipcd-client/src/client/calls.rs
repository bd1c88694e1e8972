//! Asking the daemon and waiting for the answer, and the turns in which everything is written and
//! read.

use std::time::Instant;

use ipcd_proto::control::{Answer, Receipt, Refusal};
use ipcd_proto::{Header, Kind};

use super::{Client, MAX_PENDING};
use crate::message::Message;
use crate::outstanding::Open;
use crate::wire::{Turn, Wish};
use crate::{Error, Event, Result};
use ipcd_transport::deadline_after;

/// The frame whose outcome the caller waits for, and what of it has come.
pub(super) struct Awaited {
    pub(super) id: u64,
    pub(super) answers: Vec<Answer>,
    pub(super) outcome: Option<std::result::Result<Outcome, Refusal>>,
}

/// How it can end, other than by a refusal.
pub(super) enum Outcome {
    Done,
    Reply(Message),
    Receipt(Receipt),
}

/// Why a session ends.
pub(super) enum Ending {
    /// The daemon said so.
    Refused(Refusal),
    /// What came was no frame, so that nothing after it can be understood.
    Garbled(String),
}

impl Ending {
    fn error(&self) -> Error {
        match self {
            Self::Refused(refusal) => Error::Refused(refusal.clone()),
            Self::Garbled(why) => Error::Protocol(why.clone()),
        }
    }
}

impl Client {
    /// Sends a control frame and waits for the answer to it.
    pub(super) fn call(
        &mut self,
        kind: Kind,
        body: &[u8],
        what: &'static str,
    ) -> Result<Vec<Answer>> {
        self.call_with(Header::new(kind, 0), body, what)
    }

    /// The same with a header of which only the number is to be filled in.
    pub(super) fn call_with(
        &mut self,
        header: Header,
        body: &[u8],
        what: &'static str,
    ) -> Result<Vec<Answer>> {
        let deadline = deadline_after(self.options.timeout);
        self.ensure_connected(deadline)?;
        let id = self.take_id();
        self.wire.control_with(Header { correlation: id, ..header }, body);
        let (_, answers) = self.await_outcome(id, deadline, what)?;
        Ok(answers)
    }

    /// Waits for the outcome of a frame that has been given to the wire, and not been written yet:
    /// so nothing can have come before this waits for it.
    pub(super) fn await_outcome(
        &mut self,
        id: u64,
        deadline: Instant,
        what: &'static str,
    ) -> Result<(Outcome, Vec<Answer>)> {
        self.awaited = Some(Awaited { id, answers: Vec::new(), outcome: None });
        let ended = loop {
            let turn = self.turn(Wish::input(Some(deadline)));
            if self.awaited.as_ref().is_some_and(|awaited| awaited.outcome.is_some()) {
                break Ok(());
            }
            match turn {
                Ok(Turn::Late) => break Err(Error::TimedOut(what)),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        if ended.is_err() {
            self.outstanding.give_up(id);
        }
        match self.awaited.take() {
            Some(Awaited { outcome: Some(outcome), answers, .. }) => {
                outcome.map(|outcome| (outcome, answers)).map_err(Error::Refused)
            }
            _ => ended.and(Err(Error::TimedOut(what))),
        }
    }

    /// Reads and writes once, or waits to be able to; then ends what is too late.
    pub(super) fn turn(&mut self, wish: Wish<'_>) -> Result<Turn> {
        self.check_subscriptions()?;
        let turn = self.wire.turn(wish);
        let turn = self.dispatch().and(turn);
        self.expire();
        let turn = turn.map_err(|error| self.lose(error));
        self.check_subscriptions().and(turn)
    }

    /// Fails when a subscription could not be made again.
    fn check_subscriptions(&self) -> Result<()> {
        self.unsubscribed.clone().map_or(Ok(()), |refusal| Err(Error::Refused(refusal)))
    }

    pub(super) fn write_some(&mut self) -> Result<()> {
        let only_write = self.events.bytes() >= MAX_PENDING;
        self.turn(Wish { only_write, ..Wish::default() }).map(drop)
    }

    /// Ends the requests whose deadline has come.
    fn expire(&mut self) {
        if self.outstanding.next_deadline().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(request) = self.outstanding.expire(now) {
            let reply = Err(Error::TimedOut("reply"));
            self.events.push(Event::Reply { request, reply });
        }
    }

    /// Notes that the connection has ended, and with it everything that is outstanding. Returns the
    /// best reason that is known.
    fn lose(&mut self, error: Error) -> Error {
        if let Error::Protocol(why) = &error {
            self.ending.get_or_insert(Ending::Garbled(why.clone()));
        }
        let error = match (error, &self.ending) {
            (Error::Disconnected(_), Some(ending)) => ending.error(),
            (error, _) => error,
        };
        let why = match &error {
            Error::Disconnected(why) => why.clone(),
            error => error.to_string(),
        };
        self.wire.end(why.clone());
        for (id, open) in self.outstanding.end_all() {
            self.events.push(lost(id, open, Error::Disconnected(why.clone())));
        }
        error
    }

    /// Connects again if the connection has ended, and if that is wanted.
    pub(super) fn ensure_connected(&mut self, deadline: Instant) -> Result<()> {
        let Some(why) = self.wire.ended().map(str::to_owned) else { return Ok(()) };
        if self.options.reconnect.is_none() {
            return Err(self.ending.as_ref().map_or(Error::Disconnected(why), Ending::error));
        }
        // The daemon sees the end of this connection now, not when there is a new one.
        self.wire.abandon();
        let is_there = self.reconnect(&why, Some(deadline))?;
        if is_there { Ok(()) } else { Err(Error::TimedOut("connection")) }
    }
}

/// What is said of something outstanding that ends without an answer.
pub(super) fn lost(id: u64, open: Open, why: Error) -> Event {
    match open {
        Open::Tracked => Event::Outcome { id, outcome: Err(why) },
        Open::Request | Open::Ended => Event::Reply { request: id, reply: Err(why) },
    }
}
