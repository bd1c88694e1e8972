//! The transport as its users see it: listeners, clients and channels on the loopback.

use std::net::UdpSocket;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use ipcd_transport::{
    Channel, ChannelParts, Endpoint, Error, Listener, PeerAddress, ReadBuffer, ReadOutcome, Result,
    Transport, WriteOutcome, frame_len, poll_until,
};
use ipcd_transport_udp::Udp;
use nix::poll::PollFlags;

type BoxedChannel = Box<dyn Channel>;

/// A third of the receive buffer that a socket gets with Linux's defaults.
const DEFAULT_WINDOW: usize = 2 * 212_992 / 3;

fn watchdog() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn wait(fd: BorrowedFd<'_>, until: Instant) -> bool {
    poll_until(&fd, PollFlags::POLLIN, until).unwrap()
}

fn listen(address: &str) -> Box<dyn Listener> {
    Udp.listen(&Endpoint::new("udp", address)).unwrap()
}

fn accept(listener: &mut dyn Listener) -> ChannelParts {
    let end = watchdog();
    loop {
        if let Some(parts) = listener.accept().unwrap() {
            return parts;
        }
        assert!(wait(listener.fd(), end), "nobody connected");
    }
}

/// A client's channel and the daemon's, connected to this endpoint.
fn connect(listener: &mut dyn Listener, to: &Endpoint) -> (BoxedChannel, BoxedChannel) {
    thread::scope(|scope| {
        let client = scope.spawn(|| Udp.connect(to, watchdog()).unwrap().into_parts());
        let daemon = Udp.adopt(accept(listener)).unwrap();
        (Udp.adopt(client.join().unwrap()).unwrap(), daemon)
    })
}

fn pair() -> (BoxedChannel, BoxedChannel, Box<dyn Listener>) {
    let mut listener = listen("127.0.0.1:0");
    let local = listener.local().clone();
    let (client, daemon) = connect(&mut *listener, &local);
    (client, daemon, listener)
}

fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i as u32 ^ number) as u8).collect();
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    let rest = &mut bytes[4..];
    let shown = rest.len().min(4);
    rest[..shown].copy_from_slice(&number.to_le_bytes()[..shown]);
    bytes
}

fn buffer() -> ReadBuffer {
    ReadBuffer::new(4_096, 2 << 20)
}

/// Waits as a worker does: for input or the channel's deadline.
fn turn(channel: &mut dyn Channel, end: Instant) {
    let due = channel.tick(Instant::now()).unwrap().expect("liveness has a deadline");
    assert!(Instant::now() < end, "the watchdog barked");
    if wait(channel.read_fd(), due.min(end)) {
        channel.serve().unwrap();
    }
}

fn write_all(channel: &mut dyn Channel, mut frames: &[u8]) {
    let end = watchdog();
    while !frames.is_empty() {
        match channel.write(frames).unwrap() {
            WriteOutcome::Bytes(count) => frames = &frames[count..],
            WriteOutcome::NoCredit => turn(channel, end),
            WriteOutcome::Nobody => panic!("only a raw channel reports a missing reader"),
            WriteOutcome::NotReady => {
                assert!(poll_until(&channel.write_fd(), PollFlags::POLLOUT, end).unwrap());
            }
        }
    }
}

/// Writes until there is no credit, and says how much that was.
fn fill(channel: &mut dyn Channel, frames: &[u8]) -> usize {
    let mut written = 0;
    loop {
        match channel.write(&frames[written..]).unwrap() {
            WriteOutcome::Bytes(count) => written += count,
            WriteOutcome::NoCredit => return written,
            WriteOutcome::Nobody => panic!("only a raw channel reports a missing reader"),
            WriteOutcome::NotReady => {}
        }
        assert!(written < frames.len(), "the credit never ended");
    }
}

/// Reads until this many bytes are there.
fn read_bytes(channel: &mut dyn Channel, into: &mut ReadBuffer, count: usize) {
    let end = watchdog();
    loop {
        assert_ne!(channel.read(into).unwrap(), ReadOutcome::Closed);
        if into.filled().len() >= count {
            return;
        }
        assert!(wait(channel.read_fd(), end), "{} of {count} bytes came", into.filled().len());
    }
}

/// Reads, whenever the socket is readable, until the end.
fn read_to_end(channel: &mut dyn Channel, into: &mut ReadBuffer) -> Result<()> {
    let end = watchdog();
    while channel.read(into)? != ReadOutcome::Closed {
        assert!(wait(channel.read_fd(), end), "no end");
    }
    Ok(())
}

