//! Printing: payloads and requested output on standard output, remarks on standard error.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use crate::exit::Outcome;

/// Standard output. A reader that has gone ends the process as SIGPIPE would.
pub(crate) struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        Self { stdout: BufWriter::with_capacity(64 * 1024, stdout), is_terminal }
    }

    /// Writes what a peer has sent: as it is, but with control characters shown on a terminal.
    pub(crate) fn foreign(&mut self, bytes: &[u8]) -> Outcome {
        if self.is_terminal {
            let text = String::from_utf8_lossy(bytes);
            let shown: String = text.split_inclusive('\n').map(line_visible).collect();
            return self.own(shown.as_bytes());
        }
        self.own(bytes)
    }

    /// Writes our own bytes.
    pub(crate) fn own(&mut self, bytes: &[u8]) -> Outcome {
        done(self.stdout.write_all(bytes))
    }

    pub(crate) fn flush(&mut self) -> Outcome {
        done(self.stdout.flush())
    }
}

/// Writes all of it to standard output.
pub(crate) fn write_all(bytes: &[u8]) -> Outcome {
    let mut output = Output::new();
    output.own(bytes)?;
    output.flush()
}

fn done(outcome: io::Result<()>) -> Outcome {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ipcd_sys::die_of_sigpipe(),
        outcome => Ok(outcome?),
    }
}

/// Text with its control characters escaped.
pub(crate) fn visible(text: &str) -> String {
    let escape = |c: char| {
        let escaped = c.is_control().then(|| c.escape_default());
        let plain = (!c.is_control()).then_some(c);
        escaped.into_iter().flatten().chain(plain)
    };
    text.chars().flat_map(escape).collect()
}

fn line_visible(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(line) => visible(line).replace("\\t", "\t") + "\n",
        None => visible(line).replace("\\t", "\t"),
    }
}

/// Rows of cells in aligned columns; numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &str| cell.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let right: Vec<bool> = (0..head.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| is_number(&row[column])))
        .collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            let cell = match right[column] {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            line += &cell;
        }
        line.trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_control_characters() {
        assert_eq!(visible("a\x1b[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(visible("it's \"ä\""), "it's \"ä\"");
        assert_eq!(line_visible("a\tb\n"), "a\tb\n");
    }

    #[test]
    fn aligns_columns() {
        let rows = [vec!["a".into(), "1".into()], vec!["bbb".into(), "22".into()]];
        assert_eq!(table(&["X", "N"], &rows), "X     N\na     1\nbbb  22\n");
    }
}
