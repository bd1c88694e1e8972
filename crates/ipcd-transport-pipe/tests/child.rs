//! `pipe:COMMAND`: a child process at the other end. It only connects, so that the conformance
//! suite, which listens too, cannot test it.

use std::time::{Duration, Instant};

use ipcd_transport::{
    Channel, RawTransport, ReadBuffer, ReadOutcome, Result, Transport, WriteOutcome, poll_until,
};
use ipcd_transport_pipe::Pipe;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The watchdog of every wait.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn start(endpoint: &str) -> Result<Box<dyn Channel>> {
    Pipe.connect(&endpoint.parse()?, soon())
}

/// Reads until so many bytes have come, or the end.
fn read(channel: &mut dyn Channel, count: usize) -> Vec<u8> {
    let mut buffer = ReadBuffer::new(0, 1000);
    while buffer.filled().len() < count {
        match channel.read(&mut buffer).unwrap() {
            ReadOutcome::Bytes(_) => {}
            ReadOutcome::Closed => break,
            ReadOutcome::NotReady | ReadOutcome::Boundary => {
                let came = poll_until(&channel.read_fd(), PollFlags::POLLIN, soon());
                assert!(came.unwrap(), "nothing comes");
            }
        }
    }
    buffer.filled().to_vec()
}

#[test]
fn speaks_with_a_child() {
    let mut channel = start("pipe:cat").unwrap();
    for fd in [channel.read_fd(), channel.write_fd()] {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK), "it would block");
    }
    assert_eq!(channel.write(b"hello").unwrap(), WriteOutcome::Bytes(5));
    assert_eq!(read(&mut *channel, 5), b"hello");
    channel.finish().unwrap();
    assert_eq!(read(&mut *channel, 1), b"");
}

#[test]
fn passes_words_and_no_shell() {
    let mut channel = start("pipe:printf '%s|' 'a b' $HOME '*'").unwrap();
    assert_eq!(read(&mut *channel, usize::MAX), b"a b|$HOME|*|");
}

#[test]
fn says_which_command_does_not_exist() {
    let error = start("pipe:no-such-command -x").err().unwrap().to_string();
    assert!(error.contains("start no-such-command: "), "{error}");
}

#[test]
fn leaves_no_process_behind() {
    for command in ["pipe:cat", "pipe:sleep 1000", "pipe:true"] {
        let channel = start(command).unwrap();
        let pid = Pid::from_raw(channel.identity().pid.unwrap() as i32);
        drop(channel);
        let gone = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        assert_eq!(gone, Err(nix::errno::Errno::ECHILD), "{command}");
    }
}

#[test]
fn a_raw_command_knows_for_whom_it_runs_and_is_reaped_by_its_owner() {
    let command = "pipe:sh -c 'echo $IPC_ONE ${HOME-none}; exec cat'".parse().unwrap();
    let variables = [("IPC_ONE".to_owned(), Some("a b".to_owned())), ("HOME".to_owned(), None)];
    let parts = Pipe.connect_raw(&command, soon(), &variables).unwrap();
    let mut raw = Pipe.adopt_raw(parts).unwrap();
    assert!(raw.has_end && !raw.keeps_records && raw.channel.is_plain());
    assert_eq!(raw.channel.write(b"and what it is told").unwrap(), WriteOutcome::Bytes(19));
    raw.channel.finish().unwrap();
    assert_eq!(read(&mut *raw.channel, usize::MAX), b"a b none\nand what it is told");
    let pid = Pid::from_raw(raw.child.unwrap() as i32);
    drop(raw);
    assert_eq!(waitpid(pid, None), Ok(nix::sys::wait::WaitStatus::Exited(pid, 0)));
    assert!(Pipe.connect_raw(&"pipe:///x".parse().unwrap(), soon(), &[]).is_err());
}
