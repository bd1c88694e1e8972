//! Sequenced packets: a reliable, ordered socket that keeps records.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipcd_transport::{
    Channel, ChannelParts, Error, PeerIdentity, PendingReset, ReadBuffer, ReadOutcome,
    RecordJoiner, RecordSplitter, Result, WriteOutcome, end_socket, grow_send_buffer,
    receive_record,
};
use nix::errno::Errno;
use nix::sys::socket::Shutdown;
use nix::sys::uio::writev;

use crate::socket::SEQPACKET;

/// Bytes of the largest record. A record is one allocation in the kernel, so larger ones do not
/// pay, and it must fit the default send buffer (`net.core.wmem_default`, 208 KiB) twice.
const LARGEST_RECORD: usize = 64 * 1024;

/// A channel over a connected seqpacket socket.
pub(crate) struct SeqpacketChannel {
    socket: OwnedFd,
    identity: PeerIdentity,
    splitter: RecordSplitter,
    joiner: RecordJoiner,
    reset: PendingReset,
}

impl SeqpacketChannel {
    pub(crate) fn adopt(parts: ChannelParts) -> Result<Self> {
        let mut descriptors = parts.descriptors.into_iter();
        let (Some(socket), None) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::Protocol("a seqpacket channel has one descriptor".into()));
        };
        Ok(Self {
            socket,
            identity: parts.identity,
            splitter: RecordSplitter::default(),
            joiner: RecordJoiner::default(),
            reset: PendingReset::default(),
        })
    }
}

impl Channel for SeqpacketChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let room = into.spare(LARGEST_RECORD);
        match receive_record(self.socket.as_fd(), room, &mut self.reset) {
            Ok(None) => Ok(ReadOutcome::Closed),
            Ok(Some(count)) => Ok(ReadOutcome::Bytes(self.joiner.accept_spare(0..count, into)?)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(ReadOutcome::NotReady),
            Err(error) => Err(Error::system("receive", error)),
        }
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        let mut written = 0;
        while let Some(record) = self.splitter.next(&frames[written..], LARGEST_RECORD) {
            let body = &frames[written..written + record.taken()];
            let parts = [IoSlice::new(record.header()), IoSlice::new(body)];
            // A write is a record, and the socket is non-blocking. sendmsg(2) would do as well, but
            // a sandbox may forbid it, because it can pass descriptors on.
            match writev(&self.socket, &parts) {
                Ok(_) => {
                    self.splitter.sent(&record);
                    written += record.taken();
                }
                Err(Errno::EAGAIN | Errno::EINTR) if written == 0 => {
                    return Ok(WriteOutcome::NotReady);
                }
                // Earlier records are sent: they are counted, and the rest is offered again.
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(error) => return Err(Error::system("send", error)),
            }
        }
        Ok(WriteOutcome::Bytes(written))
    }

    fn finish(&mut self) -> Result<()> {
        end_socket(&self.socket, Shutdown::Write)
    }

    fn make_room(&mut self, bytes: usize) {
        grow_send_buffer(self.socket.as_fd(), bytes);
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let state = SEQPACKET.to_vec();
        ChannelParts { descriptors: vec![self.socket], identity: self.identity, state }
    }
}
