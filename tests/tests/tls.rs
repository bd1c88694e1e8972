//! TLS: proofs of both sides, errors when they fail, new certificates while the daemon runs, and
//! messages as on any other transport.

use std::fs;
use std::time::{Duration, Instant};

use ipcd_conformance::authority::{Authority, Issued};
use ipcd_tests::{
    CtlCommand, Daemon, DaemonSetup, PATIENCE, ProcessResult, RawConnection, RunningProcess,
    eventually, state,
};
use ipcd_transport::{Channel, Endpoint, WriteOutcome, poll_until};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Certificates of a test, in a directory of their own.
struct TestCertificates {
    authority: Authority,
    dir: TempDir,
}

impl TestCertificates {
    /// With a certificate for the daemon.
    fn new() -> Self {
        let dir = ipcd_tests::private_dir();
        let made = Self { authority: Authority::new(), dir };
        made.issue("server", &["localhost", "127.0.0.1"]);
        made
    }

    fn issue(&self, name: &str, names: &[&str]) {
        self.keep(name, &self.authority.issue(names));
    }

    fn keep(&self, name: &str, issued: &Issued) {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).expect("the directory is writable");
        issued.write(&dir);
    }

    fn path(&self, name: &str, file: &str) -> String {
        self.dir.path().join(name).join(file).display().to_string()
    }

    /// The options that name a certificate and its key.
    fn own(&self, name: &str) -> String {
        format!("cert={}&key={}", self.path(name, "cert.pem"), self.path(name, "key.pem"))
    }

    /// The option that names the CA.
    fn ca(&self, name: &str) -> String {
        format!("ca={}", self.path(name, "ca.pem"))
    }

    /// A listener of the daemon, with these options too.
    fn listener(&self, more: &str) -> String {
        format!("tls://127.0.0.1:0?{}{more}", self.own("server"))
    }

    fn daemon(&self, more: &str) -> Daemon {
        DaemonSetup::new().listen(&["unix", "tcp"]).extra(&[&self.listener(more)]).start()
    }

    /// The daemon's endpoint for a client that trusts our CA.
    fn via(&self, daemon: &Daemon) -> String {
        at(daemon, &self.ca("server"))
    }

    /// As above for a client with a certificate of its own.
    fn via_as(&self, daemon: &Daemon, name: &str) -> String {
        at(daemon, &format!("{}&{}", self.ca("server"), self.own(name)))
    }
}

fn address(daemon: &Daemon) -> String {
    let listener = daemon.address("tls");
    listener.split_once('?').expect("a listener has options").0.to_owned()
}

fn at(daemon: &Daemon, options: &str) -> String {
    format!("tls://{}?{options}", address(daemon))
}

/// A ping of a client that cannot prove a token.
fn ping_without_token(daemon: &Daemon, via: &str) -> ProcessResult {
    CtlCommand::new(daemon, via).args(["ping", "--token-file", "/nowhere/token"]).run()
}

/// Expects a failure with status 3 and these words.
fn expect_refusal(daemon: &Daemon, via: &str, words: &str) {
    let ended = daemon.ctl(via, &["ping"]).run().expect(3);
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn a_token_or_a_certificate_is_asked_for() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    for fork in ["pool", "connection"] {
        let listener = files.listener(&format!("&{}", files.ca("server")));
        let setup =
            DaemonSetup::new().listen(&["unix"]).extra(&[&listener]).args(&["--fork", fork]);
        let daemon = setup.start();
        let (plain, as_ann) = (files.via(&daemon), files.via_as(&daemon, "ann"));
        let mut receiver = daemon.recv(&plain, &["-v", "-C", "2", "s.>"]);
        daemon.ctl(&plain, &["send", "s.token", "with a token"]).run().expect(0);
        let certified =
            CtlCommand::new(&daemon, &as_ann).args(["send", "s.ann", "with a certificate"]);
        certified.args(["--token-file", "/nowhere/token"]).run().expect(0);
        let heard = receiver.wait().expect(0).text();
        assert_eq!(heard, "s.token with a token\ns.ann with a certificate\n");
        let ended = ping_without_token(&daemon, &plain).expect(6);
        assert!(ended.stderr.contains("no token"), "{}", ended.stderr);
        let log = daemon.log();
        assert!(log.contains(",certificate=ann.example why=\"the peer sent BYE\""), "{log}");
    }
}

