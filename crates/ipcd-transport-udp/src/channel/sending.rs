//! Output: records within the credit, control traffic, and the end.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Instant;

use ipcd_transport::{Error, Result, SplitRecord, WriteOutcome, is_of_the_network};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::uio::writev;

use super::{UdpChannel, gone};
use crate::credit::cost;
use crate::datagram::{DATA_HEADER, Datagram, data_header};

/// The number of times that BYE is sent until it is acknowledged.
const BYES: u32 = 5;

impl UdpChannel {
    /// Sends one record, or says why not.
    pub(super) fn send_record(
        &mut self,
        record: &SplitRecord,
        frames: &[u8],
    ) -> Result<Option<WriteOutcome>> {
        let cost = cost(DATA_HEADER + record.header().len() + frames.len());
        // Credit is taken before the write: a datagram beyond it could overrun the receiver.
        let Some(place) = self.session.sending.next(cost) else {
            self.session.sending.lacks(Instant::now());
            return Ok(Some(WriteOutcome::NoCredit));
        };
        let header = data_header(self.session.id, place);
        let parts = [&header, record.header(), frames].map(IoSlice::new);
        // A write is a datagram, and the socket is non-blocking. sendmsg(2) would do as well, but a
        // sandbox may forbid it, because it can choose another receiver.
        let sent = match writev(self.socket(), &parts) {
            // That speaks of an earlier datagram; this one was not sent (udp(7)).
            Err(error) if is_of_the_network(error) => {
                self.heed(error);
                if self.gone {
                    return Err(gone());
                }
                writev(self.socket(), &parts)
            }
            sent => sent,
        };
        match sent {
            Ok(_) => {
                self.session.sending.sent(place);
                Ok(None)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Some(WriteOutcome::NotReady)),
            // No error: datagrams before this one may have been sent, and would be sent again.
            Err(Errno::ENOMEM | Errno::ENOBUFS) => {
                self.lacks_memory = true;
                Ok(Some(WriteOutcome::NotReady))
            }
            // As lost as on the way. How long that may last is for the liveness to say.
            Err(error) if is_of_the_network(error) => {
                self.session.sending.sent(place);
                Ok(None)
            }
            Err(error) => Err(Error::system("send", error)),
        }
    }

    /// Sends control traffic, which may be lost like everything else. Who reads learns that the
    /// peer is gone.
    pub(super) fn send(&mut self, datagram: Datagram<'_>) {
        let bytes = datagram.encode();
        let send = |socket: &UdpSocket| {
            send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
        };
        if let Err(error) = send(self.socket())
            && error != Errno::EAGAIN
        {
            self.heed(error);
            // The error speaks of an earlier datagram, and would have woken the reader: sending again
            // renews it.
            let _ = send(self.socket());
        }
    }

    /// Says BYE twice in a row. A reader that finds one behind data stops there, and the other keeps
    /// its socket readable, so that it is called again to learn of the end.
    pub(super) fn say_bye(&mut self) {
        let (id, sequence) = (self.session.id, self.session.sending.sequence);
        self.send(Datagram::Bye { id, sequence });
        self.send(Datagram::Bye { id, sequence });
    }

    pub(super) fn repeat_bye(&mut self, now: Instant) {
        let Some((said, backoff)) = self.bye.as_mut().filter(|(_, backoff)| now >= backoff.due)
        else {
            return;
        };
        *said += 1;
        backoff.again(now);
        if *said >= BYES {
            self.bye = None;
        }
        self.say_bye();
    }
}

#[cfg(test)]
mod tests {
    use ipcd_transport::Channel;

    use super::super::tests::{ID, SECOND, channel, heard, say};
    use ipcd_transport::ChannelTraffic as _;

    use super::*;

    #[test]
    fn bye_is_said_until_it_is_acknowledged() {
        let bye = Datagram::Bye { id: ID, sequence: 0 }.encode();
        for acknowledged_after in [1, 3, u32::MAX] {
            let (mut channel, peer) = channel();
            channel.finish().unwrap();
            let mut rounds = 0;
            let mut now = Instant::now();
            while heard(&peer).is_some_and(|bytes| bytes == bye) {
                assert_eq!(heard(&peer).as_deref(), Some(&bye[..]));
                rounds += 1;
                if rounds == acknowledged_after {
                    say(&peer, Datagram::ByeAck { id: ID });
                    channel.serve().unwrap();
                }
                now += SECOND;
                channel.tick(now).unwrap();
            }
            assert_eq!(rounds, acknowledged_after.min(BYES));
            assert!(channel.write(&[4, 0, 0, 0]).is_err());
        }
    }
}
