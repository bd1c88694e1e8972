//! Timelines: the messages or the longest latency of each step of a run.

use super::chart::{AxisScale, Chart, ChartAxis, ChartSeries, escaped};
use super::{groups, section, series};
use crate::format::{layer_name, si, time};
use crate::plan::MeasureMode;
use crate::report::{Report, ResultRow};

/// The figure that is shown of each step.
struct TimelineFigure {
    mode: MeasureMode,
    title: &'static str,
    note: &'static str,
    label: &'static str,
    scale: AxisScale,
    unit: fn(f64) -> String,
    steps: fn(&ResultRow, f64) -> Vec<f64>,
}

const SHOWN: [TimelineFigure; 2] = [
    TimelineFigure {
        mode: MeasureMode::Throughput,
        title: "Timeline of throughput",
        note: "Messages received in each step of the first run of each measurement, at the smallest \
               size: steady or in bursts.",
        label: "messages a second",
        scale: AxisScale::Linear,
        unit: si,
        steps: |row, step| {
            row.timeline.messages.iter().map(|&count| count as f64 * 1e9 / step).collect()
        },
    },
    TimelineFigure {
        mode: MeasureMode::Load,
        title: "Timeline of response times",
        note: "The longest response time of each step of the first run, at the lowest rate and the \
               smallest size: permanent delays, and single ones. A step without a message \
               has no point.",
        label: "longest response time",
        scale: AxisScale::Log,
        unit: time,
        steps: |row, _| row.timeline.worst.iter().map(|&worst| worst as f64).collect(),
    },
];

/// One for each mode that was measured and has one.
pub(super) fn sections(report: &Report) -> Vec<String> {
    let of = |shown: &TimelineFigure| {
        let rows = rows(report, shown.mode);
        let charts: Vec<String> =
            groups(&rows).iter().map(|(group, rows)| chart(report, shown, group, rows)).collect();
        let numbers = numbers(report, shown, &rows);
        (!rows.is_empty()).then(|| section(shown.title, shown.note, &charts, &numbers, false))
    };
    SHOWN.iter().filter_map(of).collect()
}

/// Those of the smallest size and, where there are several, of the first rate.
fn rows(report: &Report, mode: MeasureMode) -> Vec<&ResultRow> {
    let of_mode = report.results.iter().filter(|row| row.key.mode == mode);
    let least = of_mode.clone().map(|row| row.key.size).min();
    let rate = of_mode.clone().map(|row| &row.key.rate).next();
    of_mode.filter(|row| Some(row.key.size) == least && Some(&row.key.rate) == rate).collect()
}

fn chart(report: &Report, shown: &TimelineFigure, group: &str, rows: &[&ResultRow]) -> String {
    let step = report.run.timeline_step_ns as f64;
    let line = |(index, row): (usize, &&ResultRow)| {
        let (name, colour) = series(index, row, group);
        let points = (shown.steps)(row, step).into_iter().enumerate();
        let points = points.map(|(index, value)| (index as f64 * step, value));
        // A logarithm of nothing has no place.
        let points = points.filter(|(_, value)| shown.scale == AxisScale::Linear || *value > 0.0);
        ChartSeries { name, colour, is_dashed: false, points: points.collect(), has_dots: false }
    };
    let rate = rows[0].key.rate.as_ref().map(|rate| format!(", {rate}/s")).unwrap_or_default();
    Chart {
        title: format!("{group}, {}{rate}", rows[0].key.cores),
        x: ChartAxis { label: "since the first message", scale: AxisScale::Linear, shown: time },
        y: ChartAxis { label: shown.label, scale: shown.scale, shown: shown.unit },
        series: rows.iter().enumerate().map(line).collect(),
    }
    .render()
}

fn numbers(report: &Report, shown: &TimelineFigure, rows: &[&ResultRow]) -> String {
    let step = report.run.timeline_step_ns as f64;
    let steps = rows.iter().map(|row| row.timeline.messages.len()).max().unwrap_or(0);
    let head: String =
        (0..steps).map(|index| format!("<th>{}</th>", time(index as f64 * step))).collect();
    let line = |row: &&ResultRow| {
        let (layer, over) = (layer_name(row.key.layer), escaped(&row.key.transport));
        let values = (shown.steps)(row, step);
        let cells: String =
            values.iter().map(|&value| format!("<td>{}</td>", (shown.unit)(value))).collect();
        format!("<tr><td class=\"word\">{layer} {over}</td>{cells}</tr>")
    };
    let label = shown.label;
    format!(
        "<table><tr><th class=\"word\">{label}</th>{head}</tr>{}</table>\n",
        rows.iter().map(line).collect::<String>()
    )
}
