//! Paths and names that other users can reach: the users that may connect, and files left alone.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, eventually, ipcctl, private_dir, skip};
use nix::sys::stat::Mode;
use nix::unistd::{getuid, mkfifo};

/// A user, and its group, other than the daemon's.
const OTHER: u32 = 65533;

fn ping_as_another(via: &str) -> Option<i32> {
    let mut command = Command::new(ipcctl());
    command.args(["--via", via, "--timeout", "5s", "ping", "-c", "1"]);
    RunningProcess::start(command.uid(OTHER).gid(OTHER)).wait().status.code()
}

/// An abstract name has no rights of its own (unix(7)).
#[test]
fn an_abstract_name_lets_in_whom_its_mode_does() {
    if !getuid().is_root() {
        return skip("only root can act as another user");
    }
    let name = |what: &str| format!("unix:@ipcd-paths-{}-{what}", std::process::id());
    let cases = [
        ("own", "", false),
        ("mode", "?mode=0600", false),
        ("record", "?mode=0600&type=seqpacket", false),
        ("group-of-root", "?mode=0660", false),
        ("group", "?mode=0060&group=65533", true),
        ("owner", "?mode=0600&owner=65533", true),
        ("all", "?mode=0666", true),
    ];
    let listeners = cases.map(|(what, options, _)| name(what) + options);
    let daemon = DaemonSetup::new().extra(&listeners.each_ref().map(String::as_str)).start();
    for (what, options, comes_in) in cases {
        let via = match options.contains("seqpacket") {
            true => format!("{}?type=seqpacket", name(what)),
            false => name(what),
        };
        assert_eq!(ping_as_another(&via) == Some(0), comes_in, "{what}");
        daemon.ctl(&via, &["ping"]).run().expect(0);
    }
    let log = daemon.log();
    assert!(log.contains("uid=65533,gid=65533 refused: rights are mode=0600"), "{log}");
}

#[test]
fn a_bare_abstract_name_and_a_relay_ask_too() {
    if !getuid().is_root() {
        return skip("only root can act as another user");
    }
    let name = |what: &str| format!("ipcd-paths-{}-{what}", std::process::id());
    let (stream, datagram, relay) = (name("bare"), name("dgram"), name("relay"));
    let daemon = DaemonSetup::new()
        .listen(&["unix"])
        .extra(&[
            &format!("unix:@{stream}?codec=line&subject=x"),
            &format!("unix:@{datagram}?type=dgram&codec=line&subject=x"),
        ])
        .start();
    let endpoint = format!("unix:@{relay}");
    let mut relaying = Command::new(ipcctl());
    let relaying = RunningProcess::start(relaying.args(["relay", "--raw", &endpoint, "pipe:cat"]));
    relaying.stderr.wait_for("listening on");
    let script = "import socket, sys\n\
        for name in sys.argv[1], sys.argv[3]:\n    \
            s = socket.socket(socket.AF_UNIX); s.connect('\\0' + name)\n    \
            try:\n        s.sendall(b'x\\n'); assert not s.recv(1)\n    \
            except OSError: pass\n\
        d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        d.sendto(b'x', '\\0' + sys.argv[2])\n";
    if ipcd_tests::is_without(&["python3"]) {
        return;
    }
    let mut other = Command::new("python3");
    other.args(["-c", script, &stream, &datagram, &relay]).uid(OTHER).gid(OTHER);
    RunningProcess::start(&mut other).wait().expect(0);
    eventually("both peers are refused", || {
        (daemon.log().matches("refused: rights are mode=0600").count() == 2).then_some(())
    });
    relaying.stderr.wait_for("refused: rights are mode=0600");
    assert_eq!(daemon.counter("messages_accepted"), 0);
}

#[test]
fn what_another_program_serves_is_left_alone() {
    let dir = private_dir();
    let path = dir.path().join("theirs.sock");
    let theirs = UnixListener::bind(&path).expect("the path is free");
    let endpoint = format!("unix://{}", path.display());
    let bare = format!("{endpoint}?codec=line&subject=x");
    let seqpacket = format!("{endpoint}?type=seqpacket");
    let pipe = format!("pipe://{}", path.display());
    for listener in [&endpoint, &bare, &seqpacket, &pipe] {
        let ended = DaemonSetup::new().listen(&[]).args(&["-l", listener]).spawn(dir.path()).wait();
        assert_eq!(ended.status.code(), Some(1), "{listener}: {}", ended.stderr);
        assert!(ended.stderr.contains("another process serves it"), "{}", ended.stderr);
    }
    let mut relay = Command::new(ipcctl());
    let ended =
        RunningProcess::start(relay.args(["relay", &endpoint, "pipe:cat"])).wait().expect(3);
    assert!(ended.stderr.contains("another process serves it"), "{}", ended.stderr);
    drop(UnixStream::connect(&path).expect("the listener accepts a connection"));
    theirs.accept().expect("the daemon connects");
}

