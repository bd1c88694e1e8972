//! Which calls these are, with which arguments. What a worker newly needs is added here.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Gt, Lt, MaskedEq};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::{FIRST_SHARED, Filter, LAST_SHARED, OWN_PROCESS};

/// What a worker may call as it likes.
const FREE: &[c_long] = &[
    // Bytes. Not sendmsg(2): a worker passes no descriptor on.
    libc::SYS_read,
    libc::SYS_readv,
    // Of what comes beside a channel: a memory file.
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_close,
    // Waiting.
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // What time it is, where the vDSO cannot tell, and randomness.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Memory, as the allocator wants it; mmap(2) and mprotect(2) are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Who one is, signal handling, and the end: a panic and an abort need them.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same, of calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// What no worker ever tries, and whoever has taken one over would. Opening files, making
/// sockets and forking is not among it: a library may try that and go on without.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_init_module,
    libc::SYS_finit_module,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Result<T> = std::result::Result<T, BackendError>;

pub(super) fn compile() -> std::result::Result<Filter, String> {
    let compiled = || -> Result<Filter> {
        let deadly = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let allowing = program(allowed()?, refuse, SeccompAction::Allow)?;
        let killing = program(deadly, SeccompAction::Allow, SeccompAction::KillProcess)?;
        Ok(Filter { allowing, killing })
    };
    compiled().map_err(|error| error.to_string())
}

/// A call of another architecture's kind ends the process.
fn program(
    rules: Rules,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<seccompiler::BpfProgram> {
    let here = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, then, here)?.try_into()
}

fn allowed() -> Result<Rules> {
    let free = FREE.iter().chain(OLD).map(|call| (*call, Vec::new()));
    Ok(free.chain(bounded()?).collect())
}

/// What a worker may call with these arguments only.
fn bounded() -> Result<Vec<(c_long, Vec<SeccompRule>)>> {
    // No code but the program's own.
    let no_code = || arg(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0);
    let is = |index, value: libc::c_int| arg(index, Dword, Eq, value as u64);
    let room = |option| [is(1, libc::SOL_SOCKET), is(2, option)];
    let looks = [libc::F_GETFD, libc::F_GETFL, libc::F_GETPIPE_SZ];
    let mut fcntl: Vec<_> = looks.map(|look| all([is(1, look)])).into();
    for change in [libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_SETPIPE_SZ] {
        fcntl.extend(of_its_own(|| [is(1, change)]));
    }
    let mut setsockopt = Vec::new();
    for option in [libc::SO_SNDBUF, libc::SO_SNDBUFFORCE] {
        setsockopt.extend(of_its_own(|| room(option)));
    }
    let mut calls = Vec::new();
    for (call, rules) in [
        (libc::SYS_mmap, vec![all([no_code()])]),
        (libc::SYS_mprotect, vec![all([no_code()])]),
        // To the peer that the socket is connected to.
        (libc::SYS_sendto, vec![all([arg(4, Qword, Eq, 0)])]),
        (libc::SYS_fcntl, fcntl),
        (libc::SYS_setsockopt, setsockopt),
        (libc::SYS_shutdown, of_its_own(|| []).into()),
        (libc::SYS_ioctl, of_its_own(|| [arg(1, Dword, Eq, libc::FIONBIO)]).into()),
        // abort(3), of nobody else.
        (
            libc::SYS_tgkill,
            vec![all([arg(0, Dword, Eq, OWN_PROCESS.into()), is(2, libc::SIGABRT)])],
        ),
    ] {
        calls.push((call, rules.into_iter().collect::<Result<_>>()?));
    }
    Ok(calls)
}

/// The same of descriptors that nobody else has.
fn of_its_own<const N: usize>(
    conditions: impl Fn() -> [Result<SeccompCondition>; N],
) -> [Result<SeccompRule>; 2] {
    let outside = [(Lt, FIRST_SHARED), (Gt, LAST_SHARED)];
    outside.map(|(compare, number)| {
        let descriptor = arg(0, Dword, compare, number.into());
        SeccompRule::new([descriptor].into_iter().chain(conditions()).collect::<Result<_>>()?)
    })
}

fn all<const N: usize>(conditions: [Result<SeccompCondition>; N]) -> Result<SeccompRule> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_>>()?)
}

fn arg(
    index: u8,
    length: SeccompCmpArgLen,
    compare: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition> {
    SeccompCondition::new(index, length, compare, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_and_leaves_room_for_what_is_known_later() {
        let Filter { allowing, .. } = compile().unwrap();
        let count = |k| allowing.iter().filter(|step| step.k == k).count();
        assert_eq!(count(OWN_PROCESS), 1);
        // Three changes by fcntl, two options, shutdown, ioctl.
        assert_eq!((count(FIRST_SHARED), count(LAST_SHARED)), (7, 7));
    }

    /// It confines a thread, so a test can try it without a process of its own. A backtrace opens
    /// files, which must neither end the process nor hide the panic.
    #[test]
    fn a_panic_is_still_a_panic() {
        let confined = std::thread::spawn(|| {
            compile().and_then(|filter| filter.install(0..=0)).unwrap();
            let refused = std::fs::File::open("/").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            panic!("with {} bytes of a trace", trace.len());
        });
        let panic = confined.join().unwrap_err();
        assert!(panic.downcast::<String>().is_ok_and(|text| text.contains("of a trace")));
    }

    #[test]
    fn nothing_is_both_allowed_and_deadly() {
        let allowed = allowed().unwrap();
        assert!(DEADLY.iter().all(|call| !allowed.contains_key(call)));
    }
}
