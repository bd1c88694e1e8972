//! The input of a peer, in frames: the payloads of its messages, and its control frames.

use ipcd_transport::ReadBuffer;
use serde::{Deserialize, Serialize};

use crate::frame::{FrameHeader, LONGEST_HEADER, Opcode};
use crate::mask::{MaskKey, copy_masked};

/// The place in the peer's frames. It holds part of a header or of a control frame, and nothing else.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct IncomingFrames {
    /// Whether the peer masks its frames: a client must, and a server must not (RFC 6455 §5.1).
    is_masked: bool,
    /// A header, as far as it has come.
    header: Vec<u8>,
    frame: Option<OpenFrame>,
    /// Whether a message goes on with the next frame.
    is_in_message: bool,
    /// The payload of the control frame that is open.
    control: Vec<u8>,
    /// The payload of the last ping that was not answered.
    ping: Option<Vec<u8>>,
    has_closed: bool,
    /// Headers that were read, to tell one incomplete frame from the next.
    headers: u64,
}

/// A frame of which not all has come.
#[derive(Debug, Deserialize, Serialize)]
struct OpenFrame {
    opcode: Opcode,
    key: MaskKey,
    taken: u64,
    left: u64,
}

impl IncomingFrames {
    /// The frames of a peer that has sent none yet.
    pub(crate) fn new(is_masked: bool) -> Self {
        Self {
            is_masked,
            header: Vec::new(),
            frame: None,
            is_in_message: false,
            control: Vec::new(),
            ping: None,
            has_closed: false,
            headers: 0,
        }
    }

