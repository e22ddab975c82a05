# SPDX-License-Identifier: MIT
"""Connections: pipes between processes, streams over sockets, and waiting for many.

The two ends of a `Pipe` exchange messages through shared memory; a `Connection` over
a descriptor of the user's, or to a `Listener`, is a byte stream with the standard
library's framing. Both are one class. `wait` takes both, and queue readers, sockets,
process sentinels and plain descriptors.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import sys
from time import monotonic

from . import _core, context, process, reduction, util
from ._certificates import Certificates
from ._challenge import (  # noqa: F401 - where the standard library has them
    _ALLOWED_DIGESTS,
    _CHALLENGE,
    _FAILURE,
    _MD5_DIGEST_LEN,
    _MD5ONLY_MESSAGE_LENGTH,
    _WELCOME,
    CHALLENGE,
    FAILURE,
    MESSAGE_LENGTH,
    WELCOME,
    _create_response,
    _get_digest_name_and_payload,
    _verify_challenge,
    answer_challenge,
    deliver_challenge,
)
from .context import AuthenticationError, BufferTooShort

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, Self

    from ._allow import AllowList

__all__ = [
    "Certificates",
    "Client",
    "Connection",
    "Listener",
    "Pipe",
    "answer_challenge",
    "deliver_challenge",
    "wait",
]

_core.set_exceptions(BufferTooShort)

BUFSIZE = 8192
#: Seconds that a local connection may take to come about.
CONNECTION_TIMEOUT = 20.0

#: Bytes of a key that is taken for a network other than this machine's own.
SHORTEST_KEY = 8

default_family = "AF_UNIX"
families = ["AF_INET", "AF_UNIX"]

Connection = _core.Connection
_ConnectionBase = Connection


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Return two connected ends; not duplex: the first receives, the second sends."""
    return _core.pipe(duplex)


# ---- Waiting for several ----


def _is_done(sentinel: int) -> bool:
    """Tell whether this is the sentinel of a child that has stored its exit code.

    The descriptor itself becomes readable only when the kernel is done with it.
    """
    popens = sys.modules.get(f"{__package__}.popen_fork")
    if popens is None:  # nothing was started yet
        return False
    popen = popens.by_sentinel.get((os.getpid(), sentinel))
    return popen is not None and popen.poll() is not None


def _look(obj: Any) -> bool:
    """Tell whether an object is ready, as far as that can be seen in memory."""
    if isinstance(obj, Connection):
        return obj.readable and obj.pending()
    if isinstance(obj, int):
        return _is_done(obj)
    look = getattr(obj, "_look", None)
    return look is not None and look()


def _confirm(obj: Any) -> bool:
    """Tell whether an object whose descriptor is readable is ready indeed.

    A doorbell may be a stale one: somebody else has taken the message.
    """
    if isinstance(obj, Connection):
        return not obj.readable or obj.poll(0)
    confirm = getattr(obj, "_confirm", None)
    return confirm is None or confirm()


