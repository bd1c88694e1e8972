//! The report as one page: charts, each with its numbers in a table, and nothing from elsewhere.

mod chart;
mod timeline;

use std::collections::BTreeSet;

use chart::{AxisScale, Chart, ChartAxis, ChartSeries, escaped};

use crate::format::{bytes, si, time};
use crate::histogram::from_text;
use crate::plan::{MeasureLayer, MeasureMode};
use crate::report::{Report, ResultRow};
use crate::tables::{Table, tables};
use crate::text::{environment, remarks};

/// Points of a percentile curve for each factor of ten.
const POINTS: usize = 12;
/// Colours of the page, beyond which they come again.
const COLOURS: usize = 9;
/// The group that is not divided by transport.
const REQUESTS: &str = "requests";
/// The group of other servers.
const PEERS: &str = "other servers";
/// The group of primitives without a transport of ipcd.
const PRIMITIVES: &str = "bare primitives";

/// The whole page.
pub fn html(report: &Report) -> String {
    let tables = tables(report);
    let mut sections = Vec::new();
    for table in &tables {
        let charts = match table.title.as_str() {
            "Round trips" => percentile_charts(report, MeasureMode::Pingpong),
            "Requests through the daemon" => percentile_charts(report, MeasureMode::Req),
            "Throughput, one way" => size_charts(report),
            "Latency at a given rate, one way" => rate_charts(report),
            "Daemon tax" => vec![tax_bars(report)],
            _ => Vec::new(),
        };
        sections.push(section(&table.title, &table.note, &charts, &numbers(table), true));
    }
    sections.extend(timeline::sections(report));
    let remarks: String =
        remarks(report).iter().map(|remark| format!("<li>{}</li>", escaped(remark))).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>ipcd bench</title>\
         <style>{}</style></head>\n<body><h1>ipcd bench</h1>\n<p>Local IPC and network sockets: the \
         bare primitives (raw), the transports of ipcd without a daemon (lib), and through ipcd \
         (daemon).</p>\n<dl>{}</dl>\n{}\n<h2>Remarks</h2><ul>{remarks}</ul></body></html>\n",
        include_str!("style.css"),
        environment_list(report),
        sections.concat(),
    )
}

fn environment_list(report: &Report) -> String {
    let entry = |(name, is): &(&str, String)| format!("<dt>{name}</dt><dd>{}</dd>", escaped(is));
    environment(report).iter().map(entry).collect()
}

fn section(title: &str, note: &str, charts: &[String], numbers: &str, is_open: bool) -> String {
    let open = if is_open { " open" } else { "" };
    let charts = match charts.concat() {
        charts if charts.is_empty() => charts,
        charts => format!("<div class=\"charts\">{charts}</div>"),
    };
    format!(
        "<section><h2>{}</h2><p>{}</p>{charts}<details{open}><summary>Numbers</summary>\
         <div class=\"scroll\">{numbers}</div></details></section>\n",
        escaped(title),
        escaped(note)
    )
}

fn numbers(table: &Table) -> String {
    let class = |column: usize| if column < table.words { " class=\"word\"" } else { "" };
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let used = |(column, _): &(usize, &str)| table.is_used(*column);
        let cell = |(column, cell)| format!("<{tag}{}>{}</{tag}>", class(column), escaped(cell));
        format!("<tr>{}</tr>", cells.enumerate().filter(used).map(cell).collect::<String>())
    };
    let head = cells("th", &mut table.head.iter().copied());
    let rows = table.rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str)));
    format!("<table>{head}{}</table>\n", rows.collect::<String>())
}

