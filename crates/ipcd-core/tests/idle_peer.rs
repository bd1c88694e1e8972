//! The router's memory for a peer that has opened its session and is idle. It is counted, so that
//! it does not grow unnoticed.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ipcd_core::{Config, DaemonInfo, Output, PeerInfo, Router};
use ipcd_proto::control::{Hello, Origin, encode};
use ipcd_proto::{FrameKind, FrameWriter, Header};
use ipcd_sys::alloc_count::{Counting, LIVE_BYTES};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Enough peers to fill vectors that grow by doubling.
const PEERS: u64 = 4096;
/// With the connection, the channel and the supervisor's entry, some 390 bytes more, an idle peer
/// has to stay below 1,024 bytes (see `tests/tests/idle.rs`).
const MOST_BYTES: u64 = 640;

#[test]
fn an_idle_peer_takes_little_memory() {
    let now = Instant::now();
    let mut core = Router::new(Config::new(DaemonInfo::unknown(now)), None);
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    (0..PEERS).for_each(|number| open(&mut core, now, number));
    let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) / PEERS;
    println!("{each} bytes for each of {PEERS} peers");
    assert!(each <= MOST_BYTES, "{each} bytes for each peer");
}

fn open(core: &mut Router, now: Instant, number: u64) {
    let (uid, pid) = (Some(1), Some(number as u32));
    let transport = "test".into();
    let origin = Origin { peer: 0, name: None, transport, pid, uid, gid: uid, addr: None };
    let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
    let key = core.attach(now, info);
    let (magic, nonce, token, no_echo) = (Hello::MAGIC, [0; 32], None, false);
    let (name, oldest, newest, features) = (None, 1, 1, 0);
    let hello = Hello { magic, oldest, newest, features, nonce, name, token, no_echo };
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).control(Header::new(FrameKind::Hello, 1), &encode(&hello));
    assert_eq!(core.receive(now, key, &mut bytes).consumed, bytes.len());
    while let Some(output) = core.poll_output() {
        if let Output::Write(key) = output {
            let count = core.send_queue(key).len();
            core.wrote(now, key, count);
        }
    }
    assert!(core.is_flushed(key));
}