def _descriptor(obj: Any) -> int:
    if isinstance(obj, int):
        return obj
    try:
        return int(obj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {obj!r}") from None


class _Waiter:
    """The objects of one `wait`, their descriptors asked for and registered."""

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects
        self._descriptors = [_descriptor(obj) for obj in objects]
        self._poll = select.poll()
        for fd in self._descriptors:
            self._poll.register(fd, select.POLLIN)

    def ready(self, timeout: float | None) -> list[Any]:
        """Return what is ready, sleeping only if nothing is, up to ``timeout``."""
        seen = {id(obj) for obj in self._objects if _look(obj)}
        if seen:
            timeout = 0.0
        milliseconds = None if timeout is None else max(0.0, timeout) * 1000
        signalled = {fd for fd, _ in self._poll.poll(milliseconds)}
        return [
            obj
            for obj, fd in zip(self._objects, self._descriptors, strict=True)
            if id(obj) in seen or (fd in signalled and _confirm(obj))
        ]


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Return all those of the objects that are ready, waiting until one is.

    Objects are connections, queue readers, sockets, anything with ``fileno()``,
    process sentinels and other descriptors. Without ``timeout`` (seconds) it waits
    for ever; after it the list is empty.
    """
    objects = list(object_list)
    if len(objects) == 1 and _look(objects[0]):
        return objects
    deadline = None if timeout is None else monotonic() + timeout
    waiter = _Waiter(objects)
    while True:
        ready = waiter.ready(timeout)
        if ready:
            return ready
        if deadline is not None:
            timeout = deadline - monotonic()
            if timeout <= 0:
                return ready


# ---- Connections by address ----


def _init_timeout(timeout: float = CONNECTION_TIMEOUT) -> float:
    return monotonic() + timeout


def _check_timeout(deadline: float) -> bool:
    return monotonic() > deadline


def arbitrary_address(family: str) -> Any:
    """Return a free address of the family."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_INET6":
        return ("::1", 0)
    if family == "AF_UNIX":
        # The directory is ours alone, so nobody can take the name meanwhile.
        start = os.path.join(util.get_temp_dir(), "listener-")  # noqa: PTH118
        while os.path.lexists(address := start + os.urandom(4).hex()):
            pass
        return address
    raise ValueError("unrecognized family")


def _validate_family(family: str) -> None:
    if family == "AF_PIPE":
        raise ValueError(f"Family {family} is not recognized.")


def address_type(address: Any) -> str:
    """Return the family of an address: AF_INET, AF_INET6, AF_UNIX, AF_PIPE (Windows)."""
    if type(address) is tuple:
        if len(address) < 2:
            raise TypeError(f"a network address is (host, port), not {address!r}")
        return "AF_INET6" if ":" in str(address[0]) else "AF_INET"
    if type(address) is str and address.startswith("\\\\"):
        return "AF_PIPE"
    if type(address) is str or util.is_abstract_socket_namespace(address):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


def _name_address(error: OSError, address: Any) -> None:
    """Have an error's text say which address could not be used."""
    if error.errno is not None and error.filename is None:
        error.filename = address
        if error.errno == errno.EADDRINUSE and not isinstance(address, tuple):
            error.strerror = (
                f"{error.strerror} (if nobody listens there any more, remove the file)"
            )


def _check_authkey(authkey: object) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")


def _connection_over(sock: _socket.socket) -> Connection:
    """Turn a connected socket into a connection, which owns it."""
    import _socket

    sock.settimeout(None)
    if sock.family in {_socket.AF_INET, _socket.AF_INET6}:
        from ._silence import tune

        tune(sock)
    return Connection(sock.detach())


def _is_trusted(sock: _socket.socket, allow_uids: Iterable[int], has_key: bool) -> bool:
    """Tell whether the peer of a Unix socket may be talked to.

    It may when it has our user id, the administrator's, or one that is allowed by
    name. The kernel shows every user that this name space does not know as one and
    the same: who looks like that has to show a key.
    """
    import _socket
    import struct

    if sock.family != _socket.AF_UNIX:
        return True
    size = struct.calcsize("3i")
    credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
    uid = struct.unpack("3i", credentials)[1]
    if uid not in {os.geteuid(), 0, *allow_uids}:
        return False
    return has_key or uid != _overflow_uid()


@functools.cache
def _overflow_uid() -> int:
    try:
        with open(  # noqa: PTH123 - pathlib is slow to import
            "/proc/sys/kernel/overflowuid", encoding="ascii"
        ) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


class SocketListener:
    """A socket that is bound to an address and listens."""

    def __init__(self, address: Any, family: str, backlog: int = 1) -> None:
        # The module around it takes milliseconds to import: more than all the rest.
        import _socket

        raw = self._raw = _socket.socket(getattr(_socket, family))
        try:
            raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            raw.settimeout(None)
            if family != "AF_UNIX":
                from ._silence import tune

                tune(raw)
            raw.bind(address)
            raw.listen(backlog)
            self._address = raw.getsockname()
        except OSError:
            raw.close()
            raise
        self._family = family
        self._last_accepted: Any = None
        self._unlink: util.Finalize | None = None
        if family == "AF_UNIX" and not util.is_abstract_socket_namespace(address):
            self._unlink = util.Finalize(
                self, os.unlink, args=(address,), exitpriority=0
            )

    def accept(
        self, allow_uids: Iterable[int] = (), has_key: bool = True
    ) -> Connection:
        """Wait for a peer to connect; other users' are turned away."""
        while True:
            sock, self._last_accepted = self._socket.accept()
            if _is_trusted(sock, allow_uids, has_key):
                return _connection_over(sock)
            util.info("a connection of another user was turned away")
            sock.close()

    @functools.cached_property
    def _socket(self) -> socket.socket:
        """The same as what programs expect, where a peer is to be accepted."""
        import socket

        return socket.socket(fileno=os.dup(self._raw.fileno()))

    def close(self) -> None:
        """Stop listening and remove the address's file."""
        try:
            self._raw.close()
            if "_socket" in self.__dict__:
                self._socket.close()
        finally:
            unlink, self._unlink = self._unlink, None
            if unlink is not None:
                unlink()


def SocketClient(
    address: Any, allow_uids: Iterable[int] = (), has_key: bool = True
) -> Connection:
    """Return a connection to a socket that listens at the address."""
    import _socket

    sock = _socket.socket(getattr(_socket, address_type(address)))
    try:
        sock.settimeout(None)
        sock.connect(address)
        if not _is_trusted(sock, allow_uids, has_key):
            raise AuthenticationError(
                f"{address!r} is another user's socket; allow_uids says whom to trust"
            )
        return _connection_over(sock)
    finally:
        sock.close()


# ---- Security ----


def _security_of(security: str | Certificates | None, family: str) -> str:
    """Return how connections of a family are secured: plain, tls, stdlib."""
    if isinstance(security, Certificates):
        security = "tls"
    if security not in {None, "tls", "stdlib"}:
        raise ValueError(
            f"security must be None, 'tls', 'stdlib' or Certificates, not {security!r}"
        )
    if family == "AF_UNIX":
        if security == "tls":
            raise ValueError("TLS is for network addresses; a Unix socket needs none")
        return "plain"
    if security == "stdlib":
        import warnings

        warnings.warn(
            "security='stdlib': messages go over the network in the clear, and pickles "
            "from whoever can change them on the way are loaded",
            RuntimeWarning,
            stacklevel=3,
        )
        return security
    return "tls"


def _takes_md5(legacy_md5: bool | None, security: str) -> bool:
    """Tell whether a proof of the key by MD5 is good enough.

    Python 3.11 has no other. On a Unix socket, where the kernel has said who the peer
    is, it is; on a network only if asked for.
    """
    if legacy_md5 and security == "tls":
        raise ValueError("legacy_md5 is for security='stdlib'; TLS has no use for it")
    return security == "plain" if legacy_md5 is None else legacy_md5


def _network_key(
    authkey: bytes | None, address: Any, security: object = None
) -> bytes | None:
    """Return the key for a network address; None means that of this process."""
    if isinstance(security, Certificates):
        if authkey is not None:
            raise ValueError("certificates take the place of authkey: give one of them")
        return None
    key = bytes(process.current_process().authkey if authkey is None else authkey)
    is_local = address[0] in {"localhost", "::1"} or str(address[0]).startswith("127.")
    if not key or (len(key) < SHORTEST_KEY and not is_local):
        raise ValueError(
            f"an authkey of {len(key)} bytes is no protection on a network; "
            "os.urandom(32) makes a good one"
        )
    return key


def _limit(max_message: int | None, security: str) -> int | None:
    """Return the size of the longest message that may come, None for any."""
    if max_message is not None:
        if max_message < 0:
            raise ValueError("max_message must not be negative")
        return max_message
    if security == "plain":
        return None
    # No more than there could ever be room for.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _restrict(
    conn: Connection, allow: AllowList | None, max_message: int | None
) -> Connection:
    if allow is not None or max_message is not None:
        conn._restrict(None if allow is None else allow.loads, max_message)
    return conn


