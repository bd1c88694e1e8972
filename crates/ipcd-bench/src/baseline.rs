//! Comparing with an earlier report.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::compare::{Comparison, FigureChange, METRICS};
use crate::plan::invalid;
use crate::report::{Report, SCHEMA};

/// The file of a baseline, in `$XDG_STATE_HOME/ipcd/bench` or `~/.local/state/ipcd/bench`.
///
/// # Errors
/// If the name is not a plain word, or there is no home directory.
pub fn path_of(name: &str) -> io::Result<PathBuf> {
    let is_plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_plain {
        return Err(invalid(format!(
            "{name}: a baseline's name consists of letters, digits, -, _ and ."
        )));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || Some(absolute("HOME")?.join(".local/state"));
    let state = absolute("XDG_STATE_HOME").or_else(home);
    let state = state.ok_or_else(|| invalid("set HOME or XDG_STATE_HOME".into()))?;
    Ok(state.join("ipcd/bench").join(format!("{name}.json")))
}

/// Keeps a report.
///
/// # Errors
/// If it cannot be written.
pub fn save(report: &Report, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, serde_json::to_vec(report)?)
}

/// Reads a report that was kept, or written as JSON.
///
/// # Errors
/// If it cannot be read, or is not a report.
pub fn load(path: &Path) -> io::Result<Report> {
    let failed = |error: &dyn fmt::Display| invalid(format!("{}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    let report: Report = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    match report.schema.as_str() {
        SCHEMA => Ok(report),
        other => Err(failed(&format!("schema {other} is not {SCHEMA}"))),
    }
}

/// The change of a figure that is still accepted: `p99>+10%` or `rate<-5%`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeLimit {
    metric: String,
    is_rise: bool,
    percent: f64,
}

impl FromStr for ChangeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("write p99>+10% or rate<-5%, with one of {}", METRICS.join(", "));
        let at = text.find(['<', '>']).ok_or_else(usage)?;
        let (metric, rest) = text.split_at(at);
        let is_rise = rest.starts_with('>');
        let number = rest[1..].strip_suffix('%').ok_or_else(usage)?;
        let percent: f64 = number.parse().map_err(|_| usage())?;
        let is_sound =
            METRICS.contains(&metric) && percent.is_finite() && (percent >= 0.0) == is_rise;
        is_sound.then(|| Self { metric: metric.to_owned(), is_rise, percent }).ok_or_else(usage)
    }
}

impl fmt::Display for ChangeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_rise { ">+" } else { "<" };
        write!(f, "{}{sign}{}%", self.metric, self.percent)
    }
}

impl ChangeLimit {
    /// Whether a change, which is more than chance, goes beyond it.
    fn is_broken_by(&self, change: &FigureChange) -> bool {
        let is_beyond = match self.is_rise {
            true => change.percent > self.percent,
            false => change.percent < self.percent,
        };
        change.metric == self.metric && is_beyond
    }
}

/// Those changes that break a limit.
pub fn broken<'c>(
    comparison: &'c Comparison,
    limits: &[ChangeLimit],
) -> Vec<(&'c FigureChange, ChangeLimit)> {
    limits
        .iter()
        .flat_map(|limit| {
            let broken = comparison.real().filter(|change| limit.is_broken_by(change));
            broken.map(|change| (change, limit.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_limits() {
        for text in ["p99>+10%", "rate<-5%", "p99.9>+0%"] {
            assert_eq!(text.parse::<ChangeLimit>().unwrap().to_string(), text);
        }
        for text in ["", "p99", "p99>10", "p98>+1%", "p99>-1%", "rate<5%", "p99=1%"] {
            assert!(text.parse::<ChangeLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_baselines_lead_nowhere_else() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden"] {
            assert!(path_of(name).is_err(), "{name}");
        }
    }
}
