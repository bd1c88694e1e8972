//! Runs a daemon under a mixed load and one fault after the other, for as long as it is told, and
//! prints what grows: memory, descriptors, latency. Exit 1 if a message of a healthy peer is lost.
//!
//! `tests/faults/run soak 10m` builds what it needs and starts it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use ipcd_tests::{Daemon, Load, Raw, Running, Setup, children, descriptors, memory, raise_limit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_secs(2);
/// Between two faults, at the most.
const MOST_PAUSE_MS: u64 = 600;
/// Descriptors that peers on their way out may still have at a look.
const LEAVING: f64 = 20.0;

#[derive(Parser)]
#[command(about = "a daemon under load and faults; prints the slopes of what may grow")]
struct Args {
    /// How long
    #[arg(long = "for", default_value = "1m", value_name = "D")]
    span: humantime::Duration,
    /// What decides about the faults; random, and printed, without it
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_limit();
    let mut soak = Soak::start(args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)));
    soak.run(*args.span);
    match soak.report() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What was seen at one time.
struct Look {
    at_s: f64,
    /// Memory of the supervisor and of the worker that nobody strikes, in KiB.
    memory_kib: f64,
    descriptors: f64,
    p99_us: f64,
}

struct Soak {
    seed: u64,
    random: fastrand::Rng,
    daemon: Daemon,
    load: Load,
    /// The worker of the healthy peers.
    healthy: i32,
    /// Others, which are struck: receivers that come back, and one that does not read.
    victims: Vec<Running>,
    faults: Vec<(&'static str, u64)>,
    looks: Vec<Look>,
}

type Fault = (&'static str, fn(&mut Soak));

const FAULTS: [Fault; 8] = [
    ("worker killed", |soak| soak.strike(Signal::SIGKILL)),
    ("worker stopped", |soak| soak.strike(Signal::SIGSTOP)),
    ("junk", Soak::junk),
    ("strangers", Soak::strangers),
    ("short connections", Soak::come_and_go),
    ("client killed while it sends", Soak::kill_sender),
    ("reader stopped", Soak::stop_reader),
    ("reload", Soak::reload),
];

impl Soak {
    fn start(seed: u64) -> Self {
        let config = "[daemon]\nwatchdog = \"500ms\"\n\
            [limits]\noutbox = \"256KiB\"\nstall_timeout = \"1s\"\nhandshake_timeout = \"2s\"\n";
        let daemon = Setup::new().config(config).args(&["--workers", "2"]).start();
        let load = Load::start_on(&daemon, &["unix", "pipe", "fifo", "tcp", "udp"], 0);
        let healthy = daemon.worker_in(0).pid;
        let victim = |scheme| daemon.recv(scheme, &["-q", "-N", "victims.>"]);
        let mut victims: Vec<Running> = ["unix", "tcp", "fifo"].map(victim).into();
        for victim in &mut victims {
            victim.stdout();
        }
        let random = fastrand::Rng::with_seed(seed);
        let faults = FAULTS.map(|(name, _)| (name, 0)).into();
        Self { seed, random, daemon, load, healthy, victims, faults, looks: Vec::new() }
    }

    fn run(&mut self, span: Duration) {
        println!("seed {}, for {}", self.seed, humantime::format_duration(span));
        let start = Instant::now();
        let mut next_look = start + LOOK;
        self.load.take_latency();
        while start.elapsed() < span {
            let which = self.random.usize(..FAULTS.len());
            self.faults[which].1 += 1;
            FAULTS[which].1(self);
            self.load.goes_on();
            sleep(Duration::from_millis(self.random.u64(..MOST_PAUSE_MS)));
            if Instant::now() >= next_look {
                self.look(start);
                next_look = Instant::now() + LOOK;
            }
        }
    }

    fn look(&mut self, start: Instant) {
        let pids = [self.daemon.process.pid(), self.healthy];
        let held: usize = pids.iter().map(|pid| descriptors(*pid).len()).sum();
        self.looks.push(Look {
            at_s: start.elapsed().as_secs_f64(),
            memory_kib: memory(&pids) as f64 / 1024.0,
            descriptors: held as f64,
            p99_us: self.load.take_latency().p99.as_secs_f64() * 1e6,
        });
    }

    /// The worker that may be struck, if it lives now.
    fn other(&self) -> Option<i32> {
        children(self.daemon.process.pid()).into_iter().find(|pid| *pid != self.healthy)
    }

    fn strike(&mut self, signal: Signal) {
        if let Some(pid) = self.other() {
            // A child of the daemon that was there just now.
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
        let _silent: Vec<Raw> = (0..50).map(|n| self.daemon.raw(["unix", "tcp"][n % 2])).collect();
    }

    fn come_and_go(&mut self) {
        for number in 0..20 {
            let scheme = ["unix", "tcp", "pipe", "fifo"][number % 4];
            let ended = self.daemon.ctl(scheme, &["send", "victims.all", "hello"]).run();
            // It may have been on the worker that was just struck.
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
        let Some(pid) = self.victims.first().map(Running::pid) else { return };
        // Our own child, which ends only with us.
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
        self.come_and_go();
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }

    fn reload(&mut self) {
        self.daemon.process.signal(Signal::SIGHUP);
    }

    /// Prints what was seen; whether it is as it should be.
    fn report(self) -> bool {
        let (received, lost) = self.load.counts();
        let same = children(self.daemon.process.pid()).contains(&self.healthy);
        let mut text = String::new();
        let _ = writeln!(text, "{received} messages of healthy peers, {lost} datagrams lost");
        for (name, count) in &self.faults {
            let _ = writeln!(text, "{count:6} × {name}");
        }
        let _ = writeln!(text, "what             first      last     slope per hour");
        let mut row = |name: &str, unit: &str, of: fn(&Look) -> f64| {
            let [Some(first), Some(last)] =
                [self.looks.first(), self.looks.last()].map(|l| l.map(of))
            else {
                return;
            };
            let slope = slope(&self.looks, of) * 3600.0;
            let _ = writeln!(text, "{name:12} {first:9.0} {last:9.0} {slope:+14.1} {unit}");
        };
        row("memory", "KiB", |look| look.memory_kib);
        row("descriptors", "", |look| look.descriptors);
        row("p99", "µs", |look| look.p99_us);
        print!("{text}");
        let grown = |of: fn(&Look) -> f64| {
            let first = self.looks.first().map_or(0.0, of);
            self.looks.last().map_or(0.0, of) - first
        };
        let is_well = same && grown(|look| look.descriptors) <= LEAVING;
        self.load.finish();
        println!(
            "{}",
            if is_well { "well" } else { "the worker was replaced, or descriptors leak" }
        );
        is_well
    }
}

/// The slope of the line through all points that fits them best, for a second.
fn slope(looks: &[Look], of: fn(&Look) -> f64) -> f64 {
    let count = looks.len() as f64;
    let mean = |of: &dyn Fn(&Look) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|look| look.at_s), mean(&of));
    let both: f64 = looks.iter().map(|look| (look.at_s - x) * (of(look) - y)).sum();
    let spread: f64 = looks.iter().map(|look| (look.at_s - x).powi(2)).sum();
    if spread > 0.0 { both / spread } else { 0.0 }
}