/// Rules by the name in a certificate hold for frames, for raw peers, and for peers without one.
#[test]
fn access_rules_know_peers_by_their_certificates() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    files.issue("bob", &["bob.example"]);
    let rules = "[[acl]]\ntoken = \"\"\nsubscribe = [\">\"]\n\
        [[acl]]\ncertificate = \"ann.example\"\npublish = [\"ann.>\"]\nsubscribe = [\"news\"]\n\
        [[acl]]\ncertificate = \"bob.example\"\npublish = [\">\"]\nsubscribe = [\">\"]\nadmin = true\n";
    for fork in ["pool", "connection"] {
        let listener = files.listener(&format!("&{}", files.ca("server")));
        let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&listener]).config(rules);
        let daemon = setup.args(&["--fork", fork]).start();
        let [ann, bob] = ["ann", "bob"].map(|name| files.via_as(&daemon, name));
        let token = files.via(&daemon);
        let mut tap = daemon.recv(&bob, &["-v", ">"]);
        let run = |via: &str, args: &[&str], status| daemon.ctl(via, args).run().expect(status);
        run(&ann, &["send", "ann.x", "hers"], 0);
        run(&bob, &["send", "ann.x", "his"], 0);
        for (via, subject) in [(&ann, "bob.x"), (&token, "ann.x"), (&token, "news")] {
            let said = run(via, &["send", subject, "no"], 6).stderr;
            assert!(said.contains("may not publish"), "{said}");
        }
        run(&ann, &["recv", "ann.x"], 6);
        run(&ann, &["clients"], 6);
        run(&bob, &["clients"], 0);
        tap.stdout().wait_for("ann.x hers\nann.x his\n");
        let check = |name: &str, status| {
            run(&bob, &["acl", "check", "--certificate", name, "--pub", "ann.y"], status);
        };
        check("ann.example", 0);
        check("eve.example", 6);
    }
}

/// A raw peer is admitted before its handshake is over. Until then its identity is unknown.
#[test]
fn bare_peers_are_known_by_their_certificates_before_they_hear_anything() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    files.issue("bob", &["bob.example"]);
    let more = format!("&{}&codec=line&subject=$1&reply=secret", files.ca("server"));
    let rules = "[[acl]]\ncertificate = \"ann.example\"\npublish = [\"in\"]\nsubscribe = [\">\"]\n\
        action = \"deny\"\n";
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&files.listener(&more)]).config(rules);
    let daemon = setup.args(&["--workers", "1"]).start();
    let connect = |name: &str| {
        let at = files.via_as(&daemon, name).parse::<Endpoint>().expect("the text is an endpoint");
        let tls = ipcd_transports::find(at.scheme()).expect("the entry exists");
        let tls = tls.raw_at(&at).expect("the transport serves raw peers");
        let parts = tls
            .connect_raw(&at, Instant::now() + PATIENCE, &[])
            .expect("the listener accepts a connection");
        tls.adopt_raw(parts).expect("the parts make a channel").channel
    };
    let mut tap = daemon.recv("unix", &["-v", "in"]);
    let mut channels = ["ann", "bob"].map(connect);
    let are_there = |log: &str| (log.matches("peer connected").count() >= 3).then_some(());
    daemon.process.stderr.wait_until("that they are there", are_there);
    daemon.send("secret", "not for ann");
    let shake = |channel: &mut Box<dyn Channel>| {
        let mut buffer = ipcd_transport::ReadBuffer::new(1024, 1024);
        let line = b"in said\n";
        eventually("the bytes are sent", || {
            // The first turns do the handshake.
            let _ = channel.read(&mut buffer);
            matches!(channel.write(line), Ok(WriteOutcome::Bytes(_))).then_some(())
        });
        buffer
    };
    let mut ann = shake(&mut channels[0]);
    eventually("ann is refused", || (daemon.counter("frames_denied") == 1).then_some(()));
    let mut bob = shake(&mut channels[1]);
    tap.stdout().wait_for("in said\n");
    eventually("the message for bob", || {
        let _ = channels[1].read(&mut bob);
        (bob.filled() == b"not for ann\n").then_some(())
    });
    daemon.send("secret", "nor is this");
    eventually("the message for bob", || {
        let _ = channels[1].read(&mut bob);
        (bob.filled() == b"not for ann\nnor is this\n").then_some(())
    });
    let _ = channels[0].read(&mut ann);
    assert_eq!(ann.filled(), b"", "ann has heard it");
    assert_eq!(tap.stdout().text(), "in said\n");
}

