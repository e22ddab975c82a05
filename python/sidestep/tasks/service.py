# SPDX-License-Identifier: MIT
"""Working for a manager's server: `serve`, and ``python -m sidestep serve``.

The process that serves has a pool of workers and asks the server for batches, one for
each worker that is free. Ctrl-C has it take no more and end when what runs is done.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import socket
import sys
import threading

from sidestep import context, process, util
from sidestep._manager_session import end_sessions
from sidestep._options import default_count
from sidestep.managers import BaseManager, RemoteError

from .broker import PATIENCE_SECONDS, PROTOCOL, TasksRefusedError, VersionMismatchError
from .runner import Runner, prepare
from .submit import office_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from sidestep.cluster.far import Reply

    Say = Callable[[str], object]

__all__ = ["ServeError", "parse_address", "read_key", "serve"]

#: Seconds between attempts to reach the server again: doubled each time, up to the last.
RETRY_FIRST, RETRY_MOST = 0.5, 30.0


class ServeError(RuntimeError):
    """The server cannot be served; the text says why, and what can be done."""

    #: Whether another attempt may succeed.
    may_pass = False


class _OutOfReachError(ServeError):
    may_pass = True


def read_key(path: str | Path) -> bytes:
    """Return the key in a file: its bytes, of text without the newline at its end."""
    with open(path, "rb") as file:  # noqa: PTH123
        key = file.read()
    if key.isascii() and key.strip().decode("ascii").isprintable():
        key = key.strip()
    if not key:
        raise ValueError(f"the key file {os.fspath(path)!r} is empty")
    return key


def parse_address(text: str) -> Any:
    """Return the address that HOST:PORT, [HOST]:PORT or a path stands for."""
    if "/" in text:
        return text
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"{text!r} is no address: HOST:PORT, [IPV6]:PORT, or the path of a socket"
        )
    return host, int(port)


def _show(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


def _connect(address: Any, authkey: bytes, options: dict[str, Any]) -> Any:
    """Return a proxy of the server's office; ServeError says why there is none."""
    where = _show(address)
    manager = BaseManager(address, authkey, **options)
    try:
        manager.connect()
        return office_of(manager)
    except context.AuthenticationError as error:
        raise ServeError(
            f"{where} was not reached: it has another key than the one given, or is no "
            f"server of sidestep ({error})"
        ) from error
    except socket.gaierror as error:
        raise _OutOfReachError(
            f"the name {address[0]!r} does not resolve ({error.strerror})"
        ) from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise _OutOfReachError(
            f"nothing listens at {where}: is the server running, and is this its address?"
        ) from error
    except RemoteError as error:
        raise ServeError(
            f"{where} knows no tasks: it runs an older sidestep, or is no manager"
        ) from error
    except (EOFError, OSError) as error:
        raise _OutOfReachError(f"{where} cannot be reached: {error}") from error


