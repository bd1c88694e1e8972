//! Compares two reports, and says how certain each change is.
//!
//! A machine is never the same twice: other work, its clock rate and the place of its memory change
//! whole reports by more than the runs of one report differ. So times are not compared, but their
//! ratios to the bare primitive's time, measured beside them in the same turns. Every disturbance
//! makes a run slower, so the level of a measurement is that of its best tenth, which stays the
//! same while most runs are disturbed. Three doubts widen the interval: half of the change of the
//! bare primitive itself; the distance that a percentile moves when a tenth more or fewer samples
//! lie beyond it; and the difference that two reports of one program have in any case.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::format::{si, time};
use crate::plan::MeasureLayer;
use crate::report::{MeasurementKey, Report, ResultRow};
use crate::stats::{FEW, RESOLUTION, draw};

/// RunFigures that are compared.
pub(crate) const METRICS: [&str; 8] =
    ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "mean", "rate"];

/// The probability that a comparison of equal programs claims a change, over all figures of one
/// kind.
const ERROR: f64 = 0.05;
/// Samples drawn for an interval. The draws are the same every time.
const RESAMPLES: usize = 4000;
const SEED: u64 = 0x1bcd;
/// The part of all runs that are at least as good as the one that tells of them.
const GOOD: f64 = 0.1;
/// A machine that makes the bare primitive slower by some factor makes the daemon slower by that to
/// the power of something between 1 − this and 1 + this, and not just by the same.
const ELASTICITY: f64 = 0.5;
/// The part of the samples beyond a percentile that may as well not be there, or be there twice: how
/// many a timer or a neighbour hits is the machine's doing. Where many times lie close together that
/// changes nothing; where few do, a percentile tells little.
const TAIL: f64 = 0.1;

/// A report beside an earlier one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Comparison {
    /// The name under which the earlier one was kept.
    pub with: String,
    /// Every figure that both have.
    pub changes: Vec<FigureChange>,
    /// Reasons to doubt the comparison.
    pub warnings: Vec<String>,
}

/// A figure then and now.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FigureChange {
    /// Of which measurement.
    #[serde(flatten)]
    pub key: MeasurementKey,
    /// Which figure: a percentile, `mean`, or `rate`.
    pub metric: String,
    /// The level of its best tenth of runs in the baseline, in ns or messages a second.
    pub then: f64,
    /// The same now.
    pub now: f64,
    /// Whether both were divided by the bare primitive's figures of the same turns.
    pub is_relative: bool,
    /// The change in percent.
    pub percent: f64,
    /// The change may be as little as this.
    pub low: f64,
    /// Or as much as this.
    pub high: f64,
    /// Whether limits are to hold for it: not for a bare primitive that others are measured by.
    pub is_judged: bool,
}

impl Comparison {
    /// Compares every figure that both reports have.
    pub fn of(with: &str, then: &Report, now: &Report) -> Self {
        let pairs: Vec<(&ResultRow, &ResultRow)> = now
            .results
            .iter()
            .filter_map(|row| Some((then.results.iter().find(|old| old.key == row.key)?, row)))
            .collect();
        let has_bare_only = now.results.iter().all(|row| row.key.layer == MeasureLayer::Raw);
        let is_judged = |row: &ResultRow| has_bare_only || row.key.layer != MeasureLayer::Raw;
        let mut changes = Vec::new();
        for metric in METRICS {
            let judged = pairs.iter().filter(|(_, row)| is_judged(row) && has(row, metric)).count();
            // Bonferroni's correction, with half of it on either side.
            let tail = ERROR / judged.max(1) as f64 / 2.0;
            changes.extend(pairs.iter().filter_map(|(old, row)| {
                let sides =
                    [ComparedSide::of(then, old, metric)?, ComparedSide::of(now, row, metric)?];
                Some(change(row, metric, sides, tail, is_judged(row)))
            }));
        }
        let warnings = warnings(then, now, &changes);
        Self { with: with.to_owned(), changes, warnings }
    }