#[test]
fn a_daemon_that_cannot_prove_itself_is_refused() {
    let files = TestCertificates::new();
    files.keep("stranger", &Authority::new().issue(&["localhost"]));
    let daemon = files.daemon("");
    expect_refusal(
        &daemon,
        &at(&daemon, &files.ca("stranger")),
        "no trusted CA has signed its certificate",
    );
    let other_name = format!("{}&name=other.example", files.via(&daemon));
    expect_refusal(&daemon, &other_name, "for localhost, 127.0.0.1, not for other.example");
    let ended = daemon.ctl(&format!("tls://{}", address(&daemon)), &["ping"]).run().expect(2);
    assert!(ended.stderr.contains("ca=FILE is needed"), "{}", ended.stderr);

    files.keep("server", &files.authority.issue_expired(&["127.0.0.1"]));
    let daemon = files.daemon("");
    expect_refusal(&daemon, &files.via(&daemon), "has expired");
}

#[test]
fn a_certificate_may_be_required() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    files.keep("stranger", &Authority::new().issue(&["ann.example"]));
    files.keep("late", &files.authority.issue_expired(&["ann.example"]));
    let daemon = files.daemon(&format!("&{}&client_auth=required", files.ca("server")));
    expect_refusal(&daemon, &files.via(&daemon), "give cert=FILE&key=FILE");
    let via = files.via_as(&daemon, "stranger");
    expect_refusal(&daemon, &via, "it does not accept our certificate");
    let via = files.via_as(&daemon, "late");
    expect_refusal(&daemon, &via, "our certificate (cert=) has expired");
    ping_without_token(&daemon, &files.via_as(&daemon, "ann")).expect(0);
}

#[test]
fn a_certificate_that_is_signed_by_itself_can_be_trusted() {
    let files = TestCertificates::new();
    files.keep("server", &Authority::self_signed(&["127.0.0.1"]));
    files.keep("ann", &Authority::self_signed(&["ann.example"]));
    let daemon = files.daemon(&format!("&{}&client_auth=required", files.ca("ann")));
    ping_without_token(&daemon, &files.via_as(&daemon, "ann")).expect(0);
    assert!(daemon.log().contains("certificate=ann.example"), "{}", daemon.log());
    let via = format!("{}&name=other.example", files.via_as(&daemon, "ann"));
    expect_refusal(&daemon, &via, "not for other.example");
    expect_refusal(&daemon, &files.via_as(&daemon, "server"), "our certificate");
}

/// Each of two peers that are trusted themselves has the key of a certificate that is marked as a
/// CA.
#[test]
fn a_certificate_that_is_trusted_itself_signs_no_other() {
    let files = TestCertificates::new();
    files.keep("server", &Authority::self_signed(&["127.0.0.1"]));
    let (ann, own) = Authority::named(&["ann.example"]);
    files.keep("ann", &own);
    files.keep("forged", &ann.issue(&["bob.example"]));
    files.keep("bob", &Authority::self_signed(&["bob.example"]));
    let both = ["ann", "bob"].map(|name| {
        fs::read_to_string(files.path(name, "cert.pem")).expect("the file can be read")
    });
    fs::write(files.path("server", "peers.pem"), both.concat()).expect("the directory is writable");
    let peers = files.path("server", "peers.pem");
    let daemon = files.daemon(&format!("&ca={peers}&client_auth=required"));
    for name in ["ann", "bob"] {
        ping_without_token(&daemon, &files.via_as(&daemon, name)).expect(0);
    }
    expect_refusal(&daemon, &files.via_as(&daemon, "forged"), "our certificate");
    // A CA beside them still signs.
    files.issue("dan", &["dan.example"]);
    let ca = fs::read_to_string(files.path("dan", "ca.pem")).expect("the file can be read");
    fs::write(&peers, both.concat() + &ca).expect("the directory is writable");
    let daemon = files.daemon(&format!("&ca={peers}&client_auth=required"));
    for name in ["ann", "bob", "dan"] {
        ping_without_token(&daemon, &files.via_as(&daemon, name)).expect(0);
    }
    expect_refusal(&daemon, &files.via_as(&daemon, "forged"), "our certificate");
}

