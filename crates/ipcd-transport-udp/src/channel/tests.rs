//! Two channels and what lies between them, without a network.

use std::time::Duration;

use super::*;
use crate::cookie::COOKIE_BYTES;
use crate::datagram::Request;
use crate::datagram::tests::junk;

const ID: u64 = 0x1d;
const NONCE: u64 = 5;
const WINDOW: u32 = 50_000;
const SECOND: Duration = Duration::from_secs(1);

/// A channel, and the bare socket of its peer.
fn channel() -> (UdpChannel, UdpSocket) {
    let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let session = Session::new(ID, NONCE, WINDOW, WINDOW);
    (UdpChannel::new(ours, Identity::default(), session).unwrap(), theirs)
}

fn say(peer: &UdpSocket, datagram: Datagram<'_>) {
    peer.send(&datagram.encode()).unwrap();
}

fn data(sequence: u32, record: &[u8]) -> Datagram<'_> {
    let position = 1_000 * u64::from(sequence + 1);
    Datagram::Data { id: ID, place: Place { sequence, position }, record }
}

/// What the peer gets; on the loopback it is there when the call that sent it returns.
fn heard(peer: &UdpSocket) -> Option<Vec<u8>> {
    let mut bytes = vec![0; ROOM];
    let count = peer.recv(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

fn buffer() -> ReadBuffer {
    ReadBuffer::new(4_096, 1 << 20)
}

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
    let place = Place { sequence: 5, position: 6_000 };
    say(&peer, Datagram::Data { id: ID + 1, place, record: &[0, 5, 0, 0, 0, b'!'] });
    peer.send(&[&data(5, &[0]).encode()[..], &[0; ROOM]].concat()).unwrap();
    let mut into = buffer();
    assert_eq!(channel.read(&mut into).unwrap(), Read::Bytes(15));
    let digits: Vec<u8> = into.filled().iter().copied().filter(u8::is_ascii_digit).collect();
    assert_eq!((digits.as_slice(), channel.lost()), (&b"024"[..], 2));
}

#[test]
fn a_repeated_connect_is_accepted_again() {
    let (mut channel, peer) = channel();
    let cookie = [0; COOKIE_BYTES];
    say(&peer, Datagram::Connect(Request { nonce: NONCE, window: 1, cookie }));
    assert_eq!(channel.read(&mut buffer()).unwrap(), Read::Bytes(0));
    let accept = Datagram::Accept { nonce: NONCE, id: ID, window: WINDOW };
    assert_eq!(heard(&peer), Some(accept.encode()));
    assert_eq!(channel.check_peer(Instant::now() + 2 * SECOND).map_err(drop), Ok(()));
}

#[test]
fn a_new_client_on_the_old_ones_port_ends_the_channel() {
    let (mut channel, peer) = channel();
    for nonce in 10..20 {
        say(&peer, Datagram::Init { nonce });
    }
    channel.serve().unwrap();
    assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
    assert_eq!(heard(&peer), None, "more than one answer to a forger");
    let due = channel.tick(Instant::now()).unwrap().unwrap();
    let error = channel.tick(due).unwrap_err();
    assert!(error.is_disconnect(), "{error}");
    drop(channel);
    assert_eq!(heard(&peer), None);
}

#[test]
fn a_forged_init_does_not_end_the_channel() {
    let (mut channel, peer) = channel();
    say(&peer, Datagram::Init { nonce: 10 });
    channel.serve().unwrap();
    say(&peer, Datagram::Pong { id: ID });
    channel.serve().unwrap();
    channel.tick(Instant::now() + 2 * SECOND).unwrap();
}

#[test]
fn a_silent_peer_is_pinged_and_given_up() {
    let (mut channel, peer) = channel();
    let mut now = Instant::now();
    for _ in 0..2 {
        let due = channel.tick(now).unwrap().unwrap();
        assert!(due - now > 5 * SECOND, "a pointless wake-up");
        now = due;
        channel.tick(now).unwrap();
        assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
    }
    let error = channel.tick(now + 10 * SECOND).unwrap_err();
    assert!(error.is_disconnect(), "{error}");
    assert!(channel.write(&[4, 0, 0, 0]).unwrap_err().is_disconnect());
}

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

#[test]
fn the_end_is_acknowledged_when_everything_before_it_was_read() {
    let (mut channel, peer) = channel();
    say(&peer, data(0, &[0, 4, 0, 0, 0]));
    channel.serve().unwrap();
    say(&peer, Datagram::Bye { id: ID, sequence: 3 });
    channel.serve().unwrap();
    assert_eq!(heard(&peer), None);
    let mut into = buffer();
    assert_eq!(channel.read(&mut into).unwrap(), Read::Bytes(4));
    assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
    say(&peer, Datagram::Pong { id: ID });
    assert_eq!(channel.read(&mut into).unwrap(), Read::Closed);
    assert_eq!(heard(&peer), Some(Datagram::ByeAck { id: ID }.encode()));
    assert_eq!((channel.lost(), channel.read(&mut into).unwrap()), (2, Read::Closed));
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
    assert_eq!(channel.write(&[4, 0, 0, 0]).unwrap(), Wrote::Bytes(4));
    let mut into = buffer();
    let error = loop {
        match channel.read(&mut into) {
            Ok(Read::Bytes(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.is_disconnect(), "{error}");
    assert_eq!(into.filled().len(), 40 * 4);
}

#[test]
fn garbage_is_not_adopted() {
    let state = Session::new(1, 2, 3, 4).encode();
    let socket = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let file = || std::fs::File::open("/dev/null").unwrap().into();
    let parts = |descriptors, state: &[u8]| ChannelParts {
        descriptors,
        identity: Identity::default(),
        state: state.to_vec(),
    };
    assert!(UdpChannel::adopt(parts(vec![], &state)).is_err());
    assert!(UdpChannel::adopt(parts(vec![file()], &state)).is_err());
    assert!(UdpChannel::adopt(parts(vec![socket()], &state)).is_err(), "not connected");
    assert!(UdpChannel::adopt(parts(vec![socket(), socket()], &state)).is_err());
    let (channel, _peer) = channel();
    let ours = Channel::into_parts(Box::new(channel));
    assert!(UdpChannel::adopt(ChannelParts { state: junk(1, 100), ..ours }).is_err());
}
