//! Notifications of a service manager: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use ipcd_tests::{Daemon, DaemonSetup, PATIENCE};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, UnixAddr, bind, sendto};

/// A service manager's socket.
fn manager(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("the directory is writable");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    socket
}

fn heard(socket: &UnixDatagram) -> String {
    let mut room = [0; 4096];
    let count = socket.recv(&mut room).expect("something is said");
    String::from_utf8_lossy(&room[..count]).into_owned()
}

/// A daemon that knows of the socket, with further variables.
fn start(manager: &Path, variables: &str, setup: DaemonSetup) -> Daemon {
    let script = format!("NOTIFY_SOCKET={} {variables} exec \"$@\"", manager.display());
    setup.wrapper(&script).start()
}

/// Stable distributions have systemd 252, which ignores a type that it does not know.
#[test]
fn the_unit_is_one_that_systemd_252_knows() {
    let unit = include_str!("../../docs/systemd/ipcd.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default()
    };
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("ExecReload"), "/bin/sh -c 'kill -HUP $MAINPID'");
}

#[test]
fn the_service_manager_follows_the_daemons_life() {
    let dir = ipcd_tests::private_dir();
    let path = dir.path().join("notify");
    let manager = manager(&path);
    let setup = DaemonSetup::new().listen(&["unix"]).config("[limits]\nmax_peers = 99\n");
    let mut daemon = start(&path, "", setup.args(&["--workers", "2"]));
    let ready = "READY=1\nSTATUS=serving on 1 listener with 2 workers\n";
    assert_eq!(heard(&manager), ready);
    let reload = |daemon: &mut Daemon| {
        daemon.process.signal(Signal::SIGHUP);
        let said = heard(&manager);
        let time = said.strip_prefix("RELOADING=1\nSTATUS=reloading\nMONOTONIC_USEC=");
        let time: u64 = time.and_then(|time| time.trim_end().parse().ok()).expect(&said);
        assert!(time > 0);
        heard(&manager)
    };
    assert_eq!(reload(&mut daemon), ready);
    fs::write(daemon.config_file(), "[limits]\nmax_peers = \"many\"\n")
        .expect("the file can be written");
    let said = reload(&mut daemon);
    assert!(
        said.starts_with("READY=1\nSTATUS=serving on 1 listener with 2 workers; not reloaded: ")
    );
    assert!(said.contains("ipcd.toml:2:13") && said.lines().count() == 2, "{said}");
    daemon.process.signal(Signal::SIGTERM);
    assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining, for at most 10s\n");
    daemon.process.wait().expect(0);
    manager.set_nonblocking(true).expect("a socket");
    assert!(manager.recv(&mut [0; 99]).is_err(), "a sign of life without WATCHDOG_USEC");
}

#[test]
fn a_reload_without_a_file_is_answered() {
    let dir = ipcd_tests::private_dir();
    let path = dir.path().join("notify");
    let manager = manager(&path);
    let setup = DaemonSetup::new().listen(&["unix"]).args(&["--fork", "connection"]);
    let mut daemon = start(&path, "WATCHDOG_PID=1 WATCHDOG_USEC=2000", setup);
    let ready = "READY=1\nSTATUS=serving on 1 listener with up to 256 children\n";
    assert_eq!(heard(&manager), ready);
    daemon.process.signal(Signal::SIGHUP);
    // A watchdog for another process gets no signs of life from us.
    assert!(heard(&manager).starts_with("RELOADING=1\n"));
    assert_eq!(heard(&manager), ready);
}

#[test]
fn a_watchdog_is_told_again_and_again() {
    let dir = ipcd_tests::private_dir();
    let path = dir.path().join("notify");
    let manager = manager(&path);
    let setup = DaemonSetup::new().listen(&["unix"]);
    let daemon = start(&path, "WATCHDOG_PID=$$ WATCHDOG_USEC=100000", setup);
    let mut ready = 0;
    for _ in 0..6 {
        match heard(&manager).as_str() {
            "WATCHDOG=1" => {}
            said => {
                assert!(said.starts_with("READY=1\n"), "{said}");
                ready += 1;
            }
        }
    }
    assert_eq!(ready, 1);
    drop(daemon);
}

/// The socket is full, because the manager does not read. The daemon serves, and reports later.
#[test]
fn a_service_manager_that_hangs_is_not_waited_for() {
    let name = format!("ipcd-test-notify-{}", std::process::id());
    let address = UnixAddr::new_abstract(name.as_bytes()).expect("a name");
    let manager = UnixDatagram::unbound().expect("a socket");
    bind(manager.as_raw_fd(), &address).expect("the name is free");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("a socket");
    let fill = || sendto(other.as_raw_fd(), b"other", &address, MsgFlags::empty()).is_ok();
    while fill() {}
    let setup = DaemonSetup::new().listen(&["unix"]);
    let daemon = start(Path::new(&format!("@{name}")), "WATCHDOG_USEC=2000", setup);
    daemon.ctl("unix", &["ping"]).run().expect(0);
    while !heard(&manager).starts_with("READY=1\n") {}
    drop(daemon);
}
