//! The bytes that peers send, and the subjects, filters and groups that they use.

use ipcd_proto::control::{Hello, Overflow, Subscribe, encode};
use ipcd_proto::{Filter, Frame, FrameWriter, Header, Kind, Subject};

/// Few, so that peers of different workers often mean the same.
pub(crate) const SUBJECTS: [&str; 4] = ["a", "b", "a.x", "b.x"];
/// What some peers may not hear, and their user.
pub(crate) const SECRET: usize = 2;
pub(crate) const RESTRICTED: u32 = 7;
pub(crate) const FILTERS: [&str; 7] = ["a", "b", "a.x", "a.*", "*.x", "a.>", ">"];
/// Fewer still, so that groups have members.
pub(crate) const GROUP_FILTERS: [&str; 3] = ["a", "a.x", "a.>"];
pub(crate) const GROUPS: [&str; 2] = ["g", "h"];
pub(crate) const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

/// Bytes of the largest payload, which begins with who sent it and the message's number.
pub(crate) const MAX_PAYLOAD: usize = 250;
pub(crate) const MIN_PAYLOAD: usize = 16;
/// Bytes of the largest message frame, and of what goes ahead of it, generously.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + 150;

/// A publisher, and its number for a message.
pub(crate) type Id = (usize, u64);

/// What a subscription is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) filter: &'static str,
    pub(crate) group: Option<&'static str>,
    pub(crate) overflow: Overflow,
    pub(crate) origin: bool,
}

/// Which subjects a filter matches.
pub(crate) fn matches(filter: &str) -> [bool; SUBJECTS.len()] {
    let filter = Filter::parse(filter.as_bytes()).expect("a filter");
    SUBJECTS.map(|text| filter.matches(Subject::parse(text.as_bytes()).expect("a subject")))
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

pub(crate) fn subscribe(correlation: u64, number: u32, wish: Wish) -> Vec<u8> {
    let body = Subscribe {
        subscription: number,
        filter: wish.filter.into(),
        group: wish.group.map(str::to_owned),
        overflow: Some(wish.overflow),
        origin: wish.origin,
    };
    control(Kind::Subscribe, correlation, &encode(&body))
}

pub(crate) fn message(header: Header, subject: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).write(&Frame {
        header,
        subject: subject.as_bytes(),
        reply: reply.as_bytes(),
        headers: &[],
        payload,
    });
    bytes
}

/// What a publisher's message of this number carries: every byte says whose it is.
pub(crate) fn payload((publisher, number): Id, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = [publisher as u64, number].map(u64::to_le_bytes).concat();
    let filler = (publisher * 101 + number as usize * 7) as u8;
    bytes.resize(length, filler);
    bytes
}

/// Publisher and number of a payload.
pub(crate) fn id_in(bytes: &[u8]) -> Option<Id> {
    let publisher = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
    Some((publisher, u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?)))
}

/// The same, if every byte is as it was sent.
pub(crate) fn origin_of(bytes: &[u8]) -> Option<Id> {
    id_in(bytes).filter(|id| bytes == payload(*id, bytes.len()))
}
