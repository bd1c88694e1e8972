"""The server under test: an ipcd, or a nats-server to check the scripts themselves.

`NATS_TEST_SERVER` names the program. Run as a program it serves another one: it starts a server,
passes on its URL in `NATS_URL`, and obeys the orders that come by HTTP at `NATS_CONTROL`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# The longest wait for anything; no test measures time.
PATIENCE_S = 60
PROGRAM = Path(os.environ["NATS_TEST_SERVER"])
IS_IPCD = PROGRAM.name == "ipcd"

# The same limits in the words of either server: a small payload; a client that does not read is
# disconnected soon.
OPTIONS = {
    "default": ("", ""),
    "small": ('[limits]\nmax_message = "1KiB"\n', "max_payload: 1024\n"),
    "impatient": ('[limits]\nstall_timeout = "1s"\noutbox = "1MiB"\n',
                  'max_pending: 1048576\nwrite_deadline: "1s"\n'),
}


class Server:
    def __init__(self, options="default"):
        self.folder = tempfile.TemporaryDirectory()
        self.config = Path(self.folder.name) / "config"
        self.config.write_text(OPTIONS[options][0 if IS_IPCD else 1])
        self.port = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self.folder.cleanup()

    @property
    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    def start(self):
        if IS_IPCD:
            listener = f"tcp://127.0.0.1:{self.port}?codec=nats"
            options = ["--runtime-dir", f"{self.folder.name}/run", "--listen", listener]
        else:
            options = ["--addr", "127.0.0.1", "--port", str(self.port or -1)]
        command = [PROGRAM, "--config", self.config, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.await_port()
        # The log is read on, so that its pipe does not fill.
        self.log = []
        threading.Thread(target=self.log.extend, args=[self.process.stderr], daemon=True).start()

    def await_port(self):
        before, ready = ("listening endpoint=tcp://", " INFO ready") if IS_IPCD else \
            ("client connections on ", "Server is ready")
        said = ""
        for line in self.process.stderr:
            said += line
            if before in line:
                self.port = int(re.search(r":(\d+)", line.split(before)[1])[1])
            if ready in line:
                return
        raise AssertionError(f"{PROGRAM} has ended:\n{said}")

    def kill_worker(self):
        """Kills what serves the clients; nats-server has no part that does so alone."""
        if not IS_IPCD:
            return self.restart()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def workers(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def restart(self):
        self.end()
        self.start()

    def end(self):
        self.process.kill()
        self.process.wait()

    def drain(self):
        """The orderly end, of which clients are told."""
        self.process.send_signal(signal.SIGTERM if IS_IPCD else signal.SIGUSR2)


def until(what, is_so):
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"watchdog: {what}"
        time.sleep(0.01)


class Orders(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server.under_test
        {"/kill-worker": server.kill_worker, "/restart": server.restart, "/drain": server.drain}[self.path]()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    options, command = sys.argv[1], sys.argv[2:]
    with Server(options) as server:
        control = ThreadingHTTPServer(("127.0.0.1", 0), Orders)
        control.under_test = server
        threading.Thread(target=control.serve_forever, daemon=True).start()
        where = {"NATS_URL": server.url, "NATS_CONTROL": f"http://127.0.0.1:{control.server_port}"}
        return subprocess.run(command, env=os.environ | where).returncode


if __name__ == "__main__":
    sys.exit(main())
