//! The rendezvous of FIFOs: what a hostile or unlucky client may do, and what a client must not
//! fall for.

mod raw;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ipcd_transport::{Channel, Endpoint, Error, Listener, Result, Transport, poll_until};
use ipcd_transport_fifo::Fifo;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::raw::{Raw, end, fill, put};

const NOBODY: u32 = 65533;

/// A directory with a daemon's endpoint in it.
struct Site {
    dir: TempDir,
    endpoint: Endpoint,
    fifo: PathBuf,
    drop_box: PathBuf,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Fifo.default_endpoint(dir.path()).unwrap();
        let (fifo, drop_box) = (dir.path().join("ipcd.fifo"), dir.path().join("fifo"));
        Self { dir, endpoint, fifo, drop_box }
    }

    fn listen(&self) -> Box<dyn Listener> {
        Fifo.listen(&self.endpoint).unwrap()
    }

    fn connect(&self) -> Result<Box<dyn Channel>> {
        Fifo.connect(&self.endpoint, soon())
    }

    fn left_in_drop_box(&self) -> usize {
        fs::read_dir(&self.drop_box).unwrap().count()
    }
}

/// The watchdog of every wait.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn is_readable(listener: &dyn Listener) -> bool {
    poll_until(&listener.fd(), PollFlags::POLLIN, Instant::now()).unwrap()
}

fn await_readable(listener: &dyn Listener) {
    assert!(poll_until(&listener.fd(), PollFlags::POLLIN, soon()).unwrap(), "nothing comes");
}

/// A client of the documented kind is accepted, and then the listener is idle again.
fn check_goes_on(site: &Site, listener: &mut dyn Listener) {
    let raw = Raw::new(&site.drop_box);
    let ends = raw.make();
    put(&site.fifo, &raw.record);
    let parts = listener.accept().unwrap().expect("a peer");
    assert_eq!(parts.identity.uid, Some(geteuid().as_raw()));
    ends.expect_greeting();
    assert!(!raw.is_left());
    assert!(listener.accept().unwrap().is_none());
    drop((parts, ends));
    assert!(!is_readable(listener), "it is readable although nobody is there");
}

fn is_root(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: only root can make another user's files");
    }
    root
}

#[test]
fn accepts_a_client_written_from_the_documentation() {
    let site = Site::new();
    let mut listener = site.listen();
    check_goes_on(&site, &mut *listener);
    check_goes_on(&site, &mut *listener);
}

#[test]
fn takes_one_record_at_a_time_and_stays_readable_for_the_next() {
    let site = Site::new();
    let mut listener = site.listen();
    let (first, second) = (Raw::new(&site.drop_box), Raw::new(&site.drop_box));
    let _ends = (first.make(), second.make());
    put(&site.fifo, &[b"junk", &first.record[..], &second.record[..], b"tail"].concat());
    assert!(listener.accept().unwrap().is_some());
    assert!(is_readable(&*listener), "a record is held back");
    assert!(listener.accept().unwrap().is_some());
    let junk = listener.accept().unwrap_err().to_string();
    assert!(junk.contains("8 bytes that are no record"), "{junk}");
    assert!(listener.accept().unwrap().is_none());
    check_goes_on(&site, &mut *listener);
}

#[test]
fn puts_a_record_together_that_comes_in_two_parts() {
    let site = Site::new();
    let mut listener = site.listen();
    let raw = Raw::new(&site.drop_box);
    let ends = raw.make();
    put(&site.fifo, &raw.record[..13]);
    assert!(listener.accept().unwrap().is_none());
    put(&site.fifo, &raw.record[13..]);
    assert!(listener.accept().unwrap().is_some());
    ends.expect_greeting();
}

#[test]
fn junk_ends_a_call_again_and_again_but_never_the_listener() {
    let site = Site::new();
    let mut listener = site.listen();
    let junk = fill(&site.fifo);
    let calls = (0..).take_while(|_| listener.accept().is_err()).count();
    assert!(calls >= junk / 5000, "{calls} calls for {junk} bytes");
    check_goes_on(&site, &mut *listener);
}

