# SPDX-License-Identifier: MIT
"""Several calls of managed objects in one round trip.

Inside of the block calls are written down, at its end they go to the server together,
which does them in order, each whether or not another fails. The arguments are pickled
when a call is written down: so what does not pickle raises there, and what is changed
afterwards does not matter.
"""

from __future__ import annotations

from concurrent import futures

from . import _remote
from ._manager_wire import ERROR, PROXY, RETURN, TRACEBACK, convert_to_error, serving
from .reduction import ForkingPickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from ._allow import AllowList
    from ._proxies import BaseProxy

__all__ = ["Batch", "Reply", "do"]

#: A result that is a pickle of its own: one that fails spoils no other.
PICKLED = "#PICKLED"

#: These are their own pickles.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class Reply(futures.Future):  # type: ignore[type-arg]
    """The result of a call in a batch: a future that is done after the block."""

    def __bool__(self) -> bool:
        """Raise while nobody knows: ``in``, ``not`` and ``if`` ask for an answer now."""
        if not self.done():
            raise TypeError(
                "the result of a call in a batch is there after the block; for `in`, "
                "`len` and the like there is batch.call(proxy, '__contains__', ...)"
            )
        return True


class Batch:
    """Calls that go to the server together at the end of a ``with`` block.

    ``batch(proxy)`` is a proxy whose methods return a `Reply` each; ``batch.call(proxy,
    name, *args)`` calls one by its name. After the block the first call that failed
    raises, unless the batch was made with ``check=False``; the others were done all the
    same. A block that raises sends nothing.
    """

    def __init__(
        self,
        send: Callable[[list[Any]], list[Any]],
        *,
        check: bool,
        allow: Any = None,
    ) -> None:
        self._send = send
        self._check = check
        self._loads = _loads_by(allow)
        # With the arguments: a proxy among them is kept until the server has it.
        self._calls: list[tuple[BaseProxy, Reply, Any, Any]] = []
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __call__(self, proxy: Any) -> Any:
        """Return a proxy of the same object, whose calls are part of the batch."""
        recorder = object.__new__(type(proxy))
        attributes = object.__getattribute__(recorder, "__dict__")
        attributes.update(object.__getattribute__(proxy, "__dict__"))

        def record(name: str, args: Any = (), kwds: Any = {}) -> Reply:  # noqa: B006
            return self.call(proxy, name, *args, **kwds)

        attributes["_callmethod"] = record
        return recorder

    def call(self, proxy: Any, name: str, /, *args: Any, **kwds: Any) -> Reply:
        """Write down a call of a method; return its reply."""
        if self._is_over:
            raise ValueError("the batch has ended")
        ident = object.__getattribute__(proxy, "_id")
        request = ident, name, bytes(ForkingPickler.dumps((args, kwds)))
        reply = Reply()
        self._calls.append((proxy, reply, request, (args, kwds)))
        return reply

    def __len__(self) -> int:
        """Return how many calls were written down."""
        return len(self._calls)

    def __exit__(self, kind: object, *rest: object) -> None:
        self._is_over = True
        if kind is not None:
            for _, reply, *_ in self._calls:
                reply.cancel()
            return
        # Those that nobody has cancelled, and from now on nobody can.
        self._calls = [
            one for one in self._calls if one[1].set_running_or_notify_cancel()
        ]
        if not self._calls:
            return
        try:
            answers = self._send([request for _, _, request, _ in self._calls])
        except BaseException as failure:
            for _, reply, *_ in self._calls:
                reply.set_exception(failure)
            raise
        for (proxy, reply, *_), answer in zip(self._calls, answers, strict=True):
            _settle(proxy, reply, self._loads, *answer)
        if self._check:
            self._raise_first()

    def _raise_first(self) -> None:
        for number, (_, reply, request, _) in enumerate(self._calls):
            error = reply.exception()
            if error is not None:
                error.add_note(f"call {number} of the batch, {request[1]}()")
                raise error


def _loads_by(allow: AllowList | None) -> Callable[[bytes], Any]:
    """Return what unpickles: what is in a message's pickle is restricted as that is."""
    return ForkingPickler.loads if allow is None else allow.loads


def _settle(
    proxy: BaseProxy,
    reply: Reply,
    loads: Callable[[bytes], Any],
    kind: str,
    result: Any,
) -> None:
    try:
        if kind == PICKLED:
            kind, result = loads(result)
        if kind == PROXY:
            reply.set_result(proxy._proxy_of(*result))
        elif kind == RETURN:
            reply.set_result(result)
        else:
            reply.set_exception(convert_to_error(kind, result))
    except Exception as error:  # noqa: BLE001 - it does not unpickle
        reply.set_exception(error)


def do(server: Any, requests: list[tuple[str, str, bytes]]) -> list[tuple[str, Any]]:
    """Do calls in the server, one after the other; return a reply for each."""
    return [_do_one(server, *request) for request in requests]


def _do_one(server: Any, ident: str, name: str, packed: bytes) -> tuple[str, Any]:
    try:
        args, kwds = _loads_by(server.listener._allow)(packed)
    except Exception as error:  # noqa: BLE001 - the caller is told
        return _pickled(server, ERROR, _remote.pack(error))
    kind, result = server.call(ident, name, args, kwds)
    if (kind == RETURN and type(result) in _PLAIN) or kind in {PROXY, TRACEBACK}:
        return kind, result
    return _pickled(server, kind, result)


def _pickled(server: Any, kind: str, result: Any) -> tuple[str, Any]:
    try:
        with server.carrying(serving.link, []):
            return PICKLED, bytes(ForkingPickler.dumps((kind, result)))
    except Exception as error:  # noqa: BLE001 - the caller is told
        packed = _remote.pack(error)
        return PICKLED, bytes(ForkingPickler.dumps((ERROR, packed)))
