//! Waiting publishers: their order, and that each continues in the end.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod script;

use script::run;

/// Messages that fill a send queue several times.
fn flood(subject: &str) -> String {
    vec![format!("pubsize {subject} 1500"); 100].join(" | ")
}

/// The total that `hear` has seen of it.
fn messages(seen: &[String], start: &str) -> usize {
    seen.iter().filter(|line| line.starts_with(start)).count()
}

#[test]
fn one_that_floods_goes_on_behind_those_that_it_keeps_waiting() {
    let flood = flood("x");
    let rounds = "wait 1\nb: read 32000\n".repeat(7);
    let seen = run(&format!(
        "
        set queue=40000
        + b f g q r
        b: sub 1 x
        b: stall
        f: {flood}
        wait 1
        g: {flood}
        wait 1
        q: pub x quiet
        r: pub x quiet
        {rounds}
        "
    ));
    assert_eq!(messages(&seen, "b: message 1 x quiet"), 2, "{seen:#?}");
    let (f, g) = (messages(&seen, "f: resumes"), messages(&seen, "g: resumes"));
    assert!(f.abs_diff(g) <= 2 && f > 2, "{f} turns and {g}: {seen:#?}");
}

/// Two receivers are full one after the other. Their publisher waits as long as for one.
#[test]
fn a_publisher_waits_for_all_receivers_together_as_long_as_for_one() {
    let full = |who: &str| format!("w: {}", vec![format!("pubsize {who} 1000"); 48].join(" | "));
    let script = format!(
        "
        set queue=40000
        + h i p w
        h: sub 1 x | sub 2 h drop-newest
        i: sub 1 x | sub 2 i drop-newest
        h: stall
        i: stall
        {}
        p: pub x one | flush
        wait 6
        {}
        wait 3
        p: ping
        wait 1
        wait 0
        ",
        full("h"),
        full("i"),
    );
    let seen = run(&script);
    assert!(seen.contains(&"p: resumes".to_owned()), "{seen:#?}");
    assert!(seen.contains(&"p: ack".to_owned()), "{seen:#?}");
    assert!(!seen.iter().any(|line| line.starts_with("i: closes")), "{seen:#?}");
    // The peer gets the message; the other receiver was disconnected for its own full queue.
    let seen = run(&format!("{script}\ni: read 100000"));
    assert_eq!(messages(&seen, "i: message 1 x one"), 1, "{seen:#?}");
    assert!(
        seen.iter().any(|line| line.starts_with("h: closes: the peer did not read")),
        "{seen:#?}"
    );
}

/// The third request of a user waits until one is answered; another user's does not.
#[test]
fn requests_of_one_principal_wait_while_too_many_outcomes_are_pending() {
    let script = "
        set pending=2
        + r@1 a@5 b@5 c@6
        r: sub 1 work
        a: req 1 work one | req 2 work two
        b: req 3 work three
        c: req 4 work four
    ";
    let seen = run(script);
    let got = |seen: &[String], text: &str| {
        seen.iter().any(|line| line.starts_with("r: message 1 work") && line.contains(text))
    };
    for (text, is_there) in [("one", true), ("two", true), ("three", false), ("four", true)] {
        assert_eq!(got(&seen, text), is_there, "{text}: {seen:#?}");
    }
    let answered = run(&format!("{script}\nr: pub @2.1 answer"));
    assert!(got(&answered, "three"), "{answered:#?}");
    let gone = run(&format!("{script}\n- a"));
    assert!(got(&gone, "three"), "{gone:#?}");
    // Its outcomes may depend on it, so it goes on in the end.
    let overdue = run(&format!("set stall=1\n{script}\nwait 2"));
    assert!(got(&overdue, "three"), "{overdue:#?}");
}
