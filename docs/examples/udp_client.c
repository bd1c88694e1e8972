/* udp_client HOST PORT MESSAGE: sends a datagram, and prints the first that comes back. It joins a
 * listener of ipcd with codec=raw: it has sent something, so it hears what is published there. */
#include <err.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char *argv[])
{
	struct addrinfo hints = { .ai_socktype = SOCK_DGRAM }, *a;
	char buf[65536];
	ssize_t n;
	int s, e;

	if (argc != 4)
		errx(2, "usage: udp_client HOST PORT MESSAGE");
	if ((e = getaddrinfo(argv[1], argv[2], &hints, &a)) != 0)
		errx(3, "%s:%s: %s", argv[1], argv[2], gai_strerror(e));
	if ((s = socket(a->ai_family, a->ai_socktype, a->ai_protocol)) == -1)
		err(1, "socket");
	/* A connected socket receives from this peer only, and learns of a closed port. */
	if (connect(s, a->ai_addr, a->ai_addrlen) == -1)
		err(3, "connect to %s:%s", argv[1], argv[2]);
	if (send(s, argv[3], strlen(argv[3]), 0) == -1)
		err(1, "send");

	struct pollfd p = { .fd = s, .events = POLLIN };
	if (poll(&p, 1, 60 * 1000) == 0)	/* datagrams may be lost */
		errx(4, "no answer within a minute");
	if ((n = recv(s, buf, sizeof buf, 0)) == -1)
		err(3, "receive from %s:%s", argv[1], argv[2]);
	printf("%.*s\n", (int)n, buf);
	return 0;
}
