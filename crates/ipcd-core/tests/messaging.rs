//! Groups, requests, receipts and direct messages, driven by scripts.

mod script;

use script::check;

#[test]
fn a_message_goes_to_one_member_of_each_group_and_to_everybody_else() {
    check(
        "
        + a b c d
        a: sub 1 w group=g
        b: sub 1 w group=g
        c: sub 1 w group=h
        d: sub 1 w
        d: pub w 1 | pub w 2 | pub w 3
        ",
        "
        a: ack
        b: ack
        c: ack
        d: ack
        a: message 1 w 1
        a: message 1 w 3
        c: message 1 w 1
        c: message 1 w 2
        c: message 1 w 3
        d: message 1 w 1
        d: message 1 w 2
        d: message 1 w 3
        b: message 1 w 2
        ",
    );
}

/// Routes and subjects change between messages, but the turn belongs to the group.
#[test]
fn members_have_their_turns_whatever_else_is_sent_or_subscribed_to() {
    check(
        "
        + a b c
        a: sub 1 w.* group=g
        b: sub 1 w.* group=g
        c: pub w.x 1 | pub other 0
        c: sub 9 y
        c: pub w.x 2 | pub other 0
        c: unsub 9
        c: pub w.y 3 | pub other 0
        c: pub w.z 4 | pub other 0
        ",
        "
        a: ack
        b: ack
        a: message 1 w.x 1
        c: ack
        b: message 1 w.x 2
        c: ack
        a: message 1 w.y 3
        b: message 1 w.z 4
        ",
    );
}

/// A member that takes one message and goes leaves the others to the other members.
#[test]
fn a_member_takes_no_more_of_a_group_than_it_wants() {
    check(
        "
        + a b c
        a: sub 1 w group=g limit=1
        b: sub 1 w group=g limit=3 | sub 2 v group=g limit=3 | sub 3 plain
        c: pub w 1 | pub w 2 | pub w 3 | pub @2 direct | pub plain p | pub v 4 | pub w 5
        c: ask 7 w 6
        a: sub 1 w group=g limit=1
        c: ask 8 w 7
        b: subs
        ",
        "
        a: ack
        b: ack
        b: ack
        b: ack
        a: message 1 w 1
        b: message 1 w 2
        b: message 1 w 3
        b: message 0 @2 direct
        b: message 3 plain p
        c: receipt 7: 0 delivered
        a: ack
        c: receipt 8: 0 delivered
        b: plain 1 = 1 + 0 + 0
        ",
    );
}

#[test]
fn groups_of_one_name_and_different_filters_are_different_groups() {
    check(
        "
        + a b
        a: sub 1 w.* group=g
        b: sub 1 w.> group=g
        a: pub w.x both
        ",
        "
        a: ack
        b: ack
        a: message 1 w.x both
        b: message 1 w.x both
        ",
    );
}

#[test]
fn a_full_member_is_passed_over_and_a_full_group_makes_the_publisher_wait() {
    check(
        "
        + a b c
        a: sub 1 w group=g
        b: sub 1 w group=g
        a: stall
        c: pubsize w 1500 | pubsize w 1500 | pubsize w 1500 | pubsize w 1500 | pubsize w 1500
        c: pub w other | pub w other
        b: stall
        c: pubsize w 1500 | pubsize w 1500 | pubsize w 1500 | pubsize w 1500 | pub w late
        a: read 9000
        ",
        "
        a: ack
        b: ack
        b: message 1 w (1500 bytes)
        b: message 1 w (1500 bytes)
        b: message 1 w other
        b: message 1 w other
        c: waits
        a: message 1 w (1500 bytes)
        a: message 1 w (1500 bytes)
        a: message 1 w (1500 bytes)
        c: resumes
        ",
    );
}

#[test]
fn a_request_is_answered_once_or_more_and_late_replies_are_dropped() {
    check(
        "
        + a b c
        b: sub 1 sum group=g
        a: req 7 sum 1+1
        b: pub @1.7 2
        b: pub @1.7 twice
        a: req 8 sum 1+2
        b: more @1.8 3
        b: more @1.8 three
        b: pub @1.8 III
        c: pub @1.8 late
        c: pub @1.99 unasked
        c: pub @77.1 nobody
        c: ping
        ",
        "
        b: ack
        b: message 1 sum 1+1
        a: message 0 @1.7 2
        b: message 1 sum 1+2
        a: message 0 @1.8 3
        a: message 0 @1.8 three
        a: message 0 @1.8 III
        c: pong
        ",
    );
}