    /// Those that limits hold for and that are more than chance.
    pub fn real(&self) -> impl Iterator<Item = &FigureChange> {
        self.changes.iter().filter(|change| change.is_judged && change.is_real())
    }
}

impl FigureChange {
    /// Whether it is more than chance.
    pub fn is_real(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// In words.
    pub fn verdict(&self) -> &'static str {
        match (self.is_real(), (self.percent > 0.0) == (self.metric == "rate")) {
            (false, _) => "no difference can be told",
            (true, true) => "better",
            (true, false) => "worse",
        }
    }

    /// The change and the ends of its interval.
    pub fn interval(&self) -> String {
        let Self { percent, low, high, .. } = self;
        format!("{} % ({}…{} %)", signed(*percent), signed(*low), signed(*high))
    }

    pub(crate) fn shown(&self, value: f64) -> String {
        if self.metric == "rate" { si(value) } else { time(value) }
    }
}

impl fmt::Display for FigureChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (then, now) = (self.shown(self.then), self.shown(self.now));
        let how = if self.is_relative { " beside the bare primitive" } else { "" };
        let (key, metric, interval) = (&self.key, &self.metric, self.interval());
        write!(f, "{key}: {metric} {then} → {now}, {interval}{how}: {}", self.verdict())
    }
}

fn signed(percent: f64) -> String {
    let sign = if percent < 0.0 { "−" } else { "+" };
    format!("{sign}{:.1}", percent.abs())
}

fn has(row: &ResultRow, metric: &str) -> bool {
    row.rounds.contains_key(metric)
}

/// A measurement in one report, and the bare primitive beside it.
struct ComparedSide<'r> {
    own: RunFigures<'r>,
    bare: Option<RunFigures<'r>>,
    /// The same figure of the bare primitive.
    like: Option<RunFigures<'r>>,
    /// The distance that the figure moves with a few samples more or fewer beyond it, as a
    /// logarithm.
    cliff: f64,
}

/// One figure of all runs.
#[derive(Clone, Copy)]
struct RunFigures<'r> {
    runs: &'r [Option<f64>],
    is_rate: bool,
}

impl<'r> ComparedSide<'r> {
    fn of(report: &'r Report, row: &'r ResultRow, metric: &str) -> Option<Self> {
        let figures = |row: &'r ResultRow, metric: &str| {
            let runs = row.rounds.get(metric)?;
            let figures = RunFigures { runs, is_rate: metric == "rate" };
            (!runs.is_empty() && figures.level().is_some()).then_some(figures)
        };
        // Tails of the bare primitive are luck. Its median tells the state of the machine.
        let raw = report.yardstick(row);
        let bare = raw.and_then(|raw| {
            let is_time = raw.key.mode.has_latency();
            figures(raw, if is_time && metric != "rate" { "p50" } else { "rate" })
        });
        let like = raw.and_then(|raw| figures(raw, metric));
        let cliff = row.latency.as_ref().and_then(|latency| latency.cliff(metric, TAIL));
        Some(Self { own: figures(row, metric)?, bare, like, cliff: cliff.unwrap_or(0.0) })
    }

    /// The logarithm of the compared figure, of all runs or of a draw.
    fn figure(&self, is_relative: bool, drawn: Option<&[usize]>) -> Option<f64> {
        let own = self.own.level_of(drawn)?.ln();
        match (&self.bare, is_relative) {
            (Some(bare), true) if bare.is_rate == self.own.is_rate => {
                Some(own - bare.level_of(drawn)?.ln())
            }
            _ => Some(own),
        }
    }
}

impl RunFigures<'_> {
    fn level(&self) -> Option<f64> {
        self.level_of(None)
    }

    /// The level that the good part of all runs reaches. A run without the figure was too disturbed
    /// to have it, and counts as the worst.
    fn level_of(&self, drawn: Option<&[usize]>) -> Option<f64> {
        let worst = if self.is_rate { 0.0 } else { f64::INFINITY };
        let run = |index: usize| self.runs.get(index).copied().flatten().unwrap_or(worst);
        let mut runs: Vec<f64> = match drawn {
            Some(drawn) => drawn.iter().map(|&index| run(index)).collect(),
            None => (0..self.runs.len()).map(run).collect(),
        };
        let at = ((runs.len() - 1) as f64 * GOOD).round() as usize;
        let at = if self.is_rate { runs.len() - 1 - at } else { at };
        let (_, level, _) = runs.select_nth_unstable_by(at, f64::total_cmp);
        (level.is_finite() && *level > 0.0).then_some(*level)
    }
}

