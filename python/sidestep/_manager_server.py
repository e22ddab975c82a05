# SPDX-License-Identifier: MIT
"""The server of a manager: the objects, who refers to them, and who asks for what.

Each connection has a thread here, because a method may block and because a recursive
lock belongs to a thread of the client. A client *process* is known by the session that
its connections name. When the control connection of a session ends, so do the
process's references, and the locks it held are owned by nobody that lives.

What a client was to be given, and could not be because it has gone, is taken back: an
item goes to the head of its queue again, a lock or a unit of a semaphore is released.
"""

from __future__ import annotations

import collections
import errno
import os
import queue
import resource
import socket
import sys
import threading
import time
from traceback import format_exc

from . import _core, _manager_locks, _remote, connection, process, reduction, util
from ._manager_session import key_beside, listener_client
from ._manager_wire import (
    CHANNEL,
    ERROR,
    GETVALUE,
    PROXY,
    RETURN,
    TRACEBACK,
    UNSERIALIZABLE,
    Token,
    public_methods,
    serving,
)
from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn

__all__ = ["Server"]

#: Seconds that a peer has to show that it knows the key.
HANDSHAKE_SECONDS = 5.0
#: Connections that have not shown it yet; the oldest gives way to one more.
HANDSHAKES_MAX = 64
#: Seconds to wait when there are no descriptors left for a peer that connects.
NO_DESCRIPTOR_SECONDS = 0.05


