#!/usr/bin/env python3
"""Memory of a Weir that keeps idle connections: opens them, asks once on each, and reads the process' RSS.

    idle.py WEIR [CONNECTIONS]

WEIR is the binary. A backend of one answer and Weir run on free loopback ports. Needs as many file descriptors as there
are connections, twice (`ulimit -n`).
"""

import http.server
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b'{"items":[' + b"1," * 500 + b"1]}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def status(pid, what):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(what + ":"):
                return int(line.split()[1])
    return 0


def ready(port):
    for _ in range(400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read()
            return
        except OSError:
            time.sleep(0.01)
    sys.exit("Weir is not ready")


def ask(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(
        b"GET /things HTTP/1.1\r\nHost: api.example\r\nUser-Agent: idle/1.0\r\nAccept: application/json\r\n"
        b"Accept-Encoding: gzip, br\r\nX-Request-Id: 4f5c9c1d\r\n\r\n"
    )
    got = b""
    while b"1]}" not in got:
        piece = s.recv(65536)
        if not piece:
            sys.exit(f"closed after {got!r}")
        got += piece
    return s


def main():
    weir, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    traffic, admin = free_port(), free_port()
    config = tempfile.NamedTemporaryFile("w", suffix=".toml")
    config.write(
        f'listen = "127.0.0.1:{traffic}"\nupstream = "http://127.0.0.1:{backend.server_port}"\n'
        f'[admin]\nlisten = "127.0.0.1:{admin}"\n[server]\nidle_timeout = "10m"\nmax_connections = 20000\n'
        '[defaults]\nttl = "10m"\nsubject = "none"\n[[route]]\nname = "things"\nmatch = "GET /things"\n'
    )
    config.flush()
    env = {k: v for k, v in os.environ.items() if not k.startswith("WEIR_")}
    process = subprocess.Popen([weir, "-c", config.name], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready(admin)
        warm = ask(traffic)
        before = status(process.pid, "VmRSS")
        print(f"one connection: {before} KiB")
        held = []
        for n in range(count):
            held.append(ask(traffic))
            if (n + 1) % 2500 == 0:
                now = status(process.pid, "VmRSS")
                print(f"{n + 1} connections: {now} KiB, {(now - before) * 1024 / (n + 1):.0f} bytes each")
        # Long enough for them to be idle, and for the allocator to notice.
        time.sleep(5)
        now = status(process.pid, "VmRSS")
        print(f"{count} idle: {now} KiB in all, {(now - before) * 1024 / count:.0f} bytes each; peak {status(process.pid, 'VmHWM')} KiB")
        for s in held:
            s.close()
        warm.close()
    finally:
        process.terminate()
        process.wait()


main()
