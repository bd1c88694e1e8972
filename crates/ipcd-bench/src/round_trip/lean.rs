//! Clients that do no more than they must: whole frames, written to a bare socket and read from it.
//!
//! They wait in poll(2), which is a call more, and yet faster: a read that waits is also woken,
//! to no purpose, when the other end takes what the socket has sent.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use ipcd_proto::{
    Address, Decoded, Frame, FrameWriter, HEADER_BYTES, Header, Kind, decode, frame_len,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::load::{LARGEST, SUBJECT};
use crate::process::WATCHDOG;
use crate::yardstick::REPLIES;

/// Sends requests on a socket.
pub(super) struct Requester<'a> {
    incoming: Incoming<'a>,
    output: Vec<u8>,
    /// The id of the peer, if the server gives replies an address each.
    peer: Option<u64>,
    /// Where the reply to the last request goes.
    reply: String,
    number: u64,
}

impl<'a> Requester<'a> {
    pub(super) fn new(socket: &'a File, peer: Option<u64>) -> Self {
        let incoming = Incoming::new(socket);
        Self { incoming, output: Vec::new(), peer, reply: REPLIES.into(), number: 0 }
    }
}

impl super::Requester for Requester<'_> {
    fn ask(&mut self, payload: &[u8]) -> io::Result<()> {
        self.number += 1;
        if let Some(peer) = self.peer {
            let address = Address { peer, request: Some(self.number) };
            self.reply.clear();
            write!(self.reply, "{address}").expect("a string takes all that is written");
        }
        let wait = WATCHDOG.as_secs() as u16;
        let header = Header { request: true, wait, ..Header::new(Kind::Message, self.number) };
        let (subject, reply) = (SUBJECT.as_bytes(), self.reply.as_bytes());
        send(
            self.incoming.socket,
            &mut self.output,
            &Frame { header, subject, reply, headers: &[], payload },
        )?;
        let frame = self.incoming.receive()?;
        if frame.header.kind != Kind::Message || frame.subject != self.reply.as_bytes() {
            return Err(unexpected(&frame));
        }
        Ok(())
    }

    fn reply(&self) -> &[u8] {
        self.incoming.frame().map_or(&[], |frame| frame.payload)
    }
}

/// Answers requests on a socket.
pub(super) struct Responder<'a> {
    incoming: Incoming<'a>,
    output: Vec<u8>,
    number: u64,
}

impl<'a> Responder<'a> {
    pub(super) fn new(socket: &'a File) -> Self {
        Self { incoming: Incoming::new(socket), output: Vec::new(), number: 0 }
    }
}

impl super::Responder for Responder<'_> {
    fn answer(&mut self) -> io::Result<()> {
        let socket = self.incoming.socket;
        let request = self.incoming.receive()?;
        if request.header.kind != Kind::Message || !request.header.request {
            return Err(unexpected(&request));
        }
        self.number += 1;
        let header = Header::new(Kind::Message, self.number);
        let reply = Frame { header, subject: request.reply, reply: &[], ..request };
        send(socket, &mut self.output, &reply)
    }
}

/// What comes on a socket, frame by frame: it brings none before it is asked for one.
struct Incoming<'a> {
    socket: &'a File,
    bytes: Vec<u8>,
    filled: usize,
}

impl<'a> Incoming<'a> {
    fn new(socket: &'a File) -> Self {
        Self { socket, bytes: vec![0; LARGEST], filled: 0 }
    }

    /// Waits for the next frame; whoever has started the process gives up if none ever comes.
    fn receive(&mut self) -> io::Result<Frame<'_>> {
        self.filled = 0;
        while self.filled < self.wanted()? {
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            match self.socket.read(&mut self.bytes[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled += count,
            }
        }
        self.frame()
    }

    /// Bytes of the frame, as far as is known.
    fn wanted(&self) -> io::Result<usize> {
        let length = frame_len(&self.bytes[..self.filled]).unwrap_or(HEADER_BYTES);
        let is_good = (HEADER_BYTES..=LARGEST).contains(&length);
        is_good.then_some(length).ok_or_else(|| io::Error::other("not a frame"))
    }

    fn frame(&self) -> io::Result<Frame<'_>> {
        match decode(&self.bytes[..self.filled], LARGEST).map_err(io::Error::other)? {
            Decoded::Frame(frame, length) if length == self.filled => Ok(frame),
            _ => Err(io::Error::other("something else than one frame")),
        }
    }
}

fn send(mut socket: &File, output: &mut Vec<u8>, frame: &Frame<'_>) -> io::Result<()> {
    output.clear();
    FrameWriter(output).write(frame);
    socket.write_all(output)
}

fn unexpected(frame: &Frame<'_>) -> io::Error {
    let subject = frame.subject.escape_ascii();
    io::Error::other(format!("a frame that was not expected: {:?}, {subject}", frame.header))
}
