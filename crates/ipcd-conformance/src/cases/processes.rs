//! Peers in other processes: killed ones, and one that takes a channel over.

use ipcd_transport::{Endpoint, Error, LENGTH_BYTES};

use super::ends::await_write_error;
use crate::Suite;
use crate::child::ParentLink;
use crate::frames;
use crate::peer::{TestPeer, drive};
use crate::scene::{PeerPair, TestScene, skip};
use crate::server::TestServer;

/// A process that connects and sends three frames.
pub(crate) const CLIENT: &str = "client";
/// A process that listens and sends back what it gets.
pub(crate) const DAEMON: &str = "daemon";
/// A process that is given a channel and sends back what it gets.
pub(crate) const WORKER: &str = "worker";

/// Frames that were sent before the kill arrive; then reading and writing end.
pub fn notices_a_killed_client(suite: &Suite) {
    let scene = TestScene::new(suite);
    let listener = scene.listen();
    let mut child = scene.child(CLIENT, listener.local());
    let mut peer = listener.accept();
    if peer.channel().is_shaking_hands() {
        peer.shake_hands();
    }
    assert_eq!(child.hear(), "sent");
    child.kill();
    drive("the end", [&mut peer], |[peer]| {
        // If the transport does not tell a peer's end, only a write to it shows that it has gone.
        if peer.backlog() == 0 && peer.received.count == 3 && peer.write_error.is_none() {
            peer.offer(&frames::all([100]));
        }
        peer.has_lost_its_peer()
    });
    assert_eq!(peer.received.count, 3);
    await_write_error(&mut peer);
    let _next = scene.meet(&listener);
}

pub(crate) fn be_a_client(suite: &Suite, to: &Endpoint, parent: &ParentLink) {
    let mut peer = TestScene::new(suite).connect(to);
    peer.offer(&frames::all([100, 5000, 4]));
    drive("three frames", [&mut peer], |[peer]| peer.backlog() == 0);
    parent.tell("sent");
    parent.wait_for_the_end();
}

/// A client of a daemon that was killed notices; who connects to what it left is told so at once;
/// and the next daemon takes its place.
pub fn notices_a_killed_daemon_and_replaces_what_it_left(suite: &Suite) {
    let mut scene = TestScene::new(suite);
    let mut child = scene.child(DAEMON, &scene.endpoint);
    scene.endpoint = child.hear().parse().expect("the child says where it listens");
    let mut peer = scene.connect(&scene.endpoint);
    peer.offer(&frames::all([100, 200]));
    drive("an echo", [&mut peer], |[peer]| peer.received.count == 2);
    child.kill();
    await_write_error(&mut peer);
    drive("the end", [&mut peer], |[peer]| peer.has_lost_its_peer());
    match scene.try_connect(&scene.endpoint) {
        Err(Error::System { .. }) => {}
        Err(error) => panic!("an error of the system was due: {error}"),
        Ok(_) => panic!("connected to a daemon that was killed"),
    }
    let mut pair = scene.pair();
    check_echo(&mut pair);
}

pub(crate) fn be_a_daemon(suite: &Suite, at: &Endpoint, parent: &ParentLink) {
    let listener = TestServer::start(suite.transport, at).expect("the endpoint is free");
    parent.tell(&listener.local().to_string());
    let mut peer = listener.accept();
    peer.echoes = true;
    drive("the kill", [&mut peer], |_| false);
}

/// A channel that was just accepted works in the process that gets it.
pub fn hands_a_channel_to_another_process(suite: &Suite) {
    let scene = TestScene::new(suite);
    let PeerPair { client, server, listener } = scene.pair();
    hand_over(&scene, server, client, &listener, 0);
}

/// So does one on which frames have passed, whichever side it is.
pub fn hands_a_channel_over_in_mid_life(suite: &Suite) {
    if suite.transport.capabilities().encrypted {
        return skip("what the two sides have agreed on stays in the process");
    }
    for client_moves in [true, false] {
        let scene = TestScene::new(suite);
        let mut pair = scene.pair();
        check_echo(&mut pair);
        let PeerPair { client, server, listener } = pair;
        let (moves, stays) = if client_moves { (client, server) } else { (server, client) };
        let sent = stays.received.count;
        hand_over(&scene, moves, stays, &listener, sent);
    }
}

/// Gives one side away and has `stays` talk to the new owner, from frame `number` on.
fn hand_over(
    scene: &TestScene,
    moves: TestPeer,
    mut stays: TestPeer,
    listener: &TestServer,
    number: u32,
) {
    let child = scene.child(WORKER, listener.local());
    let parts = moves.into_parts();
    child.hand_over(&parts);
    drop(parts);
    let mut frames = Vec::new();
    for index in 0..300 {
        frames::append(&mut frames, number + index, 8 + 100 * index as usize);
    }
    stays.offer(&frames);
    let all = stays.received.count + 300;
    drive("the echo", [&mut stays], |[stays]| {
        assert!(!stays.is_at_end(), "the channel ended");
        stays.received.count == all
    });
    stays.finish();
    drive("the end", [&mut stays], |[stays]| stays.is_at_end());
    child.join();
}

pub(crate) fn be_a_worker(suite: &Suite, parent: &ParentLink) {
    let mut peer = TestPeer::adopt(suite.transport, parent.take_over());
    peer.received.may_miss_some();
    peer.echoes = true;
    drive("the end", [&mut peer], |[peer]| peer.is_at_end() && peer.backlog() == 0);
    peer.finish();
}

/// Ten frames from client to server and back.
fn check_echo(pair: &mut PeerPair) {
    let PeerPair { client, server, .. } = pair;
    server.echoes = true;
    client.offer(&frames::all((0..10).map(|index| LENGTH_BYTES + 1000 * index)));
    drive("an echo", [client, server], |[client, server]| {
        client.received.count == 10 && server.backlog() == 0
    });
    server.echoes = false;
}
