# SPDX-License-Identifier: MIT
"""Encrypted connections: listeners and clients at network addresses.

TLS 1.3 with a key that both sides derive from the ``authkey``, or with certificates.
What one gets is a `Connection` with a transport: ``docs/internals/tls.rst``.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct

from . import util
from ._certificates import Certificates
from ._silence import tune
from .connection import CONNECTION_TIMEOUT, Connection
from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["TlsListener", "tls_client"]

#: Seconds that a peer has for its handshake.
HANDSHAKE_SECONDS = 5.0
#: Seconds that a process waits at its end for what it has sent to be on its way.
FLUSH_SECONDS = 5.0

#: What comes from a listener: a descriptor, and the address of the peer.
_ARRIVAL = struct.Struct("iI128s")

_flushed_by: int | None = None


def _tls() -> Any:
    """Return the extension, and see that what is sent goes out before the end."""
    global _flushed_by  # noqa: PLW0603
    try:
        from . import _tls
    except ImportError as error:
        raise NotImplementedError(
            "network addresses need TLS, and this sidestep was built without OpenSSL's "
            "headers: install them (libssl-dev, openssl-devel) and build it again; "
            "security='stdlib' works without, in the clear"
        ) from error
    if _flushed_by != os.getpid():
        _flushed_by = os.getpid()
        util.Finalize(None, _tls.flush, args=(FLUSH_SECONDS,), exitpriority=-90)
    return _tls


@functools.lru_cache(maxsize=64)
def _context(authkey: bytes, identity: str, *, server: bool) -> Any:
    # Stretching a short key takes a tenth of a second.
    return _tls().context(server, authkey, f"listener {identity}".encode())


@functools.lru_cache(maxsize=64)
def _certified(certificates: Certificates, peer: str | None, *, server: bool) -> Any:
    files = certificates.certificate, certificates.key, certificates.authority
    return _tls().certified(server, *files, peer)


def _context_for(
    proof: bytes | Certificates | None, identity: str, host: str | None, *, server: bool
) -> Any:
    """Return the settings of one side; a client's has the host it means."""
    if isinstance(proof, Certificates):
        return _certified(proof, proof.peer or host, server=server)
    assert proof is not None
    return _context(bytes(proof), identity, server=server)


def _connection(fd: int, transport: Any) -> Connection:
    conn = Connection(fd)
    conn._attach(transport)
    return conn


class TlsListener:
    """A socket that is bound to a network address, and lets in who has the proof."""

    def __init__(
        self,
        address: Any,
        family: str,
        backlog: int,
        proof: bytes | Certificates | None,
        identity: str | None,
    ) -> None:
        tls = _tls()
        with socket.socket(getattr(socket, family)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tune(sock)
            sock.bind(address)
            # They are taken at once, whether anybody accepts or not.
            sock.listen(max(backlog, 1024))
            self._address = sock.getsockname()
            name = identity or f"port {self._address[1]}"
            context = _context_for(proof, name, None, server=True)
            arrivals = tls.listen(sock.detach(), context, HANDSHAKE_SECONDS)
        self._socket = socket.socket(fileno=arrivals)
        self._socket.settimeout(None)
        self._last_accepted: Any = None
        self._pid = os.getpid()

    def accept(self) -> Connection:
        """Wait for a peer that knows the key; AuthenticationError when one does not."""
        if os.getpid() != self._pid:
            raise OSError("a network listener works in the process that made it")
        data = self._socket.recv(_ARRIVAL.size)
        if len(data) != _ARRIVAL.size:
            raise OSError(errno.EBADF, "listener is closed")
        fd, size, raw = _ARRIVAL.unpack(data)
        if fd < 0:
            raise AuthenticationError(
                "a peer has another key, or does not speak this protocol"
            )
        try:
            transport = _tls().take(fd)
        except ValueError:  # close() was quicker, and has ended it
            raise OSError(errno.EBADF, "listener is closed") from None
        self._last_accepted = _unpack_address(raw[:size])
        return _connection(fd, transport)

    def close(self) -> None:
        """Stop listening."""
        if os.getpid() == self._pid:
            # A child may have a copy: closing ours would not be seen.
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._socket.close()


def _unpack_address(raw: bytes) -> Any:
    """Return a struct sockaddr as Python has it."""
    if len(raw) < 8:
        return None
    family = struct.unpack_from("=H", raw)[0]
    port = struct.unpack_from("!H", raw, 2)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    flow = struct.unpack_from("!I", raw, 4)[0]
    scope = struct.unpack_from("=I", raw, 24)[0]
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope


def tls_client(
    address: Any, family: str, proof: bytes | Certificates | None, identity: str | None
) -> Connection:
    """Return a connection to the listener at a network address."""
    tls = _tls()
    name = identity or f"port {address[1]}"
    context = _context_for(proof, name, address[0], server=False)
    with socket.socket(getattr(socket, family)) as sock:
        sock.settimeout(None)
        sock.connect(address)
        tune(sock)
        fd = sock.detach()
        try:
            transport = tls.connect(fd, context, CONNECTION_TIMEOUT)
        except (ConnectionRefusedError, TimeoutError) as error:
            raise AuthenticationError(
                f"{address}: {error}; security='stdlib' is for a listener of the "
                "standard library"
            ) from None
    return _connection(fd, transport)
