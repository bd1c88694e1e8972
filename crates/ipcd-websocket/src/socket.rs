//! A WebSocket without its stream: where it is in its upgrade, its messages and its end. It can be
//! encoded, to be served by another process.

use bincode::config::{Configuration, Limit};
use ipcd_transport::{ChannelParts, Error, ReadBuffer, Result};
use serde::{Deserialize, Serialize};

use crate::frame::Opcode;
use crate::incoming::IncomingFrames;
use crate::mask::MaskKey;
use crate::outgoing::{MaskKeys, OwnBytes};
use crate::place::Place;
use crate::request::{Judgement, Refusal, RequestRules};
use crate::response::{ExpectedAnswer, ask};

/// Codes of a close (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;

/// Bytes of the longest encoded WebSocket: a head, bytes that came behind it, and lists of a listener.
const LONGEST: usize = 256 * 1024;

const CODING: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<LONGEST>,
> = bincode::config::standard().with_limit::<LONGEST>();

/// The protocol's state.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct WebSocket {
    phase: Phase,
    is_client: bool,
    /// Whether the peer knows nothing of frames of ipcd.
    is_raw: bool,
    /// The bytes that came behind the answer to a client's request, and was not read yet.
    early: Vec<u8>,
    incoming: IncomingFrames,
    pub(crate) own: OwnBytes,
    pub(crate) end: WriteEnd,
    #[serde(skip)]
    keys: MaskKeys,
}

#[derive(Debug, Deserialize, Serialize)]
enum Phase {
    /// A server waits for the rest of the request.
    Asked {
        rules: RequestRules,
        head: Vec<u8>,
    },
    /// A client waits for the rest of the answer.
    Asking {
        expected: ExpectedAnswer,
        head: Vec<u8>,
    },
    Open,
    /// The upgrade has failed.
    Failed,
}

/// The state of the end of what we write.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum WriteEnd {
    NotYet,
    /// A close is to be said after the upgrade, behind the frame that is open.
    Due,
    /// It is among our own bytes.
    Said,
    Over,
}

impl WebSocket {
    /// That of a peer which was accepted and has asked for nothing yet.
    pub(crate) fn server(rules: RequestRules) -> Self {
        let is_raw = rules.is_raw;
        Self::new(Phase::Asked { rules, head: Vec::new() }, false, is_raw)
    }

    /// That of one which connects; its request waits to be sent.
    pub(crate) fn client(place: &Place, is_raw: bool) -> Result<Self> {
        let (request, expected) = ask(place, is_raw)?;
        let mut socket = Self::new(Phase::Asking { expected, head: Vec::new() }, true, is_raw);
        socket.own.push(request.as_bytes());
        Ok(socket)
    }

    fn new(phase: Phase, is_client: bool, is_raw: bool) -> Self {
        Self {
            phase,
            is_client,
            is_raw,
            early: Vec::new(),
            incoming: IncomingFrames::new(!is_client),
            own: OwnBytes::default(),
            end: WriteEnd::NotYet,
            keys: MaskKeys::default(),
        }
    }

    /// The state of a channel: this, and the state of the stream below.
    pub(crate) fn encode(&self, below: &[u8]) -> Result<Vec<u8>> {
        bincode::serde::encode_to_vec((self, below), CODING)
            .map_err(|error| Error::Protocol(format!("the state of a WebSocket: {error}")))
    }

    /// The two parts of a channel's state.
    pub(crate) fn decode(state: &[u8]) -> Result<(Self, Vec<u8>)> {
        match bincode::serde::decode_from_slice(state, CODING) {
            Ok((parts, used)) if used == state.len() => Ok(parts),
            _ => Err(Error::Protocol("the state of a WebSocket cannot be decoded".into())),
        }
    }

    /// Whether the upgrade is over, and messages may pass.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the upgrade goes on.
    pub(crate) fn is_upgrading(&self) -> bool {
        matches!(self.phase, Phase::Asked { .. } | Phase::Asking { .. })
    }

    /// Whether the upgrade has to end in our time: a client of ours has a deadline for connecting.
    pub(crate) fn has_deadline(&self) -> bool {
        self.is_upgrading() && (self.is_raw || !self.is_client)
    }

    /// Takes what was received. Payloads go `into` a buffer; without one, nothing but the upgrade is
    /// taken, and what a server sends right behind its answer is kept.
    ///
    /// # Errors
    /// If the peer does not keep to the protocol. The answer to that is among our own bytes.
    pub(crate) fn receive(&mut self, bytes: &[u8], into: Option<&mut ReadBuffer>) -> Result<()> {
        let rest = self.upgrade(bytes)?;
        let rest = &bytes[bytes.len() - rest..];
        let Some(into) = into.filter(|_| self.is_open()) else {
            self.early.extend_from_slice(rest);
            return Ok(());
        };
        let early = std::mem::take(&mut self.early);
        let received =
            self.incoming.receive(&early, into).and_then(|()| self.incoming.receive(rest, into));
        if let Err(why) = received {
            self.say_close(PROTOCOL_ERROR)?;
            return Err(Error::Protocol(format!("WebSocket: {why}")));
        }
        // RFC 6455 §5.5.1: a close is answered as soon as possible. Between two sides that both speak
        // frames of ipcd it ends one direction, as on any stream.
        if self.incoming.has_closed() && self.is_raw && self.end == WriteEnd::NotYet {
            self.end = WriteEnd::Due;
        }
        Ok(())
    }

