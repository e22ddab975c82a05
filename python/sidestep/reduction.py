# SPDX-License-Identifier: MIT
"""Pickling for other processes, and sending descriptors to them.

`ForkingPickler` is pickle with reducers that make sense between processes only; the
core calls it for every object that it cannot encode itself. Importing this module
tells the core so.

A descriptor goes to a child that is being started as part of its start, to anybody
else over a Unix socket: with the message when the connection is a socket, else by
way of `sidestep.resource_sharer`.
"""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import sys
from abc import ABCMeta

from . import _core, context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, ClassVar, Protocol

    class _HasFileno(Protocol):
        def fileno(self) -> int: ...


__all__ = [
    "HAVE_SEND_HANDLE",
    "AbstractReducer",
    "DupFd",
    "ForkingPickler",
    "dump",
    "recv_handle",
    "recvfds",
    "register",
    "send_handle",
    "sendfds",
]

#: Descriptors can be sent to other processes.
HAVE_SEND_HANDLE = True


class ForkingPickler(pickle.Pickler):
    """Pickler with reducers for what travels between processes only."""

    _extra_reducers: ClassVar[dict[type, Callable[[Any], Any]]] = {}
    _copyreg_dispatch_table = copyreg.dispatch_table

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        _register_sockets()
        self.dispatch_table = {**self._copyreg_dispatch_table, **self._extra_reducers}

    @classmethod
    def register(cls, type: type, reduce: Callable[[Any], Any]) -> None:
        """Use ``reduce`` for objects of exactly this type."""
        cls._extra_reducers[type] = reduce

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """Return the pickled object."""
        buf = io.BytesIO()
        cls(buf, protocol).dump(obj)
        return buf.getbuffer()

    loads = staticmethod(pickle.loads)


register = ForkingPickler.register


def dump(obj: Any, file: Any, protocol: int | None = None) -> None:
    """Pickle an object into a file with `ForkingPickler`.

    While a child is being started that is not forked: with what has no name there by
    value.
    """
    popen: Any = context.get_spawning_popen()
    if popen is None:
        ForkingPickler(file, protocol).dump(obj)
        return
    context.expect_strangers()
    file.write(_ForChild(obj, popen, protocol).run())


class _Attempt:
    """Pickling one object: by name, else by value, else an error that says where.

    What a failed try has left behind is taken back before the next.
    """

    #: How errors call the object.
    root = "obj"

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        self.pickler = _pickler_in_use()

    def run(self) -> Any:
        """Return the pickle."""
        try:
            data = self.by_name()
        except _FAILURES as error:
            return self.second_try(error)
        if context.may_lack_main() and _mentions_main(data):
            return self._without_main(data)
        return data

    def by_name(self) -> Any:
        """Try with the pickler in use."""
        raise NotImplementedError

    def by_value(self, pickler: Any, *, unknown_main: bool) -> Any:
        """Try with a pickler by value."""
        raise NotImplementedError

    def reset(self) -> None:
        """Undo what reducers did for a try that failed."""
        raise NotImplementedError

    def second_try(self, error: Exception) -> Any:
        """Pickle by value after all, or raise saying where it cannot be pickled."""
        from . import _byvalue

        second = None
        self.reset()
        if _is_the_picklers(error):
            pickler = _byvalue.pickler_class(self.pickler)
            if pickler is not None:
                try:
                    return self.by_value(pickler, unknown_main=self._unknown_main())
                except _FAILURES as its_error:
                    # Without its frames, which have the pickler and all it has seen.
                    second = its_error.with_traceback(None)
                    self.reset()
        try:
            explained = self._explain(error, second)
        finally:
            self.reset()
            _sweep_descriptors()
        if explained is error:
            raise error
        raise explained from error

    def _unknown_main(self) -> bool:
        from . import _byvalue

        return context.may_lack_main() and _byvalue.main_is_unknown()

    def _without_main(self, data: Any) -> Any:
        """Send what is in our ``__main__`` by value if the receiver cannot have it."""
        from . import _byvalue

        pickler = _byvalue.pickler_class(self.pickler)
        if pickler is None or not _byvalue.main_is_unknown():
            return data
        if not context.has_strangers() and _byvalue.forks_know_main():
            return data
        self.reset()
        try:
            return self.by_value(pickler, unknown_main=True)
        except _FAILURES:
            # By name then: it is good enough for children that were forked.
            self.reset()
            return self.by_name()

    def _explain(self, error: Exception, second: Exception | None) -> Exception:
        from . import _byvalue, _culprit

        make = _byvalue.pickler_class(self.pickler) if second is not None else None
        path, part = _culprit.find(
            self.obj, make or self.pickler, by_value=make is not None
        )
        texts = [str(error)]
        if second is not None and str(second) != str(error):
            texts.append(f"nor by value: {second}")
        elif _is_the_picklers(error) and _is_about_a_name(error):
            texts.append(_byvalue.install_hint())
        if path:
            texts.append(f"at {self.locate(path)}, {_culprit.describe(part)}")
        return _with_text(error, "; ".join(filter(None, texts)))

    def locate(self, path: str) -> str:
        """Return a path as errors show it."""
        return self.root + path


