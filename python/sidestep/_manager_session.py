# SPDX-License-Identifier: MIT
"""A process's connections to the server of a manager.

A *session* is what one process has with one server. Its *control* connection lives as
long as the session and carries what is about references; when it breaks, the server
knows that the process is gone and takes back its references. Besides, each thread that
calls methods has a *link* of its own, so that a call that blocks delays nobody else. A
link to a server of the same tree of processes goes on over a pipe in shared memory.

A forked child starts with none of its parent's connections.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from itertools import islice

from . import _core, connection, process, reduction, util
from ._certificates import Certificates
from ._manager_wire import (
    CHANNEL,
    LINK,
    RETURN,
    VERSION,
    RemoteError,
    close_quietly,
    convert_to_error,
    dispatch,
    serving,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Session", "session_for"]

#: The name of a serializer, and what listens and connects with it.
listener_client: dict[str, tuple[Any, Any]] = {
    "pickle": (connection.Listener, connection.Client),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),
}

_sessions: weakref.WeakValueDictionary[Any, Session] = weakref.WeakValueDictionary()
_guard = threading.Lock()
_options: dict[Any, dict[str, Any]] = {}
_keys: dict[Any, bytes] = {}


class _Link:
    """A connection that one thread at a time uses."""

    __slots__ = ("__weakref__", "_replies", "awaits", "conn", "courier", "stays")

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        #: What it was before a pipe in memory took its place: takes descriptors along.
        self.courier: Any = None
        #: The request whose reply is still to be received.
        self.awaits: str | None = None
        self._replies: list[tuple[str, Any]] = []
        #: Whether it is what it will be: no pipe in memory is to take its place.
        self.stays = True

    def receive(self) -> tuple[str, Any]:
        """Receive the reply that it awaits.

        Who is interrupted leaves it to who is next, wherever that happens: `extend` has
        it before Python looks for signals again.
        """
        if not self._replies:
            self._replies.extend(islice(iter(self.conn.recv, None), 1))
        self.awaits = None
        return self._replies.pop()

    def send(self, method: str, args: Any, kwds: Any) -> None:
        """Send a request to the server itself."""
        if self.awaits is None:
            self._replies.clear()
        self.conn.send((None, method, args, kwds))

    def close(self) -> None:
        close_quietly(self.conn, self.courier)


class Session:
    """What this process has with one server."""

    def __init__(
        self, address: Any, authkey: bytes, serializer: str, options: dict[str, Any]
    ) -> None:
        self.address = address
        self.options = options
        # A server of the standard library knows nothing of sessions: what is asked of
        # the server itself has a connection of its own each time.
        self._is_stdlib = options.get("security") == "stdlib"
        self.serializer = serializer
        self.is_over = False  # the manager was shut down
        self.authkey = process.AuthenticationString(authkey)  # which does not show
        self._client = listener_client[serializer][1]
        self._dropped: collections.deque[str] = collections.deque()
        self._begin()

    def _begin(self) -> None:
        self.id = os.urandom(16).hex()
        self._lock = threading.Lock()
        self._control: _Link | None = None
        #: Whether the reply to references that were given back is still to come.
        self._is_owed = False
        #: Whether who holds the lock has the server make an object.
        self._makes = False
        #: Control connections of which one does not know what was sent.
        self._cut: list[_Link] = []
        self._local = threading.local()
        self._links: weakref.WeakSet[_Link] = weakref.WeakSet()
        self._dropped.clear()

    def begin_in_child(self) -> None:
        """Forget what the parent has."""
        links = [*self._links]
        self._begin()
        for link in links:
            link.close()

    def close(self) -> None:
        """Close all connections; the server is going, or gone."""
        self.is_over = True
        for link in [*self._links]:
            link.close()
        self._control = None
        self._cut.clear()
        self._local = threading.local()

    # ---- Links ----

    def _connect(
        self, name: str, *, is_control: bool = False
    ) -> tuple[_Link, dict[str, Any]]:
        util.debug("making connection to manager")
        link = _Link(self._dial())
        return link, self._introduce(link, name, is_control=is_control)

    def _dial(self) -> Any:
        key = key_beside(self.options, self.authkey)
        try:
            conn = self._client(self.address, authkey=key, **self.options)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            error.add_note("no manager's server is there, or not any more")
            raise
        # A forked child begins with connections of its own.
        if isinstance(self.address, tuple):
            from ._silence import be_prompt

            be_prompt(conn, is_encrypted=not self._is_stdlib)
        return conn

    def _restrict(self, conn: Any) -> Any:
        allow, limit = (self.options.get(name) for name in ("allow", "max_message"))
        return connection._restrict(conn, allow, limit)

    def _introduce(self, link: _Link, name: str, *, is_control: bool) -> dict[str, Any]:
        """Tell the server who we are; what it can do."""
        args: Any = (name,)
        if not self._is_stdlib:
            # A network does not say what was read: we do.
            args = name, self.id, VERSION, isinstance(self.address, tuple), is_control
        try:
            abilities = dispatch(link.conn, None, "accept_connection", args)
        except (EOFError, OSError):
            link.close()
            raise
        except BaseException:
            if is_control:
                self._cut.append(link)  # it may be the server's already
            else:
                link.close()
            raise
        self._links.add(link)
        return abilities if isinstance(abilities, dict) else {}

    def adopt(self, conn: Any) -> None:
        """Take the stream that the server's process was started with for control."""
        link = _Link(self._restrict(conn))
        if self._is_stdlib:
            link.close()
            return
        with self._lock:
            self._links.add(link)
            self._control = link
            # Nobody waits for the answer: it is there when the next one is.
            link.awaits, link.stays = "accept_connection", False
            args = _control_name(), self.id, VERSION
            link.conn.send((None, link.awaits, args, {}))

    def _collect(self, link: _Link) -> None:
        """Receive a reply that nobody has waited for."""
        awaited = link.awaits
        kind, result = link.receive()
        self._is_owed = False
        if awaited == "accept_connection":
            if kind != RETURN:
                raise convert_to_error(kind, result)
            link.stays = result["arena"] != _arena_id()
        elif awaited == "create" and kind == RETURN:
            self._dropped.append(result[0])  # nobody was left to want it

    def _improve(self, link: _Link) -> None:
        """Have a pipe in memory take the place of a stream that was adopted."""
        if link.awaits:
            self._collect(link)
        if not link.stays:
            link.stays = True
            self._go_on_in_memory(link, keeps_courier=True)

    def conn(self) -> Any:
        """Return the connection of this thread."""
        if self._is_owed:
            self._catch_up()
        try:
            return self._local.link.conn
        except AttributeError:
            return self._open_link().conn

    def _open_link(self) -> _Link:
        if not (self._is_stdlib or self._is_making()):
            with self._lock:
                link = self._open_beside(self._open_control())
                if link is not None:
                    self._local.link = link
                    return link
                self._open_control()
        name = process.current_process().name
        thread = threading.current_thread().name
        if thread != "MainThread":
            name = f"{name}|{thread}"
        link, abilities = self._connect(name)
        if abilities.get("arena") and abilities["arena"] == _arena_id():
            self._go_on_in_memory(link)
        self._local.link = link
        return link

    def _open_beside(self, control: _Link) -> _Link | None:
        """Have the server we started serve this thread, too; None: connect instead.

        A pipe goes there beside the control connection, which has shown who we are.
        """
        if self.serializer != "pickle":
            return None  # calls are to show what does not go into XML
        try:
            self._improve(control)
            if control.courier is None:
                return None
            ours, theirs = connection.Pipe()
            handle, end, fd = theirs._parts()
            where = os.getpid(), threading.get_native_id()
            control.send(LINK, (handle, end, *where), {})
            reduction.send_handle(control.courier, fd, None)
        except BaseException as error:
            self._lose_control(control, error)
            if isinstance(error, (EOFError, OSError)):
                return None
            raise
        link = _Link(self._restrict(ours))
        # Who is interrupted leaves the reply to who is next.
        control.awaits = LINK
        try:
            kind, _ = control.receive()
        except BaseException as error:
            link.close()
            if isinstance(error, (EOFError, OSError)):
                self._lose_control(control, error)
                return None
            raise
        finally:
            theirs.close()
        if kind != RETURN:
            link.close()
            return None
        self._links.add(link)
        return link

    def _go_on_in_memory(self, link: _Link, *, keeps_courier: bool = False) -> None:
        """Have the server continue over a pipe, one end of which goes there."""
        ours, theirs = connection.Pipe()
        try:
            handle, end, fd = theirs._parts()
            where = os.getpid(), threading.get_native_id()
            link.conn.send((None, CHANNEL, (handle, end, *where), {}))
            reduction.send_handle(link.conn, fd, None)
            kind, _ = link.conn.recv()
        except BaseException:
            link.close()
            ours.close()
            raise
        finally:
            theirs.close()
        if kind != RETURN:
            ours.close()
            return
        if keeps_courier:
            link.courier = link.conn
        else:
            link.close()
        link.conn = self._restrict(ours)

    def may_be_out(self, request: Any, error: BaseException) -> bool:
        """Tell whether a request has left something in its connection, perhaps.

        Any exception may be of a signal's handler, that ran when it was sent. One of
        pickling comes again.
        """
        if isinstance(error, (EOFError, OSError)) or not isinstance(error, Exception):
            return True
        dumps: Any = reduction.ForkingPickler.dumps
        try:
            (dumps if self.serializer == "pickle" else connection._xml_dumps)(request)
        except Exception:  # noqa: BLE001 - so it was that
            return False
        return True

    def drop_link(self) -> None:
        """Give up this thread's connection: a reply may be under way in it."""
        link = self._local.__dict__.pop("link", None)
        if link is not None:
            link.close()

    # ---- Control ----

    def _open_control(self) -> _Link:
        """Return the control connection; the lock is held."""
        if self._control is None:
            self._control, _ = self._connect(_control_name(), is_control=True)
            while self._cut:
                self._cut.pop().close()
        return self._control

    def control(self, method: str, *args: Any, **kwds: Any) -> Any:
        """Have the server do something about itself and return the result."""
        if self._is_making():
            return self._ask_beside(method, args, kwds)
        with self._lock:
            result = self._control_locked(method, args, kwds)
        self.flush()
        return result

    def _is_making(self) -> bool:
        """Tell whether the server is making an object, which may take any time.

        Meanwhile who wants something else of it does not wait for the control connection.
        """
        link = self._control
        if self._makes or link is None or link.awaits != "create":
            return self._makes
        # Who asked was interrupted; if somebody holds the lock, he waits for the reply.
        return self._lock.locked() or not link.conn.poll()

    def _ask_beside(self, method: str, args: Any, kwds: Any) -> Any:
        """Do as `control`, over the connection of this thread."""
        conn = self.conn()
        try:
            return dispatch(conn, None, method, args, kwds)
        except RemoteError:
            raise
        except BaseException as error:
            if self.may_be_out((None, method, args, kwds), error):
                self.drop_link()
            raise

    def _control_stdlib(self, method: str, args: Any, kwds: Any) -> Any:
        conn = self._dial()
        try:
            return dispatch(conn, None, method, args, kwds)
        finally:
            conn.close()

    def _control_locked(self, method: str, args: Any, kwds: Any) -> Any:
        if self._is_stdlib:
            return self._control_stdlib(method, args, kwds)
        link = self._open_control()
        try:
            self._makes = method == "create"  # before the server can begin
            if not link.stays and method == "create":
                self._improve(link)  # more of them will follow
            link.send(method, args, kwds)
            if link.awaits:
                self._collect(link)
            link.awaits = method
            kind, result = link.receive()
        except (EOFError, OSError) as error:
            self._lose_control(link, error)
            raise
        except Exception as error:
            if self.may_be_out((None, method, args, kwds), error):
                self._lose_control(link, error)
            raise
        except BaseException as error:
            # A pipe in memory gives the reply to who is next.
            if link.awaits is None or link.courier is None:
                self._lose_control(link, error)
            raise
        finally:
            self._makes = False
        if kind == RETURN:
            return result
        try:
            raise convert_to_error(kind, result)
        finally:
            del result  # it would be in a cycle with its own traceback

    def _lose_control(self, link: _Link, error: BaseException) -> None:
        # If we were interrupted we do not know at what. With its end our references
        # would go: so another takes its place first, if not now then with the next call.
        self._cut.append(link)
        self._control = None
        util.debug("control connection to manager lost: %r", error)
        if isinstance(error, (EOFError, OSError)):
            self._cut.remove(link)
            link.close()
            return
        try:
            self._open_control()
        except Exception as why:  # noqa: BLE001 - the server may be gone
            util.debug("no other control connection yet: %r", why)

    def open(self) -> None:
        """Connect and authenticate, if that was not done."""
        if self._is_stdlib or self._is_making():
            self.control("dummy")
            return
        with self._lock:
            self._open_control()

    def is_alive(self) -> bool:
        """Tell whether the server answers on the connection that there is."""
        try:
            self.control("dummy")
        except (EOFError, OSError):
            return False
        return True

    def drop(self, ident: str) -> None:
        """Give back a reference. For finalizers: takes no lock that may be held."""
        self._dropped.append(ident)
        if serving.hand_on is not None:
            serving.hand_on(self.flush)
        else:
            self.flush()

    def flush(self) -> None:
        """Tell the server of the references that were given back."""
        # A finalizer may run in a thread that holds the lock: who holds it flushes.
        while self._dropped and not (self.is_over or self._is_making()):
            if not self._lock.acquire(blocking=False):
                return
            try:
                self._flush_locked()
            finally:
                self._lock.release()

    def _flush_locked(self) -> None:
        idents = []
        while self._dropped:
            idents.append(self._dropped.popleft())
        if not idents or not (self._control or self._cut or self._is_stdlib):
            return  # the references went with the connection
        try:
            if self._is_stdlib:
                for ident in idents:
                    self._control_stdlib("decref", (ident,), {})
            elif self._control is not None and self._control.courier is not None:
                self._give_back(self._control, idents)
            else:
                self._control_locked("decref_all", (idents,), {})
        except Exception as error:  # noqa: BLE001 - the server may be gone
            util.debug("... decref failed %s", error)

    def _give_back(self, link: _Link, idents: list[str]) -> None:
        """Tell the server, and have who calls next see that it was done."""
        try:
            if link.awaits:
                self._collect(link)
            link.send("decref_all", (idents,), {})
            link.awaits, self._is_owed = "decref_all", True
        except BaseException as error:
            if link.awaits is None or isinstance(error, (EOFError, OSError)):
                self._lose_control(link, error)
            raise

    def _catch_up(self) -> None:
        """Wait until references that were given back are; unless somebody else does."""
        if not self._lock.acquire(blocking=False):
            return
        link = self._control
        try:
            if link is not None and link.awaits == "decref_all":
                self._collect(link)
        except (EOFError, OSError) as error:
            if link is not None:
                self._lose_control(link, error)
        finally:
            self._is_owed = False
            self._lock.release()


