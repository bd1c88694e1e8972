//! FIFOs that programs read and write which know nothing of frames.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipcd_transport::{
    Endpoint, Listener, RawChannel, RawDirections, RawTransport, ReadBuffer, ReadOutcome,
    Transport, WriteOutcome, poll_until,
};
use ipcd_transport_fifo::Fifo;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

const OUT: RawDirections = RawDirections { inward: false, outward: true };
const IN: RawDirections = RawDirections { inward: true, outward: false };

fn watchdog() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn endpoint(path: &Path, flow: RawDirections) -> Endpoint {
    Fifo.check_raw(&Endpoint::from_path("fifo", path), flow).unwrap()
}

fn egress() -> (TempDir, PathBuf, Box<dyn Listener>, RawChannel) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.fifo");
    let mut listener = Fifo.listen_raw(&endpoint(&path, OUT)).unwrap();
    let channel = Fifo.adopt_raw(listener.accept().unwrap().unwrap()).unwrap();
    assert!(listener.accept().unwrap().is_none(), "there is one channel");
    (dir, path, listener, channel)
}

/// Opens without waiting for a writer, as there is one.
fn reader(path: &Path) -> File {
    let flags = OFlag::O_NONBLOCK.bits();
    File::options().read(true).custom_flags(flags).open(path).unwrap()
}

fn read(from: &mut File) -> String {
    let mut room = [0; 1 << 20];
    match from.read(&mut room) {
        Ok(count) => String::from_utf8_lossy(&room[..count]).into_owned(),
        Err(_) => "nothing yet".into(),
    }
}

/// Does what the daemon does when the listener is readable.
fn tend(listener: &mut dyn Listener) {
    assert!(poll_until(&listener.fd(), PollFlags::POLLIN, watchdog()).unwrap());
    assert!(listener.accept().unwrap().is_none());
}

fn is_quiet(listener: &dyn Listener) -> bool {
    !poll_until(&listener.fd(), PollFlags::POLLIN, Instant::now()).unwrap()
}

#[test]
fn a_channel_outlives_its_readers() {
    let (_dir, path, mut listener, mut channel) = egress();
    for round in 0..3 {
        assert_eq!(channel.channel.write(b"lost\n").unwrap(), WriteOutcome::Nobody, "{round}");
        let mut cat = reader(&path);
        assert_eq!(channel.channel.write(b"heard\n").unwrap(), WriteOutcome::Bytes(6));
        assert_eq!(read(&mut cat), "heard\n");
        assert_eq!(read(&mut cat), "nothing yet");
        drop(cat);
        tend(&mut *listener);
        assert!(is_quiet(&*listener), "that nobody reads is told once");
    }
}

#[test]
fn what_a_reader_left_is_not_the_next_ones() {
    let (_dir, path, mut listener, mut channel) = egress();
    let mut head = reader(&path);
    channel.channel.write(b"one\ntwo\n").unwrap();
    head.read_exact(&mut [0; 5]).unwrap();
    drop(head);
    tend(&mut *listener);
    let mut cat = reader(&path);
    channel.channel.write(b"three\n").unwrap();
    assert_eq!(read(&mut cat), "three\n");
}

/// The channel ends, perhaps in the middle of a message: its readers find the end of the FIFO, and
/// the next channel has a FIFO of its own.
#[test]
fn a_channel_that_ends_is_the_end_for_its_readers() {
    let (_dir, path, mut listener, mut channel) = egress();
    let mut old = reader(&path);
    channel.channel.write(b"half a mess").unwrap();
    let parts = channel.channel.into_parts();
    let (identity, state) = (parts.identity.clone(), parts.state.clone());
    drop(parts);
    listener.released(&identity, &state);
    let mut next = Fifo.adopt_raw(listener.accept().unwrap().unwrap()).unwrap();
    let mut new = reader(&path);
    next.channel.write(b"whole\n").unwrap();
    assert_eq!((read(&mut old), read(&mut old)), ("half a mess".into(), String::new()));
    assert_eq!(read(&mut new), "whole\n");
    drop(new);
    tend(&mut *listener);
    drop((listener, next));
    assert!(path.exists(), "who reads there waits for the next start");
    assert!(!path.with_extension("fifo.lock").exists());
}