/// The transports of ipcd that were measured, one chart each, and the other primitives in one.
fn groups<'r>(rows: &[&'r ResultRow]) -> Vec<(String, Vec<&'r ResultRow>)> {
    let is_ours = |layer| matches!(layer, MeasureLayer::Lib | MeasureLayer::Daemon);
    let has_siblings =
        |name: &str| rows.iter().any(|row| row.key.transport == name && is_ours(row.key.layer));
    let mut names: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| has_siblings(&row.key.transport)) {
        if !names.contains(&row.key.transport.as_str()) {
            names.push(&row.key.transport);
        }
    }
    let of = |name: &&str| {
        let mine = rows.iter().copied().filter(|row| row.key.transport == **name);
        ((*name).to_owned(), mine.collect())
    };
    let mut groups: Vec<_> = names.iter().map(of).collect();
    let others = rows.iter().copied().filter(|row| !has_siblings(&row.key.transport));
    let (peers, primitives): (Vec<&ResultRow>, _) =
        others.partition(|row| row.key.layer == MeasureLayer::Peer);
    groups.push((PRIMITIVES.to_owned(), primitives));
    groups.push((PEERS.to_owned(), peers));
    groups.retain(|(_, rows)| !rows.is_empty());
    groups
}

/// One colour for each layer, or for each way where all are of one layer.
fn series(index: usize, row: &ResultRow, group: &str) -> (String, usize) {
    match row.key.layer {
        _ if group == REQUESTS => (row.key.transport.clone(), index % COLOURS),
        MeasureLayer::Raw if group == PRIMITIVES => (row.key.transport.clone(), index % COLOURS),
        MeasureLayer::Raw => ("raw".to_owned(), 0),
        MeasureLayer::Lib => ("lib".to_owned(), 1),
        MeasureLayer::Daemon => ("daemon".to_owned(), 2),
        MeasureLayer::Peer => (row.key.transport.clone(), index % COLOURS),
    }
}

fn percentile_charts(report: &Report, mode: MeasureMode) -> Vec<String> {
    let of_mode: Vec<&ResultRow> =
        report.results.iter().filter(|row| row.key.mode == mode).collect();
    let kinds: BTreeSet<(usize, &str)> =
        of_mode.iter().map(|row| (row.key.size, row.key.cores.as_str())).collect();
    // Signals carry nothing, and are shown with the smallest messages.
    let least = kinds.iter().map(|(size, _)| *size).find(|&size| size > 0);
    let shown = |row: &ResultRow| if row.key.size == 0 { least.unwrap_or(0) } else { row.key.size };
    let mut charts = Vec::new();
    for (size, cores) in kinds {
        let is_of = |row: &&ResultRow| shown(row) == size && row.key.cores == cores;
        let rows: Vec<&ResultRow> = of_mode.iter().copied().filter(is_of).collect();
        let groups = match mode {
            MeasureMode::Req => vec![(REQUESTS.to_owned(), rows)],
            _ => groups(&rows),
        };
        for (group, rows) in groups {
            let line = |(index, row): (usize, &&ResultRow)| {
                let (name, colour) = series(index, row, &group);
                let points = latency_curve(row);
                ChartSeries { name, colour, is_dashed: false, points, has_dots: false }
            };
            charts.push(Chart {
                title: format!("{group}, {}, {cores}", bytes(size)),
                x: ChartAxis { label: "percentile", scale: AxisScale::Nines, shown: percent },
                y: ChartAxis { label: "time", scale: AxisScale::Log, shown: time },
                series: rows.iter().enumerate().map(line).collect(),
            });
        }
    }
    charts.iter().map(Chart::render).collect()
}

/// A latency curve, as far as ten samples lie beyond.
fn latency_curve(row: &ResultRow) -> Vec<(f64, f64)> {
    let Some(latency) = &row.latency else { return Vec::new() };
    let Ok(histogram) = from_text(&latency.hdr) else { return Vec::new() };
    let decades = (latency.count as f64 / 10.0).log10().max(0.0);
    let steps = (decades * POINTS as f64) as usize;
    let quantile = |step: usize| 1.0 - 10f64.powf(-(step as f64) / POINTS as f64);
    (0..=steps)
        .map(quantile)
        .map(|quantile| (quantile, histogram.value_at_quantile(quantile) as f64))
        .collect()
}

