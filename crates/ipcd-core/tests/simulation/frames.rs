//! The bytes that peers send, and the subjects and filters that they use.

use ipcd_proto::control::{Hello, Overflow, Subscribe, encode};
use ipcd_proto::{Filter, Frame, FrameWriter, Header, Kind, Subject};

/// Few, so that peers of different workers often mean the same.
pub(crate) const SUBJECTS: [&str; 4] = ["a", "b", "a.x", "b.x"];
pub(crate) const FILTERS: [&str; 7] = ["a", "b", "a.x", "a.*", "*.x", "a.>", ">"];
pub(crate) const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

/// Bytes of the largest payload, which begins with who sent it and the message's number.
pub(crate) const MAX_PAYLOAD: usize = 250;
pub(crate) const MIN_PAYLOAD: usize = 16;
/// Bytes of the largest message frame, generously.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + 40;

pub(crate) fn matches(filter: &str, subject: usize) -> bool {
    let filter = Filter::parse(filter.as_bytes()).expect("a filter");
    filter.matches(Subject::parse(SUBJECTS[subject].as_bytes()).expect("a subject"))
}

pub(crate) fn control(kind: Kind, correlation: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).control(Header::new(kind, correlation), body);
    bytes
}

pub(crate) fn hello(name: Option<&str>, no_echo: bool) -> Vec<u8> {
    let hello = Hello {
        magic: Hello::MAGIC,
        oldest: 1,
        newest: 1,
        features: 0,
        nonce: [0; 32],
        name: name.map(str::to_owned),
        token: None,
        no_echo,
    };
    control(Kind::Hello, 0, &encode(&hello))
}

pub(crate) fn subscribe(
    correlation: u64,
    number: u32,
    filter: &str,
    overflow: Overflow,
    origin: bool,
) -> Vec<u8> {
    let body = Subscribe {
        subscription: number,
        filter: filter.into(),
        group: None,
        overflow: Some(overflow),
        origin,
    };
    control(Kind::Subscribe, correlation, &encode(&body))
}

pub(crate) fn message(subject: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).write(&Frame {
        header: Header::new(Kind::Message, 0),
        subject: SUBJECTS[subject].as_bytes(),
        reply: &[],
        headers: &[],
        payload,
    });
    bytes
}

/// What a publisher's message of this number carries: every byte says whose it is.
pub(crate) fn payload(publisher: usize, number: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = [publisher as u64, number].map(u64::to_le_bytes).concat();
    let at = |at: usize| (publisher * 101 + number as usize * 7 + at) as u8;
    bytes.extend((bytes.len()..length).map(at));
    bytes
}

/// Publisher and number of a payload, if every byte is as it was sent.
pub(crate) fn origin_of(bytes: &[u8]) -> Option<(usize, u64)> {
    let publisher = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
    let number = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    (bytes == payload(publisher, number, bytes.len())).then_some((publisher, number))
}
