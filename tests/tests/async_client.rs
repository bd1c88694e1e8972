//! The async client against a real daemon: streams, calls, cancellation, the loss of the daemon.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ipcd_client::{
    Answer, AsyncClient, Backoff, Client, Error, Event, Options, Publication, Query, RefusalCode,
    SubscribeOptions, Subscription, TokenSource,
};
use ipcd_tests::{Daemon, DaemonSetup, PATIENCE};
use tokio::runtime::Builder;
use tokio::task::yield_now;

const OPEN: &str = "[limits]\nstall_timeout = \"1000s\"\n";

/// Runs a test on a runtime of its own, with or without threads, and ends it if it hangs.
fn run<T>(test: impl Future<Output = T>) -> T {
    run_on(Builder::new_multi_thread().worker_threads(2), test)
}

fn run_on<T>(runtime: &mut Builder, test: impl Future<Output = T>) -> T {
    let runtime = runtime.enable_all().build().expect("the system has room for it");
    let watched = async { tokio::time::timeout(PATIENCE, test).await };
    runtime.block_on(watched).expect("the test ends")
}

fn options(daemon: &Daemon) -> Options {
    let token = TokenSource::File(daemon.runtime_dir().join("token"));
    Options { token, timeout: PATIENCE, ..Options::default() }
}

async fn connect(daemon: &Daemon, scheme: &str) -> AsyncClient {
    let endpoint = daemon.via(scheme).parse().expect("the text is an endpoint");
    AsyncClient::connect(&endpoint, options(daemon)).await.expect("the daemon is there")
}

async fn subscribe(client: &AsyncClient, filter: &str) -> Subscription {
    client.subscribe(filter, SubscribeOptions::default()).await.expect("it is allowed")
}

/// The next message, as text.
async fn next(stream: &mut Subscription) -> String {
    let message = stream.next().await.expect("the stream goes on").expect("the daemon is there");
    String::from_utf8(message.payload().to_vec()).expect("the payload is text")
}

/// Polls a future so many times, and drops it.
async fn cancel<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(done);
        }
        // The driver takes a step meanwhile, so that futures are dropped in each of their states.
        yield_now().await;
    }
    None
}

async fn matching(client: &AsyncClient, subject: &str) -> u64 {
    match client.query(&Query::Matching(subject.into())).await.expect("it is answered")[..] {
        [Answer::Matching(count)] => count,
        ref other => panic!("{other:?}"),
    }
}

async fn publish_numbers(client: AsyncClient, subject: &'static str, count: usize) {
    for number in 0..count {
        client.publish(subject, number.to_string().as_bytes()).await.expect("it is accepted");
    }
    client.flush().await.expect("all were accepted");
}

#[test]
fn streams_of_one_client_are_apart_and_in_order_over_every_transport() {
    let daemon = Daemon::start();
    for scheme in ["unix", "pipe", "fifo", "tcp"] {
        run(async {
            let client = connect(&daemon, scheme).await;
            let streams = [subscribe(&client, "a.*").await, subscribe(&client, "b.*").await];
            let publisher = connect(&daemon, scheme).await;
            let a = tokio::spawn(publish_numbers(publisher.clone(), "a.x", 2000));
            let b = tokio::spawn(publish_numbers(publisher, "b.x", 2000));
            let readers = streams.map(|mut stream| {
                tokio::spawn(async move {
                    for number in 0..2000 {
                        assert_eq!(next(&mut stream).await, number.to_string());
                    }
                })
            });
            for task in [a, b].into_iter().chain(readers) {
                task.await.expect("the task does not panic");
            }
            client.close().await.expect("nothing was refused");
        });
    }
}

#[test]
fn a_runtime_without_threads_and_datagrams_serve_as_well() {
    let daemon = Daemon::start();
    for scheme in ["unix", "udp"] {
        run_on(&mut Builder::new_current_thread(), async {
            let client = connect(&daemon, scheme).await;
            let mut stream = subscribe(&client, "x").await;
            for number in 0..500 {
                client.send("x", number.to_string().as_bytes()).await.expect("it is accepted");
                assert_eq!(next(&mut stream).await, number.to_string(), "{scheme}");
            }
        });
    }
}

#[test]
fn a_dropped_wait_for_a_message_loses_none() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let mut stream = subscribe(&client, "x").await;
        let publisher = connect(&daemon, "unix").await;
        let publishing = tokio::spawn(publish_numbers(publisher, "x", 5000));
        let (mut dropped, mut expected) = (0, 0);
        while expected < 5000 {
            match cancel(stream.next(), 1).await {
                Some(message) => {
                    let message = message.expect("it goes on").expect("the daemon is there");
                    assert_eq!(message.payload(), expected.to_string().as_bytes());
                    expected += 1;
                }
                None => dropped += 1,
            }
        }
        publishing.await.expect("the task does not panic");
        assert!(dropped > 0, "no wait was dropped");
    });
}

