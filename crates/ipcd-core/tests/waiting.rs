//! Publishers that wait: who goes on first, and that each goes on in the end.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod script;

use script::run;

/// A batch of as many messages as fill an outbox several times.
fn flood(subject: &str) -> String {
    vec![format!("pubsize {subject} 1500"); 100].join(" | ")
}

/// What `hear` has seen of it, in all.
fn messages(seen: &[String], start: &str) -> usize {
    seen.iter().filter(|line| line.starts_with(start)).count()
}

#[test]
fn one_that_floods_goes_on_behind_those_that_it_keeps_waiting() {
    let flood = flood("x");
    let rounds = "wait 1\nb: read 32000\n".repeat(7);
    let seen = run(&format!(
        "
        set outbox=40000
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

/// Two receivers are full one after the other: their publisher waits as long as for one.
#[test]
fn a_publisher_waits_for_all_receivers_together_as_long_as_for_one() {
    let full = |who: &str| format!("w: {}", vec![format!("pubsize {who} 1000"); 48].join(" | "));
    let script = format!(
        "
        set outbox=40000
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
    // It gets the message all the same; the other one has been cut off for its own sake.
    let seen = run(&format!("{script}\ni: read 100000"));
    assert_eq!(messages(&seen, "i: message 1 x one"), 1, "{seen:#?}");
    assert!(seen.iter().any(|line| line.starts_with("h: closes: it did not read")), "{seen:#?}");
}
