//! The machine and the program: everything that may explain why figures differ.

use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_getres};
use serde::{Deserialize, Serialize};

use crate::clock;

/// The machine, the program and how it was called.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Environment {
    /// Of ipcd.
    pub version: String,
    /// Which commit it was built from, if that was known then.
    pub commit: String,
    /// `release` or `debug`.
    pub profile: String,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution, if it says.
    #[serde(default)]
    pub system: Option<String>,
    /// The start, in seconds since 1970.
    #[serde(default)]
    pub began_unix_s: u64,
    /// The processor's name.
    pub cpu: String,
    /// Whether the processor is one that a hypervisor shows.
    #[serde(default)]
    pub is_virtual: bool,
    /// Whether two hardware threads may share a core.
    #[serde(default)]
    pub has_smt: Option<bool>,
    /// Bytes of memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Against which weaknesses of the processor the kernel does something, which costs.
    #[serde(default)]
    pub mitigations: Vec<String>,
    /// The cores that it was allowed to use.
    pub cores: Vec<usize>,
    /// The frequency governor of the cores, if the kernel tells it.
    pub governor: Option<String>,
    /// The kernel's clock source.
    pub clock_source: Option<String>,
    /// The resolution that the clock reports, in ns.
    pub clock_resolution_ns: u64,
    /// The smallest step that was seen, in ns.
    pub clock_step_ns: u64,
    /// The cost of one reading, in ns.
    pub clock_cost_ns: u64,
    /// Runnable processes in the last minute, on average, before the start.
    pub load_average: Option<f64>,
    /// Limits of the kernel that bound a primitive.
    pub limits: BTreeMap<String, u64>,
    /// The command line.
    pub argv: Vec<String>,
}

/// Below /proc/sys.
const LIMITS: [&str; 12] = [
    "fs/pipe-max-size",
    "fs/pipe-user-pages-soft",
    "fs/mqueue/msg_max",
    "fs/mqueue/msgsize_max",
    "kernel/msgmax",
    "kernel/msgmnb",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/wmem_default",
    "net/core/wmem_max",
    "net/ipv4/tcp_rmem",
    "net/unix/max_dgram_qlen",
];

impl Environment {
    /// Of this process, on these cores.
    pub(crate) fn find(cores: Vec<usize>) -> Self {
        let (clock_cost_ns, clock_step_ns) = clock::cost_and_step();
        let resolution = clock_getres(ClockId::CLOCK_MONOTONIC).ok();
        let limit =
            |name: &&str| Some(((*name).to_owned(), read_number(&format!("/proc/sys/{name}"))?));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("IPCD_COMMIT").unwrap_or("unknown").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            kernel: uname().map_or_else(
                |_| "unknown".to_owned(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
            system: system(),
            began_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs()),
            cpu: cpu().unwrap_or_else(|| "unknown".to_owned()),
            is_virtual: read("/proc/cpuinfo").is_some_and(|about| about.contains(" hypervisor")),
            has_smt: read("/sys/devices/system/cpu/smt/active").map(|active| active == "1"),
            memory_bytes: memory().unwrap_or(0),
            mitigations: mitigations(),
            cores,
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock_resolution_ns: resolution.map_or(0, |time| time.tv_nsec() as u64),
            clock_step_ns,
            clock_cost_ns,
            load_average: read("/proc/loadavg").and_then(|it| it.split(' ').next()?.parse().ok()),
            limits: LIMITS.iter().filter_map(limit).collect(),
            argv: std::env::args().collect(),
        }
    }

    /// Reasons to be careful with the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.profile == "debug" {
            warnings.push("debug build: its figures are meaningless".to_owned());
        }
        if let Some(load) = self.load_average.filter(|&load| load > 1.0) {
            warnings.push(format!("the machine was busy before the start: load {load}"));
        }
        if let Some(governor) = self.governor.as_deref().filter(|it| *it != "performance") {
            warnings.push(format!("the cores' frequency is not fixed: governor {governor}"));
        }
        if self.cores.len() < 2 {
            warnings.push("only one core: nothing ran at the same time".to_owned());
        }
        if self.has_smt == Some(true) {
            warnings
                .push("two of the cores may share one: simultaneous multithreading is on".into());
        }
        if self.clock_cost_ns > 200 {
            let cost = self.clock_cost_ns;
            warnings.push(format!("reading the clock costs {cost} ns, which short times include"));
        }
        warnings
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The last number in the file.
fn read_number(path: &str) -> Option<u64> {
    read(path)?.split_whitespace().next_back()?.parse().ok()
}

fn cpu() -> Option<String> {
    let about = read("/proc/cpuinfo")?;
    let line = about.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(": ")?.1.to_owned())
}

fn system() -> Option<String> {
    let about = read("/etc/os-release")?;
    let name = about.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

fn memory() -> Option<u64> {
    let about = read("/proc/meminfo")?;
    let line = about.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn mitigations() -> Vec<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|it| it.starts_with("Mitig")))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
