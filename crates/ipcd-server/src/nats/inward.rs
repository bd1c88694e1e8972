//! From a client: operations become frames.

use std::time::Instant;

use ipcd_proto::control::{Hello, Subscribe, Unsubscribe, encode};
use ipcd_proto::limits::{MAX_NAME, MAX_SUBJECT};
use ipcd_proto::nats::{
    ClientOperation, DecodedOperation, MAX_CONTROL_LINE, NatsError, NatsWriter, Publish, decode,
    headers_from_nats,
};
use ipcd_proto::{Frame, FrameKind, FrameWriter, Header, VERSION};
use ipcd_transport::ReadBuffer;

use crate::nats::adapter::{NatsAdapter, SessionProgress};
use crate::nats::answers::AnswerText;
use crate::nats::credentials::Credentials;
use crate::nats::subscriptions::MAX_SID;

/// Bytes of everything before the session is open: CONNECT, and some PING.
const MAX_BEFORE_OPEN: usize = 2 * MAX_CONTROL_LINE;

/// The upper bits of a frame's number say what it is about; the lower ones count, or are the number
/// of a subscription.
const KIND_SHIFT: u32 = 62;

/// The frame that a number belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FrameNumber {
    Message(u64),
    Subscribe(u32),
    Unsubscribe(u32),
    Flush(u64),
}

impl FrameNumber {
    pub(super) fn to_correlation(self) -> u64 {
        let (kind, number) = match self {
            Self::Message(number) => (0, number),
            Self::Subscribe(number) => (1, number.into()),
            Self::Unsubscribe(number) => (2, number.into()),
            Self::Flush(number) => (3, number),
        };
        kind << KIND_SHIFT | number
    }

    pub(super) fn of(correlation: u64) -> Self {
        let number = correlation & !(3 << KIND_SHIFT);
        match correlation >> KIND_SHIFT {
            0 => Self::Message(number),
            1 => Self::Subscribe(number as u32),
            2 => Self::Unsubscribe(number as u32),
            _ => Self::Flush(number),
        }
    }
}

