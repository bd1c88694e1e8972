//! The kernel's view of a process, from proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::eventually;

/// The kind of an open descriptor.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum OpenDescriptor {
    /// A Unix-domain socket of this type: `stream` or `seqpacket`.
    Unix(&'static str),
    /// A TCP socket, with its local and remote port.
    Tcp(u16, u16),
    /// A UDP socket, with its local and remote port.
    Udp(u16, u16),
    /// An anonymous pipe.
    Pipe,
    /// A file or FIFO, with its path, which may be removed by now.
    Path(String),
    /// A descriptor without a name in the file system, such as an epoll instance.
    Other(String),
}

/// The open descriptors of a process, by number, without the standard three, and without those that
/// the parent of the test program has left open.
///
/// # Panics
/// If there is no such process, or it belongs to another user.
pub fn descriptors(pid: i32) -> BTreeMap<i32, OpenDescriptor> {
    find_descriptors(pid).expect("the process runs and is ours")
}

/// As [`descriptors`]; `None` if the process has gone.
pub(crate) fn find_descriptors(pid: i32) -> Option<BTreeMap<i32, OpenDescriptor>> {
    let (ours, tables) = (links(std::process::id() as i32)?, SocketTables::read());
    let found = links(pid)?
        .into_iter()
        .filter(|(number, link)| *number > 2 && !ours.values().any(|our| our == link))
        .map(|(number, link)| (number, tables.describe(&link)));
    Some(found.collect())
}

fn links(pid: i32) -> Option<BTreeMap<i32, String>> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let link = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
    };
    Some(dir.filter_map(|entry| link(entry.ok()?)).collect())
}

/// The sockets that the kernel knows, by inode.
struct SocketTables(BTreeMap<u64, OpenDescriptor>);

impl SocketTables {
    fn read() -> Self {
        let mut sockets = BTreeMap::new();
        for line in lines("/proc/net/unix") {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [_, _, _, _, kind, _, inode, ..] = fields[..] else { continue };
            let kind = match kind {
                "0001" => "stream",
                "0002" => "dgram",
                "0005" => "seqpacket",
                _ => continue,
            };
            sockets.extend(inode.parse().ok().map(|inode| (inode, OpenDescriptor::Unix(kind))));
        }
        for (file, make) in [
            ("/proc/net/tcp", OpenDescriptor::Tcp as fn(u16, u16) -> OpenDescriptor),
            ("/proc/net/udp", OpenDescriptor::Udp),
        ] {
            for line in lines(file) {
                let fields: Vec<_> = line.split_ascii_whitespace().collect();
                let [_, local, remote, _, _, _, _, _, _, inode, ..] = fields[..] else { continue };
                let (Some(local), Some(remote)) = (port(local), port(remote)) else { continue };
                sockets.extend(inode.parse().ok().map(|inode| (inode, make(local, remote))));
            }
        }
        Self(sockets)
    }

    fn describe(&self, link: &str) -> OpenDescriptor {
        if link.starts_with('/') {
            return OpenDescriptor::Path(link.to_owned());
        }
        let (kind, inode) = link.split_once(":[").unwrap_or((link, ""));
        let inode = inode.trim_end_matches(']').parse().unwrap_or(0);
        match (kind, self.0.get(&inode)) {
            ("pipe", _) => OpenDescriptor::Pipe,
            ("socket", Some(socket)) => socket.clone(),
            _ => OpenDescriptor::Other(link.to_owned()),
        }
    }
}

fn lines(file: &str) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().skip(1).map(str::to_owned).collect()
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

/// The target of `/proc/PID/fd/N`; `None` if the descriptor is not open.
pub fn descriptor(pid: i32, number: i32) -> Option<String> {
    links(pid)?.remove(&number)
}

/// The memory, in bytes, of processes that share it by fork: anonymous pages, in proportional
/// shares. Pages of the program's file are left out, because their share changes with every other
/// test that runs the same program.
///
/// # Panics
/// If there is no such process.
pub fn memory(pids: &[i32]) -> u64 {
    find_memory(pids).expect("the processes run")
}

/// As [`memory`]; `None` if one of the processes has gone.
pub(crate) fn find_memory(pids: &[i32]) -> Option<u64> {
    pids.iter().map(|pid| share(*pid, "Pss_Anon:")).sum()
}

/// The memory of one process, in bytes, without files. Pages shared with a child count in full, so
/// the end of a child does not look like growth.
///
/// # Panics
/// If there is no such process.
pub fn anonymous(pid: i32) -> u64 {
    share(pid, "Anonymous:").expect("the process runs")
}

/// All memory of processes, in bytes and proportional shares, with the program's file.
///
/// # Panics
/// If there is no such process.
pub fn whole_memory(pids: &[i32]) -> u64 {
    let all: Option<u64> = pids.iter().map(|pid| share(*pid, "Pss:")).sum();
    all.expect("the processes run")
}

/// `None` if there is no such process.
fn share(pid: i32, what: &str) -> Option<u64> {
    // Reading fails with ESRCH for a process that is ending, and a zombie has no memory. For all
    // others Linux has Pss, and since 5.3 Pss_Anon.
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(what))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the text is a number");
    Some(kib * 1024)
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The state of a process, as in stat(5): `S`, `R`, `T`, `Z`; `None` if there is no such process.
pub fn state(pid: i32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process runs. A zombie does not.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Waits until the last deadline has passed. After that nothing may wake these processes.
///
/// # Panics
/// If one of them wakes up.
pub fn assert_asleep<const N: usize>(processes: [i32; N]) {
    let wakeups = || processes.map(context_switches);
    let quiet = || {
        let before = wakeups();
        // This is the time of observation. It proves nothing that must happen within it.
        sleep(Duration::from_secs(2));
        (before, wakeups())
    };
    eventually("quiet after the last deadline", || {
        let (before, after) = quiet();
        (before == after).then_some(())
    });
    let (before, after) = quiet();
    assert_eq!(before, after, "the daemon woke up with nothing to do");
}

/// The number of context switches of a process, voluntary or not.
fn context_switches(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
    lines
        .map(|line| line.rsplit_once('\t').and_then(|(_, n)| n.parse::<u64>().ok()))
        .map(|n| n.expect("the text is a number"))
        .sum()
}

/// Raises the descriptor limit of this process to the hard limit, and returns it.
///
/// # Panics
/// If the system refuses.
pub fn raise_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit all is allowed");
    hard
}