/// Spoils a pair before its record is sent.
type Spoil = fn(&Raw);

fn spoilt_pairs() -> Vec<(&'static str, Spoil)> {
    let mut pairs: Vec<(&str, Spoil)> = vec![
        ("others may open it", |raw| {
            fs::set_permissions(&raw.up, PermissionsExt::from_mode(0o604)).unwrap();
        }),
        ("it has a second name", |raw| {
            fs::hard_link(&raw.down, raw.down.with_extension("link")).unwrap();
        }),
        ("a symlink to it", |raw| {
            let elsewhere = raw.up.with_extension("elsewhere");
            fs::rename(&raw.up, &elsewhere).unwrap();
            symlink(elsewhere, &raw.up).unwrap();
        }),
        ("a file", |raw| {
            fs::remove_file(&raw.down).unwrap();
            fs::write(&raw.down, "a file").unwrap();
            fs::set_permissions(&raw.down, PermissionsExt::from_mode(0o600)).unwrap();
        }),
        ("a symlink to a device", |raw| {
            fs::remove_file(&raw.down).unwrap();
            symlink("/dev/null", &raw.down).unwrap();
        }),
        ("it is missing", |raw| fs::remove_file(&raw.up).unwrap()),
    ];
    if is_root("pairs of other users") {
        pairs.push(("one end is another user's", |raw| {
            chown(&raw.down, Some(NOBODY), None).unwrap();
        }));
    }
    pairs
}

#[test]
fn refuses_a_pair_that_somebody_else_could_have_a_hand_in() {
    let site = Site::new();
    let mut listener = site.listen();
    for (what, spoil) in spoilt_pairs() {
        let raw = Raw::new(&site.drop_box);
        let ends = raw.make();
        spoil(&raw);
        put(&site.fifo, &raw.record);
        let refused = listener.accept();
        assert!(matches!(refused, Err(Error::Protocol(_) | Error::System { .. })), "{what}");
        assert!(!raw.is_left(), "{what}: its names are left");
        assert_eq!(nix::unistd::read(&ends.down, &mut [0; 64]), Ok(0), "{what}: greeted");
        check_goes_on(&site, &mut *listener);
    }
}

#[test]
fn forgets_a_client_that_has_gone() {
    let site = Site::new();
    let mut listener = site.listen();
    let raw = Raw::new(&site.drop_box);
    drop(raw.make());
    put(&site.fifo, &raw.record);
    assert!(listener.accept().unwrap_err().is_disconnect());
    assert!(!raw.is_left());
    check_goes_on(&site, &mut *listener);
}

#[test]
fn refuses_a_peer_that_has_filled_its_own_fifo() {
    let site = Site::new();
    let mut listener = site.listen();
    let raw = Raw::new(&site.drop_box);
    let _ends = raw.make();
    fill(&raw.down);
    put(&site.fifo, &raw.record);
    assert!(listener.accept().is_err());
    check_goes_on(&site, &mut *listener);
}

#[test]
fn gives_the_drop_box_the_mode_that_fits_whatever_it_was() {
    for (option, mode) in [(None, 0o700), (Some("0622"), 0o1733), (Some("0600"), 0o700)] {
        let mut site = Site::new();
        fs::create_dir(&site.drop_box).unwrap();
        fs::set_permissions(&site.drop_box, PermissionsExt::from_mode(0o555)).unwrap();
        if let Some(option) = option {
            site.endpoint.set_option("mode", option);
        }
        let _listener = site.listen();
        assert_eq!(fs::metadata(&site.drop_box).unwrap().mode() & 0o7777, mode);
    }
}

#[test]
fn removes_what_clients_of_a_daemon_before_left_and_nothing_else() {
    let site = Site::new();
    fs::create_dir(&site.drop_box).unwrap();
    let left = Raw::new(&site.drop_box);
    drop(left.make());
    let (file, other) = (Raw::new(&site.drop_box).up, site.drop_box.join("other.up"));
    fs::write(&file, "no FIFO").unwrap();
    nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let mut listener = site.listen();
    assert!(!left.is_left());
    assert!(file.exists() && other.exists());
    check_goes_on(&site, &mut *listener);
}

