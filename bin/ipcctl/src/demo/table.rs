//! The demo's result, as a matrix for people.

use super::PairResult;
use crate::output::table;

/// A row for each sender, a column for each receiver, and below them the failures.
pub(super) fn render(cells: &[PairResult]) -> String {
    let mut schemes: Vec<&str> = Vec::new();
    for cell in cells {
        if !schemes.contains(&cell.from.as_str()) {
            schemes.push(&cell.from);
        }
    }
    let shown = |from: &str, to: &str| {
        let found = cells.iter().find(|cell| (cell.from.as_str(), cell.to.as_str()) == (from, to));
        found.map_or("-".into(), cell_text)
    };
    let row = |from: &&str| {
        let first = format!("from {from}");
        std::iter::once(first).chain(schemes.iter().map(|to| shown(from, to))).collect()
    };
    let head: Vec<String> = schemes.iter().map(|to| format!("to {to}")).collect();
    let head: Vec<&str> = std::iter::once("").chain(head.iter().map(String::as_str)).collect();
    let matrix = table(&head, &schemes.iter().map(row).collect::<Vec<_>>());
    format!("{matrix}{}", summary(cells))
}

fn cell_text(cell: &PairResult) -> String {
    let (Some(micros), None) = (cell.round_trip_us, &cell.error) else {
        return "FAILED".into();
    };
    format!("{}, {:.1} MB, {micros:.0} µs", cell.messages, cell.bytes as f64 / 1e6)
}

fn summary(cells: &[PairResult]) -> String {
    let failed: Vec<_> = cells.iter().filter(|cell| cell.error.is_some()).collect();
    if failed.is_empty() {
        let messages: u64 = cells.iter().map(|cell| cell.messages).sum();
        return format!(
            "\nAll {} pairs: {messages} messages delivered in order and unaltered.\n\
             Each cell: messages, bytes, and the median round trip.\n",
            cells.len()
        );
    }
    let line = |cell: &&PairResult| {
        let error = cell.error.as_deref().unwrap_or_default();
        format!("\nFAILED: {} to {}: {error}", cell.from, cell.to)
    };
    failed.iter().map(line).collect::<String>() + "\n"
}
