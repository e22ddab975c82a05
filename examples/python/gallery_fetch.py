# SPDX-License-Identifier: MIT
"""Fetch pages in asyncio with a pool: results as they come, a limit for each page.

The pages come from a server on this machine, a process of its own; one of them hangs.
"""

import asyncio
import http.server
import time
import urllib.request

import sidestep
from sidestep.pool import Pool


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(60)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *args):
        pass


def serve(ports):
    server = http.server.ThreadingHTTPServer(("localhost", 0), Pages)
    ports.put(server.server_port)
    server.serve_forever()


def fetch(url):
    with urllib.request.urlopen(url) as page:  # noqa: S310 - our own server
        return len(page.read())


async def fetch_all(urls):
    total = failed = 0
    with Pool(4) as pool:
        pages = pool.aimap_unordered(fetch, urls, timeout=1)
        while True:
            try:
                total += await anext(pages)
            except StopAsyncIteration:
                break
            except sidestep.TimeoutError:
                failed += 1
    print(f"{total} bytes; {failed} of {len(urls)} pages took too long")


def main():
    ports = sidestep.SimpleQueue()
    sidestep.Process(target=serve, args=(ports,), daemon=True).start()
    site = f"http://localhost:{ports.get()}"
    asyncio.run(
        fetch_all([f"{site}/{number}" for number in range(20)] + [f"{site}/slow"])
    )


if __name__ == "__main__":
    main()
