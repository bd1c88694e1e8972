//! Silent peers: those that answer PING, that only receive, that are not read, that are slow, and
//! that are gone.

mod script;

use script::check;

#[test]
fn one_that_does_not_answer_is_let_go() {
    check(
        "
        set idle=10
        + gone alive
        wait 5
        wait 4
        alive: ping
        wait 1
        ",
        "
        gone: ping
        alive: ping
        alive: pong
        gone: error TimedOut
        gone: bye
        gone: closes: the peer was silent for too long
        ",
    );
}

#[test]
fn one_that_only_receives_is_not_idle_while_something_comes() {
    check(
        "
        set idle=10
        + reader writer
        reader: sub 1 x
        wait 4
        writer: pub x one
        wait 4
        writer: pub x two
        wait 4
        writer: pub x three
        wait 4
        writer: pub x four
        ",
        "
        reader: ack
        reader: message 1 x one
        reader: message 1 x two
        reader: message 1 x three
        reader: message 1 x four
        ",
    );
}

#[test]
fn one_that_waits_or_is_slow_is_not_idle() {
    check(
        "
        set idle=10 stall=100 queue=1000
        + reader writer
        reader: sub 1 x
        reader: stall
        writer: pubsize x 2000
        writer: pub x waits
        wait 8
        wait 8
        wait 8
        reader: read 10000
        ",
        "
        reader: ack
        writer: waits
        reader: message 1 x (2000 bytes)
        writer: resumes
        ",
    );
}

#[test]
fn a_queue_that_stops_moving_is_noticed_however_long_it_moved_before() {
    check(
        "
        + reader writer
        reader: sub 1 x
        wait 100
        writer: pub x one
        wait 100
        reader: stall
        writer: pub x two
        wait 6
        writer: pub x three
        wait 5
        reader: read 10000
        ",
        "
        reader: ack
        reader: message 1 x one
        reader: closes: the peer did not read fast enough (others waited)
        reader: error TooSlow
        reader: bye
        ",
    );
}
