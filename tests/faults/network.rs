//! A private network: a namespace of the test, in which packets may be forged and lost
//! (network_namespaces(7)).

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use ipcd_tests::{is_without, skip};

/// Runs a test in a network namespace of its own, with only the loopback in it, or skips it.
pub(crate) fn alone(test: fn()) {
    if !Uid::effective().is_root() {
        return skip("only root can make a network namespace");
    }
    if is_without(&["ip"]) {
        return;
    }
    // A namespace belongs to a thread, and its children inherit it; the thread ends with the test.
    let name = std::thread::current().name().unwrap_or("a case").to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return skip(&format!("unshare(CLONE_NEWNET): {error}"));
        }
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    let ended = thread.expect("a thread can be started").join();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}
