//! Tells a worker that hangs from one that has much to do. A worker owes an answer: READY, the
//! confirmation of a change, or room on its link. The time alone proves nothing, for on a busy machine
//! an honest worker may get no processor for long. A worker hangs if it is stopped, if it has used the
//! processor for long without an answer, or if it sleeps although its link has something to read.

use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// The state of a worker's link, as far as the worker is answerable for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkState {
    /// The last change of the directory that was sent, and the last one that was confirmed.
    pub(super) sent_epoch: u64,
    pub(super) confirmed_epoch: u64,
    /// Messages that the kernel has taken, and messages that wait because the worker does not read.
    pub(super) sent: u64,
    pub(super) blocked: u64,
    /// Whether the worker has not said yet that it serves.
    pub(super) is_starting: bool,
    /// Whether a signal has stopped it.
    pub(super) is_stopped: bool,
    /// Whether the supervisor has not read all of its messages: the answer may be among them.
    pub(super) has_unread: bool,
}

/// The state of the worker's process.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessSample {
    /// The processor time that it has used.
    pub(super) cpu_time: Duration,
    /// Whether it sleeps, and neither runs, nor waits for a processor or for a disk.
    pub(super) is_asleep: bool,
}

/// The watchdog of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerWatchdog {
    debt: Option<WorkerDebt>,
}

/// An answer that a worker owes.
#[derive(Debug)]
struct WorkerDebt {
    since: Instant,
    /// The epoch to be confirmed, and the number of messages to be taken, until it is paid.
    epoch: u64,
    sent: u64,
    last_check: Option<DebtCheck>,
}

#[derive(Debug)]
struct DebtCheck {
    at: Instant,
    sent: u64,
    process: ProcessSample,
    /// The processor time at the first check.
    first_cpu_time: Duration,
}

impl WorkerWatchdog {
    /// Whether the worker hangs: it has owed an answer for `limit`, and that is not for lack of a
    /// processor.
    pub(super) fn check(
        &mut self,
        link: LinkState,
        now: Instant,
        limit: Duration,
        sample: impl FnOnce() -> ProcessSample,
    ) -> bool {
        // Answers to later messages are another debt: under steady load there is always one.
        self.debt.take_if(|debt| debt.is_paid(&link));
        let Some(debt) = &mut self.debt else {
            self.debt = link.owes().then(|| WorkerDebt::new(&link, now));
            return false;
        };
        if now < debt.next_check(limit) {
            return false;
        }
        let hangs = debt.check(&link, now, limit, sample());
        if hangs {
            // Another one begins, should the worker outlive its signal.
            self.debt = None;
        }
        hangs
    }

    /// Nothing is owed any more, or the worker is another one.
    pub(super) fn clear(&mut self) {
        self.debt = None;
    }

    /// The time of the next check.
    pub(super) fn next(&self, limit: Duration) -> Option<Instant> {
        self.debt.as_ref().map(|debt| debt.next_check(limit))
    }
}

impl WorkerDebt {
    fn new(link: &LinkState, now: Instant) -> Self {
        let sent = link.sent + link.blocked;
        Self { since: now, epoch: link.sent_epoch, sent, last_check: None }
    }

    fn is_paid(&self, link: &LinkState) -> bool {
        let has_answered = link.confirmed_epoch >= self.epoch && link.sent >= self.sent;
        has_answered && !link.is_starting && !link.is_stopped
    }

    /// There are two checks within the limit: one look at a process cannot tell whether it sleeps for
    /// a moment or for good.
    fn next_check(&self, limit: Duration) -> Instant {
        self.last_check.as_ref().map_or(self.since, |check| check.at) + limit / 2
    }

    fn check(
        &mut self,
        link: &LinkState,
        now: Instant,
        limit: Duration,
        process: ProcessSample,
    ) -> bool {
        let last = self.last_check.as_ref();
        let first_cpu_time = last.map_or(process.cpu_time, |last| last.first_cpu_time);
        // A turn of an honest worker takes milliseconds, and reads the link.
        let spins = process.cpu_time.saturating_sub(first_cpu_time) >= limit / 2;
        // An honest worker sleeps only when it has read all, and then the kernel takes more.
        let sleeps = last.is_some_and(|last| {
            last.process.is_asleep && process.is_asleep && last.sent == link.sent
        });
        let is_overdue = now.saturating_duration_since(self.since) >= limit;
        self.last_check = Some(DebtCheck { at: now, sent: link.sent, process, first_cpu_time });
        is_overdue && (link.is_stopped || spins || (sleeps && !link.has_unread))
    }
}

