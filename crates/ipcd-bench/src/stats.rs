//! Figures of several runs: the median and its confidence interval.
//!
//! A disturbance often lasts for several runs, so an interval is drawn from blocks of neighbours
//! ([Künsch 1989](https://doi.org/10.1214/aos/1176347265)).

use serde::{Deserialize, Serialize};

/// The number of runs below which a comparison says little, and blocks are not drawn.
pub(crate) const FEW: usize = 20;
/// The difference of two reports of one program on an otherwise idle machine, beyond the variation
/// of their runs. The causes are the place of memory and the host.
pub(crate) const RESOLUTION: f64 = 0.02;

/// Neighbours that are drawn together.
const BLOCK: usize = 4;
/// Samples drawn for an interval.
const RESAMPLES: usize = 2000;
/// The draws are the same every time, so a report can be reproduced from its runs.
const SEED: u64 = 0x1bcd;

/// The median of runs, with a 95 % bootstrap interval. It is at least 2 % wide on either side, the
/// difference of two reports in any case.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    /// The middle of the runs.
    pub median: f64,
    /// 2.5 % of the medians of resampled runs are lower by 2 % or more.
    pub low: f64,
    /// 2.5 % are higher by that.
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
            || median(draw(runs.len(), &mut random).into_iter().map(|run| runs[run]).collect());
        let mut medians: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
        medians.sort_by(f64::total_cmp);
        let at = |part: f64| medians[((RESAMPLES - 1) as f64 * part).round() as usize];
        let low = at(0.025) * (1.0 - RESOLUTION);
        let high = at(0.975) * (1.0 + RESOLUTION);
        let median = median(runs.clone());
        Some(Self { median, low, high, runs })
    }

    /// Whether the intervals have something in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// Reasons to doubt it.
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
            warnings.push(format!("{what}: it rises or falls steadily from run to run"));
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

/// A resample of the same number of runs, in blocks of neighbours if they are many.
pub(crate) fn draw(runs: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let block = if runs >= FEW { BLOCK } else { 1 };
    let blocks = std::iter::repeat_with(|| random.usize(..runs));
    // Blocks wrap around at the end, so every run is equally likely.
    let drawn = blocks.flat_map(|start| (start..start + block).map(|index| index % runs));
    drawn.take(runs).collect()
}

/// The median.
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
        let outermost = 9.0 * (1.0 - RESOLUTION)..=30.0 * (1.0 + RESOLUTION);
        assert!(outermost.contains(&estimate.low) && outermost.contains(&estimate.high));
        assert_eq!(Estimate::of(runs).unwrap(), estimate);
        assert_eq!(Estimate::of(Vec::new()), None);
    }

    #[test]
    fn equal_runs_are_not_believed_to_the_last_digit() {
        let [here, there, far] =
            [10.0, 10.3, 10.6].map(|time| Estimate::of(vec![time; 5]).unwrap());
        assert!(here.overlaps(&there) && there.overlaps(&far) && !here.overlaps(&far));
    }

    #[test]
    fn what_disturbs_neighbours_widens_the_interval() {
        let runs: Vec<f64> =
            (0..120).map(|run| if run / 10 % 2 == 0 { 10.0 } else { 13.0 }).collect();
        let width = |runs: Vec<f64>| {
            let mut random = fastrand::Rng::with_seed(1);
            let mut means: Vec<f64> = (0..500)
                .map(|_| draw(runs.len(), &mut random).iter().map(|&run| runs[run]).sum::<f64>())
                .collect();
            means.sort_by(f64::total_cmp);
            means[487] - means[12]
        };
        let mut scattered = runs.clone();
        fastrand::Rng::with_seed(2).shuffle(&mut scattered);
        let (neighbours, strangers) = (width(runs), width(scattered));
        assert!(neighbours > 1.4 * strangers, "{neighbours} {strangers}");
    }

    #[test]
    fn blocks_are_for_many_runs() {
        let mut random = fastrand::Rng::with_seed(1);
        let drawn = draw(100, &mut random);
        let steps = drawn.windows(2).filter(|pair| pair[1] == (pair[0] + 1) % 100).count();
        assert!(drawn.len() == 100 && steps >= 75, "{steps}");
        assert_eq!(draw(1, &mut random), [0]);
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