/// Ends a channel as a crash does: no BYE.
fn kill(channel: BoxedChannel) {
    drop(channel.into_parts());
}

/// The channel's socket, to take datagrams away from it.
fn socket_of(channel: &dyn Channel) -> UdpSocket {
    channel.read_fd().try_clone_to_owned().unwrap().into()
}

fn lose_everything(socket: &UdpSocket) -> usize {
    std::iter::from_fn(|| socket.recv(&mut [0; 1]).ok()).count()
}

#[test]
fn connects_wherever_it_listens() {
    for (at, host) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("127.0.0.1:0", "localhost"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::1]:0", "[::1]"),
        ("[::]:0", "[::1]"),
        ("[::]:0", "127.0.0.1"),
        // Not the address that the kernel would answer from by itself.
        ("0.0.0.0:0", "127.0.0.5"),
        ("[::]:0", "127.0.0.5"),
    ] {
        let mut listener = match Udp.listen(&Endpoint::new("udp", at)) {
            Ok(listener) => listener,
            Err(_) if at.starts_with('[') => continue, // a machine without IPv6
            Err(error) => panic!("{error}"),
        };
        let (_, port) = listener.local().address().rsplit_once(':').unwrap();
        let to = Endpoint::new("udp", format!("{host}:{port}"));
        let (mut client, mut daemon) = connect(&mut *listener, &to);
        assert_eq!(
            daemon.identity().addr.and_then(PeerAddress::ip).map(|peer| peer.port()),
            socket_of(&*client).local_addr().ok().map(|local| local.port())
        );
        for (from, to) in [(&mut client, 0), (&mut daemon, 1)] {
            write_all(&mut **from, &frame(to, 100));
        }
        for (channel, number) in [(&mut client, 1), (&mut daemon, 0)] {
            let mut into = buffer();
            read_bytes(&mut **channel, &mut into, 100);
            assert_eq!(into.filled(), frame(number, 100), "{at} {host}");
        }
    }
}

#[test]
fn refuses_what_is_no_address() {
    for text in ["udp:x", "udp://host-without-port", "udp://no-such-host.invalid:1"] {
        let endpoint = text.parse().unwrap();
        assert!(Udp.listen(&endpoint).is_err(), "{text}");
        assert!(Udp.connect(&endpoint, watchdog()).is_err(), "{text}");
    }
}

#[test]
fn nobody_there_is_an_error_at_once_and_nobody_answering_at_the_deadline() {
    let listener = listen("127.0.0.1:0");
    let local = listener.local().clone();
    let soon = Instant::now() + Duration::from_millis(120);
    let Err(error) = Udp.connect(&local, soon) else { panic!("nobody accepted") };
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    drop(listener);
    let Err(error) = Udp.connect(&local, watchdog()) else { panic!("nobody listened") };
    assert!(matches!(error, Error::System { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn many_connect_at_once_and_each_has_its_own_channel() {
    const CLIENTS: u32 = 24;
    let mut listener = listen("127.0.0.1:0");
    let local = listener.local().clone();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let local = &local;
            scope.spawn(move || {
                let mut client = Udp.connect(local, watchdog()).unwrap();
                write_all(&mut *client, &frame(number, 64));
                let mut into = buffer();
                read_bytes(&mut *client, &mut into, 64);
                assert_eq!(into.filled(), frame(number, 64));
            });
        }
        let mut open = Vec::new();
        for _ in 0..CLIENTS {
            let mut daemon = Udp.adopt(accept(&mut *listener)).unwrap();
            let mut into = buffer();
            read_bytes(&mut *daemon, &mut into, 64);
            write_all(&mut *daemon, into.filled());
            open.push(daemon);
        }
    });
    assert!(listener.accept().unwrap().is_none());
}

#[test]
fn a_slow_reader_loses_nothing() {
    const FRAMES: u32 = 10_000;
    let len = |number: u32| 4 + (number as usize * 7_919) % 7_997;
    let (client, mut daemon, _listener) = pair();
    // A channel stays in its thread; its parts travel.
    let client = client.into_parts();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut client = Udp.adopt(client).unwrap();
            let mut batch = Vec::new();
            for number in 0..FRAMES {
                batch.extend(frame(number, len(number)));
                if number % 50 == 49 {
                    write_all(&mut *client, &batch);
                    batch.clear();
                }
            }
            client.finish().unwrap();
            // Serves its retries of BYE until the other side ends too.
            while !matches!(client.read(&mut buffer()), Ok(ReadOutcome::Closed)) {
                turn(&mut *client, watchdog());
            }
        });
        let mut into = buffer();
        let mut next = 0;
        loop {
            assert!(wait(daemon.read_fd(), watchdog()), "{next} frames came");
            if next % 7 == 3 {
                daemon.serve().unwrap();
                thread::yield_now();
            }
            if daemon.read(&mut into).unwrap() == ReadOutcome::Closed {
                break;
            }
            while let Some(count) =
                frame_len(into.filled()).filter(|&count| count <= into.filled().len())
            {
                assert!(into.filled()[..count] == frame(next, len(next)), "frame {next}");
                into.consume(count);
                next += 1;
            }
        }
        assert_eq!((next, daemon.lost()), (FRAMES, 0));
        drop(daemon);
    });
}

