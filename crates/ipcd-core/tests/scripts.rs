//! The router, driven by scripts: what peers do, and what each of them then sees.

mod script;

use script::check;

#[test]
fn messages_go_to_whoever_subscribed_and_to_the_publisher_too() {
    check(
        "
        + a b c
        a: sub 1 x.*
        b: sub 7 x.y
        c: sub 2 other
        a: pub x.y hello
        a: pub nobody cares
        ",
        "
        a: ack
        b: ack
        c: ack
        a: message 1 x.y hello
        b: message 7 x.y hello
        ",
    );
}

#[test]
fn one_copy_comes_for_each_subscription_that_matches() {
    check(
        "
        + a b
        b: sub 1 x.y
        b: sub 2 x.>
        a: pub x.y hi
        b: unsub 1
        a: pub x.y again
        ",
        "
        b: ack
        b: ack
        b: message 1 x.y hi
        b: message 2 x.y hi
        b: ack
        b: message 2 x.y again
        ",
    );
}

#[test]
fn a_run_of_messages_stays_in_order_and_apart() {
    check(
        "
        + a b
        b: sub 1 x
        b: sub 2 y
        a: pub x 1 | pub x 2 | pub x 3 | pub y 4 | pub x 5 | flush
        ",
        "
        b: ack
        b: ack
        b: message 1 x 1
        b: message 1 x 2
        b: message 1 x 3
        b: message 2 y 4
        b: message 1 x 5
        a: ack
        ",
    );
}