#[test]
fn what_is_not_tls_is_told_apart() {
    let files = TestCertificates::new();
    let daemon = files.daemon("");
    daemon.ctl(&format!("tcp://{}", address(&daemon)), &["ping"]).run().expect(3);
    let (ca, tcp) = (files.ca("server"), daemon.address("tcp"));
    expect_refusal(&daemon, &format!("tls://{tcp}?{ca}"), "its bytes are not TLS");
    let mut junk = RawConnection::tcp(&address(&daemon));
    junk.send(&[0xff; 5000]);
    eventually("the log reports it", || daemon.log().contains("are not TLS").then_some(()));
    daemon.ctl(&files.via(&daemon), &["ping"]).run().expect(0);
}

#[test]
fn files_are_looked_at_when_the_daemon_starts() {
    let files = TestCertificates::new();
    files.issue("other", &["other.example"]);
    let refuse = |listener: &str, words: &str| {
        let dir = ipcd_tests::private_dir();
        let ended =
            DaemonSetup::new().listen(&["unix"]).extra(&[listener]).spawn(dir.path()).wait();
        assert!(ended.expect(2).stderr.contains(words), "{listener}: not {words}");
    };
    refuse("tls://127.0.0.1:0", "cert=FILE&key=FILE");
    let key = files.path("other", "key.pem");
    let mismatch = format!("tls://127.0.0.1:0?cert={}&key={key}", files.path("server", "cert.pem"));
    refuse(&mismatch, "is not that of the certificate");
    refuse(&files.listener("&client_auth=required"), "ca=FILE");
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    fs::set_permissions(files.path("server", "key.pem"), open_to_all)
        .expect("the file is writable");
    refuse(&files.listener(""), "chmod 600");
}

fn renews_its_certificate(daemon: &Daemon, files: &TestCertificates) {
    let via = files.via(daemon);
    let mut receiver = daemon.recv(&via, &["-C", "2", "s"]);
    files.issue("server", &["renewed.example"]);
    // No process was told to read the file.
    daemon.ctl(&via, &["send", "s", "before"]).run().expect(0);
    daemon.hang_up("INFO reloaded");
    expect_refusal(daemon, &via, "for renewed.example");
    let renewed = format!("{via}&name=renewed.example");
    daemon.ctl(&renewed, &["send", "s", "after"]).run().expect(0);
    assert_eq!(receiver.wait().expect(0).text(), "before\nafter\n");
    fs::write(files.path("server", "cert.pem"), "no certificate").expect("the file can be written");
    daemon.hang_up("keeps the old ones");
    daemon.ctl(&renewed, &["ping"]).run().expect(0);
}

#[test]
fn a_hang_up_renews_certificates_and_leaves_connections_alone() {
    let files = TestCertificates::new();
    let listeners = format!(
        "[[listen]]\nendpoint = \"{}\"\n[[listen]]\nendpoint = \"unix://{}\"\n",
        files.listener(""),
        files.path("server", "socket"),
    );
    renews_its_certificate(&DaemonSetup::new().listen(&[]).config(&listeners).start(), &files);
}

#[test]
fn a_hang_up_renews_certificates_also_without_a_file() {
    let files = TestCertificates::new();
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&files.listener("")]);
    renews_its_certificate(&setup.args(&["--fork", "connection"]).start(), &files);
}

