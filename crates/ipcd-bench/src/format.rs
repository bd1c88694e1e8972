//! Numbers and names as people write them.

use crate::plan::{MeasureLayer, MeasureMode};

/// As it is written on the command line.
pub fn layer_name(layer: MeasureLayer) -> &'static str {
    match layer {
        MeasureLayer::Raw => "raw",
        MeasureLayer::Lib => "lib",
        MeasureLayer::Daemon => "daemon",
        MeasureLayer::Peer => "peer",
    }
}

/// As it is written on the command line.
pub fn mode_name(mode: MeasureMode) -> &'static str {
    match mode {
        MeasureMode::Pingpong => "pingpong",
        MeasureMode::Throughput => "throughput",
        MeasureMode::Load => "load",
        MeasureMode::Fanout => "fanout",
        MeasureMode::Req => "req",
    }
}

/// A size as people write it.
pub(crate) fn bytes(size: usize) -> String {
    match size {
        size if size >= 1 << 20 && size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 && size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}

/// Nanoseconds, in a unit that fits.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{} µs", digits(nanos / 1e3)),
        nanos if nanos < 1e9 => format!("{} ms", digits(nanos / 1e6)),
        nanos => format!("{} s", digits(nanos / 1e9)),
    }
}

/// A number with three digits and a letter for thousands.
pub(crate) fn si(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0}"),
        value if value < 1e6 => format!("{} k", digits(value / 1e3)),
        value if value < 1e9 => format!("{} M", digits(value / 1e6)),
        value => format!("{} G", digits(value / 1e9)),
    }
}

fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_numbers_with_three_digits() {
        assert_eq!(
            [850.0, 1234.0, 56_789.0, 2e8].map(time),
            ["850 ns", "1.23 µs", "56.8 µs", "200 ms"]
        );
        assert_eq!([12.0, 1234.0, 5e6, 7.5e9].map(si), ["12", "1.23 k", "5.00 M", "7.50 G"]);
        assert_eq!([64, 1024, 65536, 1 << 20].map(bytes), ["64 B", "1 KiB", "64 KiB", "1 MiB"]);
    }
}
