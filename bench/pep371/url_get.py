# SPDX-License-Identifier: MIT
"""Each worker gets a page 100 times from a server on this machine.

The PEP's server was another machine on the LAN. Here it is a process of its own, which
needs the same cores as the workers: read the columns against each other only.
"""

import contextlib
import http.client
import http.server
import os
import subprocess
import sys
from collections.abc import Iterator

GETS = 100
PAGE = (
    b"<html><head><title>404</title></head><body>"
    + b"not here " * 100
    + b"</body></html>"
)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with 5, the default, eight workers wait for a lost SYN


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve() -> None:
    """Serve until standard input ends, which it does when the benchmark dies."""
    import threading

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        os.environ["SST_BENCH_PORT"] = server.stdout.readline().strip()
        try:
            yield
        finally:
            server.stdin.close()


def work() -> None:
    port = int(os.environ["SST_BENCH_PORT"])
    for _ in range(GETS):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        answer = connection.getresponse()
        if answer.status != 404 or answer.read() != PAGE:
            raise AssertionError(answer.status)
        connection.close()


if __name__ == "__main__":
    serve()
