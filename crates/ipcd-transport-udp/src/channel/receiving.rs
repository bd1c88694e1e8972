//! Input on the socket: data in turn, and the peer's control traffic.

use std::os::fd::AsRawFd;
use std::time::Instant;

use ipcd_transport::{Error, ReadBuffer, ReadOutcome, Result, is_of_the_network};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::{ROOM, UdpChannel, gone};
use crate::credit::HeldDatagrams;
use crate::datagram::{ConnectRequest, DATA_HEADER, Datagram, StreamPlace};

/// Datagrams received in one call, and bytes appended after which it ends.
const READ_DATAGRAMS: usize = 16;
const READ_BYTES: usize = 128 * 1024;

impl UdpChannel {
    /// Receives within the budget. Says what was appended, if anything came at all, and whether
    /// the socket was left empty.
    pub(super) fn receive_into(&mut self, into: &mut ReadBuffer) -> Result<(Option<usize>, bool)> {
        let mut appended = self.deliver_held(into)?;
        for _ in 0..READ_DATAGRAMS {
            if appended.is_some_and(|bytes| bytes >= READ_BYTES) {
                return Ok((appended, false));
            }
            // One byte more than the largest datagram: one that fills it was cut, and is dropped.
            let room = &mut into.spare(ROOM)[..ROOM];
            let Some(count) = self.receive(room)? else { return Ok((appended, true)) };
            let bytes = appended.get_or_insert(0);
            if let Some((place, _)) = self.handle(&room[..count]) {
                *bytes += self.joiner.accept_spare(DATA_HEADER..count, into)?;
                self.session.receiving.consume(place.position);
            }
            // The end is reported by the next read, so that these bytes are seen before it.
            if self.session.ended && *bytes > 0 {
                return Ok((appended, false));
            }
        }
        Ok((appended, false))
    }

    fn deliver_held(&mut self, into: &mut ReadBuffer) -> Result<Option<usize>> {
        let mut appended = None;
        while let Some(held) = self.session.receiving.take_held() {
            *appended.get_or_insert(0) += self.joiner.accept(&held.record, into)?;
            self.session.receiving.consume(held.position);
        }
        Ok(appended)
    }

    /// The outcome of a read that appended nothing and left the socket empty.
    pub(super) fn end_or(&mut self, otherwise: ReadOutcome) -> Result<ReadOutcome> {
        if self.session.ended {
            if std::mem::take(&mut self.acknowledge) {
                self.send(Datagram::ByeAck { id: self.session.id });
            }
            return Ok(ReadOutcome::Closed);
        }
        if self.gone { Err(gone()) } else { Ok(otherwise) }
    }

    /// Handles what is there, and keeps data for when it is wanted.
    pub(super) fn hold_what_comes(&mut self) -> Result<()> {
        let mut room = [0; ROOM];
        for _ in 0..READ_DATAGRAMS {
            let Some(count) = self.receive(&mut room)? else { break };
            if let Some((place, record)) = self.handle(&room[..count]) {
                let held = HeldDatagrams { position: place.position, record: record.to_vec() };
                self.session.receiving.hold(held);
            }
        }
        Ok(())
    }

    pub(super) fn report(&mut self) {
        let receiving = &mut self.session.receiving;
        receiving.reported = receiving.consumed;
        let (position, received, lost) = (receiving.consumed, receiving.received, receiving.lost);
        self.send(Datagram::Credit { id: self.session.id, position, received, lost });
    }

