//! Through a real sshd: `ipcctl --via 'pipe:ssh host ipcd --stdio'`.
//!
//! The test acts as inetd: it listens on a free port and runs a `sshd -i` for each connection, with
//! keys and a configuration of its own. Without an installed sshd each test is skipped.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, eventually, guard, ipcd, is_without};
use nix::unistd::{User, getuid};
use tempfile::TempDir;

/// sshd runs itself again, so its whole path is needed.
const SSHD: &str = "/usr/sbin/sshd";

/// An sshd, and its address.
struct SshHost {
    dir: TempDir,
    port: u16,
    servers: Arc<Mutex<Vec<Child>>>,
}

impl SshHost {
    /// A host that lets us in; `None` if there is no sshd.
    fn start() -> Option<Self> {
        if is_without(&[SSHD, "ssh", "ssh-keygen"]) {
            return None;
        }
        if getuid().is_root() {
            // Root's sshd confines its unprivileged part to this directory, which Debian makes at
            // boot.
            let _ = fs::create_dir("/run/sshd");
        }
        let dir = ipcd_tests::private_dir();
        let key = |name: &str| {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(name));
            RunningProcess::start(command.stdin(Stdio::null())).wait().expect(0);
        };
        ["host", "user", "stranger"].into_iter().for_each(key);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("the socket is bound").port();
        let host = Self { dir, port, servers: Arc::default() };
        host.configure();
        host.serve(listener);
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self) {
        let (dir, port) = (self.dir.path().display(), self.port);
        let user = User::from_uid(getuid()).expect("it can be looked up").expect("we are a user");
        let server = format!(
            "HostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             PidFile none\nLogLevel VERBOSE\n"
        );
        fs::write(self.path("sshd_config"), server).expect("the directory is writable");
        let client = format!(
            "Host host\nHostName 127.0.0.1\nUser {}\nBatchMode yes\nLogLevel ERROR\n\
             IdentityFile {dir}/user\nIdentitiesOnly yes\nIdentityAgent none\n\
             StrictHostKeyChecking yes\nUserKnownHostsFile {dir}/known\n\
             GlobalKnownHostsFile /dev/null\n",
            user.name
        );
        fs::write(self.path("ssh_config"), &client).expect("the directory is writable");
        let stranger = client.replace(&format!("{dir}/user"), &format!("{dir}/stranger"));
        fs::write(self.path("stranger_config"), stranger).expect("the directory is writable");
        let key = fs::read_to_string(self.path("host.pub")).expect("the file can be read");
        fs::write(self.path("known"), format!("[127.0.0.1]:{port} {key}"))
            .expect("the file can be written");
    }

    fn serve(&self, listener: TcpListener) {
        let (config, log) = (self.path("sshd_config"), self.path("sshd.log"));
        let servers = Arc::clone(&self.servers);
        std::thread::spawn(move || {
            // The thread ends with the test's process: no more connections come.
            for peer in listener.incoming() {
                let peer = OwnedFd::from(peer.expect("a client connects"));
                let mut sshd = Command::new(SSHD);
                sshd.arg("-i").arg("-f").arg(&config).arg("-E").arg(&log);
                guard(&mut sshd);
                sshd.stdin(peer.try_clone().expect("a descriptor is left")).stdout(peer);
                let child = sshd.stderr(Stdio::null()).spawn().expect("the program is installed");
                servers.lock().unwrap_or_else(PoisonError::into_inner).push(child);
            }
        });
    }

    /// `--via` for a daemon there, with this configuration of ssh.
    fn via(&self, daemon: &Daemon, config: &str) -> String {
        let (ipcd, run) = (ipcd(), daemon.runtime_dir());
        format!(
            "pipe:ssh -F {} -p {} host {} --stdio --runtime-dir {}",
            self.path(config).display(),
            self.port,
            ipcd.display(),
            run.display()
        )
    }

    /// Ends all connections, as a broken network does.
    fn break_off(&self) {
        for mut server in self.servers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        self.break_off();
        if std::thread::panicking() {
            eprintln!(
                "--- log of sshd\n{}",
                fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
            );
        }
    }
}

#[test]
fn everything_works_through_ssh_where_sshd_is_installed() {
    let Some(host) = SshHost::start() else { return };
    let daemon = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "2"]).start();
    let via = host.via(&daemon, "ssh_config");
    assert!(daemon.ctl(&via, &["ping"]).run().expect(0).text().starts_with("pong"));
    let args = ["recv", "-E", "-C", "3", "-o", "jsonl", "news"];
    let mut receiver = daemon.ctl(&via, &args).spawn_subscribed();
    daemon.ctl(&via, &["send", "news", "-l"]).run_fed(b"one\ntwo\n").expect(0);
    daemon.send("news", "three");
    let text = receiver.wait().expect(0).text();
    let bodies = text.lines().map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).expect("the text is JSON");
        // The daemon sees the user that ssh has logged in.
        assert_eq!(message["from"]["uid"], getuid().as_raw(), "{line}");
        message["data"].as_str().expect("the field is a string").to_owned()
    });
    assert!(bodies.eq(["one", "two", "three"]), "{text}");
    let _server = daemon.ctl(&via, &["serve", "echo", "-E", "--echo"]).spawn_subscribed();
    let body: Vec<u8> = (0..1 << 20).map(|number: u32| (number % 251) as u8).collect();
    let ended = daemon.ctl(&via, &["req", "echo", "-N"]).run_fed(&body).expect(0);
    assert!(ended.stdout == body, "a megabyte there and back");
}

#[test]
fn a_connection_that_breaks_is_noticed_on_both_sides_where_sshd_is_installed() {
    let Some(host) = SshHost::start() else { return };
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let via = host.via(&daemon, "ssh_config");
    let args = ["recv", "-E", "--no-reconnect", "news"];
    let mut receiver = daemon.ctl(&via, &args).spawn_subscribed();
    let mut steady = daemon.ctl(&via, &["recv", "-E", "-C", "1", "news"]).spawn_subscribed();
    daemon.wait_for_peers(2);
    host.break_off();
    receiver.wait().expect(7);
    // The other client connects again.
    steady.stderr.wait_for("connected again");
    let send = ["send", "--wait-subs", "1", "--timeout", "60s", "news", "after the break"];
    daemon.ctl("unix", &send).run().expect(0);
    assert_eq!(steady.wait().expect(0).text(), "after the break\n");
    eventually("all peers have left", || (daemon.clients().len() == 1).then_some(()));
}

#[test]
fn whom_ssh_does_not_let_in_is_told_why_where_sshd_is_installed() {
    let Some(host) = SshHost::start() else { return };
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let via = host.via(&daemon, "stranger_config");
    let said = daemon.ctl(&via, &["ping"]).run().expect(3).stderr;
    assert!(said.contains("Permission denied"), "{said}");
    let nowhere = host.via(&daemon, "ssh_config").replace("/run", "/nowhere");
    let said = daemon.ctl(&nowhere, &["ping"]).run().expect(3).stderr;
    assert!(said.contains("is ipcd running there?"), "{said}");
}
