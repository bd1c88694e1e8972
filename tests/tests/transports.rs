//! The tool uses the transport that is asked for, and never another one.

use std::path::Path;

use ipcd_tests::{
    Daemon, DaemonSetup, OpenDescriptor, RunningProcess, SCHEMES, descriptors, eventually,
    identity_kind, skip,
};
use ipcd_transport::IdentityKind;
use serde_json::Value;

/// The descriptors that move messages: not epoll and its like, and not a worker's link.
fn channels(pid: i32) -> Vec<OpenDescriptor> {
    let all = descriptors(pid).into_values();
    let mut channels: Vec<_> = all
        .filter(|fd| !matches!(fd, OpenDescriptor::Other(_) | OpenDescriptor::Unix("seqpacket")))
        .collect();
    channels.sort();
    channels
}

/// Whether these are the descriptors of one end of one channel over this transport.
fn are_of(scheme: &str, channels: &[OpenDescriptor]) -> bool {
    use OpenDescriptor::{Path, Pipe, Tcp, Udp, Unix};
    match (scheme, channels) {
        ("unix", [Unix("stream")])
        | ("pipe", [Pipe, Pipe])
        | ("tcp", [Tcp(..)])
        | ("udp", [Udp(..)]) => true,
        ("fifo", [Path(down), Path(up)]) => down.contains(".down") && up.contains(".up"),
        _ => false,
    }
}

/// `clients -j` and the kernel agree on the receiver.
fn check_client(scheme: &str, client: &Value, receiver: &RunningProcess, port: u64) {
    assert_eq!(client["transport"], scheme);
    let uid = u64::from(nix::unistd::Uid::current().as_raw());
    let (pid, uid, addr) = match identity_kind(scheme) {
        IdentityKind::Credentials => (Some(receiver.pid() as u64), Some(uid), None),
        IdentityKind::Owner => (None, Some(uid), None),
        IdentityKind::Address | IdentityKind::OtherAddress => {
            (None, None, Some(format!("127.0.0.1:{port}")))
        }
    };
    assert_eq!(client["pid"].as_u64(), pid, "{client}");
    assert_eq!(client["uid"].as_u64(), uid, "{client}");
    assert_eq!(client["addr"].as_str(), addr.as_deref(), "{client}");
}

/// The client that has subscribed to this.
fn find_receiver(daemon: &Daemon, filter: &str) -> Value {
    let mut clients = daemon.clients().into_iter();
    let found = clients.find(|client| client["subscriptions"] == serde_json::json!([filter]));
    found.expect("the receiver is listed")
}

fn serves_alone(scheme: &str) {
    let daemon = DaemonSetup::new().listen(&[scheme]).start();
    for other in SCHEMES.into_iter().filter(|&other| other != scheme) {
        let ended = daemon.ctl(other, &["send", "only", "lost"]).run().expect(3);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    let worker = daemon.worker();
    let mut receiver = daemon.recv(scheme, &["-C", "1", "only"]);
    eventually("a worker with this one peer", || are_of(scheme, &channels(worker)).then_some(()));
    let ours = channels(receiver.pid());
    assert!(are_of(scheme, &ours), "ipcctl --via {scheme} has {ours:?}");
    let port = match (&ours[0], &channels(worker)[0]) {
        (OpenDescriptor::Tcp(client, daemon), OpenDescriptor::Tcp(local, remote))
        | (OpenDescriptor::Udp(client, daemon), OpenDescriptor::Udp(local, remote)) => {
            assert_eq!((client, daemon), (remote, local));
            *client
        }
        _ => 0,
    };
    check_client(scheme, &find_receiver(&daemon, "only"), &receiver, port.into());
    let status = daemon.status();
    let listeners = status["listeners"].as_array().expect("an array");
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0]["endpoint"], daemon.via(scheme));
    assert_eq!((&listeners[0]["codec"], &listeners[0]["peers"]), (&"frame".into(), &2.into()));
    daemon.ctl(scheme, &["send", "only", "for you"]).run().expect(0);
    assert_eq!(receiver.wait().expect(0).text(), "for you\n");
}

#[test]
fn unix_alone() {
    serves_alone("unix");
}

#[test]
fn pipe_alone() {
    serves_alone("pipe");
}

#[test]
fn fifo_alone() {
    serves_alone("fifo");
}

#[test]
fn tcp_alone() {
    serves_alone("tcp");
}

#[test]
fn udp_alone() {
    serves_alone("udp");
}

#[test]
fn each_transport_that_listens_by_default_has_its_test() {
    assert_eq!(*SCHEMES, ["unix", "pipe", "fifo", "tcp", "udp"], "serves_alone of each one");
}

/// Without certificates, which have tests of their own.
#[test]
fn the_others_serve_where_the_daemon_is_told_to_listen() {
    let others = ipcd_transports::ALL.iter().filter(|transport| !transport.listens_by_default());
    for transport in others {
        let scheme = transport.scheme();
        let Ok(default) = transport.default_endpoint(Path::new("/nonexistent")) else { continue };
        let endpoint = default.with_any_port();
        if let Err(error) = transport.listen(&endpoint) {
            skip(&error.to_string());
            continue;
        }
        let daemon = DaemonSetup::new().listen(&["unix"]).extra(&[&endpoint.to_string()]).start();
        let mut receiver = daemon.recv(scheme, &["-C", "1", "asked"]);
        assert_eq!(find_receiver(&daemon, "asked")["transport"], scheme);
        daemon.ctl(scheme, &["send", "asked", scheme]).run().expect(0);
        assert_eq!(receiver.wait().expect(0).text(), format!("{scheme}\n"));
    }
}

#[test]
fn unix_with_seqpacket_sockets() {
    let dir = ipcd_tests::private_dir();
    let socket = format!("unix://{}/s.sock?type=seqpacket", dir.path().display());
    let daemon = DaemonSetup::new().listen(&["tcp"]).args(&["-l", &socket]).start();
    let mut receiver = daemon.recv(&socket, &["-C", "1", "q"]);
    let found: Vec<_> = descriptors(receiver.pid()).into_values().collect();
    assert!(found.contains(&OpenDescriptor::Unix("seqpacket")), "{found:?}");
    assert!(!found.contains(&OpenDescriptor::Unix("stream")), "{found:?}");
    daemon.ctl(&socket, &["send", "q", "whole"]).run().expect(0);
    assert_eq!(receiver.wait().expect(0).text(), "whole\n");
}

#[test]
fn a_ping_names_the_endpoint() {
    let daemon = Daemon::start();
    for scheme in SCHEMES {
        let ended = daemon.ctl(scheme, &["ping", "-c", "2", "--interval", "1ms"]).run().expect(0);
        let text = ended.text();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(&daemon.via(scheme)), "{text}");
    }
}
