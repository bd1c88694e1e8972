//! The report as tables, for any output format.

use crate::compare::{Comparison, FigureChange};
use crate::format::{bytes, layer_name, mode_name, si, time};
use crate::histogram::{LatencySummary, PERCENTILES};
use crate::plan::MeasureMode;
use crate::report::{MeasurementKey, Report, ResultRow};
use crate::stats::Estimate;
use crate::tally::MessageCounts;
use crate::usage::ResourceUsage;

/// Rows of text under a title.
#[derive(Clone, Debug)]
pub struct Table {
    /// The title.
    pub title: String,
    /// A note on how to read it.
    pub note: String,
    /// The heads of the columns.
    pub head: Vec<&'static str>,
    /// The number of leading columns with words; the others hold figures.
    pub words: usize,
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// One for each row, of which bars are drawn; empty for none.
    pub bars: Vec<f64>,
}

impl Table {
    /// Whether any row says something in this column.
    pub(crate) fn is_used(&self, column: usize) -> bool {
        self.rows.iter().any(|row| !row[column].is_empty())
    }
}

/// One for each mode, and the daemon tax.
pub fn tables(report: &Report) -> Vec<Table> {
    let of_mode = |mode: &MeasureMode| {
        let rows: Vec<&ResultRow> =
            report.results.iter().filter(|row| row.key.mode == *mode).collect();
        (!rows.is_empty()).then(|| match mode {
            MeasureMode::Pingpong | MeasureMode::Req => latency_table(*mode, &rows),
            MeasureMode::Throughput | MeasureMode::Fanout => rate_table(*mode, &rows),
            MeasureMode::Load => load_table(&rows),
        })
    };
    let (taxes, comparison) = (tax_table(report), report.comparison.as_ref().map(change_table));
    MeasureMode::ALL.iter().filter_map(of_mode).chain(taxes).chain(comparison).collect()
}

fn latency_table(mode: MeasureMode, rows: &[&ResultRow]) -> Table {
    let (title, note) = match mode {
        MeasureMode::Req => (
            "Requests through the daemon",
            "Requests and replies, one after the other. The first figure is the median of the runs \
             with its 95 % interval; the others are of all runs together. A percentile with fewer \
             than 10 samples beyond it is left out.",
        ),
        _ => (
            "Round trips",
            "Round trips, one after the other. The clock starts before the first byte is written. \
             Compare only rows of the same cores. The first figure is the median of the runs with \
             its 95 % interval; the others are of all runs together. A percentile with fewer than 10 \
             samples beyond it is left out.",
        ),
    };
    let cells = |row: &&ResultRow| {
        let mut cells =
            vec![row.key.cores.clone(), layer_cell(row), row.key.transport.clone(), size_cell(row)];
        cells.push(median(row));
        let latency = row.latency.clone().unwrap_or_default();
        cells.extend(distribution_cells(&latency));
        cells.extend(fault_cells(row));
        cells.extend(cpu_cells(row));
        cells
    };
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| (row.key.size, row.key.cores.clone()));
    Table {
        title: title.into(),
        note: note.into(),
        head: [&["cores", "layer", "over", "size"][..], &DISTRIBUTION, &FAULTS, &CPU].concat(),
        words: 3,
        bars: rows.iter().map(|row| row.figure().map_or(0.0, |it| it.median)).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}

