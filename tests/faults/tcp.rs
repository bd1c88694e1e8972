//! TCP: resets at bad moments, full backlogs, and connections that are lost on one side only.

use std::time::Duration;

use ipcd_proto::{Frame, FrameKind, FrameWriter, Header};
use ipcd_tests::{Daemon, DaemonSetup, FaultScene, RawConnection, eventually, state};
use nix::libc::linger;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::network::{alone, run};

/// Closes with RST instead of FIN (socket(7), `SO_LINGER`).
fn reset(raw: RawConnection) {
    let socket = raw.tcp_socket().expect("it is a TCP connection");
    let at_once = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(socket, sockopt::Linger, &at_once).expect("the option exists");
}

#[test]
fn a_reset_inside_a_frame() {
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let frame = RawConnection::message_bytes(1, b"half", &[b'x'; 100_000]);
    for cut in [0, 1, 4, 31, 32, 40, 60_000, 99_999] {
        for open in [false, true] {
            let mut raw = scene.daemon.raw("tcp");
            if open {
                raw = raw.open_with(&scene.daemon.token());
                raw.subscribe(1, "half");
            }
            raw.send(&frame[..cut]);
            reset(raw);
        }
    }
    scene.check("resets inside a frame");
}

/// The supervisor does not accept for a while, and finds connections that are gone already.
fn with_a_stopped_supervisor(scene: &FaultScene, meanwhile: impl FnOnce(&Daemon)) {
    let supervisor = scene.daemon.process.pid();
    kill(Pid::from_raw(supervisor), Signal::SIGSTOP).expect("the process runs");
    eventually("the process is stopped", || (state(supervisor) == Some('T')).then_some(()));
    meanwhile(&scene.daemon);
    scene.load().goes_on();
    kill(Pid::from_raw(supervisor), Signal::SIGCONT).expect("the process runs");
}

#[test]
fn a_reset_before_it_is_accepted() {
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    with_a_stopped_supervisor(&scene, |daemon| {
        for number in 0..60 {
            let mut raw = daemon.raw("tcp");
            if number % 2 == 0 {
                raw.send(&RawConnection::hello_bytes());
            }
            reset(raw);
        }
    });
    scene.check("resets before accept");
}

#[test]
fn a_full_queue_is_served_when_there_is_time() {
    const WAITING: usize = 100;
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let mut waiting = Vec::new();
    with_a_stopped_supervisor(&scene, |daemon| {
        waiting = (0..WAITING).map(|_| daemon.raw("tcp")).collect();
        waiting.extend((0..WAITING).map(|_| daemon.raw("unix")));
    });
    for (number, raw) in waiting.into_iter().enumerate() {
        match number < WAITING {
            true => drop(raw.open_with(&scene.daemon.token())),
            false => drop(raw.open()),
        }
    }
    scene.check("full queues");
}

/// A peer that ends its writing direction is gone, with the answers that it waits for.
#[test]
fn a_half_close_with_replies_outstanding() {
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let mut responder = scene.daemon.client("unix");
    responder.subscribe("ask", Default::default()).expect("the peer may subscribe");
    for scheme in ["tcp", "unix"] {
        let mut asker = scene.daemon.session(scheme);
        for id in 1..=200_u64 {
            let header = Header { request: true, wait: 60, ..Header::new(FrameKind::Message, id) };
            let (reply, mut request) = (format!("@{}.{id}", asker.peer()), Vec::new());
            let (subject, reply, headers, payload) =
                (&b"ask"[..], reply.as_bytes(), &[][..], &b"?"[..]);
            FrameWriter(&mut request).write(&Frame { header, subject, reply, headers, payload });
            asker.send(&request);
        }
        asker.finish();
        while asker.frame().is_some_and(|frame| frame.header.kind != FrameKind::Bye) {}
    }
    for _ in 0..400 {
        let event = responder.next_event(Some(std::time::Instant::now() + ipcd_tests::PATIENCE));
        let Ok(Some(ipcd_client::Event::Message(request))) = event else { panic!("{event:?}") };
        responder.reply(&request, b"too late").expect("its connection lives");
    }
    responder.flush().expect("its connection lives");
    drop(responder);
    eventually("no request is open", || (scene.daemon.counter("outcomes_open") == 0).then_some(()));
    scene.check("half-closed requesters");
}

/// Restarts again and again on one port, with former connections in TIME_WAIT.
fn restarts(count: usize) {
    let mut daemon = DaemonSetup::new().listen(&["tcp"]).start();
    let endpoint = daemon.via("tcp");
    for _ in 0..count {
        // The daemon closes first, so that its side is the one in TIME_WAIT.
        let mut peer = daemon.session("tcp");
        peer.subscribe(1, "x");
        daemon.terminate().expect(0);
        while peer.frame().is_some() {}
        daemon =
            DaemonSetup::new().listen(&[]).args(&["-l", &endpoint]).start_in(daemon.into_dir());
    }
    daemon.ctl(&endpoint, &["ping"]).run().expect(0);
}

#[test]
fn four_restarts_on_the_same_port() {
    restarts(4);
}

#[test]
#[ignore = "long: a hundred restarts"]
fn a_hundred_restarts_on_the_same_port() {
    restarts(100);
}

/// The network is gone without a report: keep-alive notices it.
#[test]
#[ignore = "long: a minute, as TCP takes"]
fn a_half_open_connection_is_found_out() {
    alone(|| {
        let scene = FaultScene::start(DaemonSetup::new(), &["unix"]);
        let mut peer = scene.daemon.session("tcp");
        peer.subscribe(1, "news");
        scene.daemon.wait_for_peers(scene.load().peers() + 1);
        run("ip", &["link", "set", "lo", "down"]);
        let log = &scene.daemon.process.stderr;
        log.wait_until("that the peer is gone", |text| {
            let gone = |line: &str| line.contains("peer gone") && line.contains("transport=tcp");
            text.lines().any(gone).then_some(())
        });
        run("ip", &["link", "set", "lo", "up"]);
        scene.endure(Duration::from_millis(100));
        drop(peer);
        scene.check("a half-open connection");
    });
}
