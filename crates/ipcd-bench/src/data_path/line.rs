//! A client's end of a connection: a bare stream, a hop of bare datagrams, or a session with the
//! daemon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use super::datagrams::DatagramHop;
use crate::paced::PacedChannel;
use crate::session::{Session, SessionWire};

/// A connection that messages are written to, or read from.
#[derive(Debug)]
pub(super) enum ClientLine {
    Stream(File),
    Datagrams(File),
    Session(Session),
}

impl ClientLine {
    /// The writer for frames. A write may take a part of them.
    pub(super) fn sink(&mut self) -> io::Result<Box<dyn Write + '_>> {
        match self {
            Self::Stream(file) => Ok(Box::new(&*file)),
            Self::Datagrams(socket) => Ok(Box::new(DatagramHop::new(socket)?)),
            Self::Session(session) => Ok(match &mut session.wire {
                SessionWire::Stream { writer, .. } => Box::new(&*writer),
                SessionWire::Paced(channel) => Box::new(channel),
            }),
        }
    }

    /// The source of frames.
    pub(super) fn source(&mut self) -> io::Result<LineSource<'_>> {
        match self {
            Self::Stream(file) => Ok(LineSource::Bytes(Box::new(&*file))),
            Self::Datagrams(socket) => Ok(LineSource::Bytes(Box::new(DatagramHop::new(socket)?))),
            Self::Session(session) => Ok(match &mut session.wire {
                SessionWire::Stream { reader, .. } => LineSource::Bytes(Box::new(&*reader)),
                SessionWire::Paced(channel) => LineSource::Channel(channel),
            }),
        }
    }
}

impl AsFd for ClientLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(file) | Self::Datagrams(file) => file.as_fd(),
            Self::Session(session) => session.as_fd(),
        }
    }
}

/// The source that a subscriber reads from.
pub(super) enum LineSource<'a> {
    /// It fills the buffer that it is given.
    Bytes(Box<dyn Read + 'a>),
    /// It has its own buffer.
    Channel(&'a mut PacedChannel),
}