def _allow_list(allow: Iterable[Any] | None) -> AllowList | None:
    if allow is None:
        return None
    from . import _allow

    return _allow.allow_list(allow)


class Listener:
    """Accepts connections at an address; with ``authkey`` from those who know it.

    At a network address connections are encrypted, and ``authkey=None`` means this
    process's key. ``identity`` names the listener to its clients; by default its port
    does, which fails where ports are translated on the way: then give both sides the
    same. ``security="stdlib"`` is for clients that use the standard library;
    ``security=Certificates(...)`` has certificates take the place of the key.

    At a Unix socket only processes of the same user, the administrator's, and those of
    ``allow_uids`` can connect.

    ``allow`` lists the classes, functions and ``"module"`` names that pickles from peers
    may name: `recv` raises UnpicklingError for others. ``max_message`` is the size, in
    bytes, of the longest message that is received (OSError); at a network address it is
    that of the machine's memory unless told.
    """

    def __init__(
        self,
        address: Any = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
        *,
        security: str | Certificates | None = None,
        identity: str | None = None,
        allow_uids: Iterable[int] = (),
        allow: Iterable[Any] | None = None,
        max_message: int | None = None,
        legacy_md5: bool | None = None,
    ) -> None:
        self._allow_uids = frozenset(allow_uids)
        self._allow = _allow_list(allow)
        self._challenges_later = False
        given = address if isinstance(address, SocketListener) else None
        address = address if given is None else given._address
        family = family or (address and address_type(address)) or default_family
        _validate_family(family)
        address = address or arbitrary_address(family)
        _check_authkey(authkey)
        self._security = _security_of(security, family)
        self._max_message = _limit(max_message, self._security)
        self._legacy_md5 = _takes_md5(legacy_md5, self._security)
        self._listener: Any = None
        self._greeter: Any = None
        if self._security != "plain":
            authkey = _network_key(authkey, address, security)
        self._authkey = authkey
        if self._security == "tls":
            from . import _network

            proof = security if isinstance(security, Certificates) else authkey
            make: Any = functools.partial(
                _network.TlsListener, proof=proof, identity=identity
            )
        else:
            if authkey is not None:
                # They are taken at once (_greeting); many may come at once.
                backlog = max(backlog, 1024)
            make = SocketListener
        try:
            self._listener = given or make(address, family, backlog)
        except OSError as error:
            _name_address(error, address)
            raise

    def _open(self) -> Any:
        if self._listener is None:
            raise OSError("listener is closed")
        return self._listener

    def accept(self) -> Connection:
        """Wait for a peer and return the connection to it.

        Raises AuthenticationError when the peer does not know the key.
        """
        if self._security == "tls":
            return self._restrict(self._open().accept())
        listener = self._open()
        if self._authkey is None or self._challenges_later:
            has_key = self._challenges_later
            return self._restrict(listener.accept(self._allow_uids, has_key))
        if self._greeter is None:
            from . import _greeting

            self._greeter = _greeting.Greeter(
                listener, self._authkey, self._allow_uids, legacy_md5=self._legacy_md5
            )
        return self._restrict(self._greeter.accept())

    def _restrict(self, conn: Connection) -> Connection:
        return _restrict(conn, self._allow, self._max_message)

    def close(self) -> None:
        """Stop listening."""
        listener, self._listener = self._listener, None
        greeter, self._greeter = self._greeter, None
        if greeter is not None:
            greeter.close()
        if listener is not None:
            listener.close()

    @property
    def address(self) -> Any:
        """Where it listens."""
        return self._open()._address

    @property
    def last_accepted(self) -> Any:
        """The address of the last peer, None if there was none or it has none."""
        return self._open()._last_accepted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def Client(
    address: Any,
    family: str | None = None,
    authkey: bytes | None = None,
    *,
    security: str | Certificates | None = None,
    identity: str | None = None,
    allow_uids: Iterable[int] = (),
    allow: Iterable[Any] | None = None,
    max_message: int | None = None,
    legacy_md5: bool | None = None,
) -> Connection:
    """Return a connection to the `Listener` at an address.

    Raises AuthenticationError when it does not know the key, or when a Unix socket is
    another user's, neither the administrator's nor one of ``allow_uids``. The other
    arguments are those of the listener.
    """
    family = family or address_type(address)
    _validate_family(family)
    _check_authkey(authkey)
    kind = _security_of(security, family)
    allowed, limit = _allow_list(allow), _limit(max_message, kind)
    md5 = _takes_md5(legacy_md5, kind)
    if kind != "plain":
        authkey = _network_key(authkey, address, security)
    if kind == "tls":
        from . import _network

        proof = security if isinstance(security, Certificates) else authkey
        try:
            encrypted = _network.tls_client(address, family, proof, identity)
        except OSError as error:
            _name_address(error, address)
            raise
        return _restrict(encrypted, allowed, limit)
    try:
        conn = SocketClient(address, allow_uids, authkey is not None)
    except OSError as error:
        _name_address(error, address)
        raise
    if authkey is not None:
        try:
            answer_challenge(conn, authkey, legacy_md5=md5)
            deliver_challenge(conn, authkey, legacy_md5=md5)
        except BaseException as error:
            conn.close()
            if type(error) is not EOFError:
                raise
            raise EOFError(
                f"{address!r} hung up before the key was shown: it has closed, or has "
                "too many peers, or no descriptors for another one"
            ) from None
    return _restrict(conn, allowed, limit)


