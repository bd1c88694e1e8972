//! Between a raw peer's bytes and the router's frames.

use ipcd_core::RawPeer;
use ipcd_proto::control::{Refusal, decode as body};
use ipcd_proto::{
    BadSubject, Codec, DecodedFrame, Filter, Frame, FrameKind, FrameWriter, Header, HttpDetector,
    HttpVerdict, MessageDecoder, Subject, TooLong, decode,
};

use ipcd_transport::RawChannel;

use crate::listen::{FIRST_WORD, RawProfile};
use crate::staged_bytes::StagedBytes;

/// Bytes that are translated before they are written.
const STAGED: usize = 64 * 1024;
/// An address that has proved nothing receives at most so many times the bytes that came from it: a
/// sender that forges addresses could otherwise make the daemon flood them (RFC 9000 §8).
const AMPLIFICATION: u64 = 3;

/// The adapter of one peer.
pub(crate) struct CodecAdapter {
    raw_profile: RawProfile,
    /// Whether it can hear nothing, whatever its dialect says.
    is_write_only: bool,
    decoder: MessageDecoder,
    keeps_records: bool,
    /// Whether the peer says when it is done.
    has_end: bool,
    /// Bytes of the largest record for the peer.
    largest_sent: Option<usize>,
    /// The number of the last message.
    last: u64,
    staged: StagedBytes,
    /// Bytes that may still go to an address that has proved nothing.
    allowance: Option<u64>,
    /// The beginning of the peer's stream, while it may be a browser's.
    beginning: Option<HttpDetector>,
    is_browser: bool,
    /// Messages of the peer that were refused, and why the first was.
    refused: u64,
    first_refusal: Option<String>,
    /// Messages for the peer that were not sent, because of the allowance.
    withheld: u64,
}

impl CodecAdapter {
    pub(crate) fn new(mut raw_profile: RawProfile, channel: &RawChannel, largest: usize) -> Self {
        let is_write_only = channel.channel.is_write_only();
        if is_write_only {
            raw_profile.reply = Default::default();
        }
        let RawChannel { keeps_records, has_end, largest: largest_sent, .. } = *channel;
        let decoder = MessageDecoder::new(raw_profile.codec, largest);
        Self {
            raw_profile,
            is_write_only,
            decoder,
            keeps_records,
            has_end,
            largest_sent,
            last: 0,
            staged: StagedBytes::default(),
            allowance: None,
            beginning: None,
            is_browser: false,
            refused: 0,
            first_refusal: None,
            withheld: 0,
        }
    }

    /// The peer's side of a session, for the router.
    pub(crate) fn session(&self) -> RawPeer {
        let parse = |reply: &String| Filter::parse(reply.as_bytes()).ok();
        let filters = self.raw_profile.reply.iter().filter_map(parse).collect();
        let speaks = self.raw_profile.subject.is_some();
        RawPeer { filters, echo: self.raw_profile.echo, largest: self.largest_sent, speaks }
    }

    /// The peer says and hears something else from now on.
    pub(crate) fn set_profile(&mut self, mut raw_profile: RawProfile) {
        // A raw peer does not become a NATS client.
        if raw_profile.nats.is_some() {
            return;
        }
        if self.is_write_only {
            raw_profile.reply = Default::default();
        }
        self.decoder.set_codec(raw_profile.codec);
        self.raw_profile = raw_profile;
    }

    /// Limits the messages of the peer to so many bytes from now on.
    pub(crate) fn set_largest(&mut self, largest: usize) {
        self.decoder.set_largest(largest);
    }

    /// Treats the peer's address as one that may be forged.
    pub(crate) fn limit_amplification(&mut self) {
        self.allowance = Some(0);
    }

    /// For a peer that may be a browser: nothing is taken of what begins like its request.
    pub(crate) fn look_for_browser(&mut self) {
        self.beginning = Some(HttpDetector::default());
    }

    /// Whether it was one.
    pub(crate) fn is_browser(&self) -> bool {
        self.is_browser
    }

    /// Whether the peer says when it is done; else it is gone when we are.
    pub(crate) fn has_end(&self) -> bool {
        self.has_end
    }

    /// Whether the peer may still want messages when it sends no more. A server or program has gone
    /// then, and is connected or started again.
    pub(crate) fn may_hear_on(&self) -> bool {
        self.has_end && !self.raw_profile.chosen && !self.raw_profile.reply.is_empty()
    }

    /// Whether each read brings one record.
    pub(crate) fn keeps_records(&self) -> bool {
        self.keeps_records
    }

