//! System calls that safe wrappers do not cover: fork, closing inherited descriptors, descriptor
//! passing, shared memory, System V queues, dying of a signal. The only crate with unsafe code.
#![expect(unsafe_code, reason = "this crate is where it lives; each block says why it is sound")]

#[cfg(feature = "count-allocations")]
pub mod alloc_count;
pub mod crash_markers;
mod datagram;
pub mod futex;
pub mod inherited;
mod init;
pub mod keeper;
pub mod sealed_words;
pub mod shm;
pub mod sysv;

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

pub use datagram::{Datagram, recv_with_sender};
pub use init::leave_first_place;
pub use keeper::{Keeper, end_children};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::socket::{ControlMessage, MsgFlags, SockFlag, UnixAddr, accept4, send, sendmsg};
use nix::unistd::{ForkResult, Pid};

/// Descriptors that one message may carry.
pub const MAX_PASSED: usize = 4;
/// Descriptors that the kernel passes with one message (unix(7)).
const SCM_MAX_FD: usize = 253;

/// Room for them, aligned as control messages are (cmsg(3)).
const CONTROL_WORDS: usize = {
    // SAFETY: plain arithmetic.
    let bytes = unsafe { libc::CMSG_SPACE((SCM_MAX_FD * size_of::<RawFd>()) as u32) };
    (bytes as usize).div_ceil(size_of::<u64>())
};

/// Forks. The child runs `body` and never returns from here.
///
/// Nothing of the parent is dropped in the child: what it must not keep, it closes with
/// [`close_all_except`].
///
/// # Errors
/// If the system refuses (`EAGAIN`, `ENOMEM`).
///
/// # Panics
/// If the process has more than one thread: the others would not exist in the child, and the locks
/// that they held would stay locked for ever.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    if let Some(child) = fork_here()? {
        return Ok(child);
    }
    let run = std::panic::AssertUnwindSafe(body);
    let status = std::panic::catch_unwind(run).unwrap_or(PANICKED);
    // SAFETY: _exit(2) is always sound; no destructor of the parent's values must run.
    unsafe { libc::_exit(status) }
}

/// The same where the child goes on from here, and has `None`.
fn fork_here() -> io::Result<Option<Pid>> {
    assert!(is_single_threaded()?, "fork only while single-threaded");
    // SAFETY: there is one thread, asserted above, so no lock is held by one that will not exist.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// A second signal to end counts only when it comes so much later than the first: timeout(1) and
/// service managers signal a process and its group, and both signals mean the same.
pub const ONE_STOP: Duration = Duration::from_secs(1);

/// The exit status of a child that panicked, as a Rust program has it.
const PANICKED: i32 = 101;

fn is_single_threaded() -> io::Result<bool> {
    // It changes nothing where there is one thread, and is an error where there are more (unshare(2)),
    // but perhaps also where there are not: a container may forbid the call.
    if unshare(CloneFlags::CLONE_THREAD).is_ok() {
        return Ok(true);
    }
    const TASKS: &str = "/proc/self/task";
    // Each thread is a folder there. To count links takes one call, where to read it takes five;
    // a system that imitates Linux may not count them.
    let links = fs::metadata(TASKS)?.nlink();
    Ok(links == 2 + 1 || fs::read_dir(TASKS)?.count() == 1)
}

/// Closes every descriptor from 3 on but those listed, with close_range(2).
///
/// For a freshly forked child only: its copies of the parent's values then hold closed numbers
/// and must never be dropped, which [`fork`] sees to.
///
/// # Errors
/// If the kernel is older than Linux 5.9.
pub fn close_all_except(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    keeper::forget();
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = libc::STDERR_FILENO as u32 + 1;
    for fd in keep.into_iter().filter(|&fd| fd > libc::STDERR_FILENO as u32) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: plain numbers. That no live value owns these descriptors is the caller's contract,
    // which holds in a forked child that drops nothing of its parent.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(status).map(drop).map_err(io::Error::from)
}

/// Gives memory that is allocated no more back to the system, wherever it lies in the heap
/// (malloc_trim(3)); where the C library cannot, nothing.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but what is free; the argument is how much to keep at the end.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sends bytes and descriptors as one message; the receiver gets copies of the descriptors.
///
/// # Errors
/// As sendmsg(2); nothing is sent then.
///
/// # Panics
/// If there are more than [`MAX_PASSED`] descriptors.
pub fn send_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    assert!(fds.len() <= MAX_PASSED, "more descriptors than a receiver has room for");
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if fds.is_empty() {
        // A sandboxed process may not call sendmsg(2).
        again(|| send(socket.as_raw_fd(), bytes, flags))?;
        return Ok(());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let (socket, parts) = (socket.as_raw_fd(), [IoSlice::new(bytes)]);
    again(|| sendmsg::<UnixAddr>(socket, &parts, &rights, flags, None))?;
    Ok(())
}

/// Receives one message and its descriptors, which are closed on exec; without waiting when
/// `flags` has `MSG_DONTWAIT`. The count is 0 at the end of the stream.
///
/// If this process has no room for all of its descriptors, the message comes without any.
///
/// # Errors
/// As recvmsg(2), and `EMSGSIZE` when the message is longer than `into` or has more than
/// [`MAX_PASSED`] descriptors.
pub fn recv_with_fds(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    // For as many as the kernel passes: what did not fit would be open here, and unknown to us.
    let mut control = [0_u64; CONTROL_WORDS];
    let mut parts = [IoSliceMut::new(into)];
    // SAFETY: an all-zero msghdr is a valid one; its pointers are set below.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts.as_mut_ptr().cast();
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = (flags | MsgFlags::MSG_CMSG_CLOEXEC).bits();
    let count = again(|| {
        // SAFETY: `header` points to one buffer (an IoSliceMut is an iovec) and to room for control
        // messages of the length that it says, and both outlive the call.
        Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) })
    })?;
    // SAFETY: recvmsg(2) has just filled it in, and what it points to still lives.
    let mut fds = unsafe { received_fds(&header) };
    // If the table of descriptors is full, the kernel hands over as many as fit (scm_detach_fds),
    // and a part of a channel is of no use.
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.clear();
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 || fds.len() > MAX_PASSED {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok((count as usize, fds))
}

