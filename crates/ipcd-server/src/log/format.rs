//! A line of the log: its text or JSON, with every field bounded, and of printable characters only.

use std::fmt::{self, Debug, Write as _};

use nix::unistd::Pid;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Bytes of one field that are shown.
const FIELD_BYTES: usize = 1280;
/// Bytes of a line. With its source it is less than a pipe takes at once (`PIPE_BUF`, 4,096).
const LINE_BYTES: usize = 3072;
/// Bytes of the name of a source.
const SOURCE_BYTES: usize = 128;
/// Stands before and behind the source of a line on its way to [`super::ProcessLog`]. No line has one:
/// it is a control character.
const MARK: char = '\x01';
/// The field that names the source which has caused a line. It is not shown.
const SOURCE: &str = "source";

/// The format of lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineFormat {
    /// Each is a JSON object, not text.
    pub(super) is_json: bool,
}

/// A line and the source that has caused it: empty for the daemon itself.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct SourcedLine<'a> {
    pub(super) source: &'a str,
    pub(super) text: &'a str,
}

impl<'a> SourcedLine<'a> {
    /// `None` for a line that [`LineFormat`] did not make.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let (source, text) = line.strip_prefix(MARK)?.split_once(MARK)?;
        (source.len() <= SOURCE_BYTES).then_some(Self { source, text })
    }
}

/// The visible part of a line that [`LineFormat`] made.
pub(super) fn unmarked(line: &str) -> &str {
    line.trim_matches([MARK, '\n'])
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = LogLine::new(*self, *event.metadata().level());
        event.record(&mut line);
        writer.write_str(&line.finish())
    }
}

impl LineFormat {
    /// The line that tells of lines which were lost.
    pub(super) fn lost(self, lines: u64) -> String {
        let mut line = LogLine::new(self, Level::WARN);
        line.field("message", FieldValue::Plain("lines of the log were lost"));
        line.field("lines", FieldValue::Number(&lines.to_string()));
        line.finish()
    }

    /// The line that tells of a source's lines which were not written.
    pub(super) fn suppressed(self, source: &str, lines: u64) -> String {
        let mut line = LogLine::new(self, Level::WARN);
        line.field("message", FieldValue::Plain("lines of the log were suppressed"));
        // Not the field of that name, which is not shown.
        line.show("source", FieldValue::Text(source));
        line.field("lines", FieldValue::Number(&lines.to_string()));
        line.finish()
    }

    /// A worker's line with the worker's process behind it, whatever the line claims.
    pub(super) fn with_worker(self, text: &str, worker: Pid) -> String {
        let mut text = escaped(text, LINE_BYTES + 64);
        match self.is_json {
            false => text + &format!(" worker={worker}"),
            true => {
                if text.ends_with('}') {
                    text.pop();
                }
                text + &format!(",\"worker\":{worker}}}")
            }
        }
    }
}

/// The value of a field.
enum FieldValue<'a> {
    /// A number, or true or false, as both formats write it.
    Number(&'a str),
    /// A text that was made for reading.
    Plain(&'a str),
    /// A text that may be anything: in quotes.
    Text(&'a str),
}

/// A line that is being written.
struct LogLine {
    format: LineFormat,
    source: String,
    text: String,
    is_cut: bool,
}

impl LogLine {
    fn new(format: LineFormat, level: Level) -> Self {
        let mut text = String::with_capacity(256);
        let mut now = TimeWriter(&mut text);
        if format.is_json {
            now.write(|time| time.write_str("{\"timestamp\":\""));
        }
        now.write(|time| SystemTime.format_time(time));
        // Writing to a string does not fail.
        let _ = match format.is_json {
            true => write!(text, "\",\"level\":\"{level}\""),
            false => write!(text, " {level:>5}"),
        };
        Self { format, source: String::new(), text, is_cut: false }
    }

    fn field(&mut self, name: &str, value: FieldValue<'_>) {
        match value {
            FieldValue::Plain(text) | FieldValue::Text(text) if name == SOURCE => {
                self.source = escaped(text, SOURCE_BYTES - '…'.len_utf8());
            }
            value => self.show(name, value),
        }
    }

    fn show(&mut self, name: &str, value: FieldValue<'_>) {
        let text = match (self.format.is_json, value) {
            (true, FieldValue::Number(number)) => format!(",\"{name}\":{number}"),
            (true, FieldValue::Plain(text) | FieldValue::Text(text)) => {
                format!(",\"{name}\":{}", json_string(text))
            }
            (false, FieldValue::Plain(text)) if name == "message" => {
                format!(" {}", escaped(text, FIELD_BYTES))
            }
            (false, FieldValue::Plain(text) | FieldValue::Number(text)) => {
                format!(" {name}={}", escaped(text, FIELD_BYTES))
            }
            (false, FieldValue::Text(text)) => {
                format!(" {name}={}", escaped(&format!("{text:?}"), FIELD_BYTES))
            }
        };
        match self.text.len() + text.len() <= LINE_BYTES {
            true => self.text.push_str(&text),
            false => self.is_cut = true,
        }
    }

    fn finish(self) -> String {
        let Self { format, source, text, is_cut } = self;
        let end = match (format.is_json, is_cut) {
            (true, true) => ",\"truncated\":true}",
            (true, false) => "}",
            (false, true) => " …",
            (false, false) => "",
        };
        format!("{MARK}{source}{MARK}{text}{end}\n")
    }
}

/// Lets the library write the time into a string.
struct TimeWriter<'a>(&'a mut String);

impl TimeWriter<'_> {
    fn write(&mut self, put: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        // Writing to a string does not fail.
        let _ = put(&mut Writer::new(self.0));
    }
}

