//! Two processes with our transport crates, and no daemon between them.

use std::io;
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Channel, Error, LENGTH_BYTES, Listener, ReadBuffer, ReadOutcome, Transport, WriteOutcome,
    frame_len, poll_until,
};
use nix::poll::PollFlags;

use crate::children::WATCHDOG;
use crate::end::{Lane, LaneSide, MessageEnd, PATIENCE};

/// Bytes that are read at once, if they are there.
const READ: usize = 256 * 1024;
/// Bytes of the largest frame.
const LARGEST: usize = LENGTH_BYTES + (1 << 20);

/// A listener that the far end accepts one channel from.
pub(crate) struct ChannelLane {
    transport: &'static dyn Transport,
    listener: Box<dyn Listener>,
    batch: usize,
}

impl ChannelLane {
    pub(crate) fn listen(scheme: &str, dir: &Path, batch: usize) -> io::Result<Self> {
        let transport = ipcd_transports::find(scheme).map_err(io::Error::other)?;
        let at = transport.default_endpoint(dir).map_err(io::Error::other)?.with_any_port();
        let listener = transport.listen(&at).map_err(io::Error::other)?;
        Ok(Self { transport, listener, batch })
    }

    fn accept(&mut self) -> Result<Box<dyn Channel>, Error> {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            if let Some(parts) = self.listener.accept()? {
                return self.transport.adopt(parts);
            }
            if !poll_until(&self.listener.fd(), PollFlags::POLLIN, deadline)? {
                return Err(Error::TimedOut("accept".into()));
            }
        }
    }
}

impl Lane for ChannelLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let opened = match side {
            LaneSide::Far => self.accept(),
            LaneSide::Near => {
                self.transport.connect(self.listener.local(), Instant::now() + WATCHDOG)
            }
        };
        let channel = opened.map_err(io::Error::other)?;
        let input = ReadBuffer::new(READ, LARGEST);
        let is_reliable = self.transport.capabilities().reliable;
        let (output, batch) = (Vec::new(), self.batch);
        Ok(Box::new(ChannelEnd { channel, input, output, batch, is_reliable }))
    }
}

/// Each message is a frame: its length, and itself.
struct ChannelEnd {
    channel: Box<dyn Channel>,
    input: ReadBuffer,
    output: Vec<u8>,
    batch: usize,
    is_reliable: bool,
}

impl MessageEnd for ChannelEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = (LENGTH_BYTES + message.len()) as u32;
        self.output.extend_from_slice(&length.to_le_bytes());
        self.output.extend_from_slice(message);
        if self.output.len() >= self.batch { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.channel.write(&self.output[written..]).map_err(io::Error::other)? {
                WriteOutcome::Bytes(count) => written += count,
                WriteOutcome::NotReady => self.wait(PollFlags::POLLOUT)?,
                WriteOutcome::Nobody => return Err(io::ErrorKind::BrokenPipe.into()),
                WriteOutcome::NoCredit => {
                    self.wait(PollFlags::POLLIN)?;
                    self.channel.serve().map_err(io::Error::other)?;
                }
            }
        }
        self.output.clear();
        Ok(())
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let began = Instant::now();
        loop {
            match self.channel.read(&mut self.input).map_err(io::Error::other)? {
                ReadOutcome::Bytes(0) => {}
                ReadOutcome::Bytes(_) => match self.take_frames(take) {
                    0 => {}
                    count => return Ok(count),
                },
                ReadOutcome::NotReady if !self.is_reliable && began.elapsed() >= PATIENCE => {
                    return Ok(0);
                }
                ReadOutcome::NotReady | ReadOutcome::Boundary => self.wait(PollFlags::POLLIN)?,
                ReadOutcome::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

impl ChannelEnd {
    fn take_frames(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        while let Some(length) = frame_len(self.input.filled()) {
            let Some(frame) = self.input.filled().get(LENGTH_BYTES..length) else {
                break;
            };
            take(frame);
            self.input.consume(length);
            count += 1;
        }
        count
    }

    /// Waits for the descriptor, but no longer than until the transport's own next deadline.
    fn wait(&mut self, events: PollFlags) -> io::Result<()> {
        let now = Instant::now();
        let due = self.channel.tick(now).map_err(io::Error::other)?;
        let deadline = due.into_iter().chain([now + PATIENCE]).min().expect("there is one");
        let waited = match events {
            PollFlags::POLLOUT => poll_until(&self.channel.write_fd(), events, deadline),
            _ => poll_until(&self.channel.read_fd(), events, deadline),
        };
        waited.map(drop).map_err(io::Error::other)
    }
}
