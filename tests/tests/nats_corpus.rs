//! The corpus of NATS: scripts of bytes in `tests/nats/corpus/*.json`, with the answers of
//! nats-server 2.15.1, played against the real daemon. `scripts.py` there writes the scripts, and
//! `differences.py` names those that ipcd answers otherwise, each with its reason.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use ipcd_tests::{
    Daemon, DaemonSetup, NeighbourPair, PATIENCE, children, descriptors, eventually, private_dir,
};
use serde::Deserialize;

/// The scripts that the project promises to have.
const FEWEST_SCRIPTS: usize = 200;
/// Longer scripts are not cut at each byte, for they are repetitions.
const LONGEST_CUT: usize = 100;
const PING: &[u8] = b"PING\r\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NatsScript {
    name: String,
    server: String,
    steps: Vec<Piece>,
    nats: Outcome,
    ipcd: Option<Outcome>,
}

/// Bytes, each of which is a letter of the text, and how often they come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    send: String,
    times: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    answer: Vec<Piece>,
    then: String,
    #[serde(rename = "reason")]
    _reason: Option<String>,
}

impl NatsScript {
    fn sent(&self) -> Vec<u8> {
        bytes(&self.steps)
    }

    fn outcome(&self) -> &Outcome {
        self.ipcd.as_ref().unwrap_or(&self.nats)
    }

    /// Whether it needs that no other peer hears: earlier ones have to be gone.
    fn is_lonely(&self) -> bool {
        self.outcome().answer.iter().any(|piece| piece.send.contains("503"))
    }
}

fn bytes(pieces: &[Piece]) -> Vec<u8> {
    let byte = |letter: char| u8::try_from(letter).expect("each letter is a byte");
    let piece = |piece: &Piece| {
        let bytes: Vec<u8> = piece.send.chars().map(byte).collect();
        bytes.repeat(piece.times.unwrap_or(1))
    };
    pieces.iter().flat_map(piece).collect()
}

fn scripts(server: &str) -> Vec<NatsScript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/corpus");
    let files = fs::read_dir(folder).expect("the corpus is there");
    let mut files: Vec<_> = files.map(|file| file.expect("an entry can be read").path()).collect();
    files.sort();
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read = |path: std::path::PathBuf| -> Vec<NatsScript> {
        let text = fs::read_to_string(&path).expect("scripts are text");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files.flat_map(read).filter(|script| script.server == server).collect()
}

/// A client without a library.
struct CorpusConnection {
    reader: BufReader<TcpStream>,
}

impl CorpusConnection {
    fn open(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(daemon.address("tcp")).expect("the daemon listens");
        stream.set_nodelay(true).expect("a socket has this option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        let mut peer = Self { reader: BufReader::new(stream) };
        let info = peer.operation().expect("the daemon greets");
        assert!(info.starts_with(b"INFO {"), "{}", String::from_utf8_lossy(&info));
        peer
    }

    /// Sends bytes while the answer is read, so that neither side waits for the other. The daemon
    /// may close before it has read all.
    fn send(&self, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
        let mut stream = self.reader.get_ref().try_clone().expect("a descriptor can be copied");
        std::thread::spawn(move || drop(stream.write_all(&bytes)))
    }

    /// The next operation of the daemon, with its payload.
    fn operation(&mut self) -> Result<Vec<u8>, ErrorKind> {
        let mut line = Vec::new();
        let count = self.reader.read_until(b'\n', &mut line).map_err(|error| error.kind())?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof);
        }
        if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (_, size) = text.rsplit_once(' ').expect("a message has a size");
            let begin = line.len();
            line.resize(begin + size.parse::<usize>().expect("a size is a number") + 2, 0);
            self.reader.read_exact(&mut line[begin..]).map_err(|error| error.kind())?;
        }
        Ok(line)
    }

    /// The same without those that come by the daemon's own clock.
    fn answer(&mut self) -> Result<Vec<u8>, ErrorKind> {
        loop {
            let operation = self.operation()?;
            if !operation.starts_with(b"INFO ") && operation != PING {
                return Ok(operation);
            }
        }
    }

    /// The fault, if the answer is another one.
    fn meet(&mut self, outcome: &Outcome) -> Result<(), String> {
        let (expected, mut found) = (bytes(&outcome.answer), Vec::new());
        while found.len() < expected.len() && expected.starts_with(&found) {
            match self.answer() {
                Ok(operation) => found.extend(operation),
                Err(kind) => return Err(told(&expected, &found, &format!("{kind:?}"))),
            }
        }
        if found != expected {
            return Err(told(&expected, &found, "other bytes"));
        }
        match (outcome.then.as_str(), self.answer_to_ping(&outcome.then)) {
            ("open", Ok(last)) if last == b"PONG\r\n" => Ok(()),
            ("closed", Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)) => Ok(()),
            (_, last) => Err(told(&expected, &found, &format!("{}, then {last:?}", outcome.then))),
        }
    }

    fn answer_to_ping(&mut self, then: &str) -> Result<Vec<u8>, ErrorKind> {
        if then == "open" {
            self.reader.get_ref().write_all(PING).map_err(|error| error.kind())?;
        }
        self.answer()
    }
}

