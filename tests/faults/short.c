/* Makes reads and writes of byte streams shorter than requested, as the kernel may at any time.
 * Records stay whole, and writes to a pipe that POSIX calls atomic stay so. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/types.h>

static unsigned state = 2463534242u;

/* Marsaglia's xorshift: it need not be hard to guess. */
static size_t random_below(size_t end) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % end;
}

/* The length that is done: all of it in half of the calls. */
static size_t shorter(int fd, size_t length) {
    int type, saved = errno;
    socklen_t size = sizeof type;
    size_t least = 1;
    if (fd <= 2 || length <= 1 || random_below(2))
        return length;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0) {
        if (type != SOCK_STREAM)
            least = length;
    } else {
        least = fcntl(fd, F_GETPIPE_SZ) > 0 ? PIPE_BUF + 1 : length;
    }
    errno = saved;
    return length <= least ? length : least + random_below(length - least);
}

#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) \
        next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t length) {
    NEXT(ssize_t, write, int, const void *, size_t);
    return next(fd, bytes, shorter(fd, length));
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    NEXT(ssize_t, send, int, const void *, size_t, int);
    return next(fd, bytes, shorter(fd, length), flags);
}

ssize_t read(int fd, void *bytes, size_t length) {
    NEXT(ssize_t, read, int, void *, size_t);
    return next(fd, bytes, shorter(fd, length));
}

ssize_t recv(int fd, void *bytes, size_t length, int flags) {
    NEXT(ssize_t, recv, int, void *, size_t, int);
    return next(fd, bytes, shorter(fd, length), flags);
}
