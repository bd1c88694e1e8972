/* tcp_client HOST PORT: sends what it reads on standard input, and prints what comes back, to the
 * end of both. It joins a listener of ipcd with codec=line, and knows nothing of ipcd. */
#include <err.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void copy(int from, int to, struct pollfd *p)
{
	char buf[4096], *at = buf;
	ssize_t n = read(from, buf, sizeof buf), w;

	if (n == -1)
		err(1, "read");
	if (n == 0)
		p->fd = -1;			/* poll(2) passes it over */
	for (; n > 0; n -= w, at += w)
		if ((w = write(to, at, n)) == -1)
			err(1, "write");
}

int main(int argc, char *argv[])
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
	int s = -1, e;

	if (argc != 3)
		errx(2, "usage: tcp_client HOST PORT");
	if ((e = getaddrinfo(argv[1], argv[2], &hints, &list)) != 0)
		errx(3, "%s:%s: %s", argv[1], argv[2], gai_strerror(e));
	for (a = list; a != NULL; a = a->ai_next) {
		if ((s = socket(a->ai_family, a->ai_socktype, a->ai_protocol)) == -1)
			continue;
		if (connect(s, a->ai_addr, a->ai_addrlen) == 0)
			break;
		close(s);
	}
	if (a == NULL)
		err(3, "connect to %s:%s", argv[1], argv[2]);

	struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .fd = s, .events = POLLIN } };
	while (p[1].fd != -1) {
		if (poll(p, 2, -1) == -1)
			err(1, "poll");
		if (p[0].revents) {
			copy(0, s, &p[0]);
			if (p[0].fd == -1 && shutdown(s, SHUT_WR) == -1)
				err(1, "shutdown");
		}
		if (p[1].revents)
			copy(s, 1, &p[1]);
	}
	return 0;
}
