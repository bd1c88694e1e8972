//! The place of a listener: its owner, other files there, and leftovers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use ipcd_transport::{Endpoint, EndpointPurpose, Error};
use nix::sys::stat::{Mode, umask};

use crate::Suite;
use crate::child::hold_starts_off;
use crate::frames;
use crate::peer::drive;
use crate::scene::TestScene;
use crate::server::TestServer;

/// The part of the process that changes its umask.
pub(crate) const UMASK: &str = "umask";

/// The second is told that the place is taken; the first goes on.
pub fn refuses_a_second_listener(suite: &Suite) {
    let scene = TestScene::new(suite);
    let first = scene.listen();
    for _ in 0..2 {
        check_is_taken(suite, &first);
    }
    check_meeting(&scene, &first);
}

fn check_is_taken(suite: &Suite, first: &TestServer) {
    match TestServer::start(suite.transport, first.local()) {
        Err(Error::System { what, source }) => {
            assert_eq!(source.kind(), ErrorKind::AddrInUse, "{what}: {source}");
            assert!(what.contains(first.local().address()), "{what}: which place is it?");
        }
        Err(error) => panic!("an error of the system was due: {error}"),
        Ok(_) => panic!("two listeners at {}", first.local()),
    }
}

/// A listener that ends leaves neither a file nor anything else in the next one's way.
pub fn leaves_nothing_behind(suite: &Suite) {
    let _no_copies = hold_starts_off();
    let scene = TestScene::new(suite);
    let listener = scene.listen();
    check_meeting(&scene, &listener);
    let place = listener.local().clone();
    drop(listener);
    if let Ok(path) = scene.endpoint.path() {
        assert!(fs::symlink_metadata(path).is_err(), "{} is still there", path.display());
        assert_eq!(tree(scene.dir()), Vec::<String>::new());
    }
    let next = TestServer::start(suite.transport, &place).expect("the place is free again");
    check_meeting(&scene, &next);
}

/// A file, a directory, or a symlink in the place is reported, and left as it is.
pub fn refuses_to_replace_what_is_no_listener(suite: &Suite) {
    let _no_copies = hold_starts_off();
    let scene = TestScene::new(suite);
    let Some(path) = scene.path() else { return };
    let precious = scene.dir().join("precious");
    fs::write(&precious, "precious").expect("a file can be written");
    for occupant in ["a file", "a directory", "a symlink"] {
        occupy(path, occupant, &precious);
        let before = tree(scene.dir());
        let refused = TestServer::start(suite.transport, &scene.endpoint);
        assert!(matches!(refused, Err(Error::Endpoint(_))), "{occupant} was replaced");
        assert!(scene.try_connect(&scene.endpoint).is_err(), "connected to {occupant}");
        assert_eq!(tree(scene.dir()), before, "{occupant} was not left alone");
        assert_eq!(fs::read(&precious).expect("it is there"), b"precious");
        let removed = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        removed.expect("what was made can be removed");
    }
    drop(scene.listen());
}

fn occupy(path: &Path, occupant: &str, precious: &Path) {
    let made = match occupant {
        "a file" => fs::copy(precious, path).map(drop),
        "a directory" => fs::create_dir(path),
        _ => symlink(precious, path),
    };
    made.expect("the place is free");
}

/// Whatever the umask, the mode is the one asked for, and connecting works.
pub fn gives_a_path_its_mode_whatever_the_umask(suite: &Suite) {
    let scene = TestScene::new(suite);
    if scene.path().is_some() {
        scene.child(UMASK, &scene.endpoint).join();
    }
}

pub(crate) fn publish_with_any_umask(suite: &Suite, _endpoint: &Endpoint) {
    for mask in [0o000, 0o077, 0o777] {
        for mode in [None, Some(0o620), Some(0o660), Some(0o622), Some(0o666)] {
            let mut scene = TestScene::new(suite);
            if let Some(mode) = mode {
                scene.endpoint.set_option("mode", format!("{mode:04o}"));
            }
            // A FIFO that others could read is refused.
            if suite.transport.check(&scene.endpoint, EndpointPurpose::Listen).is_err() {
                continue;
            }
            let mode = mode.unwrap_or(0o600);
            let before = umask(Mode::from_bits_truncate(mask));
            let listener = scene.listen();
            let path = scene.endpoint.path().expect("the endpoint is a path");
            let published = fs::metadata(path).expect("the path is there").mode() & 0o7777;
            assert_eq!(published, mode, "with umask {mask:o}, in octal {published:o}");
            check_is_taken(suite, &listener);
            check_meeting(&scene, &listener);
            drop(listener);
            umask(before);
            assert_eq!(tree(scene.dir()), Vec::<String>::new(), "with umask {mask:o}");
        }
    }
}

/// A client connects there and is heard.
fn check_meeting(scene: &TestScene, listener: &TestServer) {
    let (mut client, mut server) = scene.meet(listener);
    client.offer(&frames::all([100]));
    drive("a frame", [&mut client, &mut server], |[_, server]| server.received.count == 1);
}

/// Everything below the directory.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        names.push(path.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            names.extend(tree(&path));
        }
    }
    names.sort();
    names
}