fn change(
    row: &ResultRow,
    metric: &str,
    [then, now]: [ComparedSide<'_>; 2],
    tail: f64,
    is_judged: bool,
) -> FigureChange {
    let is_relative = then.bare.is_some() && now.bare.is_some();
    let level = |side: &ComparedSide<'_>| side.own.level().unwrap_or(f64::NAN);
    let [low, percent, high] = percents([&then, &now], is_relative, tail);
    FigureChange {
        key: row.key.clone(),
        metric: metric.to_owned(),
        then: level(&then),
        now: level(&now),
        is_relative,
        percent,
        low,
        high,
        is_judged,
    }
}

/// By how much it is more now: at least, as it is, at most. All of it is without a number if there
/// is nothing to compare.
fn percents([then, now]: [&ComparedSide<'_>; 2], is_relative: bool, tail: f64) -> [f64; 3] {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut draw = |side: &ComparedSide<'_>| {
        let drawn = draw(side.own.runs.len(), &mut random);
        side.figure(is_relative, Some(&drawn))
    };
    let mut changes: Vec<f64> =
        (0..RESAMPLES).filter_map(|_| Some(draw(now)? - draw(then)?)).collect();
    changes.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let last = changes.len().checked_sub(1)?;
        changes.get((last as f64 * part).round() as usize).copied()
    };
    let all = |side: &ComparedSide<'_>| side.figure(is_relative, None);
    let whole = all(now).zip(all(then)).map(|(now, then)| now - then);
    let drift = if is_relative { ELASTICITY * drift(then, now) } else { 0.0 };
    let doubt = RESOLUTION + drift + then.cliff.max(now.cliff);
    let (low, high) = (at(tail).map(|low| low - doubt), at(1.0 - tail).map(|high| high + doubt));
    let percent = |change: Option<f64>| change.map_or(f64::NAN, |it| 100.0 * (it.exp() - 1.0));
    [low, whole, high].map(percent)
}

/// By which factor, as a logarithm, the bare primitive has become slower or faster: its median and
/// the figure itself, whichever has changed more.
fn drift(then: &ComparedSide<'_>, now: &ComparedSide<'_>) -> f64 {
    let change = |then: &Option<RunFigures<'_>>, now: &Option<RunFigures<'_>>| {
        let (then, now) = (then.as_ref()?.level()?, now.as_ref()?.level()?);
        Some((now / then).ln().abs())
    };
    let changes = [change(&then.bare, &now.bare), change(&then.like, &now.like)];
    changes.into_iter().flatten().fold(0.0, f64::max)
}

fn warnings(then: &Report, now: &Report, changes: &[FigureChange]) -> Vec<String> {
    let mut warnings = Vec::new();
    let (old, new) = (&then.environment, &now.environment);
    for (what, then, now) in
        [("processor", &old.cpu, &new.cpu), ("kernel", &old.kernel, &new.kernel)]
    {
        if then != now {
            warnings.push(format!("the {what} differs: then {then}, now {now}"));
        }
    }
    if (then.run.extent, then.run.warmup_ns) != (now.run.extent, now.run.warmup_ns) {
        warnings.push("the length of runs differs: choose the same --duration and --warmup".into());
    }
    if changes.is_empty() {
        warnings.push("no measurement is in both reports: choose the same options".into());
    }
    let fewest = then.run.runs.min(now.run.runs);
    if fewest < FEW {
        warnings.push(format!("{fewest} runs tell little: use --runs {FEW} or more, for both"));
    }
    if changes.iter().any(|change| change.is_judged && !change.is_relative) {
        warnings.push(
            "some figures have no bare primitive beside them, so they include the machine's changes: \
             add raw to --layer"
                .into(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a machine that is alternately quiet and disturbed, for several runs in a row: the
    /// bare primitive is slower by half then, the daemon by a third.
    struct Machine {
        random: fastrand::Rng,
        is_disturbed: bool,
        speed: f64,
    }

    impl Machine {
        fn new(seed: u64) -> Self {
            let mut random = fastrand::Rng::with_seed(seed);
            let speed = 1.0 + 0.3 * random.f64();
            Self { random, is_disturbed: false, speed }
        }

        fn runs(&mut self, time: f64) -> [Vec<Option<f64>>; 2] {
            let each = |_| {
                self.is_disturbed ^= self.random.f64() < 0.15;
                let (bare, own) = if self.is_disturbed { (1.5, 1.35) } else { (1.0, 1.0) };
                let mut noise = || self.speed * (1.0 + 0.1 * self.random.f64());
                (Some(9000.0 * bare * noise()), Some(time * own * noise()))
            };
            let (bare, own) = (0..100).map(each).unzip();
            [bare, own]
        }
    }

    fn compare(then: &[Vec<Option<f64>>; 2], now: &[Vec<Option<f64>>; 2]) -> [f64; 3] {
        let ([old_bare, old], [new_bare, new]) = (then, now);
        let figures = |runs| RunFigures { runs, is_rate: false };
        let side = |own, bare| {
            let bare = Some(figures(bare));
            ComparedSide { own: figures(own), bare, like: bare, cliff: 0.0 }
        };
        let (then, now) = (side(old, old_bare), side(new, new_bare));
        percents([&then, &now], true, ERROR / 2.0)
    }

    #[test]
    fn finds_a_fifth_more_and_nothing_where_nothing_is() {
        let is_worse = |[low, percent, _]: [f64; 3]| low > 0.0 && percent > 10.0;
        let (mut found, mut alarms) = (0, 0);
        for seed in 0..5 {
            let then = Machine::new(seed).runs(27_000.0);
            let same = Machine::new(seed + 100).runs(27_000.0);
            let more = Machine::new(seed + 200).runs(27_000.0 * 1.2);
            alarms += usize::from(is_worse(compare(&then, &same)));
            found += usize::from(is_worse(compare(&then, &more)));
        }
        assert_eq!((found, alarms), (5, 0));
    }

    #[test]
    fn a_machine_that_is_slower_as_a_whole_is_no_change() {
        let then = Machine::new(1).runs(27_000.0);
        let now = then.clone().map(|runs| runs.into_iter().map(|it| Some(it? * 1.4)).collect());
        let [low, percent, high] = compare(&then, &now);
        assert!(low < 0.0 && percent.abs() < 1e-9 && high > 0.0, "{low} {percent} {high}");
    }

    #[test]
    fn what_the_machine_has_done_meanwhile_widens_the_interval() {
        let then = Machine::new(1).runs(27_000.0);
        let [low, _, high] = compare(&then, &then);
        let slower = then.clone().map(|runs| runs.into_iter().map(|it| Some(it? * 1.21)).collect());
        let [wide_low, percent, wide_high] = compare(&then, &slower);
        let widened = |narrow: f64, wide: f64| (1.0 + wide / 100.0) / (1.0 + narrow / 100.0);
        assert!(percent.abs() < 1e-9);
        assert!((widened(high, wide_high) - 1.1).abs() < 1e-9, "{high} {wide_high}");
        assert!((widened(low, wide_low) * 1.1 - 1.0).abs() < 1e-9, "{low} {wide_low}");
    }

    #[test]
    fn runs_without_the_figure_count_as_the_worst() {
        let runs = [None, Some(10.0), Some(11.0), None];
        let time = RunFigures { runs: &runs, is_rate: false };
        assert_eq!(time.level(), Some(10.0));
        let nothing = RunFigures { runs: &[None, None], is_rate: false };
        assert_eq!(nothing.level(), None);
        let rate = RunFigures { runs: &runs, is_rate: true };
        assert_eq!(rate.level(), Some(11.0));
    }
}
