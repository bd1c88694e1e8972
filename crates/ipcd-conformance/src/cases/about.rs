//! The properties of a transport and its peers, and the descriptors that it opens.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use ipcd_transport::{Channel, Endpoint, IdentityKind, ReadBuffer, ReadOutcome};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{getegid, geteuid, getpid};

use crate::Suite;
use crate::frames;
use crate::peer::drive;
use crate::scene::{PeerPair, TestScene};

/// The part of the process in which nothing else opens descriptors.
pub(crate) const DESCRIPTORS: &str = "descriptors";

/// Scheme, default endpoint and options fit together.
pub fn describes_itself(suite: &Suite) {
    let transport = suite.transport;
    match transport.default_endpoint(Path::new("/run/ipcd")) {
        Ok(default) => {
            assert_eq!(default.scheme(), transport.scheme());
            assert_eq!(default.to_string().parse::<Endpoint>().ok(), Some(default));
        }
        // Then it says what to write.
        Err(error) => {
            let example = format!("{}:", transport.scheme());
            assert!(error.to_string().contains(&example), "{error}");
        }
    }
    let scene = TestScene::new(suite);
    assert_eq!(scene.endpoint.scheme(), transport.scheme());
    let options = transport.options();
    assert!(scene.endpoint.option_names().all(|name| options.contains(&name)));
    assert!(!transport.capabilities().summary.is_empty());
    assert!(transport.capabilities().largest_record != Some(0));
}

/// The accepting side knows the peer as the transport promises; so does the connecting side, where
/// the kernel vouches for the peer.
pub fn knows_who_the_peer_is(suite: &Suite) {
    let PeerPair { client, server, listener } = TestScene::new(suite).pair();
    let kind = suite.transport.capabilities().identity;
    for peer in [&client, &server] {
        let known = peer.channel().identity();
        let uid = kind.is_vouched().then(|| geteuid().as_raw());
        assert_eq!(known.uid, uid);
        let process = (kind == IdentityKind::Credentials)
            .then(|| (getpid().as_raw() as u32, getegid().as_raw()));
        assert_eq!(known.pid.zip(known.gid), process);
        assert_eq!(known.addr.is_some(), kind.has_address());
    }
    if let Some(addr) = client.channel().identity().addr {
        assert_eq!(addr.to_string(), listener.local().address());
    }
}

/// Every descriptor is non-blocking and closed on exec; a read with nothing there says so.
pub fn opens_nothing_that_blocks_or_is_inherited(suite: &Suite) {
    let scene = TestScene::new(suite);
    let mut listener = suite.transport.listen(&scene.endpoint).expect("the endpoint is free");
    check_descriptor("a listener's", listener.fd());
    assert!(listener.accept().expect("no peer has come").is_none());
    drop(listener);
    let PeerPair { client, server, listener: _listener } = TestScene::new(suite).pair();
    for (side, peer) in [("client", client), ("server", server)] {
        let parts = peer.into_parts();
        for fd in &parts.descriptors {
            assert!(fd.as_raw_fd() > 2);
        }
        let mut channel = suite.transport.adopt(parts).expect("its own parts make a channel");
        check_descriptor(side, channel.read_fd());
        check_descriptor(side, channel.write_fd());
        expect_nothing(&mut *channel);
    }
}

/// The far end of the other side's channel may be gone by now, but has said nothing.
fn expect_nothing(channel: &mut dyn Channel) {
    let mut buffer = ReadBuffer::new(0, 1000);
    match channel.read(&mut buffer) {
        Ok(ReadOutcome::NotReady | ReadOutcome::Closed | ReadOutcome::Bytes(0)) => {}
        other => panic!("a read from a peer that wrote nothing: {other:?}"),
    }
    assert!(buffer.is_empty());
}

fn check_descriptor(whose: &str, fd: BorrowedFd<'_>) {
    let status = fcntl(fd, FcntlArg::F_GETFL).expect("the descriptor is open");
    let status = OFlag::from_bits_retain(status);
    assert!(status.contains(OFlag::O_NONBLOCK), "{whose} descriptor blocks");
    let flags = fcntl(fd, FcntlArg::F_GETFD).expect("the descriptor is open");
    let flags = FdFlag::from_bits_retain(flags);
    assert!(flags.contains(FdFlag::FD_CLOEXEC), "{whose} descriptor is inherited");
}

/// Connecting, failing to connect, and letting go leave nothing open.
pub fn leaves_no_descriptor_open(suite: &Suite) {
    let scene = TestScene::new(suite);
    scene.child(DESCRIPTORS, &scene.endpoint).join();
}

/// The part of the process in which only this runs.
pub(crate) fn count_descriptors(suite: &Suite, endpoint: &Endpoint) {
    let mut scene = TestScene::new(suite);
    scene.endpoint = endpoint.clone();
    let round = || {
        let PeerPair { mut client, mut server, listener } = scene.pair();
        client.offer(&frames::all([10]));
        drive("a frame", [&mut client, &mut server], |[_, server]| server.received.count == 1);
        let gone = listener.local().clone();
        drop((client, server, listener));
        assert!(scene.try_connect(&gone).is_err());
    };
    let open = || fs::read_dir("/proc/self/fd").expect("/proc is there").count();
    round();
    let before = open();
    (0..5).for_each(|_| round());
    assert_eq!(open(), before, "descriptors that are open after as many rounds");
}
