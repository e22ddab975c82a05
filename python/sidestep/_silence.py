# SPDX-License-Identifier: MIT
"""How soon the loss of another machine is noticed: of its power, or of the way to it.

Nothing comes from a machine that is gone, not even the end of the stream, and a kernel
by itself asks after two hours, or sends a message again for 15 minutes. Here whoever is
silent is asked, by the kernel, and the connection fails after `SILENCE_SECONDS`.
``docs/internals/tls.rst`` has the table of what is noticed when.
"""

from __future__ import annotations

import _socket
import os

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SILENCE_SECONDS", "be_prompt", "end_when_stuck_at", "tune"]

#: Seconds after which a peer that does not answer is gone.
SILENCE_SECONDS = 45

#: The longest pause between two attempts to send something again, in milliseconds: of
#: the kernel's 15, which the first four shorter pauses are part of, the last is over in
#: 39 s. Linux 6.15 and later.
_PAUSE_MAX_MS = 3000
_TCP_RTO_MAX_MS = 44  # not in the socket module

_PROBES = 3


def tune(sock: _socket.socket) -> None:
    """Have a TCP socket fail when its peer's machine is gone; what it accepts too."""
    # Messages are small; waiting for more to send costs 40 ms each.
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    first = max(SILENCE_SECONDS // _PROBES, 1)
    pause = max((SILENCE_SECONDS - first) // _PROBES, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, first)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, _PROBES)
    pause_ms = min(_PAUSE_MAX_MS, SILENCE_SECONDS * 66)
    try:
        sock.setsockopt(_socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, pause_ms)
    except OSError:
        pass  # an older kernel, with its 15 minutes


def be_prompt(conn: Any, *, is_encrypted: bool = True) -> None:
    """Do so with a connection of a manager: both sides of these always read.

    An encrypted one is moreover kept from what a fork does to others.
    """
    if is_encrypted:
        # XML-RPC's is more than a connection.
        if isinstance(conn, _core.Connection):
            conn._keep_private(SILENCE_SECONDS)
        return
    end_when_stuck_at(conn.fileno())


def end_when_stuck_at(fd: int) -> None:
    """Have a TCP socket fail also when what was sent is not taken, on any kernel.

    This is for those who always read: to the kernel a peer that has no room is as stuck
    as one that is gone.
    """
    sock = _socket.socket(fileno=os.dup(fd))
    try:
        patience_ms = SILENCE_SECONDS * 1000
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, patience_ms)
    finally:
        sock.close()
