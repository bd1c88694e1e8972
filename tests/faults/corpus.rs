//! The corpus: scripts of bytes in `tests/corpus/*.json`, played against the real daemon over every
//! transport that they fit. `generate.py` there describes the steps, and writes the scripts.

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipcd_client::Endpoint;
use ipcd_proto::FrameKind;
use ipcd_tests::{
    Daemon, DaemonSetup, PATIENCE, RawConnection, RawFrame, children, descriptors, eventually,
    is_without,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::Deserialize;
use std::os::fd::AsRawFd;

/// The correlation of the PING that shows whether a session lives.
const SIGN_OF_LIFE: u64 = 0x11fe;
/// A placeholder for the peer's own address, which has this length in a daemon with one worker.
const OWN_ADDRESS: &[u8] = b"@#########";
/// The nonce of an INIT that follows a datagram without an answer.
const MARK: u64 = 0x6d61_726b;

#[derive(Deserialize)]
struct CorpusScript {
    name: String,
    over: String,
    steps: Vec<CorpusStep>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CorpusStep {
    send: Option<String>,
    fill: Option<String>,
    #[serde(default)]
    times: usize,
    expect: Option<String>,
    correlation: Option<u64>,
    code: Option<String>,
    subject: Option<String>,
    payload: Option<String>,
    subscription: Option<u32>,
    /// The sender must be the peer itself.
    #[serde(default)]
    own: bool,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    finish: bool,
    #[serde(rename = "note")]
    _note: Option<String>,
}

impl CorpusStep {
    fn bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = from_hex(self.send.as_ref()?);
        bytes.extend(from_hex(self.fill.as_deref().unwrap_or_default()).repeat(self.times));
        Some(bytes)
    }
}

fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(|pair| byte(pair).expect("the text is hexadecimal")).collect()
}

