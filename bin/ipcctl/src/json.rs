//! A message as one line of JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipcd_client::{Message, Origin};
use serde_json::{Map, Value, json};

use crate::output::is_hidden;

pub(crate) fn message_line(message: &Message, origin: Option<&Origin>) -> Value {
    let (headers, headers_b64) = split_headers(message.headers());
    let mut line = json!({
        "v": 1,
        "ts": jiff::Timestamp::now().to_string(),
        "subject": message.subject(),
        "id": message.id,
        "reply": message.reply(),
        "from": {
            "peer": message.sender,
            "name": origin.and_then(|origin| origin.name.as_ref()),
            "transport": origin.map(|origin| &origin.transport),
            "uid": origin.and_then(|origin| origin.uid),
            "gid": origin.and_then(|origin| origin.gid),
            "pid": origin.and_then(|origin| origin.pid),
            "addr": origin.and_then(|origin| origin.addr).map(|addr| addr.to_string()),
        },
        "headers": headers,
        "len": message.payload().len(),
    });
    match str::from_utf8(message.payload()) {
        Ok(text) => line["data"] = text.into(),
        Err(_) => line["data_b64"] = STANDARD.encode(message.payload()).into(),
    }
    if !headers_b64.is_empty() {
        line["headers_b64"] = headers_b64.into();
    }
    line
}

/// Headers with text values, and headers with other values in base64.
fn split_headers<'a>(
    all: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> (Map<String, Value>, Map<String, Value>) {
    let (mut texts, mut others) = (Map::new(), Map::new());
    for (key, value) in all {
        // Of two headers with the same name the last one counts, whichever map it is in.
        let (into, from, value) = match str::from_utf8(value) {
            Ok(text) => (&mut texts, &mut others, text.to_owned()),
            Err(_) => (&mut others, &mut texts, STANDARD.encode(value)),
        };
        from.remove(key);
        into.insert(key.to_owned(), value.into());
    }
    (texts, others)
}

/// JSON as text, with hidden characters escaped. serde_json escapes only those below U+0020, but
/// terminals also obey others (U+009B is CSI), and bidirectional ones change the look of the text.
pub(crate) fn compact(value: &Value) -> String {
    escape_hidden(value.to_string())
}

/// The same on several lines.
pub(crate) fn pretty(value: &Value) -> String {
    escape_hidden(format!("{value:#}"))
}

fn escape_hidden(plain: String) -> String {
    // serde_json escapes newlines inside of strings: a bare one is a line's end.
    let is_hidden = |c: char| c != '\n' && is_hidden(c);
    if !plain.chars().any(is_hidden) {
        return plain;
    }
    let mut text = String::with_capacity(plain.len());
    for c in plain.chars() {
        match is_hidden(c) {
            // Hidden characters occur only in strings, where JSON allows \u.
            true => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| text += &format!("\\u{unit:04x}")),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_that_are_no_text_are_marked() {
        let all = [("a", &b"x"[..]), ("b", b"\xff"), ("c", b"\xfe"), ("c", b"y")];
        let (texts, others) = split_headers(all.into_iter());
        assert_eq!(Value::from(texts), json!({"a": "x", "c": "y"}));
        assert_eq!(Value::from(others), json!({"b": "/w=="}));
    }

    #[test]
    fn escapes_every_control_character_and_means_the_same() {
        let all: String = (0..0x11_0000).filter_map(char::from_u32).collect();
        let value = json!({ "data": all });
        let text = compact(&value);
        assert!(!text.chars().any(is_hidden), "there is one");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