    /// The next datagram, or `None` when there is none now.
    fn receive(&mut self, room: &mut [u8]) -> Result<Option<usize>> {
        for _ in 0..READ_DATAGRAMS {
            let flags = MsgFlags::MSG_DONTWAIT;
            match recv(self.socket().as_raw_fd(), room, flags) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                // The kernel reports this before what it has received, which is still there.
                Err(error) if is_of_the_network(error) => self.heed(error),
                Err(error) => return Err(Error::system("receive", error)),
            }
        }
        Ok(None)
    }

    /// Handles a datagram, and returns it if it is data in turn.
    fn handle<'a>(&mut self, bytes: &'a [u8]) -> Option<(StreamPlace, &'a [u8])> {
        let datagram = Datagram::decode(bytes).filter(|_| bytes.len() < ROOM)?;
        match datagram.id() {
            // Only a datagram with our id is a sign of life: the address may be forged.
            Some(id) if id == self.session.id => self.live.heard(Instant::now()),
            Some(_) => return None,
            None => self.handshake(&datagram),
        }
        match datagram {
            Datagram::Data { place, record, .. } if !self.session.ended => {
                return self.session.receiving.admit(place.sequence).then_some((place, record));
            }
            Datagram::Credit { position, lost, .. } => self.session.sending.credit(position, lost),
            Datagram::Probe { position, .. } => {
                self.session.receiving.passed(position);
                self.report();
            }
            Datagram::Ping { id } => self.send(Datagram::Pong { id }),
            Datagram::Bye { sequence, .. } => {
                self.session.receiving.skip_to(sequence);
                (self.session.ended, self.acknowledge) = (true, true);
            }
            Datagram::ByeAck { .. } => self.bye = None,
            Datagram::Gone { .. } => self.gone = true,
            _ => {}
        }
        None
    }

    /// A repeated CONNECT is answered again. Another client's may come from a new one on the old one's
    /// port, which gets through to the listener only when this channel is gone, or from a forger who
    /// would like it to be. It is told by what a new client answers to a PING: GONE, with an id that
    /// no forger knows.
    fn handshake(&mut self, datagram: &Datagram<'_>) {
        let now = Instant::now();
        match datagram {
            Datagram::Connect(request) if request.nonce == self.session.nonce => {
                self.live.heard(now);
                self.send(self.session.acceptance());
            }
            Datagram::Init { nonce } | Datagram::Connect(ConnectRequest { nonce, .. })
                if *nonce != self.session.nonce && self.live.may_ask(now) =>
            {
                self.send(Datagram::Ping { id: self.session.id });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ipcd_transport::{Channel, WriteOutcome};

    use super::super::tests::{ID, NONCE, SECOND, WINDOW, buffer, channel, data, heard, say};
    use ipcd_transport::ChannelTraffic as _;

    use super::*;
    use crate::cookie::COOKIE_BYTES;
    use crate::datagram::tests::junk;

    #[test]
    fn hostile_datagrams_do_no_harm() {
        let (mut channel, peer) = channel();
        let mut into = buffer();
        for seed in 0..10_000_u64 {
            let mut bytes = junk(seed, (seed % 61) as usize);
            bytes.splice(0..0, ID.to_le_bytes());
            bytes.insert(0, (seed % 13) as u8);
            peer.send(&bytes).unwrap();
            // An error is a right answer; a panic, or memory that piles up, is not.
            let _ = if seed % 3 == 0 { channel.serve() } else { channel.read(&mut into).map(drop) };
            let _ = channel.write(&[8, 0, 0, 0, 1, 2, 3, 4]);
            let _ = channel.tick(Instant::now());
            while heard(&peer).is_some() {}
            into.clear();
            assert!(into.capacity() < 1 << 20);
            assert!(channel.session.receiving.held().len() < 100);
        }
    }

    #[test]
    fn nothing_is_delivered_late_or_twice_or_by_strangers() {
        let (mut channel, peer) = channel();
        for sequence in [0, 2, 1, 2, 0, 4] {
            say(&peer, data(sequence, &[0, 5, 0, 0, 0, b'0' + sequence as u8]));
        }
        let place = StreamPlace { sequence: 5, position: 6_000 };
        say(&peer, Datagram::Data { id: ID + 1, place, record: &[0, 5, 0, 0, 0, b'!'] });
        peer.send(&[&data(5, &[0]).encode()[..], &[0; ROOM]].concat()).unwrap();
        let mut into = buffer();
        assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::Bytes(15));
        let digits: Vec<u8> = into.filled().iter().copied().filter(u8::is_ascii_digit).collect();
        assert_eq!((digits.as_slice(), channel.lost()), (&b"024"[..], 2));
    }

    #[test]
    fn a_repeated_connect_is_accepted_again() {
        let (mut channel, peer) = channel();
        let cookie = [0; COOKIE_BYTES];
        say(&peer, Datagram::Connect(ConnectRequest { nonce: NONCE, window: 1, cookie }));
        assert_eq!(channel.read(&mut buffer()).unwrap(), ReadOutcome::Bytes(0));
        let accept = Datagram::Accept { nonce: NONCE, id: ID, window: WINDOW };
        assert_eq!(heard(&peer), Some(accept.encode()));
        assert_eq!(channel.check_peer(Instant::now() + 2 * SECOND).map_err(drop), Ok(()));
    }

    #[test]
    fn a_forged_init_does_not_end_the_channel() {
        let (mut channel, peer) = channel();
        say(&peer, Datagram::Init { nonce: 10 });
        channel.serve().unwrap();
        // The peer is busy: it has as long as one that was not doubted.
        channel.tick(Instant::now() + 9 * SECOND).unwrap();
        assert_eq!(channel.write(&[4, 0, 0, 0]).unwrap(), WriteOutcome::Bytes(4));
    }

    /// Here the kernel's word is true, but of a datagram that tells nothing which a forger lacks.
    #[test]
    fn a_closed_port_ends_the_channel_only_if_the_id_is_quoted() {
        let (mut channel, peer) = channel();
        drop(peer);
        for _ in 0..3 {
            channel.socket().send(b"no datagram of this connection").unwrap();
            channel.serve().unwrap();
            assert_eq!(channel.read(&mut buffer()).unwrap(), ReadOutcome::NotReady);
            channel.socket().send(b"nor is this").unwrap();
            channel.send(Datagram::Credit { id: ID + 1, position: 0, received: 0, lost: 0 });
            channel.serve().unwrap();
        }
        assert_eq!(channel.write(&[4, 0, 0, 0]).unwrap(), WriteOutcome::Bytes(4));
        assert!(channel.serve().unwrap_err().is_disconnect());
        assert!(channel.write(&[4, 0, 0, 0]).unwrap_err().is_disconnect());
    }

    #[test]
    fn the_end_is_acknowledged_when_everything_before_it_was_read() {
        let (mut channel, peer) = channel();
        say(&peer, data(0, &[0, 4, 0, 0, 0]));
        channel.serve().unwrap();
        say(&peer, Datagram::Bye { id: ID, sequence: 3 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), None);
        let mut into = buffer();
        assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::Bytes(4));
        assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
        say(&peer, Datagram::Pong { id: ID });
        assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::Closed);
        assert_eq!(heard(&peer), Some(Datagram::ByeAck { id: ID }.encode()));
        assert_eq!((channel.lost(), channel.read(&mut into).unwrap()), (2, ReadOutcome::Closed));
    }

    #[test]
    fn probes_are_answered_at_once_and_what_is_held_stays_unreported() {
        let (mut channel, peer) = channel();
        let credit = |position, received, lost| {
            Some(Datagram::Credit { id: ID, position, received, lost }.encode())
        };
        say(&peer, data(0, &[0, 4, 0, 0, 0]));
        say(&peer, Datagram::Probe { id: ID, position: 3_000 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), credit(0, 1, 0));
        channel.read(&mut buffer()).unwrap();
        say(&peer, Datagram::Probe { id: ID, position: 3_000 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), credit(3_000, 1, 0));
    }

    #[test]
    fn what_came_before_the_peer_died_is_read_first() {
        let (mut channel, peer) = channel();
        for sequence in 0..40 {
            say(&peer, data(sequence, &[0, 4, 0, 0, 0]));
        }
        drop(peer);
        assert_eq!(channel.write(&[4, 0, 0, 0]).unwrap(), WriteOutcome::Bytes(4));
        let mut into = buffer();
        let error = loop {
            match channel.read(&mut into) {
                Ok(ReadOutcome::Bytes(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is_disconnect(), "{error}");
        assert_eq!(into.filled().len(), 40 * 4);
    }
}
