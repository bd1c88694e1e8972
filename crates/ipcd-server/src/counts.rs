//! Configured numbers of processes and peers, within their bounds.

use std::fmt;
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

/// The limits on peers that have proved nothing yet: `start:rate:full`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MaxStartups {
    pub(crate) start: usize,
    rate: u32,
    pub(crate) full: usize,
}

impl Default for MaxStartups {
    fn default() -> Self {
        Self { start: 100, rate: 30, full: 500 }
    }
}

impl MaxStartups {
    /// The most that may be there.
    pub(crate) fn hard_limit(self) -> usize {
        self.full
    }

    /// In percent, that one is let go where there are so many.
    pub(crate) fn chance(self, count: usize) -> u32 {
        let (beyond, range) = (count - self.start.min(count), self.full.saturating_sub(self.start));
        let growth = (100 - self.rate) as usize * beyond / range.max(1);
        self.rate + (growth as u32).min(100 - self.rate)
    }
}

impl FromStr for MaxStartups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: write START:RATE:FULL, as in 100:30:500, or FULL alone");
        let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[full]) => Ok(Self { start: full as usize, rate: 100, full: full as usize }),
            Some(&[start, rate, full]) if rate <= 100 && start <= full => {
                Ok(Self { start: start as usize, rate, full: full as usize })
            }
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for MaxStartups {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MaxStartups> for String {
    fn from(max: MaxStartups) -> Self {
        max.to_string()
    }
}

impl fmt::Display for MaxStartups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.start, self.rate, self.full)
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

    #[test]
    fn chances_grow_from_the_rate_to_certainty() {
        let max = MaxStartups::default();
        assert_eq!([100, 300, 500].map(|count| max.chance(count)), [30, 65, 100]);
        assert_eq!("10".parse::<MaxStartups>().unwrap().chance(10), 100);
        for text in ["10:101:20", "20:30:10", "1:2", "a:b:c", "", "1:2:3:4"] {
            assert!(text.parse::<MaxStartups>().is_err(), "{text}");
        }
        assert_eq!("1:50:7".parse::<MaxStartups>().unwrap().to_string(), "1:50:7");
    }
}
