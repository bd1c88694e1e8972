//! Resources that processes use: processor time, context switches, memory.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// The use of resources while messages were counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct ResourceUsage {
    /// Time in user space.
    pub user_ns: u64,
    /// Time in the kernel.
    pub system_ns: u64,
    /// Context switches because the process waited.
    pub voluntary_switches: u64,
    /// Context switches because another process had its turn.
    pub involuntary_switches: u64,
    /// The most memory at any time, of the largest process.
    pub peak_bytes: u64,
}

impl ResourceUsage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }

    /// Switches of either kind.
    pub fn switches(&self) -> u64 {
        self.voluntary_switches + self.involuntary_switches
    }

    fn since(self, start: &Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_sub(start.user_ns),
            system_ns: self.system_ns.saturating_sub(start.system_ns),
            voluntary_switches: self.voluntary_switches.saturating_sub(start.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(start.involuntary_switches),
            peak_bytes: self.peak_bytes,
        }
    }

    /// This process, getrusage(2).
    fn own() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self::default();
        };
        let nanos = |time: nix::sys::time::TimeVal| {
            (time.tv_sec() as u64) * 1_000_000_000 + (time.tv_usec() as u64) * 1000
        };
        Self {
            user_ns: nanos(usage.user_time()),
            system_ns: nanos(usage.system_time()),
            voluntary_switches: usage.voluntary_context_switches() as u64,
            involuntary_switches: usage.involuntary_context_switches() as u64,
            peak_bytes: usage.max_rss() as u64 * 1024,
        }
    }

    /// Other processes, proc(5). One that has gone has used nothing.
    fn of(processes: &[u32]) -> Self {
        let mut sum = Self::default();
        for usage in processes.iter().filter_map(|&pid| Self::of_one(pid)) {
            sum.add(&usage);
        }
        sum
    }

    fn of_one(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything; behind its last parenthesis come the state and the numbers.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok()?? as u64;
        let time =
            |field: usize| Some(fields.get(field)?.parse::<u64>().ok()? * 1_000_000_000 / ticks);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let (user_ns, system_ns) = (time(11)?, time(12)?);
        // The scheduler counts in ns, but not which of it was in the kernel.
        let all = on_cores(pid).unwrap_or(user_ns + system_ns);
        let user_ns = user_ns.min(all);
        Some(Self {
            user_ns,
            system_ns: all - user_ns,
            voluntary_switches: number("voluntary_ctxt_switches:")?,
            involuntary_switches: number("nonvoluntary_ctxt_switches:")?,
            peak_bytes: number("VmHWM:")? * 1024,
        })
    }
}

/// Nanoseconds that all threads of a process have spent on cores, if the kernel counts them.
fn on_cores(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of_one = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.map(of_one).sum()
}

/// Measures the use of this process and of others, from its start.
pub(crate) struct UsageMeter {
    own: ResourceUsage,
    others: ResourceUsage,
}

impl UsageMeter {
    pub(crate) fn start(others: &[u32]) -> Self {
        Self { own: ResourceUsage::own(), others: ResourceUsage::of(others) }
    }

    /// The use of this process, and that of the others.
    pub(crate) fn stop(self, others: &[u32]) -> (ResourceUsage, ResourceUsage) {
        (ResourceUsage::own().since(&self.own), ResourceUsage::of(others).since(&self.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_another_process_as_it_knows_itself() {
        let (own, other) = (ResourceUsage::own(), ResourceUsage::of(&[std::process::id()]));
        assert!(own.peak_bytes > 0 && other.peak_bytes > 0);
        assert!(other.user_ns + other.system_ns > 0, "it has run, if only for less than a tick");
        assert_eq!(ResourceUsage::of(&[u32::MAX]).peak_bytes, 0);
    }
}
