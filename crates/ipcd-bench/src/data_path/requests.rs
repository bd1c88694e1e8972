//! Round trips of requests. The lean clients do no more than necessary: they write whole frames to a
//! bare socket and read them from it.
//!
//! They wait in poll(2), which is a call more, and yet faster: the kernel also wakes a read that
//! waits, to no purpose, when the other end takes what the socket has sent.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use ipcd_proto::{
    DecodedFrame, DirectAddress, Frame, FrameKind, FrameWriter, HEADER_BYTES, Header, decode,
    frame_len,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::contender::{Via, WorkerMode, start_bare, start_daemon};
use super::line::ClientLine;
use super::load::{LARGEST, SUBJECT};
use super::yardstick::{self, REPLIES};
use super::{LIMIT, RoundContext, named};
use crate::children::{ProcessTeam, WATCHDOG};
use crate::daemon::SubjectLane;
use crate::end::{Lane, LaneSide, MessageEnd};
use crate::histogram::{self, LatencySummary};
use crate::job::MeasureJob;
use crate::message::{LEAST, MessageHeader, MessageKind};
use crate::plan::{MeasureMode, RunExtent};
use crate::runner::{far_end, near_end};

/// The warm-up of a round.
const WARMUP: Duration = Duration::from_millis(20);

/// A server of round trips, and its clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RequestServer {
    /// The yardstick, lean clients.
    Yardstick,
    /// The daemon, the same lean clients.
    Lean,
    /// The daemon, its client library.
    Library,
}

impl RequestServer {
    pub(super) const ALL: [Self; 3] = [Self::Yardstick, Self::Lean, Self::Library];
}

/// The task of both ends of a round.
pub(super) fn job(payload: usize, count: u64) -> MeasureJob {
    MeasureJob::new(payload, RunExtent::Count(count), WARMUP)
}

/// One round of requests, one after the other, on a fresh server.
pub(super) fn round(
    bench: &RoundContext,
    server: RequestServer,
    via: Via,
    job: &MeasureJob,
) -> io::Result<LatencySummary> {
    let failed =
        |error| named(error, &format!("round trip, {server:?} over {via:?} with {} B", job.size));
    if !matches!(via, Via::Unix | Via::Tcp) {
        let why = "round trips are measured with --via unix and tcp only";
        return Err(failed(io::Error::other(why)));
    }
    if job.size < LEAST {
        return Err(failed(io::Error::other(format!(
            "the payload of a request has {LEAST} bytes or more"
        ))));
    }
    let took = match server {
        RequestServer::Yardstick => through_yardstick(bench, via, job),
        RequestServer::Lean => through_daemon(bench, via, job),
        RequestServer::Library => with_library(bench, via, job),
    };
    took.map_err(failed)
}

fn through_yardstick(
    bench: &RoundContext,
    via: Via,
    job: &MeasureJob,
) -> io::Result<LatencySummary> {
    let stage = start_bare(c"bench-yardstick", via, 1, yardstick::exchange)?;
    let (ClientLine::Stream(requester), [ClientLine::Stream(responder)]) =
        (&stage.publisher, &stage.subscribers[..])
    else {
        unreachable!("there is one subscriber, and both are connected by streams");
    };
    let (requester, responder) = (requester.try_clone()?, responder.try_clone()?);
    exchange(bench, Box::new(LeanRequestLane { requester, responder, peer: None }), job)
}

fn through_daemon(bench: &RoundContext, via: Via, job: &MeasureJob) -> io::Result<LatencySummary> {
    let daemon = start_daemon(bench, via, WorkerMode::Pool(1))?;
    let requester = daemon.session(via.scheme())?;
    let mut responder = daemon.session(via.scheme())?;
    responder.subscribe([SUBJECT])?;
    let peer = Some(requester.peer());
    let (requester, responder) = (requester.stream()?.0, responder.stream()?.0);
    let (requester, responder) = (requester.try_clone()?, responder.try_clone()?);
    exchange(bench, Box::new(LeanRequestLane { requester, responder, peer }), job)
}

fn with_library(bench: &RoundContext, via: Via, job: &MeasureJob) -> io::Result<LatencySummary> {
    let daemon = start_daemon(bench, via, WorkerMode::Pool(1))?;
    let name = SUBJECT.to_owned();
    let daemon = daemon.via(via.scheme())?;
    let lane = SubjectLane { daemon, name, is_two_way: true, are_requests: true };
    exchange(bench, Box::new(lane), job)
}

