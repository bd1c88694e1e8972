//! The sandbox of workers: its level, its reports, and the calls that a worker which was taken over
//! cannot make.

use std::fs;

use ipcd_tests::{Daemon, DaemonSetup, children};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn with(sandbox: &str, args: &[&str]) -> DaemonSetup {
    DaemonSetup::new().config(&format!("[daemon]\nsandbox = \"{sandbox}\"\n")).args(args)
}

fn field(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.expect("proc(5) has it").to_owned()
}

fn level(daemon: &Daemon) -> String {
    daemon.status()["sandbox"].as_str().expect("status -j says it").to_owned()
}

#[test]
fn workers_are_confined_and_the_supervisor_is_not() {
    for mode in ["pool", "connection"] {
        let daemon = DaemonSetup::new().args(&["--fork", mode, "--workers", "2"]).start();
        let peer = daemon.client("unix");
        let level = level(&daemon);
        assert!(daemon.log().contains(&format!("sandbox level={level}")), "{}", daemon.log());
        let text = daemon.ctl("unix", &["status"]).run().expect(0).text();
        assert!(text.contains(&format!("\nsandbox {level}\n")), "{text}");
        if level.contains("seccomp,") {
            for worker in children(daemon.process.pid()) {
                assert_eq!(field(worker, "Seccomp"), "2", "{mode}");
                assert_eq!(field(worker, "NoNewPrivs"), "1", "{mode}");
            }
        }
        assert_eq!(
            field(daemon.process.pid(), "Seccomp"),
            field(std::process::id() as i32, "Seccomp")
        );
        drop(peer);
    }
}

#[test]
fn it_can_be_turned_off() {
    let daemon = with("off", &[]).start();
    assert_eq!(level(&daemon), "off");
    assert!(daemon.log().contains("sandbox level=off"), "{}", daemon.log());
    assert_eq!(
        field(daemon.worker(), "NoNewPrivs"),
        field(std::process::id() as i32, "NoNewPrivs")
    );
}

/// Runs `body` as if the kernel did not know a system call. The filter is for one thread, and for
/// the processes that it starts.
fn without<T: Send>(call: i64, body: impl FnOnce() -> T + Send) -> T {
    let rules = [(call, Vec::new())].into();
    let here = std::env::consts::ARCH.try_into().expect("there are filters for it");
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, here);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("it is a filter");
    std::thread::scope(|scope| {
        let body = scope.spawn(move || {
            apply_filter(&program).expect("the kernel has seccomp");
            body()
        });
        body.join().expect("the thread has not panicked")
    })
}

const WITHOUT: [(i64, &str); 2] =
    [(libc::SYS_landlock_create_ruleset, "no landlock"), (libc::SYS_seccomp, "no seccomp")];

#[test]
fn what_is_missing_is_said_and_the_rest_is_in_force() {
    for (call, missing) in WITHOUT {
        let daemon = without(call, || DaemonSetup::new().listen(&["unix"]).start());
        let level = level(&daemon);
        assert!(level.starts_with("partial (") && level.contains(missing), "{level}");
        assert!(level.contains("no_new_privs: "), "{level}");
        assert!(daemon.log().contains(&format!("WARN sandbox level={level}")), "{}", daemon.log());
        daemon.send("a", "works all the same");
    }
}

#[test]
fn a_daemon_that_requires_what_is_missing_does_not_start() {
    for (call, missing) in WITHOUT {
        let dir = ipcd_tests::private_dir();
        let setup = with("required", &[]).listen(&["unix"]);
        let ended = without(call, || setup.spawn(dir.path()).wait()).expect(2);
        let words = ["sandbox = \"required\"", missing, "best-effort"];
        assert!(words.iter().all(|word| ended.stderr.contains(word)), "{}", ended.stderr);
        assert!(!ended.stderr.contains("listening"), "{}", ended.stderr);
    }
}

#[test]
fn a_daemon_that_requires_it_has_it_all() {
    let dir = ipcd_tests::private_dir();
    let default = DaemonSetup::new().listen(&["unix"]).start();
    if !level(&default).starts_with("full (") {
        with("required", &[]).listen(&["unix"]).spawn(dir.path()).wait().expect(2);
        return;
    }
    let daemon = with("required", &[]).listen(&["unix"]).start();
    assert_eq!(level(&daemon), level(&default));
}

#[test]
fn a_word_that_it_does_not_know_is_a_place_in_the_file() {
    let dir = ipcd_tests::private_dir();
    let ended = with("some", &[]).spawn(dir.path()).wait().expect(2);
    let words = ["ipcd.toml:2:11: ", "`required`, `best-effort`, `off`"];
    assert!(words.iter().all(|word| ended.stderr.contains(word)), "{}", ended.stderr);
}

