//! The largest payload goes through every pair; one byte more is refused, and nothing else fails.

use ipcd_client::Error;
use ipcd_proto::FrameKind;
use ipcd_proto::control::RefusalCode;
use ipcd_tests::{Daemon, MessageStream, SCHEMES, message};

const LARGEST: usize = 1024 * 1024;

/// Text of this length that differs by seed.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let (mut text, mut piece) = (Vec::with_capacity(length), Vec::new());
    for number in 0.. {
        message(MessageStream { count: 0, longest: 8000, seed }, number, &mut piece);
        text.extend_from_slice(&piece[..piece.len().min(length - text.len())]);
        if text.len() == length {
            return text;
        }
    }
    unreachable!("there is always more text");
}

#[test]
fn a_mebibyte_through_every_pair() {
    let daemon = Daemon::start();
    let count = SCHEMES.len().to_string();
    let mut receivers = SCHEMES.map(|scheme| daemon.recv(scheme, &["-N", "-C", &count, "big.*"]));
    let bodies: Vec<_> = (0..).zip(SCHEMES).map(|(seed, _)| text(LARGEST, seed)).collect();
    for (sender, body) in SCHEMES.into_iter().zip(&bodies) {
        let subject = format!("big.{sender}");
        daemon.ctl(sender, &["send", &subject]).run_fed(body).expect(0);
    }
    for (receiver, scheme) in receivers.iter_mut().zip(SCHEMES) {
        let ended = receiver.wait().expect(0);
        assert_eq!(ended.stdout.len(), SCHEMES.len() * LARGEST, "to {scheme}");
        for (got, (from, body)) in
            ended.stdout.chunks(LARGEST).zip(SCHEMES.into_iter().zip(&bodies))
        {
            assert!(got == body, "{from} to {scheme}: another text came");
        }
    }
    assert_eq!(daemon.counter("records_lost"), 0);
}

#[test]
fn one_byte_more_is_refused_with_8() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("body");
    std::fs::write(&file, text(LARGEST + 1, 1)).expect("the directory is writable");
    let file = file.to_str().expect("the path is text");
    for scheme in SCHEMES {
        let ended = daemon.ctl(scheme, &["send", "big", "-f", file]).run().expect(8);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for word in ["send big", "1048577", "1048576"] {
            assert!(ended.stderr.contains(word), "{scheme}: {}", ended.stderr);
        }
    }
    let body = text(LARGEST + 1, 1);
    let ended = daemon.ctl("unix", &["send", "big"]).run_fed(&body).expect(8);
    assert!(ended.stderr.contains("1048576"), "{}", ended.stderr);
    let ended = daemon.ctl("unix", &["send", "big", "-l"]).run_fed(&body).expect(8);
    assert!(ended.stderr.contains("1048576"), "{}", ended.stderr);
    assert_eq!(daemon.counter("messages_accepted"), 0);
}

#[test]
fn the_connection_of_a_client_lives_on() {
    let daemon = Daemon::start();
    for scheme in SCHEMES {
        let mut client = daemon.client(scheme);
        let peer = client.peer();
        client.subscribe("on", Default::default()).expect("the peer may subscribe");
        let refused = client.publish("on", &text(LARGEST + 1, 2));
        let limits = matches!(refused, Err(Error::TooLarge { bytes, limit })
            if (bytes, limit) == (LARGEST + 1, LARGEST));
        assert!(limits, "{scheme}: {refused:?}");
        client.send("on", b"and on").expect("the connection lives on");
        let message = client.messages().next().expect("messages never end");
        assert_eq!(message.expect("a message came").payload(), b"and on");
        assert_eq!(client.peer(), peer);
        client.close().expect("all messages are accepted");
    }
}

/// The same test against the daemon: the client library would not send this.
#[test]
fn the_daemon_refuses_the_message_and_not_the_peer() {
    let daemon = Daemon::start();
    let mut raw = daemon.raw("unix").open();
    raw.message(7, b"big", &text(LARGEST + 1, 3));
    let answer = raw.expect(FrameKind::Error);
    assert_eq!(answer.header.correlation, 7);
    let (code, why) = answer.refusal();
    assert_eq!(code, RefusalCode::TooLarge);
    assert!(why.contains("1048577") && why.contains("1048576"), "{why}");
    raw.control(FrameKind::Flush, 8, &[]);
    assert_eq!(raw.expect(FrameKind::Ack).header.correlation, 8);
    assert_eq!(daemon.counter("frames_refused"), 1);
}

#[test]
fn a_lower_limit_may_be_configured() {
    let config = "[limits]\nmax_message = \"1KiB\"\n";
    let daemon = ipcd_tests::DaemonSetup::new().config(config).start();
    for scheme in SCHEMES {
        daemon.ctl(scheme, &["send", "low"]).run_fed(&text(1024, 4)).expect(0);
        daemon.ctl(scheme, &["send", "low"]).run_fed(&text(1025, 4)).expect(8);
    }
}