/// Peers: a (1) asks, b (2) answers, c (3) may publish everywhere and has guessed the number.
#[test]
fn only_who_has_the_request_answers_it() {
    check(
        "
        + a b c d
        b: sub 1 sum group=g
        d: sub 1 other
        a: req 7 sum 1+1
        c: pub @1.7 forged | more @1.7 forged | ask 4 @1.7 forged
        a: req 8 other 1+2
        b: pub @1.8 not-asked-for-this-one
        b: pub @1.7 2
        d: pub @1.8 3
        count replies_late direct_delivered
        ",
        "
        b: ack
        d: ack
        b: message 1 sum 1+1
        c: receipt 4: 0 delivered
        d: message 1 other 1+2
        a: message 0 @1.7 2
        a: message 0 @1.8 3
        direct_delivered: 2
        replies_late: 4
        ",
    );
}

#[test]
fn a_request_is_answered_to_its_requester_or_refused() {
    check(
        "
        + a b
        b: sub 1 sum
        a: req 7 sum x reply=admin.shutdown | req 7 sum x reply=@2.7 | req 7 sum x reply=@1.8
        a: req 7 sum x reply= | req 7 sum x reply=@1 | req 7 sum x reply=@1.07
        a: req 7 sum x
        ",
        "
        b: ack
        a: refused BadSubject
        a: refused BadSubject
        a: refused BadSubject
        a: refused BadSubject
        a: refused BadSubject
        a: refused BadSubject
        b: message 1 sum x
        ",
    );
}

#[test]
fn a_name_is_never_taken_for_the_id_of_another() {
    check(
        "
        + a=three b=3
        + c
        a: find 3 | find +3 | find 03 | find three | find 1
        ",
        "
        b: error BadSubject
        b: bye
        b: closes: invalid name 3: it looks like the id or the address of a peer; it must not begin with \
        @, and needs more than digits, dots and signs
        a: Found(Some(3))
        a: Found(None)
        a: Found(None)
        a: Found(Some(1))
        a: Found(Some(1))
        ",
    );
}

#[test]
fn a_request_without_responder_or_whose_responder_goes_is_told_so() {
    check(
        "
        + a b c
        a: req 7 sum 1+1
        b: sub 1 sum
        c: sub 1 sum
        a: req 7 sum 1+1
        - b
        c: pub @1.7 2
        - c
        + d
        d: sub 1 sum
        a: req 7 sum 1+1 | req 7 sum twice
        - d
        a: req 8 @99 direct
        ",
        "
        a: refused NoResponder
        b: ack
        c: ack
        b: message 1 sum 1+1
        c: message 1 sum 1+1
        a: message 0 @1.7 2
        d: ack
        d: message 1 sum 1+1
        a: refused Protocol
        a: refused Unanswered
        a: refused NoResponder
        ",
    );
}

#[test]
fn a_request_is_forgotten_when_nobody_waits_for_it_any_more() {
    check(
        "
        + a b
        b: sub 1 sum
        a: req 7 sum 1+1
        wait 6
        b: pub @1.7 late
        a: req 7 sum again
        - b
        ",
        "
        b: ack
        b: message 1 sum 1+1
        b: message 1 sum again
        a: refused Unanswered
        ",
    );
}

#[test]
fn a_receipt_tells_what_became_of_each_copy() {
    check(
        "
        + a b c d
        a: ask 1 x nobody
        b: sub 1 x
        c: sub 1 x drop-newest
        a: ask 2 x both
        c: stall
        a: pubsize x 1500 | pubsize x 1500 | pubsize x 1500
        a: ask 3 x dropped
        a: ask 4 @2 direct
        a: ask 5 @99 nobody
        b: stall
        a: ask 6 x going
        - b
        ",
        "
        a: receipt 1: 0 delivered
        b: ack
        c: ack
        b: message 1 x both
        c: message 1 x both
        a: receipt 2: 2 delivered
        b: message 1 x (1500 bytes)
        b: message 1 x (1500 bytes)
        b: message 1 x (1500 bytes)
        b: message 1 x dropped
        a: receipt 3: 1 delivered, 1 newest
        b: message 0 @2 direct
        a: receipt 4: 1 delivered
        a: receipt 5: 0 delivered
        a: receipt 6: 0 delivered, 1 newest, 1 departed
        ",
    );
}