class _Station:
    """One stay with a server: what it has us do, and who does it."""

    def __init__(self, office: Any, pool: Any, workers: int) -> None:
        #: What happens: "done", "gone" with an exception, "signal".
        self.news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._office = office
        self._pool = pool
        self._ident = os.urandom(8).hex()
        self._is_member = True  # as far as we know
        self._finished: queue.SimpleQueue[tuple[int, Reply] | None] = (
            queue.SimpleQueue()
        )
        self._runner = Runner(lambda key, reply: self._finished.put((key, reply)))
        name = f"the worker {os.getpid()} on {socket.gethostname()}"
        self._beat = office.call("join", self._ident, name, workers, PROTOCOL)
        for target in (self._take, self._send):
            threading.Thread(target=target, name="sidestep-serve", daemon=True).start()

    def _take(self) -> None:
        patience = None if self._beat is None else PATIENCE_SECONDS
        try:
            while True:
                events = self._office.wait(
                    "take", self._ident, self._beat, patience=patience
                )
                if events is None:
                    self._is_member = False
                    self.news.put(("done", None))
                    return
                for kind, key, what in events:
                    if kind == "run":
                        self._runner.run(self._pool, key, what)
                    else:
                        self._runner.kill(key, what)
                events.clear()
        except BaseException as error:  # noqa: BLE001 - whatever it is, this was it
            self._lose(error)

    def _send(self) -> None:
        try:
            while (first := self._finished.get()) is not None:
                replies = [first]
                while not self._finished.empty():
                    if (another := self._finished.get()) is None:
                        self._finished.put(None)
                        break
                    replies.append(another)
                self._office.call("finish", self._ident, replies)
                del first, replies
            if self._is_member:
                self._office.call("quit", self._ident)
        except BaseException as error:  # noqa: BLE001 - whatever it is, this was it
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        self._is_member = False
        self.news.put(("gone", error))

    def leave(self) -> None:
        """Take nothing more; "done" comes when what runs is done."""
        try:
            self._office.call("stop", self._ident)
        except (EOFError, OSError) as error:
            self._lose(error)

    def end(self) -> None:
        """Give up what runs; the server is told, unless it is gone or has let us go."""
        self._finished.put(None)
        self._runner.kill_all()


def _prepare(authkey: bytes) -> None:
    prepare(authkey)
    # Ctrl-C reaches all in the terminal's group; what runs is to be finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Service:
    """What `serve` does from its first attempt to connect to its end."""

    def __init__(
        self, address: Any, authkey: bytes, workers: int, options: Any, say: Say
    ) -> None:
        self._address = address
        self._where = _show(address)
        self._authkey = authkey
        self._workers = workers
        self._options = options
        self._say = say
        self._pool: Any = None
        self._station: _Station | None = None
        self._is_leaving = False
        self.is_aborted = False
        #: Ends a pause. Not an event: signals may come while its lock is held.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._delay = RETRY_FIRST

    def signalled(self, *_: Any) -> None:
        """Leave; the second time, at once."""
        if self._is_leaving:
            self.is_aborted = True
        self._is_leaving = True
        self._wake.put(None)
        if self._station is not None:
            self._station.news.put(("signal", None))

    def run(self, *, reconnect: bool) -> None:
        """Serve until told to leave, or until the server ends."""
        try:
            while not self._is_leaving:
                try:
                    self._stay()
                except ServeError as error:
                    if not reconnect or not error.may_pass:
                        raise
                    # Not all at once, when a server with many workers comes back.
                    delay = self._delay * random.uniform(0.5, 1.0)  # noqa: S311
                    self._say(f"{error}; next attempt in {delay:.1f} s")
                    with contextlib.suppress(queue.Empty):
                        self._wake.get(timeout=delay)
                    self._delay = min(2 * self._delay, RETRY_MOST)
        finally:
            self._end_pool()

    def _stay(self) -> None:
        """Serve one server until it ends or we leave."""
        office = _connect(self._address, self._authkey, self._options)
        if self._pool is None:
            # A process of one thread forks well, this one will have several.
            ctx = context._default_context.get_context("forkserver")
            self._pool = ctx.Pool(self._workers, _prepare, (bytes(self._authkey),))
        try:
            station = self._station = _Station(office, self._pool, self._workers)
        except (EOFError, OSError) as error:
            end_sessions(self._address)
            raise _OutOfReachError(
                f"{self._where} cannot be reached: {error}"
            ) from error
        self._delay = RETRY_FIRST
        self._say(f"serving {self._where} with {self._workers} workers")
        if self._is_leaving:
            station.leave()
        try:
            while True:
                what, cause = station.news.get()
                if what == "done" or self.is_aborted:
                    return
                if what == "gone":
                    end_sessions(self._address)
                    raise _OutOfReachError(
                        f"the server at {self._where} is gone: {cause!r}"
                    ) from cause
                self._say(
                    "leaving when what runs is done; once more Ctrl-C to leave at once"
                )
                station.leave()
        finally:
            self._station = None
            station.end()

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def serve(
    address: Any,
    authkey: bytes | None = None,
    *,
    workers: int | None = None,
    identity: str | None = None,
    reconnect: bool = False,
    say: Say | None = None,
) -> bool:
    """Work for the manager's server at an address, until it ends or Ctrl-C.

    Its tasks are done by ``workers`` processes of this machine, by default one for each
    CPU. ``authkey`` is the server's, by default that of this process; ``identity`` as of
    `sidestep.connection.Listener`. With ``reconnect`` a server that is gone, or not there
    yet, is tried again and again, at growing intervals of up to 30 seconds. ``say`` is
    called with a line of text when something happens.

    The first SIGINT or SIGTERM has it take nothing more and return when what runs is done,
    the second at once: what runs then is lost. Outside of the main thread signals are not
    caught. Returns whether it was left in good order; `ServeError` when the server cannot
    be reached, has another key, or another version, or ends.
    """
    if isinstance(address, str) and ":" in address and "/" not in address:
        address = parse_address(address)
    if workers is None:
        workers = default_count(context._default_context.get_context())
    if workers < 1:
        raise ValueError("workers must be at least 1")
    options = {} if identity is None else {"identity": identity}
    key = process.current_process().authkey if authkey is None else authkey
    service = _Service(address, key, workers, options, say or util.info)
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, service.signalled) for number in numbers}
    try:
        service.run(reconnect=reconnect)
    except (TasksRefusedError, VersionMismatchError) as error:
        raise ServeError(str(error)) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return not service.is_aborted


