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