impl LinkState {
    fn owes(&self) -> bool {
        let has_answered = self.confirmed_epoch >= self.sent_epoch && self.blocked == 0;
        !has_answered || self.is_starting || self.is_stopped
    }
}

/// Looks at a process. Where the system does not tell, it counts as asleep: then the time decides.
pub(super) fn sample_process(pid: Pid) -> ProcessSample {
    let clock = clock_getcpuclockid(pid).and_then(|clock| clock.now());
    let cpu_time = clock.map_or(Duration::ZERO, Duration::from);
    // proc_pid_stat(5): the state follows the name, which is in parentheses and may hold some itself.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    ProcessSample { cpu_time, is_asleep: !matches!(state, Some('R' | 'D')) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);
    const OWING: LinkState = LinkState {
        sent_epoch: 7,
        confirmed_epoch: 6,
        sent: 1,
        blocked: 0,
        is_starting: false,
        is_stopped: false,
        has_unread: false,
    };

    /// The second in which a worker counts as hung, of sixty; `state` says for each second how the
    /// link is, how much processor time was used, and whether the process sleeps.
    fn hung_after(state: impl Fn(u64) -> (LinkState, f64, bool)) -> Option<u64> {
        let (mut watchdog, start) = (WorkerWatchdog::default(), Instant::now());
        (0..60).find(|second| {
            let (link, cpu, is_asleep) = state(*second);
            let cpu_time = Duration::from_secs_f64(cpu);
            let now = start + Duration::from_secs(*second);
            watchdog.check(link, now, LIMIT, || ProcessSample { cpu_time, is_asleep })
        })
    }

    #[test]
    fn a_worker_without_a_processor_is_left_alone() {
        assert_eq!(hung_after(|_| (OWING, 0.0, false)), None);
        // It gets a hundredth of one.
        assert_eq!(hung_after(|second| (OWING, second as f64 / 100.0, false)), None);
        let starting = LinkState { is_starting: true, confirmed_epoch: 7, ..OWING };
        assert_eq!(hung_after(|_| (starting, 0.0, false)), None);
    }

    #[test]
    fn a_worker_that_spins_sleeps_or_is_stopped_hangs() {
        assert_eq!(hung_after(|second| (OWING, second as f64, false)), Some(4));
        assert_eq!(hung_after(|_| (OWING, 0.0, true)), Some(4));
        let stopped = LinkState { is_stopped: true, confirmed_epoch: 7, ..OWING };
        assert_eq!(hung_after(|_| (stopped, 0.0, true)), Some(4));
        let blocked = LinkState { blocked: 3, confirmed_epoch: 7, ..OWING };
        assert_eq!(hung_after(|_| (blocked, 0.0, true)), Some(4));
        // It wakes up now and then, and says something else.
        assert!(hung_after(|second| (OWING, 0.0, second % 7 > 0)).is_some());
    }

    #[test]
    fn a_worker_that_always_owes_and_always_answers_is_honest() {
        let churn = |second| LinkState { sent_epoch: second + 1, confirmed_epoch: second, ..OWING };
        assert_eq!(hung_after(|second| (churn(second), second as f64, true)), None);
        let stream = |second| LinkState { sent: second, blocked: 2, confirmed_epoch: 7, ..OWING };
        assert_eq!(hung_after(|second| (stream(second), second as f64, true)), None);
    }

    #[test]
    fn messages_that_the_supervisor_did_not_read_yet_are_held_against_no_worker() {
        let unread = LinkState { has_unread: true, ..OWING };
        assert_eq!(hung_after(|_| (unread, 0.0, true)), None);
    }

    #[test]
    fn this_process_runs() {
        let before = sample_process(Pid::this());
        let mut sum = 0_u64;
        while sample_process(Pid::this()).cpu_time == before.cpu_time {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sample_process(Pid::this()).cpu_time > before.cpu_time);
    }
}
