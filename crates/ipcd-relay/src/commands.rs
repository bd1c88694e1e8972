//! The commands that a relay has started, and the process that ends them if the relay is killed.

use ipcd_sys::{Keeper, end_children};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::signals::reap;

pub(crate) struct CommandSet {
    /// Commands that run or are not reaped yet.
    commands: Vec<Pid>,
    /// Ends the commands if the relay is killed. It runs while there are commands.
    keeper: Option<Keeper>,
}

impl CommandSet {
    pub(crate) fn new() -> Self {
        // Processes that commands leave behind become children of the relay, and end with it. If
        // this fails, only their process groups end.
        let _ = set_child_subreaper(true);
        Self { commands: Vec::new(), keeper: None }
    }

    /// Starts the keeper before the first command: it ends the commands if the relay is killed. The
    /// keeper takes a process; without one, a command gets TERM then and its descendants get
    /// nothing.
    pub(crate) fn start_keeper(&mut self) {
        if self.keeper.is_none() {
            // As a subreaper the relay would become the keeper's parent again.
            let _ = set_child_subreaper(false);
            self.keeper = Keeper::start_apart().ok();
            let _ = set_child_subreaper(true);
        }
    }

    pub(crate) fn add(&mut self, process: u32) {
        self.commands.push(Pid::from_raw(process as i32));
    }

    pub(crate) fn count(&self) -> usize {
        self.commands.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Reaps all children that have ended, whether they are commands or not.
    pub(crate) fn reap_ended(&mut self) {
        while let Some((pid, _)) = reap() {
            if let Some(at) = self.commands.iter().position(|command| *command == pid) {
                self.commands.swap_remove(at);
                self.keeper.iter().for_each(|keeper| keeper.ended(pid));
            }
            if self.commands.is_empty() {
                self.keeper.take().into_iter().for_each(Keeper::leave);
            }
        }
    }

    /// Asks all commands to end.
    pub(crate) fn terminate(&self) {
        self.signal_all(Signal::SIGTERM);
    }

    /// Kills all commands and the processes that they have left behind.
    pub(crate) fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        for command in std::mem::take(&mut self.commands) {
            // The command was killed, so only the kernel delays this.
            let _ = waitpid(command, None);
        }
        end_children();
    }

    fn signal_all(&self, signal: Signal) {
        for command in &self.commands {
            // A command that has just ended is still a zombie, so its number is not reused. On a
            // terminal it is not the leader of a group, and no group has its number.
            let _ = killpg(*command, signal).or_else(|_| kill(*command, signal));
        }
    }
}