    /// Takes what belongs to the upgrade; returns how many bytes are left behind it.
    fn upgrade(&mut self, bytes: &[u8]) -> Result<usize> {
        match &mut self.phase {
            Phase::Asked { rules, head } => {
                head.extend_from_slice(bytes);
                match rules.judge(head) {
                    Judgement::Incomplete => Ok(0),
                    Judgement::Accepted(answer) => {
                        self.own.push(answer.as_bytes());
                        self.phase = Phase::Open;
                        Ok(0)
                    }
                    Judgement::Refused(refusal) => Err(self.refuse(&refusal)),
                }
            }
            Phase::Asking { expected, head } => {
                head.extend_from_slice(bytes);
                match expected.check(head) {
                    Ok(None) => Ok(0),
                    Ok(Some(length)) => {
                        let rest = head.len() - length;
                        self.phase = Phase::Open;
                        Ok(rest)
                    }
                    Err(why) => {
                        (self.phase, self.end) = (Phase::Failed, WriteEnd::Said);
                        Err(Error::Protocol(why))
                    }
                }
            }
            Phase::Open => Ok(bytes.len()),
            Phase::Failed => Ok(0),
        }
    }

    /// Ends the upgrade with an answer that says why.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) -> Error {
        if matches!(self.phase, Phase::Asked { .. }) {
            self.own.push(refusal.answer().as_bytes());
        }
        (self.phase, self.end) = (Phase::Failed, WriteEnd::Said);
        Error::Protocol(refusal.to_string())
    }

    /// Puts among our own bytes what is due now, if none of them wait. Returns whether there was
    /// something. So a peer that pings and does not read has one answer waiting at the most.
    pub(crate) fn queue_due(&mut self) -> Result<bool> {
        let is_done = matches!(self.end, WriteEnd::Said | WriteEnd::Over);
        if !self.is_open() || is_done || !self.own.unsent().is_empty() {
            return Ok(false);
        }
        if let Some(ping) = self.incoming.take_ping() {
            let key = self.key()?;
            self.own.push_control(Opcode::Pong, &ping, key);
            return Ok(true);
        }
        let is_due = self.end == WriteEnd::Due;
        if is_due {
            self.say_close(NORMAL)?;
        }
        Ok(is_due)
    }

    fn say_close(&mut self, code: u16) -> Result<()> {
        let key = self.key()?;
        self.own.push_control(Opcode::Close, &code.to_be_bytes(), key);
        self.end = WriteEnd::Said;
        Ok(())
    }

    /// The key of the next frame: only clients mask theirs.
    pub(crate) fn key(&mut self) -> Result<Option<MaskKey>> {
        self.is_client.then(|| self.keys.next()).transpose()
    }

    /// Whether bytes that came with the upgrade wait to be read.
    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Whether the peer has said that nothing more will come.
    pub(crate) fn has_closed(&self) -> bool {
        self.incoming.has_closed()
    }

    /// See [`IncomingFrames::partial`].
    pub(crate) fn partial(&self) -> Option<u64> {
        self.incoming.partial()
    }

    /// The error for a stream that has ended without a close.
    pub(crate) fn cut_off(&self) -> Error {
        let why = match (self.is_upgrading(), self.is_client) {
            (true, true) => "it ended the connection before it answered: it may be full",
            (true, false) => "it left before it had asked for a WebSocket",
            (false, _) => "the connection was cut off, or the other side has died",
        };
        Error::Truncated(why.into())
    }
}

/// The parts of a channel that asks for a WebSocket over this stream.
///
/// # Errors
/// If the kernel has no random bytes.
pub fn client_parts(place: &Place, is_raw: bool, below: ChannelParts) -> Result<ChannelParts> {
    let state = WebSocket::client(place, is_raw)?.encode(&below.state)?;
    Ok(ChannelParts { state, ..below })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(is_raw: bool) -> WebSocket {
        let place = Place::of(&"ws://localhost:1/x".parse().unwrap()).unwrap();
        let rules = RequestRules { path: String::new(), origins: None, is_raw };
        let mut socket = WebSocket::server(rules);
        let request = WebSocket::client(&place, is_raw).unwrap();
        socket.receive(request.own.unsent(), None).unwrap();
        let answer = socket.own.unsent().len();
        socket.own.advance(answer);
        socket
    }

    #[test]
    fn a_peer_that_pings_and_does_not_read_has_one_answer_waiting() {
        let mut socket = open(false);
        let mut into = ReadBuffer::new(0, 100);
        for number in 0..10_000_u16 {
            let [high, low] = number.to_be_bytes();
            socket.receive(&[0x89, 0x82, 0, 0, 0, 0, high, low], Some(&mut into)).unwrap();
            socket.queue_due().unwrap();
        }
        assert_eq!(socket.own.unsent(), [0x8a, 2, 0, 0], "the first one");
        socket.own.advance(4);
        socket.queue_due().unwrap();
        assert_eq!(socket.own.unsent(), [&[0x8a, 2][..], &9999_u16.to_be_bytes()].concat());
        socket.own.advance(4);
        assert!(!socket.queue_due().unwrap() && into.is_empty());
    }

    #[test]
    fn only_a_raw_peer_gets_its_close_answered_at_once() {
        for is_raw in [true, false] {
            let mut socket = open(is_raw);
            socket.receive(&[0x88, 0x80, 0, 0, 0, 0], Some(&mut ReadBuffer::new(0, 9))).unwrap();
            assert_eq!((socket.has_closed(), socket.queue_due().unwrap()), (true, is_raw));
        }
    }
}
