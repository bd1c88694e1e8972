//! A coprocess until it is the program that it is to be: what a forked child does before exec(2).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, NulError, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use ipcd_sys::{close_all_except, inherited};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, execvpe, getppid, setsid};
use serde::{Deserialize, Serialize};

use crate::exec::ExecConfig;
use crate::link::{Link, ReceiveOutcome};
use crate::{Error, privileges};

/// The descriptors and settings from which a forked child becomes a program.
pub(crate) struct ProgramLaunch<'a> {
    /// Closed by a successful exec(2), which is how the supervisor hears of it.
    pub(crate) link: Link,
    pub(crate) supervisor: Pid,
    pub(crate) user: Option<privileges::UserSwitch>,
    pub(crate) exec: &'a ExecConfig,
    pub(crate) stdin: &'a OwnedFd,
    pub(crate) stdout: &'a OwnedFd,
    pub(crate) stderr: &'a OwnedFd,
}

/// Why a program was not started.
#[derive(Debug, Deserialize, Serialize)]
struct NotStarted(String);

/// Exit statuses of one that could not be started, as a shell has them.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Becomes the program in a freshly forked child; returns its exit status if it cannot.
pub(crate) fn main(mut launch: ProgramLaunch<'_>) -> i32 {
    let (status, why) = match prepare(&launch).and_then(|()| become_program(launch.exec)) {
        // exec(2) returns only if it fails.
        Ok(Ok(never)) => match never {},
        Ok(Err(Errno::ENOENT)) => (NOT_FOUND, "not found".to_owned()),
        Ok(Err(error)) => (NOT_EXECUTABLE, format!("not executable: {}", error.desc())),
        Err(error) => (NOT_EXECUTABLE, error.to_string()),
    };
    // There is room for the only message; if it is lost, the exit status tells.
    let _ = launch.link.send(&NotStarted(why), Vec::new());
    status
}

/// Reads, in the supervisor, whether exec(2) has gone well, and if not, why; `None` while that is not
/// known.
pub(crate) fn read_launch(link: &mut Link) -> Option<Result<(), String>> {
    match link.receive() {
        Ok(ReceiveOutcome::NotReady) => None,
        Ok(ReceiveOutcome::Message(NotStarted(why), _)) => Some(Err(why)),
        // The link is closed on exec.
        Ok(ReceiveOutcome::Closed) | Err(_) => Some(Ok(())),
    }
}

fn prepare(launch: &ProgramLaunch<'_>) -> Result<(), Error> {
    let failed = |what: &'static str| move |error: Errno| Error::system(what, error);
    // First of all: the keeper has to know of this process before it starts others.
    ipcd_sys::keeper::begin();
    dup2_stdin(launch.stdin).map_err(failed("set standard input"))?;
    dup2_stdout(launch.stdout).map_err(failed("set standard output"))?;
    dup2_stderr(launch.stderr).map_err(failed("set standard error"))?;
    // A copy of a peer's descriptor in the program would keep that connection open after its
    // worker has closed it.
    close_all_except(&[launch.link.as_fd()])
        .map_err(|error| Error::system("close inherited descriptors", error))?;
    // So that whatever it starts can be ended with it, and a terminal's signals do not reach it.
    setsid().map_err(failed("start a session"))?;
    if let Some(user) = launch.user {
        user.apply()?;
    }
    // After the change of user, which resets it (prctl(2)).
    set_pdeathsig(Signal::SIGKILL).map_err(failed("set PDEATHSIG"))?;
    // A supervisor that died before that has sent no signal.
    if getppid() != launch.supervisor {
        return Err(Error::Config("the supervisor is gone".into()));
    }
    // Of what the daemon was started with, nothing is meant for its programs.
    inherited::become_other(&[]).map_err(|error| Error::system("reset signals", error))
}

fn become_program(exec: &ExecConfig) -> Result<Result<Infallible, Errno>, Error> {
    let bad = |_: NulError| Error::Config("a word with a NUL".into());
    let words: Result<Vec<_>, _> =
        exec.command.iter().map(|word| CString::new(word.as_str())).collect();
    let environment: Result<Vec<_>, _> = environment(exec)
        .into_iter()
        .map(|(key, value)| CString::new([key.into_vec(), value.into_vec()].join(&b'=')))
        .collect();
    let (words, environment) = (words.map_err(bad)?, environment.map_err(bad)?);
    Ok(execvpe(&words[0], &words, &environment))
}

/// The daemon's own environment, without what is meant for the daemon alone.
fn environment(exec: &ExecConfig) -> BTreeMap<OsString, OsString> {
    // These tell of the daemon's own sockets and service manager, and a program would take them for
    // its own.
    let is_ours = |key: &OsString| {
        let key = key.to_string_lossy();
        ["LISTEN_", "IPC_"].iter().any(|prefix| key.starts_with(prefix))
            || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&&*key)
    };
    let mut variables: BTreeMap<_, _> =
        std::env::vars_os().filter(|(key, _)| !is_ours(key)).collect();
    variables.insert("IPC_TRANSPORT".into(), ipcd_transports::CHILD.scheme().into());
    if let Some(subject) = &exec.raw_profile.subject {
        variables.insert("IPC_SUBJECT".into(), subject.into());
    }
    variables
}
