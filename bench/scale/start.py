#!/usr/bin/env python3
"""How long Weir takes from exec to its first `/readyz`, in front of a Redis that is full.

    start.py WEIR SCALE [ENTRIES] [STARTS]

WEIR is the binary, SCALE the bench's, which writes the entries; with `-` Redis makes up values of the same size under
such names itself. A redis-server of its own runs on a free loopback port. What
Redis was asked meanwhile is counted too: nothing at a start, nor at a purge, may walk over keys.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request


TOKEN = "only-for-this-bench-0123456789"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def redis(port, *words):
    return subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True).stdout


def calls(port):
    lines = redis(port, "info", "commandstats").splitlines()
    return {l.split(":")[0][len("cmdstat_"):]: l.split("calls=")[1].split(",")[0] for l in lines if l.startswith("cmdstat_")}


def ready(port, began):
    while time.monotonic() - began < 20:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
                s.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                if s.recv(64).startswith(b"HTTP/1.1 200"):
                    return time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.0005)
    sys.exit("Weir is not ready")


def main():
    weir, scale = sys.argv[1:3]
    entries = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
    starts = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    env = {k: v for k, v in os.environ.items() if not k.startswith("WEIR_")}
    with tempfile.TemporaryDirectory() as place:
        port = free_port()
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", place, "--enable-debug-command", "local"],
            stdout=subprocess.DEVNULL,
        )
        try:
            while "PONG" not in redis(port, "ping"):
                time.sleep(0.05)
            if scale == "-":
                redis(port, "debug", "populate", str(entries), "cache:route", "600")
            elif entries:
                writer = subprocess.Popen([scale, "redis", str(entries)], stdout=subprocess.PIPE)
                subprocess.run(["redis-cli", "-p", str(port), "--pipe"], stdin=writer.stdout, stdout=subprocess.DEVNULL)
            print("keys in Redis:", redis(port, "dbsize").strip())
            took = []
            for n in range(starts):
                traffic, admin = free_port(), free_port()
                config = os.path.join(place, "weir.toml")
                with open(config, "w") as f:
                    f.write(
                        f'listen = "127.0.0.1:{traffic}"\nupstream = "http://127.0.0.1:9"\n[admin]\nlisten = "127.0.0.1:{admin}"\ntoken = "{TOKEN}"\n'
                        f'[redis]\nurl = "redis://127.0.0.1:{port}"\n[defaults]\nttl = "10m"\nsubject = "none"\n'
                        '[[route]]\nname = "route"\nmatch = "GET /things/{id}"\ntags = ["thing:{path.id}"]\n'
                    )
                if n == starts - 1:
                    redis(port, "config", "resetstat")
                began = time.monotonic()
                process = subprocess.Popen([weir, "-c", config], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    took.append(ready(admin, began) * 1000)
                    if n == starts - 1:
                        print("asked of Redis by a start:", calls(port))
                        redis(port, "config", "resetstat")
                        request = urllib.request.Request(
                            f"http://127.0.0.1:{admin}/purge", b'{"tags":["thing:1"]}', {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
                        )
                        began = time.monotonic()
                        said = urllib.request.urlopen(request).read().decode().strip()
                        print(f"a purge: {(time.monotonic() - began) * 1000:.1f} ms, {said}")
                        print("asked of Redis by a purge:", calls(port))
                finally:
                    process.terminate()
                    process.wait()
            print(f"start to ready: median {statistics.median(took):.1f} ms, of {[round(t, 1) for t in took]}")
        finally:
            server.terminate()
            server.wait()


main()
