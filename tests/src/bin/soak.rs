//! Runs a daemon under a mixed load and one fault after the other, for a given time, and prints the
//! growth of memory, descriptors and latency. Exit 1 if a message of a healthy peer is lost.
//!
//! `tests/faults/run soak 10m` builds its parts and starts it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use ipcd_tests::{
    Daemon, DaemonSetup, HealthyLoad, RawConnection, RunningProcess, anonymous, children,
    descriptors, raise_limit,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The time between two samples of the daemon.
const LOOK: Duration = Duration::from_secs(2);
/// The longest time between two faults.
const MOST_PAUSE_MS: u64 = 600;
/// The time that the slopes leave out by default.
const MOST_WARM_UP: Duration = Duration::from_secs(60);
/// Descriptors that closing peers may still have in a sample.
const LEAVING: f64 = 20.0;

#[derive(Parser)]
#[command(about = "a daemon under load and faults; prints the slopes of what may grow")]
struct SoakArgs {
    /// Duration of the run
    #[arg(long = "for", default_value = "1m", value_name = "D")]
    span: humantime::Duration,
    /// Seed of the faults; random, and printed, by default
    #[arg(long)]
    seed: Option<u64>,
    /// Only the faults whose names contain one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// The time at the beginning that the slopes leave out: buffers and caches are filled then
    /// [default: a quarter of the whole, at most a minute]
    #[arg(long, value_name = "D")]
    warm_up: Option<humantime::Duration>,
    /// Print each sample
    #[arg(long)]
    looks: bool,
}

