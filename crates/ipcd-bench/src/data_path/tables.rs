//! The figures of the data path, as tables in Markdown.
//!
//! Rows are printed as soon as they are measured, so an interrupted run has shown its first rows.

use clap::ValueEnum;

use super::RoundResult;
use super::contender::{Via, WorkerMode};
use super::count::WorkerCosts;
use super::load::LoadShape;
use super::options::CoreChoice;
use crate::format::{bytes, si};
use crate::histogram::LatencySummary;
use crate::stats::median;
use crate::text::piped_line;

const GIB: f64 = (1u64 << 30) as f64;

/// Prints the head of a table: `words` columns of text, and figures.
fn print_head(note: &str, words: usize, head: &[&str]) {
    let rule = |column: usize| if column < words { "---" } else { "--:" };
    println!("{note}\n");
    print!("{}", piped_line(head.iter().copied()));
    print!("{}", piped_line((0..head.len()).map(rule)));
}

fn print_row(cells: &[String]) {
    print!("{}", piped_line(cells.iter().map(String::as_str)));
}

pub(super) fn print_load_head() {
    print_head(
        "Messages received/s: median (least–most). CPU: median ns for each, of the server. Ratios: \
         median (least–most) over rounds side by side.",
        2,
        &[
            "cores",
            "via",
            "payload",
            "subscribers",
            "messages",
            "relay",
            "yardstick",
            "ipcd",
            "crossing",
            "yardstick / relay",
            "ipcd / yardstick",
            "ipcd / relay",
            "crossing / ipcd",
            "CPU relay, yardstick, ipcd, crossing",
        ],
    );
}

/// `rounds` is by place in [`super::contender::RelayContender::ALL`].
pub(super) fn print_load_row(
    cores: CoreChoice,
    via: Via,
    load: LoadShape,
    rounds: &[Vec<RoundResult>; 4],
) {
    let messages = load.deliveries() as f64;
    let rates =
        rounds.each_ref().map(|rounds| figures(rounds, |it| messages / it.time.as_secs_f64()));
    let costs = rounds.each_ref().map(|rounds| {
        let costs = figures(rounds, |it| 1e9 * it.cpu.as_secs_f64() / messages);
        if costs.is_empty() { NONE.into() } else { format!("{:.0}", median(costs)) }
    });
    let [relay, yardstick, ipcd, crossing] = &rates;
    let mut cells = vec![option_name(&cores), option_name(&via), bytes(load.payload)];
    cells.extend([load.subscribers.to_string(), load.count.to_string()]);
    cells.extend(rates.iter().map(|rates| spread_text(rates, si)));
    let pairs = [(yardstick, relay), (ipcd, yardstick), (ipcd, relay), (crossing, ipcd)];
    cells.extend(pairs.map(|(above, below)| ratio_text(above, below)));
    cells.push(costs.join(", "));
    print_row(&cells);
}

pub(super) fn print_crowd_head() {
    let head = ["cores", "one subscription", "100,001 subscriptions", "ratio"];
    print_head("Messages/s to 1,000 subjects: median (least–most) over rounds.", 1, &head);
}

pub(super) fn print_crowd_row(cores: CoreChoice, [alone, crowded]: &[Vec<f64>; 2]) {
    print_row(&[
        option_name(&cores),
        spread_text(alone, si),
        spread_text(crowded, si),
        ratio_text(crowded, alone),
    ]);
}

pub(super) fn print_count_head() {
    let head = ["via", "payload", "messages", "allocations", "reads and writes", "calls (strace)"];
    print_head("Costs of the worker for 1,000 messages.", 1, &head);
}

pub(super) fn print_count_row(via: Via, payload: usize, costs: &WorkerCosts) {
    let per_thousand = |count| format!("{:.3}", 1000.0 * costs.per_message(count));
    print_row(&[
        option_name(&via),
        bytes(payload),
        costs.messages.to_string(),
        per_thousand(costs.allocations),
        per_thousand(costs.transfers),
        costs.calls.map_or("no strace".into(), per_thousand),
    ]);
}

pub(super) fn print_connect(modes: &[WorkerMode], rates: &[Vec<f64>]) {
    let note = "Connect, HELLO, WELCOME, close, by two processes at a time: median (least–most).";
    print_head(note, 1, &["mode", "connections/s"]);
    for (mode, rates) in modes.iter().zip(rates) {
        print_row(&[format!("{mode:?}"), spread_text(rates, si)]);
    }
}

