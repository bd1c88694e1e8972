//! The client: publish, subscribe, receive.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipcd_proto::control::{
    Answer, Notice, Origin, Query, Refusal, Subscribe, Unsubscribe, Welcome, decode, encode,
};
use ipcd_proto::{BadHeaders, Filter, Frame, Header, Kind, Subject, limits};
use ipcd_transport::{Endpoint, Identity};

use crate::message::{Message, Publication};
use crate::options::{Options, SubscribeOptions};
use crate::wire::{BATCH, Turn, Wire, Wish};
use crate::{Error, Result, session};

/// Senders that are remembered. The daemon introduces a sender again when at least 1,024 others
/// were introduced since, so that none is forgotten that it takes for known.
const MAX_ORIGINS: usize = 2048;
/// Bytes of messages that wait to be taken, before a client that only sends stops reading.
const MAX_PENDING: usize = 64 * 1024 * 1024;

/// A connection to ipcd.
pub struct Client {
    endpoint: Endpoint,
    options: Options,
    wire: Wire,
    welcome: Welcome,
    subscriptions: BTreeMap<u32, (Filter, SubscribeOptions)>,
    events: VecDeque<Event>,
    pending: usize,
    origins: HashMap<u64, Origin>,
    introduced: VecDeque<u64>,
    next_subscription: u32,
    next_id: u64,
    awaited: Option<Awaited>,
    /// The first message that was refused since the last flush.
    refused: Option<Refusal>,
    /// Whether messages were sent on a connection that was lost before they were confirmed.
    unconfirmed: bool,
    lost_unconfirmed: bool,
    /// Why the daemon ends the session.
    ending: Option<Refusal>,
    /// Why the connection was lost, until it is made again.
    lost: Option<String>,
}

/// What is waited for, and what of it has come.
struct Awaited {
    id: u64,
    answers: Vec<Answer>,
    outcome: Option<std::result::Result<(), Refusal>>,
}

