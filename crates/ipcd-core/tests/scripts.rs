//! The router, driven by scripts: the actions of peers, and the frames that each of them receives.

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
fn a_full_send_queue_makes_the_publisher_wait_and_nobody_else() {
    // A send queue holds 4,000 bytes: three messages of 1,500 fill it.
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
fn publishers_do_not_run_far_ahead_of_a_receiver_that_reads() {
    check(
        "
        pace 1000
        + a b
        b: sub 1 x
        b: stall
        a: pubsize x 700 | pubsize x 700
        a: pub x late | flush
        b: read 900
        b: read 900
        b: read 900
        ",
        "
        b: ack
        a: waits
        b: message 1 x (700 bytes)
        b: message 1 x (700 bytes)
        a: resumes
        a: ack
        b: message 1 x late
        ",
    );
}

#[test]
fn the_send_queue_of_a_receiver_that_pauses_fills_up() {
    check(
        "
        pace 1000
        + a b
        b: sub 1 x
        b: stall
        a: pubsize x 1500
        a: pubsize x 1500 | pubsize x 1500
        wait 1
        a: pub x late | flush
        b: read 9000
        b: read 9000
        ",
        "
        b: ack
        a: waits
        a: resumes
        a: waits
        b: message 1 x (1500 bytes)
        b: message 1 x (1500 bytes)
        b: message 1 x (1500 bytes)
        a: resumes
        a: ack
        b: message 1 x late
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
        b: closes: the peer did not read fast enough (others waited)
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
fn dropping_the_oldest_lets_those_go_on_who_wait_for_the_same_send_queue() {
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
        b: closes: the peer's send queue is full
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
        a: closes: message received before the session is open
        b: error Protocol
        b: bye
        b: closes: unexpected Subscribe frame before the session is open
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
        a: closes: unexpected Hello frame in an open session
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
