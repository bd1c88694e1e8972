/* udp_server PORT: sends each datagram back to where it came from, on 127.0.0.1. PORT 0 takes a free
 * one; which one it is, is the first line that it prints. */
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char *argv[])
{
	struct sockaddr_in at = { .sin_family = AF_INET }, from;
	socklen_t len = sizeof at;
	char buf[65536];
	ssize_t n;
	int s;

	if (argc != 2)
		errx(2, "usage: udp_server PORT");
	at.sin_port = htons(atoi(argv[1]));
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if ((s = socket(AF_INET, SOCK_DGRAM, 0)) == -1)
		err(1, "socket");
	if (bind(s, (struct sockaddr *)&at, sizeof at) == -1 ||
	    getsockname(s, (struct sockaddr *)&at, &len) == -1)
		err(1, "bind port %s", argv[1]);
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);

	for (;;) {
		len = sizeof from;
		if ((n = recvfrom(s, buf, sizeof buf, 0, (struct sockaddr *)&from, &len)) == -1)
			err(1, "receive");
		/* A sender that cannot be answered does not end the server. */
		if (sendto(s, buf, n, 0, (struct sockaddr *)&from, len) == -1)
			warn("send");
	}
}