# ---- Another encoding than pickle ----


class ConnectionWrapper:
    """A connection whose objects are encoded by given functions."""

    def __init__(
        self,
        conn: Connection,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        for name in ("fileno", "close", "poll", "recv_bytes", "send_bytes"):
            setattr(self, name, getattr(conn, name))

    def send(self, obj: Any) -> None:
        """Send an object."""
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj: Any) -> bytes:
    from xmlrpc.client import dumps

    return dumps((obj,), None, None, None, True).encode("utf-8")  # noqa: FBT003


def _xml_loads(data: bytes) -> Any:
    from xmlrpc.client import loads

    return loads(data.decode("utf-8"))[0][0]


class XmlListener(Listener):
    """A listener whose connections encode objects as XML-RPC does."""

    def accept(self) -> ConnectionWrapper:  # type: ignore[override]
        """Wait for a peer and return the connection to it."""
        return ConnectionWrapper(super().accept(), _xml_dumps, _xml_loads)


def XmlClient(*args: Any, **kwds: Any) -> ConnectionWrapper:
    """Return a connection to an `XmlListener`."""
    return ConnectionWrapper(Client(*args, **kwds), _xml_dumps, _xml_loads)


# ---- Passing a connection to another process ----


def rebuild_connection(
    df: Any, readable: bool, writable: bool, restrictions: tuple[Any, Any] | None = None
) -> Connection:
    """Make a stream connection in the process that a message reached."""
    conn = Connection(df.detach(), readable, writable)
    if restrictions is not None:
        conn._restrict(*restrictions)
    return conn


