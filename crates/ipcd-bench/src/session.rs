//! A session with the daemon in bare frames, for clients that do no more than they must.
//!
//! It opens the session and subscribes. What follows is read and written by its owner.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipcd_proto::auth::{Nonce, Token};
use ipcd_proto::control::{
    Answer, Auth, Challenge, Hello, Query, Refusal, Subscribe, Welcome, decode, encode,
};
use ipcd_proto::{
    DecodedFrame, FrameKind, FrameWriter, HEADER_BYTES, Header, VERSION, frame_len, limits,
};
use ipcd_transport::{ChannelParts, Endpoint, EndpointPurpose};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::paced::PacedChannel;

/// The time limit of connecting and of each answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of the largest frame.
const LARGEST_FRAME: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);
/// The nonce need not be random here: no other process listens in on a benchmark.
const NONCE: Nonce = [7; 32];

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) wire: SessionWire,
    peer: u64,
}

/// The connection of a session.
#[derive(Debug)]
pub(crate) enum SessionWire {
    /// A socket, or two ends of pipes; calls on them wait.
    Stream { reader: File, writer: File },
    /// A channel that sets its own pace.
    Paced(PacedChannel),
}

impl Session {
    pub(crate) fn open(endpoint: &Endpoint, token: &Token) -> io::Result<Self> {
        let transport =
            ipcd_transports::of(endpoint, EndpointPurpose::Connect).map_err(io::Error::other)?;
        let channel = transport.connect(endpoint, Instant::now() + PATIENCE);
        let channel = channel.map_err(io::Error::other)?;
        let wire = match transport.capabilities().reliable {
            true => stream(channel.into_parts())?,
            false => SessionWire::Paced(PacedChannel::new(channel)),
        };
        let mut session = Self { wire, peer: 0 };
        let welcome = session.shake_hands(token)?;
        let Welcome { peer, .. } = decode(&welcome).map_err(io::Error::other)?;
        session.peer = peer;
        Ok(session)
    }

    /// Returns the body of WELCOME.
    fn shake_hands(&mut self, token: &Token) -> io::Result<Vec<u8>> {
        let (magic, oldest, newest) = (Hello::MAGIC, VERSION, VERSION);
        let (name, no_echo) = (None, false);
        let hello =
            Hello { magic, oldest, newest, features: 0, nonce: NONCE, name, token: None, no_echo };
        self.send(FrameKind::Hello, &encode(&hello))?;
        let (kind, body) = self.receive()?;
        if kind == FrameKind::Challenge {
            let Challenge { nonce } = decode(&body).map_err(io::Error::other)?;
            let proof = token.peer_proof(&NONCE, &nonce);
            self.send(FrameKind::Auth, &encode(&Auth { proof }))?;
            return self.expect(FrameKind::Welcome);
        }
        expected(FrameKind::Welcome, kind, body)
    }

    /// Subscribes to all of these.
    pub(crate) fn subscribe(
        &mut self,
        filters: impl IntoIterator<Item = impl Into<String>>,
    ) -> io::Result<()> {
        let mut count = 0;
        for (filter, subscription) in filters.into_iter().zip(1..) {
            let (filter, group, overflow, origin) = (filter.into(), None, None, false);
            let body = Subscribe { subscription, filter, group, overflow, origin };
            self.send(FrameKind::Subscribe, &encode(&body))?;
            count += 1;
        }
        (0..count).try_for_each(|_| self.expect(FrameKind::Ack).map(drop))
    }

    /// The processes of the daemon's workers, and how many peers each of them serves.
    pub(crate) fn workers(&mut self) -> io::Result<Vec<(u32, u64)>> {
        self.send(FrameKind::Query, &encode(&Query::Status))?;
        let body = self.expect(FrameKind::Answer)?;
        match decode(&body).map_err(io::Error::other)? {
            Answer::Status(status) => {
                Ok(status.workers.iter().map(|worker| (worker.pid, worker.peers)).collect())
            }
            answer => Err(io::Error::other(format!("{answer:?} instead of the daemon's status"))),
        }
    }

    /// The peer's id.
    pub(crate) fn peer(&self) -> u64 {
        self.peer
    }

    /// The descriptors that its frames are read from and written to, if they travel over a stream.
    pub(crate) fn stream(&self) -> io::Result<(&File, &File)> {
        match &self.wire {
            SessionWire::Stream { reader, writer } => Ok((reader, writer)),
            SessionWire::Paced(channel) => Err(io::Error::other(format!("{channel:?}: no stream"))),
        }
    }

    fn send(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
        match &mut self.wire {
            SessionWire::Stream { writer, .. } => writer.write_all(&bytes),
            SessionWire::Paced(channel) => channel.write_all(&bytes),
        }
    }

    fn expect(&mut self, wanted: FrameKind) -> io::Result<Vec<u8>> {
        let (kind, body) = self.receive()?;
        expected(wanted, kind, body)
    }

    /// Reads exactly one frame: the messages behind it are for the session's owner.
    fn receive(&mut self) -> io::Result<(FrameKind, Vec<u8>)> {
        let mut bytes = vec![0; HEADER_BYTES];
        let from: &mut dyn Read = match &mut self.wire {
            SessionWire::Stream { reader, .. } => reader,
            SessionWire::Paced(channel) => channel,
        };
        from.read_exact(&mut bytes)?;
        let sound = HEADER_BYTES..=LARGEST_FRAME;
        let length = frame_len(&bytes).filter(|length| sound.contains(length));
        bytes.resize(length.ok_or_else(|| io::Error::other("not a frame"))?, 0);
        from.read_exact(&mut bytes[HEADER_BYTES..])?;
        match ipcd_proto::decode(&bytes, LARGEST_FRAME).map_err(io::Error::other)? {
            DecodedFrame::Frame(frame, _) => Ok((frame.header.kind, frame.payload.to_vec())),
            DecodedFrame::Incomplete(_) => unreachable!("all of the frame was read"),
        }
    }
}

impl AsFd for Session {
    /// The descriptor that its frames come from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.wire {
            SessionWire::Stream { reader, .. } => reader.as_fd(),
            SessionWire::Paced(channel) => channel.as_fd(),
        }
    }
}

fn stream(parts: ChannelParts) -> io::Result<SessionWire> {
    let mut descriptors = parts.descriptors.into_iter().map(File::from);
    let reader = descriptors.next().expect("a channel has a descriptor");
    let writer = descriptors.next().map_or_else(|| reader.try_clone(), Ok)?;
    set_blocking(&reader, true)?;
    set_blocking(&writer, true)?;
    let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
    // Pipes have no time limit of reads. There the parent's watchdog ends a process that hangs.
    match setsockopt(&reader, sockopt::ReceiveTimeout, &patience) {
        Ok(()) | Err(Errno::ENOTSOCK) => Ok(SessionWire::Stream { reader, writer }),
        Err(error) => Err(error.into()),
    }
}

/// Makes calls on the descriptor wait, or not.
pub(crate) fn set_blocking(file: &File, is_blocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !is_blocking);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

fn expected(wanted: FrameKind, kind: FrameKind, body: Vec<u8>) -> io::Result<Vec<u8>> {
    match kind {
        kind if kind == wanted => Ok(body),
        FrameKind::Error => {
            let refusal: Refusal = decode(&body).map_err(io::Error::other)?;
            Err(io::Error::other(refusal.message))
        }
        kind => Err(io::Error::other(format!("{kind:?} instead of {wanted:?}"))),
    }
}