/// A real worker is made to try each call, by its own instructions.
#[cfg(target_arch = "x86_64")]
mod taken_over {
    use ipcd_client::{Client, Event};
    use ipcd_tests::{
        CallResult, OpenDescriptor, PATIENCE, TracedProcess, descriptors, eventually,
    };
    use nix::errno::Errno;
    use nix::sys::signal::Signal;

    use super::*;

    /// Executable memory of a process.
    const CODE: u64 = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    const NO_FD: u64 = u64::MAX;

    fn unix_socket() -> [u64; 6] {
        [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]
    }

    /// Calls that fail. `at` is memory of its own, and `parent` the supervisor.
    fn refused(at: u64, own: u64, parent: u64) -> Vec<(&'static str, i64, [u64; 6])> {
        let here = libc::AT_FDCWD as u64;
        let chld = Signal::SIGCHLD as u64;
        let abort = Signal::SIGABRT as u64;
        let (socket, fcntl) = (libc::SOL_SOCKET as u64, libc::SYS_fcntl);
        vec![
            ("open", libc::SYS_open, [at, 0, 0, 0, 0, 0]),
            ("openat", libc::SYS_openat, [here, at, 0, 0, 0, 0]),
            ("openat2", libc::SYS_openat2, [here, at, at, 24, 0, 0]),
            ("creat", libc::SYS_creat, [at, 0, 0, 0, 0, 0]),
            ("unlink", libc::SYS_unlink, [at, 0, 0, 0, 0, 0]),
            ("rename", libc::SYS_rename, [at, at, 0, 0, 0, 0]),
            ("stat", libc::SYS_stat, [at, at, 0, 0, 0, 0]),
            ("chdir", libc::SYS_chdir, [at, 0, 0, 0, 0, 0]),
            ("socket", libc::SYS_socket, unix_socket()),
            ("socketpair", libc::SYS_socketpair, [1, 1, 0, at, 0, 0]),
            ("bind", libc::SYS_bind, [0, at, 16, 0, 0, 0]),
            ("connect", libc::SYS_connect, [0, at, 16, 0, 0, 0]),
            ("listen", libc::SYS_listen, [0, 1, 0, 0, 0, 0]),
            ("accept4", libc::SYS_accept4, [0, 0, 0, 0, 0, 0]),
            ("sendmsg", libc::SYS_sendmsg, [0, at, 0, 0, 0, 0]),
            ("sendmmsg", libc::SYS_sendmmsg, [0, at, 1, 0, 0, 0]),
            ("sendto elsewhere", libc::SYS_sendto, [0, at, 1, 0, at, 16]),
            ("linger", libc::SYS_setsockopt, [0, socket, libc::SO_LINGER as u64, at, 8, 0]),
            ("fork", libc::SYS_fork, [0; 6]),
            ("vfork", libc::SYS_vfork, [0; 6]),
            ("clone", libc::SYS_clone, [chld, 0, 0, 0, 0, 0]),
            ("clone3", libc::SYS_clone3, [at, 64, 0, 0, 0, 0]),
            ("kill the supervisor", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
            ("abort the supervisor", libc::SYS_tgkill, [parent, parent, abort, 0, 0, 0]),
            ("stop itself", libc::SYS_tgkill, [own, own, Signal::SIGSTOP as u64, 0, 0, 0]),
            ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
            ("mmap code", libc::SYS_mmap, [0, 4096, CODE, ANONYMOUS, NO_FD, 0]),
            ("mprotect code", libc::SYS_mprotect, [at & !4095, 4096, CODE, 0, 0, 0]),
            ("pkey_mprotect", libc::SYS_pkey_mprotect, [at & !4095, 4096, CODE, 0, 0, 0]),
            ("memfd_create", libc::SYS_memfd_create, [at, 0, 0, 0, 0, 0]),
            ("shmget", libc::SYS_shmget, [0, 4096, 0o1600, 0, 0, 0]),
            ("prctl", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]),
            ("prlimit", libc::SYS_prlimit64, [0, 4, 0, at, 0, 0]),
            ("setuid", libc::SYS_setuid, [0; 6]),
            ("personality", libc::SYS_personality, [0; 6]),
            ("seccomp", libc::SYS_seccomp, [0, 0, 0, 0, 0, 0]),
            ("fcntl own", fcntl, [0, libc::F_SETOWN as u64, parent, 0, 0, 0]),
            ("ioctl", libc::SYS_ioctl, [0, libc::TIOCSTI, at, 0, 0, 0]),
            ("reboot", libc::SYS_reboot, [0; 6]),
            ("mount of another kind", libc::SYS_fsopen, [at, 0, 0, 0, 0, 0]),
        ]
    }

