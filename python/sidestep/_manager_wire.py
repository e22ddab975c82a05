# SPDX-License-Identifier: MIT
"""What a manager's server and its clients say to each other.

A request is ``(ident, method, args, kwds)``, a reply ``(kind, result)``; requests to
the server itself have None for an ident. These are the standard library's messages, so
that its managers can be spoken to. ``docs/internals/net.rst`` has the rest.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "RemoteError",
    "Token",
    "all_methods",
    "close_quietly",
    "convert_to_error",
    "dispatch",
    "public_methods",
]

#: What a client says with its first message; a server refuses any other.
VERSION = 2

RETURN = "#RETURN"
#: A result that was taken, an item, a lock or a unit: the client says that it has it,
#: and waits for no answer to that.
TAKEN = "#TAKEN"
HAVE = "#HAVE"
PROXY = "#PROXY"
ERROR = "#ERROR"
TRACEBACK = "#TRACEBACK"
UNSERIALIZABLE = "#UNSERIALIZABLE"

#: Asks for a copy of the object itself.
GETVALUE = "#GETVALUE"
#: Asks the server to go on over a pipe in shared memory, which comes with it.
CHANNEL = "#CHANNEL"
#: Asks the server to serve another thread over such a pipe, which comes by courier.
LINK = "#LINK"

#: What may be asked of a server's task office, which does batches of calls, too.
OFFICE_METHODS = (
    "enter", "submit", "collect", "withdraw", "is_running", "kill", "kill_tasks",
    "leave", "join", "take", "finish", "stop", "quit", "statistics",
    "calls",
)  # fmt: skip


#: Bytes, or characters, that a client's pipe has room for, as it asks for one thing
#: at a time.
SMALL_SIZE = 4096
#: Types that refer to nothing, and about how large one is.
PLAIN: dict[type, Callable[[Any], int]] = {
    type(None): bool,
    bool: int,
    int: int.bit_length,
    float: bool,
    str: len,
    bytes: len,
}


class RemoteError(Exception):
    """An exception raised in the server; its text is the traceback there."""

    def __str__(self) -> str:
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


class Token:
    """What identifies a shared object: its type, its manager's address, its id."""

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid, self.address, self.id = typeid, address, id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        name = type(self).__name__
        return (
            f"{name}(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"
        )


def dispatch(
    c: Any,
    id: str | None,
    methodname: str,
    args: Any = (),
    kwds: Any = {},  # noqa: B006
) -> Any:
    """Send a request over a connection and return what comes back."""
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
    if kind == RETURN:
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        del result  # it would be in a cycle with its own traceback


def close_quietly(*conns: Any) -> None:
    """Close those of these connections that there are."""
    for conn in conns:
        try:
            if conn is not None:
                conn.close()
        except OSError:
            pass


def convert_to_error(kind: str, result: Any) -> BaseException:
    """Return the exception that a reply stands for."""
    if kind == ERROR:
        error: BaseException = result
        return error
    if kind not in {TRACEBACK, UNSERIALIZABLE}:
        return ValueError(f"Unrecognized message type {kind!r}")
    if not isinstance(result, str):
        raise TypeError(
            f"Result {result!r} (kind '{kind}') type is {type(result)}, not str"
        )
    if kind == UNSERIALIZABLE:
        return RemoteError(f"Unserializable message: {result}\n")
    return RemoteError(result)


def all_methods(obj: object) -> list[str]:
    """Return the names of everything about an object that can be called."""
    # A slot that is not filled has a name and no value.
    return [name for name in dir(obj) if callable(getattr(obj, name, None))]


def public_methods(obj: object) -> list[str]:
    """Return the names of the methods that do not start with an underscore."""
    return [name for name in all_methods(obj) if not name.startswith("_")]


def is_small(message: tuple[str, Any]) -> bool:
    """Tell whether a reply calls nobody's code and fits into any pipe: it never waits."""
    kind, result = message
    if kind != RETURN:
        return True
    size = PLAIN.get(type(result))
    if size is None and hasattr(result, "outcomes"):
        size = type(result).size_of  # what became of tasks: pickles
    return size is not None and size(result) <= SMALL_SIZE


class Serving(threading.local):
    """On whose behalf a thread of the server runs."""

    link: Any = None
    #: Who owns what the thread takes: the caller's process and thread.
    process: Any = None
    #: How to have another thread do something, where this one must not wait.
    hand_on: Any = None
    #: What a reply that is being pickled refers to, None where nothing is: idents.
    carried: list[str] | None = None
    #: Whether this thread goes on with the calls that it notifies, soon.
    settles = False


serving = Serving()
