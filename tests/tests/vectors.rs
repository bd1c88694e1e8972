//! The protocol's bytes in `vectors/*.json`: written down once, by another program, for authors of
//! clients in other languages.
//!
//! Each frame has its bytes in hexadecimal and their meaning; a body is named as the types in
//! `ipcd_proto::control` are. A header without `receipt`, `request` or `wait` has none of them.

use std::collections::BTreeSet;
use std::fmt::Debug;

use ipcd_proto::auth::Token;
use ipcd_proto::control::{
    Answer, Auth, Challenge, Hello, Notice, Query, Receipt, Refusal, Subscribe, Unsubscribe,
    Welcome, decode as decode_body, encode,
};
use ipcd_proto::{
    DecodedFrame, Frame, FrameError, FrameKind, FrameWriter, Header, Headers, decode, limits,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const LARGEST: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

fn vectors(name: &str) -> Vec<Value> {
    let path = format!("{}/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    serde_json::from_str(&text).expect("the text is JSON")
}

fn text<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key].as_str().unwrap_or_default()
}

fn bytes(vector: &Value, key: &str) -> Vec<u8> {
    let digits = text(vector, key).as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(|pair| byte(pair).expect("the text is hexadecimal")).collect()
}

fn kind(name: &str) -> FrameKind {
    match name {
        "hello" => FrameKind::Hello,
        "challenge" => FrameKind::Challenge,
        "auth" => FrameKind::Auth,
        "welcome" => FrameKind::Welcome,
        "message" => FrameKind::Message,
        "subscribe" => FrameKind::Subscribe,
        "unsubscribe" => FrameKind::Unsubscribe,
        "flush" => FrameKind::Flush,
        "ack" => FrameKind::Ack,
        "error" => FrameKind::Error,
        "notice" => FrameKind::Notice,
        "ping" => FrameKind::Ping,
        "pong" => FrameKind::Pong,
        "bye" => FrameKind::Bye,
        "query" => FrameKind::Query,
        "answer" => FrameKind::Answer,
        "receipt" => FrameKind::Receipt,
        other => panic!("no kind {other}"),
    }
}

fn header(vector: &Value) -> Header {
    let header = &vector["header"];
    let number = |key: &str| header[key].as_u64().expect("a number");
    let flag = |key: &str| header.get(key).is_some_and(|flag| flag.as_bool() == Some(true));
    let wait = header.get("wait").map_or(0, |wait| wait.as_u64().expect("a number"));
    Header {
        kind: kind(text(vector, "kind")),
        more: header["more"].as_bool().expect("true or false"),
        receipt: flag("receipt"),
        request: flag("request"),
        interest: flag("interest"),
        answerable: flag("answerable"),
        wait: wait as u16,
        subscription: number("subscription") as u32,
        correlation: number("correlation"),
        sender: number("sender"),
    }
}

/// The bytes of the body, which were decoded to the same value before.
fn body_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(vector: &Value) -> Vec<u8> {
    let value: T = serde_json::from_value(vector["body"].clone()).expect("the body is one");
    let bytes = encode(&value);
    assert_eq!(decode_body::<T>(&bytes), Ok(value));
    bytes
}

fn body(vector: &Value) -> Vec<u8> {
    match kind(text(vector, "kind")) {
        FrameKind::Hello => body_as::<Hello>(vector),
        FrameKind::Challenge => body_as::<Challenge>(vector),
        FrameKind::Auth => body_as::<Auth>(vector),
        FrameKind::Welcome => body_as::<Welcome>(vector),
        FrameKind::Subscribe => body_as::<Subscribe>(vector),
        FrameKind::Unsubscribe => body_as::<Unsubscribe>(vector),
        FrameKind::Error => body_as::<Refusal>(vector),
        FrameKind::Notice => body_as::<Notice>(vector),
        FrameKind::Query => body_as::<Query>(vector),
        FrameKind::Answer => body_as::<Answer>(vector),
        FrameKind::Receipt => body_as::<Receipt>(vector),
        FrameKind::Message => bytes(vector, "payload"),
        FrameKind::Flush | FrameKind::Ack | FrameKind::Ping | FrameKind::Pong | FrameKind::Bye => {
            Vec::new()
        }
    }
}

/// The header block of a message.
fn header_block(vector: &Value) -> Vec<u8> {
    let mut block = Vec::new();
    for entry in vector["headers"].as_array().into_iter().flatten() {
        let [key, value] = [0, 1].map(|at| entry[at].as_str().expect("a string"));
        Headers::append(&mut block, key, value.as_bytes()).expect("it fits");
    }
    block
}

fn check(vector: &Value) {
    let name = text(vector, "name");
    let (headers, payload) = (header_block(vector), body(vector));
    let frame = Frame {
        header: header(vector),
        subject: text(vector, "subject").as_bytes(),
        reply: text(vector, "reply").as_bytes(),
        headers: &headers,
        payload: &payload,
    };
    let expected = bytes(vector, "hex");
    let mut written = Vec::new();
    FrameWriter(&mut written).write(&frame);
    assert_eq!(written, expected, "{name}");
    assert_eq!(
        decode(&expected, LARGEST),
        Ok(DecodedFrame::Frame(frame, expected.len())),
        "{name}"
    );
}

#[test]
fn frames_are_written_and_read_as_written_down() {
    for file in ["handshake", "messages", "control"] {
        vectors(file).iter().for_each(check);
    }
}

#[test]
fn there_is_a_vector_of_every_kind() {
    let all = ["handshake", "messages", "control"].map(vectors).concat();
    let kinds: BTreeSet<u8> = all.iter().map(|vector| kind(text(vector, "kind")) as u8).collect();
    assert_eq!(kinds, (1..=17).collect());
}

#[test]
fn impossible_bytes_are_refused_as_written_down() {
    for vector in vectors("bad") {
        let bytes = bytes(&vector, "hex");
        let error = match decode(&bytes, LARGEST) {
            Err(FrameError::TooLong { .. }) => "TooLong",
            Err(FrameError::TooShort(_)) => "TooShort",
            Err(FrameError::UnknownKind(_)) => "UnknownKind",
            Ok(_) => "none",
        };
        assert_eq!(error, text(&vector, "error"), "{}", text(&vector, "name"));
    }
}

#[test]
fn proofs_are_as_written_down() {
    for vector in vectors("auth") {
        let token = Token::from_text(text(&vector, "token").as_bytes()).expect("a token");
        let nonce = |key: &str| bytes(&vector, key).try_into().expect("32 bytes");
        let (peer, daemon) = (nonce("peer_nonce"), nonce("daemon_nonce"));
        assert_eq!(token.peer_proof(&peer, &daemon)[..], bytes(&vector, "peer_proof"));
        assert_eq!(token.daemon_proof(&peer, &daemon)[..], bytes(&vector, "daemon_proof"));
    }
}