    /// Calls that end it.
    fn deadly(at: u64) -> Vec<(&'static str, i64, [u64; 6])> {
        vec![
            ("execve", libc::SYS_execve, [at, 0, 0, 0, 0, 0]),
            ("execveat", libc::SYS_execveat, [0, at, 0, 0, 0, 0]),
            ("ptrace", libc::SYS_ptrace, [0; 6]),
            ("process_vm_writev", libc::SYS_process_vm_writev, [1, at, 0, at, 0, 0]),
            ("bpf", libc::SYS_bpf, [0, at, 0, 0, 0, 0]),
            ("io_uring_setup", libc::SYS_io_uring_setup, [1, at, 0, 0, 0, 0]),
            ("keyctl", libc::SYS_keyctl, [0; 6]),
            ("unshare", libc::SYS_unshare, [0; 6]),
        ]
    }

    /// Holds a worker that is confined; `None` if that is impossible here.
    fn hold(daemon: &Daemon, pid: i32) -> Option<TracedProcess> {
        if !level(daemon).contains("seccomp,") {
            eprintln!("not tried: no seccomp");
            return None;
        }
        let puppet = TracedProcess::hold(pid);
        if puppet.is_none() {
            eprintln!("not tried: this user may not trace");
        }
        puppet
    }

    #[test]
    fn it_can_do_nothing_but_move_bytes() {
        let daemon = DaemonSetup::new().listen(&["unix"]).start();
        let worker = daemon.worker();
        let parent = daemon.process.pid() as u64;
        let Some(puppet) = hold(&daemon, worker) else { return };
        let own = puppet.call(libc::SYS_getpid, [0; 6]);
        assert_eq!(own, CallResult::Returned(worker.into()), "the tracer works");
        for (what, call, args) in refused(puppet.stack(), worker as u64, parent) {
            assert_eq!(puppet.call(call, args), CallResult::Failed(Errno::EPERM), "{what}");
        }
        puppet.release();
        daemon.send("still", "here");
        assert_eq!(daemon.worker(), worker);
    }

