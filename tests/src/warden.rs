//! Ends every process that a test has started, in whichever way the test ends.
//!
//! Each of them has a mark in its environment, which its children inherit. A shell waits for the
//! end of the test program, out of reach of a terminal's signals, and then ends all processes with
//! the mark: `warden.sh`, beside this file.

use std::fs;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The environment variable with the mark: `PROGRAM.NUMBER`.
const VARIABLE: &str = "IPCD_TEST";
/// The time between two checks that cargo still runs.
const LOOK: Duration = Duration::from_secs(1);

/// The mark of this test program, which no other test program has.
struct TestProgram {
    name: String,
    /// The warden's standard input ends with this program.
    _warden: Child,
}

fn program() -> &'static TestProgram {
    static PROGRAM: OnceLock<TestProgram> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}-{:x}", std::process::id(), since.subsec_nanos());
        let mut warden = Command::new("sh");
        warden.args(["-c", include_str!("warden.sh"), "warden", &name]).arg(std::env::temp_dir());
        warden.env_remove(VARIABLE).current_dir("/").process_group(0);
        warden.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let warden = warden.spawn().expect("the shell starts");
        if std::env::var_os("CARGO").is_some() {
            std::thread::spawn(end_with_cargo);
        }
        TestProgram { name, _warden: warden }
    })
}

/// Ends this program when cargo is gone: TERM and KILL of cargo do not reach it.
fn end_with_cargo() {
    let cargo = parent_id();
    while parent_id() == cargo {
        std::thread::sleep(LOOK);
    }
    std::process::exit(1);
}

/// Marks a command, so that its process and all that it starts end with the test program. Returns
/// the mark.
pub fn guard(command: &mut Command) -> String {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let mark = format!("{}.{}.", program().name, STARTED.fetch_add(1, Ordering::Relaxed));
    command.env(VARIABLE, &mark);
    mark
}

/// A private directory. It is removed when this value is dropped, or when the test program has
/// ended.
///
/// # Panics
/// If it cannot be created.
pub fn private_dir() -> TempDir {
    let prefix = format!("ipcd-test.{}.", program().name);
    TempDir::with_prefix(prefix).expect("a directory can be made")
}

/// Ends all processes with this mark.
pub(crate) fn sweep(mark: &str) {
    let entry = format!("{VARIABLE}={mark}");
    let pids = || fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_marked = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
    };
    for entry in pids() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| is_marked(*pid)) {
            // The process may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
