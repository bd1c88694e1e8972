#!/usr/bin/env python3
"""The cost of children and workers: connections with a subscription each (--fork connection), the
memory of a child, a round trip between two of many children, subscriptions beside a stopped worker,
and a neighbour of churning subscriptions. Usage: tests/children.py [BIN [COUNT...]], the directory
of the binaries (target/release), and the numbers of children (50 200 1000)."""
import os, signal, statistics, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../docs/examples")
import ipcd

BIN = sys.argv[1] if len(sys.argv) > 1 else f"{HERE}/../target/release"
COUNTS = [int(count) for count in sys.argv[2:]] or [50, 200, 1000]
NULL = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Daemon:
    def __init__(self, *args):
        self.dir = tempfile.TemporaryDirectory()
        self.path = f"{self.dir.name}/ipcd.sock"
        command = [f"{BIN}/ipcd", "--runtime-dir", self.dir.name, "-l", f"unix://{self.path}", *args]
        self.process = subprocess.Popen(command, **NULL)
        while not os.path.exists(self.path):
            time.sleep(0.01)
        ipcd.Client(f"unix://{self.path}").close()

    def client(self):
        return ipcd.Client(f"unix://{self.path}", timeout=60.0)

    def children(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.dir.cleanup()


def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def round_trip(one, other, count=300):
    """The median of the time for a message there and one back, in microseconds."""
    one.subscribe("back"), other.subscribe("there")
    times = []
    for _ in range(count):
        start = time.monotonic()
        one.publish("there", b"x"), one.flush(), other.receive(5)
        other.publish("back", b"x"), other.flush(), one.receive(5)
        times.append(time.monotonic() - start)
    return statistics.median(times) * 1e6


def children(count):
    limits = f"{tempfile.gettempdir()}/ipcd-children.{os.getpid()}.toml"
    with open(limits, "w") as file:
        file.write("[limits]\nmax_peers = 20000\nmax_peers_per_uid = 20000\n")
    with Daemon("--fork", "connection", "--max-children", str(count + 8), "-c", limits) as daemon:
        clients, start = [], time.monotonic()
        for number in range(count):
            clients.append(daemon.client())
            clients[-1].subscribe(f"own.{number}")
        taken = time.monotonic() - start
        memory = statistics.median(pss(pid) for pid in daemon.children()[::max(1, count // 20)])
        there_and_back = round_trip(clients[0], clients[-1])
        for client in clients:
            client.close()
    os.unlink(limits)
    print(f"{count:6} children: connected and subscribed in {taken:.2f} s, {taken / count * 1e3:.2f} ms "
          f"each; {memory} KiB (PSS) a child; round trip between two {there_and_back:.0f} us")


def beside_a_stopped_worker():
    with Daemon("--workers", "3") as daemon:
        clients = [daemon.client() for _ in range(3)]
        os.kill(daemon.children()[-1], signal.SIGSTOP)
        times = []
        for client in clients:
            client.timeout = 1.0
            try:
                start = time.monotonic()
                client.subscribe("beside.it")
                times.append((time.monotonic() - start) * 1e3)
            except (OSError, TimeoutError):
                pass  # Its own worker is the stopped one.
        os.kill(daemon.children()[-1], signal.SIGCONT)
    print("subscribed beside a stopped worker in " + ", ".join(f"{one:.2f}" for one in times) + " ms")


def churn(workers=8, rate=1000, seconds=3):
    """Messages that a neighbour publishes in a second, alone and beside the churn."""
    with Daemon("--workers", str(workers)) as daemon:
        sender, receiver = daemon.client(), daemon.client()
        receiver.subscribe("steady")

        def published():
            end, count = time.monotonic() + seconds, 0
            while time.monotonic() < end:
                for _ in range(100):
                    sender.publish("steady", b"x" * 64)
                sender.flush()
                count += 100
            return count / seconds

        stop = threading.Event()

        def read():
            while not stop.is_set():
                try:
                    receiver.receive(0.1)
                except OSError:
                    pass

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        alone = published()
        code = ("import sys, time; sys.path.insert(0, sys.argv[1]); import ipcd\n"
                "client, pause = ipcd.Client(sys.argv[2]), 1 / float(sys.argv[3])\n"
                "while True:\n"
                "    number = client.subscribe('churn.x'); client.unsubscribe(number); time.sleep(pause)\n")
        endpoint = f"unix://{daemon.path}"
        churner = subprocess.Popen([sys.executable, "-c", code, sys.path[0], endpoint, str(rate)])
        time.sleep(0.5)
        beside = published()
        churner.kill(), churner.wait(), stop.set(), reader.join()
    print(f"published alone {alone:.0f}/s, beside {rate} changes of subscriptions a second {beside:.0f}/s: "
          f"{beside / alone:.2f}")


for count in COUNTS:
    children(count)
beside_a_stopped_worker()
churn()