    #[test]
    fn it_dies_of_what_no_worker_ever_tries() {
        let daemon = DaemonSetup::new().listen(&["unix"]).start();
        for (what, call, args) in deadly(0) {
            let Some(puppet) = hold(&daemon, daemon.worker()) else { return };
            assert_eq!(puppet.call(call, args), CallResult::Killed(Signal::SIGSYS), "{what}");
        }
        let worker = daemon.worker();
        let (own, abort) = (worker as u64, Signal::SIGABRT as u64);
        let Some(puppet) = hold(&daemon, worker) else { return };
        let aborted = puppet.call(libc::SYS_tgkill, [own, own, abort, 0, 0, 0]);
        assert_eq!(aborted, CallResult::Returned(0), "abort(3) is its own affair");
        puppet.release();
        daemon.process.stderr.wait_for("signal=\"SIGABRT\"\n");
        daemon.send("served", "by a successor");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("worker died"));
        let line = line.expect("a death is logged");
        assert!(line.contains("signal=\"SIGSYS\" why=\"its sandbox forbids"), "{line}");
    }

    #[test]
    fn it_dies_of_calls_in_the_manner_of_32_bits() {
        let daemon = DaemonSetup::new().listen(&["unix"]).start();
        let Some(puppet) = hold(&daemon, daemon.worker()) else { return };
        // 20 is getpid(2) in that interface. A kernel without it sends SIGSEGV.
        let called = puppet.call_32(20);
        assert!(
            matches!(called, CallResult::Killed(Signal::SIGSYS | Signal::SIGSEGV)),
            "{called:?}"
        );
        daemon.send("served", "by a successor");
    }

    /// The calls that the other tests see refused are refused by the sandbox.
    #[test]
    fn without_it_a_worker_may_do_what_its_user_may() {
        let daemon = with("off", &[]).listen(&["unix"]).start();
        let Some(puppet) = TracedProcess::hold(daemon.worker()) else { return };
        for (what, call, args) in [
            ("socket", libc::SYS_socket, unix_socket()),
            ("mmap code", libc::SYS_mmap, [0, 4096, CODE, ANONYMOUS, NO_FD, 0]),
            ("prctl", libc::SYS_prctl, [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0]),
        ] {
            let called = puppet.call(call, args);
            assert!(matches!(called, CallResult::Returned(_)), "{what}: {called:?}");
        }
        puppet.release();
        daemon.send("still", "here");
    }

    /// It can write to its link, and to the sockets to workers that it has met.
    #[test]
    fn what_it_says_harms_neither_the_supervisor_nor_other_workers() {
        let daemon = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "2"]).start();
        let (victim, hostile) = (daemon.worker_in(0).pid, daemon.worker_in(1).pid);
        let (mut publisher, _) = daemon.client_on("unix", |slot| slot == 0);
        let (mut subscriber, _) = daemon.client_on("unix", |slot| slot == 1);
        hears(&mut publisher, &mut subscriber);
        let Some(puppet) = hold(&daemon, hostile) else { return };
        let nonsense = puppet.poke(-1);
        let socket = libc::SOL_SOCKET as u64;
        let is_refused = |call, args| puppet.call(call, args) == CallResult::Failed(Errno::EPERM);
        let sockets = descriptors(hostile).into_iter();
        let sockets = sockets.filter(|(_, what)| *what == OpenDescriptor::Unix("seqpacket"));
        // Its successor takes the link over. Another socket ends with either worker.
        let (links, others): (Vec<u64>, Vec<u64>) = sockets
            .map(|(number, _)| number as u64)
            .partition(|fd| is_refused(libc::SYS_fcntl, [*fd, libc::F_SETFL as u64, 0, 0, 0, 0]));
        assert_eq!((links.len(), others.len()), (1, 1), "its link, and one other worker");
        for (what, call, args) in [
            ("close it for all", libc::SYS_shutdown, [links[0], 2, 0, 0, 0, 0]),
            ("shrink it", libc::SYS_setsockopt, [links[0], socket, 7, nonsense, 4, 0]),
            ("make it block", libc::SYS_ioctl, [links[0], libc::FIONBIO, nonsense, 0, 0, 0]),
            ("get at it", libc::SYS_fcntl, [links[0], libc::F_DUPFD_CLOEXEC as u64, 0, 0, 0, 0]),
            ("get at it", libc::SYS_dup, [links[0], 0, 0, 0, 0, 0]),
        ] {
            assert!(is_refused(call, args), "{what}");
        }
        // The link is the last one: the supervisor ends the worker for that.
        for fd in others.into_iter().chain(links) {
            let called = puppet.call(libc::SYS_write, [fd, nonsense, 8, 0, 0, 0]);
            // It may be killed before the call returns.
            let is_said = matches!(called, CallResult::Returned(8) | CallResult::Killed(_));
            assert!(is_said, "{called:?}");
        }
        // It may have ended already.
        puppet.let_go();
        daemon.process.stderr.wait_for("worker violated the protocol: killing it");
        daemon.process.stderr.wait_for("dropped an invalid record of another worker");
        let successor = eventually("a successor", || {
            Some(daemon.worker_in(1)).filter(|worker| worker.pid != hostile)
        });
        assert_eq!(successor.generation, 2);
        assert_eq!(daemon.worker_in(0).pid, victim);
        assert!(daemon.counter("records_stale") > 0);
        // The other worker meets the successor.
        let (mut subscriber, _) = daemon.client_on("unix", |slot| slot == 1);
        hears(&mut publisher, &mut subscriber);
        let pids = [0, 1].map(|slot| daemon.worker_in(slot).pid);
        assert_eq!(pids, [victim, successor.pid]);
    }

    /// A message from one client to the other, on another worker.
    fn hears(publisher: &mut Client, subscriber: &mut Client) {
        subscriber.subscribe("to.the.other", Default::default()).expect("it is alive");
        publisher.publish("to.the.other", b"believed").expect("the connection is open");
        publisher.flush().expect("all messages are accepted");
        let deadline = Some(std::time::Instant::now() + PATIENCE);
        let heard = subscriber.next_event(deadline).expect("the connection is open");
        assert!(matches!(heard, Some(Event::Message(_))), "{heard:?}");
    }
}

#[test]
fn workers_of_root_are_nobody_unless_a_user_is_given() {
    if !nix::unistd::geteuid().is_root() {
        return ipcd_tests::skip("only root can give up root's rights");
    }
    for mode in ["pool", "connection"] {
        let daemon = DaemonSetup::new().args(&["--fork", mode]).start();
        let peer = daemon.client("unix");
        let workers = children(daemon.process.pid());
        assert!(!workers.is_empty(), "no worker serves the peer");
        for worker in workers {
            let ids = field(worker, "Uid");
            assert!(ids.split('\t').all(|uid| uid != "0"), "{mode}: {ids}");
            assert_eq!(field(worker, "CapEff"), "0000000000000000", "{mode}");
            assert_eq!(field(worker, "CapPrm"), "0000000000000000", "{mode}");
            assert_eq!(
                field(worker, "Groups").trim(),
                field(worker, "Gid").split('\t').next().unwrap_or("")
            );
        }
        drop(peer);
    }
    let daemon = DaemonSetup::new().args(&["--user", "root"]).start();
    assert_eq!(field(daemon.worker(), "Uid").split('\t').next(), Some("0"), "it was asked for");
}
