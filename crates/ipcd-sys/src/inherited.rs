//! State that a process inherits from its parent and that exec(2) does not reset (execve(2)):
//! signals that are ignored or blocked, and the limit on descriptors. A program puts it right at
//! its start, and its children do not inherit what it has changed for itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getppid, setpgid, setsid, tcgetpgrp};

use crate::keeper;

/// Signals that nohup(1) and shells without job control ignore on purpose for their children. They
/// stay ignored.
const MEANT: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// The limit on descriptors, soft and hard, before [`raise_descriptor_limit`].
static LIMIT: OnceLock<(u64, u64)> = OnceLock::new();

/// The process group and session that a command runs in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CommandPlace {
    /// In our process group: it has the terminal if we have it, and gets the terminal's signals.
    Ours,
    /// In a process group of its own.
    Group,
    /// In a session and process group of its own, without a terminal: one that would ask there gets
    /// an error, where in the background it would be stopped (SIGTTIN).
    Session,
}

/// Puts signals right at the start of a program: none is blocked, and none is ignored but those that
/// nohup(1) and shells mean to be. With SIGCHLD ignored, waitpid(2) finds no child; a parent that
/// ignores or blocks TERM would have a child that nothing ends.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // Rust itself ignores SIGPIPE, and expects that.
        if number != libc::SIGPIPE && !MEANT.contains(&number) && is_ignored_number(number) {
            set_default(number);
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// The signals that end a tool, to be blocked and waited for: TERM and INT, whose action is the
/// default from now on, also where a shell ignores INT for what runs in the background; and HUP,
/// unless it is ignored. A signal that is blocked comes also when it is ignored.
pub fn ending() -> SigSet {
    let mut set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    set.iter().for_each(|signal| set_default(signal as i32));
    if !is_ignored(Signal::SIGHUP) {
        set.add(Signal::SIGHUP);
    }
    set
}

/// Whether a signal is ignored, as HUP is after nohup(1).
pub fn is_ignored(signal: Signal) -> bool {
    is_ignored_number(signal as i32)
}

/// Allows so many open descriptors, or as many as the system lets us. [`become_other`] takes it back.
pub fn raise_descriptor_limit(most: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    LIMIT.get_or_init(|| (soft, hard));
    // If it fails, the limit stays, and later opens fail at it.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(most)), hard);
}

/// Makes a command start with the limits and signals that this process had at its own start, and
/// none blocked. If this process has one thread, the command gets TERM when it dies; with `kept`
/// the [keeper](crate::Keeper), if there is one, ends it and its group.
pub fn prepare(command: &mut Command, place: CommandPlace, kept: bool) {
    // It would come when the thread ends that has started it (prctl(2)).
    let ends_with_us = crate::is_single_threaded().unwrap_or(false);
    let parent = Pid::this();
    let begin = move || {
        match place {
            CommandPlace::Ours => {}
            CommandPlace::Group => setpgid(Pid::from_raw(0), Pid::from_raw(0))?,
            CommandPlace::Session => drop(setsid()?),
        }
        if ends_with_us {
            set_pdeathsig(Signal::SIGTERM)?;
            // A parent that died before PDEATHSIG was set has sent no signal.
            if getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
        }
        if kept {
            keeper::begin();
        }
        become_other(&MEANT)
    };
    // SAFETY: it only makes system calls, and allocates nothing: it may run after fork(2) whatever
    // other threads of the parent were doing.
    unsafe { command.pre_exec(begin) };
}

/// Prepares a child for exec(2): the limit on descriptors is the one of our own start, and signals
/// are as in a fresh process, but for those `kept` as they are.
///
/// # Errors
/// As sigprocmask(2).
pub fn become_other(kept: &[i32]) -> io::Result<()> {
    if let Some((soft, hard)) = LIMIT.get() {
        // If it fails, the child has a higher limit than we had, which few programs mind.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard);
    }
    for number in (1..=libc::SIGRTMAX()).filter(|number| !kept.contains(number)) {
        set_default(number);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Whether our process group is the one that may read its terminal.
pub fn has_terminal() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(nix::unistd::getpgrp()))
}

fn set_default(number: i32) {
    // SAFETY: SIG_DFL runs no code of ours. It fails for signals that cannot be changed.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

fn is_ignored_number(number: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid one, and the call only writes to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_known() {
        // Rust's runtime ignores it in every program.
        assert!(is_ignored(Signal::SIGPIPE));
        assert!(!is_ignored(Signal::SIGUSR2));
    }

    /// Read from the command itself, which runs in a process of its own.
    #[test]
    fn a_command_begins_as_a_fresh_process_in_its_place() {
        for place in [CommandPlace::Ours, CommandPlace::Group, CommandPlace::Session] {
            let mut command = Command::new("cat");
            command.arg("/proc/self/status").arg("/proc/self/stat");
            prepare(&mut command, place, false);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let mask = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                u64::from_str_radix(line.unwrap_or_default().trim(), 16).unwrap()
            };
            assert_eq!(mask("SigBlk:"), 0);
            assert_eq!(mask("SigIgn:") >> (libc::SIGPIPE - 1) & 1, 0, "it can die of SIGPIPE");
            let (_, stat) = text.rsplit_once(") ").unwrap();
            let pid: i32 = text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
            let ids: Vec<i32> =
                stat.split(' ').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
            assert_eq!(ids[0] == pid, place != CommandPlace::Ours, "its group, {place:?}");
            assert_eq!(ids[1] == pid, place == CommandPlace::Session, "its session, {place:?}");
        }
    }
}
