//! One line for each measurement, for spreadsheets (RFC 4180).

use crate::format::{layer_name, mode_name};
use crate::histogram::PERCENTILES;
use crate::report::{Report, ResultRow};

/// The whole report; times in ns.
pub fn csv(report: &Report) -> String {
    let mut head: Vec<String> = [
        "mode",
        "layer",
        "transport",
        "size",
        "clients",
        "subs",
        "cores",
        "rate",
        "messages_per_s",
        "messages_per_s_low",
        "messages_per_s_high",
        "bytes_per_s",
        "sent_per_s",
        "saturated",
        "samples",
        "min",
        "mean",
        "stdev",
        "max",
    ]
    .map(str::to_owned)
    .to_vec();
    head.extend(PERCENTILES.iter().map(|(name, _)| (*name).to_owned()));
    head.extend(
        ["sent", "received", "lost", "duplicated", "reordered", "corrupted"].map(str::to_owned),
    );
    head.extend(
        [
            "client_cpu",
            "daemon_cpu",
            "client_switches",
            "daemon_switches",
            "client_peak_bytes",
            "daemon_peak_bytes",
            "sent_bytes_per_s",
            "service_p50",
            "service_p99",
        ]
        .map(str::to_owned),
    );
    let lines = std::iter::once(head).chain(report.results.iter().map(line));
    lines
        .map(|cells| cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\r\n")
        .collect()
}

fn line(row: &ResultRow) -> Vec<String> {
    let key = &row.key;
    let per_s = &row.messages_per_s;
    let mut cells = vec![
        mode_name(key.mode).to_owned(),
        layer_name(key.layer).to_owned(),
        key.transport.clone(),
        key.size.to_string(),
        key.clients.to_string(),
        key.subs.to_string(),
        key.cores.clone(),
        key.rate.clone().unwrap_or_default(),
    ];
    let rates =
        [per_s.median, per_s.low, per_s.high, row.bytes_per_s.median, row.sent_per_s.median];
    cells.extend(rates.map(|rate| format!("{rate:.1}")));
    cells.push(row.saturated.to_string());
    let latency = row.latency.as_ref();
    let time = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    cells.push(time(latency.map(|it| it.count)));
    cells.push(time(latency.map(|it| it.min)));
    cells.push(time(latency.map(|it| it.mean)));
    cells.push(time(latency.map(|it| it.stdev)));
    cells.push(time(latency.map(|it| it.max)));
    cells.extend(
        PERCENTILES.iter().map(|(name, _)| time(latency.and_then(|it| it.percentile(name)))),
    );
    let counts = &row.counts;
    let counts = [
        counts.sent,
        counts.received,
        counts.lost,
        counts.duplicated,
        counts.reordered,
        counts.corrupted,
    ];
    cells.extend(counts.map(|count| count.to_string()));
    cells.push((row.clients_used.user_ns + row.clients_used.system_ns).to_string());
    cells.push(time(row.daemon.map(|used| used.user_ns + used.system_ns)));
    cells.push(row.clients_used.switches().to_string());
    cells.push(time(row.daemon.map(|used| used.switches())));
    cells.push(row.clients_used.peak_bytes.to_string());
    cells.push(time(row.daemon.map(|used| used.peak_bytes)));
    cells.push(format!("{:.1}", row.sent_bytes_per_s.median));
    let service = |name| row.service.as_ref().and_then(|it| it.percentile(name));
    cells.extend([time(service("p50")), time(service("p99"))]);
    cells
}

fn quoted(cell: &str) -> String {
    match cell.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}
