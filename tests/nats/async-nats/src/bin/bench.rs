//! Measures a server through async-nats: `bench URL one-way SIZE COUNT`, `bench URL fan-out SUBSCRIBERS
//! SIZE COUNT` or `bench URL round-trip SIZE COUNT`. Prints messages a second that were received, or
//! the median and the 99th percentile of a request in nanoseconds.

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;

/// Messages that may wait in a client, so that it drops none.
const CAPACITY: usize = 1 << 20;
/// Untimed requests, after which caches are warm.
const WARM_UP: usize = 200;

type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> BenchResult<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, mode, numbers @ ..] = &arguments[..] else {
        return Err("usage: bench URL MODE NUMBER…".into());
    };
    let numbers: Vec<usize> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    match (mode.as_str(), &numbers[..]) {
        ("one-way", [size, count]) => println!("{:.0}", flow(url, 1, *size, *count).await?),
        ("fan-out", [subscribers, size, count]) => {
            println!("{:.0}", flow(url, *subscribers, *size, *count).await?);
        }
        ("round-trip", [size, count]) => {
            let (median, high) = round_trip(url, *size, *count).await?;
            println!("{} {}", median.as_nanos(), high.as_nanos());
        }
        _ => return Err("there is no such mode, or it has other numbers".into()),
    }
    Ok(())
}

async fn connect(url: &str) -> BenchResult<Client> {
    let options = ConnectOptions::new().subscription_capacity(CAPACITY);
    Ok(options.connect(url).await?)
}

async fn subscribe(url: &str) -> BenchResult<(Client, Subscriber)> {
    let client = connect(url).await?;
    let subscriber = client.subscribe("bench").await?;
    client.flush().await?;
    Ok((client, subscriber))
}

/// Received messages a second, of all subscribers together.
async fn flow(url: &str, subscribers: usize, size: usize, count: usize) -> BenchResult<f64> {
    let publisher = connect(url).await?;
    let receivers = try_join_all((0..subscribers).map(|_| subscribe(url))).await?;
    let receive = |(client, subscriber): (Client, Subscriber)| async move {
        let received = subscriber.take(count).count().await;
        drop(client);
        if received == count { Ok(()) } else { Err("messages are lost") }
    };
    let start = Instant::now();
    let tasks = receivers.into_iter().map(|receiver| tokio::spawn(receive(receiver)));
    let tasks: Vec<_> = tasks.collect();
    let payload = Bytes::from(vec![b'x'; size]);
    for _ in 0..count {
        publisher.publish("bench", payload.clone()).await?;
    }
    for task in tasks {
        task.await??;
    }
    Ok((subscribers * count) as f64 / start.elapsed().as_secs_f64())
}

/// The median and the 99th percentile of requests, one after the other.
async fn round_trip(url: &str, size: usize, count: usize) -> BenchResult<(Duration, Duration)> {
    let (responder, mut requests) = subscribe(url).await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            // A failure shows as a request without an answer.
            let _ = responder.publish(reply, request.payload).await;
        }
    });
    let client = connect(url).await?;
    let payload = Bytes::from(vec![b'x'; size]);
    let mut times = Vec::with_capacity(count);
    for number in 0..WARM_UP + count {
        let start = Instant::now();
        client.request("bench", payload.clone()).await?;
        if number >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    Ok((times[count / 2], times[count * 99 / 100]))
}
