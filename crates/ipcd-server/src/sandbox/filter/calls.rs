//! The allowed system calls and their arguments. A call that a worker newly needs is added here.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

use super::tree::{self, ArgumentChecks, CallVerdict};
use super::{CallFilter, FIRST_SHARED, LAST_SHARED, OWN_PROCESS};

/// Calls that a worker may make with any arguments.
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
    // The time, in case the vDSO cannot tell it, and randomness.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Memory, as the allocator wants it; mmap(2) and mprotect(2) are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Process and thread ids, signal handling, and exit: a panic and an abort need them.
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

/// The call by which abort(3) of the C library ends the process, and the place of its signal. The first
/// argument is the process, or its only thread, which has the same number.
#[cfg(not(target_env = "musl"))]
const ABORT: (c_long, u32) = (libc::SYS_tgkill, 2);
#[cfg(target_env = "musl")]
const ABORT: (c_long, u32) = (libc::SYS_tkill, 1);

/// Calls that no worker ever makes, but an attacker in one would. Opening files, making sockets and
/// forking are not among them: a library may try that and go on without.
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

/// The kernel's action for a call.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

pub(super) fn compile() -> Result<CallFilter, String> {
    let mut program = of_this_architecture().map_err(|error| error.to_string())?;
    let (calls, blocks): (Vec<_>, Vec<_>) = bounded().into_iter().unzip();
    program.extend(tree::program(known(&calls), REFUSE, blocks)?);
    Ok(CallFilter { program })
}

