//! The format of `recv -F`.

use ipcd_client::{Message, Origin};

use crate::output::StdoutBuffer;

/// The letters after `%`, their fields, and the text for errors.
const FIELDS: [(char, FormatField, &str); 11] = [
    ('s', FormatField::Subject, "subject"),
    ('p', FormatField::Payload, "payload"),
    ('x', FormatField::Hex, "payload in hexadecimal digits"),
    ('l', FormatField::Length, "length of the payload"),
    ('r', FormatField::Reply, "reply subject"),
    ('i', FormatField::Id, "the sender's number for the message"),
    ('f', FormatField::Sender, "the sender's id"),
    ('n', FormatField::Name, "the sender's name"),
    ('T', FormatField::Transport, "the sender's transport"),
    ('t', FormatField::Time, "time"),
    ('h', FormatField::Headers, "headers"),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FormatField {
    Subject,
    Payload,
    Hex,
    Length,
    Reply,
    Id,
    Sender,
    Name,
    Transport,
    Time,
    Headers,
}

#[derive(Debug, Eq, PartialEq)]
enum FormatPiece {
    Text(String),
    Field(FormatField),
}

/// A format, read once.
#[derive(Debug)]
pub(crate) struct FormatTemplate(Vec<FormatPiece>);

impl FormatTemplate {
    /// Reads a format; the error names the escapes that exist.
    pub(crate) fn parse(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match percent_piece(chars.next())? {
                    FormatPiece::Text(plain) => text += &plain,
                    field => {
                        pieces.push(FormatPiece::Text(std::mem::take(&mut text)));
                        pieces.push(field);
                    }
                },
                '\\' => text.push(backslash_char(chars.next())?),
                plain => text.push(plain),
            }
        }
        pieces.push(FormatPiece::Text(text));
        pieces.retain(|piece| *piece != FormatPiece::Text(String::new()));
        Ok(Self(pieces))
    }

    /// Whether the format needs the sender's identity.
    pub(crate) fn names_sender(&self) -> bool {
        let names =
            [FormatPiece::Field(FormatField::Name), FormatPiece::Field(FormatField::Transport)];
        self.0.iter().any(|piece| names.contains(piece))
    }

    pub(crate) fn print(
        &self,
        message: &Message,
        origin: Option<&Origin>,
        output: &mut StdoutBuffer,
    ) {
        for piece in &self.0 {
            match piece {
                FormatPiece::Text(text) => output.add_own(text.as_bytes()),
                FormatPiece::Field(FormatField::Payload) => output.add_foreign(message.payload()),
                FormatPiece::Field(field) => output.add_foreign(&field.text(message, origin)),
            }
        }
    }
}

impl FormatField {
    /// The field's text; empty if it is unknown.
    fn text(self, message: &Message, origin: Option<&Origin>) -> Vec<u8> {
        match self {
            Self::Subject => message.subject().into(),
            Self::Payload => message.payload().into(),
            Self::Hex => hex_digits(message.payload()).into(),
            Self::Length => message.payload().len().to_string().into(),
            Self::Reply => message.reply().unwrap_or_default().into(),
            Self::Id => message.id.to_string().into(),
            Self::Sender => message.sender.to_string().into(),
            Self::Name => origin.and_then(|it| it.name.clone()).unwrap_or_default().into(),
            Self::Transport => origin.map(|it| it.transport.to_string()).unwrap_or_default().into(),
            Self::Time => jiff::Timestamp::now().to_string().into(),
            Self::Headers => header_text(message.headers()),
        }
    }
}

fn percent_piece(escape: Option<char>) -> Result<FormatPiece, String> {
    if escape == Some('%') {
        return Ok(FormatPiece::Text("%".into()));
    }
    let found = FIELDS.iter().find(|(letter, ..)| escape == Some(*letter));
    found.map(|(_, field, _)| FormatPiece::Field(*field)).ok_or_else(|| unknown_escape('%', escape))
}

fn backslash_char(escape: Option<char>) -> Result<char, String> {
    match escape {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        _ => Err(unknown_escape('\\', escape)),
    }
}

fn unknown_escape(first: char, escape: Option<char>) -> String {
    let escape = escape.map(String::from).unwrap_or_default();
    let fields: Vec<_> = FIELDS.iter().map(|(key, _, what)| format!("%{key} {what}")).collect();
    let fields = fields.join(", ");
    format!(
        "{first}{escape} is unknown; there are {fields}, %% a percent sign, \\n, \\t, \\0, \\\\"
    )
}

fn hex_digits(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |half: u8| DIGITS[usize::from(half)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn header_text<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let entries: Vec<_> =
        headers.map(|(key, value)| [key.as_bytes(), b":", value].concat()).collect();
    entries.join(&b","[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_text_and_escapes() {
        let pieces = |format: &str| FormatTemplate::parse(format).unwrap().0;
        let text = |text: &str| FormatPiece::Text(text.into());
        assert_eq!(pieces(""), []);
        assert_eq!(pieces("100%%\\t\\n\\0\\\\"), [text("100%\t\n\0\\")]);
        let both = [
            FormatPiece::Field(FormatField::Subject),
            text("=ä "),
            FormatPiece::Field(FormatField::Payload),
        ];
        assert_eq!(pieces("%s=ä %p"), both);
        for (letter, field, _) in FIELDS {
            assert_eq!(pieces(&format!("%{letter}")), [FormatPiece::Field(field)]);
        }
        assert!(FormatTemplate::parse("%n").unwrap().names_sender());
        assert!(!FormatTemplate::parse("%f").unwrap().names_sender());
    }

    #[test]
    fn what_is_unknown_is_told_with_what_exists() {
        for (format, what) in [("%q", "%q is"), ("x%", "% is"), ("\\q", "\\q is"), ("\\", "\\ is")]
        {
            let error = FormatTemplate::parse(format).unwrap_err();
            assert!(error.starts_with(what), "{error}");
            assert!(error.contains("%s subject") && error.contains("\\0"), "{error}");
        }
    }

    #[test]
    fn writes_bytes() {
        assert_eq!(hex_digits(b"\x00\xfez"), "00fe7a");
        let entries = [("a", &b"1"[..]), ("b", b"\xff")];
        assert_eq!(header_text(entries.into_iter()), b"a:1,b:\xff");
    }
}
