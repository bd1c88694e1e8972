//! Sockets that a service manager passes: `LISTEN_FDS`.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, eventually, ipcd, is_without};

/// Binds the sockets that its first argument lists, `NAME KIND ADDRESS` a line, and executes the
/// program in its other arguments, as a service manager does.
const PASSER: &str = r#"
import os, socket, sys
kept, names = [], []
run = sys.argv[sys.argv.index("--runtime-dir") + 1]
os.makedirs(run, mode=0o755, exist_ok=True)
for line in filter(None, sys.argv[1].split("\n")):
    name, kind, address = line.replace("RUN", run).split(" ")
    if kind in ("tcp", "udp"):
        s = socket.socket(socket.AF_INET, {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[kind])
        host, port = address.rsplit(":", 1)
        s.bind((host, int(port)))
    elif kind in ("unix", "seqpacket", "dgram"):
        s = socket.socket(socket.AF_UNIX, {"unix": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM,
                                           "seqpacket": socket.SOCK_SEQPACKET}[kind])
        s.bind(address)
    elif kind == "connected":
        s = socket.socketpair()[0]
    elif kind == "fifo":
        os.path.exists(address) or os.mkfifo(address)
        s = os.open(address, os.O_RDONLY | os.O_NONBLOCK)
    elif kind == "file":
        s = os.open(address, os.O_RDONLY)
    if kind in ("tcp", "unix", "seqpacket"):
        s.listen()
    kept.append(os.dup(s if isinstance(s, int) else s.fileno()))
    os.set_inheritable(kept[-1], False)
    names.append(name)
high = [os.dup2(fd, 100 + i, False) for i, fd in enumerate(kept)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, True)
os.environ["LISTEN_FDS"] = str(len(high))
os.environ["LISTEN_FDNAMES"] = os.environ.get("NAMES", ":".join(names))
os.environ["LISTEN_PID"] = os.environ.get("PASS_TO", str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// A daemon with these sockets, and these listeners in its configuration.
fn setup(sockets: &[&str], config: &str) -> DaemonSetup {
    let script = format!("exec python3 -c '{PASSER}' '{}' \"$@\"", sockets.join("\n"));
    DaemonSetup::new().listen(&[]).config(config).wrapper(&script)
}

fn refused(sockets: &[&str], config: &str) -> String {
    let dir = ipcd_tests::private_dir();
    setup(sockets, config).spawn(dir.path()).wait().expect(2).stderr
}

/// The endpoints of passed sockets in the log, by the name of the listener.
fn passed(daemon: &Daemon, name: &str) -> String {
    let log = daemon.log();
    let name = format!("name={name:?} passed=true");
    let line = log.lines().find(|line| line.ends_with(&name));
    let line = line.unwrap_or_else(|| panic!("no listener {name}:\n{log}"));
    let (_, rest) = line.split_once("endpoint=").expect("a listener has one");
    rest.split(' ').next().expect("it is the first").to_owned()
}

#[test]
fn whatever_is_passed_is_a_listener() {
    if is_without(&["python3"]) {
        return;
    }
    let sockets = [
        "net tcp 127.0.0.1:0",
        "grams udp 127.0.0.1:0",
        "bare udp 127.0.0.1:0",
        "local unix RUN/elsewhere.sock",
        "x.socket unix RUN/pipe.sock",
        "lines unix RUN/lines.sock",
        "records seqpacket RUN/records.sock",
        "events dgram RUN/events.sock",
        "log fifo RUN/log.fifo",
        "further unix RUN/further.sock",
    ];
    let config = r#"
        [[listen]]
        name = "net"
        endpoint = "tcp://127.0.0.1:0"
        [[listen]]
        name = "grams"
        endpoint = "udp://127.0.0.1:1"
        [[listen]]
        name = "bare"
        endpoint = "udp://127.0.0.1:1?codec=raw&subject=chat"
        [[listen]]
        name = "local"
        endpoint = "unix:///nowhere/at/all.sock"
        [[listen]]
        endpoint = "pipe://RUN/pipe.sock"
        [[listen]]
        name = "lines"
        endpoint = "unix:///nowhere.sock?codec=line&subject=chat"
        [[listen]]
        name = "records"
        endpoint = "unix:///nowhere.sock?type=seqpacket"
        [[listen]]
        name = "events"
        endpoint = "unix:///nowhere.sock?type=dgram&codec=raw&subject=chat"
        [[listen]]
        name = "log"
        endpoint = "fifo:///nowhere.fifo?codec=line&subject=chat"
        [[acl]]
        listener = "x.socket"
        publish = ["secret"]
        action = "deny"
    "#;
    let dir = ipcd_tests::private_dir();
    let run = dir.path().join("run").display().to_string();
    let mut daemon = setup(&sockets, &config.replace("RUN", &run)).start_in(dir);
    assert_eq!(daemon.log().matches("passed=true").count(), sockets.len(), "{}", daemon.log());
    let [net, grams, bare] = ["net", "grams", "bare"].map(|name| passed(&daemon, name));
    let pipe = format!("pipe://{run}/pipe.sock");
    let further = passed(&daemon, "further");
    let records = passed(&daemon, "records");
    assert_eq!(further, format!("unix://{run}/further.sock"));
    let frames = [&net, &grams, &pipe, &passed(&daemon, "local"), &records, &further];
    let mut receiver = daemon.ctl(&further, &["recv", "-E", "chat"]).spawn_subscribed();
    for (number, via) in frames.into_iter().enumerate() {
        daemon.ctl(via, &["send", "chat", &format!("frame {number}")]).run().expect(0);
        receiver.stdout().wait_for(&format!("frame {number}\n"));
    }
    let mut lines = UnixStream::connect(format!("{run}/lines.sock"))
        .expect("the listener accepts a connection");
    lines.write_all(b"a line\n").expect("the peer reads the bytes");
    let events = UnixDatagram::unbound().expect("a socket");
    events.send_to(b"an event", format!("{run}/events.sock")).expect("the datagram is sent");
    fs::write(format!("{run}/log.fifo"), "through a FIFO\n").expect("the write succeeds");
    let address = bare.strip_prefix("udp://").expect("the prefix is there");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    udp.send_to(b"a datagram", address).expect("the datagram is sent");
    for said in ["a line", "an event", "through a FIFO", "a datagram"] {
        receiver.stdout().wait_for(&format!("{said}\n"));
    }
    // Rules may use the service manager's name, although the listener was found by its address.
    assert!(!daemon.log().contains("there is no listener"), "{}", daemon.log());
    daemon.ctl(&pipe, &["send", "secret", "no"]).run().expect(6);
    daemon.ctl(&further, &["send", "secret", "yes"]).run().expect(0);
    // The daemon does not remove files of others.
    daemon.terminate().expect(0);
    for path in ["elsewhere.sock", "pipe.sock", "records.sock", "events.sock", "log.fifo"] {
        assert!(Path::new(&run).join(path).exists(), "{path}");
        assert!(!Path::new(&run).join(path.to_owned() + ".lock").exists(), "{path}");
    }
}

#[test]
fn what_is_passed_must_be_what_is_wanted() {
    if is_without(&["python3"]) {
        return;
    }
    for (socket, config, words) in [
        ("x connected x", "", ["a stream socket", "that is connected", "cannot listen on it"]),
        ("x file /dev/null", "", ["(x)", "neither a socket nor a FIFO", "cannot listen on it"]),
        ("x fifo RUN/f", "", ["a FIFO at", "/f was passed", "codec="]),
        ("web unix RUN/s", "tcp://127.0.0.1:0", ["tcp://", "a stream socket at", "a TCP socket"]),
        ("web udp 127.0.0.1:0", "tcp://127.0.0.1:0", ["tcp://", "datagram", "a TCP socket"]),
        ("web tcp 127.0.0.1:0", "udp://127.0.0.1:0", ["udp://", "that listens", "a bound UDP"]),
        ("web tcp 127.0.0.1:0", "unix:///x", ["unix:///x", "127.0.0.1", "type=stream"]),
        ("web seqpacket RUN/s", "unix:///x", ["unix:///x", "a seqpacket socket", "type=stream"]),
        ("web unix RUN/s", "pipe:///x", ["", "", ""]),
        ("web dgram RUN/s", "pipe:///x", ["pipe:///x", "a datagram socket", "listens at a path"]),
        ("web tcp 127.0.0.1:0", "fifo:///x", ["fifo:///x", "a stream socket", "a FIFO"]),
        ("x dgram RUN/s", "", ["type=dgram", "with a codec only", "seqpacket"]),
        (
            "web tcp 0.0.0.0:0",
            "tcp://127.0.0.1:0?codec=line&subject=x",
            ["0.0.0.0", "allow=NETWORK", "insecure=true"],
        ),
    ] {
        let listen = format!("[[listen]]\nname = \"web\"\nendpoint = \"{config}\"\n");
        let config = if config.is_empty() { "[log]\nlevel = \"info\"\n" } else { &listen };
        if words[0].is_empty() {
            drop(setup(&[socket], config).start());
            continue;
        }
        let said = refused(&[socket], config);
        assert!(words.iter().all(|word| said.contains(word)), "{socket}, {words:?}: {said}");
    }
}

#[test]
fn what_is_for_another_process_is_left_alone() {
    if is_without(&["python3"]) {
        return;
    }
    let script = format!(
        "PASS_TO=1 exec python3 -c '{PASSER}' 'x tcp 127.0.0.1:0' \"$@\" --ready-fd 3 3<&-"
    );
    let dir = ipcd_tests::private_dir();
    let setup = DaemonSetup::new().listen(&["unix"]).wrapper(&script);
    let running = setup.spawn(dir.path());
    running.stderr.wait_for(" INFO ready\n");
    assert!(!running.stderr.text().contains("passed"), "{}", running.stderr.text());
    let script = script.replace("PASS_TO=1 ", "");
    let other = ipcd_tests::private_dir();
    let said =
        DaemonSetup::new().listen(&["unix"]).wrapper(&script).spawn(other.path()).wait().expect(2);
    assert!(said.stderr.contains("the service manager has passed"), "{}", said.stderr);
    let script = script.replacen("exec", "NAMES=a:b exec", 1);
    let said =
        DaemonSetup::new().listen(&["unix"]).wrapper(&script).spawn(other.path()).wait().expect(2);
    assert!(said.stderr.contains("2 names for 1 sockets"), "{}", said.stderr);
}

#[test]
fn a_reload_keeps_what_was_passed() {
    if is_without(&["python3"]) {
        return;
    }
    let config = "[[listen]]\nname = \"web\"\nendpoint = \"tcp://127.0.0.1:0?codec=line&subject=";
    let sockets = ["web tcp 127.0.0.1:0", "own unix RUN/own.sock"];
    let daemon = setup(&sockets, &format!("{config}one\"\n")).start();
    let mut receiver = daemon.recv("unix", &["-v", ">"]);
    let address = daemon.address("tcp");
    let say = |line: &str| {
        let mut stream =
            std::net::TcpStream::connect(&address).expect("the listener accepts a connection");
        writeln!(stream, "{line}").expect("it is taken");
    };
    say("first");
    receiver.stdout().wait_for("one first\n");
    daemon.reload(&format!("{config}two\"\n"));
    say("second");
    receiver.stdout().wait_for("two second\n");
    daemon.reload(&format!("{config}two\"\n\n[limits]\nmax_peers = 100\n"));
    say("third");
    receiver.stdout().wait_for("two third\n");
    let log = daemon.log();
    // It stays open, and the log reports only the change.
    assert_eq!(log.matches("listener options changed").count(), 1, "{log}");
    assert_eq!(log.matches("listener closed").count(), 0, "{log}");
    assert_eq!(passed(&daemon, "web"), format!("tcp://{address}"));
    assert!(daemon.runtime_dir().join("own.sock").exists());
}

/// systemd's own tool, if it is installed.
#[test]
fn systemd_socket_activate_starts_it_with_the_first_peer() {
    let program = "/usr/bin/systemd-socket-activate";
    if is_without(&[program]) {
        return;
    }
    let dir = ipcd_tests::private_dir();
    let run = dir.path().join("run");
    fs::create_dir(&run).expect("the directory is writable");
    let socket = run.join("ipcd.sock");
    let mut command = Command::new(program);
    command.arg("-l").arg(&socket).arg(ipcd()).arg("--runtime-dir").arg(&run);
    command.arg("-l").arg(format!("unix://{}", socket.display())).stdin(Stdio::null());
    let running = RunningProcess::start(&mut command);
    eventually("the socket", || socket.exists().then_some(()));
    let mut ping = Command::new(ipcd_tests::ipcctl());
    ping.args(["--timeout", "60s", "ping"]).env("IPCD_RUNTIME_DIR", &run).env_remove("IPCD_VIA");
    RunningProcess::start(ping.stdin(Stdio::null())).wait().expect(0);
    running.stderr.wait_for("passed=true");
}
