//! Escape sequences: no terminal obeys bytes of a peer, whichever tool shows them.

use std::fs::File;
use std::process::{Command, Stdio};

use ipcd_proto::{Frame, FrameKind, FrameWriter, Header, Headers};
use ipcd_tests::{Daemon, DaemonSetup, OutputCapture, eventually, ipcctl};
use nix::pty::openpty;

/// `ipcctl` with its output and errors on a terminal, and all bytes that the terminal got.
struct PseudoTerminal {
    child: std::process::Child,
    screen: OutputCapture,
}

impl PseudoTerminal {
    fn run(daemon: &Daemon, args: &[&str]) -> Self {
        let pty = openpty(None, None).expect("a terminal can be made");
        let terminal = File::from(pty.slave);
        let copy = || Stdio::from(terminal.try_clone().expect("a test has a descriptor left"));
        let mut command = Command::new(ipcctl());
        command.env_remove("IPCD_VIA").env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).args(args);
        let child = command.stdin(Stdio::null()).stdout(copy()).stderr(copy()).spawn();
        let screen = OutputCapture::of(File::from(pty.master));
        Self { child: child.expect("the program starts"), screen }
    }

    /// Ends the tool, and returns its output.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.screen.text()
    }
}

impl Drop for PseudoTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Expects only text, and the line ends that the terminal makes.
#[track_caller]
fn is_harmless(what: &str, screen: &str) {
    let obeyed = |c: &char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
    let found: Vec<_> = screen.chars().filter(obeyed).collect();
    assert!(found.is_empty(), "{what}: {found:?} in {screen:?}");
}

/// Every byte, every control character of Unicode, and sequences that terminals are known to obey.
fn payloads() -> Vec<Vec<u8>> {
    let every: Vec<u8> = (0..=255).collect();
    let controls: String =
        (0..0xa0).filter_map(char::from_u32).filter(|c| c.is_control()).collect();
    vec![
        every,
        controls.into_bytes(),
        b"\x1b[2J\x1b]0;pwned\x07\x1bc\x1b[?1049h".to_vec(),
        "\u{9b}2J\u{9d}0;pwned\u{9c}".into(),
        b"\x1b[31mred\r\x1b[A\x1b[K".to_vec(),
    ]
}

/// A message with such a payload, headers and reply subject, which only a raw peer can send.
fn message(payload: &[u8]) -> Vec<u8> {
    let (mut block, mut frame) = (Vec::new(), Vec::new());
    Headers::append(&mut block, "k\x1b[2J", b"v\x1b]0;x\x07").expect("it fits");
    let header = Header::new(FrameKind::Message, 1);
    let (subject, reply) = (&b"screen"[..], &b"r\x1b[2J"[..]);
    FrameWriter(&mut frame).write(&Frame { header, subject, reply, headers: &block, payload });
    frame
}

#[test]
fn what_peers_send_is_escaped_on_a_terminal() {
    let daemon = DaemonSetup::new().start();
    for args in [
        &["recv", "-E", "-v", "screen"][..],
        &["recv", "-E", "-o", "jsonl", "screen"],
        &["recv", "-E", "-F", "%s %p %x %l %f %n %T %i %r %h", "screen"],
        &["recv", "-E", "-N", "screen"],
    ] {
        let terminal = PseudoTerminal::run(&daemon, args);
        terminal.screen.wait_for("subscribed");
        let mut raw = daemon.session("unix");
        payloads().iter().for_each(|payload| raw.send(&message(payload)));
        daemon.send("screen", "the last");
        terminal.screen.wait_for("the last");
        is_harmless(&format!("{args:?}"), &terminal.end());
    }
    assert!(!daemon.log().contains('\x1b'));
}

/// Replies, and failures of handlers, are other peers' texts too.
#[test]
fn what_responders_say_is_escaped_on_a_terminal() {
    let daemon = DaemonSetup::new().start();
    let mut server = daemon.ctl("unix", &["serve", "-E", "ask", "--", "cat"]).spawn_subscribed();
    for payload in payloads().iter().filter(|payload| str::from_utf8(payload).is_ok()) {
        let body = String::from_utf8_lossy(payload).replace('\0', "");
        let terminal =
            PseudoTerminal::run(&daemon, &["req", "ask", "-m", &format!("{body}the end")]);
        terminal.screen.wait_for("the end");
        is_harmless("req", &terminal.end());
    }
    assert_eq!(server.has_ended(), None);
}

/// Names and filters have no control characters, and a refused text is not repeated raw in any
/// list.
#[test]
fn lists_and_refusals_are_harmless_on_a_terminal() {
    let daemon = DaemonSetup::new().start();
    let mut raw = daemon.session("unix");
    raw.subscribe(1, "odd.\u{202e}.\"quoted\".*");
    for args in [
        &["clients"][..],
        &["subs"],
        &["status"],
        &["clients", "-j"],
        &["send", "a\x1b[2Jb", "x"],
        &["send", "@\x1b[2J", "x"],
        &["--name", "\x1b[2J", "ping"],
        &["--via", "\x1b[2J", "ping"],
        &["--via", "unix:///\x1b[2J", "ping"],
        &["--token-file", "/\x1b[2J", "--via", "tcp://127.0.0.1:1", "ping"],
        &["recv", "\x1b[2J"],
        &["send", "-H", "\x1b[2J", "a", "b"],
        &["recv", "-F", "%\x1b[2J", "a"],
    ] {
        let mut terminal = PseudoTerminal::run(&daemon, args);
        eventually("the process ends", || terminal.child.try_wait().ok().flatten());
        eventually("the program has printed something", || {
            (!terminal.screen.text().is_empty()).then_some(())
        });
        is_harmless(&format!("{args:?}"), &terminal.end());
    }
}
