# SPDX-License-Identifier: MIT
"""``manager.submit``: futures of calls that a manager's server has done."""

from __future__ import annotations

import functools
import os
import threading

from sidestep import futures
from sidestep.cluster import ClusterPool

from .remote import OfficeProxy, RemoteBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["backend_of", "submit"]

_lock = threading.Lock()


def _begin_in_child() -> None:
    global _lock  # noqa: PLW0603 - a thread that the child has not may hold it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_begin_in_child)


class _Pool(ClusterPool):
    """What a manager's futures come from; it goes with the manager."""

    def __del__(self) -> None:
        """Say nothing."""


def office_of(manager: Any) -> OfficeProxy:
    """Return a proxy of the office of a manager's server."""
    token, _ = manager._create("TaskOffice")
    # Without the manager, which ends when its last user goes: this is none.
    proxy = OfficeProxy(token, manager._serializer, authkey=manager._authkey)
    if proxy._session is not None:
        proxy._session.drop(token.id)  # it has a reference of its own
    return proxy


def backend_of(manager: Any, *, is_detached: bool = False) -> RemoteBackend:
    """Return what a pool needs to have its tasks done by a manager's server."""
    return RemoteBackend(office_of(manager), is_detached=is_detached)


def _pool_of(manager: Any, is_detached: bool) -> _Pool:
    key = os.getpid(), is_detached
    with _lock:
        pools: dict[Any, _Pool] = manager.__dict__.setdefault("_task_pools", {})
        if key not in pools:
            pools[key] = _Pool(backend_of(manager, is_detached=is_detached))
        return pools[key]


def submit(
    manager: Any,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    is_detached: bool = False,
) -> futures._Future:
    """Have the server of a manager call a function; return the future."""
    pool = _pool_of(manager, is_detached)
    future = futures._Future()
    result = pool.apply_async(
        func,
        args,
        kwargs,
        functools.partial(futures._succeed, future),
        functools.partial(futures._fail, future, pool),
    )
    if not future.done():
        future._result_to_come = result
    return future