#[test]
fn a_large_frame_travels_in_pieces() {
    let (client, mut daemon, _listener) = pair();
    let large = frame(1, 1 << 20);
    let client = client.into_parts();
    thread::scope(|scope| {
        scope.spawn(|| write_all(&mut *Udp.adopt(client).unwrap(), &large));
        let mut into = buffer();
        read_bytes(&mut *daemon, &mut into, large.len());
        assert!(into.filled() == large);
    });
}

#[test]
fn a_writer_stops_when_nobody_reads_and_goes_on_later() {
    let (mut client, mut daemon, _listener) = pair();
    let frames: Vec<u8> = (0..1_000).flat_map(|number| frame(number, 1_000)).collect();
    let written = fill(&mut *client, &frames);
    assert!((1_000..=DEFAULT_WINDOW).contains(&written), "{written}");
    let client = client.into_parts();
    thread::scope(|scope| {
        scope.spawn(|| write_all(&mut *Udp.adopt(client).unwrap(), &frames[written..]));
        let mut into = buffer();
        read_bytes(&mut *daemon, &mut into, frames.len());
        assert!(into.filled() == frames);
    });
    assert_eq!(daemon.lost(), 0);
}

/// The kernel gives a socket's memory back in lumps, and charges up to twice what was sent.
#[test]
fn a_reader_that_pauses_again_and_again_loses_nothing_whatever_the_size() {
    for len in [1, 700, 1_700, 3_750, 7_900, 14_900].map(|len| len + 4) {
        let (mut client, mut daemon, _listener) = pair();
        let frames: Vec<u8> = (0..4_000_000 / len as u32).flat_map(|n| frame(n, len)).collect();
        let (mut into, mut written, mut came) = (buffer(), 0, 0);
        let end = watchdog();
        while came < frames.len() {
            while written < frames.len()
                && let WriteOutcome::Bytes(count) = client.write(&frames[written..]).unwrap()
            {
                written += count;
            }
            assert!(Instant::now() < end, "the watchdog barked");
            client.tick(Instant::now()).unwrap();
            if let ReadOutcome::Bytes(count) = daemon.read(&mut into).unwrap() {
                came += count;
            }
            into.clear();
            client.serve().unwrap();
            assert_eq!(daemon.lost(), 0, "{len} bytes");
        }
    }
}

#[test]
fn what_came_while_paused_is_read_later_in_order() {
    let (mut client, mut daemon, _listener) = pair();
    let frames: Vec<u8> = (0..1_000).flat_map(|number| frame(number, 500)).collect();
    let written = fill(&mut *client, &frames);
    let end = watchdog();
    while wait(daemon.read_fd(), Instant::now()) {
        daemon.serve().unwrap();
    }
    // Even a probe brings no credit for what is held.
    let due = client.tick(Instant::now()).unwrap().unwrap();
    client.tick(due).unwrap();
    assert!(wait(daemon.read_fd(), end));
    daemon.serve().unwrap();
    assert!(wait(client.read_fd(), end));
    client.serve().unwrap();
    assert_eq!(client.write(&frames[written..]).unwrap(), WriteOutcome::NoCredit);
    // Held datagrams travel with the channel.
    let mut daemon = Udp.adopt(daemon.into_parts()).unwrap();
    let mut into = buffer();
    read_bytes(&mut *daemon, &mut into, written);
    assert!(into.filled() == &frames[..written]);
    client.serve().unwrap();
    assert!(matches!(client.write(&frames[written..]).unwrap(), WriteOutcome::Bytes(1..)));
    assert_eq!(daemon.lost(), 0);
}

