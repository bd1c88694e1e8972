//! Files: stale ones of others, paths in use by others, and files that go while the daemon runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use ipcd_tests::{DaemonSetup, FaultScene, PATIENCE, RunningProcess, eventually};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const LOCAL: [&str; 3] = ["unix", "pipe", "fifo"];

#[test]
fn stale_files_are_replaced() {
    let dir = ipcd_tests::private_dir();
    let run = dir.path().join("run");
    fs::create_dir(&run).expect("the directory is writable");
    for name in ["ipcd.sock", "pipe.sock"] {
        drop(UnixListener::bind(run.join(name)).expect("the path is free"));
        assert!(run.join(name).exists());
    }
    mkfifo(&run.join("ipcd.fifo"), Mode::S_IRUSR | Mode::S_IWUSR).expect("the path is free");
    let daemon = DaemonSetup::new().start_in(dir);
    for scheme in LOCAL {
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
}

/// Starts two daemons at once; one serves, and the other gives the reason why it does not.
fn race(rounds: usize) {
    let dir = ipcd_tests::private_dir();
    for round in 0..rounds {
        let setup = DaemonSetup::new().listen(&LOCAL);
        let mut both = [setup.spawn(dir.path()), setup.spawn(dir.path())];
        let (winner, loser) = eventually("one daemon has ended", || {
            let ended = both.iter_mut().position(|process| process.has_ended().is_some())?;
            Some((1 - ended, ended))
        });
        let lost = both[loser].wait();
        assert_eq!(lost.status.code(), Some(2), "round {round}: {}", lost.stderr);
        assert!(lost.stderr.contains("--runtime-dir"), "{}", lost.stderr);
        both[winner].stderr.wait_for("INFO ready");
        both[winner].signal(Signal::SIGTERM);
        let won = both[winner].wait();
        assert!(won.status.success(), "round {round}: {}", won.stderr);
    }
}

#[test]
fn of_two_starts_at_once_one_wins() {
    race(20);
}

#[test]
#[ignore = "long: a thousand races"]
fn of_two_starts_at_once_one_wins_a_thousand_times() {
    race(1000);
}

#[test]
fn a_replaced_socket_is_not_the_daemons_any_more() {
    let mut scene = FaultScene::start(DaemonSetup::new(), &["unix", "pipe", "tcp"]);
    let run = scene.daemon.runtime_dir();
    for name in ["ipcd.sock", "pipe.sock"] {
        let mine = run.join("mine");
        fs::write(&mine, "a file of another user").expect("the directory is writable");
        fs::rename(&mine, run.join(name)).expect("the directory is writable");
    }
    for scheme in ["unix", "pipe"] {
        scene.daemon.ctl(scheme, &["ping"]).run().expect(3);
    }
    scene.daemon.ctl("tcp", &["ping"]).run().expect(0);
    scene.load().goes_on();
    // It leaves files of others alone.
    scene.daemon.terminate().expect(0);
    for name in ["ipcd.sock", "pipe.sock"] {
        let found = fs::read_to_string(run.join(name)).unwrap_or_default();
        assert_eq!(found, "a file of another user", "{name}");
    }
}

#[test]
fn a_replaced_fifo_is_refused_by_clients_and_harms_nobody() {
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "fifo"]);
    let run = scene.daemon.runtime_dir();
    let (fifo, aside) = (run.join("ipcd.fifo"), run.join("aside"));
    fs::rename(&fifo, &aside).expect("the directory is writable");
    let refused = |what: &str| {
        let ended = scene.daemon.ctl("fifo", &["--timeout", "2s", "ping"]).run();
        assert!(matches!(ended.status.code(), Some(2 | 3)), "{what}: {ended:?}");
        assert!(ended.stderr.contains("ipcd.fifo"), "{what}: {}", ended.stderr);
        scene.load().goes_on();
    };
    refused("nothing");
    symlink(&aside, &fifo).expect("the path is free");
    refused("a symlink to the right one");
    fs::remove_file(&fifo).expect("the file is writable");
    fs::write(&fifo, "no FIFO").expect("the path is free");
    refused("a file");
    assert_eq!(fs::read(&fifo).expect("the file can be read"), b"no FIFO");
    fs::remove_file(&fifo).expect("the file is writable");
    // The same FIFO under two names is the same FIFO.
    fs::hard_link(&aside, &fifo).expect("the path is free");
    fs::remove_file(&aside).expect("the file is writable");
    scene.check("a FIFO replaced");
}

#[test]
fn a_path_that_is_too_long_is_named() {
    let dir = ipcd_tests::private_dir();
    for scheme in ["unix", "pipe"] {
        let long = format!("{scheme}://{}/{}", dir.path().display(), "p".repeat(200));
        let ended = DaemonSetup::new().listen(&[]).args(&["-l", &long]).spawn(dir.path()).wait();
        assert!(matches!(ended.status.code(), Some(1 | 2)), "{ended:?}");
        assert!(ended.stderr.contains("pppp"), "{}", ended.stderr);
    }
}

#[test]
fn a_runtime_directory_that_is_removed_takes_no_connection_along() {
    let mut scene = FaultScene::start(DaemonSetup::new(), &["unix", "pipe", "fifo", "tcp"]);
    fs::remove_dir_all(scene.daemon.runtime_dir()).expect("the directory is writable");
    for scheme in LOCAL {
        scene.daemon.ctl(scheme, &["ping"]).run().expect(3);
    }
    scene.load().goes_on();
    let ended = scene.daemon.terminate().expect(0);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// Files of a daemon in a directory that is gone do not hinder the next one.
#[test]
fn a_start_in_the_place_of_a_removed_directory() {
    let dir = ipcd_tests::private_dir();
    let start = || -> RunningProcess {
        let process = DaemonSetup::new().listen(&LOCAL).spawn(dir.path());
        process.stderr.wait_for("INFO ready");
        process
    };
    let mut first = start();
    fs::remove_dir_all(dir.path().join("run")).expect("the directory is writable");
    let mut second = start();
    first.signal(Signal::SIGTERM);
    assert!(first.wait().status.success());
    // The end of the first daemon has not removed the second one's files.
    for name in ["ipcd.sock", "pipe.sock", "ipcd.fifo", "token"] {
        assert!(dir.path().join("run").join(name).exists(), "{name}");
    }
    let begun = Instant::now();
    second.signal(Signal::SIGTERM);
    assert!(second.wait().status.success() && begun.elapsed() < PATIENCE);
}