#[test]
fn refuses_a_drop_box_that_is_not_its_own() {
    let site = Site::new();
    let elsewhere = site.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &site.drop_box).unwrap();
    assert!(Fifo.listen(&site.endpoint).is_err(), "a symlink");
    assert!(!site.fifo.exists());
    fs::remove_file(&site.drop_box).unwrap();
    fs::write(&site.drop_box, "a file").unwrap();
    assert!(Fifo.listen(&site.endpoint).is_err(), "a file");
    fs::remove_file(&site.drop_box).unwrap();
    fs::create_dir(&site.drop_box).unwrap();
    if is_root("another user's drop box") {
        chown(&site.drop_box, Some(NOBODY), None).unwrap();
        let error = Fifo.listen(&site.endpoint).err().unwrap().to_string();
        assert!(error.contains("belongs to uid 65533"), "{error}");
    }
}

#[test]
fn a_client_follows_no_symlink_to_a_fifo() {
    let site = Site::new();
    let _listener = site.listen();
    let link = site.dir.path().join("link");
    symlink(&site.fifo, &link).unwrap();
    let error = Fifo.connect(&Endpoint::from_path("fifo", &link), soon()).err().unwrap();
    assert!(error.to_string().contains("that is no FIFO"), "{error}");
    assert!(matches!(error, Error::System { .. }), "the endpoint is well written: {error}");
}

#[test]
fn a_client_distrusts_what_belongs_to_another_user() {
    let site = Site::new();
    let _listener = site.listen();
    if !is_root("another user's FIFO") {
        return;
    }
    chown(&site.drop_box, Some(NOBODY), None).unwrap();
    let error = site.connect().err().unwrap().to_string();
    assert!(error.contains("the drop box belongs to uid 65533"), "{error}");
    chown(&site.fifo, Some(NOBODY), None).unwrap();
    let error = site.connect().err().unwrap().to_string();
    assert!(error.contains("uid 65533 serves it"), "{error}");
}

#[test]
fn a_client_waits_for_room_in_the_well_known_fifo() {
    let site = Site::new();
    let mut listener = site.listen();
    fill(&site.fifo);
    let at_once = Instant::now() + Duration::from_millis(20);
    let error = Fifo.connect(&site.endpoint, at_once).err().unwrap();
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    assert_eq!(site.left_in_drop_box(), 0);
    thread::scope(|scope| {
        let client = scope.spawn(|| site.connect().map(drop));
        let mut accepted = None;
        while accepted.is_none() {
            await_readable(&*listener);
            accepted = listener.accept().unwrap_or_default();
        }
        client.join().unwrap().unwrap();
    });
    assert_eq!(site.left_in_drop_box(), 0);
}

#[test]
fn a_client_is_told_when_the_daemon_goes_while_it_waits() {
    let site = Site::new();
    let listener = site.listen();
    thread::scope(|scope| {
        let client = scope.spawn(|| site.connect().map(drop));
        await_readable(&*listener);
        drop(listener);
        let error = client.join().unwrap().unwrap_err();
        assert!(error.is_disconnect(), "{error}");
    });
    assert_eq!(site.left_in_drop_box(), 0);
}

#[test]
fn a_client_is_told_when_the_daemon_lets_it_go() {
    let site = Site::new();
    let _listener = site.listen();
    thread::scope(|scope| {
        let client = scope.spawn(|| site.connect().map(drop));
        let found = || fs::read_dir(&site.drop_box).unwrap().map(|entry| entry.unwrap().path());
        let watchdog = soon();
        let down = loop {
            assert!(Instant::now() < watchdog, "no pair comes");
            let mut names = found().filter(|path| path.extension().is_some_and(|e| e == "down"));
            // It may not be open for reading yet.
            let open = |path: PathBuf| {
                nix::fcntl::open(
                    &path,
                    OFlag::O_WRONLY | OFlag::O_NONBLOCK,
                    nix::sys::stat::Mode::empty(),
                )
            };
            if let Some(Ok(down)) = names.next().map(open) {
                break down;
            }
            thread::yield_now();
        };
        drop(down);
        let error = client.join().unwrap().unwrap_err();
        assert!(error.is_disconnect(), "{error}");
    });
}