fn main() -> ExitCode {
    let args = SoakArgs::parse();
    raise_limit();
    let mut soak =
        SoakRun::start(args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)), &args.only);
    soak.run(*args.span, args.looks);
    let most = (*args.span / 4).min(MOST_WARM_UP);
    match soak.report(args.warm_up.map_or(most, |span| *span)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// One sample.
#[derive(Debug)]
struct SoakSample {
    at_s: f64,
    /// Memory of the supervisor, and of the worker that no fault strikes.
    supervisor_kib: f64,
    worker_kib: f64,
    descriptors: f64,
    p99_us: f64,
}

struct SoakRun {
    seed: u64,
    random: fastrand::Rng,
    daemon: Daemon,
    load: HealthyLoad,
    /// The worker of the healthy peers.
    healthy: i32,
    /// Other peers, which faults strike: receivers that come back, and one that does not read.
    victims: Vec<RunningProcess>,
    /// The faults, and how often each has struck.
    faults: Vec<(Fault, u64)>,
    looks: Vec<SoakSample>,
}

type Fault = (&'static str, fn(&mut SoakRun));

const FAULTS: [Fault; 8] = [
    ("worker killed", |soak| soak.strike(Signal::SIGKILL)),
    ("worker stopped", |soak| soak.strike(Signal::SIGSTOP)),
    ("junk", SoakRun::junk),
    ("strangers", SoakRun::strangers),
    ("short connections", SoakRun::come_and_go),
    ("client killed while it sends", SoakRun::kill_sender),
    ("reader stopped", SoakRun::stop_reader),
    ("reload", SoakRun::reload),
];

impl SoakRun {
    fn start(seed: u64, only: &[String]) -> Self {
        let config = "[daemon]\nwatchdog = \"500ms\"\n\
            [limits]\noutbox = \"256KiB\"\nstall_timeout = \"1s\"\nhandshake_timeout = \"2s\"\n";
        let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
        let load = HealthyLoad::start_on(&daemon, &["unix", "pipe", "fifo", "tcp", "udp"], 0);
        let healthy = daemon.worker_in(0).pid;
        let victim = |scheme| daemon.recv(scheme, &["-q", "-N", "victims.>"]);
        let mut victims: Vec<RunningProcess> = ["unix", "tcp", "fifo"].map(victim).into();
        for victim in &mut victims {
            victim.stdout();
        }
        let random = fastrand::Rng::with_seed(seed);
        let is_wanted = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text));
        let faults = FAULTS.into_iter().filter(|(name, _)| is_wanted(name));
        let faults: Vec<_> = faults.map(|fault| (fault, 0)).collect();
        Self { seed, random, daemon, load, healthy, victims, faults, looks: Vec::new() }
    }

    fn run(&mut self, span: Duration, prints: bool) {
        println!("seed {}, for {}", self.seed, humantime::format_duration(span));
        let start = Instant::now();
        let mut next_look = start + LOOK;
        self.load.take_latency();
        while start.elapsed() < span {
            if !self.faults.is_empty() {
                let which = self.random.usize(..self.faults.len());
                self.faults[which].1 += 1;
                self.faults[which].0.1(self);
            }
            self.load.goes_on();
            sleep(Duration::from_millis(self.random.u64(..MOST_PAUSE_MS)));
            if Instant::now() >= next_look {
                self.look(start);
                if let Some(look) = self.looks.last().filter(|_| prints) {
                    println!("{look:?}");
                }
                next_look = Instant::now() + LOOK;
            }
        }
    }

    fn look(&mut self, start: Instant) {
        let pids = [self.daemon.process.pid(), self.healthy];
        let held: usize = pids.iter().map(|pid| descriptors(*pid).len()).sum();
        self.looks.push(SoakSample {
            at_s: start.elapsed().as_secs_f64(),
            supervisor_kib: anonymous(pids[0]) as f64 / 1024.0,
            worker_kib: anonymous(pids[1]) as f64 / 1024.0,
            descriptors: held as f64,
            p99_us: self.load.take_latency().p99.as_secs_f64() * 1e6,
        });
    }

    /// The worker that faults may strike, if it lives.
    fn other(&self) -> Option<i32> {
        children(self.daemon.process.pid()).into_iter().find(|pid| *pid != self.healthy)
    }

    fn strike(&mut self, signal: Signal) {
        if let Some(pid) = self.other() {
            // It was a child of the daemon a moment ago.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn junk(&mut self) {
        for scheme in ["unix", "tcp"] {
            let junk: Vec<u8> =
                (0..self.random.usize(1..5000)).map(|_| self.random.u8(..)).collect();
            self.daemon.raw(scheme).send(&junk);
        }
    }

    fn strangers(&mut self) {
        let _silent: Vec<RawConnection> =
            (0..50).map(|n| self.daemon.raw(["unix", "tcp"][n % 2])).collect();
    }

    fn come_and_go(&mut self) {
        for number in 0..20 {
            let scheme = ["unix", "tcp", "pipe", "fifo"][number % 4];
            let ended = self.daemon.ctl(scheme, &["send", "victims.all", "hello"]).run();
            // Its worker may be the one that was struck.
            assert!(matches!(ended.status.code(), Some(0 | 3 | 7)), "{ended:?}");
        }
    }

    fn kill_sender(&mut self) {
        let body = "x".repeat(100_000);
        let args = ["send", "victims.flood", &body, "--count", "100000"];
        let scheme = ["unix", "tcp", "udp"][self.random.usize(..3)];
        let mut sender = self.daemon.ctl(scheme, &args).spawn();
        sleep(Duration::from_millis(self.random.u64(..200)));
        if sender.has_ended().is_none() {
            sender.signal(Signal::SIGKILL);
        }
    }

    fn stop_reader(&mut self) {
        let Some(pid) = self.victims.first().map(RunningProcess::pid) else { return };
        // The process is our own child, which ends only with us.
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
        self.come_and_go();
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }

    fn reload(&mut self) {
        self.daemon.process.signal(Signal::SIGHUP);
    }

    /// Prints the samples, and returns whether all is well.
    fn report(self, warm_up: Duration) -> bool {
        let (received, lost) = self.load.counts();
        let same = children(self.daemon.process.pid()).contains(&self.healthy);
        println!("{received} messages of healthy peers, {lost} datagrams lost");
        for ((name, _), count) in &self.faults {
            println!("{count:6} × {name}");
        }
        let cold = self.looks.partition_point(|look| look.at_s < warm_up.as_secs_f64());
        let looks = &self.looks[cold..];
        let warm_up = humantime::format_duration(warm_up);
        println!("{} looks; {cold} of the first {warm_up} left out", self.looks.len());
        print!("{}", table(looks));
        let ends = looks.first().zip(looks.last());
        let leak = ends.is_some_and(|(first, last)| last.descriptors - first.descriptors > LEAVING);
        self.load.finish();
        let is_well = same && !leak;
        println!(
            "{}",
            if is_well { "well" } else { "the worker was replaced, or descriptors leak" }
        );
        is_well
    }
}

type Figure = fn(&SoakSample) -> f64;

/// The first and the last sample, and the growth between them.
fn table(looks: &[SoakSample]) -> String {
    let mut text = "what            first     last      slope per hour\n".to_owned();
    let Some((first, last)) = looks.first().zip(looks.last()) else { return text };
    let rows: [(&str, &str, Figure); 4] = [
        ("supervisor", "KiB", |look| look.supervisor_kib),
        ("worker", "KiB", |look| look.worker_kib),
        ("descriptors", "", |look| look.descriptors),
        ("p99", "µs", |look| look.p99_us),
    ];
    for (name, unit, of) in rows {
        let (first, last, (slope, error)) = (of(first), of(last), slope(looks, of));
        let (slope, error) = (slope * 3600.0, error * 3600.0);
        let _ =
            writeln!(text, "{name:12} {first:8.0} {last:8.0} {slope:+10.0} ± {error:.0} {unit}");
    }
    text
}

/// The slope, for a second, of the least-squares line through all samples; and its standard error,
/// if samples are independent.
fn slope(looks: &[SoakSample], of: Figure) -> (f64, f64) {
    let count = looks.len() as f64;
    let mean = |of: &dyn Fn(&SoakSample) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|look| look.at_s), mean(&of));
    let both: f64 = looks.iter().map(|look| (look.at_s - x) * (of(look) - y)).sum();
    let spread: f64 = looks.iter().map(|look| (look.at_s - x).powi(2)).sum();
    if spread == 0.0 || looks.len() < 3 {
        return (0.0, 0.0);
    }
    let slope = both / spread;
    let off = |look: &SoakSample| (of(look) - y - slope * (look.at_s - x)).powi(2);
    let rest: f64 = looks.iter().map(off).sum();
    (slope, (rest / (count - 2.0) / spread).sqrt())
}