#[test]
fn another_authority_ends_the_sessions_that_the_last_one_has_vouched_for() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    files.keep("stranger", &Authority::new().issue(&["stranger.example"]));
    let trusted = files.path("server", "trusted.pem");
    let trust = |name: &str| {
        fs::copy(files.path(name, "ca.pem"), &trusted).expect("the file can be copied")
    };
    trust("ann");
    let daemon = files.daemon(&format!("&ca={trusted}&client_auth=optional"));
    let mut ann = daemon.recv(&files.via_as(&daemon, "ann"), &["s"]);
    let mut by_token = daemon.recv(&files.via(&daemon), &["s"]);
    daemon.hang_up("INFO reloaded");
    daemon.send("s", "both");
    ann.stdout().wait_for("both\n");
    trust("stranger");
    daemon.hang_up("INFO reloaded");
    let ended = ann.wait().expect(6);
    assert!(ended.stderr.contains("revoked or changed (ca=)"), "{}", ended.stderr);
    daemon.send("s", "the other");
    by_token.stdout().wait_for("both\nthe other\n");
}

#[test]
fn the_largest_messages_go_both_ways_at_once() {
    const LARGEST: usize = 1024 * 1024;
    let files = TestCertificates::new();
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&files.listener("")]);
    let daemon = setup.args(&["--workers", "2"]).start();
    let via = files.via(&daemon);
    let body: Vec<u8> = (0..LARGEST).map(|index| b'a' + (index * index % 23) as u8).collect();
    let body = String::from_utf8(body).expect("letters");
    let file = daemon.dir().join("body");
    fs::write(&file, &body).expect("the directory is writable");
    let file = file.to_str().expect("the path is text");
    let ways = ["there", "back"];
    let mut receivers = ways.map(|way| daemon.recv(&via, &["-N", "-C", "20", way]));
    for receiver in &mut receivers {
        receiver.stdout();
    }
    let mut senders =
        ways.map(|way| daemon.ctl(&via, &["send", way, "-f", file, "--count", "20"]).spawn());
    senders.iter_mut().for_each(|sender| drop(sender.wait().expect(0)));
    for receiver in &mut receivers {
        let got = receiver.wait().expect(0).stdout;
        assert_eq!(got.len(), 20 * LARGEST);
        assert!(got.chunks(LARGEST).all(|got| got == body.as_bytes()), "another text came");
    }
}

fn stop(receiver: &mut RunningProcess) {
    receiver.signal(Signal::SIGSTOP);
    let pid = receiver.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
}

#[test]
fn who_does_not_read_is_cut_off_and_told_why() {
    let files = TestCertificates::new();
    let strict = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&files.listener("")]).config(strict);
    let daemon = setup.start();
    let mut receiver = daemon.recv(&files.via(&daemon), &["--no-reconnect", "flood"]);
    receiver.stdout();
    stop(&mut receiver);
    let body = "x".repeat(1000);
    daemon.ctl("unix", &["send", "flood", &body, "--count", "20000"]).run().expect(0);
    let reason = "why=\"the peer did not read fast enough\"";
    eventually("the peer is disconnected", || daemon.log().contains(reason).then_some(()));
    receiver.signal(Signal::SIGCONT);
    let ended = receiver.wait().expect(7);
    assert!(ended.stderr.contains("disconnected by the daemon"), "{}", ended.stderr);
}

#[test]
fn drops_leave_whole_messages_in_their_order() {
    let files = TestCertificates::new();
    let small = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[&files.listener("")]).config(small);
    let daemon = setup.start();
    let args = ["--overflow", "drop-oldest", "--idle", "2s", "flood"];
    let mut receiver = daemon.recv(&files.via(&daemon), &args);
    receiver.stdout();
    stop(&mut receiver);
    let lines: String = (0..20_000).map(|n| format!("{n} {}\n", "y".repeat(n % 1500))).collect();
    daemon.ctl("unix", &["send", "-l", "flood"]).run_fed(lines.as_bytes()).expect(0);
    receiver.signal(Signal::SIGCONT);
    let got = receiver.wait().expect(0).text();
    let number = |line: &str| {
        let (number, rest) = line.split_once(' ').expect("a line has two parts");
        let number: usize = number.parse().expect("a number");
        assert!(rest.len() == number % 1500 && rest.bytes().all(|b| b == b'y'), "{line}");
        number
    };
    let numbers: Vec<usize> = got.lines().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order, or twice");
    assert!(numbers.len() < 20_000, "nothing was dropped: the test tests nothing");
    assert_eq!(numbers.last(), Some(&19_999));
}

