#!/usr/bin/env python3
"""ipcd beside nats-server through official clients, in turns: `bench.py IPCD NATS-SERVER ASYNC-NATS NODE [ROUNDS]`

The last two are the program and the folder of the clients. The server has the first core, its clients
have the second. Each round measures both servers one after the other, the other one first in each
second round. What is printed are medians, and the median of the rounds' ratios.
"""

import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

SERVER_CORE, CLIENT_CORE = {0}, {1}
IDLE = 1000
CONNECT = b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n'


def measured(command):
    """The numbers that a client prints."""
    pin = lambda: os.sched_setaffinity(0, CLIENT_CORE)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=pin, timeout=300)
    return [float(number) for number in done.stdout.split()]


def family(pid):
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(child))


def anonymous(server):
    """Anonymous memory of all its processes, shared pages in proportion."""
    total = 0
    for pid in family(server.process.pid):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) * 1024
    return total


def idle(server):
    """Bytes that an idle connection takes."""
    peers = []

    def connect():
        peer = socket.create_connection(("127.0.0.1", server.port))
        peer.sendall(CONNECT)
        heard = b""
        while b"PONG\r\n" not in heard:
            heard += peer.recv(4096)
        peers.append(peer)

    for _ in range(100):
        connect()
    before = anonymous(server)
    for _ in range(IDLE):
        connect()
    return [(anonymous(server) - before) / IDLE]


def cases(async_nats, node):
    """Name, unit, and the measurement of a server."""
    rust = lambda *arguments: lambda server: measured([async_nats, server.url, *arguments])
    script = Path(node) / "bench.mjs"
    javascript = lambda module, *arguments: lambda server: measured(["node", script, module, server.url, *arguments])
    yield "async-nats 1 to 1, 16 B", "messages/s", rust("one-way", "16", "300000")
    yield "async-nats 1 to 1, 1 KiB", "messages/s", rust("one-way", "1024", "150000")
    yield "async-nats 1 to 100, 16 B", "messages/s", rust("fan-out", "100", "16", "4000")
    yield "async-nats round trip, 16 B", "ns, p50 and p99", rust("round-trip", "16", "5000")
    for module in ["nats", "@nats-io/transport-node"]:
        yield f"node {module} 1 to 1, 16 B", "messages/s", javascript(module, "one-way", "16", "100000")
        yield f"node {module} 1 to 1, 1 KiB", "messages/s", javascript(module, "one-way", "1024", "50000")
        yield f"node {module} round trip, 16 B", "ns, p50 and p99", javascript(module, "round-trip", "16", "3000")
    yield "an idle connection", "bytes", idle


def once(program, measure):
    # Both servers come from one module, which reads this once it is imported.
    os.environ["NATS_TEST_SERVER"] = program
    os.sched_setaffinity(0, SERVER_CORE)
    sys.modules.pop("servers", None)
    import servers
    with servers.Server() as server:
        return measure(server)


def main():
    programs, async_nats, node = sys.argv[1:3], *sys.argv[3:5]
    rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 7
    print(f"| through | unit | ipcd | nats-server | ipcd ÷ nats-server, median of {rounds} pairs (lowest, highest) |")
    print("|---|---|---|---|---|")
    for name, unit, measure in cases(async_nats, node):
        pairs = []
        for number in range(rounds):
            order = programs if number % 2 == 0 else programs[::-1]
            found = {program: once(program, measure) for program in order}
            pairs.append([found[program] for program in programs])
        for at in range(len(pairs[0][0])):
            ours, theirs = ([pair[side][at] for pair in pairs] for side in range(2))
            ratios = [a / b for a, b in zip(ours, theirs)]
            said = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
            of = unit.split(", ")[0] + (["", " (p99)"][at] if "," in unit else "")
            print(f"| {name} | {of} | {statistics.median(ours):,.0f} | {statistics.median(theirs):,.0f} | {said} |", flush=True)


main()