/// The descriptors that came with a message.
///
/// # Safety
/// recvmsg(2) has filled the header in, and its descriptors were not taken yet.
unsafe fn received_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the header is one that the kernel filled in.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: a control message that the CMSG macros find lies within the header's buffer.
    while let Some(found) = unsafe { next.as_ref() } {
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: its data begin within the buffer.
            let (data, start) = unsafe { (libc::CMSG_DATA(found), next.cast::<u8>()) };
            // glibc and musl have different types for it.
            let whole: usize = found.cmsg_len as _;
            let bytes = whole - (data as usize - start as usize);
            for at in 0..bytes / size_of::<RawFd>() {
                // SAFETY: so many numbers lie there; the kernel has just made these descriptors for
                // us, and nothing else knows their numbers.
                let fd =
                    unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()) };
                fds.push(fd);
            }
        }
        // SAFETY: both belong to the same message.
        next = unsafe { libc::CMSG_NXTHDR(header, found) };
    }
    fds
}

/// The groups of the process that connected a Unix-domain socket, besides its own, as the kernel
/// noted them then (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// As getsockopt(2).
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; USUAL_GROUPS];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes no more bytes than `bytes` says, for which there is room.
        let status = unsafe {
            let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
            let room = groups.as_mut_ptr().cast();
            libc::getsockopt(socket.as_raw_fd(), level, option, room, &raw mut bytes)
        };
        let count = bytes as usize / size_of::<u32>();
        match Errno::result(status) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // It says how many there are.
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// So many groups that most processes are in no more.
const USUAL_GROUPS: usize = 32;

/// Makes a system call, and makes it again when a signal has interrupted it.
///
/// # Errors
/// As the call.
pub fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

/// Duplicates a descriptor of which only the number is known, such as one that `--ready-fd` names.
/// The duplicate is closed on exec(2).
///
/// The descriptor of that number stays open. Nothing here can tell whether a value of this process
/// owns it, so nothing here may own it; [`close_all_except`] closes what has no owner.
///
/// # Errors
/// If it is not open, or is one of the standard three.
pub fn duplicate_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: fcntl(2) on any number is sound, and F_DUPFD_CLOEXEC changes nothing about it.
    let copy = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just made this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Accepts a connection on a listening socket of any family. The new socket does not block, and is