/// The beginning of a program: a call of another architecture's kind ends the process.
fn of_this_architecture() -> Result<BpfProgram, BackendError> {
    let here = std::env::consts::ARCH.try_into()?;
    let (refuse, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let mut program: BpfProgram =
        SeccompFilter::new(BTreeMap::new(), refuse, allow, here)?.try_into()?;
    // The rest of the program decides about the calls of this architecture.
    program.pop();
    Ok(program)
}

/// The verdict for each number.
fn known(bounded: &[c_long]) -> Vec<(u32, CallVerdict)> {
    let lists = [(FREE, ALLOW), (OLD, ALLOW), (DEADLY, KILL)];
    let by_itself = lists.into_iter().flat_map(|(calls, verdict)| {
        calls.iter().map(move |call| (*call as u32, CallVerdict::Return(verdict)))
    });
    let looked_at = bounded.iter().zip(0..).map(|(call, at)| (*call as u32, CallVerdict::Look(at)));
    by_itself.chain(looked_at).collect()
}

/// Calls that a worker may make with some arguments only.
fn bounded() -> Vec<(c_long, ArgumentChecks)> {
    let check = || ArgumentChecks::new(REFUSE);
    // The state of a descriptor may be changed only if no other process shares it.
    let of_its_own = |block: ArgumentChecks| block.outside(0, FIRST_SHARED, LAST_SHARED);
    let no_code = || check().without(2, libc::PROT_EXEC);
    let looks = [libc::F_GETFD, libc::F_GETFL, libc::F_GETPIPE_SZ];
    let changes = [libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_SETPIPE_SZ];
    let room =
        check().one_of(1, &[libc::SOL_SOCKET]).one_of(2, &[libc::SO_SNDBUF, libc::SO_SNDBUFFORCE]);
    let (abort, signal) = ABORT;
    vec![
        // No code but the program's own.
        (libc::SYS_mmap, no_code()),
        (libc::SYS_mprotect, no_code()),
        // To the peer that the socket is connected to.
        (libc::SYS_sendto, check().zero(4)),
        (libc::SYS_fcntl, of_its_own(check().or_one_of(1, &looks).one_of(1, &changes))),
        (libc::SYS_setsockopt, of_its_own(room)),
        (libc::SYS_shutdown, of_its_own(check())),
        (libc::SYS_ioctl, of_its_own(check().one_of(1, &[libc::FIONBIO as libc::c_int]))),
        // abort(3), of this process only.
        (abort, check().one_of(0, &[OWN_PROCESS as libc::c_int]).one_of(signal, &[libc::SIGABRT])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compiles_and_leaves_room_for_what_is_known_later() {
        let CallFilter { program } = compile().unwrap();
        let count = |k| program.iter().filter(|step| step.k == k).count();
        assert_eq!(count(OWN_PROCESS), 1);
        // fcntl, setsockopt, shutdown, ioctl.
        assert_eq!((count(FIRST_SHARED), count(LAST_SHARED)), (4, 4));
        // It is translated and tried out in each child.
        assert!(program.len() < 200, "{} steps", program.len());
    }

    #[test]
    fn arguments_are_checked() {
        let (calls, blocks): (Vec<_>, Vec<_>) = bounded().into_iter().unzip();
        let program = tree::program(known(&calls), REFUSE, blocks).unwrap();
        let run = |call: c_long, arguments| tree::run(&program, call as u32, arguments);
        let (high, exec) = (1_u64 << 40, libc::PROT_EXEC as u64);
        let [first, last, pid] = [FIRST_SHARED, LAST_SHARED, OWN_PROCESS].map(u64::from);
        let socket = libc::SOL_SOCKET as u64;
        let [send, receive] = [libc::SO_SNDBUF, libc::SO_RCVBUF].map(|option| option as u64);
        let [get, set, owner] =
            [libc::F_GETFL, libc::F_SETFL, libc::F_SETOWN].map(|command| command as u64);
        let kill = |process, signal: libc::c_int| {
            let mut arguments = [process, 5, 0, 0, 0];
            arguments[ABORT.1 as usize] = signal as u64;
            arguments
        };
        for (call, [a, b, c, d, e], expected) in [
            (libc::SYS_mmap, [0, 9, 3, 0, 0], ALLOW),
            (libc::SYS_mmap, [0, 9, 3 | exec, 0, 0], REFUSE),
            (libc::SYS_mprotect, [0, 9, exec, 0, 0], REFUSE),
            (libc::SYS_sendto, [9, 1, 1, 0, 0], ALLOW),
            (libc::SYS_sendto, [9, 1, 1, 0, 1], REFUSE),
            (libc::SYS_sendto, [9, 1, 1, 0, high], REFUSE),
            (libc::SYS_fcntl, [first, get, 0, 0, 0], ALLOW),
            (libc::SYS_fcntl, [first - 1, set, 0, 0, 0], ALLOW),
            (libc::SYS_fcntl, [first, set, 0, 0, 0], REFUSE),
            (libc::SYS_fcntl, [last, set, 0, 0, 0], REFUSE),
            (libc::SYS_fcntl, [last + 1, set, 0, 0, 0], ALLOW),
            // The kernel takes the lower half for the descriptor.
            (libc::SYS_fcntl, [first | high, set, 0, 0, 0], REFUSE),
            (libc::SYS_fcntl, [7, owner, 0, 0, 0], REFUSE),
            (libc::SYS_setsockopt, [7, socket, send, 0, 0], ALLOW),
            (libc::SYS_setsockopt, [first, socket, send, 0, 0], REFUSE),
            (libc::SYS_setsockopt, [7, socket, receive, 0, 0], REFUSE),
            (libc::SYS_setsockopt, [7, 6, send, 0, 0], REFUSE),
            (libc::SYS_shutdown, [7, 0, 0, 0, 0], ALLOW),
            (libc::SYS_shutdown, [last, 0, 0, 0, 0], REFUSE),
            (libc::SYS_ioctl, [7, libc::FIONBIO, 0, 0, 0], ALLOW),
            (libc::SYS_ioctl, [7, libc::FIONREAD, 0, 0, 0], REFUSE),
            (libc::SYS_ioctl, [first, libc::FIONBIO, 0, 0, 0], REFUSE),
            (ABORT.0, kill(pid, libc::SIGABRT), ALLOW),
            (ABORT.0, kill(pid, libc::SIGKILL), REFUSE),
            (ABORT.0, kill(1, libc::SIGABRT), REFUSE),
            (libc::SYS_read, [first, 0, 0, 0, 0], ALLOW),
            (libc::SYS_socket, [1, 1, 0, 0, 0], REFUSE),
            (libc::SYS_execve, [0, 0, 0, 0, 0], KILL),
        ] {
            let found = run(call, [a, b, c, d, e, 0]);
            assert_eq!(found, expected, "call {call} of {a} {b} {c} {d} {e}");
        }
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
    fn no_call_has_two_verdicts() {
        let bounded: Vec<_> = bounded().into_iter().map(|(call, _)| call).collect();
        let mut known: Vec<_> = known(&bounded).into_iter().map(|(call, _)| call).collect();
        let count = known.len();
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), count);
    }
}
