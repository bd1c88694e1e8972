//! To a client: frames become what it understands.

use ipcd_core::DeniedUse;
use ipcd_proto::control::{Refusal, RefusalCode, decode as body};
use ipcd_proto::nats::{NatsMessage, NatsWriter, headers_to_nats};
use ipcd_proto::{BadSubject, DecodedFrame, Frame, FrameKind, decode};

use crate::nats::adapter::NatsAdapter;
use crate::nats::answers::AnswerText;
use crate::nats::inward::FrameNumber;

/// Bytes that are translated before they are written.
const STAGED: usize = 64 * 1024;

impl NatsAdapter {
    /// Translates frames, as many as are to be written next; returns their bytes.
    pub(crate) fn stage<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> usize {
        self.staged.bytes.append(&mut self.texts);
        let mut used = 0;
        for piece in pieces {
            let mut rest = piece;
            while self.staged.bytes.len() < STAGED
                && let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX)
            {
                self.translate(&frame);
                rest = &rest[length..];
            }
            used += piece.len() - rest.len();
            if !rest.is_empty() {
                break;
            }
        }
        self.staged.note_frames(used);
        used
    }

    #[inline]
    fn translate(&mut self, frame: &Frame<'_>) {
        match frame.header.kind {
            FrameKind::Message => self.message(frame),
            FrameKind::Ack => self.acknowledge(frame.header.correlation),
            FrameKind::Error => self.error(frame),
            FrameKind::Ping => NatsWriter(&mut self.staged.bytes).ping(),
            FrameKind::Bye => self.staged.bytes.append(&mut self.last_words),
            // NATS has no words for anything else.
            _ => {}
        }
    }

    #[inline]
    fn message(&mut self, frame: &Frame<'_>) {
        let Some(sid) = self.subscriptions.sid(frame.header.subscription) else {
            // A message to the peer itself, or for a subscription that has just ended.
            self.undelivered += 1;
            return;
        };
        let Frame { subject, reply, payload, .. } = *frame;
        let message = NatsMessage { subject, sid, reply, payload };
        let mut writer = NatsWriter(&mut self.staged.bytes);
        if frame.headers.is_empty() || !self.options.headers {
            return writer.message(&message);
        }
        self.headers.clear();
        headers_to_nats(frame.headers, &mut self.headers);
        writer.message_with_headers(&message, &self.headers);
    }

    fn acknowledge(&mut self, correlation: u64) {
        match FrameNumber::of(correlation) {
            FrameNumber::Unsubscribe(number) => self.subscriptions.remove(number),
            _ => self.answers.note(correlation),
        }
        self.give_answers();
    }

    fn give_answers(&mut self) {
        let mut writer = NatsWriter(&mut self.staged.bytes);
        while let Some(answer) = self.answers.next() {
            match answer {
                AnswerText::Nothing => {}
                AnswerText::Ok => writer.ok(),
                AnswerText::Pong => writer.pong(),
            }
        }
    }

    fn error(&mut self, frame: &Frame<'_>) {
        let Ok(refusal) = body::<Refusal>(frame.payload) else { return };
        let correlation = frame.header.correlation;
        if correlation == 0 {
            return self.end(&refusal);
        }
        match FrameNumber::of(correlation) {
            FrameNumber::Message(_) if refusal.code == RefusalCode::NoResponder => {
                self.tell_no_responder(frame);
            }
            FrameNumber::Message(_) => {
                // nats-server answers +OK as well if the subject is bad.
                if refusal.code != RefusalCode::BadSubject {
                    self.answers.refuse(correlation);
                }
                self.say(&refusal, "Invalid Publish Subject", "Publish");
            }
            FrameNumber::Subscribe(number) => {
                self.subscriptions.remove(number);
                self.answers.give_up(correlation);
                self.say(&refusal, "Invalid Subject", "Subscription");
                self.give_answers();
            }
            // The subscription has ended by itself meanwhile.
            FrameNumber::Unsubscribe(_) | FrameNumber::Flush(_) => {}
        }
    }

    fn tell_no_responder(&mut self, frame: &Frame<'_>) {
        if let Some(sid) = self.subscriptions.sid(frame.header.subscription) {
            let mut writer = NatsWriter(&mut self.staged.bytes);
            writer.no_responders(frame.reply, sid, frame.subject);
        }
    }

    /// Tells the client that one operation was refused.
    fn say(&mut self, refusal: &Refusal, bad_subject: &str, what: &str) {
        let mut writer = NatsWriter(&mut self.staged.bytes);
        let why = &refusal.message;
        match refusal.code {
            RefusalCode::BadSubject if is_ours(why) => {
                writer.error(format!("Permissions Violation for {what}: {why}"));
            }
            RefusalCode::BadSubject => writer.error(bad_subject),
            RefusalCode::Denied => match DeniedUse::of(why) {
                Some(DeniedUse::Publish(subject)) => {
                    writer.error(format!("Permissions Violation for Publish to \"{subject}\""));
                }
                Some(DeniedUse::Subscribe(filter)) => {
                    writer.error(format!("Permissions Violation for Subscription to \"{filter}\""));
                }
                None => writer.error(format!("Permissions Violation for {what}: {why}")),
            },
            RefusalCode::Limit => writer.error(format!("maximum subscriptions exceeded: {why}")),
            // The client has shown more than allowed since it was told the limit.
            RefusalCode::TooLarge => {
                writer.error(format!("Permissions Violation for {what}: {why}"));
            }
            _ => writer.error(why),
        }
    }

    /// Tells the client why its session ends.
    fn end(&mut self, refusal: &Refusal) {
        let is_open = self.progress != super::adapter::SessionProgress::New;
        let mut writer = NatsWriter(&mut self.staged.bytes);
        match refusal.code {
            RefusalCode::Ending => {
                self.info.ldm = true;
                writer.info(&self.info);
            }
            RefusalCode::TimedOut if !is_open => writer.error("Authentication Timeout"),
            RefusalCode::TimedOut => writer.error("Stale Connection"),
            RefusalCode::TooSlow => writer.error("Slow Consumer"),
            RefusalCode::Denied => writer.error("Authorization Violation"),
            RefusalCode::Limit => writer.error("maximum connections exceeded"),
            _ => writer.error(&refusal.message),
        }
    }
}

/// Whether the subject is good in NATS, and breaks a rule of ours.
fn is_ours(why: &str) -> bool {
    let ours = [BadSubject::TooLong, BadSubject::TooManyTokens, BadSubject::Reserved];
    ours.iter().any(|rule| rule.to_string() == why)
}