class _ForMessage(_Attempt):
    def __init__(self, obj: Any, buffer_callback: Callable[[Any], Any] | None) -> None:
        super().__init__(obj)
        self._callback = buffer_callback

    def by_name(self) -> Any:
        pickler = self.pickler
        if not _writes_files(pickler):
            return pickler.dumps(self.obj)
        file = _core.PickleFile()
        # By position, for subclasses hand on no keywords.
        pickler(file, 5, True, self._callback).dump(self.obj)  # noqa: FBT003
        return file

    def by_value(self, pickler: Any, *, unknown_main: bool) -> Any:
        file = _core.PickleFile()
        callback = self._callback if _writes_files(self.pickler) else None
        pickler(file, callback, unknown_main=unknown_main).dump(self.obj)
        return file

    def reset(self) -> None:
        _core.message_reset()


class _ForChild(_Attempt):
    root = ""

    def __init__(self, obj: Any, popen: Any, protocol: int | None) -> None:
        super().__init__(obj)
        self.pickler = ForkingPickler
        self._protocol = protocol
        self._fds: list[int] = getattr(popen, "_fds", [])
        self._fd_count = len(self._fds)

    def by_name(self) -> Any:
        file = io.BytesIO()
        ForkingPickler(file, self._protocol).dump(self.obj)
        return file.getbuffer()

    def by_value(self, pickler: Any, *, unknown_main: bool) -> Any:
        file = io.BytesIO()
        pickler(file, unknown_main=unknown_main).dump(self.obj)
        return file.getbuffer()

    def reset(self) -> None:
        # Not the message: a reducer of one may be what starts the child.
        del self._fds[self._fd_count :]

    def locate(self, path: str) -> str:
        # A process has its arguments in attributes with an underscore.
        return path[1:].removeprefix("_") if path.startswith(".") else "obj" + path


class _ForElsewhere(_Attempt):
    def __init__(self, obj: Any, buffers: list[pickle.PickleBuffer] | None) -> None:
        super().__init__(obj)
        self.pickler = ForkingPickler
        self._buffers = buffers

    def run(self) -> Any:
        try:
            data = self.by_name()
        except _FAILURES as error:
            return self.second_try(error)
        return self._without_main(data) if _mentions_main(data) else data

    def by_name(self) -> Any:
        file = io.BytesIO()
        self.pickler(file, 5, True, self._keep).dump(self.obj)  # noqa: FBT003
        return file.getbuffer()

    def by_value(self, pickler: Any, *, unknown_main: bool = True) -> Any:
        file = io.BytesIO()
        pickler(file, self._keep, unknown_main=unknown_main, elsewhere=True).dump(
            self.obj
        )
        return file.getbuffer()

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        if self._buffers is None:
            return True
        try:
            buffer.raw()
        except BufferError:
            return True  # not contiguous: in band
        self._buffers.append(buffer)
        return False

    def _without_main(self, data: Any) -> Any:
        from . import _byvalue

        pickler = _byvalue.pickler_class(self.pickler)
        if pickler is None:
            return data
        self.reset()
        return self.by_value(pickler)

    def reset(self) -> None:
        if self._buffers is not None:
            self._buffers.clear()


def dumps_elsewhere(obj: Any, buffers: list[pickle.PickleBuffer] | None) -> bytes:
    """Pickle for a process that shares neither memory nor ``__main__`` with this one.

    Buffers are appended to the list, or with None are part of the pickle.
    """
    return bytes(_ForElsewhere(obj, buffers).run())


_FAILURES = (pickle.PicklingError, AttributeError, TypeError, RuntimeError)