    /// Appends the frames of what the peer has sent.
    pub(crate) fn read(&mut self, bytes: &[u8], frames: &mut Vec<u8>) {
        if let Some(allowance) = &mut self.allowance {
            *allowance += AMPLIFICATION * bytes.len() as u64;
        }
        if let Some(beginning) = &mut self.beginning {
            let verdict = beginning.take(bytes, self.raw_profile.codec == Codec::Raw);
            self.is_browser = verdict == HttpVerdict::Request;
            if verdict != HttpVerdict::Open {
                self.beginning = None;
            }
        }
        if self.is_browser {
            return;
        }
        let mut found = MessageFramer::new(&self.raw_profile, &mut self.last, frames);
        self.decoder.feed(bytes, |message| found.take(message));
        // The end of a record ends the message, also without an end byte.
        if self.keeps_records {
            self.decoder.finish(|message| found.take(message));
        }
        let refused = found.refused;
        self.note_refused(refused);
    }

    /// The same at the end of what it sends.
    pub(crate) fn finish(&mut self, frames: &mut Vec<u8>) {
        let mut found = MessageFramer::new(&self.raw_profile, &mut self.last, frames);
        self.decoder.finish(|message| found.take(message));
        let refused = found.refused;
        self.note_refused(refused);
    }

    fn note_refused(&mut self, reasons: Vec<String>) {
        self.refused += reasons.len() as u64;
        if self.first_refusal.is_none() {
            self.first_refusal = reasons.into_iter().next();
        }
    }

    /// Why the first message was refused, to be told once.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        // The empty text stays behind: it tells that a reason has been logged, and later ones are
        // only counted.
        let first = self.first_refusal.as_mut().map(std::mem::take);
        first.filter(|why| !why.is_empty())
    }

    /// Messages of the peer that were refused, and for it that were withheld.
    pub(crate) fn lost_messages(&self) -> (u64, u64) {
        (self.refused, self.withheld)
    }

    /// Bytes to be written.
    pub(crate) fn staged(&mut self) -> &mut StagedBytes {
        &mut self.staged
    }

    /// Drops the bytes to be written, because the peer has no reader. Returns the bytes of those of
    /// these frames that were written whole before.
    pub(crate) fn discard(&mut self, frames: &[u8]) -> usize {
        let (mut used, mut end, mut message) = (0, 0, Vec::new());
        while used < self.staged.frames()
            && let Ok(DecodedFrame::Frame(frame, length)) = decode(&frames[used..], usize::MAX)
        {
            if frame.header.kind == FrameKind::Message {
                message.clear();
                self.raw_profile.codec.encode(frame.payload, &mut message);
                end += message.len();
            }
            // A message that is partly written counts as dropped, and not as written.
            if end > self.staged.written() {
                break;
            }
            used += length;
        }
        self.staged = StagedBytes::default();
        used
    }

    /// Translates frames for the peer, as many as are to be written next; returns their bytes.
    pub(crate) fn stage_frames(&mut self, frames: &[u8]) -> usize {
        let mut used = 0;
        while self.staged.bytes.len() < STAGED
            && let Ok(DecodedFrame::Frame(frame, length)) = decode(&frames[used..], usize::MAX)
        {
            used += length;
            let before = self.staged.bytes.len();
            self.translate(&frame);
            // One message for each write, because a write is a record.
            if self.keeps_records && self.staged.bytes.len() > before {
                break;
            }
        }
        self.staged.note_frames(used);
        used
    }

    fn translate(&mut self, frame: &Frame<'_>) {
        match frame.header.kind {
            FrameKind::Message => {
                let bytes = frame.payload.len() as u64;
                match &mut self.allowance {
                    Some(allowance) if *allowance < bytes => self.withheld += 1,
                    allowance => {
                        *allowance = allowance.map(|left| left - bytes);
                        self.raw_profile.codec.encode(frame.payload, &mut self.staged.bytes);
                    }
                }
            }
            // Without a number it ends the session, and the log tells of that anyway.
            FrameKind::Error if frame.header.correlation != 0 => {
                let refusal: Result<Refusal, _> = body(frame.payload);
                self.note_refused(refusal.into_iter().map(|refusal| refusal.message).collect());
            }
            // It has no words for anything else.
            _ => {}
        }
    }
}

/// Frames that are made of a peer's messages.
struct MessageFramer<'a> {
    raw_profile: &'a RawProfile,
    last: &'a mut u64,
    frames: &'a mut Vec<u8>,
    refused: Vec<String>,
}

impl<'a> MessageFramer<'a> {
    fn new(raw_profile: &'a RawProfile, last: &'a mut u64, frames: &'a mut Vec<u8>) -> Self {
        Self { raw_profile, last, frames, refused: Vec::new() }
    }

    fn take(&mut self, message: Result<&[u8], TooLong>) {
        let Some(template) = &self.raw_profile.subject else { return };
        match message {
            Err(TooLong) => self.refused.push("longer than max_message allows".into()),
            Ok(message) if template.contains(FIRST_WORD) => {
                let end = message.iter().position(u8::is_ascii_whitespace).unwrap_or(message.len());
                let payload = message.get(end + 1..).unwrap_or_default();
                match str::from_utf8(&message[..end]) {
                    Ok(word) => self.write(&template.replace(FIRST_WORD, word), payload),
                    Err(_) => self.refused.push(BadSubject::BadCharacter.to_string()),
                }
            }
            Ok(message) => self.write(template, message),
        }
    }