class _Company:
    """Keeps the two threads of a busy channel from sharing one CPU.

    A thread that is woken mostly starts where its waker runs. Two that wake each other
    in turn then stay together, and sleep at every message, though another CPU is free:
    where CPUs share no cache the kernel does not part them. Who serves looks now and
    then, and moves if it sleeps all the time and sits on the other's CPU.
    """

    FIRST = 16  # requests until the first look
    PERIOD = 256  # and between looks

    def __init__(self, pid: int, tid: int) -> None:
        self._other = f"/proc/{pid}/task/{tid}/stat"
        self._left = self.FIRST
        self._period = self.FIRST
        self._sleeps = 0

    def count_request(self) -> None:
        """Note that another request is about to be waited for."""
        self._left -= 1
        if self._left == 0:
            self._look()

    def _look(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        slept = usage.ru_nvcsw - self._sleeps
        if slept > self._period // 2:
            cpus = os.sched_getaffinity(0)
            try:
                here = _processor("/proc/thread-self/stat")
                if len(cpus) > 1 and _processor(self._other) == here:
                    os.sched_setaffinity(0, cpus - {here})
                    os.sched_setaffinity(0, cpus)
            except (OSError, ValueError, IndexError):
                util.debug("cannot tell on which CPU the client runs")
        self._sleeps = usage.ru_nvcsw
        self._left = self._period = self.PERIOD


def _processor(path: str) -> int:
    """Return the CPU that a thread ran on last."""
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return int(file.read().rpartition(")")[2].split()[36])


class _Client:
    """A process that uses the server."""

    def __init__(self) -> None:
        self.references: collections.Counter[str] = collections.Counter()
        self.held: set[Any] = set()  # locks
        self.control: _Link | None = None


class _Link:
    """A connection to a client, served by one thread."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.process: _Client | None = None
        self.company: _Company | None = None
        self.is_trusted = False  # without showing the key
        self.started = time.monotonic()

    def send(self, message: tuple[str, Any]) -> None:
        self.conn.send(message)

    def close(self) -> None:
        try:
            self.conn.close()
        except OSError:
            pass

    def break_off(self) -> None:
        """Have the thread that waits for the peer see an end of file."""
        try:
            with socket.socket(fileno=os.dup(self.conn.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Server:
    """The objects of a manager, and the loop that serves them."""

    #: What may be asked of the server itself.
    public: ClassVar[list[str]] = [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
        "decref_all",
    ]

    def __init__(
        self,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        **options: Any,
    ) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        self.serializer = serializer
        # Peers show that they know the key in a thread of their own.
        self.listener = listener_client[serializer][0](
            address=address,
            backlog=128,
            authkey=key_beside(options, self.authkey),
            **options,
        )
        self._is_stdlib = options.get("security") == "stdlib"
        self.listener._challenges_later = True
        self.address = self.listener.address
        # ident -> (object, names of its methods, types of their results)
        self.id_to_obj: dict[str, tuple[Any, set[str], dict[str, str] | None]] = {}
        self.id_to_refcount: dict[str, int] = {}
        self.mutex = threading.RLock()
        self.stop_event = threading.Event()
        self._idents: dict[int, str] = {}  # by the object's address
        self._serial = 0
        self._clients: dict[str, _Client] = {}
        self._handshakes: collections.deque[_Link] = collections.deque()

    # ---- Connections ----

    def serve_forever(self) -> NoReturn:
        """Serve until a client asks for the end, then exit the process."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        try:
            accepter = threading.Thread(target=self.accepter, daemon=True)
            accepter.start()
            self.stop_event.wait()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
        sys.exit(0)

    def serve_parent(self, conn: Any) -> None:
        """Serve who started this process, over the pipe it gave us."""
        link = _Link(self.listener._restrict(conn))
        link.is_trusted = True
        threading.Thread(target=self.handle_request, args=(link,), daemon=True).start()

    def accepter(self) -> None:
        """Let peers connect, each with a thread."""
        while not self.stop_event.is_set():
            try:
                conn = self.listener.accept()
            except AuthenticationError as error:
                util.info("a peer was turned away: %s", error)
                continue
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE}:
                    self._make_room()
                    continue
                if self.stop_event.is_set() or error.errno == errno.EBADF:
                    return
                continue
            if isinstance(conn, connection.Connection):
                conn._keep_private()
            link = _Link(conn)
            link.is_trusted = self.listener._security == "tls"
            if not link.is_trusted:
                self._handshakes.append(link)
                self._drop_late_handshakes()
            threading.Thread(
                target=self.handle_request, args=(link,), daemon=True
            ).start()

    def _make_room(self) -> None:
        """There is no descriptor left: the oldest that is unknown gives way."""
        if self._handshakes:
            self._handshakes.popleft().break_off()
        time.sleep(NO_DESCRIPTOR_SECONDS)

    def _drop_late_handshakes(self) -> None:
        late = time.monotonic() - HANDSHAKE_SECONDS
        while self._handshakes and (
            len(self._handshakes) > HANDSHAKES_MAX or self._handshakes[0].started < late
        ):
            self._handshakes.popleft().break_off()

    def _greet(self, link: _Link) -> None:
        """Have the peer show that it knows the key, and show it."""
        md5 = self.listener._legacy_md5
        connection.deliver_challenge(link.conn, self.authkey, legacy_md5=md5)
        connection.answer_challenge(link.conn, self.authkey, legacy_md5=md5)
        try:
            self._handshakes.remove(link)
        except ValueError:
            raise AuthenticationError("the peer took too long") from None

    def handle_request(self, link: _Link) -> None:
        """Serve a new connection until it ends."""
        try:
            if not link.is_trusted:
                self._greet(link)
            _, name, args, kwds = link.conn.recv()
            if name == "accept_connection":
                self.accept_connection(link, *args, **kwds)
            else:
                self._reply(link, self._serve_itself(link, name, args, kwds))
        except (EOFError, OSError, AuthenticationError) as error:
            util.debug("connection to manager ended: %r", error)
        except Exception:  # noqa: BLE001 - the peer is told, the server goes on
            self._reply(link, (TRACEBACK, format_exc()))
        finally:
            if link in self._handshakes:
                try:
                    self._handshakes.remove(link)
                except ValueError:
                    pass
            link.close()

    def accept_connection(
        self, c: _Link, name: str, session: str | None = None
    ) -> None:
        """Serve one thread of a client; the first of a session is its control."""
        threading.current_thread().name = name
        is_control = False
        if session is not None:
            with self.mutex:
                client = self._clients.get(session)
                if client is None:
                    client = self._clients[session] = _Client()
                    client.control = c
                    is_control = True
                c.process = client
        c.send((RETURN, self._abilities()))
        serving.link, serving.process = c, c.process
        try:
            self.serve_client(c)
        finally:
            self._link_ended(c)
            if is_control:
                assert session is not None
                self._client_ended(session)
            c.close()

    def _abilities(self) -> dict[str, Any]:
        in_memory = self.serializer == "pickle" and isinstance(self.address, str)
        return {"arena": _core.arena_id() if in_memory else 0}

    def _link_ended(self, link: _Link) -> None:
        if link.process is not None:
            for lock in [*link.process.held]:
                lock.owner_gone(link)

    def _client_ended(self, session: str) -> None:
        with self.mutex:
            client = self._clients.pop(session)
        for lock in [*client.held]:
            lock.owner_gone(client)
        for ident, count in client.references.items():
            for _ in range(count):
                self._forget(ident)

    def serve_client(self, link: _Link) -> None:
        """Answer the requests that come over a connection."""
        util.debug(
            "starting server thread to service %r", threading.current_thread().name
        )
        while not self.stop_event.is_set():
            if link.company is not None:
                link.company.count_request()
            try:
                ident, name, args, kwds = link.conn.recv()
            except (EOFError, OSError):
                util.debug("got EOF -- exiting thread")
                return
            except Exception:  # noqa: BLE001 - the message was read to its end
                self._reply(link, (TRACEBACK, format_exc()))
                continue
            if ident is not None:
                message = self.call(ident, name, args, kwds)
            elif name == CHANNEL:
                self._go_on_in_memory(link, *args)
                continue
            else:
                message = self._serve_itself(link, name, args, kwds)
            if not self._reply(link, message):
                self._take_back(ident, name, message)
                return
            del args, kwds, message

    def _go_on_in_memory(
        self, link: _Link, handle: bytes, end: int, pid: int, tid: int
    ) -> None:
        fd = reduction.recv_handle(link.conn)
        pipe = self.listener._restrict(
            connection.Connection.from_parts(handle, end, fd)
        )
        link.send((RETURN, None))
        link.close()
        link.conn = pipe
        link.company = _Company(pid, tid)

    def _reply(self, link: _Link, message: tuple[str, Any]) -> bool:
        """Send a reply, or why it cannot be sent; False when nobody gets it."""
        try:
            try:
                link.send(message)
            except OSError:
                raise
            except Exception:  # noqa: BLE001 - it does not pickle
                link.send((UNSERIALIZABLE, format_exc()))
        except (EOFError, OSError, ValueError) as error:
            util.info("could not send %r: %r", message, error)
            return False
        return True

    def _take_back(
        self, ident: str | None, name: str, message: tuple[str, Any]
    ) -> None:
        """Undo what a client asked for that did not live to have it."""
        kind, result = message
        entry = self.id_to_obj.get(ident) if ident is not None else None
        if entry is None or kind != RETURN:
            return
        obj = entry[0]
        if hasattr(obj, "take_back"):
            obj.take_back(name, result)
        elif name in {"get", "get_nowait"} and type(obj) is queue.Queue:
            with obj.mutex:
                obj.queue.appendleft(result)
                obj.not_empty.notify()
        elif name == "acquire" and result and isinstance(obj, _ACQUIRED):
            obj.release()

    # ---- Calls ----

    def call(self, ident: str, name: str, args: Any, kwds: Any) -> tuple[str, Any]:
        """Call a method of an object; the reply."""
        try:
            obj, exposed, result_types = self.id_to_obj[ident]
        except KeyError:
            return TRACEBACK, format_exc()
        if name not in exposed:
            return self._fall_back(obj, exposed, name)
        try:
            function = getattr(obj, name)
        except AttributeError:
            return self._fall_back(obj, exposed, name)
        try:
            result = function(*args, **kwds)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            return ERROR, self._pack(error)
        typeid = result_types.get(name) if result_types else None
        if not typeid:
            return RETURN, result
        try:
            new_ident, new_exposed = self.create(serving.link, typeid, result)
        except Exception:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()
        token: Any = Token
        if self._is_stdlib:
            # What the other side can unpickle.
            from multiprocessing import managers

            token = managers.Token
        return PROXY, (new_exposed, token(typeid, self.address, new_ident))

    def _pack(self, error: Exception) -> Any:
        """Return an exception, such that its traceback goes with it."""
        if self.serializer != "pickle" or self._is_stdlib:
            return error
        # What is above the method itself is of no interest.
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        return _remote.pack(error.with_traceback(inner or error.__traceback__))

    def _fall_back(self, obj: Any, exposed: set[str], name: str) -> tuple[str, Any]:
        fallback = self.fallback_mapping.get(name)
        if fallback is None:
            return TRACEBACK, (
                f"AttributeError: method {name!r} of {type(obj)!r} object is not in "
                f"exposed={exposed!r}\n"
            )
        try:
            return RETURN, fallback(obj)
        except Exception:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()

    fallback_mapping: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "__str__": str,
        "__repr__": repr,
        GETVALUE: lambda obj: obj,
    }

    # ---- What clients ask of the server itself ----

    def _serve_itself(
        self, link: _Link, name: str, args: Any, kwds: Any
    ) -> tuple[str, Any]:
        if name not in self.public:
            return TRACEBACK, f"AssertionError: {name!r} unrecognized\n"
        try:
            return RETURN, getattr(self, name)(link, *args, **kwds)
        except Exception:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()

    def dummy(self, c: _Link | None) -> None:
        """Do nothing: the caller wants to know whether anybody is here."""

    def debug_info(self, c: _Link | None) -> str:
        """Return the objects and how often each is referred to."""
        with self.mutex:
            return "\n".join(
                f"  {ident}:       refcount={count}\n"
                f"    {str(self.id_to_obj[ident][0])[:75]}"
                for ident, count in sorted(self.id_to_refcount.items())
            )

    def number_of_objects(self, c: _Link | None) -> int:
        """Return how many objects are referred to."""
        return len(self.id_to_refcount)

    def shutdown(self, c: _Link) -> None:
        """End the process, as soon as the reply is out."""
        util.debug("manager received shutdown message")
        try:
            c.send((RETURN, None))
        finally:
            self.stop_event.set()

    def create(
        self, c: _Link | None, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Make an object that the caller refers to; its ident and methods."""
        make, exposed, result_types, _ = self.registry[typeid]
        if make is not None:
            obj = make(*args, **kwds)
        elif kwds or len(args) != 1:
            raise ValueError("Without callable, must have one non-keyword argument")
        else:
            obj = args[0]
        names = set(public_methods(obj) if exposed is None else exposed)
        if result_types is not None:
            if not isinstance(result_types, dict):
                raise TypeError(
                    f"Method_to_typeid {result_types!r}: type {type(result_types)!s}, "
                    "not dict"
                )
            names.update(result_types)
        with self.mutex:
            ident = self._ident_of(obj)
            self.id_to_obj[ident] = obj, names, result_types
            self.id_to_refcount.setdefault(ident, 0)
            self.incref(c, ident)
        util.debug("%r callable returned object with id %r", typeid, ident)
        return ident, tuple(names)

    def _ident_of(self, obj: Any) -> str:
        """Return the ident that an object has, or a new one, never used before."""
        known = self._idents.get(id(obj))
        if known is not None:
            return known
        self._serial += 1
        ident = self._idents[id(obj)] = f"{id(obj):x}.{self._serial:x}"
        return ident

    def get_methods(self, c: _Link | None, token: Token) -> tuple[str, ...]:
        """Return the names of an object's methods."""
        return tuple(self.id_to_obj[token.id][1])

    def incref(self, c: _Link | None, ident: str) -> None:
        """Note that the caller refers to an object once more."""
        with self.mutex:
            self.id_to_refcount[ident] += 1
            if c is not None and c.process is not None:
                c.process.references[ident] += 1

    def decref(self, c: _Link | None, ident: str) -> None:
        """Note that the caller refers to an object once less."""
        with self.mutex:
            if c is not None and c.process is not None:
                if c.process.references[ident] <= 0:
                    raise AssertionError(f"{ident} is not the caller's to give back")
                c.process.references[ident] -= 1
        self._forget(ident)

    def decref_all(self, c: _Link | None, idents: list[str]) -> None:
        """Note that the caller gives back these references."""
        for ident in idents:
            self.decref(c, ident)

    def _forget(self, ident: str) -> None:
        with self.mutex:
            count = self.id_to_refcount[ident] = self.id_to_refcount[ident] - 1
            if count > 0:
                return
            del self.id_to_refcount[ident]
            entry = self.id_to_obj.pop(ident)
            self._idents.pop(id(entry[0]), None)
        util.debug("disposing of obj with id %r", ident)
        # Out here: it may be the last of a container of other managed objects.
        del entry


#: What `acquire` is undone for when the caller did not live to have it.
_ACQUIRED = (_manager_locks.Lock, _manager_locks.RLock, threading.Semaphore)
