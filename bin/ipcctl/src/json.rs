//! A message as a line of JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipcd_client::{Message, Origin};
use serde_json::{Value, json};

pub(crate) fn line(message: &Message, origin: Option<&Origin>) -> Value {
    let headers: serde_json::Map<String, Value> = message
        .headers()
        .map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into()))
        .collect();
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
    line
}

/// JSON as text. Serde leaves DEL and the control characters behind it as they are, and some
/// terminals obey them (U+009B is CSI); here they are escaped like those below U+0020.
pub(crate) fn text(value: &Value) -> String {
    let plain = value.to_string();
    if !plain.chars().any(char::is_control) {
        return plain;
    }
    // Outside of strings there are none.
    let escape = |c: char| match c.is_control() {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    plain.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_every_control_character_and_means_the_same() {
        let all: String = (0..0x200).filter_map(char::from_u32).collect();
        let value = json!({ "data": all });
        let text = text(&value);
        assert!(!text.chars().any(char::is_control), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