def _restrictions_of(conn: Connection) -> tuple[Any, ...]:
    restrictions = conn._restrictions()
    return () if restrictions == (None, None) else (restrictions,)


def reduce_connection(conn: Connection) -> tuple[Any, ...]:
    """Reduce a connection to what another process makes it from."""
    handle, end, fd = conn._parts()
    if not handle:
        df = reduction.DupFd(conn.fileno())
        flags = conn.readable, conn.writable
        return rebuild_connection, (df, *flags, *_restrictions_of(conn))
    popen: Any = context.get_spawning_popen()
    if popen is not None:
        popen.hold(handle)
        popen.hold(conn._end_handle())
        df = popen.DupFd(popen.duplicate_for_child(fd))
        return rebuild_pipe, (handle, end, df, *_restrictions_of(conn))
    from . import resource_sharer

    df = resource_sharer.DupPipe(conn)
    return rebuild_pipe, (handle, end, df, *_restrictions_of(conn))


def rebuild_pipe(
    handle: bytes, end: int, df: Any, restrictions: tuple[Any, Any] | None = None
) -> Connection:
    """Make a pipe's end in the process that a message or a start brought it to."""
    attach = getattr(df, "attach", None)
    conn: Connection
    if attach is not None:
        conn = attach(handle, end)
    else:
        conn = Connection.from_parts(handle, end, df.detach())
    if restrictions is not None:
        conn._restrict(*restrictions)
    return conn


reduction.register(Connection, reduce_connection)
