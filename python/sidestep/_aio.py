# SPDX-License-Identifier: MIT
"""Pools in asyncio: results that can be awaited, without a thread.

Whoever takes results from the workers tells a result's watchers: while the loop has
other things to do that is the engine's own thread. The watcher wakes the loop, once for
all results that have come meanwhile. Who stops waiting, because its task was cancelled,
cancels the work.
"""

from __future__ import annotations

import collections
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .pool import IMapIterator

__all__ = ["AsyncMethods", "next_of", "value_of"]


class _Mailbox:
    """Futures of one event loop that are to be woken."""

    def __init__(self) -> None:
        self._ready: collections.deque[asyncio.Future[None]] = collections.deque()
        self._is_called = False

    def post(self, future: asyncio.Future[None]) -> None:
        """Have a future woken, from any thread."""
        # First the future, then the flag: _open clears it before it looks.
        self._ready.append(future)
        if self._is_called:
            return
        self._is_called = True
        try:
            future.get_loop().call_soon_threadsafe(self._open)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits any more

    def _open(self) -> None:
        self._is_called = False
        while self._ready:
            future = self._ready.popleft()
            if not future.done():
                future.set_result(None)


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox]
_mailboxes = weakref.WeakKeyDictionary()


class _Watcher:
    """What a result calls when it has something new."""

    __slots__ = ("_future", "_is_posted", "_mailbox", "_result")

    def __init__(self, result: Any, future: asyncio.Future[None]) -> None:
        self._result = result
        self._future = future
        self._is_posted = False
        loop = future.get_loop()
        mailbox = _mailboxes.get(loop)
        if mailbox is None:
            mailbox = _mailboxes[loop] = _Mailbox()
        self._mailbox = mailbox

    def __call__(self) -> None:
        if not self._is_posted and self._result.ready():
            self._is_posted = True
            self._mailbox.post(self._future)


async def _news_of(result: Any) -> None:
    """Wait until a result, or an iterator, has something to take."""
    while not result.ready():  # again, if another task took it
        await _next_news_of(result)


async def _next_news_of(result: Any) -> None:
    import asyncio

    future = asyncio.get_running_loop().create_future()
    watcher = _Watcher(result, future)
    if not result._watch(watcher):
        return
    try:
        watcher()  # what came before it watched
        await future
    except asyncio.CancelledError:
        result.cancel()
        raise
    finally:
        result._unwatch(watcher)


async def value_of(result: Any) -> Any:
    """Return what a result's ``get()`` does, once it is there."""
    await _news_of(result)
    return result.get()


async def next_of(iterator: Any) -> Any:
    """Return an iterator's next item, once it is there."""
    await _news_of(iterator)
    try:
        return iterator.next()
    except StopIteration:
        raise StopAsyncIteration from None


class AsyncMethods:
    """The methods of pools for coroutines.

    They return what their namesakes without the ``a`` return, and take the same
    options. When the task that awaits one is cancelled, the work is, too: what no worker
    has is dropped, a worker process that has some of it is killed.
    """

    async def aapply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **options: Any,
    ) -> Any:
        """Return ``func(*args, **kwds)``, called by a worker."""
        pool: Any = self
        return await pool.apply_async(func, args, kwds, **options)

    async def amap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the results of ``func`` for each item, in order."""
        pool: Any = self
        results: list[Any] = await pool.map_async(func, iterable, chunksize, **options)
        return results

    async def astarmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the results of ``func`` for the arguments in each item, in order."""
        pool: Any = self
        results: list[Any] = await pool.starmap_async(
            func, iterable, chunksize, **options
        )
        return results

    def aimap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        **options: Any,
    ) -> IMapIterator:
        """Return an iterator for ``async for``: the results, in order."""
        pool: Any = self
        iterator: IMapIterator = pool.imap(func, iterable, chunksize, **options)
        return iterator

    def aimap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        **options: Any,
    ) -> IMapIterator:
        """Return an iterator for ``async for``: the results, as they become ready."""
        pool: Any = self
        iterator: IMapIterator = pool.imap_unordered(
            func, iterable, chunksize, **options
        )
        return iterator

    def aistarmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        **options: Any,
    ) -> IMapIterator:
        """Do as `aimap`, with the arguments in each item."""
        pool: Any = self
        iterator: IMapIterator = pool.istarmap(func, iterable, chunksize, **options)
        return iterator
