//! The peer's end of a channel, without the transport that made it: two descriptors, on which the
//! test decides about every byte.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use ipcd_client::Endpoint;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use crate::PATIENCE;

/// A connection that a transport has made, taken out of its channel.
#[derive(Debug)]
pub(crate) struct FarEnd {
    input: File,
    /// `None` after it was closed.
    output: Option<File>,
    /// Whether input and output are one socket that keeps records.
    keeps_records: bool,
}

impl FarEnd {
    pub(crate) fn connect(endpoint: &Endpoint) -> Self {
        let transport = ipcd_transports::find(endpoint.scheme()).expect("the transport exists");
        let channel = transport.connect(endpoint, Instant::now() + PATIENCE);
        let parts = channel.unwrap_or_else(|error| panic!("{endpoint}: {error}")).into_parts();
        let mut descriptors = parts.descriptors.into_iter().map(File::from);
        let input = descriptors.next().expect("a channel has a descriptor");
        let output = descriptors.next();
        let keeps_records = output.is_none();
        let output =
            output.unwrap_or_else(|| input.try_clone().expect("a test has a descriptor left"));
        Self { input, output: Some(output), keeps_records }
    }

    /// Writes frames; on a socket that keeps records, as one record of whole frames.
    pub(crate) fn send_frames(&mut self, frames: &[u8]) -> io::Result<()> {
        match self.keeps_records {
            true => self.write_all(&[&[0], frames].concat()),
            false => self.write_all(frames),
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let output = self.output.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        loop {
            match output.write(bytes) {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(output, PollFlags::POLLOUT)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As read(2); without the header of a record, whose frames are whole.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            wait(&self.input, PollFlags::POLLIN)?;
            match self.input.read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(count @ 1..) if self.keeps_records => {
                    assert_eq!(into[0], 0, "a record of whole frames");
                    into.copy_within(1..count, 0);
                    return Ok(count - 1);
                }
                outcome => return outcome,
            }
        }
    }

    /// Shrinks the pipe that it reads to the smallest size, a page.
    pub(crate) fn shrink(&self) -> nix::Result<()> {
        fcntl(&self.input, FcntlArg::F_SETPIPE_SZ(4096)).map(drop)
    }

    pub(crate) fn block(&mut self) -> nix::Result<()> {
        for fd in [Some(&self.input), self.output.as_ref()].into_iter().flatten() {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.output = None;
        if self.keeps_records {
            shutdown(self.input.as_raw_fd(), Shutdown::Write)?;
        }
        Ok(())
    }
}

fn wait(fd: &impl AsFd, events: PollFlags) -> io::Result<()> {
    let timeout = PollTimeout::try_from(PATIENCE).expect("a watchdog's patience fits");
    match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout)? {
        0 => Err(io::Error::from(ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}