def key_beside(options: dict[str, Any], authkey: bytes) -> bytes | None:
    """Return the key, or None where certificates take its place."""
    return None if isinstance(options.get("security"), Certificates) else authkey


def _control_name() -> str:
    """Return what the server shows of this process, to who asks who holds a lock."""
    name = process.current_process().name
    return f"{name} (pid {os.getpid()} on {os.uname().nodename})|control"


def _arena_id() -> int:
    return _core.arena_id()


def session_for(
    address: Any,
    authkey: bytes,
    serializer: str,
    options: dict[str, Any] | None = None,
) -> Session:
    """Return this process's session with the server at an address."""
    if options is None:
        options = options_of(address)
    key = address, bytes(authkey), serializer, tuple(sorted(options.items()))
    with _guard:
        session = _sessions.get(key)
        if session is None or session.is_over:
            session = _sessions[key] = Session(address, authkey, serializer, options)
        return session


def session_named(ident: str) -> Session | None:
    """Return this process's session that servers know by that name, if it lives."""
    with _guard:
        for session in [*_sessions.values()]:
            if session.id == ident and not session.is_over:
                return session
    return None


def remember_options(address: Any, options: dict[str, Any]) -> None:
    """Note how to connect to a server, beside its address and key."""
    if options:
        _options[address] = options
    else:
        _options.pop(address, None)


def options_of(address: Any) -> dict[str, Any]:
    """Return what was noted of a server, empty if nothing."""
    return _options.get(address, {})


def remember_key(address: Any, authkey: bytes) -> None:
    """Note the key of a server, for proxies that come without it."""
    _keys[address] = bytes(authkey)


def key_of(address: Any) -> bytes | None:
    """Return the key that was noted of a server, None if none was."""
    return _keys.get(address)


def end_sessions(address: Any) -> None:
    """Close all there is with a server that was shut down."""
    with _guard:
        ended = [_sessions.pop(key, None) for key in [*_sessions] if key[0] == address]
    for session in ended:
        if session is not None:
            session.close()


def _begin_in_child() -> None:
    global _guard  # noqa: PLW0603
    _guard = threading.Lock()
    for session in [*_sessions.values()]:
        session.begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