#[test]
fn a_write_after_the_daemon_has_gone_is_a_broken_pipe() {
    let site = Site::new();
    let mut listener = site.listen();
    let raw = Raw::new(&site.drop_box);
    let ends = raw.make();
    put(&site.fifo, &raw.record);
    let up = end(&raw.up, OFlag::O_WRONLY);
    let parts = listener.accept().unwrap().expect("a peer");
    drop(ends.up);
    assert_eq!(nix::unistd::write(&up, b"x"), Ok(1));
    drop(parts);
    assert_eq!(nix::unistd::write(&up, b"x"), Err(nix::errno::Errno::EPIPE));
}

/// Makes a file.
type Make = fn(&std::path::Path);

/// A site whose drop box is open to other users, and a way to put their files into it.
fn shared() -> (Site, Box<dyn Listener>, impl Fn(&str, Make)) {
    let mut site = Site::new();
    site.endpoint.set_option("mode", "0622");
    let listener = site.listen();
    let (aside, drop_box) = (site.dir.path().join("aside"), site.drop_box.clone());
    let put_in = move |name: &str, make: Make| {
        make(&aside);
        lchown(&aside, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::rename(&aside, drop_box.join(name)).unwrap();
    };
    (site, listener, put_in)
}

fn make_fifo(path: &std::path::Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
}

#[test]
fn others_cannot_use_the_drop_box_for_anything_else() {
    if !is_root("others_cannot_use_the_drop_box_for_anything_else") {
        return;
    }
    let (site, mut listener, put_in) = shared();
    fs::write(site.drop_box.join("ours"), "stays").unwrap();
    put_in("file", |path| fs::write(path, "x").unwrap());
    put_in("link", |path| symlink("/", path).unwrap());
    put_in("tree", |path| {
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::write(path.join("a/b/blob"), "x").unwrap();
        symlink("/", path.join("a/b/link")).unwrap();
    });
    put_in("no-pair.up", make_fifo);
    let pair = format!("{}.up", "0a".repeat(16));
    put_in(&pair, make_fifo);
    await_readable(&*listener);
    assert!(listener.accept().unwrap().is_none());
    let mut left: Vec<_> =
        fs::read_dir(&site.drop_box).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [pair.as_str(), "ours"], "what may wait there, and what is ours");
    assert!(!is_readable(&*listener) || listener.accept().unwrap().is_none());
    check_goes_on(&site, &mut *listener);
    fs::remove_file(site.drop_box.join("ours")).unwrap();
    drop(listener);
    assert!(!site.drop_box.exists(), "nothing of theirs stays");
}

#[test]
fn a_user_has_so_many_fifos_in_the_drop_box_and_a_flood_of_files_is_cleared() {
    if !is_root("a_user_has_so_many_fifos_in_the_drop_box_and_a_flood_of_files_is_cleared") {
        return;
    }
    let (site, mut listener, put_in) = shared();
    for number in 0..1100 {
        put_in(&format!("f{number:031x}.down"), make_fifo);
    }
    while is_readable(&*listener) {
        let _ = listener.accept();
    }
    assert_eq!(site.left_in_drop_box(), 1024);
    // More than the kernel remembers to tell (fs.inotify.max_queued_events).
    let theirs = site.dir.path().join("theirs");
    fs::write(&theirs, "x").unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    for number in 0..17_000 {
        fs::hard_link(&theirs, site.drop_box.join(format!("file-{number}"))).unwrap();
    }
    let mode = || fs::metadata(&site.drop_box).unwrap().mode() & 0o7777;
    let mut was_shut = false;
    while is_readable(&*listener) {
        let _ = listener.accept();
        was_shut |= mode() == 0o700;
    }
    assert!(was_shut, "no record is added meanwhile");
    assert_eq!(mode(), 0o1733);
    assert_eq!(site.left_in_drop_box(), 1024);
    check_goes_on(&site, &mut *listener);
}