def _sweep_descriptors() -> None:
    """Close what was duplicated for a message that there will not be."""
    sharer = sys.modules.get(f"{__package__}.resource_sharer")
    if sharer is not None:
        sharer.sweep()


def _is_the_picklers(error: Exception) -> bool:
    """Tell whether the pickler itself raised an error, not a reducer that it called."""
    if isinstance(error, RuntimeError):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    raiser = traceback.tb_frame.f_code
    return (
        raiser.co_filename in {__file__, pickle.__file__}
        and raiser.co_name in _PICKLING
    )


_PICKLING = {"_dumps", "by_name", "dump", "dumps", "save_global", "save_type", "save"}


def _is_about_a_name(error: Exception) -> bool:
    return str(error).startswith(("Can't pickle", "Can't get"))


def _with_text(error: Exception, text: str) -> Exception:
    """Return an error of the same type with this text, or the same one with a note."""
    if text == str(error):
        return error
    if type(error) in _FAILURES:
        return type(error)(text)
    error.add_note(text)
    return error


def _mentions_main(data: Any) -> bool:
    if isinstance(data, _core.PickleFile):
        return data.mentions(b"__main__")
    return memoryview(data).tobytes().find(b"__main__") >= 0


def _writes_files(pickler: Any) -> bool:
    """Tell whether a pickler class can be used as ours is: file, protocol, callback."""
    return pickler is ForkingPickler or (
        isinstance(pickler, type)
        and issubclass(pickler, ForkingPickler)
        and pickler.__init__ is ForkingPickler.__init__
        and getattr(pickler.dumps, "__func__", None) is ForkingPickler.dumps.__func__  # type: ignore[attr-defined]
        and pickler.loads is ForkingPickler.loads
    )


def _pickler_in_use() -> Any:
    # Looked up at each call: the context's reducer may be replaced.
    reducer = vars(context).get("reduction")
    return ForkingPickler if reducer is None else reducer.ForkingPickler


def _dumps(obj: Any, buffer_callback: Callable[[Any], Any] | None) -> Any:
    if (
        buffer_callback is None
        and _core.is_plain(obj)
        and _pickler_in_use() is ForkingPickler
    ):
        return pickle.dumps(obj, 5)  # the same bytes: no reducer is asked for these
    popen = context.get_spawning_popen()
    if popen is None:
        if context.may_lack_main() or _pickler_in_use() is not ForkingPickler:
            return _ForMessage(obj, buffer_callback).run()
        # The same without the detours: nearly every message comes this way.
        file = _core.PickleFile()
        try:
            ForkingPickler(file, 5, True, buffer_callback).dump(obj)  # noqa: FBT003
        except _FAILURES as error:
            return _ForMessage(obj, buffer_callback).second_try(error)
        return file
    # A reducer that puts something somewhere, while a child is being started.
    context.set_spawning_popen(None)
    try:
        return _ForMessage(obj, buffer_callback).run()
    finally:
        context.set_spawning_popen(popen)


def _loads(data: Any, buffers: Sequence[Any] | None) -> Any:
    if buffers is not None:
        return pickle.loads(data, buffers=buffers)
    return _pickler_in_use().loads(data)


_core.set_pickler(_dumps, _loads)


def sendfds(sock: socket.socket, fds: Iterable[int]) -> None:
    """Send descriptors over a Unix socket."""
    import _socket
    import array

    numbers = array.array("i", fds)
    message = bytes([len(numbers) % 256])
    sock.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])


def recvfds(sock: socket.socket, size: int) -> list[int]:
    """Receive up to ``size`` descriptors; RuntimeError if there came none."""
    import _socket
    import array

    numbers = array.array("i")
    space = _socket.CMSG_SPACE(numbers.itemsize * size)
    message, ancillary, _, _ = sock.recvmsg(1, space)
    if not message and not ancillary:
        raise EOFError
    if len(ancillary) != 1:
        raise RuntimeError(f"received {len(ancillary)} items of ancdata")
    level, kind, data = ancillary[0]
    if (level, kind) != (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
        raise RuntimeError("Invalid data received")
    numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if len(numbers) % 256 != message[0]:
        for fd in numbers:
            os.close(fd)
        raise RuntimeError(f"{len(numbers)} descriptors came, {message[0]} were sent")
    return list(numbers)


def _unix_socket(conn: _HasFileno) -> Any:
    """Lend a connection's descriptor to a socket, which has to `detach` from it.

    A copy of the descriptor may be one too many.
    """
    # The module around it takes milliseconds to import.
    import _socket

    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, conn.fileno())


