//! Latencies, in HDR histograms with three digits: every value is kept within 0.1 %.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Values up to ten minutes are kept, in ns.
const LARGEST: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
/// Samples that must lie beyond a percentile for it to be told.
const BEYOND: f64 = 10.0;

/// The percentiles that are told, by the names that they have everywhere.
pub const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// An empty histogram.
pub(crate) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LARGEST, DIGITS).expect("the bounds are sound")
}

/// In the format that all HDR tools read: version 2, compressed, base64.
pub(crate) fn to_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("memory takes everything");
    STANDARD.encode(bytes)
}

/// The inverse of [`to_text`].
///
/// # Errors
/// If the text is not a histogram.
pub(crate) fn from_text(text: &str) -> io::Result<Histogram<u64>> {
    let bytes = STANDARD.decode(text).map_err(io::Error::other)?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(io::Error::other)
}

/// A histogram as text, which takes little memory: with thousands of open histograms, each forked
/// child would appear large.
#[derive(Clone, Debug)]
pub(crate) struct PackedHistogram(String);

impl PackedHistogram {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self(to_text(histogram))
    }

    pub(crate) fn open(&self) -> Histogram<u64> {
        from_text(&self.0).expect("it was written here")
    }
}

/// A distribution of times, all in ns.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LatencySummary {
    /// Samples.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// The arithmetic mean.
    pub mean: u64,
    /// The standard deviation.
    pub stdev: u64,
    /// By name; without those that fewer than ten samples lie beyond.
    pub percentiles: std::collections::BTreeMap<String, u64>,
    /// All of it, as an HDR histogram.
    pub hdr: String,
}

impl LatencySummary {
    /// Nothing of an empty one.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let count = histogram.len();
        let told = PERCENTILES.iter().filter(|(_, q)| count as f64 * (1.0 - q) >= BEYOND - 1e-6);
        let percentiles =
            told.map(|&(name, q)| (name.to_owned(), histogram.value_at_quantile(q))).collect();
        Some(Self {
            count,
            min: histogram.min(),
            max: histogram.max(),
            mean: histogram.mean().round() as u64,
            stdev: histogram.stdev().round() as u64,
            percentiles,
            hdr: to_text(histogram),
        })
    }

    /// A percentile, if there were samples enough.
    pub fn percentile(&self, name: &str) -> Option<u64> {
        self.percentiles.get(name).copied()
    }

    /// The steepness at a percentile: the distance, as a logarithm, that the percentile moves when
    /// this part more or fewer of the samples lie beyond it.
    pub(crate) fn cliff(&self, name: &str, part: f64) -> Option<f64> {
        let (_, quantile) = PERCENTILES.iter().find(|(known, _)| *known == name)?;
        let histogram = from_text(&self.hdr).ok()?;
        let beyond = |factor: f64| {
            let at = histogram.value_at_quantile(1.0 - (1.0 - quantile) * factor);
            (at.max(1) as f64).ln()
        };
        let (less, here, more) = (beyond(1.0 + part), beyond(1.0), beyond(1.0 - part));
        Some((here - less).max(more - here))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_too_few_samples_tell() {
        let mut histogram = empty();
        (1..=1000).for_each(|value| histogram.record(value * 1000).unwrap());
        let latency = LatencySummary::of(&histogram).unwrap();
        assert!(latency.percentile("p99").is_some(), "10 of 1000 lie beyond");
        assert_eq!(latency.percentile("p99.9"), None, "1 of 1000 lies beyond");
        assert_eq!(LatencySummary::of(&empty()), None);
    }

    #[test]
    fn a_cliff_is_where_a_few_samples_change_much() {
        let mut histogram = empty();
        histogram.record_n(1000, 9_905).unwrap();
        histogram.record_n(2000, 95).unwrap();
        let latency = LatencySummary::of(&histogram).unwrap();
        let cliff = |name| latency.cliff(name, 0.1).unwrap();
        assert!((cliff("p99") - 2f64.ln()).abs() < 0.01, "{}", cliff("p99"));
        assert!(cliff("p50") < 1e-6 && cliff("p95") < 1e-6);
        assert_eq!(latency.cliff("mean", 0.1), None);
    }

    #[test]
    fn knows_a_uniform_distribution() {
        let mut histogram = empty();
        (1..=100_000).for_each(|value| histogram.record(value * 10).unwrap());
        let latency = LatencySummary::of(&from_text(&to_text(&histogram)).unwrap()).unwrap();
        let near = |is: u64, should: f64| (is as f64 - should).abs() < should * 0.002;
        assert!(near(latency.percentile("p50").unwrap(), 500_000.0));
        assert!(near(latency.percentile("p99.9").unwrap(), 999_000.0));
        // σ of a uniform distribution is its width divided by √12.
        assert!(near(latency.stdev, 1_000_000.0 / 12f64.sqrt()));
        assert!(near(latency.mean, 500_005.0));
    }
}
