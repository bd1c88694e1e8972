//! SignalLane as a ping-pong, signal(7): they wake, and carry nothing.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::end::{Lane, LaneSide, MessageEnd};
use crate::message::{MessageHeader, MessageKind, MessageWriter, foreign_message};

const MESSAGE: Signal = Signal::SIGUSR1;
const END: Signal = Signal::SIGUSR2;

/// A socket pair over which the two processes tell each other their numbers.
pub(super) struct SignalLane {
    near: UnixStream,
    far: UnixStream,
    size: usize,
}

impl SignalLane {
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        Ok(Self { near, far, size })
    }
}

impl Lane for SignalLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        // Before the other can know where to send one.
        let mut signals = SigSet::empty();
        signals.add(MESSAGE);
        signals.add(END);
        signals.thread_block()?;
        let socket = if side == LaneSide::Near { &mut self.near } else { &mut self.far };
        socket.write_all(&std::process::id().to_le_bytes())?;
        let mut other = [0; 4];
        socket.read_exact(&mut other)?;
        let other = Pid::from_raw(u32::from_le_bytes(other) as i32);
        let (writer, sent) = (MessageWriter::new(self.size, b"", false), None);
        Ok(Box::new(SignalEnd { other, signals, writer, sent, came: 0 }))
    }
}

/// A signal carries no message. The near end takes the one that it has sent last, and the far end
/// numbers the signals.
struct SignalEnd {
    other: Pid,
    signals: SigSet,
    writer: MessageWriter,
    sent: Option<MessageHeader>,
    came: u64,
}

impl MessageEnd for SignalEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let header = MessageHeader::read(message).ok_or_else(foreign_message)?;
        self.sent = Some(header);
        kill(self.other, if header.kind == MessageKind::End { END } else { MESSAGE })?;
        Ok(())
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let kind =
            if self.signals.wait()? == END { MessageKind::End } else { MessageKind::Counted };
        let numbered = MessageHeader { kind, number: self.came, intended: 0, sent: 0 };
        self.came += 1;
        take(self.writer.write(self.sent.filter(|_| kind != MessageKind::End).unwrap_or(numbered)));
        Ok(1)
    }
}
