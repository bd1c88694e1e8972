/* tcp_server PORT: echoes on 127.0.0.1, to one peer after the other. PORT 0 takes a free one; which
 * one it is, is the first line that it prints. */
#include <arpa/inet.h>
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof at;
	char buf[4096];
	ssize_t n;
	int s, peer, on = 1;

	if (argc != 2)
		errx(2, "usage: tcp_server PORT");
	at.sin_port = htons(atoi(argv[1]));
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	signal(SIGPIPE, SIG_IGN);		/* a peer that leaves early is no reason to end */
	if ((s = socket(AF_INET, SOCK_STREAM, 0)) == -1)
		err(1, "socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(s, (struct sockaddr *)&at, sizeof at) == -1 || listen(s, 16) == -1 ||
	    getsockname(s, (struct sockaddr *)&at, &len) == -1)
		err(1, "listen on port %s", argv[1]);
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);

	while ((peer = accept(s, NULL, NULL)) != -1) {
		while ((n = read(peer, buf, sizeof buf)) > 0)
			if (write(peer, buf, n) != n)
				break;
		close(peer);
	}
	err(1, "accept");
}
