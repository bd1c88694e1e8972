//! Frames on their way: sizes, order, writes taken in part, a reader that is slow.

use ipcd_transport::{LENGTH_BYTES, ReadBuffer};

use crate::Suite;
use crate::frames::{self, LARGEST};
use crate::peer::{PeerEnd, drive, fill};
use crate::scene::{PeerPair, TestScene, skip};

/// Drives both until each has written all of its own and read so many frames.
fn exchange(pair: &mut PeerPair, at_client: u32, at_server: u32) {
    let PeerPair { client, server, .. } = pair;
    drive("frames on their way", [client, server], |[client, server]| {
        assert!(!client.is_at_end() && !server.is_at_end(), "the channel ended");
        let arrived = client.received.count >= at_client && server.received.count >= at_server;
        arrived && client.backlog() == 0 && server.backlog() == 0
    });
    assert_eq!((client.received.count, server.received.count), (at_client, at_server));
}

/// Frames of 4 bytes, and of 1 MiB and more, both ways.
pub fn moves_the_smallest_and_the_largest_frames(suite: &Suite) {
    let mut pair = TestScene::new(suite).pair();
    let frames = frames::all([LENGTH_BYTES, LENGTH_BYTES, LARGEST, LENGTH_BYTES, LARGEST]);
    pair.client.offer(&frames);
    exchange(&mut pair, 0, 5);
    pair.server.offer(&frames);
    exchange(&mut pair, 5, 5);
}

/// Frames of every kind of length from nothing to more than 8000 bytes.
pub fn moves_many_frames_in_order_both_ways_at_once(suite: &Suite) {
    let mut pair = TestScene::new(suite).pair();
    // 1667 has no factor in common with 2749, so each length comes once, in no order.
    let lengths = (0..2749).map(|index| LENGTH_BYTES + 3 * (index * 1667 % 2749));
    let frames = frames::all(lengths);
    pair.client.offer(&frames);
    pair.server.offer(&frames);
    exchange(&mut pair, 2749, 2749);
}

/// The rest of a batch is offered again, with more behind it, until it is taken.
pub fn goes_on_after_a_write_taken_in_part(suite: &Suite) {
    let mut pair = TestScene::new(suite).pair();
    let lengths = || (0..4000).map(|index| LENGTH_BYTES + index % 3000);
    let frames = frames::all(lengths());
    let cuts = (0..=4).map(|quarter| lengths().take(quarter * 1000).sum());
    let cuts: Vec<usize> = cuts.collect();
    pair.server.reads = false;
    for cut in cuts.windows(2) {
        pair.client.offer(&frames[cut[0]..cut[1]]);
        let held_back = pair.client.held_back;
        drive("a full channel", [&mut pair.client, &mut pair.server], |[client, _]| {
            client.held_back > held_back || client.backlog() == 0
        });
    }
    assert!(pair.client.taken_in_part > 0, "nothing was taken in part: the case tests nothing");
    pair.server.reads = true;
    exchange(&mut pair, 0, 4000);
}

/// Frames in pieces, of which a write may take any part.
pub fn moves_frames_that_are_offered_in_pieces(suite: &Suite) {
    let mut pair = TestScene::new(suite).pair();
    pair.server.reads = false;
    let mut frames = 0;
    while pair.client.held_back == 0 || frames < 1000 {
        for length in 0..=frames % 5 {
            let mut piece = Vec::new();
            for _ in 0..=length {
                frames::append(&mut piece, frames, LENGTH_BYTES + (frames * 7 % 3000) as usize);
                frames += 1;
            }
            pair.client.offer_piece(&piece);
        }
        let held_back = pair.client.held_back;
        drive("a full channel", [&mut pair.client, &mut pair.server], |[client, _]| {
            client.held_back > held_back || client.backlog() == 0
        });
    }
    pair.server.reads = true;
    exchange(&mut pair, 0, frames);
}

/// A writer that does not stop by itself is stopped, and memory stays within bounds; nothing that
/// was taken is lost.
pub fn holds_a_fast_writer_back_and_loses_nothing(suite: &Suite) {
    let mut pair = TestScene::new(suite).settled_pair();
    pair.server.reads = false;
    let number = fill(&mut pair.client, 1000);
    pair.server.reads = true;
    exchange(&mut pair, 0, number);
    let held = pair.server.inbox.capacity();
    assert!(held <= 1024 * 1024, "{held} bytes in the read buffer for frames of 1000");
}

/// A frame of the largest size that is welcome passes; a longer one is refused before it is kept.
pub fn refuses_a_frame_over_the_limit(suite: &Suite) {
    const LIMIT: usize = 300_000;
    let PeerPair { mut client, mut server, listener: _listener } = TestScene::new(suite).pair();
    if !server.keeps_records() {
        return skip("a stream does not put frames together");
    }
    server.inbox = ReadBuffer::new(1000, LIMIT);
    client.offer(&frames::all([LIMIT, LIMIT + 1]));
    let peers = [&mut client, &mut server];
    drive("the refusal", peers, |[_, server]| server.end.is_some());
    assert_eq!(server.received.count, 1);
    assert!(server.inbox.is_empty(), "part of the frame was kept");
    let Some(PeerEnd::Failed(error)) = server.end else { panic!("it ended without an error") };
    assert!(error.to_string().contains(&(LIMIT + 1).to_string()), "{error}");
}

/// Each peer gets its own frames, however many others there are.
pub fn serves_many_peers_at_once(suite: &Suite) {
    const PEERS: usize = 20;
    let scene = TestScene::new(suite);
    let listener = scene.listen();
    let mut pairs: Vec<_> = (0..PEERS).map(|_| scene.meet(&listener)).collect();
    for (index, (client, server)) in pairs.iter_mut().enumerate() {
        server.echoes = true;
        client.offer(&frames::all((0..10).map(|length| LENGTH_BYTES + length * (index + 1) * 10)));
    }
    for (client, server) in pairs.iter_mut().rev() {
        drive("an echo", [client, server], |[client, _]| client.received.count == 10);
    }
}
