//! Processes: killed, stopped, refused by the kernel, and signalled at bad moments.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use ipcd_proto::FrameKind;
use ipcd_tests::{
    Daemon, DaemonSetup, FaultScene, HealthyLoad, children, descriptors, eventually, is_alive,
    is_without, private_dir, state,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::refused::{ALWAYS, Refusals};

fn signal(pid: i32, signal: Signal) {
    // It is a process of this test's daemon, found a moment ago.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills or stops one of two workers all the time, which must not disturb peers of the other.
fn strike_a_worker(span: Duration, how: Signal) {
    const LIFE: Duration = Duration::from_millis(200);
    let config = "[daemon]\nwatchdog = \"300ms\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
    let load = HealthyLoad::start_on(&daemon, &["unix", "tcp", "fifo"], 0);
    let mut watcher = daemon.client_on("unix", |at| at == 0).0;
    let victims = ["unix", "pipe", "fifo", "tcp"].map(|scheme| daemon.recv(scheme, &["-q", "v"]));
    let supervisor = daemon.process.pid();
    let own = daemon.worker_in(0).pid;
    let (start, mut strikes) = (Instant::now(), 0);
    while start.elapsed() < span {
        let other = children(supervisor).into_iter().find(|pid| *pid != own);
        if let Some(pid) = other.filter(|pid| is_alive(*pid)) {
            signal(pid, how);
            strikes += 1;
            eventually("the process is reaped", || state(pid).is_none().then_some(()));
        }
        load.goes_on();
        std::thread::sleep(LIFE);
    }
    assert!(strikes > 1, "only {strikes} strikes");
    // The victims reconnect, to any worker, and receive everything again.
    let wait = format!("{}", victims.len());
    daemon.ctl("unix", &["send", "v", "again", "--wait-subs", &wait]).run().expect(0);
    for mut victim in victims {
        victim.stdout().wait_for("again\n");
    }
    watcher.flush().expect("its worker lives");
    drop(watcher);
    eprintln!("{strikes} × {how}, generation {}", daemon.worker_in(1).generation);
    assert!(is_alive(own) && daemon.worker_in(0).pid == own);
    FaultScene::set(daemon, load).check("a worker struck again and again");
}

#[test]
fn a_worker_killed_every_200_ms_disturbs_nobody_on_another() {
    strike_a_worker(Duration::from_secs(3), Signal::SIGKILL);
}

#[test]
fn a_worker_stopped_every_200_ms_disturbs_nobody_on_another() {
    strike_a_worker(Duration::from_secs(3), Signal::SIGSTOP);
}

#[test]
#[ignore = "long: a minute"]
fn a_worker_killed_every_200_ms_for_a_minute_disturbs_nobody_on_another() {
    strike_a_worker(Duration::from_secs(60), Signal::SIGKILL);
}

#[test]
#[ignore = "long: a minute"]
fn a_worker_stopped_every_200_ms_for_a_minute_disturbs_nobody_on_another() {
    strike_a_worker(Duration::from_secs(60), Signal::SIGSTOP);
}

/// A client that is killed has never written all of a frame of a mebibyte.
#[test]
fn a_client_killed_inside_a_frame_leaves_nothing_behind() {
    let mut scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let body = scene.daemon.dir().join("body");
    fs::write(&body, vec![b'x'; 1 << 20]).expect("the directory is writable");
    let kill_one = |daemon: &Daemon, scheme: &str| {
        let before = daemon.counter("messages_accepted");
        let body = body.to_str().expect("the path is text");
        let mut client =
            daemon.ctl(scheme, &["send", "big", "-f", body, "--count", "99999"]).spawn();
        eventually("some of its messages", || {
            (daemon.counter("messages_accepted") > before + 100).then_some(())
        });
        client.signal(Signal::SIGKILL);
        client.wait();
    };
    let schemes = ["unix", "pipe", "fifo", "tcp"];
    schemes.iter().for_each(|scheme| kill_one(&scene.daemon, scheme));
    scene.rehearsed();
    for _ in 0..4 {
        schemes.iter().for_each(|scheme| kill_one(&scene.daemon, scheme));
    }
    scene.check("clients killed inside a frame");
}

#[test]
fn fork_is_refused_and_each_peer_is_told_so() {
    let Some(refusals) = Refusals::prepare() else { return };
    let setup = DaemonSetup::new().args(&["--fork", "connection", "--max-children", "40"]);
    let scene = FaultScene::start(refusals.over(setup), &["unix", "tcp"]);
    let supervisor = scene.daemon.process.pid();
    let refused = refusals.refuse(&[supervisor], "fork", Errno::EAGAIN, ALWAYS);
    for scheme in ipcd_tests::SCHEMES {
        let ended = scene.daemon.ctl(scheme, &["ping"]).run().expect(6);
        assert!(ended.stderr.contains("cannot start another child"), "{}", ended.stderr);
    }
    drop(refused);
    scene.check("fork refused to a peer's child");
}

#[test]
fn fork_is_refused_and_the_worker_is_born_later() {
    let Some(refusals) = Refusals::prepare() else { return };
    let daemon = refusals.over(DaemonSetup::new().args(&["--workers", "2"])).start();
    let load = HealthyLoad::start_on(&daemon, &["unix", "tcp"], 0);
    let scene = FaultScene::set(daemon, load);
    let supervisor = scene.daemon.process.pid();
    let victim = scene.daemon.worker_in(1).pid;
    let refused = refusals.refuse(&[supervisor], "fork", Errno::EAGAIN, ALWAYS);
    signal(victim, Signal::SIGKILL);
    let log = &scene.daemon.process.stderr;
    log.wait_until("that it cannot fork, twice", |text| {
        (text.matches("cannot fork a worker").count() >= 2).then_some(())
    });
    for scheme in ipcd_tests::SCHEMES {
        scene.daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
    drop(refused);
    eventually("a new worker", || (scene.daemon.worker_in(1).pid != victim).then_some(()));
    scene.check("fork refused to a worker");
}

/// Processor time that a process has used, in clock ticks (proc_pid_stat(5)).
fn ticks(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, rest) = text.rsplit_once(") ").expect("a process has a name");
    let field = |at: usize| rest.split(' ').nth(at).and_then(|ticks| ticks.parse::<u64>().ok());
    field(11).zip(field(12)).map(|(user, system)| user + system).expect("two numbers")
}

fn limit_descriptors(pid: i32, most: usize) {
    let limit = format!("--nofile={most}:");
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(limited.expect("prlimit(1) is there").success());
}

#[test]
fn a_supervisor_without_descriptors_does_not_spin_and_serves_all_later() {
    if is_without(&["prlimit"]) {
        return;
    }
    const HERTZ: u64 = 100;
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let supervisor = scene.daemon.process.pid();
    limit_descriptors(supervisor, descriptors(supervisor).len() + 3);
    let connect = |scheme: &'static str| (scheme, scene.daemon.raw(scheme));
    let peers: Vec<_> = (0..40).flat_map(|_| ["unix", "tcp"]).map(connect).collect();
    scene.daemon.process.stderr.wait_for("peer not accepted");
    let (before, start) = (ticks(supervisor), Instant::now());
    scene.endure(Duration::from_secs(2));
    let used = ticks(supervisor) - before;
    let span = start.elapsed().as_secs_f64() * HERTZ as f64;
    assert!((used as f64) < span / 2.0, "{used} ticks of {span:.0}: it spins");
    limit_descriptors(supervisor, 10_000);
    for (scheme, raw) in peers {
        match scheme {
            "tcp" => drop(raw.open_with(&scene.daemon.token())),
            _ => drop(raw.open()),
        }
    }
    scene.check("no descriptors for a while");
}

/// Descriptors on their way to a worker that has none left: only those peers are disconnected.
#[test]
fn a_worker_without_descriptors_lets_new_peers_go_and_serves_the_others() {
    if is_without(&["prlimit"]) {
        return;
    }
    // In a container root may limit only its own processes (prlimit(2), CAP_SYS_RESOURCE).
    let user: &[&str] = if Uid::effective().is_root() { &["--user", "root"] } else { &[] };
    let setup = DaemonSetup::new().args(&["--workers", "1"]).args(user);
    let scene = FaultScene::start(setup, &["unix", "tcp"]);
    let worker = scene.daemon.worker();
    scene.daemon.wait_for_peers(scene.load().peers());
    limit_descriptors(worker, descriptors(worker).len() + 3);
    for scheme in ["unix", "tcp", "pipe", "fifo"] {
        for mut raw in (0..8).map(|_| scene.daemon.raw(scheme)).collect::<Vec<_>>() {
            raw.finish();
            while raw.frame().is_some() {}
        }
    }
    scene.endure(Duration::from_millis(500));
    limit_descriptors(worker, 10_000);
    scene.check("descriptors in flight to a worker that has none");
}

const ALL_CALLS: &str = "read,write,readv,writev,recvfrom,sendto,recvmsg,sendmsg,\
     accept4,epoll_wait,wait4,waitid,connect,openat,openat2";

#[test]
fn interrupted_calls_are_made_again() {
    let Some(refusals) = Refusals::prepare() else { return };
    let setup = refusals.over(DaemonSetup::new());
    let scene = FaultScene::start(setup, &["unix", "pipe", "fifo", "tcp"]);
    let supervisor = scene.daemon.process.pid();
    let worker = children(supervisor)[0];
    let refused = refusals.refuse(&[supervisor, worker], ALL_CALLS, Errno::EINTR, [2, 3]);
    scene.load().goes_on();
    for scheme in ipcd_tests::SCHEMES {
        for _ in 0..5 {
            scene.daemon.ctl(scheme, &["ping"]).run().expect(0);
        }
    }
    scene.load().goes_on();
    assert!(refused.count() > 100, "{} calls were interrupted", refused.count());
    drop(refused);
    assert_eq!(children(supervisor), [worker], "the worker was replaced");
    scene.check("interrupted calls");
}

/// The kernel has no memory: newcomers may be refused, but only then.
#[test]
fn calls_that_fail_for_lack_of_memory_harm_only_who_comes_then() {
    // A refused peer must not count as connected: a small limit shows it.
    let setup = DaemonSetup::new().config("[limits]\nmax_peers = 8\n").args(&["--workers", "2"]);
    let Some(refusals) = Refusals::prepare() else { return };
    let scene = FaultScene::start(refusals.over(setup), &["unix", "tcp"]);
    let supervisor = scene.daemon.process.pid();
    let calls = "accept4,pipe2,socket,bind,connect,recvfrom,sendto,sendmsg,openat2,fcntl";
    for error in [Errno::ENOMEM, Errno::ENOBUFS] {
        let refused = refusals.refuse(&[supervisor], calls, error, [3, 3]);
        for scheme in ipcd_tests::SCHEMES {
            for _ in 0..4 {
                // Some are refused.
                scene.daemon.ctl(scheme, &["--timeout", "1s", "ping"]).run();
            }
        }
        drop(refused);
        scene.load().goes_on();
    }
    scene.check("no memory in the kernel");
}

/// Writes that take less than was offered: small buffers, and a reader of odd sizes.
#[test]
fn short_writes_are_continued() {
    const MESSAGES: usize = 300;
    let config = "[limits]\nstall_timeout = \"1000s\"\n";
    let scene = FaultScene::start(DaemonSetup::new().config(config), &["unix"]);
    let mut readers: Vec<_> = ["unix", "pipe", "fifo", "tcp"]
        .map(|scheme| {
            let mut raw = scene.daemon.session(scheme);
            raw.shrink();
            raw.subscribe(1, "short");
            raw
        })
        .into();
    let mut publisher = scene.daemon.client("unix");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..MESSAGES {
                let payload = vec![number as u8; number * 7919 % 20_000];
                publisher.publish("short", &payload).expect("the connection lives");
            }
            publisher.flush().expect("all messages are accepted");
        });
        for raw in &mut readers {
            scope.spawn(|| {
                for number in 0..MESSAGES {
                    let payload = raw.expect(FrameKind::Message).payload;
                    let is_whole = payload.len() == number * 7919 % 20_000;
                    assert!(is_whole && payload.iter().all(|byte| *byte == number as u8));
                }
            });
        }
    });
    drop(readers);
    scene.check("short writes");
}

