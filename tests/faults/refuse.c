/* Makes calls of a running program fail, as the kernel may at any time. For LD_PRELOAD.
 *
 * A file that the test writes, and that IPCD_REFUSALS names, says which calls fail. It is mapped
 * before the program enters its sandbox, and shared by all its children. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* As tests/faults/refused.rs writes it. */
static struct control {
    unsigned turn;        /* the number of this order; 0 while nothing fails */
    unsigned refused;     /* calls that have failed; ours to write */
    int error;            /* errno(3) */
    unsigned first, step; /* the first call of each kind and process that fails, and the distance to the next */
    int pids[8];          /* the processes; 0 ends them */
    char calls[220];      /* their names, as in syscalls(2), each between two commas */
} *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("IPCD_REFUSALS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = map == MAP_FAILED ? NULL : map;
    close(fd);
}

static int is_meant(void) {
    int pid = getpid();
    for (size_t at = 0; at < sizeof control->pids / sizeof pid && control->pids[at]; at++)
        if (control->pids[at] == pid)
            return 1;
    return 0;
}

/* The calls of one kind of a process since an order began. */
struct tally {
    unsigned turn, calls;
};

static int is_refused(const char *call, struct tally *tally) {
    unsigned turn = control ? __atomic_load_n(&control->turn, __ATOMIC_ACQUIRE) : 0;
    if (!turn || !strstr(control->calls, call) || !is_meant())
        return 0;
    if (tally->turn != turn)
        *tally = (struct tally){turn, 0};
    unsigned number = ++tally->calls;
    if (number < control->first || (number - control->first) % control->step)
        return 0;
    __atomic_add_fetch(&control->refused, 1, __ATOMIC_RELAXED);
    errno = control->error;
    return 1;
}

#define CALL(call, result, name, parameters, arguments) \
    result name parameters { \
        static result (*next) parameters; \
        static struct tally tally; \
        if (!next) \
            next = (result (*) parameters)dlsym(RTLD_NEXT, #name); \
        return is_refused("," call ",", &tally) ? (result)-1 : next arguments; \
    }

CALL("read", ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
CALL("write", ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
CALL("readv", ssize_t, readv, (int fd, const struct iovec *to, int count), (fd, to, count))
CALL("writev", ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
CALL("recvfrom", ssize_t, recv, (int fd, void *to, size_t size, int flags), (fd, to, size, flags))
CALL("sendto", ssize_t, send, (int fd, const void *from, size_t size, int flags), (fd, from, size, flags))
CALL("recvfrom", ssize_t, recvfrom,
     (int fd, void *to, size_t size, int flags, struct sockaddr *by, socklen_t *length),
     (fd, to, size, flags, by, length))
CALL("sendto", ssize_t, sendto,
     (int fd, const void *from, size_t size, int flags, const struct sockaddr *to, socklen_t length),
     (fd, from, size, flags, to, length))
CALL("recvmsg", ssize_t, recvmsg, (int fd, struct msghdr *to, int flags), (fd, to, flags))
CALL("sendmsg", ssize_t, sendmsg, (int fd, const struct msghdr *from, int flags), (fd, from, flags))
CALL("accept4", int, accept4, (int fd, struct sockaddr *by, socklen_t *length, int flags),
     (fd, by, length, flags))
CALL("socket", int, socket, (int domain, int type, int protocol), (domain, type, protocol))
CALL("bind", int, bind, (int fd, const struct sockaddr *at, socklen_t length), (fd, at, length))
CALL("connect", int, connect, (int fd, const struct sockaddr *to, socklen_t length), (fd, to, length))
CALL("pipe2", int, pipe2, (int fds[2], int flags), (fds, flags))
CALL("epoll_ctl", int, epoll_ctl, (int epoll, int what, int fd, struct epoll_event *event),
     (epoll, what, fd, event))
CALL("epoll_wait", int, epoll_wait, (int epoll, struct epoll_event *events, int most, int timeout),
     (epoll, events, most, timeout))
CALL("wait4", pid_t, waitpid, (pid_t pid, int *status, int options), (pid, status, options))
CALL("waitid", int, waitid, (idtype_t kind, id_t id, siginfo_t *info, int options),
     (kind, id, info, options))
CALL("fork", pid_t, fork, (void), ())

int fcntl(int fd, int what, ...) {
    static int (*next)(int, int, ...);
    static struct tally tally;
    va_list list;
    va_start(list, what);
    long argument = va_arg(list, long);
    va_end(list);
    if (!next)
        next = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    return is_refused(",fcntl,", &tally) ? -1 : next(fd, what, argument);
}

int openat64(int dir, const char *path, int flags, ...) {
    static int (*next)(int, const char *, int, ...);
    static struct tally tally;
    va_list list;
    va_start(list, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;
    va_end(list);
    if (!next)
        next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    return is_refused(",openat,", &tally) ? -1 : next(dir, path, flags, mode);
}

/* For calls without a function in the C library. */
long syscall(long number, ...) {
    static long (*next)(long, ...);
    static struct tally tally;
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++)
        arguments[at] = va_arg(list, long);
    va_end(list);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_openat2 && is_refused(",openat2,", &tally))
        return -1;
    return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                arguments[5]);
}