# ---- The command ----


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m sidestep serve",
        description="Work for a server of tasks: a manager on a network address, or on "
        "the path of a socket. Its tasks are done in processes of this machine. Ctrl-C "
        "leaves when what runs is done, a second one at once.",
        epilog='Make a key with: python -c "import secrets; '
        'print(secrets.token_hex(32))" > key; chmod 600 key. The server takes it as '
        "authkey=sidestep.tasks.read_key('key').",
    )
    parser.add_argument(
        "address", help="where the server listens: HOST:PORT, [IPV6]:PORT, or a path"
    )
    parser.add_argument(
        "--workers", "-n", type=int, metavar="N",
        help="processes for tasks (default: one for each CPU)",
    )  # fmt: skip
    parser.add_argument(
        "--key-file", "-k", metavar="FILE",
        help="the server's key; of text without the newline at its end",
    )  # fmt: skip
    parser.add_argument(
        "--identity", metavar="NAME",
        help="what the server's listener is called, where a firewall changes its port",
    )  # fmt: skip
    parser.add_argument(
        "--reconnect", action="store_true",
        help="when the server is gone, or not there yet, try again until it is",
    )  # fmt: skip
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="say nothing but errors"
    )
    return parser


def main(argv: list[str]) -> int:
    """Be the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.key_file is None:
        parser.error("--key-file FILE is needed: the key that the server has")
    if options.workers is not None and options.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        address, key = parse_address(options.address), read_key(options.key_file)
    except (OSError, ValueError) as error:
        return _refuse(parser, str(error))

    def say(text: str) -> None:
        if not options.quiet:
            sys.stderr.write(f"sidestep serve: {text}\n")
            sys.stderr.flush()

    _warn_of_readable_key(options.key_file)
    try:
        in_order = serve(
            address,
            key,
            workers=options.workers,
            identity=options.identity,
            reconnect=options.reconnect,
            say=say,
        )
    except ServeError as error:
        sys.stderr.write(f"sidestep serve: {error}\n")
        return 1
    return 0 if in_order else 130


def _refuse(parser: Any, text: str) -> int:
    parser.print_usage(sys.stderr)
    sys.stderr.write(f"sidestep serve: {text}\n")
    return 2


def _warn_of_readable_key(path: str) -> None:
    if os.stat(path).st_mode & 0o077:  # noqa: PTH116
        sys.stderr.write(
            f"sidestep serve: others than you can read the key: chmod 600 {path}\n"
        )