/// Runs a requester and a responder as `ipcctl bench req` does.
fn exchange(
    bench: &RoundContext,
    lane: Box<dyn Lane>,
    job: &MeasureJob,
) -> io::Result<LatencySummary> {
    let (mut team, mut lanes) = (ProcessTeam::default(), [lane]);
    let mode = MeasureMode::Req;
    team.add(c"bench-responder", None, |start| far_end(mode, &mut *lanes[0], job, start))?;
    team.add(c"bench-requester", None, |start| near_end(mode, &mut lanes, job, start))?;
    let found = team.run(&bench.interrupts, WATCHDOG, LIMIT)?;
    let [answered, asked] = &found[..] else { unreachable!("two processes were started") };
    let counts = &asked.counts;
    if counts.received != counts.sent || !counts.is_clean() || answered.counts.corrupted > 0 {
        return Err(io::Error::other(format!("not every request got its reply: {counts:?}")));
    }
    let latency = histogram::from_text(asked.latency.as_deref().unwrap_or_default())?;
    LatencySummary::of(&latency).ok_or_else(|| io::Error::other("no request was counted"))
}

/// The sockets of a requester and a responder, both connected to a server.
struct LeanRequestLane {
    requester: File,
    responder: File,
    /// The requester's id, if the server gives each reply an address of its own.
    peer: Option<u64>,
}

impl Lane for LeanRequestLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let socket = if side == LaneSide::Near { &self.requester } else { &self.responder };
        let (socket, input) = (socket.try_clone()?, vec![0; LARGEST]);
        let (output, reply) = (Vec::new(), REPLIES.to_owned());
        let request =
            LeanRequestEnd { socket, input, output, side, peer: self.peer, reply, number: 0 };
        Ok(Box::new(request))
    }
}

/// One end: the near one asks, the far one answers the request that it has read last.
struct LeanRequestEnd {
    socket: File,
    input: Vec<u8>,
    output: Vec<u8>,
    side: LaneSide,
    peer: Option<u64>,
    /// The subject of the reply to the last request.
    reply: String,
    number: u64,
}

impl MessageEnd for LeanRequestEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.number += 1;
        let is_end = MessageHeader::read(message).is_some_and(|it| it.kind == MessageKind::End);
        let is_request = self.side == LaneSide::Near && !is_end;
        // The end message has no reply, so it is not a request.
        let mut header = Header::new(FrameKind::Message, self.number);
        if is_request {
            (header.request, header.wait) = (true, WATCHDOG.as_secs() as u16);
            if let Some(peer) = self.peer {
                let address = DirectAddress { peer, request: Some(self.number) };
                self.reply.clear();
                write!(self.reply, "{address}").expect("a string takes all that is written");
            }
        }
        let (subject, reply) = match self.side {
            LaneSide::Far => (self.reply.as_str(), ""),
            LaneSide::Near if is_end => (SUBJECT, ""),
            LaneSide::Near => (SUBJECT, self.reply.as_str()),
        };
        self.output.clear();
        FrameWriter(&mut self.output).write(&Frame {
            header,
            subject: subject.as_bytes(),
            reply: reply.as_bytes(),
            headers: &[],
            payload: message,
        });
        self.socket.write_all(&self.output)
    }

    /// Reads one frame: no further one comes before the next request.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut filled = 0;
        while filled < wanted(&self.input[..filled])? {
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            match self.socket.read(&mut self.input[filled..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let frame = match decode(&self.input[..filled], LARGEST).map_err(io::Error::other)? {
            DecodedFrame::Frame(frame, length) if length == filled => frame,
            _ => return Err(io::Error::other("more bytes than one frame")),
        };
        let is_expected = match self.side {
            LaneSide::Near => frame.subject == self.reply.as_bytes(),
            LaneSide::Far => frame.subject == SUBJECT.as_bytes(),
        };
        if frame.header.kind != FrameKind::Message || !is_expected {
            let subject = frame.subject.escape_ascii();
            let why = format!("unexpected frame {:?} on {subject}", frame.header);
            return Err(io::Error::other(why));
        }
        if self.side == LaneSide::Far {
            self.reply.clear();
            self.reply += &String::from_utf8_lossy(frame.reply);
        }
        take(frame.payload);
        Ok(1)
    }
}

/// Bytes of the frame, as far as is known.
fn wanted(filled: &[u8]) -> io::Result<usize> {
    let length = frame_len(filled).unwrap_or(HEADER_BYTES);
    let is_sound = (HEADER_BYTES..=LARGEST).contains(&length);
    is_sound.then_some(length).ok_or_else(|| io::Error::other("not a frame"))
}
