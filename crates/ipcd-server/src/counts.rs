//! The numbers of workers and children, within their bounds.

use std::num::NonZero;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The number of workers in a pool; 0 for as many as fit the machine.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "u32")]
pub struct WorkerCount(u32);

impl WorkerCount {
    /// The number of workers to start: the configured one, or else one on up to two processors, and
    /// half as many as processors beyond that, at most eight.
    pub fn count(self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        match self.0 {
            0 => (processors / 2).clamp(1, 8),
            count => count as usize,
        }
    }
}

/// Workers of the largest pool.
const MOST_WORKERS: u32 = 64;

impl TryFrom<u32> for WorkerCount {
    type Error = String;

    fn try_from(count: u32) -> Result<Self, String> {
        match count {
            0..=MOST_WORKERS => Ok(Self(count)),
            _ => Err(format!("workers is 0 to {MOST_WORKERS}")),
        }
    }
}

impl FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u32>().map_err(|error| error.to_string())?.try_into()
    }
}

/// The most children at once, with one for each peer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "u32")]
pub struct MaxChildren(u32);

impl MaxChildren {
    /// The same, to count with.
    pub fn count(self) -> usize {
        self.0 as usize
    }
}

impl Default for MaxChildren {
    fn default() -> Self {
        Self(256)
    }
}

/// Each costs two descriptors from the start, which the kernel has to be willing to give.
const MOST_CHILDREN: u32 = 65_536;

impl TryFrom<u32> for MaxChildren {
    type Error = String;

    fn try_from(count: u32) -> Result<Self, String> {
        match count {
            1..=MOST_CHILDREN => Ok(Self(count)),
            _ => Err(format!("max_children is 1 to {MOST_CHILDREN}")),
        }
    }
}

impl FromStr for MaxChildren {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<u32>().map_err(|error| error.to_string())?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_bounds() {
        let fits = |text: &str| text.parse::<WorkerCount>().is_ok();
        assert!(fits("0") && fits("64") && !fits("65") && !fits("-1") && !fits("many"));
        let fits = |text: &str| text.parse::<MaxChildren>().is_ok();
        assert!(fits("1") && fits("65536") && !fits("0") && !fits("65537") && !fits("4294967295"));
    }
}
