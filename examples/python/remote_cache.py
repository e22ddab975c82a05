# SPDX-License-Identifier: MIT
"""A cache that several programs share: a type of one's own, and calls in one round trip."""

import subprocess
import sys
import threading
from collections import OrderedDict

from sidestep.managers import BaseManager

KEY = b"make yours with secrets.token_bytes(32)"


# start-cache
class Cache:
    """The entries that were used last. Clients call at the same time: it has a lock."""

    def __init__(self, size=1000):
        self._entries = OrderedDict()
        self._lock = threading.Lock()
        self._size = size

    def put(self, key, value):
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def get(self, key, default=None):
        with self._lock:
            if key not in self._entries:
                return default
            self._entries.move_to_end(key)
            return self._entries[key]


class CacheServer(BaseManager):
    pass


_cache = Cache()


def get_cache():
    return _cache


CacheServer.register("cache", callable=get_cache)
# end-cache


def fill(host, port):
    """Be another program."""
    manager = CacheServer((host, port), KEY)
    manager.connect()
    cache = manager.cache()
    for number in range(100):
        cache.put(number, number**2)


def main():
    with CacheServer(("127.0.0.1", 0), KEY) as manager:
        host, port = manager.address
        subprocess.run([sys.executable, __file__, host, str(port)], check=True)
        # start-batch
        cache = manager.cache()
        with manager.batch() as batch:
            several = batch(cache)
            found = [several.get(number) for number in (3, 14, 15)]
            several.put("pi", 3.14159)
            missing = several.get("e", "unknown")
        print([reply.result() for reply in found], missing.result())
        # end-batch


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fill(sys.argv[1], int(sys.argv[2]))
    else:
        main()