/// What came without being asked for.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(Message),
    /// Messages of a subscription were dropped, because this client did not take them fast enough.
    Gap {
        /// Which subscription.
        subscription: u32,
        /// How many.
        dropped: u64,
    },
    /// The connection was lost, and will be made again by the next call.
    Disconnected {
        /// Why it was lost.
        why: String,
    },
    /// The connection was lost and made again; messages may have been missed meanwhile.
    Reconnected {
        /// Why it was lost.
        why: String,
    },
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// If nobody is there, or the daemon refuses, or no answer comes in time.
    pub fn connect(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let deadline = Instant::now() + options.timeout;
        let (wire, welcome) = session::open(endpoint, &options, deadline)?;
        Ok(Self {
            endpoint: endpoint.clone(),
            options,
            wire,
            welcome,
            subscriptions: BTreeMap::new(),
            events: VecDeque::new(),
            pending: 0,
            origins: HashMap::new(),
            introduced: VecDeque::new(),
            next_subscription: 1,
            next_id: 1,
            awaited: None,
            refused: None,
            unconfirmed: false,
            lost_unconfirmed: false,
            ending: None,
            lost: None,
        })
    }

    /// This peer's id.
    pub fn peer(&self) -> u64 {
        self.welcome.peer
    }

    /// Bytes of the largest payload that the daemon takes.
    pub fn max_payload(&self) -> usize {
        self.welcome.max_payload as usize
    }

    /// The version of the daemon.
    pub fn server_version(&self) -> &str {
        &self.welcome.server
    }

    /// Where the client is connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Who the daemon is, as far as the kernel can tell.
    pub fn daemon_identity(&self) -> &Identity {
        self.wire.channel().identity()
    }

    /// Sends a message, some time before the client waits or is dropped.
    ///
    /// # Errors
    /// If the message is no good, or the connection is lost.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish_message(&Publication { subject, payload, ..Publication::default() })
    }

    /// The same, with everything that a message can have.
    ///
    /// # Errors
    /// If the message is no good, or the connection is lost.
    pub fn publish_message(&mut self, message: &Publication<'_>) -> Result<()> {
        self.check(message)?;
        let header = Header::new(Kind::Message, self.take_id());
        self.wire.frame(&Frame {
            header,
            subject: message.subject.as_bytes(),
            reply: message.reply.as_bytes(),
            headers: message.headers,
            payload: message.payload,
        });
        self.unconfirmed = true;
        while self.wire.unwritten() >= BATCH {
            self.write_some()?;
        }
        Ok(())
    }

    /// Writes what is buffered, without waiting for a confirmation.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn push(&mut self) -> Result<()> {
        while self.wire.unwritten() > 0 {
            self.write_some()?;
        }
        Ok(())
    }

    /// Keeps the connection going until the descriptor is readable; false at the deadline.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_for(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let only_write = self.pending >= MAX_PENDING;
            match self.turn(Wish { deadline, also: Some(fd), only_write })? {
                Turn::Moved => {}
                turn => return Ok(turn == Turn::Other),
            }
        }
    }

    /// Keeps the connection going until then.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_until(&mut self, time: Instant) -> Result<()> {
        while self.turn(Wish::by(time))? != Turn::Late {}
        Ok(())
    }

    /// Whether an event waits to be taken.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Waits until the daemon has accepted everything that was published.
    ///
    /// # Errors
    /// If a message was refused, the connection was lost, or no answer came in time.
    pub fn flush(&mut self) -> Result<()> {
        self.call(Kind::Flush, &[], "confirmation")?;
        self.unconfirmed = false;
        if std::mem::take(&mut self.lost_unconfirmed) {
            let why = "messages that were not confirmed may be lost".into();
            return Err(Error::Disconnected(why));
        }
        match self.refused.take() {
            Some(refusal) => Err(Error::Refused(refusal)),
            None => Ok(()),
        }
    }

    /// Publishes a message and waits until the daemon has accepted it.
    ///
    /// # Errors
    /// As [`Client::publish`] and [`Client::flush`].
    pub fn send(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish(subject, payload)?;
        self.flush()
    }

    /// Subscribes, and returns the number of the subscription. Whatever is published after this
    /// returns will come.
    ///
    /// # Errors
    /// If the daemon refuses, the connection is lost, or no answer comes in time.
    pub fn subscribe(&mut self, filter: &str, options: SubscribeOptions) -> Result<u32> {
        let filter = Filter::parse(filter.as_bytes())?;
        let number = self.next_subscription;
        self.next_subscription += 1;
        self.call(Kind::Subscribe, &subscribe_body(number, &filter, &options), "confirmation")?;
        self.subscriptions.insert(number, (filter, options));
        Ok(number)
    }

    /// Ends a subscription. Messages that came before are still delivered.
    ///
    /// # Errors
    /// If there is no such subscription, the connection is lost, or no answer comes in time.
    pub fn unsubscribe(&mut self, subscription: u32) -> Result<()> {
        self.subscriptions.remove(&subscription);
        self.call(Kind::Unsubscribe, &encode(&Unsubscribe { subscription }), "confirmation")?;
        Ok(())
    }

    /// The filter of a subscription.
    pub fn filter(&self, subscription: u32) -> Option<&Filter> {
        self.subscriptions.get(&subscription).map(|(filter, _)| filter)
    }

    /// How long the daemon takes to answer.
    ///
    /// # Errors
    /// If the connection is lost, or no answer comes in time.
    pub fn ping(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.call(Kind::Ping, &[], "answer")?;
        Ok(start.elapsed())
    }

    /// Asks about the daemon.
    ///
    /// # Errors
    /// If the daemon refuses, the connection is lost, or no answer comes in time.
    pub fn query(&mut self, query: &Query) -> Result<Vec<Answer>> {
        self.call(Kind::Query, &encode(query), "answer")
    }

    /// What comes next; `None` when nothing does by the deadline. Without one it waits for ever.
    ///
    /// # Errors
    /// If the connection is lost and is not to be made again, or the daemon ends the session.
    pub fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                if let Event::Message(message) = &event {
                    self.pending -= message.payload().len();
                }
                return Ok(Some(event));
            }
            if let Some(why) = &self.lost {
                let why = why.clone();
                if !self.reconnect(&why, deadline)? {
                    return Ok(None);
                }
                continue;
            }
            match self.turn(Wish { deadline, ..Wish::default() }) {
                Ok(Turn::Late) => return Ok(None),
                Ok(_) => {}
                Err(error) if self.options.reconnect.is_some() && is_worth_retrying(&error) => {
                    let why = error.to_string();
                    // The daemon sees the end of this connection now, not when there is a new one.
                    self.wire.abandon();
                    self.lost = Some(why.clone());
                    self.events.push_back(Event::Disconnected { why });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The messages that come, for ever or until an error. Other events are passed over.
    pub fn messages(&mut self) -> Messages<'_> {
        Messages(self)
    }

    /// Who a sender is, if a subscription asked for it ([`SubscribeOptions::origin`]).
    pub fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.get(&sender)
    }

    /// Waits until everything is accepted, and says goodbye.
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub fn close(mut self) -> Result<()> {
        self.flush()
    }

    fn check(&self, message: &Publication<'_>) -> Result<()> {
        Subject::parse(message.subject.as_bytes())?;
        if !message.reply.is_empty() {
            Subject::parse(message.reply.as_bytes())?;
        }
        if message.headers.len() > limits::MAX_HEADERS {
            return Err(BadHeaders::TooLong.into());
        }
        let (bytes, limit) = (message.payload.len(), self.max_payload());
        if bytes > limit { Err(Error::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Sends a control frame and waits for the answer to it.
    fn call(&mut self, kind: Kind, body: &[u8], what: &'static str) -> Result<Vec<Answer>> {
        let deadline = Instant::now() + self.options.timeout;
        if let Some(why) = self.wire.ended().map(str::to_owned) {
            if self.options.reconnect.is_none() {
                return Err(Error::Disconnected(why));
            }
            if !self.reconnect(&why, Some(deadline))? {
                return Err(Error::TimedOut("connection"));
            }
        }
        let id = self.take_id();
        self.wire.control(kind, id, body);
        self.awaited = Some(Awaited { id, answers: Vec::new(), outcome: None });
        loop {
            if let Some(Awaited { outcome: Some(outcome), answers, .. }) = &mut self.awaited {
                let answers = std::mem::take(answers);
                let outcome = outcome.clone();
                self.awaited = None;
                return outcome.map(|()| answers).map_err(Error::Refused);
            }
            if self.turn(Wish::by(deadline))? == Turn::Late {
                self.awaited = None;
                return Err(Error::TimedOut(what));
            }
        }
    }

    /// Reads and writes once, or waits to be able to.
    fn turn(&mut self, wish: Wish<'_>) -> Result<Turn> {
        let turn = self.wire.turn(wish);
        self.dispatch()?;
        match (turn, &self.ending) {
            (Err(Error::Disconnected(_)), Some(refusal)) => Err(Error::Refused(refusal.clone())),
            (turn, _) => turn,
        }
    }

    fn write_some(&mut self) -> Result<()> {
        let only_write = self.pending >= MAX_PENDING;
        self.turn(Wish { only_write, ..Wish::default() }).map(drop)
    }

    /// Handles the frames that were read.
    fn dispatch(&mut self) -> Result<()> {
        while let Some(incoming) = self.wire.next_frame(read_frame)? {
            self.handle(incoming)?;
        }
        Ok(())
    }

    fn handle(&mut self, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Message(message) => {
                self.pending += message.payload().len();
                self.events.push_back(Event::Message(message));
            }
            Incoming::Done(id) => self.conclude(id, Ok(())),
            // It is about no frame of ours: the daemon ends the session, and closes.
            Incoming::Refused(0, refusal) => self.ending = Some(refusal),
            Incoming::Refused(id, refusal) => self.conclude(id, Err(refusal)),
            Incoming::Answer { id, more, answer } => {
                if let Some(awaited) = self.awaited.as_mut().filter(|awaited| awaited.id == id) {
                    awaited.answers.push(answer);
                    if !more {
                        self.conclude(id, Ok(()));
                    }
                }
            }
            Incoming::Notice(Notice::Origin(origin)) => self.introduce(origin),
            Incoming::Notice(Notice::Gap { subscription, dropped }) => {
                self.events.push_back(Event::Gap { subscription, dropped });
            }
            Incoming::Ping(id) => self.wire.control(Kind::Pong, id, &[]),
            Incoming::Other => {}
        }
        Ok(())
    }

    /// Notes the outcome of what is waited for, or of a message.
    fn conclude(&mut self, id: u64, outcome: std::result::Result<(), Refusal>) {
        match (&mut self.awaited, outcome) {
            (Some(awaited), outcome) if awaited.id == id => awaited.outcome = Some(outcome),
            (_, Err(refusal)) => drop(self.refused.get_or_insert(refusal)),
            // An answer that came too late for its question.
            (_, Ok(())) => {}
        }
    }

    fn introduce(&mut self, origin: Origin) {
        self.introduced.push_back(origin.peer);
        self.origins.insert(origin.peer, origin);
        if self.introduced.len() > MAX_ORIGINS
            && let Some(oldest) = self.introduced.pop_front()
            && !self.introduced.contains(&oldest)
        {
            self.origins.remove(&oldest);
        }
    }

    /// Connects again and again until it succeeds, and subscribes again; false at the deadline.
    fn reconnect(&mut self, why: &str, deadline: Option<Instant>) -> Result<bool> {
        let backoff = self.options.reconnect.unwrap_or_default();
        let mut pause = backoff.first;
        loop {
            let attempt = Instant::now() + self.options.timeout;
            let attempt = deadline.map_or(attempt, |deadline| attempt.min(deadline));
            match session::open(&self.endpoint, &self.options, attempt) {
                Ok((wire, welcome)) => {
                    self.resume(wire, welcome);
                    self.events.push_back(Event::Reconnected { why: why.to_owned() });
                    return Ok(true);
                }
                Err(error) if !is_worth_retrying(&error) => return Err(error),
                Err(_) => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            std::thread::park_timeout(left.map_or(pause, |left| pause.min(left)));
            pause = (2 * pause).min(backoff.longest);
        }
    }

    /// Goes on with a new connection: what was begun on the old one is lost, the rest is sent.
    fn resume(&mut self, wire: Wire, welcome: Welcome) {
        let untouched = self.wire.take_untouched();
        self.lost_unconfirmed |= self.unconfirmed;
        self.wire = wire;
        self.welcome = welcome;
        self.awaited = None;
        self.lost = None;
        self.ending = None;
        self.origins.clear();
        self.introduced.clear();
        let subscribes: Vec<_> = self
            .subscriptions
            .iter()
            .map(|(number, (filter, options))| subscribe_body(*number, filter, options))
            .collect();
        for body in subscribes {
            let id = self.take_id();
            self.wire.control(Kind::Subscribe, id, &body);
        }
        self.wire.put(&untouched);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.wire.close(Instant::now() + self.options.timeout);
    }
}

/// The messages that come.
pub struct Messages<'a>(&'a mut Client);

impl Iterator for Messages<'_> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next_event(None) {
                Ok(Some(Event::Message(message))) => return Some(Ok(message)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A frame from the daemon.
enum Incoming {
    Message(Message),
    Done(u64),
    Refused(u64, Refusal),
    Answer { id: u64, more: bool, answer: Answer },
    Notice(Notice),
    Ping(u64),
    Other,
}

fn read_frame(frame: &Frame<'_>) -> Result<Incoming> {
    let Header { kind, more, correlation: id, .. } = frame.header;
    Ok(match kind {
        Kind::Message => Incoming::Message(Message::of(frame)),
        Kind::Ack | Kind::Pong => Incoming::Done(id),
        Kind::Error => Incoming::Refused(id, decode(frame.payload)?),
        Kind::Answer => Incoming::Answer { id, more, answer: decode(frame.payload)? },
        Kind::Notice => Incoming::Notice(decode(frame.payload)?),
        Kind::Ping => Incoming::Ping(id),
        _ => Incoming::Other,
    })
}

fn subscribe_body(number: u32, filter: &Filter, options: &SubscribeOptions) -> Vec<u8> {
    encode(&Subscribe {
        subscription: number,
        filter: filter.as_str().to_owned(),
        group: None,
        overflow: options.overflow,
        origin: options.origin,
    })
}

/// Whether the daemon may be back in a moment, as after a restart.
fn is_worth_retrying(error: &Error) -> bool {
    use ipcd_proto::control::Code;
    match error {
        Error::Connect(_) | Error::TimedOut(_) | Error::Disconnected(_) => true,
        Error::Refused(refusal) => {
            matches!(refusal.code, Code::Ending | Code::Limit | Code::NameTaken | Code::TooSlow)
        }
        _ => false,
    }
}