#[test]
fn a_directory_that_others_can_change_is_named() {
    let dir = private_dir();
    let open = dir.path().join("open");
    fs::create_dir_all(open.join("in")).expect("the directory is writable");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("the file is writable");
    let inside = open.join("in");
    let shown = inside.display();
    let check = |args: &[&str]| {
        let ended = DaemonSetup::new().listen(&[]).args(args).spawn(dir.path()).wait();
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.stderr);
        let named = format!("{}: other users can change this directory", open.display());
        assert!(ended.stderr.contains(&named), "{args:?}: {}", ended.stderr);
    };
    for listener in [
        format!("unix://{shown}/s"),
        format!("pipe://{shown}/s"),
        format!("fifo://{shown}/s"),
        format!("fifo://{shown}/s?codec=line&subject=x"),
        format!("unix://{shown}/s?type=dgram&codec=line&subject=x"),
    ] {
        check(&["-l", &listener]);
    }
    check(&["-l", "tcp://127.0.0.1:0", "--pid-file", &format!("{shown}/pid")]);
    let run = ["--runtime-dir", &format!("{shown}/run"), "-l", "tcp://127.0.0.1:0"];
    let mut daemon = Command::new(ipcd_tests::ipcd());
    let ended = RunningProcess::start(daemon.args(run)).wait().expect(2);
    assert!(ended.stderr.contains("other users can change this directory"), "{}", ended.stderr);
}

#[test]
fn a_lock_that_is_a_fifo_stops_no_reload() {
    let dir = private_dir();
    let listen =
        |name: &str| format!("[[listen]]\nendpoint = \"unix://{}/{name}\"\n", dir.path().display());
    let (own, more) = (listen("own.sock"), listen("more.sock"));
    let via = format!("unix://{}/own.sock", dir.path().display());
    mkfifo(&dir.path().join("more.sock.lock"), Mode::S_IRWXU).expect("the directory is writable");
    let daemon = DaemonSetup::new().listen(&[]).config(&own).start_in(dir);
    daemon.configure(&(own + &more), "not reloaded");
    assert!(daemon.log().contains("more.sock.lock is no lock file"), "{}", daemon.log());
    daemon.ctl(&via, &["ping"]).run().expect(0);
}

#[test]
fn a_token_that_others_may_read_proves_nothing() {
    let dir = private_dir();
    let file = dir.path().join("ci");
    fs::write(&file, "a secret that only the CI knows\n").expect("the directory is writable");
    let shown = file.to_str().expect("the path is text");
    let set = |mode| {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("the file is writable")
    };
    let config = format!("[[token]]\nname = \"ci\"\nfile = \"{shown}\"\n");
    set(0o644);
    let open = |dir: &Path, mode| {
        fs::set_permissions(dir, Permissions::from_mode(mode)).expect("the file is writable");
    };
    open(dir.path(), 0o711);
    // `ipcctl` would refuse the same file, so the test gives it a copy.
    let copy = dir.path().join("copy");
    fs::copy(&file, &copy).expect("the directory is writable");
    fs::set_permissions(&copy, Permissions::from_mode(0o600)).expect("the file is writable");
    let copy = copy.to_str().expect("the path is text");
    let daemon = DaemonSetup::new().listen(&["tcp", "unix"]).config(&config).start();
    let prove = |expected| {
        let named = ["--token-file", copy, "--token-name", "ci", "ping", "-c", "1"];
        daemon.ctl("tcp", &named).run().expect(expected);
    };
    prove(6);
    assert!(daemon.log().contains("token not in force"), "{}", daemon.log());
    for (mode, expected) in [(0o640, 0), (0o660, 6), (0o600, 0), (0o602, 6)] {
        set(mode);
        daemon.hang_up("reloaded");
        prove(expected);
    }
    // A directory keeps the other users out, so the daemon only warns.
    open(dir.path(), 0o700);
    daemon.hang_up("reloaded");
    prove(0);
    assert!(daemon.log().contains("only a directory keeps other users"), "{}", daemon.log());
    let own = daemon.runtime_dir().join("token");
    fs::set_permissions(own, Permissions::from_mode(0o604)).expect("the file is writable");
    open(daemon.dir(), 0o711);
    daemon.hang_up("reloaded");
    daemon.ctl("tcp", &["ping", "-c", "1"]).run().expect(6);
}

