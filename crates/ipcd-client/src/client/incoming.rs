//! Frames from the daemon: what each means to the client.

use ipcd_proto::control::{Answer, Code, Notice, Receipt, Refusal, decode};
use ipcd_proto::{Frame, Header, Kind};

use super::Client;
use super::calls::{Awaited, Ending, Outcome, lost};
use crate::message::Message;
use crate::{Error, Event, Result};

/// A frame from the daemon.
enum Incoming {
    Message(Message),
    Done(u64),
    Receipt(u64, Receipt),
    Refused(u64, Refusal),
    Answer { id: u64, more: bool, answer: Answer },
    Notice(Notice),
    Ping(u64),
    Other,
}

fn read_frame(frame: &Frame<'_>, connection: u32) -> Result<Incoming> {
    let Header { kind, more, correlation: id, .. } = frame.header;
    Ok(match kind {
        Kind::Message => Incoming::Message(Message::of(frame, connection)),
        Kind::Ack | Kind::Pong => Incoming::Done(id),
        Kind::Receipt => Incoming::Receipt(id, decode(frame.payload)?),
        Kind::Error => Incoming::Refused(id, decode(frame.payload)?),
        Kind::Answer => Incoming::Answer { id, more, answer: decode(frame.payload)? },
        Kind::Notice => Incoming::Notice(decode(frame.payload)?),
        Kind::Ping => Incoming::Ping(id),
        _ => Incoming::Other,
    })
}

impl Client {
    /// Handles the frames that were read.
    pub(super) fn dispatch(&mut self) -> Result<()> {
        let connection = self.connection;
        while let Some(incoming) = self.wire.next_frame(|frame| read_frame(frame, connection))? {
            self.handle(incoming);
        }
        Ok(())
    }

    fn handle(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Message(message) => {
                self.received += 1;
                match message.answers(self.welcome.peer) {
                    Some(request) => self.take_reply(request, message),
                    None => self.events.push(Event::Message(message)),
                }
            }
            Incoming::Done(id) => self.conclude(id, Outcome::Done),
            Incoming::Receipt(id, receipt) => self.take_receipt(id, receipt),
            // It is about no frame of ours: the daemon ends the session, and closes.
            Incoming::Refused(0, refusal) => self.ending = Some(Ending::Refused(refusal)),
            Incoming::Refused(id, refusal) => self.take_refusal(id, refusal),
            Incoming::Answer { id, more, answer } => self.take_answer(id, more, answer),
            Incoming::Notice(Notice::Origin(origin)) => self.origins.introduce(origin),
            Incoming::Notice(Notice::Gap { subscription, reason, dropped }) => {
                self.events.push(Event::Gap { subscription, reason, dropped });
            }
            Incoming::Ping(id) => self.wire.control(Kind::Pong, id, &[]),
            Incoming::Other => {}
        }
    }

    fn take_reply(&mut self, request: u64, message: Message) {
        self.outstanding.note(request);
        if let Some(awaited) = self.awaited(request) {
            awaited.outcome = Some(Ok(Outcome::Reply(message)));
        } else if self.outstanding.takes_reply(request) {
            self.events.push(Event::Reply { request, reply: Ok(message) });
        }
    }

    fn take_receipt(&mut self, id: u64, receipt: Receipt) {
        self.outstanding.note(id);
        if let Some(awaited) = self.awaited(id) {
            awaited.outcome = Some(Ok(Outcome::Receipt(receipt)));
        } else if self.outstanding.takes_receipt(id) {
            self.events.push(Event::Outcome { id, outcome: Ok(receipt) });
        }
    }

    fn take_answer(&mut self, id: u64, more: bool, answer: Answer) {
        if let Some(awaited) = self.awaited(id) {
            awaited.answers.push(answer);
        }
        if !more {
            self.conclude(id, Outcome::Done);
        }
    }

    /// Notes the outcome of what is waited for. One that comes too late for that is of no use.
    fn conclude(&mut self, id: u64, outcome: Outcome) {
        self.outstanding.note(id);
        if let Some(awaited) = self.awaited(id) {
            awaited.outcome = Some(Ok(outcome));
        }
    }

    /// A refusal is the outcome of what is waited for or outstanding; else it is about a message,
    /// and the next flush tells.
    fn take_refusal(&mut self, id: u64, refusal: Refusal) {
        self.outstanding.note(id);
        if let Some(awaited) = self.awaited(id) {
            awaited.outcome = Some(Err(refusal));
        } else if let Some(open) = self.outstanding.end(id) {
            self.events.push(lost(id, open, Error::Refused(refusal)));
        } else if let Some(number) = self.resubscribed.remove(&id) {
            self.note_unsubscribed(number, refusal);
        } else if !is_about_a_request(&refusal) && !self.outstanding.is_given_up(id) {
            self.refused.get_or_insert(refusal);
        }
    }

    /// What is waited for, if it is this and its outcome has not come.
    fn awaited(&mut self, id: u64) -> Option<&mut Awaited> {
        self.awaited.as_mut().filter(|awaited| awaited.id == id && awaited.outcome.is_none())
    }
}

/// Whether only a request can be refused like this: one that was finished, where it is unknown.
fn is_about_a_request(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::NoResponder | Code::Unanswered)
}