/// Peers that leave before they are answered, with either default of SIGPIPE.
fn writes_to_those_who_have_gone(disposition: &str) {
    let wrapper = format!("exec env --{disposition}-signal=PIPE \"$@\"");
    let scene =
        FaultScene::start(DaemonSetup::new().wrapper(&wrapper), &["unix", "pipe", "fifo", "tcp"]);
    for _ in 0..50 {
        for scheme in ["unix", "pipe", "fifo", "tcp"] {
            let mut raw = scene.daemon.session(scheme);
            raw.subscribe(1, "gone");
            (0..200).for_each(|id| raw.message(id, b"gone", &[b'x'; 1000]));
        }
    }
    scene.check(&format!("SIGPIPE {disposition}"));
}

#[test]
fn sigpipe_by_default_kills_nobody() {
    writes_to_those_who_have_gone("default");
}

#[test]
fn sigpipe_ignored_changes_nothing() {
    writes_to_those_who_have_gone("ignore");
}

#[test]
fn a_thousand_sighups_are_survived_and_the_last_file_is_in_force() {
    let scene = FaultScene::start(
        DaemonSetup::new().config("[limits]\nmax_message = \"8KiB\"\n"),
        &["unix"],
    );
    let (supervisor, file) = (scene.daemon.process.pid(), scene.daemon.config_file());
    for number in 0..1000 {
        if number % 100 == 0 {
            let text = format!("[limits]\nmax_message = \"{}KiB\"\n", 8 + number / 100);
            fs::write(&file, text).expect("the file can be written");
        }
        signal(supervisor, Signal::SIGHUP);
    }
    fs::write(&file, "[limits]\nmax_message = \"7KiB\"\n").expect("the file can be written");
    signal(supervisor, Signal::SIGHUP);
    let body = vec![b'x'; 7 * 1024 + 1];
    eventually("the last file is in force", || {
        let ended = scene.daemon.ctl("unix", &["send", "a"]).run_fed(&body);
        (ended.status.code() == Some(8)).then_some(())
    });
    scene.check("a thousand SIGHUPs");
}

