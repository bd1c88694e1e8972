//! Figures of several runs: their median, and how far to believe it.

use serde::{Deserialize, Serialize};

/// Samples drawn for an interval.
const RESAMPLES: usize = 2000;
/// The draws are the same every time, so that a report can be made again from its runs.
const SEED: u64 = 0x1bcd;

/// The median of runs, with a 95 % bootstrap interval.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    /// The middle of the runs.
    pub median: f64,
    /// 2.5 % of the medians of resampled runs are lower.
    pub low: f64,
    /// 2.5 % are higher.
    pub high: f64,
    /// Every run, in its turn.
    pub runs: Vec<f64>,
}

impl Estimate {
    /// Nothing of no runs.
    pub(crate) fn of(runs: Vec<f64>) -> Option<Self> {
        if runs.is_empty() {
            return None;
        }
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut draw =
            || median((0..runs.len()).map(|_| runs[random.usize(..runs.len())]).collect());
        let mut medians: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
        medians.sort_by(f64::total_cmp);
        let at = |part: f64| medians[((RESAMPLES - 1) as f64 * part).round() as usize];
        let (median, low, high) = (median(runs.clone()), at(0.025), at(0.975));
        Some(Self { median, low, high, runs })
    }

    /// Whether the intervals have something in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// What a reader should know before believing it.
    pub(crate) fn warnings(&self, what: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let far = |run: &&f64| (**run - self.median).abs() > OUTLYING * self.median;
        let outliers = self.runs.iter().filter(far).count();
        if outliers > 0 {
            let (runs, percent) = (self.runs.len(), OUTLYING * 100.0);
            warnings.push(format!(
                "{what}: {outliers} of {runs} runs differ by more than {percent:.0} % from the median"
            ));
        }
        if self.drifts() {
            warnings.push(format!("{what}: it only grows or only falls from run to run"));
        }
        warnings
    }

    fn drifts(&self) -> bool {
        let is_monotone = self.runs.is_sorted() || self.runs.iter().rev().is_sorted();
        let (Some(first), Some(last)) = (self.runs.first(), self.runs.last()) else {
            return false;
        };
        self.runs.len() >= 4 && is_monotone && (last - first).abs() > DRIFTING * self.median
    }
}

/// The part of the median from which on a run is an outlier.
const OUTLYING: f64 = 0.25;
/// The part of the median from which on a drift is worth a word.
const DRIFTING: f64 = 0.05;

/// The middle.
///
/// # Panics
/// If there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_median_and_is_the_same_every_time() {
        let runs = vec![10.0, 11.0, 9.0, 10.5, 30.0];
        let estimate = Estimate::of(runs.clone()).unwrap();
        assert_eq!(estimate.median, 10.5);
        assert!(estimate.low <= 10.5 && 10.5 <= estimate.high);
        assert!((9.0..=30.0).contains(&estimate.low) && (9.0..=30.0).contains(&estimate.high));
        assert_eq!(Estimate::of(runs).unwrap(), estimate);
        assert_eq!(Estimate::of(Vec::new()), None);
    }

    #[test]
    fn warns_of_outliers_and_drift() {
        let warnings = |runs: &[f64]| Estimate::of(runs.to_vec()).unwrap().warnings("p50").len();
        assert_eq!(warnings(&[10.0, 10.1, 9.9, 10.0]), 0);
        assert_eq!(warnings(&[10.0, 10.1, 20.0, 10.0]), 1);
        assert_eq!(warnings(&[10.0, 11.0, 12.0, 12.4]), 1);
        assert_eq!(warnings(&[10.0]), 0);
    }
}