fn told(expected: &[u8], found: &[u8], why: &str) -> String {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(200)].escape_ascii().to_string();
    format!("expected \"{}\", found \"{}\" ({why})", shown(expected), shown(found))
}

/// The token of the scripts, which is the daemon's own there.
const TOKEN: &str = "secret-secret-secret";

fn daemon(server: &str) -> Daemon {
    let config = match server {
        "small" => "[limits]\nmax_message = \"1KiB\"\n",
        _ => "",
    };
    let options = if server == "token" { "&auth=required&insecure=true" } else { "" };
    // One worker, so that it reads the bytes of one peer before later bytes of another.
    let setup = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "1"]).config(config);
    let setup = setup.extra(&[&format!("tcp://127.0.0.1:0?codec=nats{options}")]);
    let dir = private_dir();
    let run = dir.path().join("run");
    DirBuilder::new().mode(0o700).create(&run).expect("the directory is new");
    let mut file = fs::File::create(run.join("token")).expect("the directory is writable");
    file.set_permissions(Permissions::from_mode(0o600)).expect("the file is ours");
    file.write_all(TOKEN.as_bytes()).expect("the file is writable");
    setup.start_in(dir)
}

fn play(daemon: &Daemon, script: &NatsScript) -> Result<(), String> {
    if script.is_lonely() {
        daemon.wait_for_peers(0);
    }
    let mut peer = CorpusConnection::open(daemon);
    let sender = peer.send([script.sent(), PING.to_vec()].concat());
    let met = peer.meet(script.outcome());
    drop(peer);
    sender.join().expect("sending does not panic");
    met
}

/// Plays all scripts of a server, and returns their number.
fn play_all(server: &str) -> usize {
    let (daemon, scripts) = (daemon(server), scripts(server));
    let worker = daemon.worker();
    let held = descriptors(worker).len();
    let fault = |script: &NatsScript| {
        let why = play(&daemon, script).err()?;
        Some(format!("{}: {why}", script.name))
    };
    let faults: Vec<String> = scripts.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let neighbour = NeighbourPair::of(&daemon);
    neighbour.goes_on();
    drop(neighbour);
    assert_eq!(children(daemon.process.pid()), [worker], "the worker was replaced");
    eventually("the descriptors as before", || (descriptors(worker).len() == held).then_some(()));
    let is_raw = daemon.log().bytes().any(|byte| byte.is_ascii_control() && byte != b'\n');
    assert!(!is_raw, "the log has control characters:\n{:?}", daemon.log());
    scripts.len()
}

#[test]
fn every_script() {
    let count = play_all("plain");
    assert!(count > FEWEST_SCRIPTS, "{count} scripts");
    println!("{count} scripts");
}

#[test]
fn every_script_of_small_payloads() {
    assert!(play_all("small") > 0);
}

#[test]
fn every_script_of_tokens() {
    assert!(play_all("token") > 0);
}

#[test]
fn good_scripts_cut_at_every_byte() {
    let daemon = daemon("plain");
    let mut pulse = CorpusConnection::open(&daemon);
    // Only a session may send as many bytes as this takes.
    let connect = b"CONNECT {\"verbose\":false}\r\n";
    pulse.reader.get_ref().write_all(connect).expect("the daemon reads");
    let mut cuts = 0;
    let scripts = scripts("plain");
    let is_good = |script: &&NatsScript| script.outcome().then == "open" && !script.is_lonely();
    for script in scripts.iter().filter(is_good) {
        let sent = script.sent();
        for cut in 1..if sent.len() > LONGEST_CUT { 1 } else { sent.len() } {
            let mut peer = CorpusConnection::open(&daemon);
            let write = |bytes: &[u8]| peer.reader.get_ref().write_all(bytes);
            write(&sent[..cut]).expect("the daemon reads");
            // The worker has read the first part once it has answered another peer.
            pulse.reader.get_ref().write_all(PING).expect("the daemon reads");
            pulse.answer().expect("a PING is answered");
            write(&[&sent[cut..], PING].concat()).expect("the daemon reads");
            let met = peer.meet(script.outcome());
            met.unwrap_or_else(|why| panic!("{}, cut at {cut}: {why}", script.name));
            cuts += 1;
        }
    }
    assert!(cuts > 1000, "only {cuts} cuts");
}