/// A raw client's channel, after it has written this.
fn write_bare(via: &str, bytes: &[u8]) -> Box<dyn Channel> {
    let endpoint: Endpoint = via.parse().expect("the text is an endpoint");
    let transport = ipcd_transports::find(endpoint.scheme()).expect("the entry exists");
    let deadline = Instant::now() + PATIENCE;
    let mut channel =
        transport.connect(&endpoint, deadline).expect("the listener accepts a connection");
    let mut rest = bytes;
    while !rest.is_empty() {
        match channel.write(rest).expect("the write succeeds") {
            WriteOutcome::Bytes(count) => rest = &rest[count..],
            WriteOutcome::NotReady | WriteOutcome::NoCredit => {
                channel.serve().expect("the handshake goes on");
                let soon = (Instant::now() + Duration::from_millis(10)).min(deadline);
                poll_until(&channel.read_fd(), PollFlags::POLLIN, soon).expect("poll works");
                assert!(Instant::now() < deadline, "it takes no bytes");
            }
            WriteOutcome::Nobody => panic!("only a FIFO has no reader"),
        }
    }
    channel
}

#[test]
fn bare_peers_speak_through_tls_and_an_end_that_was_cut_off_is_no_message() {
    let files = TestCertificates::new();
    let daemon = files.daemon("&codec=line&subject=lines");
    let via = files.via(&daemon);
    let mut receiver = daemon.recv("unix", &["-C", "3", "lines"]);
    let mut first = write_bare(&via, b"one\ntwo");
    first.finish().expect("close_notify is sent");
    receiver.stdout().wait_for("two\n");
    drop(write_bare(&via, b"cut sho"));
    eventually("the peer has gone", || daemon.log().contains("was cut off").then_some(()));
    let mut last = write_bare(&via, b"three\n");
    last.finish().expect("close_notify is sent");
    assert_eq!(receiver.wait().expect(0).text(), "one\ntwo\nthree\n");
}

#[test]
fn no_descriptor_of_a_peer_stays_behind() {
    let files = TestCertificates::new();
    files.issue("ann", &["ann.example"]);
    let daemon = files.daemon(&format!("&{}", files.ca("server")));
    let supervisor = daemon.process.pid();
    let open = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let round = || {
        ping_without_token(&daemon, &files.via_as(&daemon, "ann")).expect(0);
        daemon.ctl(&files.via(&daemon), &["ping"]).run().expect(0);
        RawConnection::tcp(&address(&daemon)).send(b"junk, and more junk");
    };
    round();
    let worker = daemon.worker();
    daemon.wait_for_peers(0);
    let before = (open(supervisor), open(worker));
    (0..5).for_each(|_| round());
    daemon.wait_for_peers(0);
    assert_eq!((open(supervisor), open(worker)), before);
}

/// A worker does one step of a handshake in a turn. All handshakes end, and other peers wait for
/// none of them.
#[test]
fn many_handshakes_at_once_end_and_keep_nobody_else() {
    const AT_ONCE: usize = 24;
    let certificates = TestCertificates::new();
    let daemon = certificates.daemon("");
    let via = certificates.via(&daemon);
    let mut local = daemon.client("unix");
    std::thread::scope(|scope| {
        let shaking: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| CtlCommand::new(&daemon, &via).args(["ping", "-c", "1"]).run()))
            .collect();
        while !shaking.iter().all(|one| one.is_finished()) {
            local.ping().expect("the daemon answers");
        }
        for one in shaking {
            one.join().expect("the thread does not panic").expect(0);
        }
    });
}
