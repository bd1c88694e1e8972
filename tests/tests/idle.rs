//! Many idle peers cost little memory, and no wake-up at all.

use ipcd_tests::{DaemonSetup, assert_asleep, children, memory, raise_limit};

const PEERS: usize = 5000;
/// Some 1,000 when measured; the rest is for the allocator's layout.
const MOST_BYTES_PER_PEER: u64 = 1100;

/// Deadlines that have passed before the daemon's sleep is watched.
const CONFIG: &str = "[limits]\nhandshake_timeout = \"2s\"\nstall_timeout = \"2s\"\n";

#[test]
fn thousands_of_idle_peers_cost_little_memory_and_wake_nobody() {
    let limit = raise_limit();
    assert!(limit > PEERS as u64 + 100, "the system allows only {limit} descriptors a process");
    let daemon = DaemonSetup::new().listen(&["unix"]).config(CONFIG).start();
    let supervisor = daemon.process.pid();
    let worker = daemon.worker();
    // Buffers and the like are allocated once, before the measurement.
    let first: Vec<_> = (0..50).map(|_| daemon.raw("unix").open()).collect();
    let before = memory(&[supervisor, worker]);
    let peers: Vec<_> = (0..PEERS).map(|_| daemon.raw("unix").open()).collect();
    let after = memory(&[supervisor, worker]);
    let per_peer = after.saturating_sub(before) / PEERS as u64;
    eprintln!("{per_peer} bytes for each of {PEERS} peers");
    assert!(per_peer < MOST_BYTES_PER_PEER, "{per_peer} bytes for each peer");
    let status = daemon.status();
    assert_eq!(status["workers"][0]["peers"].as_u64(), Some((PEERS + first.len() + 1) as u64));
    assert_eq!(children(supervisor), [worker]);
    assert_asleep([supervisor, worker]);
    // All are still served.
    for mut peer in peers.into_iter().step_by(500) {
        peer.subscribe(1, "still.here");
    }
}

/// The memory of a peer before it has proved anything: 4 KiB of its bytes, and twice the cost of an
/// idle peer, because the allocator rounds up.
const MOST_BYTES_PER_STRANGER: u64 = 4096 + 2 * MOST_BYTES_PER_PEER;

#[test]
fn a_stranger_costs_little_before_authentication() {
    const STRANGERS: usize = 2000;
    raise_limit();
    // No peer times out during the count.
    let config = "[limits]\nhandshake_timeout = \"1000s\"\nframe_timeout = \"1000s\"\n\
                  max_startups = \"5000\"\n";
    let daemon = DaemonSetup::new().listen(&["tcp"]).config(config).start();
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    // The largest frame of a handshake without its last byte: kind HELLO, and junk.
    let mut frame = 4096_u32.to_le_bytes().to_vec();
    frame.push(1);
    frame.resize(4095, 0);
    let begin = |_| {
        let mut raw = daemon.raw("tcp");
        raw.send(&frame);
        raw
    };
    let first: Vec<_> = (0..100).map(begin).collect();
    daemon.wait_for_peers(first.len());
    let before = memory(&[supervisor, worker]);
    let more: Vec<_> = (0..STRANGERS).map(begin).collect();
    daemon.wait_for_peers(first.len() + more.len());
    let after = memory(&[supervisor, worker]);
    let each = after.saturating_sub(before) / STRANGERS as u64;
    eprintln!("{each} bytes for each of {STRANGERS} strangers");
    assert!(each < MOST_BYTES_PER_STRANGER, "{each} bytes for each stranger");
}
