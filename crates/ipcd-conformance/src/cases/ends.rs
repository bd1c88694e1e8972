//! The ends of a channel: cleanly, inside a frame, by a peer that is gone.

use ipcd_transport::LENGTH_BYTES;

use crate::Suite;
use crate::frames::{self, LARGEST};
use crate::peer::{TestPeer, drive, fill};
use crate::scene::{PeerPair, TestScene};

/// Writes these frames to the end, and says that nothing more will come.
fn send_and_finish(from: &mut TestPeer, to: &mut TestPeer, frames: &[u8]) {
    from.offer(frames);
    drive("frames written", [from, to], |[from, _]| from.backlog() == 0);
    from.finish();
}

/// Nothing that was written before the end is lost, and nothing is left over.
pub fn reports_the_end_after_everything_before_it(suite: &Suite) {
    let PeerPair { mut client, mut server, listener: _listener } = TestScene::new(suite).pair();
    server.reads = false;
    send_and_finish(&mut client, &mut server, &frames::all((0..20).map(|n| LENGTH_BYTES + n)));
    server.reads = true;
    drive("the end", [&mut client, &mut server], |[_, server]| server.is_at_end());
    assert_eq!(server.received.count, 20);
    assert!(server.inbox.is_empty(), "a clean end leaves no part of a frame");
}

/// The side that has finished still hears the other one out.
pub fn goes_on_reading_after_finish(suite: &Suite) {
    for client_first in [true, false] {
        let PeerPair { client, server, listener: _listener } = TestScene::new(suite).pair();
        let (mut first, mut second) =
            if client_first { (client, server) } else { (server, client) };
        send_and_finish(&mut first, &mut second, &frames::all([10, 20]));
        drive("an end", [&mut first, &mut second], |[_, second]| second.is_at_end());
        assert_eq!((second.received.count, first.end.is_none()), (2, true));
        send_and_finish(&mut second, &mut first, &frames::all((0..3000).map(|_| 700)));
        drive("the other end", [&mut first, &mut second], |[first, _]| first.is_at_end());
        assert_eq!(first.received.count, 3000);
    }
}

/// A write after `finish` is an error, and does not lose bytes in silence.
pub fn refuses_a_write_after_finish(suite: &Suite) {
    let PeerPair { mut client, mut server, listener: _listener } = TestScene::new(suite).pair();
    client.finish();
    client.offer(&frames::all([10]));
    let peers = [&mut client, &mut server];
    drive("a refusal", peers, |[client, _]| client.write_error.is_some());
    let error = client.write_error.take().expect("it was waited for");
    assert!(error.is_disconnect(), "no disconnect: {error}");
    drive("the end", [&mut client, &mut server], |[_, server]| server.is_at_end());
    assert_eq!(server.received.count, 0);
}

/// On a stream, what has come of the frame is left in the buffer, so that the caller sees it; where
/// there are records, no part of a frame is ever delivered.
pub fn never_takes_an_end_inside_a_frame_for_a_whole_one(suite: &Suite) {
    let PeerPair { mut client, mut server, listener: _listener } =
        TestScene::new(suite).settled_pair();
    server.reads = false;
    fill(&mut client, LARGEST);
    let (whole, cut) = (client.taken / LARGEST, client.taken % LARGEST);
    assert!(cut > 0, "the channel was full between two frames: the case tests nothing");
    drop(client);
    server.reads = true;
    drive("the end", [&mut server], |[server]| server.has_lost_its_peer());
    assert_eq!(server.received.count as usize, whole);
    let left = if server.keeps_records() { 0 } else { cut };
    assert_eq!(server.inbox.filled().len(), left, "of the frame that was cut");
}

/// Writing ends with an error that says that the peer has gone, not with one of ours.
pub fn fails_a_write_to_a_peer_that_is_gone(suite: &Suite) {
    for client_stays in [true, false] {
        let PeerPair { client, server, listener: _listener } = TestScene::new(suite).pair();
        let (mut stays, goes) = if client_stays { (client, server) } else { (server, client) };
        drop(goes);
        await_write_error(&mut stays);
    }
}

/// Writes until that fails, as it must if the peer has gone.
pub(crate) fn await_write_error(peer: &mut TestPeer) {
    drive("an error", [peer], |[peer]| {
        if peer.backlog() == 0 && peer.write_error.is_none() {
            peer.offer(&frames::all([1000]));
        }
        peer.write_error.is_some()
    });
    let error = peer.write_error.take().expect("it was waited for");
    assert!(error.is_disconnect(), "no disconnect: {error}");
}
