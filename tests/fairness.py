#!/usr/bin/env python3
"""How long a quiet publisher waits until its message is accepted, alone and beside 8 that flood the
same receiver. Usage: tests/fairness.py [BIN], the directory of the binaries (target/release)."""
import os, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../docs/examples")
import ipcd

BIN = sys.argv[1] if len(sys.argv) > 1 else f"{HERE}/../target/release"
NULL = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def waits(path, count):
    quiet, all = ipcd.Client(f"unix://{path}"), []
    for _ in range(count):
        start = time.monotonic()
        quiet.publish("news", b"quiet")
        quiet.flush()
        all.append(time.monotonic() - start)
        time.sleep(0.005)
    return sorted(all)[count * 99 // 100] * 1e3


with tempfile.TemporaryDirectory() as dir:
    path, ended = f"{dir}/ipcd.sock", []
    run = lambda *args: ended.append(subprocess.Popen([*args], **NULL))
    ctl = [f"{BIN}/ipcctl", "--via", f"unix://{path}"]
    try:
        run(f"{BIN}/ipcd", "--runtime-dir", dir, "--workers", "1", "-l", f"unix://{path}")
        while not os.path.exists(path):
            time.sleep(0.01)
        run(*ctl, "recv", "-N", "--overflow", "block", "news")
        time.sleep(1)
        alone = waits(path, 500)
        for _ in range(8):
            run(*ctl, "send", "--count", "1000000000", "news", "x" * 1000)
        time.sleep(1)
        beside = waits(path, 500)
    finally:
        for process in reversed(ended):
            process.kill()
            process.wait()
print(f"p99 alone {alone:.2f} ms, beside 8 that flood {beside:.2f} ms: {beside / alone:.1f} times")