#[test]
fn lost_credit_is_probed_for() {
    let (mut client, mut daemon, _listener) = pair();
    let frames: Vec<u8> = (0..1_000).flat_map(|number| frame(number, 500)).collect();
    let written = fill(&mut *client, &frames);
    read_bytes(&mut *daemon, &mut buffer(), written);
    assert!(lose_everything(&socket_of(&*client)) > 0);
    assert_eq!(client.write(&frames[written..]).unwrap(), WriteOutcome::NoCredit);
    let due = client.tick(Instant::now()).unwrap().unwrap();
    client.tick(due).unwrap();
    assert!(wait(daemon.read_fd(), watchdog()));
    daemon.serve().unwrap();
    client.serve().unwrap();
    assert!(matches!(client.write(&frames[written..]).unwrap(), WriteOutcome::Bytes(1..)));
}

#[test]
fn lost_datagrams_are_counted_and_do_not_block() {
    let (mut client, mut daemon, _listener) = pair();
    let frames: Vec<u8> = (0..1_000).flat_map(|number| frame(number, 500)).collect();
    let written = fill(&mut *client, &frames);
    let lost = lose_everything(&socket_of(&*daemon));
    let due = client.tick(Instant::now()).unwrap().unwrap();
    client.tick(due).unwrap();
    assert!(wait(daemon.read_fd(), watchdog()));
    assert_eq!(daemon.read(&mut buffer()).unwrap(), ReadOutcome::Bytes(0));
    client.serve().unwrap();
    // The lost datagrams held whole frames, so the rest begins with one too.
    assert_eq!(written % 500, 0);
    assert!(matches!(client.write(&frames[written..][..500]).unwrap(), WriteOutcome::Bytes(500)));
    let mut into = buffer();
    read_bytes(&mut *daemon, &mut into, 500);
    assert_eq!(into.filled(), frame(written as u32 / 500, 500));
    assert_eq!(daemon.lost(), lost as u64);
    // By the next report the client knows it, too.
    let written = fill(&mut *client, &frames);
    read_bytes(&mut *daemon, &mut buffer(), written);
    client.serve().unwrap();
    assert_eq!(client.lost(), lost as u64);
}

#[test]
fn the_end_comes_after_everything_that_was_written() {
    let (mut client, mut daemon, _listener) = pair();
    let frames: Vec<u8> = (0..10).flat_map(|number| frame(number, 700)).collect();
    write_all(&mut *client, &frames);
    client.finish().unwrap();
    let mut into = buffer();
    read_to_end(&mut *daemon, &mut into).unwrap();
    assert!(into.filled() == frames);
    // The other direction is still open.
    write_all(&mut *daemon, &frame(1, 50));
    drop(daemon);
    into.clear();
    read_to_end(&mut *client, &mut into).unwrap();
    assert_eq!(into.filled(), frame(1, 50));
    // An acknowledged BYE is not sent again: only liveness is left.
    assert!(
        client.tick(Instant::now()).unwrap().unwrap() > Instant::now() + Duration::from_secs(5)
    );
}

#[test]
fn a_dropped_channel_says_so() {
    let (client, mut daemon, _listener) = pair();
    drop(client);
    read_to_end(&mut *daemon, &mut buffer()).unwrap();
}

#[test]
fn a_killed_peer_is_a_disconnect() {
    let (client, mut daemon, _listener) = pair();
    kill(client);
    // The first datagram finds out, and the second write learns of it.
    assert_eq!(daemon.write(&frame(0, 10)).unwrap(), WriteOutcome::Bytes(10));
    let error = daemon.write(&frame(0, 10)).unwrap_err();
    assert!(error.is_disconnect(), "{error}");

    let (mut client, daemon, listener) = pair();
    drop(listener);
    kill(daemon);
    assert_eq!(client.write(&frame(0, 10)).unwrap(), WriteOutcome::Bytes(10));
    let error = read_to_end(&mut *client, &mut buffer()).unwrap_err();
    assert!(error.is_disconnect(), "{error}");
}

#[test]
fn a_new_connection_ignores_the_datagrams_of_an_old_one() {
    let (mut client, daemon, _listener) = pair();
    write_all(&mut *client, &frame(0, 10));
    assert!(wait(daemon.read_fd(), watchdog()));
    let mut old = [0; 100];
    let count = socket_of(&*daemon).recv(&mut old).unwrap();
    let (client, mut daemon, _listener) = pair();
    socket_of(&*client).send(&old[..count]).unwrap();
    assert!(wait(daemon.read_fd(), watchdog()));
    assert_eq!(daemon.read(&mut buffer()).unwrap(), ReadOutcome::Bytes(0));
    assert_eq!(daemon.lost(), 0);
}
