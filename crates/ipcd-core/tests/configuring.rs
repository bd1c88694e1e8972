//! A new configuration while peers are connected: it applies to them, too, and breaks no session.

mod script;

use proptest::prelude::*;
use script::{check, run};

#[test]
fn a_session_is_sent_no_larger_frames_than_it_was_opened_with() {
    check(
        "
        + old
        old: sub 1 x
        set payload=200000 queue=1000000
        + new
        new: sub 1 x | pubsize x 100000 | pubsize x 60000 | pub @1 small | pubsize @1 100000
        new: flush
        old: req 7 @2 question
        new: pubsize @1.7 100000
        new: ask 9 @1 done | ask 10 x done
        ",
        "
        old: ack
        new: ack
        new: message 1 x (100000 bytes)
        new: message 1 x (60000 bytes)
        old: message 1 x (60000 bytes)
        old: message 0 @1 small
        old: gap 1 1 too_large
        new: ack
        new: message 0 @2 question
        old: refused TooLarge
        old: message 0 @1 done
        old: message 1 x done
        new: message 1 x done
        new: receipt 9: 1 delivered
        new: receipt 10: 2 delivered
        ",
    );
}

#[test]
fn a_session_outlives_a_smaller_size_and_its_larger_messages_are_refused() {
    check(
        "
        set payload=200000
        + a b
        b: sub 1 x
        set payload=1000
        a: ask 5 x small
        a: pubsize x 150000
        a: flush
        ",
        "
        b: ack
        b: message 1 x small
        a: receipt 5: 1 delivered
        a: refused TooLarge
        a: ack
        ",
    );
}

#[test]
fn a_larger_send_queue_lets_publishers_go_on_and_a_smaller_one_makes_them_wait() {
    check(
        "
        + a b
        b: sub 1 x block
        b: stall
        a: pubsize x 2000 | pubsize x 2000
        a: pub x last
        set queue=100000
        set queue=1000
        a: pub x more
        ",
        "
        b: ack
        a: waits
        a: resumes
        a: waits
        ",
    );
}

/// The time-outs of a configuration: all later than the actions before the change, and half of
/// `idle`, too.
fn timeouts() -> impl Strategy<Value = String> {
    (2..20_u32, 2..20_u32, prop_oneof![Just(0), 4..20_u32], 2..20_u32).prop_map(
        |(handshake, frame, idle, stall)| {
            format!("handshake={handshake} frame={frame} idle={idle} stall={stall}")
        },
    )
}

/// The frames of each second. Their order within one does not matter.
fn by_second(seen: Vec<String>) -> Vec<Vec<String>> {
    let seconds = seen.split(|line| line.starts_with("messages_accepted"));
    let mut seconds: Vec<_> = seconds.map(<[String]>::to_vec).collect();
    seconds.iter_mut().for_each(|second| second.sort());
    seconds
}

proptest! {
    /// A peer that is connected during a change fares as if the new configuration had always
    /// applied.
    #[test]
    fn a_change_is_as_good_as_a_start(before in timeouts(), after in timeouts()) {
        let peers = "
            + idle partial reader publisher
            ++ stranger
            reader: sub 1 x drop-newest
            reader: stall
            publisher: pub x text
            partial: half
        ";
        let then = "wait 1\ncount messages_accepted\n".repeat(30);
        let changed = run(&format!("set {before}\n{peers}\nwait 1\nset {after}\n{then}"));
        let started = run(&format!("set {after}\n{peers}\nwait 1\n{then}"));
        prop_assert_eq!(by_second(changed), by_second(started));
    }
}