#[test]
fn messages_to_one_peer_never_wait_and_cut_off_who_does_not_take_them() {
    // A send queue holds 4,000 bytes; a quarter more is allowed for such messages.
    check(
        "
        + a b
        b: stall
        a: pubsize @2 1500 | pubsize @2 1500 | pubsize @2 1500 | pubsize @2 1500 | ping
        a: ask 9 @2 more
        b: read 9000
        ",
        "
        a: pong
        b: closes: messages to the peer have filled its send queue
        a: receipt 9: 0 delivered, 1 cut_off
        b: error TooSlow
        b: bye
        ",
    );
}

#[test]
fn addresses_are_no_subjects() {
    check(
        "
        + a
        a: sub 1 @1
        a: sub 1 @x.>
        a: pub @x text
        a: sub 0 x
        ",
        "
        a: refused BadSubject
        a: refused BadSubject
        a: refused BadSubject
        a: refused Protocol
        ",
    );
}

#[test]
fn a_copy_for_one_group_does_not_lose_that_for_another() {
    // The copy for the first group fills the send queue of the only member of the second.
    check(
        "
        + a b
        b: sub 1 w group=g
        b: sub 2 w group=h
        b: stall
        a: pubsize w 1500 | pubsize w 1500
        b: read 9000
        ",
        "
        b: ack
        b: ack
        b: message 1 w (1500 bytes)
        b: message 2 w (1500 bytes)
        b: message 1 w (1500 bytes)
        b: message 2 w (1500 bytes)
        ",
    );
}

#[test]
fn a_new_member_of_a_full_group_lets_publishers_go_on() {
    check(
        "
        + a b c
        b: sub 1 w group=g
        b: stall
        a: pubsize w 1500 | pubsize w 1500 | pubsize w 1500 | pub w late
        c: sub 1 w group=g
        ",
        "
        b: ack
        a: waits
        a: resumes
        c: ack
        c: message 1 w late
        ",
    );
}

#[test]
fn what_was_dropped_is_told_before_the_subscription_ends() {
    check(
        "
        + a b
        b: sub 1 x drop-oldest
        b: stall
        a: pubsize x 1000 | pubsize x 1000 | pubsize x 1000 | pubsize x 1000
        b: unsub 1
        b: read 9000
        ",
        "
        b: ack
        b: message 1 x (1000 bytes)
        b: gap 1 3 oldest
        b: ack
        ",
    );
}

#[test]
fn a_subscription_may_have_the_number_of_one_whose_messages_are_not_yet_written() {
    check(
        "
        + a b
        b: sub 1 x
        b: stall
        a: pub x 1 | pub x 2
        b: unsub 1 | sub 1 y
        a: subs
        b: read 9000
        a: pub y 3
        b: read 9000
        a: subs
        ",
        "
        b: ack
        a: y 2 = 0 + 0 + 2
        b: message 1 x 1
        b: message 1 x 2
        b: ack
        b: ack
        b: message 1 y 3
        a: y 1 = 1 + 0 + 0
        ",
    );
}

#[test]
fn what_a_requester_or_responder_leaves_behind_is_forgotten() {
    check(
        "
        + a b c
        b: sub 1 sum
        a: req 7 sum 1+1
        c: req 8 sum 1+2
        count outcomes_open requests_unanswered
        - a
        count outcomes_open requests_unanswered
        b: pub @3.8 3
        wait 6
        count outcomes_open requests_unanswered
        ",
        "
        b: ack
        b: message 1 sum 1+1
        b: message 1 sum 1+2
        outcomes_open: 2
        requests_unanswered: 2
        outcomes_open: 1
        requests_unanswered: 2
        c: message 0 @3.8 3
        outcomes_open: 0
        requests_unanswered: 0
        ",
    );
}

#[test]
fn messages_to_one_peer_are_accounted_for() {
    check(
        "
        + a b
        b: stall
        a: pub @2 one | pub @2 two | pub @99 nobody
        b: read 40
        count direct_delivered direct_queued direct_dropped direct_undeliverable
        - b
        count direct_delivered direct_queued direct_dropped direct_undeliverable
        ",
        "
        b: message 0 @2 one
        direct_delivered: 1
        direct_queued: 1
        direct_dropped: 0
        direct_undeliverable: 1
        direct_delivered: 1
        direct_queued: 0
        direct_dropped: 1
        direct_undeliverable: 1
        ",
    );
}