impl Visit for LogLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            name @ "message" => self.field(name, FieldValue::Plain(value)),
            name => self.field(name, FieldValue::Text(value)),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field.name(), FieldValue::Number(&value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field.name(), FieldValue::Number(&value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field.name(), FieldValue::Number(&value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field.name(), FieldValue::Plain(&format!("{value:?}")));
    }
}

/// A text of printable characters only, and no longer than so many bytes and the mark that it is
/// cut.
fn escaped(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    for character in text.chars() {
        let start = shown.len();
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            character => shown.extend(character.escape_debug()),
        }
        if shown.len() > most {
            shown.truncate(start);
            shown.push('…');
            break;
        }
    }
    shown
}

/// A text as a string of JSON (RFC 8259), cut like a field of text.
fn json_string(text: &str) -> String {
    let mut shown = String::from('"');
    for character in text.chars() {
        let start = shown.len();
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            character if character.escape_debug().len() == 1 || character == '\'' => {
                shown.push(character);
            }
            character => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
        if shown.len() > FIELD_BYTES {
            shown.truncate(start);
            shown.push('…');
            break;
        }
    }
    shown.push('"');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_json: bool, fields: &[(&str, FieldValue<'_>)]) -> (String, String) {
        let mut line = LogLine::new(LineFormat { is_json }, Level::INFO);
        line.text = String::new();
        for (name, value) in fields {
            let value = match value {
                FieldValue::Number(text) => FieldValue::Number(text),
                FieldValue::Plain(text) => FieldValue::Plain(text),
                FieldValue::Text(text) => FieldValue::Text(text),
            };
            line.field(name, value);
        }
        let line = line.finish();
        let marked = SourcedLine::parse(line.trim_end_matches('\n')).unwrap();
        (marked.source.into(), marked.text.into())
    }

    #[test]
    fn nothing_in_a_field_ends_a_line_or_reaches_a_terminal() {
        let fields = [
            ("message", FieldValue::Plain("peer\ngone")),
            ("source", FieldValue::Plain("user 7\u{1}")),
            ("why", FieldValue::Text("a\u{1b}[2J \"b\" é\u{202e}")),
            ("identity", FieldValue::Plain("x\u{7f}'y'")),
            ("peer", FieldValue::Number("7")),
        ];
        let (source, text) = line(false, &fields);
        assert_eq!(source, r"user 7\u{1}");
        let shown = r#" peer\ngone why="a\u{1b}[2J \"b\" é\u{202e}" identity=x\u{7f}'y' peer=7"#;
        assert_eq!(text, shown);
        let (_, text) = line(true, &fields);
        let shown = r#","message":"peer\u000agone","why":"a\u001b[2J \"b\" é\u202e","#.to_owned()
            + r#""identity":"x\u007f'y'","peer":7}"#;
        assert_eq!(text, shown);
    }

    #[test]
    fn a_line_is_bounded_whatever_its_fields_are() {
        let long = "\u{7f}".repeat(3900);
        for is_json in [false, true] {
            let fields = ["a", "b", "c", "d"].map(|name| (name, FieldValue::Text(&long)));
            let (_, text) = line(is_json, &fields);
            assert!(text.len() > FIELD_BYTES && text.len() <= LINE_BYTES + 32, "{}", text.len());
            assert!(text.contains('…') && text.contains("a"));
        }
    }

    #[test]
    fn a_worker_cannot_pass_for_another_process() {
        let text = |is_json, text| LineFormat { is_json }.with_worker(text, Pid::from_raw(7));
        assert_eq!(text(false, "x worker=8"), "x worker=8 worker=7");
        assert_eq!(text(false, "x\ny\u{1b}"), r"x\ny\u{1b} worker=7");
        assert_eq!(text(true, r#"{"a":"b"}"#), r#"{"a":"b","worker":7}"#);
        assert_eq!(SourcedLine::parse("thread 'main' panicked"), None);
    }
}