/// The bytes, with the peer's own address in place of the placeholder.
fn own_address_in(mut bytes: Vec<u8>, raw: &RawConnection) -> Vec<u8> {
    let own = format!("@{}", raw.peer());
    while let Some(at) = bytes.windows(OWN_ADDRESS.len()).position(|part| part == OWN_ADDRESS) {
        bytes[at..at + OWN_ADDRESS.len()].copy_from_slice(own.as_bytes());
    }
    bytes
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn scripts(over: &str) -> Vec<CorpusScript> {
    let files = fs::read_dir(folder()).expect("the corpus is there");
    let files = files.map(|entry| entry.expect("an entry can be read").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension() == Some("json".as_ref())).collect();
    files.sort();
    let read = |path: PathBuf| -> Vec<CorpusScript> {
        let text = fs::read_to_string(&path).expect("a script is text");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files.into_iter().flat_map(read).filter(|script| script.over == over).collect()
}

/// A daemon that must be unchanged after all scripts: no peer left, no worker died.
struct CorpusStage {
    daemon: Daemon,
    worker: i32,
    held: [usize; 2],
}

impl CorpusStage {
    fn set() -> Self {
        // One worker, so that it reads the bytes of one peer before later bytes of another.
        let setup = DaemonSetup::new().args(&["--workers", "1"]);
        let daemon = setup.extra(&["unix://RUN/records.sock?type=seqpacket"]).start();
        let worker = daemon.worker();
        daemon.wait_for_peers(0);
        let held = [daemon.process.pid(), worker].map(|pid| descriptors(pid).len());
        Self { daemon, worker, held }
    }

    fn raw(&self, over: &str) -> RawConnection {
        match over {
            "seqpacket" => RawConnection::over(&self.records()),
            scheme => self.daemon.raw(scheme),
        }
    }

    fn open(&self, over: &str) -> RawConnection {
        match over {
            "tcp" => self.daemon.session(over),
            _ => self.raw(over).open(),
        }
    }

    fn records(&self) -> Endpoint {
        let path = self.daemon.runtime_dir().join("records.sock");
        let text = format!("unix://{}?type=seqpacket", path.display());
        text.parse().expect("the text is an endpoint")
    }

    fn strike(self) {
        let supervisor = self.daemon.process.pid();
        self.daemon.wait_for_peers(0);
        assert_eq!(children(supervisor), [self.worker], "the worker was replaced");
        eventually("the descriptors as before", || {
            let held = [supervisor, self.worker].map(|pid| descriptors(pid).len());
            (held == self.held).then_some(())
        });
        let raw = self.daemon.log().bytes().any(|byte| byte.is_ascii_control() && byte != b'\n');
        assert!(!raw, "the log has control characters:\n{:?}", self.daemon.log());
    }
}

fn play(stage: &CorpusStage, over: &str, script: &CorpusScript) {
    let mut raw = stage.raw(over);
    for (number, step) in script.steps.iter().enumerate() {
        let at = format!("{over}: {}, step {number}", script.name);
        if step.open {
            // Earlier bytes, if any, went over this connection.
            raw = match over {
                "tcp" => raw.open_with(&stage.daemon.token()),
                _ => raw.open(),
            };
        } else if let Some(bytes) = step.bytes() {
            raw.send_record(&own_address_in(bytes, &raw));
        } else if step.finish {
            raw.finish();
        } else {
            meet(&mut raw, step, &at);
        }
    }
}

fn meet(raw: &mut RawConnection, step: &CorpusStep, at: &str) {
    match step.expect.as_deref().expect("a step does something") {
        "alive" => is_alive(raw, at),
        "close" => close(raw, at),
        "end" => while raw.frame().is_some() {},
        kind => compare(raw, kind, step, at),
    }
}

fn is_alive(raw: &mut RawConnection, at: &str) {
    raw.control(FrameKind::Ping, SIGN_OF_LIFE, &[]);
    let frame =
        raw.frame().unwrap_or_else(|| panic!("{at}: the daemon closed instead of sending PONG"));
    let found = (frame.header.kind, frame.header.correlation);
    assert_eq!(found, (FrameKind::Pong, SIGN_OF_LIFE), "{at}: {frame:?}");
}

fn close(raw: &mut RawConnection, at: &str) {
    while let Some(frame) = raw.frame() {
        assert_eq!(frame.header.kind, FrameKind::Bye, "{at}: {frame:?} instead of the end");
    }
}

fn compare(raw: &mut RawConnection, kind: &str, step: &CorpusStep, at: &str) {
    let frame =
        raw.frame().unwrap_or_else(|| panic!("{at}: the daemon closed instead of sending {kind}"));
    let found = format!("{:?}", frame.header.kind).to_lowercase();
    assert_eq!(found, kind, "{at}: {frame:?}");
    let same = |wanted: Option<u64>, found: u64| wanted.is_none_or(|wanted| wanted == found);
    assert!(same(step.correlation, frame.header.correlation), "{at}: {frame:?}");
    assert!(
        same(step.subscription.map(u64::from), frame.header.subscription.into()),
        "{at}: {frame:?}"
    );
    assert!(!step.own || frame.header.sender == raw.peer(), "{at}: {frame:?}");
    if let Some(subject) = &step.subject {
        assert_eq!(frame.subject, subject.as_bytes(), "{at}");
    }
    if let Some(payload) = &step.payload {
        assert_eq!(frame.payload, from_hex(payload), "{at}");
    }
    if kind == "error" {
        check_refusal(&frame, step, at);
    }
    // A long answer comes in several frames.
    if kind == "answer" && frame.header.more {
        compare(raw, kind, step, at);
    }
}

/// The text of a refusal repeats the peer's text, but without control characters.
fn check_refusal(frame: &RawFrame, step: &CorpusStep, at: &str) {
    let (code, why) = frame.refusal();
    assert!(!why.is_empty() && !why.chars().any(char::is_control), "{at}: {why:?}");
    if let Some(wanted) = &step.code {
        assert_eq!(&format!("{code:?}"), wanted, "{at}: {why}");
    }
}

fn play_all(over: &str) {
    let kind = if over == "seqpacket" { over } else { "stream" };
    let (stage, scripts) = (CorpusStage::set(), scripts(kind));
    assert!(scripts.len() > 10, "where are the scripts?");
    scripts.iter().for_each(|script| play(&stage, over, script));
    stage.strike();
    println!("{} scripts over {over}", scripts.len());
}

#[test]
fn every_script_over_unix() {
    play_all("unix");
}

#[test]
fn every_script_over_tcp() {
    play_all("tcp");
}

#[test]
fn every_script_over_pipe() {
    play_all("pipe");
}

#[test]
fn every_script_over_fifo() {
    play_all("fifo");
}

#[test]
fn every_script_of_records() {
    play_all("seqpacket");
}

/// A second peer of the same worker: when it is answered, earlier bytes of others have been read.
struct Pulse(RawConnection);

impl Pulse {
    fn wait(&mut self) {
        self.0.control(FrameKind::Ping, 1, &[]);
        self.0.expect(FrameKind::Pong);
    }
}

#[test]
fn good_sessions_cut_at_every_byte() {
    let stage = CorpusStage::set();
    let mut pulse = Pulse(stage.open("unix"));
    let mut cuts = 0;
    for script in scripts("stream").iter().filter(|script| script.steps.len() > 3) {
        let Some(bytes) = script.steps[1].bytes().filter(|_| is_good(script)) else { continue };
        for over in ["unix", "tcp", "pipe", "fifo"] {
            for cut in 1..bytes.len() {
                let mut raw = stage.open(over);
                let bytes = own_address_in(bytes.clone(), &raw);
                raw.send(&bytes[..cut]);
                pulse.wait();
                raw.send(&bytes[cut..]);
                for step in &script.steps[2..] {
                    let at = format!("{over}: {}, cut at {cut}", script.name);
                    match step.bytes() {
                        Some(bytes) => raw.send(&bytes),
                        None => meet(&mut raw, step, &at),
                    }
                }
                cuts += 1;
            }
        }
    }
    assert!(cuts > 1000, "only {cuts} cuts");
    drop(pulse);
    stage.strike();
}

/// Whether it is one of `sessions.json`, which begin with all sent bytes.
fn is_good(script: &CorpusScript) -> bool {
    let good = fs::read_to_string(folder().join("sessions.json")).expect("the file can be read");
    good.contains(&format!("\"name\": \"{}\"", script.name))
}

#[test]
fn a_handshake_cut_at_every_byte() {
    let stage = CorpusStage::set();
    let token = stage.daemon.token();
    let mut pulse = Pulse(stage.open("unix"));
    for over in ["unix", "tcp", "pipe", "fifo"] {
        for cut in 1..RawConnection::hello_bytes().len() {
            let mut raw = stage.raw(over);
            let mut cut_at = |raw: &mut RawConnection, bytes: &[u8]| {
                let cut = cut.min(bytes.len() - 1);
                raw.send(&bytes[..cut]);
                pulse.wait();
                raw.send(&bytes[cut..]);
            };
            cut_at(&mut raw, &RawConnection::hello_bytes());
            if over == "tcp" {
                let auth = raw.answer_challenge(&token);
                cut_at(&mut raw, &auth);
            }
            raw.expect(FrameKind::Welcome);
        }
    }
    drop(pulse);
    stage.strike();
}

#[test]
fn every_script_of_datagrams() {
    let stage = CorpusStage::set();
    let scripts = scripts("udp");
    for script in &scripts {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.connect(stage.daemon.address("udp")).expect("an address can be connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        let mut sent = 0;
        for step in &script.steps {
            match step.bytes() {
                Some(bytes) => sent = socket.send(&bytes).expect("a datagram can be sent"),
                None => hear(&socket, step, sent, &script.name),
            }
        }
    }
    stage.strike();
    println!("{} scripts over udp", scripts.len());
}

/// Expects a datagram of this type that is not longer than the one that it answers.
fn hear(socket: &UdpSocket, step: &CorpusStep, sent: usize, name: &str) {
    let mut bytes = [0; 2000];
    let mut receive = || {
        let count = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        bytes[..count].to_vec()
    };
    let (kind, most) = match step.expect.as_deref() {
        Some("cookie") => (1, sent),
        Some("gone") => (11, sent),
        Some("silence") => {
            socket.send(&init(MARK)).expect("a datagram can be sent");
            let answer = receive();
            assert_eq!((answer[0], &answer[1..9]), (1, &MARK.to_le_bytes()[..]), "{name}");
            return;
        }
        other => panic!("{name}: {other:?} is not of datagrams"),
    };
    let answer = receive();
    assert!(answer[0] == kind && answer.len() <= most, "{name}: {answer:?}");
}

fn init(nonce: u64) -> Vec<u8> {
    let mut init = vec![0, 1];
    init.extend(nonce.to_le_bytes());
    init.resize(64, 0);
    init
}

#[test]
fn every_script_of_rendezvous() {
    let stage = CorpusStage::set();
    for over in ["fifo", "pipe"] {
        let scripts = scripts(over);
        for script in &scripts {
            let bytes = script.steps[0].bytes().expect("it begins with bytes");
            match over {
                "fifo" => {
                    let fifo = stage.daemon.runtime_dir().join("ipcd.fifo");
                    let fifo = fs::OpenOptions::new().write(true).open(fifo);
                    fifo.expect("it is ours").write_all(&bytes).expect("the daemon reads it");
                }
                _ => knock(&stage.daemon.runtime_dir().join("pipe.sock"), &bytes),
            }
            is_alive(&mut stage.open(over), &script.name);
        }
        println!("{} scripts over {over}", scripts.len());
    }
    stage.strike();
}

/// Connects, writes, and leaves without reading.
fn knock(path: &Path, bytes: &[u8]) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
    let address = UnixAddr::new(path).expect("the path is short enough");
    connect(socket.as_raw_fd(), &address).expect("the daemon listens");
    // The daemon may have closed already.
    let _ = nix::unistd::write(&socket, bytes);
}

/// The corpus is the output of its generator, so that no script is changed by hand.
#[test]
fn the_corpus_is_what_its_generator_writes() {
    if is_without(&["python3"]) {
        return;
    }
    let fresh = ipcd_tests::private_dir();
    let made = Command::new("python3").arg(folder().join("generate.py")).arg(fresh.path()).status();
    assert!(made.expect("python3 runs").success());
    for entry in fs::read_dir(fresh.path()).expect("the directory can be read") {
        let name = entry.expect("an entry can be read").file_name();
        let read = |folder: &Path| fs::read(folder.join(&name)).unwrap_or_default();
        assert!(read(fresh.path()) == read(&folder()), "{name:?}: run generate.py, and commit");
    }
}