    fn write(&mut self, subject: &str, payload: &[u8]) {
        // A raw peer must not address another peer directly, nor use an invalid subject.
        let checked = match subject.starts_with('@') {
            true => Err(BadSubject::Reserved),
            false => Subject::parse(subject.as_bytes()),
        };
        if let Err(error) = checked {
            self.refused.push(error.to_string());
            return;
        }
        *self.last += 1;
        FrameWriter(self.frames).write(&Frame {
            header: Header::new(FrameKind::Message, *self.last),
            subject: subject.as_bytes(),
            reply: &[],
            headers: &[],
            payload,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use ipcd_transport::{PeerIdentity, StreamChannel};

    use super::*;

    fn for_test(codec: Codec, subject: &str, keeps_records: bool) -> CodecAdapter {
        let (near, _far) = UnixStream::pair().unwrap();
        let channel =
            Box::new(StreamChannel::socket(near.into(), PeerIdentity::default()).unwrap());
        let channel = RawChannel { keeps_records, ..RawChannel::stream(channel) };
        let subject = Some(subject.into());
        let raw_profile = RawProfile {
            codec,
            subject,
            reply: Vec::new(),
            echo: false,
            chosen: false,
            nats: None,
        };
        CodecAdapter::new(raw_profile, &channel, 100)
    }

    fn frames(adapter: &mut CodecAdapter, bytes: &[u8]) -> Vec<(String, String)> {
        let mut frames = Vec::new();
        adapter.read(bytes, &mut frames);
        let (mut found, mut rest) = (Vec::new(), &frames[..]);
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(frame.subject), text(frame.payload)));
            rest = &rest[length..];
        }
        found
    }

    fn pair(subject: &str, payload: &str) -> (String, String) {
        (subject.into(), payload.into())
    }

    #[test]
    fn the_first_word_can_be_the_subject() {
        let mut adapter = for_test(Codec::Line, "logs.$1", false);
        let found = frames(&mut adapter, b"web GET / HTTP\ndb\n@1 x\n  y\nb..c x\n");
        let expected = [pair("logs.web", "GET / HTTP"), pair("logs.db", ""), pair("logs.@1", "x")];
        assert_eq!(found, expected);
        assert_eq!(adapter.lost_messages(), (2, 0));
        assert!(adapter.take_refusal().is_some() && adapter.take_refusal().is_none());
        let mut plain = for_test(Codec::Line, "$1", false);
        assert_eq!(frames(&mut plain, b"@1 x\n@1.2 y\na z\n\xff y\n").len(), 1);
        assert_eq!(plain.lost_messages(), (3, 0));
    }

    #[test]
    fn what_nobody_takes_is_forgotten_from_the_message_that_is_not_whole() {
        let mut adapter = for_test(Codec::Line, "a", false);
        let (mut frames, mut lengths) = (Vec::new(), Vec::new());
        for payload in ["one", "", "three"] {
            let header = Header::new(FrameKind::Message, 1);
            FrameWriter(&mut frames).control(header, payload.as_bytes());
            lengths.push(frames.len());
        }
        for (written, whole) in [(0, 0), (3, 0), (4, lengths[0]), (5, lengths[1]), (10, lengths[1])]
        {
            assert_eq!(adapter.stage_frames(&frames), frames.len());
            assert_eq!(adapter.staged.unwritten(), b"one\n\nthree\n");
            assert_eq!(adapter.staged.wrote(written, &mut Vec::new()), 0);
            assert_eq!(adapter.discard(&frames), whole, "{written} bytes");
            assert!(adapter.staged.unwritten().is_empty());
        }
    }

    #[test]
    fn to_an_address_that_proves_nothing_little_goes() {
        let mut adapter = for_test(Codec::Raw, "a", true);
        adapter.limit_amplification();
        let mut message = Vec::new();
        let (header, subject, payload) =
            (Header::new(FrameKind::Message, 1), &b"a"[..], &[b'x'; 25][..]);
        let (reply, headers) = (&[][..], &[][..]);
        FrameWriter(&mut message).write(&Frame { header, subject, reply, headers, payload });
        assert_eq!(adapter.stage_frames(&message), message.len());
        assert_eq!(adapter.staged.unwritten(), b"");
        frames(&mut adapter, &[b'y'; 10]);
        assert_eq!(adapter.stage_frames(&message), message.len());
        assert_eq!(adapter.staged.unwritten(), payload);
        adapter.staged.wrote(payload.len(), &mut Vec::new());
        adapter.stage_frames(&message);
        assert_eq!((adapter.staged.unwritten(), adapter.lost_messages()), (&b""[..], (0, 2)));
    }
}