/// Decides whether a client comes in; the error is for it.
pub(crate) type Admit<'a> = &'a mut dyn FnMut(&Credentials<'_>) -> Result<(), String>;

impl NatsAdapter {
    /// Translates what the client has sent, and leaves an incomplete operation in the buffer.
    pub(crate) fn read(
        &mut self,
        now: Instant,
        buffer: &mut ReadBuffer,
        frames: &mut Vec<u8>,
        admit: Admit<'_>,
    ) {
        let bytes = buffer.filled();
        let mut used = 0;
        while used < bytes.len() && self.progress != SessionProgress::Failed {
            match decode(&bytes[used..], self.info.max_payload) {
                Ok(DecodedOperation::Operation(operation, length)) => {
                    self.take(operation, length, frames, admit);
                    used += length;
                }
                Ok(DecodedOperation::Incomplete(_)) => break,
                Err(error) => self.refuse_bytes(error),
            }
        }
        if self.progress == SessionProgress::Failed {
            used = bytes.len();
        }
        // The time runs from the first byte of an operation.
        let has_rest = used < bytes.len();
        let since = self.unparsed_since.filter(|_| used == 0).unwrap_or(now);
        self.unparsed_since = has_rest.then_some(since);
        buffer.consume(used);
    }

    fn refuse_bytes(&mut self, error: NatsError) {
        let text = error.to_string();
        self.fail(Some(text.as_str()).filter(|_| error.is_told()), &*text);
    }

    fn take(
        &mut self,
        operation: ClientOperation<'_>,
        length: usize,
        frames: &mut Vec<u8>,
        admit: Admit<'_>,
    ) {
        if self.progress == SessionProgress::New
            && !self.may_begin(&operation, length, frames, admit)
        {
            return;
        }
        match operation {
            ClientOperation::Publish(publish) => self.publish(&publish, frames),
            ClientOperation::Ping => self.flush(AnswerText::Pong, 0, frames),
            ClientOperation::Subscribe { filter, group, sid } => {
                self.subscribe(filter, group, sid, frames);
            }
            ClientOperation::Unsubscribe { sid, max } => self.unsubscribe(sid, max, frames),
            ClientOperation::Connect(json) => {
                if self.update_options(json) && self.options.verbose {
                    self.flush(AnswerText::Ok, 0, frames);
                }
            }
            // The router notes that the client lives.
            ClientOperation::Ignored => {
                FrameWriter(frames).control(Header::new(FrameKind::Pong, 0), &[]);
            }
        }
    }

    /// Handles an operation before the session is open. Returns true if it opens the session and is
    /// to be carried out then.
    fn may_begin(
        &mut self,
        operation: &ClientOperation<'_>,
        length: usize,
        frames: &mut Vec<u8>,
        admit: Admit<'_>,
    ) -> bool {
        self.before_open = self.before_open.saturating_add(length.min(MAX_CONTROL_LINE));
        if self.before_open > MAX_BEFORE_OPEN {
            self.fail(Some("Authentication Timeout"), "too many bytes before CONNECT");
            return false;
        }
        match operation {
            ClientOperation::Ping => NatsWriter(&mut self.texts).pong(),
            ClientOperation::Ignored => {}
            ClientOperation::Connect(json) => {
                if self.update_options(json) && self.open(frames, admit) && self.options.verbose {
                    NatsWriter(&mut self.texts).ok();
                }
            }
            // A client need not send CONNECT.
            _ => return self.open(frames, admit),
        }
        false
    }

    fn update_options(&mut self, json: &[u8]) -> bool {
        if !self.options.update(json) {
            self.fail(None, "CONNECT has no JSON object with options");
        } else if self.options.no_responders && !self.options.headers {
            let why = "no responders requires headers support";
            self.fail(Some(why), why);
        } else if !(0..=1).contains(&self.options.protocol) {
            let why = "invalid client protocol";
            self.fail(Some(why), why);
        }
        self.progress != SessionProgress::Failed
    }

    fn open(&mut self, frames: &mut Vec<u8>, admit: Admit<'_>) -> bool {
        let credentials = Credentials::of(&self.options);
        if let Err(why) = admit(&credentials) {
            let told =
                format!("Authorization Violation{}{why}", if why.is_empty() { "" } else { ": " });
            self.fail(Some(&told), &*told);
            return false;
        }
        self.options.forget_secrets();
        self.progress = SessionProgress::Open;
        let hello = Hello {
            magic: Hello::MAGIC,
            oldest: VERSION,
            newest: VERSION,
            features: 0,
            nonce: [0; 32],
            name: None,
            token: None,
            no_echo: !self.options.echo,
        };
        FrameWriter(frames).control(Header::new(FrameKind::Hello, 0), &encode(&hello));
        true
    }

    fn publish(&mut self, publish: &Publish<'_>, frames: &mut Vec<u8>) {
        let Publish { subject, reply, headers, payload } = *publish;
        self.messages += 1;
        let number = FrameNumber::Message(self.messages).to_correlation();
        if headers.is_some() && !self.options.headers {
            return self.fail(None, "HPUB of a client that has said that it knows no headers");
        }
        let block = match headers {
            None => Ok(&[][..]),
            Some(headers) => {
                self.headers.clear();
                headers_from_nats(headers, &mut self.headers).map(|()| &self.headers[..])
            }
        };
        let refusal = match block {
            Err(error) => error.to_string(),
            Ok(_) if subject.len().max(reply.len()) > MAX_SUBJECT => {
                format!("a subject has at most {MAX_SUBJECT} bytes")
            }
            Ok(headers) => {
                // Without a way to receive status 503, nothing could be done with the answer.
                let interest = self.options.no_responders && !reply.is_empty();
                let header = Header { interest, ..Header::new(FrameKind::Message, number) };
                FrameWriter(frames).write(&Frame { header, subject, reply, headers, payload });
                if self.options.verbose {
                    self.flush(AnswerText::Ok, number, frames);
                }
                return;
            }
        };
        self.deny("Publish to", subject, &refusal);
    }

    /// Refuses an operation in words that all clients take for the refusal of one operation; others
    /// end the connection for some.
    fn deny(&mut self, what: &str, subject: &[u8], why: &str) {
        let subject = String::from_utf8_lossy(subject);
        let text = format!("Permissions Violation for {what} \"{subject}\": {why}");
        NatsWriter(&mut self.texts).error(text);
    }

    fn subscribe(&mut self, filter: &[u8], group: Option<&[u8]>, sid: &[u8], frames: &mut Vec<u8>) {
        if sid.len() > MAX_SID {
            let why = format!("a subscription id has at most {MAX_SID} bytes");
            return self.fail(Some(&why), &*why);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        if filter.len() > MAX_SUBJECT {
            let why = format!("a subject has at most {MAX_SUBJECT} bytes");
            return self.deny("Subscription to", filter, &why);
        }
        if group.is_some_and(|group| group.len() > MAX_NAME) {
            let why = format!("the name of a queue group has at most {MAX_NAME} bytes");
            return self.deny("Subscription to", filter, &why);
        }
        let (Some(filter), Some(group)) =
            (text(filter), group.map_or(Some(None), |group| text(group).map(Some)))
        else {
            return NatsWriter(&mut self.texts).error("Invalid Subject");
        };
        if let Some(former) = self.subscriptions.take_ending(sid) {
            // It has ended, or it is replaced.
            self.end_subscription(former, 0, frames);
        }
        let Some(subscription) = self.subscriptions.add(sid) else {
            // As in nats-server, the first one of a name stays.
            return if self.options.verbose {
                self.flush(AnswerText::Ok, 0, frames)
            };
        };
        let overflow = Some(self.profile.slow.overflow());
        let body = Subscribe { subscription, filter, group, overflow, origin: false };
        let number = FrameNumber::Subscribe(subscription).to_correlation();
        FrameWriter(frames).control(Header::new(FrameKind::Subscribe, number), &encode(&body));
        let answer = if self.options.verbose { AnswerText::Ok } else { AnswerText::Nothing };
        self.answers.push(number, answer, 0);
    }

    fn unsubscribe(&mut self, sid: &[u8], max: u64, frames: &mut Vec<u8>) {
        if let Some(subscription) = self.subscriptions.number(sid) {
            match max {
                0 => self.subscriptions.forget_name(sid),
                _ => self.subscriptions.note_end(subscription),
            }
            self.end_subscription(subscription, max, frames);
        }
        if self.options.verbose {
            self.flush(AnswerText::Ok, 0, frames);
        }
    }

    fn end_subscription(&mut self, subscription: u32, max: u64, frames: &mut Vec<u8>) {
        let number = FrameNumber::Unsubscribe(subscription).to_correlation();
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let header = Header { subscription: max, ..Header::new(FrameKind::Unsubscribe, number) };
        FrameWriter(frames).control(header, &encode(&Unsubscribe { subscription }));
    }

    /// Has the router say when everything before is done. Then the client gets this answer.
    fn flush(&mut self, answer: AnswerText, about: u64, frames: &mut Vec<u8>) {
        self.flushes += 1;
        let number = FrameNumber::Flush(self.flushes).to_correlation();
        FrameWriter(frames).control(Header::new(FrameKind::Flush, number), &[]);
        self.answers.push(number, answer, about);
    }
}