#[test]
fn what_is_wrong_is_refused_and_the_session_goes_on() {
    check(
        "
        + a
        a: sub 1 a..b
        a: sub 1 x
        a: sub 1 y
        a: unsub 9
        a: pub a.*.b text
        a: pub x. text
        a: pub x fine
        ",
        "
        a: refused BadSubject
        a: ack
        a: refused Protocol
        a: refused Protocol
        a: refused BadSubject
        a: refused BadSubject
        a: message 1 x fine
        ",
    );
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_next_one_is_not() {
    check(
        "
        + a
        a: sub 1 x
        a: pubsize x 2000 | pubsize x 2001 | pub x small | flush
        ",
        "
        a: ack
        a: message 1 x (2000 bytes)
        a: refused TooLarge
        a: message 1 x small
        a: ack
        ",
    );
}

#[test]
fn a_full_outbox_makes_the_publisher_wait_and_nobody_else() {
    // An outbox holds 4,000 bytes: three messages of 1,500 fill it.
    check(
        "
        + a b c d
        b: sub 1 slow
        d: sub 1 fast
        b: stall
        a: pubsize slow 1500
        a: pubsize slow 1500
        a: pubsize slow 1500
        a: pub slow late | flush
        c: pub fast news | flush
        b: read 4000
        b: read 9000
        ",
        "
        b: ack
        d: ack
        a: waits
        d: message 1 fast news
        c: ack
        b: message 1 slow (1500 bytes)
        b: message 1 slow (1500 bytes)
        a: resumes
        a: ack
        b: message 1 slow (1500 bytes)
        b: message 1 slow late
        ",
    );
}

#[test]
fn a_publisher_resumes_when_the_receiver_leaves() {
    check(
        "
        + a b
        b: sub 1 slow
        b: stall
        a: pubsize slow 1500 | pubsize slow 1500 | pubsize slow 1500
        a: pub slow late | flush
        - b
        ",
        "
        b: ack
        a: waits
        a: resumes
        a: ack
        ",
    );
}

#[test]
fn a_receiver_that_stalls_is_cut_off_and_told_why() {
    check(
        "
        + a b
        b: sub 1 slow
        b: stall
        a: pubsize slow 1500 | pubsize slow 1500 | pubsize slow 1500
        a: pub slow late | flush
        wait 9
        wait 2
        b: read 9000
        ",
        "
        b: ack
        a: waits
        a: resumes
        b: closes: it did not read fast enough
        a: ack
        b: error TooSlow
        b: bye
        ",
    );
}

#[test]
fn overflow_drops_what_was_asked_for_and_reports_it() {
    check(
        "
        + a b c
        b: sub 1 x drop-oldest
        c: sub 1 x drop-newest
        b: stall
        c: stall
        a: pubsize x 1001
        a: pubsize x 1002
        a: pubsize x 1003
        a: pubsize x 1004
        a: pubsize x 1005
        b: read 9000
        b: read 9000
        c: read 9000
        c: read 9000
        ",
        "
        b: ack
        c: ack
        b: message 1 x (1004 bytes)
        b: message 1 x (1005 bytes)
        b: gap 1 3 oldest
        c: message 1 x (1001 bytes)
        c: message 1 x (1002 bytes)
        c: message 1 x (1003 bytes)
        c: message 1 x (1004 bytes)
        c: gap 1 1 newest
        ",
    );
}

#[test]
fn a_peer_that_does_not_take_its_answers_may_not_ask_for_more() {
    check(
        "
        + a b
        a: sub 1 x
        a: stall
        b: pubsize x 2000 | pubsize x 2000
        a: ping
        b: pub fine fine | flush
        a: read 9000
        a: read 9000
        ",
        "
        a: ack
        a: waits
        b: ack
        a: message 1 x (2000 bytes)
        a: message 1 x (2000 bytes)
        a: resumes
        a: pong
        ",
    );
}

#[test]
fn dropping_the_oldest_lets_those_go_on_who_wait_for_the_same_outbox() {
    check(
        "
        + a b c
        b: sub 1 x block
        b: sub 2 y drop-oldest
        b: stall
        c: pubsize y 1500 | pubsize y 1500
        a: pubsize x 500 | pubsize x 500
        a: pub x late | flush
        c: pub y new
        ",
        "
        b: ack
        b: ack
        a: waits
        a: resumes
        a: ack
        ",
    );
}

#[test]
fn overflow_can_cut_the_subscriber_off() {
    check(
        "
        + a b
        b: sub 1 x disconnect
        b: stall
        a: pubsize x 2000 | pubsize x 2000 | pubsize x 2000
        a: pubsize x 1
        ",
        "
        b: ack
        b: closes: its outbox is full
        ",
    );
}

#[test]
fn names_are_unique_until_their_owner_leaves() {
    check(
        "
        + a=ann b=bob
        + c=ann
        - a
        + d=ann
        ",
        "
        c: error NameTaken
        c: bye
        c: closes: the name ann is taken
        ",
    );
}

#[test]
fn senders_are_introduced_once_to_those_who_asked() {
    check(
        "
        + a=ann b c
        b: sub 1 x origin
        c: sub 1 x
        a: pub x 1
        a: pub x 2
        ",
        "
        b: ack
        c: ack
        b: origin ann
        b: message 1 x 1
        c: message 1 x 1
        b: message 1 x 2
        c: message 1 x 2
        ",
    );
}

#[test]
fn a_silent_or_slow_peer_meets_its_deadline() {
    check(
        "
        ++ a
        + b
        b: half
        wait 4
        wait 2
        wait 2
        wait 23
        ",
        "
        a: error TimedOut
        a: bye
        a: closes: the handshake took too long
        a: dropped
        b: error TimedOut
        b: bye
        b: closes: a frame took too long to arrive
        ",
    );
}

#[test]
fn nothing_but_hello_opens_a_session() {
    check(
        "
        ++ a b c d
        a: pub x y
        b: sub 1 x
        c: garbage
        d: hello 2 3
        ",
        "
        a: error Protocol
        a: bye
        a: closes: a message before the session is open
        b: error Protocol
        b: bye
        b: closes: Subscribe is not expected now
        c: error Protocol
        c: bye
        c: closes: a frame of 1413826336 bytes, where at most 4096 are allowed
        d: error Version
        d: bye
        d: closes: no common version: this daemon speaks 1
        ",
    );
}

#[test]
fn a_second_hello_ends_the_session() {
    check(
        "
        + a
        a: hello 1 1
        ",
        "
        a: error Protocol
        a: bye
        a: closes: Hello is not for the daemon
        ",
    );
}

#[test]
fn an_end_is_announced_and_what_waits_is_still_written() {
    check(
        "
        + a b
        b: sub 1 x
        b: stall
        a: pub x last
        drain
        b: read 9000
        ",
        "
        b: ack
        a: error Ending
        a: bye
        a: closes: the daemon is ending
        b: closes: the daemon is ending
        b: message 1 x last
        b: error Ending
        b: bye
        ",
    );
}

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
    // An outbox holds 4,000 bytes; a quarter more is allowed for such messages.
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
        b: closes: messages to it have filled its outbox
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
    // The copy for the first group fills the outbox of the only member of the second.
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