/// TERM at any point of a start ends it, and the next start finds nothing in its way.
#[test]
fn term_during_the_start_leaves_nothing_in_the_way() {
    let mut dir = private_dir();
    for step in 0..20 {
        let setup = DaemonSetup::new();
        let mut process = setup.spawn(dir.path());
        // From before its first line to after its last.
        match step % 4 {
            0 => std::thread::sleep(Duration::from_millis(step / 4)),
            1 => process.stderr.wait_for("listening"),
            2 => process.stderr.wait_for("worker started"),
            _ => process.stderr.wait_for("ready"),
        }
        let pid = process.pid();
        process.signal(Signal::SIGTERM);
        let ended = process.wait();
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
        // Before the daemon handles signals, TERM kills it by default.
        assert!(ended.status.success() || by_signal == Some(15), "{ended:?}");
        assert!(children(pid).is_empty());
        let mut daemon = DaemonSetup::new().start_in(dir);
        daemon.ctl("fifo", &["ping"]).run().expect(0);
        daemon.terminate().expect(0);
        dir = daemon.into_dir();
    }
}

#[test]
fn term_during_a_reload_ends_cleanly() {
    for _ in 0..10 {
        let mut daemon = DaemonSetup::new().config("[limits]\nmax_peers = 100\n").start();
        let worker = daemon.worker();
        let supervisor = daemon.process.pid();
        (0..20).for_each(|_| signal(supervisor, Signal::SIGHUP));
        daemon.terminate().expect(0);
        assert!(!is_alive(worker));
    }
}
