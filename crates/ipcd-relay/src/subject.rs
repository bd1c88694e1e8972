//! An end that is a subject of the daemon: what is written is published there, and what is
//! published there is read. A message is a record.

use std::time::Instant;

use ipcd_client::{Client, Error, Event, Options, SubscribeOptions};
use ipcd_transport::{Endpoint, ReadBuffer, ReadOutcome};

use crate::Result;

/// Bytes of messages that wait for the daemon, before no more are queued.
const HIGH: usize = 256 * 1024;

pub(crate) struct Subject {
    pub(crate) client: Client,
    subject: String,
    /// When the transport wants its turn.
    pub(crate) tick: Option<Instant>,
    /// Whether the loop wants messages: otherwise they are left to the daemon, which knows what to
    /// do with slow subscribers.
    pub(crate) takes: bool,
    /// Why the session has ended, until that was told.
    ended: Option<Error>,
    is_over: bool,
    has_left: bool,
}

impl Subject {
    /// Connects and subscribes, which may take until the options' timeout.
    pub(crate) fn open(
        daemon: &Endpoint,
        options: &Options,
        subject: &str,
        echo: bool,
    ) -> Result<Self> {
        let options = Options { no_echo: !echo, ..options.clone() };
        let mut client = Client::connect(daemon, options)?;
        client.subscribe(subject, SubscribeOptions::default())?;
        Ok(Self {
            client,
            subject: subject.to_owned(),
            tick: None,
            takes: true,
            ended: None,
            is_over: false,
            has_left: false,
        })
    }

    /// Writes and reads what the connection has; whether something waits to be taken.
    pub(crate) fn advance(&mut self) -> bool {
        if !self.is_over {
            match self.client.advance(self.takes || self.has_left) {
                Ok(tick) => self.tick = tick,
                Err(error) => {
                    (self.ended, self.is_over) = (Some(error), true);
                    self.tick = None;
                }
            }
        }
        self.client.has_event() || self.ended.is_some()
    }

    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// The next message. Others than messages are passed over: who cannot hear of drops is not
    /// told, but the daemon counts them.
    pub(crate) fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        loop {
            match self.client.take() {
                Some(Event::Message(message)) => {
                    into.extend(message.payload());
                    return Ok(ReadOutcome::Bytes(message.payload().len()));
                }
                Some(_) => {}
                None => break,
            }
        }
        match self.ended.take() {
            Some(error) if !self.has_left => Err(error.into()),
            _ if self.is_over => Ok(ReadOutcome::Closed),
            _ => Ok(ReadOutcome::NotReady),
        }
    }

    /// `None` when too much waits for the daemon already.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Option<usize>> {
        if self.client.unwritten() > HIGH {
            self.advance();
        }
        if self.client.unwritten() > HIGH {
            return Ok(None);
        }
        self.client.queue(&self.subject, payload)?;
        Ok(Some(payload.len()))
    }

    /// Why a message was refused.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        self.client.take_refused().map(|refusal| refusal.message)
    }

    /// Says goodbye, once. What was published is accepted when [`Subject::has_gone`].
    pub(crate) fn leave(&mut self) {
        if !self.has_left && !self.is_over {
            self.has_left = true;
            self.client.leave();
            self.advance();
        }
    }

    /// Whether the connection has ended. Messages that come meanwhile are for nobody.
    pub(crate) fn has_gone(&mut self) -> bool {
        while self.client.take().is_some() {}
        self.is_over
    }
}

impl Drop for Subject {
    /// A loop that serves others does not wait for the daemon.
    fn drop(&mut self) {
        self.client.abandon();
    }
}