def _is_pipe(conn: Any) -> bool:
    return isinstance(conn, _core.Connection) and bool(conn._parts()[0])


def _recv_from_pipe(conn: Any) -> int:
    _wait_for_message(conn)
    received = conn.recv()
    if not hasattr(received, "detach"):
        raise RuntimeError("Invalid data received")
    fd: int = received.detach()
    return fd


def _wait_for_message(conn: Any) -> None:
    """Wait for a pipe's next message, and raise if something else comes.

    Messages do not go over the pipe's socket, only bells do; any other byte was
    written by somebody who took it for a plain stream.
    """
    import _socket
    import select

    peek = _socket.MSG_PEEK | _socket.MSG_DONTWAIT
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    sock = _unix_socket(conn)
    try:
        while not conn.pending():
            poll.poll()
            try:
                seen = sock.recv(4096, peek)
            except BlockingIOError:
                continue
            if seen.strip(b"\a"):
                raise RuntimeError("received data without a descriptor")
            if not seen or conn.poll(0):
                return
    finally:
        sock.detach()


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Send a descriptor over a local connection."""
    if _is_pipe(conn):
        from . import resource_sharer

        conn.send(resource_sharer.DupFd(handle))
        return
    sock = _unix_socket(conn)
    try:
        sendfds(sock, [handle])
    finally:
        sock.detach()


def recv_handle(conn: Any) -> int:
    """Receive a descriptor over a local connection."""
    if _is_pipe(conn):
        return _recv_from_pipe(conn)
    sock = _unix_socket(conn)
    try:
        return recvfds(sock, 1)[0]
    finally:
        sock.detach()


def DupFd(fd: int) -> Any:
    """Return a picklable for a descriptor; its ``detach()`` gives one over there."""
    popen: Any = context.get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from . import resource_sharer

    return resource_sharer.DupFd(fd)


def _reduce_method(method: Any) -> tuple[Any, ...]:
    owner = method.__self__
    if owner is None:
        owner = method.__class__
    name = method.__func__.__name__
    if getattr(owner, name, None) != method:
        # A private name, or a function that was made a method.
        return type(method), (method.__func__, owner)
    return getattr, (owner, name)


def _reduce_method_descriptor(descriptor: Any) -> tuple[Any, ...]:
    return getattr, (descriptor.__objclass__, descriptor.__name__)


def _rebuild_partial(
    func: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> functools.partial[Any]:
    return functools.partial(func, *args, **keywords)


def _reduce_partial(partial: functools.partial[Any]) -> tuple[Any, ...]:
    return _rebuild_partial, (partial.func, partial.args, partial.keywords or {})


def _rebuild_socket(df: Any, family: int, type: int, proto: int) -> socket.socket:
    import socket

    return socket.socket(family, type, proto, fileno=df.detach())


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    df = DupFd(sock.fileno())
    return _rebuild_socket, (df, sock.family, sock.type, sock.proto)


def _register_sockets() -> None:
    # Nobody can pickle a socket before the module is there, and it is slow to import.
    module = sys.modules.get("socket")
    kind = getattr(module, "socket", None)
    if kind is not None and kind not in ForkingPickler._extra_reducers:
        register(kind, _reduce_socket)


def _register_callables() -> None:
    register(type(ForkingPickler.dumps), _reduce_method)
    register(type(list.append), _reduce_method_descriptor)
    register(type(int.__add__), _reduce_method_descriptor)
    register(functools.partial, _reduce_partial)


_register_callables()


class AbstractReducer(metaclass=ABCMeta):  # noqa: B024 - the stdlib's has none either
    """Base for an object that replaces this module as ``context.reducer``."""

    ForkingPickler = ForkingPickler
    register = register
    dump = staticmethod(dump)
    send_handle = staticmethod(send_handle)
    recv_handle = staticmethod(recv_handle)
    sendfds = staticmethod(sendfds)
    recvfds = staticmethod(recvfds)
    DupFd = staticmethod(DupFd)

    _reduce_method = staticmethod(_reduce_method)
    _reduce_method_descriptor = staticmethod(_reduce_method_descriptor)
    _rebuild_partial = staticmethod(_rebuild_partial)
    _reduce_socket = staticmethod(_reduce_socket)
    _rebuild_socket = staticmethod(_rebuild_socket)

    def __init__(self, *args: Any) -> None:
        _register_callables()
        _register_sockets()
