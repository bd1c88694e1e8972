//! Medians: what noise on a busy machine changes least. And percentiles.

use std::time::Duration;

/// A sample's middle and ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Summary {
    /// # Panics
    /// If there is no value, or one is not a number.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(|a, b| a.partial_cmp(b).expect("figures are numbers"));
        let (least, most) = (values[0], values[values.len() - 1]);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self { median, least, most }
    }

    /// Of the ratios of figures that were measured side by side.
    pub(crate) fn of_ratios(above: &[f64], below: &[f64]) -> Self {
        Self::of(above.iter().zip(below).map(|(above, below)| above / below))
    }
}

/// The least of these times that so many percent of them do not exceed.
///
/// # Panics
/// If there is none, or more than all are asked for.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_middle_of_odd_and_even_samples() {
        let odd = Summary { median: 2.0, least: 1.0, most: 9.0 };
        assert_eq!(Summary::of([9.0, 1.0, 2.0]), odd);
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 9.0]).median, 3.0);
    }

    #[test]
    fn pairs_neighbours_before_it_takes_the_middle() {
        let ratios = Summary::of_ratios(&[1.0, 10.0, 4.0], &[2.0, 20.0, 4.0]);
        assert_eq!((ratios.median, ratios.most), (0.5, 1.0));
    }

    #[test]
    fn finds_what_most_do_not_exceed() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let millis = |percent| percentile(&times, percent).as_millis();
        assert_eq!((millis(0), millis(50), millis(99), millis(100)), (1, 100, 198, 200));
        assert_eq!(percentile(&times[..1], 99), times[0]);
    }
}
