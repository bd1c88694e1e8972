//! Tables as text: aligned with bars for a terminal, and as Markdown.

use crate::format::{bytes, layer_name, mode_name};
use crate::plan::RunExtent;
use crate::report::Report;
use crate::tables::{Table, tables};

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;
/// Characters of the longest bar.
const BAR: usize = 24;
/// Characters of a line of prose.
const PROSE: usize = 100;

/// Aligned tables with bars.
pub fn terminal(report: &Report) -> String {
    let mut text = String::new();
    for table in tables(report) {
        text += &format!("\n{}\n{}\n", table.title.to_uppercase(), wrapped(&table.note));
        text += &aligned_table(&table);
    }
    text += &remarks(report).iter().map(|remark| format!("{remark}\n")).collect::<String>();
    text
}

/// The same for a document.
pub fn markdown(report: &Report) -> String {
    let mut text = String::from("# ipcd bench\n\n");
    text += &environment(report)
        .iter()
        .map(|(name, is)| format!("- {name}: {is}\n"))
        .collect::<String>();
    for table in tables(report) {
        text += &format!("\n## {}\n{}\n\n{}", table.title, table.note, piped_table(&table));
    }
    text += "\n## Remarks\n";
    text += &remarks(report).iter().map(|remark| format!("- {remark}\n")).collect::<String>();
    text
}

fn piped_table(table: &Table) -> String {
    let columns: Vec<usize> = (0..table.head.len()).filter(|&it| table.is_used(it)).collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells: Vec<String> = columns.iter().map(|&column| cell(column)).collect();
        piped_line(cells.iter().map(String::as_str))
    };
    let rule = |column: usize| if column < table.words { "---" } else { "--:" }.to_owned();
    let head = line(&|column| table.head[column].to_owned()) + &line(&rule);
    head + &table.rows.iter().map(|row| line(&|column| row[column].clone())).collect::<String>()
}

/// A line of a table in Markdown.
pub(crate) fn piped_line<'c>(cells: impl IntoIterator<Item = &'c str>) -> String {
    let cells: Vec<&str> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The environment, as names and values.
pub(crate) fn environment(report: &Report) -> Vec<(&'static str, String)> {
    let env = &report.environment;
    let limits: Vec<String> = env.limits.iter().map(|(name, is)| format!("{name} {is}")).collect();
    let cores: Vec<String> = env.cores.iter().map(usize::to_string).collect();
    let unknown = || "not told".to_owned();
    vec![
        ("ipcd", format!("{}, commit {}, {}", env.version, env.commit, env.profile)),
        ("kernel", env.kernel.clone()),
        ("system", env.system.clone().unwrap_or_else(unknown)),
        (
            "processor",
            format!(
                "{}, cores {}{}{}",
                env.cpu,
                cores.join(", "),
                if env.is_virtual { ", virtual" } else { "" },
                if env.has_smt == Some(true) { ", with simultaneous multithreading" } else { "" }
            ),
        ),
        ("mitigations", env.mitigations.join(", ")),
        ("memory", format!("{:.1} GiB", env.memory_bytes as f64 / GIB)),
        ("governor", env.governor.clone().unwrap_or_else(unknown)),
        ("load before", env.load_average.map_or_else(unknown, |load| load.to_string())),
        (
            "clock",
            format!(
                "{}, resolution {} ns, smallest step {} ns, {} ns a reading",
                env.clock_source.clone().unwrap_or_else(unknown),
                env.clock_resolution_ns,
                env.clock_step_ns,
                env.clock_cost_ns
            ),
        ),
        ("runs", runs(report)),
        ("limits", limits.join(", ")),
        ("command", env.argv.join(" ")),
    ]
}

fn runs(report: &Report) -> String {
    let run = &report.run;
    let extent = match run.extent {
        RunExtent::Time(time) => format!("{time:.0?}"),
        RunExtent::Count(count) => format!("{count} messages"),
    };
    let warmup = std::time::Duration::from_nanos(run.warmup_ns);
    let order = if run.interleaved { "taking turns" } else { "one measurement after the other" };
    format!("{} of {extent} each after {warmup:.0?} of warm-up, {order}", run.runs)
}

/// All warnings, and the measurements that were not possible.
pub(crate) fn remarks(report: &Report) -> Vec<String> {
    let general = report.warnings.iter().cloned();
    let rows = report
        .results
        .iter()
        .flat_map(|row| row.warnings.iter().map(|warning| format!("{}: {warning}", row.key)));
    let skipped = report.skipped.iter().map(|it| {
        let (mode, layer) = (mode_name(it.mode), layer_name(it.layer));
        format!("not measured: {mode} {layer} {} {}: {}", it.transport, bytes(it.size), it.why)
    });
    general.chain(rows).chain(skipped).collect()
}

fn aligned_table(table: &Table) -> String {
    let columns: Vec<usize> =
        (0..table.head.len()).filter(|&column| table.is_used(column)).collect();
    let widths: Vec<usize> = columns
        .iter()
        .map(|&column| {
            let cells = table.rows.iter().map(|row| row[column].chars().count());
            cells.chain([table.head[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cell: &dyn Fn(usize) -> String| -> String {
        let pad = |(&column, &width): (&usize, &usize)| match column < table.words {
            true => format!("{:<width$}  ", cell(column)),
            false => format!("{:>width$}  ", cell(column)),
        };
        columns.iter().zip(&widths).map(pad).collect()
    };
    let mut text = line(&|column| table.head[column].to_owned()).trim_end().to_owned() + "\n";
    let most = table.bars.iter().copied().fold(0.0, f64::max);
    for (index, row) in table.rows.iter().enumerate() {
        let bar = table.bars.get(index).map(|&value| bar(value, most)).unwrap_or_default();
        text += &(line(&|column| row[column].clone()) + &bar);
        text = text.trim_end().to_owned() + "\n";
    }
    text
}

fn bar(value: f64, most: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = if most > 0.0 { (value / most * (BAR * 8) as f64).round() as usize } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

fn wrapped(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if length > 0 && length + 1 + width > PROSE {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines += word;
        length += width;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_bars_in_eighths() {
        assert_eq!(bar(1.0, 1.0).chars().count(), BAR);
        assert_eq!(bar(0.0, 1.0), "");
        assert_eq!(bar(1.0 / 192.0, 1.0), "▏");
        assert_eq!(bar(1.0, 0.0), "");
    }

    #[test]
    fn wraps_prose() {
        let text = "word ".repeat(60);
        assert!(wrapped(&text).lines().all(|line| line.len() <= PROSE));
    }
}