/// The columns of a distribution, behind the median of its runs.
const DISTRIBUTION: [&str; 11] =
    ["p50 of runs", "min", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max", "mean", "σ"];

/// The columns of message faults, and of processor time for each message.
const FAULTS: [&str; 4] = ["lost", "duplicated", "reordered", "corrupted"];
const CPU: [&str; 2] = ["CPU clients", "CPU server"];

fn load_table(rows: &[&ResultRow]) -> Table {
    let cells = |row: &&ResultRow| {
        let service = row.service.clone().unwrap_or_default();
        let mut cells = vec![layer_cell(row), row.key.transport.clone(), size_cell(row)];
        cells.push(row.key.rate.clone().unwrap_or_default());
        let mark = if row.saturated { " saturated" } else { "" };
        cells.push(format!("{}{mark}", si(row.messages_per_s.median)));
        cells.push(median(row));
        cells.extend(distribution_cells(&row.latency.clone().unwrap_or_default()));
        cells.push(percentile_cell(&service, "p50"));
        cells.push(percentile_cell(&service, "p99"));
        cells.extend(fault_cells(row));
        cells.extend(cpu_cells(row));
        cells
    };
    Table {
        title: "Latency at a given rate, one way".into(),
        note: format!(
            "The sender follows its schedule and waits for no reply (open loop). Response time counts \
             from the scheduled time of a message, service time from the time at which it was sent. Saturated: less than \
             99 % of the rate was achieved. {}.",
            placement_note(rows)
        ),
        head: [
            &["layer", "over", "size", "rate", "achieved"][..],
            &DISTRIBUTION,
            &["service p50", "service p99"],
            &FAULTS,
            &CPU,
        ]
        .concat(),
        words: 2,
        bars: rows.iter().map(|row| row.figure().map_or(0.0, |it| it.median)).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}

fn rate_table(mode: MeasureMode, rows: &[&ResultRow]) -> Table {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.key.size);
    let cells = |row: &&ResultRow| {
        let per_s = &row.messages_per_s;
        let mut cells = vec![
            layer_cell(row),
            row.key.transport.clone(),
            size_cell(row),
            si(per_s.median),
            format!("{}–{}", si(per_s.low), si(per_s.high)),
            si(row.bytes_per_s.median),
            si(row.sent_per_s.median),
            si(row.sent_bytes_per_s.median),
        ];
        cells.extend(fault_cells(row));
        cells.extend(cpu_cells(row));
        cells.extend([
            si(row.clients_used.switches() as f64),
            row.daemon.map(|used| si(used.switches() as f64)).unwrap_or_default(),
            si(row.clients_used.peak_bytes as f64),
            row.daemon.map(|used| si(used.peak_bytes as f64)).unwrap_or_default(),
        ]);
        cells
    };
    let (title, what) = match mode {
        MeasureMode::Fanout => ("Fan-out", "Deliveries a second, counted by the receivers"),
        _ => ("Throughput, one way", "Counted by the receiver"),
    };
    Table {
        title: title.into(),
        note: format!(
            "{what}, which reads every byte. Streams gather messages into one call; transports that keep \
             message boundaries need a call for each. CPU: processor time of all clients, and of the \
             server, for each received message. Memory: the peak of the largest process, in bytes. {}.",
            placement_note(&rows)
        ),
        head: vec![
            "layer",
            "over",
            "size",
            "received/s",
            "95 % interval",
            "bytes/s",
            "sent/s",
            "bytes sent/s",
            "lost",
            "duplicated",
            "reordered",
            "corrupted",
            "CPU clients",
            "CPU server",
            "switches",
            "of server",
            "memory",
            "of server",
        ],
        words: 2,
        bars: rows.iter().map(|row| row.bytes_per_s.median).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}

/// Message faults: lost, twice, out of turn, changed.
fn fault_cells(row: &ResultRow) -> [String; 4] {
    let MessageCounts { duplicated, reordered, corrupted, .. } = row.counts;
    let shown = |count: u64| if count > 0 { count.to_string() } else { String::new() };
    [lost_cell(row), shown(duplicated), shown(reordered), shown(corrupted)]
}

/// Time on a core for each message received, of the clients and of a server.
fn cpu_cells(row: &ResultRow) -> [String; 2] {
    let each = |used: &ResourceUsage| {
        time((used.user_ns + used.system_ns) as f64 / row.counts.received.max(1) as f64)
    };
    [each(&row.clients_used), row.daemon.as_ref().map(each).unwrap_or_default()]
}

fn tax_table(report: &Report) -> Option<Table> {
    let rows: Vec<Vec<String>> = report
        .results
        .iter()
        .filter_map(|row| Some((row, report.daemon_tax(row)?)))
        .map(|(row, tax)| {
            let is_latency = row.key.mode.has_latency();
            let shown = |value: f64| if is_latency { time(value) } else { si(value) };
            let rate = row.key.rate.as_ref().map(|rate| format!(" {rate}/s")).unwrap_or_default();
            let more = tax.daemon - tax.raw;
            vec![
                format!("{}{rate}", mode_name(row.key.mode)),
                row.key.transport.clone(),
                row.key.cores.clone(),
                size_cell(row),
                shown(tax.raw),
                shown(tax.daemon),
                format!("{}{}", if more < 0.0 { "−" } else { "+" }, shown(more.abs())),
                format!("{:.2} ×", tax.ratio),
            ]
        })
        .collect();
    (!rows.is_empty()).then(|| Table {
        title: "Daemon tax".into(),
        note: "What ipcd adds to the bare primitive under it: median times, or messages a second. \
               Requests are compared with bare round trips. A daemon relays, so every message is \
               moved twice."
            .into(),
        head: vec!["mode", "over", "cores", "size", "raw", "daemon", "difference", "ratio"],
        words: 3,
        rows,
        bars: Vec::new(),
    })
}

/// The figure that says most of each measurement, and all others that have changed.
fn change_table(comparison: &Comparison) -> Table {
    let says_most = |change: &&FigureChange| {
        let figure = if change.key.mode.has_latency() { "p50" } else { "rate" };
        change.metric == figure || (change.is_judged && change.is_real())
    };
    let cells = |change: &FigureChange| {
        let MeasurementKey { mode, layer, transport, cores, size, rate, .. } = &change.key;
        let rate = rate.as_ref().map(|rate| format!(" {rate}/s")).unwrap_or_default();
        let beside = match (change.is_judged, change.is_relative) {
            (false, _) => "the machine itself",
            (true, true) => "the bare primitive",
            (true, false) => "nothing",
        };
        vec![
            format!("{}{rate}", mode_name(*mode)),
            layer_name(*layer).to_owned(),
            transport.clone(),
            cores.clone(),
            bytes(*size),
            change.metric.clone(),
            change.shown(change.then),
            change.shown(change.now),
            change.interval(),
            beside.to_owned(),
            change.verdict().to_owned(),
        ]
    };
    Table {
        title: format!("Compared with {}", comparison.with),
        note: "The level of the best tenth of the runs, then and now, and the change of its ratio to the \
               bare primitive of the same turns. The interval holds for all figures of a kind together \
               (95 %, by resampling runs). The bare primitives show the change of the machine itself."
            .into(),
        head: vec![
            "mode", "layer", "over", "cores", "size", "figure", "then", "now", "change", "beside",
            "verdict",
        ],
        words: 4,
        rows: comparison.changes.iter().filter(says_most).map(cells).collect(),
        bars: Vec::new(),
    }
}

fn distribution_cells(latency: &LatencySummary) -> Vec<String> {
    let mut cells = vec![time(latency.min as f64)];
    cells.extend(PERCENTILES.iter().map(|(name, _)| percentile_cell(latency, name)));
    cells.extend([latency.max, latency.mean, latency.stdev].map(|value| time(value as f64)));
    cells
}

fn percentile_cell(latency: &LatencySummary, name: &str) -> String {
    latency.percentile(name).map(|value| time(value as f64)).unwrap_or_default()
}

fn median(row: &ResultRow) -> String {
    let shown = |it: &Estimate| format!("{} ({}–{})", time(it.median), time(it.low), time(it.high));
    row.latency_runs.get("p50").map(shown).unwrap_or_default()
}

fn lost_cell(row: &ResultRow) -> String {
    match row.counts.lost {
        0 => "0".into(),
        lost => format!("{:.2} %", 100.0 * lost as f64 / row.counts.sent.max(1) as f64),
    }
}

fn layer_cell(row: &ResultRow) -> String {
    layer_name(row.key.layer).to_owned()
}

/// The placement that all of these rows share.
fn placement_note(rows: &[&ResultRow]) -> String {
    let mut places: Vec<&str> = rows.iter().map(|row| row.key.cores.as_str()).collect();
    places.dedup();
    format!("Sender and receiver: {}", places.join(", "))
}

fn size_cell(row: &ResultRow) -> String {
    bytes(row.key.size)
}