pub(super) fn print_trip_head() {
    print_head(
        "Round trip of a request, p50 and p99 in µs: median (least–most) over rounds. Ratios of \
         p50: median (least–most) over rounds side by side.",
        2,
        &[
            "cores",
            "via",
            "payload",
            "yardstick p50",
            "p99",
            "ipcd, lean clients p50",
            "p99",
            "ipcd p50",
            "p99",
            "lean / yardstick",
            "ipcd / yardstick",
        ],
    );
}

/// `trips` is by place in [`super::requests::RequestServer::ALL`].
pub(super) fn print_trip_row(
    cores: CoreChoice,
    via: Via,
    payload: usize,
    trips: &[Vec<LatencySummary>; 3],
) {
    let mut cells = vec![option_name(&cores), option_name(&via), bytes(payload)];
    let times = |trips: &[LatencySummary], name: &str| -> Vec<f64> {
        let told = trips.iter().filter_map(|trips| trips.percentile(name));
        told.map(|nanos| nanos as f64 / 1e3).collect()
    };
    let micros = |micros: f64| format!("{micros:.1}");
    for trips in trips {
        cells.extend(["p50", "p99"].map(|name| spread_text(&times(trips, name), micros)));
    }
    let [yardstick, lean, library] = trips.each_ref().map(|trips| times(trips, "p50"));
    cells.extend([ratio_text(&lean, &yardstick), ratio_text(&library, &yardstick)]);
    print_row(&cells);
}

pub(super) fn print_trip_target() {
    println!("\nWanted at 64 B over unix on one core: ipcd / yardstick at most 1.3.");
}

pub(super) fn print_relay_head() {
    print_head(
        "Bytes through a relay, GiB a second, and processor milliseconds a GiB of the relay. Medians \
         (least–most) over rounds; ratios over rounds side by side.",
        2,
        &[
            "cores",
            "via",
            "written at once",
            "ipcctl relay",
            "socat",
            "socat -b 65536",
            "ipcctl / socat",
            "ipcctl / socat -b 65536",
            "CPU ipcctl, socat, socat -b",
        ],
    );
}

/// `rounds` is by place in [`super::socat::RelayProgram::ALL`].
pub(super) fn print_relay_row(
    cores: CoreChoice,
    via: Via,
    written: usize,
    moved: u64,
    rounds: &[Vec<RoundResult>; 3],
) {
    let gib = moved as f64 / GIB;
    let rates = rounds.each_ref().map(|rounds| figures(rounds, |it| gib / it.time.as_secs_f64()));
    let costs = rounds.each_ref().map(|rounds| {
        format!("{:.0}", median(figures(rounds, |it| 1e3 * it.cpu.as_secs_f64() / gib)))
    });
    let mut cells = vec![option_name(&cores), option_name(&via), bytes(written)];
    cells.extend(rates.iter().map(|rates| spread_text(rates, |rate| format!("{rate:.2}"))));
    let [ours, socat, large] = &rates;
    cells.extend([ratio_text(ours, socat), ratio_text(ours, large), costs.join(", ")]);
    print_row(&cells);
}

pub(super) fn print_relay_target() {
    println!("\nWanted at 64 KiB: ipcctl / socat at least 1.5.");
}

/// Stands for a server that does not exist for the load.
const NONE: &str = "–";

fn figures(rounds: &[RoundResult], figure: impl Fn(&RoundResult) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}

/// The name on the command line.
fn option_name(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value().expect("no choice is hidden");
    value.get_name().to_owned()
}

/// The median, and the least and the most in parentheses.
fn spread_text(figures: &[f64], shown: impl Fn(f64) -> String) -> String {
    if figures.is_empty() {
        return NONE.into();
    }
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{} ({}–{})", shown(median(figures.to_vec())), shown(least), shown(most))
}

/// Of figures that were measured side by side.
fn ratio_text(above: &[f64], below: &[f64]) -> String {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    let shown = spread_text(&ratios, |ratio| format!("{ratio:.2}"));
    shown.split_once(' ').map_or(shown.clone(), |(median, rest)| format!("**{median}** {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_neighbours() {
        assert_eq!(ratio_text(&[1.0, 10.0, 4.0], &[2.0, 20.0, 4.0]), "**0.50** (0.50–1.00)");
        assert_eq!(ratio_text(&[], &[1.0]), NONE);
    }
}