#[test]
fn a_dropped_call_leaves_nothing_behind_and_the_client_usable() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let mut stream = subscribe(&client, "x").await;
        let message = Publication { subject: "x", payload: b"m", ..Publication::default() };
        for polls in (0..6).chain([0, 1, 2, 1, 2, 1]) {
            let request = client.request_message(&message, PATIENCE);
            cancel(request, polls).await;
            cancel(client.subscribe("y", SubscribeOptions::default()), polls).await;
            cancel(client.flush(), polls).await;
            cancel(client.publish_acked(&message), polls).await;
            cancel(client.ping(), polls).await;
            cancel(client.query(&Query::Status), polls).await;
            cancel(client.subscribe("y", SubscribeOptions::default()), polls).await;
        }
        client.send("x", b"last").await.expect("no refusal of a dropped call is left");
        while next(&mut stream).await != "last" {}
        assert_eq!(matching(&client, "y").await, 0, "dropped subscriptions are over");
        assert_eq!(matching(&client, "x").await, 1);
    });
}

#[test]
fn a_publish_that_is_dropped_while_it_waits_publishes_nothing() {
    let daemon = DaemonSetup::new().config(OPEN).listen(&["unix"]).start();
    run(async {
        let reader = connect(&daemon, "unix").await;
        let mut stream = subscribe(&reader, "x").await;
        let client = connect(&daemon, "unix").await;
        let mut published = Vec::new();
        let mut number = 0;
        let mut dropped = 0;
        // Nothing is read: the stream's queue, the daemon's and the client's buffer fill up. That is
        // over when many attempts in a row find no room.
        while published.len() <= 500 || dropped < 200 {
            let payload = format!("{number:016384}");
            match cancel(client.publish("x", payload.as_bytes()), 2).await {
                Some(done) => {
                    done.expect("the message is valid");
                    published.push(payload);
                    dropped = 0;
                }
                None => dropped += 1,
            }
            number += 1;
        }
        let flushing = tokio::spawn({
            let client = client.clone();
            async move { client.send("x", b"end").await }
        });
        for payload in &published {
            assert!(next(&mut stream).await == *payload, "a message is missing, or is there twice");
        }
        assert_eq!(next(&mut stream).await, "end");
        flushing.await.expect("no panic").expect("all were accepted");
    });
}

#[test]
fn a_stream_that_is_not_read_stops_no_call_and_no_other_stream_after_it_is_dropped() {
    let daemon = DaemonSetup::new().config(OPEN).listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let unread = subscribe(&client, "unread").await;
        let mut read = subscribe(&client, "read").await;
        let publisher = connect(&daemon, "unix").await;
        for _ in 0..64 {
            publisher.publish("unread", &[7; 65_536]).await.expect("it is accepted");
        }
        publisher.send("read", b"behind").await.expect("it is accepted");
        client.ping().await.expect("a call is answered behind the messages");
        let more = tokio::spawn(async move {
            for _ in 0..512 {
                publisher.publish("unread", &[7; 65_536]).await.expect("it is accepted");
            }
            publisher.send("read", b"last").await
        });
        drop(unread);
        assert_eq!(next(&mut read).await, "behind");
        assert_eq!(next(&mut read).await, "last");
        more.await.expect("no panic").expect("it is accepted");
    });
}

#[test]
fn streams_outlive_a_restart_of_the_daemon() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let endpoint = daemon.via("unix").parse().expect("the text is an endpoint");
    let options = Options { reconnect: Some(Backoff::default()), ..options(&daemon) };
    run(async {
        let client = AsyncClient::connect(&endpoint, options).await.expect("it is there");
        let mut stream = subscribe(&client, "x").await;
        let first_peer = client.peer();
        for round in 0..3 {
            client.send("x", b"before").await.expect("it is accepted");
            assert_eq!(next(&mut stream).await, "before");
            daemon.terminate().expect(0);
            let lost = stream.next_event().await.expect("it goes on");
            assert!(matches!(lost, Ok(Event::Disconnected { .. })), "{lost:?}");
            // It stays in the buffer until there is a daemon.
            client.publish("x", b"meanwhile").await.expect("the buffer has room");
            daemon = daemon.start_again();
            let back = stream.next_event().await.expect("it goes on");
            assert!(matches!(back, Ok(Event::Reconnected { .. })), "{round}: {back:?}");
            assert_eq!(next(&mut stream).await, "meanwhile");
            // A message that the lost connection had not confirmed is told of once.
            let error = client.flush().await.expect_err("it was not confirmed");
            assert!(matches!(error, Error::Disconnected(_)), "{error:?}");
            client.flush().await.expect("the new connection has lost nothing");
        }
        assert!(client.peer() != 0 && first_peer != 0);
        client.close().await.expect("nothing was refused");
    });
}

