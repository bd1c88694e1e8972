//! A process that watches its parent, and kills the parent's children when the parent ends: also
//! after SIGKILL, which the parent cannot handle.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};

use crate::{again, close_all_except, close_range, fork};

/// Bytes of a word: the number of a process that begins, or its negative when it has ended.
const WORD: usize = size_of::<i32>();

/// The descriptor that the keeper reads from; -1 without a keeper.
static WORDS: AtomicI32 = AtomicI32::new(-1);

/// The parent's side, one at a time. When it goes, in whatever way, the processes that have not ended are killed, and
/// those of their groups.
#[derive(Debug)]
pub struct Keeper {
    words: Option<File>,
    end: KeeperEnd,
}

/// The way to wait for the keeper's end.
#[derive(Debug)]
enum KeeperEnd {
    /// It is our child.
    Child(Pid),
    /// It is not; then this has its end with it.
    Apart(File),
    /// It is not waited for.
    Left,
}

impl Keeper {
    /// Starts the process. It holds no descriptor of its parent's, and no signal for a group reaches it.
    ///
    /// # Errors
    /// If there can be no pipe or no process.
    ///
    /// # Panics
    /// As [`fork`].
    pub fn start() -> io::Result<Self> {
        let (hears, says) = io::pipe()?;
        let process = fork(move || watch(hears, None))?;
        Ok(Self::speaking(says, KeeperEnd::Child(process)))
    }

    /// The same with a process that is not our child, so that all our children are those that were
    /// started for others. We must not be a subreaper meanwhile (prctl(2)).
    ///
    /// # Errors
    /// As [`Keeper::start`].
    ///
    /// # Panics
    /// As [`fork`].
    pub fn start_apart() -> io::Result<Self> {
        let (hears, says) = io::pipe()?;
        let (ends, lives) = io::pipe()?;
        let parent_of_it = fork(move || match fork(move || watch(hears, Some(lives))) {
            Ok(_) => 0,
            Err(_) => 1,
        })?;
        // The process in between ends at once, which makes the keeper an orphan.
        again(|| waitpid(parent_of_it, None))?;
        Ok(Self::speaking(says, KeeperEnd::Apart(OwnedFd::from(ends).into())))
    }

    fn speaking(says: io::PipeWriter, end: KeeperEnd) -> Self {
        WORDS.store(says.as_raw_fd(), Ordering::Relaxed);
        Self { words: Some(File::from(OwnedFd::from(says))), end }
    }

    /// The child has ended, and its number may be another's from now on.
    pub fn ended(&self, child: Pid) {
        let word = (-child.as_raw()).to_ne_bytes();
        // If the keeper was killed, its protection is gone, too.
        let _ = self.words.as_ref().map(|mut words| words.write_all(&word));
    }

    /// Lets it end without waiting for that. The caller's handler of SIGCHLD reaps it.
    pub fn leave(mut self) {
        self.say_no_more();
        self.end = KeeperEnd::Left;
    }

    fn say_no_more(&mut self) {
        forget();
        self.words = None;
    }
}

/// Tells the keeper, if there is one, that this process has begun, and is to end with its parent. If it
/// leads a process group then, all of that is meant. It allocates nothing, for it is called after
/// fork(2): told by the parent it could come too late.
pub fn begin() {
    let words = WORDS.load(Ordering::Relaxed);
    if words >= 0 {
        let word = Pid::this().as_raw().to_ne_bytes();
        // SAFETY: the descriptor is open while it is noted, and so it is in a child of that moment;
        // the bytes are ours. If the keeper was killed, its protection is gone, too.
        let _ = unsafe { libc::write(words, word.as_ptr().cast(), WORD) };
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The end of the words is what it waits for.
        self.say_no_more();
        match &mut self.end {
            KeeperEnd::Child(process) => drop(again(|| waitpid(*process, None))),
            KeeperEnd::Apart(ends) => drop(ends.read(&mut [0])),
            KeeperEnd::Left => {}
        }
    }
}

/// The number may be another descriptor's from now on.
pub(crate) fn forget() {
    WORDS.store(-1, Ordering::Relaxed);
}

/// Kills and reaps our children, and those that come to us when these have ended (a subreaper's,
/// see prctl(2)). On a kernel that does not list children it does nothing.
pub fn end_children() {
    loop {
        // Each time anew: a child's end may hand its own children to this process.
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let mut left = children.map(Pid::from_raw).peekable();
        if left.peek().is_none() {
            return;
        }
        for child in left {
            // Each is ours and not reaped, so the number is its own.
            let _ = kill(child, Signal::SIGKILL);
            let _ = again(|| waitpid(child, None));
        }
    }
}

/// The keeper's main function. It holds `lives` until its end.
fn watch(hears: io::PipeReader, lives: Option<io::PipeWriter>) -> i32 {
    // Signals to the parent's group, and those of the terminal, must not end it first.
    let _ = setsid();
    let _ = set_name(c"keeper");
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    let held: Vec<_> = [hears.as_fd()].into_iter().chain(lives.as_ref().map(AsFd::as_fd)).collect();
    let _ = close_all_except(&held).and_then(|()| close_range(0, 2));
    keep(hears);
    0
}

/// Notes what begins and ends, until there are no more words; then ends what is left.
fn keep(mut words: impl Read) {
    let mut alive: Vec<i32> = Vec::new();
    let mut word = [0; WORD];
    while words.read_exact(&mut word).is_ok() {
        match i32::from_ne_bytes(word) {
            begun if begun > 0 => alive.push(begun),
            ended => alive.retain(|pid| *pid != -ended),
        }
    }
    for pid in alive.into_iter().map(Pid::from_raw) {
        // One that leads no group has a number that no group has.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = kill(pid, Signal::SIGKILL);
    }
}