/// closed on exec(2).
///
/// # Errors
/// As accept4(2).
pub fn accept_connection(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the kernel has just made this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Removes variables from this process' environment, so that no child inherits them.
///
/// # Errors
/// If the process has more than one thread: another could be reading the environment.
pub fn remove_variables(names: &[&str]) -> io::Result<()> {
    if !is_single_threaded()? {
        return Err(io::Error::other("the environment changes only while single-threaded"));
    }
    for name in names {
        // SAFETY: there is no other thread that could read or change the environment.
        unsafe { std::env::remove_var(name) };
    }
    Ok(())
}

/// Ends this process as SIGPIPE would have, had Rust not ignored it.
pub fn die_of_sigpipe() -> ! {
    // SAFETY: SigDfl runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let mut set = SigSet::empty();
    set.add(Signal::SIGPIPE);
    let _ = set.thread_unblock();
    let _ = raise(Signal::SIGPIPE);
    std::process::exit(128 + Signal::SIGPIPE as i32)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn passes_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send_with_fds(here.as_fd(), b"take this", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut bytes = [0; 32];
        let (count, fds) = recv_with_fds(there.as_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert_eq!((&bytes[..count], fds.len()), (&b"take this"[..], 1));
        let mut passed = fs::File::from(fds.into_iter().next().unwrap());
        passed.write_all(b"through").unwrap();
        drop(passed);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    /// With other descriptors than rights, and with more than one message, to see that none is lost.
    #[test]
    fn passes_as_many_as_there_is_room_for() {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        for count in [0, 1, 2, MAX_PASSED] {
            send_with_fds(here.as_fd(), b"x", &vec![reader.as_fd(); count]).unwrap();
            let received = recv_with_fds(there.as_fd(), &mut [0; 8], MsgFlags::empty()).unwrap();
            assert_eq!((received.0, received.1.len()), (1, count));
        }
        drop(here);
        let end = recv_with_fds(there.as_fd(), &mut [0; 8], MsgFlags::empty()).unwrap();
        assert_eq!((end.0, end.1.len()), (0, 0));
    }

    #[test]
    fn descriptors_that_are_too_many_do_not_stay_open() {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let raw = [reader.as_raw_fd(); MAX_PASSED + 1];
        let rights = [ControlMessage::ScmRights(&raw)];
        let bytes = [IoSlice::new(b"take these")];
        sendmsg::<UnixAddr>(here.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
        drop(reader);
        let received = recv_with_fds(there.as_fd(), &mut [0; 32], MsgFlags::empty());
        assert_eq!(received.unwrap_err().raw_os_error(), Some(Errno::EMSGSIZE as i32));
        let why = writer.write_all(b"x").unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::BrokenPipe, "nobody has the reading end any more");
    }

    #[test]
    fn tells_the_groups_of_who_connected() {
        let dir = format!("/tmp/ipcd-sys.groups.{}", nix::unistd::getpid());
        let listener = std::os::unix::net::UnixListener::bind(&dir).unwrap();
        let near = UnixStream::connect(&dir).unwrap();
        let (far, _) = listener.accept().unwrap();
        let ours = nix::unistd::getgroups().unwrap();
        let ours: Vec<u32> = ours.into_iter().map(nix::unistd::Gid::as_raw).collect();
        assert_eq!(peer_groups(far.as_fd()).unwrap(), ours);
        drop(near);
        fs::remove_file(dir).unwrap();
    }

    /// The harness has a thread for each test beside its first one.
    #[test]
    fn several_threads_are_seen() {
        assert!(!is_single_threaded().unwrap());
        let panic = std::panic::catch_unwind(|| fork(|| 0)).unwrap_err();
        assert!(panic.downcast::<&str>().is_ok_and(|why| why.contains("single-threaded")));
    }

    #[test]
    fn duplicates_only_open_descriptors() {
        assert!(duplicate_fd(2).is_err());
        assert!(duplicate_fd(1_000_000).is_err());
        let (reader, writer) = io::pipe().unwrap();
        let copy = duplicate_fd(writer.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), writer.as_raw_fd());
        drop((reader, writer));
        assert!(fs::File::from(copy).write_all(b"x").is_err(), "the copy is the same pipe");
    }
}
