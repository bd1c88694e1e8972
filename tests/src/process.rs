//! A process that a test has started.

use std::io::Write;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::warden::sweep;
use crate::watchdog::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::{OutputCapture, PATIENCE, eventually, guard};

/// A process. Dropping this value ends and reaps it, with all that it has started and left.
#[derive(Debug)]
pub struct RunningProcess {
    child: Child,
    what: String,
    mark: String,
    /// Its standard error.
    pub stderr: OutputCapture,
    stdout: Option<OutputCapture>,
}

/// The end of a process.
#[derive(Debug)]
pub struct ProcessResult {
    what: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, unless a test has taken that.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl RunningProcess {
    /// Starts a process with all three standard descriptors piped, unless `command` sets another
    /// standard input.
    ///
    /// # Panics
    /// If the program does not start.
    pub fn start(command: &mut Command) -> Self {
        let what = shorten(&format!("{command:?}"));
        let mark = guard(command);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("start {what}: {error}"));
        let stderr = OutputCapture::of(child.stderr.take().expect("it is piped"));
        Self { child, what, mark, stderr, stdout: None }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its standard input, for the test to write.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is piped and not taken")
    }

    /// Its standard output, for the test to read; otherwise [`RunningProcess::stdout`] reads it.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("standard output is not taken")
    }

    /// Reads its standard output from now on.
    pub fn stdout(&mut self) -> &OutputCapture {
        let Self { child, stdout, .. } = self;
        stdout.get_or_insert_with(|| match child.stdout.take() {
            Some(pipe) => OutputCapture::of(pipe),
            None => OutputCapture::of(std::io::empty()),
        })
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it was reaped.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.has_ended().is_none(), "{} has ended before {signal}", self.what);
        kill(Pid::from_raw(self.pid()), signal).expect("a child that was not reaped has its pid");
    }

    /// Sends a signal again and again, because a program may take some in a row for one, and waits.
    ///
    /// # Panics
    /// If the watchdog fires.
    pub fn signal_until_the_end(&mut self, signal: Signal) {
        eventually("the end of a process by signals", || {
            let has_ended = self.has_ended().is_some();
            // A process that has just ended is not reaped, and keeps its pid.
            has_ended
                .then_some(())
                .or_else(|| kill(Pid::from_raw(self.pid()), signal).err().map(drop))
        });
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If the system cannot tell.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If the watchdog fires.
    pub fn wait(&mut self) -> ProcessResult {
        drop(self.child.stdin.take());
        self.stdout();
        let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
        let status = loop {
            if let Some(status) = self.has_ended() {
                break status;
            }
            let (what, said) = (&self.what, &self.stderr);
            assert!(start.elapsed() < PATIENCE, "watchdog: {what} does not end:\n{}", said.text());
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        };
        ProcessResult {
            what: self.what.clone(),
            status,
            stdout: self.stdout().wait_for_end(),
            stderr: String::from_utf8_lossy(&self.stderr.wait_for_end()).into_owned(),
        }
    }

    /// Writes to its standard input, closes that, and waits for its end.
    ///
    /// # Panics
    /// If the watchdog fires.
    pub fn feed(&mut self, input: &[u8]) -> ProcessResult {
        let (mut stdin, input) = (self.stdin(), input.to_vec());
        // The process may end without reading, which its exit status shows.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let ended = self.wait();
        let _ = writer.join().expect("writing does not panic");
        ended
    }
}

/// The name of a process in a failure: a command may hold a whole script.
fn shorten(what: &str) -> String {
    const LONGEST: usize = 300;
    match what.char_indices().nth(LONGEST) {
        None => what.to_owned(),
        Some((end, _)) => format!("{}…", &what[..end]),
    }
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        // A process that ended by itself has ended all that it had started, unless the test fails.
        let is_whole = matches!(self.child.try_wait(), Ok(Some(_)));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !is_whole || std::thread::panicking() {
            sweep(&self.mark);
        }
    }
}

impl ProcessResult {
    /// Checks the exit status.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        let Self { what, stderr, .. } = &self;
        let output = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)]);
        assert_eq!(self.status.code(), Some(status), "{what}\n{stderr}\n{output}");
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}