#[test]
fn without_reconnection_the_loss_is_the_last_item_and_every_call_says_so() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let mut stream = subscribe(&client, "x").await;
        let responder = connect(&daemon, "unix").await;
        let mut requests = subscribe(&responder, "never").await;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.request("never", b"", PATIENCE).await }
        });
        requests.next().await.expect("it goes on").expect("the request comes");
        daemon.terminate().expect(0);
        waiting.await.expect("no panic").expect_err("nothing answers any more");
        let last = stream.next().await.expect("an error comes");
        assert!(matches!(last, Err(Error::Refused(_) | Error::Disconnected(_))), "{last:?}");
        assert!(stream.next().await.is_none());
        for error in [
            client.publish("x", b"").await.expect_err("it is over"),
            client.flush().await.expect_err("it is over"),
            client.request("x", b"", PATIENCE).await.map(drop).expect_err("it is over"),
        ] {
            assert!(matches!(error, Error::Refused(_) | Error::Disconnected(_)), "{error:?}");
        }
        client.close().await.expect_err("it is over");
    });
}

#[test]
fn requests_of_many_tasks_have_one_outcome_each() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let responder = connect(&daemon, "unix").await;
        let mut requests = subscribe(&responder, "double").await;
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let text = String::from_utf8_lossy(request.payload()).into_owned();
                let number: u64 = text.parse().expect("it is a number");
                let reply = (2 * number).to_string();
                responder.reply(&request, reply.as_bytes()).await.expect("it is valid");
            }
        });
        let client = connect(&daemon, "unix").await;
        let tasks = (0..500_u64).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let text = number.to_string();
                // Some callers go, at any time.
                if number % 5 == 0 {
                    cancel(client.request("double", text.as_bytes(), PATIENCE), 2).await;
                    return;
                }
                let reply = client.request("double", text.as_bytes(), PATIENCE).await;
                let reply = reply.expect("it is answered");
                assert_eq!(reply.payload(), (2 * number).to_string().as_bytes());
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("the task does not panic");
        }
    });
}

#[test]
fn errors_carry_the_reason_of_the_daemon() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let error = client.request("nowhere", b"", PATIENCE).await.expect_err("there is none");
        let Error::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!(refusal.code, RefusalCode::NoResponder);
        let large = vec![0; client.max_payload() + 1];
        let error = client.publish("x", &large).await.expect_err("it is too large");
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        let error = client.publish("a..b", b"").await.expect_err("it is no subject");
        assert!(matches!(error, Error::BadSubject(_)), "{error}");
        let mut silent = subscribe(&client, "silent").await;
        let nothing = client.request("silent", b"", Duration::from_millis(1)).await;
        assert!(matches!(nothing, Err(Error::TimedOut("reply"))), "{nothing:?}");
        silent.next().await.expect("it goes on").expect("the request came");
        let nowhere = "unix:///nowhere/at/all".parse().expect("the text is an endpoint");
        let error = AsyncClient::connect(&nowhere, Options::default()).await.err();
        assert!(matches!(error, Some(Error::Connect(_))), "{error:?}");
    });
}

#[test]
fn replies_receipts_and_direct_messages_reach_their_callers() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    run(async {
        let client = connect(&daemon, "unix").await;
        let other = connect(&daemon, "unix").await;
        let mut requests = subscribe(&other, "count").await;
        let message = Publication { subject: "count", ..Publication::default() };
        let mut replies = client.request_many(&message, PATIENCE).await.expect("it is valid");
        let request = requests.next().await.expect("it goes on").expect("the request comes");
        for (text, more) in [("one", true), ("two", true), ("three", false)] {
            other.reply_message(&request, &[], text.as_bytes(), more).await.expect("it is valid");
        }
        for text in ["one", "two", "three"] {
            let reply = replies.next().await.expect("it goes on").expect("the reply comes");
            assert_eq!((reply.payload(), reply.more), (text.as_bytes(), text != "three"));
        }
        let receipt = client.publish_acked(&message).await.expect("a receipt comes");
        assert_eq!(receipt.delivered, 1);
        let mut direct = other.direct_messages();
        client.send(&format!("@{}", other.peer()), b"you").await.expect("it is accepted");
        assert_eq!(next(&mut direct).await, "you");
        requests.unsubscribe().await.expect("it was there");
        assert_eq!(matching(&client, "count").await, 0);
        requests.next().await.expect("a message is left").expect("it came before");
        assert!(requests.next().await.is_none());
    });
}

#[test]
fn dropping_the_last_handle_still_delivers() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut receiver: Client = daemon.client("unix");
    receiver.subscribe("x", SubscribeOptions::default()).expect("it is allowed");
    run(async {
        let client = connect(&daemon, "unix").await;
        for number in 0..1000 {
            client.publish("x", &[number as u8; 100]).await.expect("the buffer has room");
        }
        drop(client);
        for number in 0..1000 {
            let received = receiver.messages().next().expect("it goes on").expect("it is there");
            assert_eq!(received.payload(), [number as u8; 100]);
        }
    });
}

#[test]
fn a_stream_ends_with_the_runtime_of_its_client() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut stream = run(async {
        let client = connect(&daemon, "unix").await;
        subscribe(&client, "x").await
    });
    let last = run(stream.next()).expect("an error comes");
    assert!(matches!(last, Err(Error::Disconnected(_))), "{last:?}");
}