    /// Takes what was received, and appends the payloads of messages to `into`. What comes behind the
    /// peer's close is ignored.
    ///
    /// # Errors
    /// If the bytes are not frames. The error says why.
    pub(crate) fn receive(
        &mut self,
        mut bytes: &[u8],
        into: &mut ReadBuffer,
    ) -> Result<(), &'static str> {
        while !bytes.is_empty() && !self.has_closed {
            if self.frame.is_none() {
                bytes = self.take_header(bytes)?;
            }
            let Some(frame) = &mut self.frame else { continue };
            let count =
                usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, rest) = bytes.split_at(count);
            match frame.opcode.is_control() {
                false => copy_masked(now, &mut into.spare(count)[..count], frame.key, frame.taken),
                true => {
                    let before = self.control.len();
                    self.control.resize(before + count, 0);
                    copy_masked(now, &mut self.control[before..], frame.key, frame.taken);
                }
            }
            if !frame.opcode.is_control() {
                into.commit(count);
            }
            (frame.taken, frame.left) = (frame.taken + count as u64, frame.left - count as u64);
            bytes = rest;
            if frame.left == 0 {
                self.end_frame()?;
            }
        }
        Ok(())
    }

    /// Takes a header, as far as it is there, and returns the bytes behind it.
    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let before = self.header.len();
        let decoded = if before == 0 {
            FrameHeader::decode(bytes)?
        } else {
            let missing = (LONGEST_HEADER - before).min(bytes.len());
            self.header.extend_from_slice(&bytes[..missing]);
            FrameHeader::decode(&self.header)?
        };
        let Some((header, length)) = decoded else {
            if before == 0 {
                self.header.extend_from_slice(bytes);
            }
            return Ok(&[]);
        };
        self.header.clear();
        self.begin_frame(&header)?;
        Ok(&bytes[length - before..])
    }

    fn begin_frame(&mut self, header: &FrameHeader) -> Result<(), &'static str> {
        match (header.opcode, self.is_in_message) {
            (Opcode::Continuation, false) => return Err("a fragment of no message"),
            (Opcode::Text | Opcode::Binary, true) => {
                return Err("a message within a message that is not complete");
            }
            (opcode, _) if opcode.is_control() => {}
            _ => self.is_in_message = !header.is_last,
        }
        match (header.key.is_some(), self.is_masked) {
            (false, true) => return Err("a frame of a client without a mask"),
            (true, false) => return Err("a frame of a server with a mask"),
            _ => {}
        }
        self.headers = self.headers.wrapping_add(1);
        let (opcode, key) = (header.opcode, header.key.unwrap_or_default());
        self.frame = Some(OpenFrame { opcode, key, taken: 0, left: header.length });
        if header.length == 0 { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> Result<(), &'static str> {
        let Some(frame) = self.frame.take() else { return Ok(()) };
        match frame.opcode {
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
            // §5.5.3: an answer to the most recent ping is enough.
            Opcode::Ping => self.ping = Some(std::mem::take(&mut self.control)),
            Opcode::Pong => self.control.clear(),
            Opcode::Close => {
                self.has_closed = true;
                // §5.5.1: a code of two bytes comes first, if there is anything.
                if self.control.len() == 1 {
                    return Err("a close whose code has one byte");
                }
                self.control.clear();
            }
        }
        Ok(())
    }

    /// The payload of a ping that has to be answered.
    pub(crate) fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Whether the peer has said that nothing more will come.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// A number for the header or control frame of which not all has come, if there is one.
    pub(crate) fn partial(&self) -> Option<u64> {
        let is_control = self.frame.as_ref().is_some_and(|frame| frame.opcode.is_control());
        (is_control || !self.header.is_empty()).then_some(self.headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    const KEY: MaskKey = [1, 2, 3, 250];

    fn frame(opcode: Opcode, is_last: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { is_last, opcode, length: payload.len() as u64, key: Some(KEY) };
        let mut bytes = header.encode().as_slice().to_vec();
        let begin = bytes.len();
        bytes.resize(begin + payload.len(), 0);
        copy_masked(payload, &mut bytes[begin..], KEY, 0);
        bytes
    }

    /// The result of these bytes in pieces of this size.
    fn receive(bytes: &[u8], size: usize) -> (Result<(), &'static str>, Vec<u8>, IncomingFrames) {
        let (mut frames, mut into) = (IncomingFrames::new(true), ReadBuffer::new(0, 1 << 20));
        let outcome = bytes.chunks(size).try_for_each(|piece| frames.receive(piece, &mut into));
        (outcome, into.filled().to_vec(), frames)
    }

    #[test]
    fn payloads_are_one_stream_however_they_are_cut() {
        let bytes = [
            frame(Opcode::Text, false, b"one "),
            frame(Opcode::Ping, true, b"are you there"),
            frame(Opcode::Continuation, false, b""),
            frame(Opcode::Continuation, true, b"two "),
            frame(Opcode::Pong, true, b"unasked"),
            frame(Opcode::Binary, true, &[b'x'; 300]),
            frame(Opcode::Close, true, &[3, 232]),
            b"ignored".to_vec(),
        ]
        .concat();
        let expected = [&b"one two "[..], &[b'x'; 300]].concat();
        for size in [1, 2, 3, 7, 64, bytes.len()] {
            let (outcome, payload, mut frames) = receive(&bytes, size);
            assert_eq!((outcome, &payload), (Ok(()), &expected), "in pieces of {size}");
            assert_eq!(frames.take_ping().as_deref(), Some(&b"are you there"[..]));
            assert!(frames.has_closed() && frames.take_ping().is_none());
            assert_eq!(frames.partial(), None);
        }
    }

    #[test]
    fn refuses_frames_out_of_place() {
        let outcome = |parts: &[Vec<u8>]| receive(&parts.concat(), 3).0.unwrap_err();
        assert!(outcome(&[frame(Opcode::Continuation, true, b"x")]).contains("no message"));
        let begun = frame(Opcode::Binary, false, b"x");
        assert!(outcome(&[begun, frame(Opcode::Text, true, b"x")]).contains("within a message"));
        assert!(outcome(&[vec![0x82, 1, b'x']]).contains("without a mask"));
        assert!(outcome(&[frame(Opcode::Close, true, b"x")]).contains("one byte"));
        let mut server = IncomingFrames::new(false);
        let masked = frame(Opcode::Binary, true, b"x");
        let outcome = server.receive(&masked, &mut ReadBuffer::new(0, 100));
        assert!(outcome.unwrap_err().contains("with a mask"));
    }

    #[test]
    fn only_headers_and_control_frames_are_partial() {
        let bytes = frame(Opcode::Binary, true, &[0; 300]);
        assert!(receive(&bytes[..1], 1).2.partial().is_some());
        assert!(receive(&bytes[..20], 20).2.partial().is_none(), "its payload is passed on");
        let ping = frame(Opcode::Ping, true, b"123");
        let partial = receive(&ping[..8], 8).2.partial();
        assert!(partial.is_some());
        let next = receive(&[&ping[..], &ping[..8]].concat(), 1).2.partial();
        assert!(next.is_some() && next != partial);
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_means_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            size in 1..40usize,
        ) {
            let whole = receive(&bytes, bytes.len().max(1));
            let cut = receive(&bytes, size);
            assert_eq!((cut.0, cut.1), (whole.0, whole.1));
        }
    }
}
