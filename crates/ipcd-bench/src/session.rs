//! A session with the daemon, opened with bare frames: what is left of it is a socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Instant;

use ipcd_proto::auth::{Nonce, Token};
use ipcd_proto::control::{
    Answer, Auth, Challenge, Hello, Query, Refusal, Subscribe, Welcome, decode, encode,
};
use ipcd_proto::{Decoded, FrameWriter, HEADER_BYTES, Header, Kind, VERSION, frame_len};
use ipcd_transport::{ChannelParts, Endpoint, EndpointPurpose};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::line::{Line, Paced};
use crate::load::LARGEST;
use crate::process::WATCHDOG;
use crate::server::set_blocking;

/// The nonce need not be random here: nobody listens in on a benchmark.
const NONCE: Nonce = [7; 32];

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    wire: Wire,
    peer: u64,
}

#[derive(Debug)]
enum Wire {
    /// A socket, or two ends of pipes.
    Stream { reader: File, writer: File },
    /// A channel with packets and a pace of its own, until its load is begun.
    Channel { endpoint: Endpoint, paced: Option<Paced> },
}

impl Session {
    pub(crate) fn open(endpoint: &Endpoint, token: &Token) -> io::Result<Self> {
        let transport =
            ipcd_transports::of(endpoint, EndpointPurpose::Connect).map_err(io::Error::other)?;
        let channel = transport.connect(endpoint, Instant::now() + WATCHDOG);
        let channel = channel.map_err(io::Error::other)?;
        let wire = match transport.capabilities().reliable {
            true => stream(channel.into_parts())?,
            false => {
                let paced = Some(Paced::new(channel));
                Wire::Channel { endpoint: endpoint.clone(), paced }
            }
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
        self.send(Kind::Hello, &encode(&hello))?;
        let (kind, body) = self.receive()?;
        if kind == Kind::Challenge {
            let Challenge { nonce } = decode(&body).map_err(io::Error::other)?;
            let proof = token.peer_proof(&NONCE, &nonce);
            self.send(Kind::Auth, &encode(&Auth { proof }))?;
            return self.expect(Kind::Welcome);
        }
        expected(Kind::Welcome, kind, body)
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
            self.send(Kind::Subscribe, &encode(&body))?;
            count += 1;
        }
        (0..count).try_for_each(|_| self.expect(Kind::Ack).map(drop))
    }

    /// The processes of the daemon's workers, each of which serves as many of its peers.
    pub(crate) fn workers(&mut self, peers_each: u64) -> io::Result<Vec<u32>> {
        self.send(Kind::Query, &encode(&Query::Status))?;
        let body = self.expect(Kind::Answer)?;
        match decode(&body).map_err(io::Error::other)? {
            Answer::Status(status) if status.workers.iter().all(|w| w.peers == peers_each) => {
                Ok(status.workers.iter().map(|worker| worker.pid).collect())
            }
            answer => {
                Err(io::Error::other(format!("peers are not where they should be: {answer:?}")))
            }
        }
    }

    /// The peer's id.
    pub(crate) fn peer(&self) -> u64 {
        self.peer
    }

    /// What its messages are written to, if that is a stream.
    pub(crate) fn writer(&self) -> io::Result<File> {
        self.stream().and_then(|(_, writer)| writer.try_clone())
    }

    /// Where its messages come from, if that is a stream.
    pub(crate) fn reader(&self) -> io::Result<File> {
        self.stream().and_then(|(reader, _)| reader.try_clone())
    }

    /// What its messages are written to.
    pub(crate) fn outgoing(&mut self) -> io::Result<Line> {
        match &mut self.wire {
            Wire::Stream { writer, .. } => writer.try_clone().map(Line::Stream),
            Wire::Channel { endpoint, paced } => leave(endpoint, paced),
        }
    }

    /// Where its messages come from.
    pub(crate) fn incoming(&mut self) -> io::Result<Line> {
        match &mut self.wire {
            Wire::Stream { reader, .. } => reader.try_clone().map(Line::Stream),
            Wire::Channel { endpoint, paced } => leave(endpoint, paced),
        }
    }

    fn stream(&self) -> io::Result<(&File, &File)> {
        match &self.wire {
            Wire::Stream { reader, writer } => Ok((reader, writer)),
            Wire::Channel { endpoint, .. } => {
                Err(io::Error::other(format!("{endpoint} is no stream")))
            }
        }
    }

    fn send(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
        match &mut self.wire {
            Wire::Stream { writer, .. } => writer.write_all(&bytes),
            Wire::Channel { paced, .. } => used(paced)?.write_all(&bytes),
        }
    }

    fn expect(&mut self, wanted: Kind) -> io::Result<Vec<u8>> {
        let (kind, body) = self.receive()?;
        expected(wanted, kind, body)
    }

    /// Exactly one frame, so that nothing of the load is read here.
    fn receive(&mut self) -> io::Result<(Kind, Vec<u8>)> {
        let mut bytes = vec![0; HEADER_BYTES];
        let from: &mut dyn Read = match &mut self.wire {
            Wire::Stream { reader, .. } => reader,
            Wire::Channel { paced, .. } => used(paced)?,
        };
        from.read_exact(&mut bytes)?;
        let length = frame_len(&bytes).filter(|length| (HEADER_BYTES..=LARGEST).contains(length));
        bytes.resize(length.ok_or_else(|| io::Error::other("not a frame"))?, 0);
        from.read_exact(&mut bytes[HEADER_BYTES..])?;
        match ipcd_proto::decode(&bytes, LARGEST).map_err(io::Error::other)? {
            Decoded::Frame(frame, _) => Ok((frame.header.kind, frame.payload.to_vec())),
            Decoded::Incomplete(_) => unreachable!("all of the frame was read"),
        }
    }
}

fn stream(parts: ChannelParts) -> io::Result<Wire> {
    let mut descriptors = parts.descriptors.into_iter().map(File::from);
    let reader = descriptors.next().expect("a channel has a descriptor");
    let writer = descriptors.next().map_or_else(|| reader.try_clone(), Ok)?;
    set_blocking(&reader, true)?;
    set_blocking(&writer, true)?;
    let patience = TimeVal::new(WATCHDOG.as_secs() as i64, 0);
    match setsockopt(&reader, sockopt::ReceiveTimeout, &patience) {
        Ok(()) | Err(Errno::ENOTSOCK) => Ok(Wire::Stream { reader, writer }),
        Err(error) => Err(error.into()),
    }
}

fn used(paced: &mut Option<Paced>) -> io::Result<&mut Paced> {
    paced.as_mut().ok_or_else(|| io::Error::other("the channel has been handed to a load"))
}

/// Hands the channel to the load: two that used it would disturb each other's pace.
fn leave(endpoint: &Endpoint, paced: &mut Option<Paced>) -> io::Result<Line> {
    used(paced)?;
    let parts = paced.take().expect("it was there").into_parts();
    Ok(Line::Channel(Box::new((endpoint.clone(), parts))))
}

fn expected(wanted: Kind, kind: Kind, body: Vec<u8>) -> io::Result<Vec<u8>> {
    match kind {
        kind if kind == wanted => Ok(body),
        Kind::Error => {
            let refusal: Refusal = decode(&body).map_err(io::Error::other)?;
            Err(io::Error::other(refusal.message))
        }
        kind => Err(io::Error::other(format!("{kind:?} instead of {wanted:?}"))),
    }
}