fn percent(quantile: f64) -> String {
    let text = format!("{:.4}", quantile * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn size_charts(report: &Report) -> Vec<String> {
    let rows: Vec<&ResultRow> =
        report.results.iter().filter(|row| row.key.mode == MeasureMode::Throughput).collect();
    let chart = |(group, rows): (String, Vec<&ResultRow>)| {
        let figure = |row: &ResultRow| (row.key.size as f64, row.bytes_per_s.median);
        Chart {
            title: format!("{group}, {}", rows[0].key.cores),
            x: ChartAxis { label: "message size", scale: AxisScale::Steps, shown: size },
            y: ChartAxis { label: "bytes a second", scale: AxisScale::Log, shown: si },
            series: lines(&rows, &group, &[("", false, &figure)]),
        }
        .render()
    };
    groups(&rows).into_iter().map(chart).collect()
}

fn size(size: f64) -> String {
    bytes(size as usize)
}

fn rate_charts(report: &Report) -> Vec<String> {
    let is_at_a_rate = |row: &&ResultRow| {
        row.key.mode == MeasureMode::Load && row.key.rate.as_deref() != Some("max")
    };
    let rows: Vec<&ResultRow> = report.results.iter().filter(is_at_a_rate).collect();
    let chart = |(group, rows): (String, Vec<&ResultRow>)| {
        let at = |row: &ResultRow, name: &str| {
            let rate = row.pace.and_then(|pace| pace.rate).unwrap_or(f64::NAN);
            let latency = row.latency.as_ref().and_then(|it| it.percentile(name));
            (rate, latency.map_or(f64::NAN, |value| value as f64))
        };
        let (p50, p99) = (|row: &ResultRow| at(row, "p50"), |row: &ResultRow| at(row, "p99"));
        Chart {
            title: format!("{group}, {}", rows[0].key.cores),
            x: ChartAxis {
                label: "messages a second asked for",
                scale: AxisScale::Steps,
                shown: si,
            },
            y: ChartAxis { label: "response time", scale: AxisScale::Log, shown: time },
            series: lines(&rows, &group, &[(" p50", false, &p50), (" p99", true, &p99)]),
        }
        .render()
    };
    groups(&rows).into_iter().map(chart).collect()
}

/// A drawn figure of each row: the ending of its name, whether the line is dashed, and the value.
type DrawnFigure<'f> = (&'static str, bool, &'f dyn Fn(&ResultRow) -> (f64, f64));

/// Lines through rows that differ in one thing only.
fn lines(rows: &[&ResultRow], group: &str, figures: &[DrawnFigure<'_>]) -> Vec<ChartSeries> {
    let mut all: Vec<ChartSeries> = Vec::new();
    let mut names: Vec<(MeasureLayer, &str)> = Vec::new();
    for row in rows {
        let name = (row.key.layer, row.key.transport.as_str());
        let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        let (name, colour) = series(index, row, group);
        for (ending, is_dashed, figure) in figures {
            let (name, point) = (name.clone() + ending, figure(row));
            if !(point.0.is_finite() && point.1.is_finite()) {
                continue;
            }
            match all.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => all.push(ChartSeries {
                    name,
                    colour,
                    is_dashed: *is_dashed,
                    points: vec![point],
                    has_dots: true,
                }),
            }
        }
    }
    all
}

/// Round trips only: a pair of bars for each transport.
fn tax_bars(report: &Report) -> String {
    let taxed: Vec<_> = report
        .results
        .iter()
        .filter(|row| row.key.mode == MeasureMode::Pingpong)
        .filter_map(|row| Some((row, report.daemon_tax(row)?)))
        .collect();
    let most = taxed.iter().map(|(_, tax)| tax.daemon.max(tax.raw)).fold(0.0, f64::max);
    let bar = |what: &str, colour: usize, value: f64| {
        let (percent, shown) = (100.0 * value / most, time(value));
        format!(
            "<span class=\"word\">{}</span><div class=\"bar b{colour}\" style=\"width:{percent:.1}%\">\
             </div><span>{shown}</span>",
            escaped(what)
        )
    };
    let pair = |(row, tax): &(&ResultRow, crate::DaemonTax)| {
        let what = format!("{} {}, {}", row.key.transport, bytes(row.key.size), row.key.cores);
        bar(&format!("{what}, raw"), 0, tax.raw) + &bar(&format!("{what}, daemon"), 2, tax.daemon)
    };
    match taxed.is_empty() {
        true => String::new(),
        false => format!(
            "<figure class=\"wide\"><figcaption>Round trip, median</figcaption><div class=\"bars\">{}</div></figure>",
            taxed.iter().map(pair).collect::<String>()
        ),
    }
}
