//! The figures, as a table in Markdown.

use std::time::Duration;

use clap::ValueEnum;

use crate::cores::Cores;
use crate::count::Counted;
use crate::daemon::Mode;
use crate::load::Load;
use crate::round::Took;
use crate::round_trip;
use crate::server::{Server, Via};
use crate::stats::Summary;

/// What all rounds of one load took.
pub(crate) struct Figures {
    load: Load,
    /// Messages received per second, for each server by its place in [`Server::ALL`].
    rates: [Vec<f64>; 4],
    /// Nanoseconds of processor time per message, likewise.
    costs: [Vec<f64>; 4],
}

impl Figures {
    pub(crate) fn new(load: Load) -> Self {
        Self { load, rates: Default::default(), costs: Default::default() }
    }

    pub(crate) fn add(&mut self, server: Server, took: Took) {
        let (place, messages) = (server as usize, self.load.deliveries() as f64);
        self.rates[place].push(messages / took.time.as_secs_f64());
        self.costs[place].push(1e9 * took.cpu.as_secs_f64() / messages);
    }
}

pub(crate) fn print_head() {
    println!("Messages received/s: median (least–most). CPU: median ns for each, of the server.");
    println!("Ratios: median (least–most) over rounds side by side.\n");
    println!(
        "| cores | via | payload | subscribers | messages | relay | yardstick | ipcd | crossing \
         | yardstick / relay | ipcd / yardstick | ipcd / relay | crossing / ipcd \
         | CPU relay, yardstick, ipcd, crossing |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
}

pub(crate) fn print_row(cores: Cores, via: Via, figures: &Figures) {
    let [relay, yardstick, ipcd, crossing] = &figures.rates;
    let rates = figures.rates.each_ref().map(|rates| or_none(rates, rate));
    let cost = |Summary { median, .. }: Summary| format!("{median:.0}");
    let costs = figures.costs.each_ref().map(|costs| or_none(costs, cost));
    println!(
        "| {} | {} | {} B | {} | {} | {} | {} | {} | {} | {} | {} |",
        word(&cores),
        word(&via),
        figures.load.payload,
        figures.load.subscribers,
        figures.load.count,
        rates.join(" | "),
        ratio_or_none(yardstick, relay),
        ratio_or_none(ipcd, yardstick),
        ratio_or_none(ipcd, relay),
        ratio_or_none(crossing, ipcd),
        costs.join(", "),
    );
}

/// A figure, where this server was measured.
fn or_none(values: &[f64], print: impl Fn(Summary) -> String) -> String {
    if values.is_empty() { "–".into() } else { print(Summary::of(values.iter().copied())) }
}

fn ratio_or_none(above: &[f64], below: &[f64]) -> String {
    let is_there = !above.is_empty() && !below.is_empty();
    if is_there { ratio(Summary::of_ratios(above, below)) } else { "–".into() }
}

pub(crate) fn print_crowd(cores: Cores, alone: &[f64], crowded: &[f64]) {
    println!("| cores | one subscription | 100,001 subscriptions | ratio |");
    println!("|---|--:|--:|--:|");
    let rates = [alone, crowded].map(|rates| rate(Summary::of(rates.iter().copied())));
    let ratio = ratio(Summary::of_ratios(crowded, alone));
    println!("| {} | {} | {ratio} |", word(&cores), rates.join(" | "));
}

pub(crate) fn print_count_head() {
    println!("What the worker spends on 1,000 messages.\n");
    println!("| via | payload | messages | allocations | reads and writes | calls (strace) |");
    println!("|---|--:|--:|--:|--:|--:|");
}

pub(crate) fn print_count_row(via: Via, payload: usize, counted: &Counted) {
    let per_thousand = |count| format!("{:.3}", 1000.0 * counted.per_message(count));
    println!(
        "| {} | {payload} B | {} | {} | {} | {} |",
        word(&via),
        counted.messages,
        per_thousand(counted.allocations),
        per_thousand(counted.transfers),
        counted.calls.map_or("no strace".into(), per_thousand),
    );
}

pub(crate) fn print_connect_head() {
    println!("Connect, HELLO, WELCOME, close, by two processes at a time: median (least–most).\n");
    println!("| mode | connections/s |");
    println!("|---|--:|");
}

pub(crate) fn print_connect_row(mode: Mode, connects: Summary) {
    println!("| {mode:?} | {} |", rate(connects));
}

pub(crate) fn print_trip_head() {
    println!("Round trip of a request, p50 and p99 in µs: median (least–most) over rounds.");
    println!("Ratios of p50: median (least–most) over rounds side by side.\n");
    println!(
        "| cores | via | payload | yardstick p50 | p99 | ipcd, lean clients p50 | p99 | ipcd p50 \
         | p99 | lean / yardstick | ipcd / yardstick |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
}

/// `took` is by place in [`round_trip::Way::ALL`].
pub(crate) fn print_trip_row(
    cores: Cores,
    via: Via,
    payload: usize,
    took: &[Vec<round_trip::Took>; 3],
) {
    let p50 = took.each_ref().map(|took| micros(took, |took| took.p50));
    let p99 = took.each_ref().map(|took| micros(took, |took| took.p99));
    let times = p50.iter().zip(&p99).flat_map(|(p50, p99)| [time(p50), time(p99)]);
    let [yardstick, lean, library] = &p50;
    println!(
        "| {} | {} | {payload} B | {} | {} | {} |",
        word(&cores),
        word(&via),
        times.collect::<Vec<_>>().join(" | "),
        ratio(Summary::of_ratios(lean, yardstick)),
        ratio(Summary::of_ratios(library, yardstick)),
    );
}

pub(crate) fn print_trip_targets() {
    println!("\nWanted at 64 B over unix on one core: ipcd / yardstick at most 1.3.");
}

pub(crate) fn print_relay_head() {
    println!("Bytes through a relay, GiB a second, and processor milliseconds a GiB of the relay.");
    println!("Medians (least–most) over rounds; ratios over rounds side by side.\n");
    println!(
        "| cores | via | written at once | ipcctl relay | socat | socat -b 65536 | ipcctl / socat \
         | ipcctl / socat -b 65536 | CPU ipcctl, socat, socat -b |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|---|");
}

/// Figures are by place in [`relaying::Program::ALL`].
pub(crate) fn print_relay_row(
    cores: Cores,
    via: Via,
    written: usize,
    rates: &[Vec<f64>; 3],
    costs: &[Vec<f64>; 3],
) {
    let shown = rates.each_ref().map(|rates| {
        let Summary { median, least, most } = Summary::of(rates.iter().copied());
        format!("{median:.2} ({least:.2}–{most:.2})")
    });
    let costs = costs.each_ref().map(|costs| Summary::of(costs.iter().copied()).median);
    let [ours, socat, large] = rates;
    println!(
        "| {} | {} | {written} B | {} | {} | {} | {:.0}, {:.0}, {:.0} |",
        word(&cores),
        word(&via),
        shown.join(" | "),
        ratio(Summary::of_ratios(ours, socat)),
        ratio(Summary::of_ratios(ours, large)),
        costs[0],
        costs[1],
        costs[2],
    );
}

pub(crate) fn print_relay_targets() {
    println!("\nWanted at 64 KiB: ipcctl / socat at least 1.5.");
}

fn micros(took: &[round_trip::Took], which: impl Fn(&round_trip::Took) -> Duration) -> Vec<f64> {
    took.iter().map(|took| 1e6 * which(took).as_secs_f64()).collect()
}

/// What it is called on the command line.
fn word(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value().expect("no choice is hidden");
    value.get_name().to_owned()
}

fn rate(Summary { median, least, most }: Summary) -> String {
    let (unit, letter) = if median >= 1e6 { (1e6, "M") } else { (1e3, "k") };
    format!("{:.2} {letter} ({:.2}–{:.2})", median / unit, least / unit, most / unit)
}

fn time(micros: &[f64]) -> String {
    let Summary { median, least, most } = Summary::of(micros.iter().copied());
    format!("{median:.1} ({least:.1}–{most:.1})")
}

fn ratio(Summary { median, least, most }: Summary) -> String {
    format!("**{median:.2}** ({least:.2}–{most:.2})")
}
