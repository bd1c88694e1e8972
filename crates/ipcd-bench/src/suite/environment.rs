//! Where it was measured: everything that may explain why figures differ.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_getres};
use serde::{Deserialize, Serialize};

use super::clock;

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
    /// The processor's name.
    pub cpu: String,
    /// The cores that it was allowed to use.
    pub cores: Vec<usize>,
    /// How the cores' frequency is governed, if the kernel says.
    pub governor: Option<String>,
    /// What the kernel keeps time with.
    pub clock_source: Option<String>,
    /// What the clock says of itself, in ns.
    pub clock_resolution_ns: u64,
    /// The smallest step that was seen, in ns.
    pub clock_step_ns: u64,
    /// What reading it costs, in ns.
    pub clock_cost_ns: u64,
    /// Runnable processes in the last minute, on average, before the start.
    pub load_average: Option<f64>,
    /// Limits of the kernel that bound a primitive.
    pub limits: BTreeMap<String, u64>,
    /// How it was called.
    pub argv: Vec<String>,
}

/// Below /proc/sys.
const LIMITS: [&str; 11] = [
    "fs/pipe-max-size",
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
            cpu: cpu().unwrap_or_else(|| "unknown".to_owned()),
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

    /// What should make a reader careful.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.profile == "debug" {
            warnings.push("this is a debug build: its figures say nothing".to_owned());
        }
        if let Some(load) = self.load_average.filter(|&load| load > 1.0) {
            warnings.push(format!("the machine was busy before the start: load {load}"));
        }
        if let Some(governor) = self.governor.as_deref().filter(|it| *it != "performance") {
            warnings.push(format!("the cores' frequency is not fixed: governor {governor}"));
        }
        if self.cores.len() < 2 {
            warnings.push("there is one core only: nothing ran at the same time".to_owned());
        }
        if self.clock_cost_ns > 200 {
            let cost = self.clock_cost_ns;
            warnings.push(format!("reading the clock costs {cost} ns, which short times contain"));
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
