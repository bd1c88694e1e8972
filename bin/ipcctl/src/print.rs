//! Printing messages: as payloads, lines of JSON, or in a given format.

use ipcd_client::{Message, Origin};

use crate::exit::Outcome;
use crate::format::FormatTemplate;
use crate::json;
use crate::output::StdoutBuffer;

/// The form in which a message is printed.
#[derive(Debug)]
pub(crate) enum PrintStyle {
    Payload {
        /// Whether the subject is printed before it.
        subject: bool,
    },
    Json,
    Template(FormatTemplate),
}

/// The end of a printed message. A line of JSON always ends in a newline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LineEnd {
    Nothing,
    Newline,
    /// A newline, unless the payload ends in one.
    OneNewline,
    Nul,
}

pub(crate) struct MessagePrinter {
    pub(crate) output: StdoutBuffer,
    style: PrintStyle,
    end: LineEnd,
}

impl MessagePrinter {
    pub(crate) fn new(style: PrintStyle, end: LineEnd) -> Self {
        Self { output: StdoutBuffer::new(), style, end }
    }

    /// Adds a message to the output.
    pub(crate) fn add(&mut self, message: &Message, origin: Option<&Origin>) {
        let output = &mut self.output;
        match &self.style {
            PrintStyle::Json => {
                output.add_own(json::compact(&json::message_line(message, origin)).as_bytes());
                return output.add_own(b"\n");
            }
            PrintStyle::Template(template) => template.print(message, origin, output),
            PrintStyle::Payload { subject } => {
                if *subject {
                    output.add_foreign(message.subject().as_bytes());
                    output.add_own(b" ");
                }
                output.add_foreign(message.payload());
            }
        }
        output.add_own(self.end.after(message.payload()));
    }

    /// Whether the output contains the sender's identity.
    pub(crate) fn names_sender(&self) -> bool {
        match &self.style {
            PrintStyle::Payload { .. } => false,
            PrintStyle::Json => true,
            PrintStyle::Template(template) => template.names_sender(),
        }
    }

    pub(crate) fn flush(&mut self) -> Outcome {
        self.output.flush()
    }
}

impl LineEnd {
    fn after(self, payload: &[u8]) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::Nul => b"\0",
            Self::OneNewline if payload.ends_with(b"\n") => b"",
            Self::Newline | Self::OneNewline => b"\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_asked() {
        assert_eq!(LineEnd::Newline.after(b"x\n"), b"\n");
        assert_eq!(LineEnd::OneNewline.after(b"x\n"), b"");
        assert_eq!(LineEnd::OneNewline.after(b""), b"\n");
        assert_eq!(
            (LineEnd::Nul.after(b"x"), LineEnd::Nothing.after(b"x")),
            (&b"\0"[..], &b""[..])
        );
    }
}