#[test]
fn a_client_refuses_a_token_that_others_may_read_or_change() {
    let daemon = DaemonSetup::new().listen(&["tcp"]).start();
    let dir = private_dir();
    let file = dir.path().join("token");
    fs::copy(daemon.runtime_dir().join("token"), &file).expect("the directory is writable");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("the file is writable");
    };
    let ping = |expected| {
        let token = file.to_str().expect("the path is text");
        let ended = daemon.ctl("tcp", &["--token-file", token, "ping"]).run();
        ended.expect(expected).stderr
    };
    set(dir.path(), 0o711);
    for mode in [0o644, 0o660, 0o602] {
        set(&file, mode);
        let stderr = ping(6);
        let why = format!("other users may read or change it (mode {mode:04o})");
        assert!(stderr.contains(&why), "{stderr}");
    }
    for mode in [0o600, 0o640] {
        set(&file, mode);
        assert_eq!(ping(0), "");
    }
    // A directory keeps the other users out, so `ipcctl` only warns, as the daemon does.
    set(dir.path(), 0o700);
    set(&file, 0o644);
    let stderr = ping(0);
    assert!(stderr.contains("only a directory keeps other users from this token"), "{stderr}");
}

/// A script that writes while the daemon is down makes no file in the FIFO's place: it waits.
#[test]
fn what_is_written_to_a_fifo_between_two_starts_is_heard() {
    let daemon =
        DaemonSetup::new().listen(&["unix"]).extra(&["fifo://RUN/in?codec=line&subject=x"]);
    let mut daemon: Daemon = daemon.start();
    for _ in 0..2 {
        let path = daemon.runtime_dir().join("in");
        daemon.terminate().expect(0);
        let writer = thread::spawn(move || fs::write(path, "hello\n"));
        daemon = daemon.start_again();
        writer.join().expect("the thread does not panic").expect("it is heard");
        eventually("the message is received", || {
            (daemon.counter("messages_accepted") == 1).then_some(())
        });
    }
}

/// The length that bind(2) takes.
#[test]
fn a_socket_path_may_have_107_bytes() {
    let dir = private_dir();
    let start = dir.path().display().to_string();
    for kind in ["stream", "seqpacket"] {
        let path = format!("{start}/{}", "s".repeat(107 - start.len() - 1));
        let endpoint = format!("unix://{path}?type={kind}");
        let daemon = DaemonSetup::new().listen(&[]).extra(&[&endpoint]).start();
        daemon.ctl(&endpoint, &["ping"]).run().expect(0);
    }
}

#[test]
fn a_pid_file_that_is_none_is_refused() {
    let dir = private_dir();
    let (device, file) = ("/dev/null", dir.path().join("precious"));
    fs::write(&file, "precious").expect("the directory is writable");
    for path in [device, file.to_str().expect("the path is text")] {
        let args = ["-l", "tcp://127.0.0.1:0", "--pid-file", path];
        let ended = DaemonSetup::new().listen(&[]).args(&args).spawn(dir.path()).wait();
        assert_eq!(ended.status.code(), Some(2), "{path}: {}", ended.stderr);
        assert!(ended.stderr.contains("--pid-file"), "{path}: {}", ended.stderr);
    }
    let mut text = String::new();
    fs::File::open(&file).and_then(|mut file| file.read_to_string(&mut text)).expect("it is there");
    assert_eq!(text, "precious");
}

/// In a directory such as /tmp any user can serve the path first.
#[test]
fn a_client_asks_who_serves_it() {
    if !getuid().is_root() {
        return skip("only root can act as another user");
    }
    let dir = private_dir();
    let set = |mode| fs::set_permissions(dir.path(), Permissions::from_mode(mode));
    set(0o1777).expect("it is ours");
    let path = dir.path().join("theirs.sock");
    let endpoint = format!("unix://{}", path.display());
    let mut server = Command::new(ipcctl());
    server.args(["relay", "--raw", &format!("{endpoint}?mode=0666"), "pipe:cat"]);
    let server = RunningProcess::start(server.uid(OTHER).gid(OTHER));
    server.stderr.wait_for("listening on");
    let ping = |via: &str| {
        let mut command = Command::new(ipcctl());
        command.args(["--via", via, "--timeout", "2s", "ping", "-c", "1"]);
        RunningProcess::start(&mut command).wait()
    };
    let ended = ping(&endpoint).expect(3);
    assert!(ended.stderr.contains("uid 65533 serves it"), "{}", ended.stderr);
    let pipe = endpoint.replace("unix:", "pipe:");
    assert!(ping(&pipe).expect(3).stderr.contains("uid 65533 serves it"));
    let wrong = ping(&format!("{endpoint}?owner=0")).expect(3);
    assert!(wrong.stderr.contains("serves it, not 0"), "{}", wrong.stderr);
    // A client accepts the named user and the directory's owner; the server there is not ipcd.
    let meant = ping(&format!("{endpoint}?owner=65533"));
    assert!(!meant.stderr.contains("serves it"), "{}", meant.stderr);
    std::os::unix::fs::chown(dir.path(), Some(OTHER), None).expect("the test runs as root");
    assert!(!ping(&endpoint).stderr.contains("serves it"));
}
