//! Peers in other processes.
//!
//! [`ChildProcess::start`] runs the test executable again, with the filter `--exact …::child_process`, so
//! that exactly one test runs in it. What it is to do stands in its environment, and its standard
//! input is one end of a seqpacket socket, over which the two speak and pass descriptors. The end
//! of that socket tells the child to stop, so it never outlives the test; a panic in it is an exit
//! status other than 0, with the panic on standard error.

use std::env;
use std::io::{Read as _, stdin};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ipcd_sys::{recv_with_fds, send_with_fds};
use ipcd_transport::{ChannelParts, Endpoint, PeerIdentity, poll_until};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use crate::Suite;
use crate::watchdog::Watchdog;

/// The part that the child plays.
const PART: &str = "IPCD_CONFORMANCE_PART";
/// The endpoint of that part.
const ENDPOINT: &str = "IPCD_CONFORMANCE_ENDPOINT";

/// Held for writing while a process is started. Until it executes its program, it has copies of
/// all descriptors of this one, so that what another test closes is not closed yet.
static STARTING: RwLock<()> = RwLock::new(());

/// For a case in which what it closes must be gone at once, such as a listener's socket: no process
/// is started meanwhile. Such a case cannot start one itself.
pub(crate) fn hold_starts_off() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// A process that plays a part. Dropping it kills the process.
pub(crate) struct ChildProcess {
    process: std::process::Child,
    control: OwnedFd,
}

impl ChildProcess {
    pub(crate) fn start(suite: &Suite, part: &str, endpoint: &Endpoint) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .expect("a socket pair is at hand");
        let executable = env::current_exe().expect("the test executable has a path");
        // Starting it ends only when the program is executed.
        let _starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        let process = Command::new(executable)
            .args(["--exact", &test_name(suite.module), "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(ENDPOINT, endpoint.to_string())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test executable can be started again");
        Self { process, control }
    }

    /// The next word of the child.
    pub(crate) fn hear(&mut self) -> String {
        let watchdog = Watchdog::over("a word from the child");
        let heard = poll_until(&self.control, PollFlags::POLLIN, watchdog.deadline());
        assert!(heard.expect("poll works"), "the child says nothing");
        let (said, _) = receive(self.control.as_fd());
        if said.is_empty() {
            panic!("the child ended: {}", self.last_words());
        }
        String::from_utf8(said).expect("the child speaks UTF-8")
    }

    /// Gives a channel away.
    pub(crate) fn hand_over(&self, parts: &ChannelParts) {
        let mut message = identity_to_text(&parts.identity).into_bytes();
        message.push(b'\n');
        message.extend_from_slice(&parts.state);
        let fds: Vec<_> = parts.descriptors.iter().map(AsFd::as_fd).collect();
        send_with_fds(self.control.as_fd(), &message, &fds).expect("the child takes the channel");
    }

    /// Kills it at once, with no chance to say goodbye.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("our own child can be killed");
        self.process.wait().expect("our own child can be waited for");
    }

    /// Waits until the child has ended well.
    pub(crate) fn join(mut self) {
        let watchdog = Watchdog::over("the end of the child");
        let ended = poll_until(&self.control, PollFlags::POLLIN, watchdog.deadline());
        assert!(ended.expect("poll works"), "the child does not end");
        let words = self.last_words();
        let status = self.process.wait().expect("our own child can be waited for");
        assert!(status.success(), "the child failed: {words}");
    }

    fn last_words(&mut self) -> String {
        let mut words = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            let _ = stderr.read_to_string(&mut words);
        }
        words
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other end of [`ChildProcess`]: what the child itself sees.
pub(crate) struct ParentLink;

impl ParentLink {
    pub(crate) fn tell(&self, word: &str) {
        send_with_fds(stdin().as_fd(), word.as_bytes(), &[]).expect("the parent listens");
    }

    /// Waits until the parent has gone, or has killed us.
    pub(crate) fn wait_for_the_end(&self) {
        while !receive(stdin().as_fd()).0.is_empty() {}
    }

    /// The channel that the parent gives away.
    pub(crate) fn take_over(&self) -> ChannelParts {
        let (message, descriptors) = receive(stdin().as_fd());
        let end = message.iter().position(|&byte| byte == b'\n').expect("a line comes first");
        let text = str::from_utf8(&message[..end]).expect("the line is UTF-8");
        let identity = identity_from_text(text);
        ChannelParts { descriptors, identity, state: message[end + 1..].to_vec() }
    }
}

/// Plays the part that the environment names, if it does.
pub(crate) fn play(suite: &Suite) {
    let (Ok(part), Ok(endpoint)) = (env::var(PART), env::var(ENDPOINT)) else {
        return;
    };
    let endpoint = endpoint.parse().expect("the parent names an endpoint");
    crate::cases::play(suite, &part, &endpoint);
}

/// The name of the test `child_process` in this module. The harness leaves the crate's name out.
fn test_name(module: &str) -> String {
    match module.split_once("::") {
        Some((_, inner)) => format!("{inner}::child_process"),
        None => "child_process".into(),
    }
}

fn receive(control: BorrowedFd<'_>) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut message = vec![0; 64 * 1024];
    let (count, fds) = recv_with_fds(control, &mut message, MsgFlags::empty())
        .expect("the control socket can be read");
    message.truncate(count);
    (message, fds)
}

fn identity_to_text(identity: &PeerIdentity) -> String {
    let PeerIdentity { pid, uid, gid, addr, certificate } = identity;
    assert!(certificate.is_none(), "no channel moves after its handshake");
    let number = |value: &Option<u32>| value.map_or("-".into(), |value| value.to_string());
    let addr = addr.map_or("-".into(), |addr| addr.to_string());
    [number(pid), number(uid), number(gid), addr].join(" ")
}

fn identity_from_text(text: &str) -> PeerIdentity {
    let mut words = text.split(' ').map(|word| (word != "-").then_some(word));
    let mut next = || words.next().expect("an identity has four fields");
    let number = |word: Option<&str>| word.map(|word| word.parse().expect("a number"));
    let (pid, uid, gid) = (number(next()), number(next()), number(next()));
    let addr = next().map(|word| word.parse().expect("an address"));
    PeerIdentity { pid, uid, gid, addr, certificate: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_test() {
        assert_eq!(test_name("conformance"), "child_process");
        assert_eq!(test_name("conformance::a::b"), "a::b::child_process");
    }

    #[test]
    fn passes_identities() {
        let all = PeerIdentity {
            pid: Some(1),
            uid: Some(2),
            gid: Some(3),
            addr: Some("[::1]:4".parse().unwrap()),
            certificate: None,
        };
        for identity in [all, PeerIdentity::default(), PeerIdentity::from_owner(7)] {
            assert_eq!(identity_from_text(&identity_to_text(&identity)), identity);
        }
    }
}
