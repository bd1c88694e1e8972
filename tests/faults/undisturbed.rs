//! The slow-down of healthy peers during a fault: their 99th percentile must stay below twice that
//! without it.
//!
//! A machine's speed varies, so windows with and without the fault alternate, the medians of their
//! 99th percentiles are compared, and one of three attempts must pass. All of this takes long, and
//! needs the machine for itself.

mod hostile;

use std::time::{Duration, Instant};

use ipcd_tests::{Daemon, DaemonSetup, FaultScene, HealthyLoad, RawConnection, children, is_alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MOST: f64 = 2.0;
const ATTEMPTS: usize = 3;
/// The number of windows of each kind in an attempt.
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// A time of healthy peers, without the fault and with it.
struct Comparison {
    quiet: Duration,
    struck: Duration,
}

impl Comparison {
    fn ratio(&self) -> f64 {
        self.struck.div_duration_f64(self.quiet)
    }
}

/// Two workers; the healthy peers are on the first.
fn scene() -> FaultScene {
    let config = "[limits]\noutbox = \"64KiB\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
    let load = HealthyLoad::start_on(&daemon, &["unix", "tcp", "pipe", "fifo"], 0);
    FaultScene::set(daemon, load)
}

/// Checks that the fault, which lasts as long as it is told, leaves healthy peers alone: they are
/// as fast as without it, while `otherwise` goes on. Returns the medians of the attempt that passed.
///
/// # Panics
/// If all attempts fail.
fn assert_undisturbed(
    scene: &FaultScene,
    what: &str,
    mut otherwise: impl FnMut(Duration),
    mut fault: impl FnMut(Duration),
) -> Comparison {
    let mut ratios = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let (mut quiet, mut struck) = (Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            quiet.push(p99(scene, &mut otherwise));
            struck.push(p99(scene, &mut fault));
        }
        let p99 = Comparison { quiet: median(&mut quiet), struck: median(&mut struck) };
        let ratio = p99.ratio();
        eprintln!("{what}, attempt {attempt}: p99 × {ratio:.2}; {quiet:.0?} and {struck:.0?}");
        ratios.push(ratio);
        if ratio < MOST {
            return p99;
        }
    }
    panic!(
        "{what}: the 99th percentile of healthy peers is {ratios:.2?} times that without the fault"
    );
}

/// Their 99th percentile in a window.
fn p99(scene: &FaultScene, pass: impl FnOnce(Duration)) -> Duration {
    // Messages of an earlier window.
    scene.load().goes_on();
    scene.load().take_latency();
    pass(WINDOW);
    scene.load().take_latency().p99
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Readers on both workers that take a message now and then during a flood, and writers that send a
/// byte at a time.
#[test]
#[ignore = "long: half a minute"]
fn slow_clients_disturb_nobody() {
    const EACH: usize = 10;
    const PAUSE: Duration = Duration::from_millis(20);
    let scene = scene();
    let nothing = |span| scene.endure(span);
    assert_undisturbed(&scene, "slow clients", nothing, |span| {
        let end = Instant::now() + span;
        let schemes = || ["unix", "tcp"].into_iter().cycle().take(EACH);
        let readers = schemes().map(|scheme| {
            let mut raw = scene.daemon.session(scheme);
            raw.shrink();
            raw.subscribe(1, "slow");
            raw
        });
        let mut readers: Vec<RawConnection> = readers.collect();
        let mut writers: Vec<RawConnection> =
            schemes().map(|scheme| scene.daemon.session(scheme)).collect();
        let mut publisher = scene.daemon.client("unix");
        let frame = RawConnection::message_bytes(0, b"nobody", &[b'x'; 1000]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // It waits for its readers most of the time, and continues when they leave.
                while Instant::now() < end {
                    publisher.publish("slow", &[b'x'; 1000]).expect("its worker lives");
                    publisher.push().expect("its worker lives");
                }
            });
            for byte in frame.iter().cycle() {
                if Instant::now() >= end {
                    break;
                }
                readers.iter_mut().for_each(|reader| drop(reader.frame()));
                writers.iter_mut().for_each(|writer| writer.send(&[*byte]));
                std::thread::sleep(PAUSE);
            }
            drop(readers);
        });
    });
    finish(scene, "slow clients beside healthy ones");
}

/// Peers of the worker that is killed; they come back, on either worker.
#[test]
#[ignore = "long: half a minute"]
fn killed_workers_disturb_nobody_on_another() {
    const LIFE: Duration = Duration::from_millis(200);
    let scene = scene();
    let victims = ["unix", "pipe", "fifo", "tcp"];
    let victims = victims.map(|scheme| scene.daemon.recv(scheme, &["-q", "v"]));
    let own = scene.daemon.worker_in(0).pid;
    let nothing = |span| scene.endure(span);
    assert_undisturbed(&scene, "killed workers", nothing, |span| {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let all = children(scene.daemon.process.pid());
            for pid in all.into_iter().filter(|pid| *pid != own && is_alive(*pid)) {
                // It is a process of this test's daemon, found a moment ago.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(LIFE);
        }
    });
    drop(victims);
    assert_eq!(scene.daemon.worker_in(0).pid, own, "their worker was replaced");
    finish(scene, "killed workers beside healthy peers");
}

/// The pause between two peers of a flood, which must not take all of the machine.
const PACE: Duration = Duration::from_millis(1);

/// One peer after another connects, sends nonsense, and is told. The flood and its target need
/// processors, and on two of them every other program is slower, also without ipcd. So the flood is
/// compared with the same flood against another daemon.
#[test]
#[ignore = "long: half a minute"]
fn floods_of_junk_disturb_nobody() {
    let scene = scene();
    let decoy = DaemonSetup::new().args(&["--workers", "2"]).start();
    let elsewhere = |span| flood(&decoy, span);
    assert_undisturbed(&scene, "floods of junk", elsewhere, |span| flood(&scene.daemon, span));
    finish(scene, "floods of junk beside healthy peers");
}

fn flood(daemon: &Daemon, span: Duration) {
    let hello = RawConnection::hello_bytes();
    let message = RawConnection::message_bytes(0, b"early", b"");
    let junk: [&[u8]; 6] = [
        &[0; 40],
        &[0xff; 4096],
        b"GET / HTTP/1.1\r\n\r\n",
        &message,
        &hello.repeat(2),
        &[&[0, 0, 0, 0x80][..], &[1; 60]].concat(),
    ];
    let end = Instant::now() + span;
    let mut count = 0;
    for (bytes, scheme) in junk.iter().cycle().zip(["unix", "tcp", "pipe", "fifo"].iter().cycle()) {
        if Instant::now() >= end {
            break;
        }
        let mut raw = daemon.raw(scheme);
        raw.send(bytes);
        raw.finish();
        while raw.frame().is_some() {}
        count += 1;
        std::thread::sleep(PACE);
    }
    eprintln!("{count} came with junk");
}

/// Buffers that the fault has needed are kept, and count as the baseline.
fn finish(mut scene: FaultScene, what: &str) {
    scene.rehearsed();
    scene.check(what);
}
