//! Unix sockets and pipes: unexpected descriptors, and flags that others can reach.

use std::fs::{self, File};
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use ipcd_tests::{
    Daemon, DaemonSetup, FaultScene, NeighbourPair, RawConnection, children, descriptors,
};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

fn connected(path: &Path, kind: SockType) -> OwnedFd {
    let made = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
    let made = made.expect("a socket");
    let address = UnixAddr::new(path).expect("the path is short enough");
    connect(made.as_raw_fd(), &address).expect("the daemon listens");
    made
}

/// Sends bytes with this number of copies of a pipe's writing end, and returns the reading end.
fn send_rights(socket: &OwnedFd, bytes: &[u8], count: usize) -> File {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let rights: Vec<RawFd> = vec![writer.as_raw_fd(); count];
    let control = [ControlMessage::ScmRights(&rights)];
    let parts = [IoSlice::new(bytes)];
    // The rendezvous of pipes may have closed already.
    let flags = MsgFlags::MSG_NOSIGNAL;
    let _ = sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, &control, flags, None);
    reader.into()
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let records = "unix://RUN/records.sock?type=seqpacket";
    let scene = FaultScene::start(DaemonSetup::new().extra(&[records]), &["unix", "pipe"]);
    let run = scene.daemon.runtime_dir();
    let hello = RawConnection::hello_bytes();
    let record = [&[0], &hello[..]].concat();
    for (name, kind, bytes) in [
        ("ipcd.sock", SockType::Stream, &hello),
        ("records.sock", SockType::SeqPacket, &record),
        ("pipe.sock", SockType::Stream, &hello),
    ] {
        // 253 is the most that the kernel takes (SCM_MAX_FD); one and two leave padding behind.
        for count in [1, 2, 3, 17, 253] {
            let socket = connected(&run.join(name), kind);
            let mut readers = vec![send_rights(&socket, bytes, count)];
            for cut in [0, 3, bytes.len() - 1] {
                readers.push(send_rights(&socket, &bytes[..cut], count));
            }
            drop(socket);
            // A pipe ends only when all its writing ends are closed, the daemon's included.
            for mut reader in readers {
                assert_eq!(reader.read(&mut [0; 8]).expect("a pipe can be read"), 0, "{name}");
            }
            scene.load().goes_on();
        }
    }
    scene.check("unexpected descriptors");
}

/// Flags that a client sets on its own ends do not show at the daemon's.
#[test]
fn a_client_that_blocks_its_ends_does_not_block_the_daemon() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";
    let scene =
        FaultScene::start(DaemonSetup::new().config(config).args(&["--workers", "1"]), &["unix"]);
    let neighbour = NeighbourPair::of(&scene.daemon);
    for scheme in ["unix", "pipe", "fifo", "tcp"] {
        let mut raw = scene.daemon.session(scheme);
        raw.block();
        raw.subscribe(1, "full");
        let mut publisher = scene.daemon.client("unix");
        let flood = std::thread::spawn(move || {
            (0..3000).for_each(|_| {
                publisher.publish("full", &[b'x'; 1000]).expect("the connection lives");
            });
            publisher.flush().expect("all messages are accepted");
        });
        neighbour.goes_on();
        flood.join().expect("the stalled one is cut off");
        neighbour.goes_on();
    }
    drop(neighbour);
    scene.check("ends that block");
}

/// The inodes of the sockets of a process.
fn sockets(pid: i32) -> Vec<String> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let links = dir.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inode = |link: std::path::PathBuf| {
        Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
    };
    links.filter_map(inode).collect()
}

#[test]
fn no_abstract_name_is_taken_unless_it_is_asked_for() {
    let named = |daemon: &Daemon| -> Vec<String> {
        let supervisor = daemon.process.pid();
        let pids = children(supervisor).into_iter().chain([supervisor]);
        let ours: Vec<String> = pids.flat_map(sockets).collect();
        assert!(!descriptors(supervisor).is_empty() && !ours.is_empty());
        let table = fs::read_to_string("/proc/net/unix").expect("the kernel tells");
        let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        fields
            .filter(|fields| fields.get(7).is_some_and(|path| path.starts_with('@')))
            .filter(|fields| ours.iter().any(|inode| inode == fields[6]))
            .map(|fields| fields[7].to_owned())
            .collect()
    };
    assert_eq!(named(&Daemon::start()), Vec::<String>::new());
    let name = format!("@ipcd-test-{}", std::process::id());
    let asked = DaemonSetup::new().extra(&[&format!("unix:{name}")]).start();
    assert_eq!(named(&asked), [name]);
}