#[test]
fn a_full_fifo_is_waited_for_until_its_reader_leaves() {
    let (_dir, path, _listener, mut channel) = egress();
    let mut cat = reader(&path);
    let mut written = 0;
    while let WriteOutcome::Bytes(count) = channel.channel.write(&[b'x'; 5000]).unwrap() {
        written += count;
    }
    assert_eq!(channel.channel.write(b"x").unwrap(), WriteOutcome::NotReady);
    assert_eq!(read(&mut cat).len(), written);
    assert!(poll_until(&channel.channel.write_fd(), PollFlags::POLLOUT, watchdog()).unwrap());
    drop(cat);
    assert_eq!(channel.channel.write(b"x").unwrap(), WriteOutcome::Nobody);
}

#[test]
fn somebody_elses_fifo_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let connect = |flow| {
        let parts = Fifo.connect_raw(&endpoint(&path, flow), watchdog(), &[]).unwrap();
        Fifo.adopt_raw(parts).unwrap()
    };
    let mut writer = connect(OUT);
    assert_eq!(writer.channel.write(b"lost").unwrap(), WriteOutcome::Nobody);
    let mut listener = connect(IN);
    assert_eq!(writer.channel.write(b"heard").unwrap(), WriteOutcome::Bytes(5));
    drop(writer);
    let mut buffer = ReadBuffer::new(4096, 4096);
    assert_eq!(listener.channel.read(&mut buffer).unwrap(), ReadOutcome::Bytes(5));
    // Its writers have left, and others may come.
    assert_eq!(listener.channel.read(&mut buffer).unwrap(), ReadOutcome::Boundary);
    assert_eq!(listener.channel.read(&mut buffer).unwrap(), ReadOutcome::NotReady);
    fs::remove_file(&path).unwrap();
}

#[test]
fn only_fifos_are_connected_to_and_one_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    let error = |path: &Path, flow| {
        Fifo.connect_raw(&endpoint(path, flow), watchdog(), &[]).unwrap_err().to_string()
    };
    assert!(error(&path, OUT).contains("No such file"));
    fs::write(&path, "").unwrap();
    assert!(error(&path, OUT).contains("no FIFO"));
    fs::remove_file(&path).unwrap();
    let other = dir.path().join("other");
    mkfifo(&other, Mode::S_IRWXU).unwrap();
    symlink(&other, &path).unwrap();
    assert!(error(&path, IN).contains("symlink"));
    let both = RawDirections { inward: true, outward: true };
    let at = Endpoint::from_path("fifo", &other);
    assert!(Fifo.check_raw(&at, both).unwrap_err().to_string().contains("one direction"));
    // A connection without a direction writes.
    assert_eq!(Fifo.connect_raw(&at, watchdog(), &[]).unwrap().state, b"out");
    assert!(Fifo.check_raw(&endpoint(&other, OUT), IN).is_err());
    assert!(Fifo.listen(&endpoint(&path, OUT)).is_err());
}

/// Lines that a program wrote before the daemon was there, or while it was away, are kept; and a script
/// makes no file of that name.
#[test]
fn a_writer_that_waits_at_the_fifo_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.fifo");
    for round in 0..3 {
        if round == 0 {
            mkfifo(&path, Mode::S_IRWXU).unwrap();
        }
        let waits = {
            let path = path.clone();
            std::thread::spawn(move || fs::write(path, "hello\n").unwrap())
        };
        let mut listener = Fifo.listen_raw(&endpoint(&path, IN)).unwrap();
        let mut channel = Fifo.adopt_raw(listener.accept().unwrap().unwrap()).unwrap();
        waits.join().unwrap();
        let mut buffer = ReadBuffer::new(4096, 4096);
        assert_eq!(channel.channel.read(&mut buffer).unwrap(), ReadOutcome::Bytes(6), "{round}");
    }
}

#[test]
fn a_fifo_that_another_program_serves_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let both = File::options().read(true).write(true).open(&path).unwrap();
    for flow in [IN, OUT] {
        let why = Fifo.listen_raw(&endpoint(&path, flow)).err().unwrap().to_string();
        assert!(why.contains("another process serves it"), "{why}");
    }
    let why = Fifo.listen(&Endpoint::from_path("fifo", &path)).err().unwrap().to_string();
    assert!(why.contains("another process serves it"), "{why}");
    drop(both);
    drop(Fifo.listen_raw(&endpoint(&path, OUT)).unwrap());
}
