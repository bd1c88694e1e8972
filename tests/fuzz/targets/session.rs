//! Whole sessions against the router: three peers, of which one must prove a token, send and read
//! as they like, come, go, and let time pass. The output must be frames.
#![no_main]

use std::time::{Duration, Instant};

use ipcd_core::{Config, DaemonInfo, Output, PeerInfo, PeerKey, Router};
use ipcd_proto::control::{Hello, Origin, encode};
use ipcd_proto::{DecodedFrame, FrameKind, FrameWriter, Header, VERSION, decode};
use libfuzzer_sys::fuzz_target;

const PEERS: usize = 3;
/// Small, so that few bytes fill it.
const QUEUE_LIMIT: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut play = Play::new();
    let mut rest = bytes;
    while let [act, length, behind @ ..] = rest {
        let (data, next) = behind.split_at(usize::from(*length).min(behind.len()));
        play.act(*act, data);
        rest = next;
    }
    play.end();
});

struct Play {
    core: Router,
    now: Instant,
    /// Each with the bytes that it has sent and the router has not taken.
    peers: [Option<(PeerKey, Vec<u8>)>; PEERS],
}

impl Play {
    fn new() -> Self {
        let now = Instant::now();
        let mut config = Config::new(DaemonInfo::unknown(now));
        (config.queue_limit, config.max_subscriptions) = (QUEUE_LIMIT, 8);
        config.max_payload = 1 << 16;
        // A batch for a single peer is shared, too.
        config.sharers = 1;
        let mut play =
            Self { core: Router::new(config, None), now, peers: [const { None }; PEERS] };
        (0..PEERS).for_each(|at| play.come(at, at < 2));
        play
    }

    fn act(&mut self, act: u8, data: &[u8]) {
        let at = usize::from(act >> 4) % PEERS;
        match act & 15 {
            0..=7 => self.send(at, data),
            8 => self.read(at, data.len()),
            9 => self.read(at, usize::MAX),
            10 => self.leave(at),
            11 => self.come(at, data.len() % 2 == 0),
            12 => self.pass(Duration::from_millis(1 << data.len().min(16))),
            13 => self.core.drain(self.now),
            _ => self.send(at, &framed(data)),
        }
        self.obey();
    }

    fn end(mut self) {
        (0..PEERS).for_each(|at| self.leave(at));
        self.obey();
        assert_eq!(self.core.peer_count(), 0);
        self.core.counters();
    }

    /// A peer connects, and sends HELLO if it is to be a good one.
    fn come(&mut self, at: usize, is_good: bool) {
        if self.peers[at].is_some() {
            return;
        }
        let (name, transport) = (None, "fuzz".into());
        let (pid, uid, gid, addr) = (None, None, None, None);
        let origin = Origin { peer: 0, name, transport, pid, uid, gid, addr };
        let challenge = (!is_good).then_some([9; 32]);
        let info = PeerInfo { listener: 0, origin, challenge, raw: None };
        let key = self.core.attach(self.now, info);
        self.peers[at] = Some((key, Vec::new()));
        if is_good {
            let hello = Hello {
                magic: Hello::MAGIC,
                oldest: VERSION,
                newest: VERSION,
                features: 0,
                nonce: [1; 32],
                name: None,
                token: None,
                no_echo: at == 1,
            };
            let mut frame = Vec::new();
            FrameWriter(&mut frame).control(Header::new(FrameKind::Hello, 0), &encode(&hello));
            self.send(at, &frame);
        }
    }

    fn send(&mut self, at: usize, data: &[u8]) {
        let Some((key, held)) = &mut self.peers[at] else { return };
        held.extend(data);
        let progress = self.core.receive(self.now, *key, held);
        assert!(progress.consumed <= held.len());
        held.drain(..progress.consumed);
    }

    fn read(&mut self, at: usize, most: usize) {
        let Some((key, _)) = self.peers[at] else { return };
        let count = self.core.queued(key).min(most);
        self.core.wrote(self.now, key, count);
    }

    fn leave(&mut self, at: usize) {
        if let Some((key, _)) = self.peers[at].take() {
            self.core.detach(self.now, key);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.core.tick(self.now);
    }

    fn obey(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Write(key) => self.check_send_queue(key),
                Output::Resume(key) => self.with(key, |play, at| play.send(at, &[])),
                Output::Close(key, _) => self.with(key, |play, at| {
                    play.read(at, usize::MAX);
                    play.leave(at);
                }),
                Output::Drop(key, _) => self.with(key, Self::leave),
                Output::Opened(_) | Output::Denied(..) | Output::Forward(_) | Output::Tell(_) => {}
            }
        }
    }

    fn with(&mut self, key: PeerKey, act: impl FnOnce(&mut Self, usize)) {
        let found = |peer: &Option<(PeerKey, _)>| peer.as_ref().is_some_and(|peer| peer.0 == key);
        if let Some(at) = self.peers.iter().position(found) {
            act(self, at);
        }
    }

    /// A send queue that was never cut inside a frame has whole frames.
    fn check_send_queue(&mut self, key: PeerKey) {
        let mut rest = self.core.send_queue(key).to_vec();
        // The last write was partial and not at the start of a frame, so nothing can be checked.
        while let Ok(DecodedFrame::Frame(_, length)) = decode(&rest, usize::MAX) {
            rest.drain(..length);
        }
    }
}

/// A message of these bytes, so that the fuzzer need not guess every length.
fn framed(data: &[u8]) -> Vec<u8> {
    let [kind, subject, data @ ..] = data else { return Vec::new() };
    let subject = usize::from(*subject).min(data.len());
    let mut frame = ((32 + data.len()) as u32).to_le_bytes().to_vec();
    frame.extend([1 + kind % 17, kind >> 5, subject as u8, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    frame.extend(u64::from(*kind).to_le_bytes());
    frame.extend([0; 8]);
    frame.extend(data);
    frame
}
