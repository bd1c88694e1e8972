//! The bytes that peers send, and the subjects, filters and groups that they use.

use ipcd_proto::control::{Hello, OverflowPolicy, Subscribe, encode};
use ipcd_proto::{Filter, Frame, FrameKind, FrameWriter, Header, Subject};

/// Few, so that peers of different workers often use the same ones.
pub(crate) const SUBJECTS: [&str; 4] = ["a", "b", "a.x", "b.x"];
/// The subjects that some peers may not receive, and the user of those peers.
pub(crate) const SECRET: usize = 2;
pub(crate) const RESTRICTED: u32 = 7;
pub(crate) const FILTERS: [&str; 7] = ["a", "b", "a.x", "a.*", "*.x", "a.>", ">"];
/// Even fewer, so that groups have several members.
pub(crate) const GROUP_FILTERS: [&str; 3] = ["a", "a.x", "a.>"];
pub(crate) const GROUPS: [&str; 2] = ["g", "h"];
pub(crate) const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

/// The largest payload in bytes. It begins with the publisher and the number of the message.
pub(crate) const MAX_PAYLOAD: usize = 250;
pub(crate) const MIN_PAYLOAD: usize = 16;
/// The largest message frame in bytes, with a generous surplus for frames that precede it.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + 150;

/// A publisher, and its number for a message.
pub(crate) type Id = (usize, u64);

/// The wanted subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) filter: &'static str,
    pub(crate) group: Option<&'static str>,
    pub(crate) overflow: OverflowPolicy,
    pub(crate) origin: bool,
}

/// The subjects that a filter matches.
pub(crate) fn matches(filter: &str) -> [bool; SUBJECTS.len()] {
    let filter = Filter::parse(filter.as_bytes()).expect("a filter");
    SUBJECTS.map(|text| filter.matches(Subject::parse(text.as_bytes()).expect("a subject")))
}

pub(crate) fn control(kind: FrameKind, correlation: u64, body: &[u8]) -> Vec<u8> {
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
    control(FrameKind::Hello, 0, &encode(&hello))
}

pub(crate) fn subscribe(correlation: u64, number: u32, wish: Wish) -> Vec<u8> {
    let body = Subscribe {
        subscription: number,
        filter: wish.filter.into(),
        group: wish.group.map(str::to_owned),
        overflow: Some(wish.overflow),
        origin: wish.origin,
    };
    control(FrameKind::Subscribe, correlation, &encode(&body))
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

/// Returns the payload of a publisher's message. Every byte depends on the publisher and number.
pub(crate) fn payload((publisher, number): Id, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = [publisher as u64, number].map(u64::to_le_bytes).concat();
    let filler = (publisher * 101 + number as usize * 7) as u8;
    bytes.resize(length, filler);
    bytes
}

/// Returns the publisher and the number in a payload.
pub(crate) fn id_in(bytes: &[u8]) -> Option<Id> {
    let publisher = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
    Some((publisher, u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?)))
}

/// Returns the same, if every byte is unchanged.
pub(crate) fn origin_of(bytes: &[u8]) -> Option<Id> {
    id_in(bytes).filter(|id| bytes == payload(*id, bytes.len()))
}
