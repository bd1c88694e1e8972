//! HUP puts the file in force while the daemon runs.

use std::fs;
use std::path::Path;

use ipcd_tests::Setup;

fn config(max_message: &str, endpoints: &[String]) -> String {
    let listeners = endpoints.iter().map(|at| format!("[[listen]]\nendpoint = \"{at}\"\n"));
    format!("[limits]\nmax_message = \"{max_message}\"\n{}", listeners.collect::<String>())
}

fn socket(dir: &Path, name: &str) -> String {
    format!("unix://{}", dir.join(name).display())
}

#[test]
fn limits_and_listeners_change_and_connections_stay() {
    let dir = ipcd_tests::private_dir();
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|name| socket(dir.path(), name));
    let at_first = config("1KiB", &[stays.clone(), goes.clone()]);
    let setup = Setup::new().listen(&[]).args(&["--workers", "2"]).config(&at_first);
    let daemon = setup.start();
    let mut receivers = [&stays, &goes].map(|at| daemon.recv(at, &["-C", "2", "s"]));
    let send = |bytes: usize, status| {
        daemon.ctl(&stays, &["send", "s"]).run_fed(&vec![b'x'; bytes]).expect(status);
    };
    send(1025, 8);
    send(1024, 0);
    let workers = daemon.ctl(&stays, &["status", "-j"]).run().expect(0).text();
    daemon.reload(&config("4KiB", &[stays.clone(), comes.clone()]));
    send(4097, 8);
    send(4096, 0);
    // Both receivers were connected before; one of them by a listener that has gone.
    for receiver in &mut receivers {
        assert_eq!(receiver.wait().expect(0).stdout.len(), 1025 + 4097);
    }
    daemon.ctl(&goes, &["ping"]).run().expect(3);
    daemon.ctl(&comes, &["ping"]).run().expect(0);
    assert!(!dir.path().join("goes").exists());
    let now = daemon.ctl(&comes, &["status", "-j"]).run().expect(0).text();
    let pids = |text: &str| {
        let status: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
        let workers = status["workers"].as_array().expect("there are workers").clone();
        workers.iter().map(|worker| worker["pid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(pids(&now), pids(&workers), "a worker was replaced");
    assert!(now.contains("/comes") && !now.contains("/goes"), "{now}");
}

#[test]
fn a_file_that_cannot_be_put_in_force_changes_nothing() {
    let dir = ipcd_tests::private_dir();
    let [stays, new] = ["stays", "new"].map(|name| socket(dir.path(), name));
    let daemon =
        Setup::new().listen(&[]).config(&config("1KiB", std::slice::from_ref(&stays))).start();
    let taken = socket(dir.path(), "taken");
    fs::write(dir.path().join("taken"), "somebody else's file").expect("the directory is ours");
    let bad = config("2KiB", &[new.clone(), taken]);
    daemon.configure(&bad, "nothing has changed");
    daemon.ctl(&new, &["ping"]).run().expect(3);
    daemon.ctl(&stays, &["send", "s"]).run_fed(&[b'x'; 1025]).expect(8);
    assert!(!dir.path().join("new").exists());
    assert_eq!(fs::read(dir.path().join("taken")).expect("it is there"), b"somebody else's file");
}

#[test]
fn what_is_decided_at_the_start_is_warned_of() {
    let daemon = Setup::new().listen(&["unix"]).config("").start();
    daemon.configure("[daemon]\nworkers = 3\n", "need a restart");
    assert_eq!(daemon.status()["workers"].as_array().map(Vec::len), Some(1));
}
