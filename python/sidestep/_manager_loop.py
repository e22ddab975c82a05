# SPDX-License-Identifier: MIT
"""The clients of a manager's server that are on sockets: all of them, in one thread.

The core's `Server` holds the connections; what is here decides what their messages mean
and which thread answers. ``docs/internals/loop.rst`` has the rules: the loop's thread
does what is plain data and does not wait, a thread of a crew what may wait, and a thread
of the client's own what belongs to a type of the user's.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import os
import pickle
import threading
from traceback import format_exc

from . import _challenge, _core, _greeting, connection, reduction, util
from ._manager_crew import Crew, Worker
from ._manager_kinds import QUICK_MAKERS, TAKING, kind_of, know_managers
from ._manager_wire import (
    CHANNEL,
    HAVE,
    RETURN,
    TAKEN,
    TRACEBACK,
    UNSERIALIZABLE,
    serving,
)
from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from ._manager_server import Server

__all__ = ["Link", "Loop"]


#: How late a signal is seen to that came just before a wait for something else.
SIGNAL_SECONDS = 1.0

#: What the loop's thread does that is asked of the server itself.
_QUICK_REQUESTS = frozenset({"dummy", "incref", "get_methods", "number_of_objects"})


# ---- Messages as bytes ----


class _NotPlain(Exception):  # noqa: N818 - nobody but us sees it
    pass


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _NotPlain


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        raise _NotPlain


class _PickleCodec:
    """Messages are pickles. Those of plain data run nobody's code."""

    def __init__(self, allow: Any) -> None:
        self._loads = reduction._loads if allow is None else allow.loads

    def decode_plain(self, data: bytes) -> Any:
        """Return the object, or raise _NotPlain."""
        if copyreg._inverted_registry:  # type: ignore[attr-defined]
            raise _NotPlain  # a number may stand for a name
        try:
            return _PlainUnpickler(io.BytesIO(data)).load()
        except Exception:  # noqa: BLE001 - or it is none: decode() says so
            raise _NotPlain from None

    def decode(self, data: bytes) -> Any:
        return self._loads(data, None)

    def encode_plain(self, message: Any) -> Any:
        """Return the bytes, or raise _NotPlain."""
        file = io.BytesIO()
        try:
            _PlainPickler(file, 5).dump(message)
        except Exception:  # noqa: BLE001 - encode() says so
            raise _NotPlain from None
        return file.getbuffer()

    def encode(self, message: Any) -> Any:
        return reduction._dumps(message, None)


class _XmlCodec:
    """Messages are XML-RPC's, and plain data always."""

    decode = decode_plain = staticmethod(connection._xml_loads)
    encode = encode_plain = staticmethod(connection._xml_dumps)


# ---- Clients ----


class Link:
    """A connection in the loop, to one thread of a client."""

    def __init__(self, loop: Loop, codec: Any = None) -> None:
        self._loop = loop
        self.codec: Any = codec or loop.codec
        self.number = 0
        self.process: Any = None
        self.greeting: Generator[bytes, bytes] | None = None
        self.is_introduced = False
        self.is_starter = False  # of the process that started this one
        self.worker: Worker | None = None  # of its own
        self.call: Any = None  # that waits
        self.is_over = False
        #: The last reply while it is on its way, as `Server._take_back` wants it; of
        #: what can be taken back, until the client asks for more. Who pops it sees to it
        #: that what nobody got is put back.
        self.owed: list[tuple[Any, str, Any]] = []
        #: What the last reply carried references to.
        self.carried: list[str] = []
        #: As of a `ThreadLink`.
        self.tells = False
        self.is_to_tell = False

    def send(self, message: tuple[str, Any]) -> None:
        """Send a message; OSError when the client has gone."""
        self._loop.send(self, message)

    def close(self) -> None:
        """End the connection."""
        self._loop.end(self)


class Loop:
    """All clients on sockets, and the thread that listens to them."""

    def __init__(self, server: Server) -> None:
        know_managers()
        listener = server.listener
        self._server = server
        self.codec: Any = (
            _PickleCodec(listener._allow)
            if server.serializer == "pickle"
            else _XmlCodec()
        )
        limit = listener._max_message
        self._uids = {os.geteuid(), 0, *listener._allow_uids}
        self._core = _core.Server(
            half_open_max=_greeting.HALF_OPEN_MAX,
            greeting=_greeting.HANDSHAKE_SECONDS,
            message_size_max=0 if limit is None else max(limit, 1),
        )
        self._links: dict[int, Link] = {}
        self._arrivals: collections.deque[tuple[int, Link]] = collections.deque()
        self.crew = Crew("manager's worker")
        self._janitor: Worker | None = None
        self._handlers: dict[int, Callable[..., None]] = {
            _core.SERVER_OPENED: self._opened,
            _core.SERVER_MESSAGE: self._message,
            _core.SERVER_ENDED: self._ended,
            _core.SERVER_WOKEN: self._woken,
        }
        server.calls.wake = self._wake
        server.calls.hand_on = self.crew.do

    # ---- For other threads ----

    def listen(self, listening: int) -> None:
        """Accept at a listening socket; the peers have to show that they know the key."""
        if isinstance(self._server.address, tuple):
            from ._silence import end_when_stuck_at

            end_when_stuck_at(listening)  # so will all that come to it
        fd = os.dup(listening)
        try:
            self._core.listen(fd)
        except BaseException:
            os.close(fd)
            raise

    def serve_starter(self, fd: int) -> None:
        """Serve the process that started this one, whatever the serializer is."""
        link = Link(self, _PickleCodec(self._server.listener._allow))
        link.is_starter = True
        self._arrivals.append((fd, link))
        self._woken()

    def adopt(self, fd: int, link: Link | None = None) -> None:
        """Serve a connected socket whose peer has shown the key."""
        self._arrivals.append((fd, link or Link(self)))
        if not self._wake():
            self._woken()  # the loop is closed: so is this

    def _wake(self) -> bool:
        try:
            self._core.wake()
        except ValueError:
            return False  # it is closed
        return True

    def close(self) -> None:
        """End all connections and the thread."""
        self._core.close()

    def statistics(self) -> dict[str, int]:
        """Return the numbers of connections, waiting calls, and threads but the loop's."""
        own = sum(link.worker is not None for link in [*self._links.values()])
        return {
            **self._core.statistics(),
            "waiting": self._server.calls.waiting,
            "threads": self.crew.count() + own,
        }

    def end(self, link: Link) -> None:
        """End a connection."""
        try:
            self._core.end(link.number)
        except (OSError, ValueError):
            pass  # it has ended

    def release(self, link: Link) -> int:
        """Take a connection out of the loop; its descriptor."""
        self._links.pop(link.number, None)
        return self._core.release(link.number)

    def send(self, link: Link, message: Any) -> bool:
        """Send a message; whether all of it is on its way. OSError: the client is gone."""
        return self._core.send(link.number, link.codec.encode(message))

    # ---- The thread ----

    def run_beside(self) -> None:
        """Serve in a thread, while signals are handled in this one, if it is the main one.

        What a handler raises would break off what the loop does for a client just then.
        """
        if threading.current_thread() is not threading.main_thread():
            self.run()
            return
        thread = threading.Thread(target=self.run, name="manager's loop", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(SIGNAL_SECONDS)
        finally:
            self.close()
            thread.join()

    def run(self) -> None:
        """Serve until `close` is called."""
        # A finalizer may want to tell another server something, and wait for it.
        serving.hand_on = self._hand_on_quietly
        serving.settles = True
        calls = self._server.calls
        while True:
            calls.expire()
            calls.settle()
            try:
                event = self._core.take(calls.patience())
            except ValueError:
                return  # closed
            except Exception:  # noqa: BLE001 - no memory: that message is lost, not us
                util.info("manager's loop: %s", format_exc())
                continue
            if event is not None:
                self._handle(event)
            del event

    def _handle(self, event: Any) -> None:
        try:
            self._handlers[event[0]](*event[1:])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - that connection is lost, no other
            util.info("manager's loop: %s", format_exc())
            link = self._links.get(event[1])
            if link is not None:
                self.end(link)

    def _hand_on_quietly(self, task: Callable[[], object]) -> None:
        try:
            self.crew.do(task)
        except RuntimeError as error:
            util.info("manager's loop: %s", error)

    def _woken(self, *_: object) -> None:
        while self._arrivals:
            fd, link = self._arrivals.popleft()
            try:
                link.number = self._core.add(fd, greeted=True)
            except Exception as error:  # noqa: BLE001 - the others are still to come
                util.info("manager's loop: %s", error)
                os.close(fd)
                self._over(link)
            else:
                self._links[link.number] = link

    def _opened(self, number: int, uid: int | None, pid: int | None) -> None:
        if uid is not None and uid not in self._uids:
            util.info("a connection of another user was turned away")
            self._core.end(number)
            return
        link = self._links[number] = Link(self)
        link.number = number
        link.greeting = _greeting.greeting(
            self._server.authkey, legacy_md5=self._server.listener._legacy_md5
        )
        self._core.send(number, next(link.greeting))

    def _greet(self, link: Link, data: bytes) -> None:
        assert link.greeting is not None
        try:
            answer = link.greeting.send(data)
        except StopIteration:
            link.greeting = None
            self._core.greet(link.number)
        except AuthenticationError as error:
            util.info("a peer was turned away: %s", error)
            self._core.end(link.number)
        else:
            self._core.send(link.number, answer)
            if answer == _challenge.FAILURE:
                util.info("a peer was turned away: it has another key")
                self._core.finish(link.number)

    def _ended(self, number: int, why: str, unsent: int) -> None:
        link = self._links.pop(number, None)
        if link is None:
            return  # turned away, or released
        util.debug("connection to manager ended: %s", why)
        if unsent or link.is_to_tell:
            give = functools.partial(self._nobody_got, link, link.owed)
            if link.carried or not all(map(self._is_quick, link.owed)):
                self._hand_on_quietly(give)  # it is the object that takes it back
            else:
                give()  # before a lock of the client's is nobody's
        self._over(link)

    def _is_quick(self, reply: tuple[Any, str, Any]) -> bool:
        """Tell whether a reply can be taken back without calling anybody's code."""
        entry = self._server.id_to_obj.get(reply[0])
        kind = None if entry is None else kind_of(entry[0])
        return kind is not None and not kind.runs_code

    def _over(self, link: Link) -> None:
        """See to what a connection leaves that has gone for good."""
        self._server._give_up_call(link)
        if link.worker is not None:
            link.worker.dismiss()
        self._server._link_ended(link)
        if link.process is not None and link.process.control is link:
            # What goes with the references may run code of the user's.
            if self._janitor is None:
                self._janitor = Worker("manager's janitor")
            self._janitor.do(functools.partial(self._server._client_ended, link))

    # ---- Requests ----

    def _message(self, number: int, data: bytes, _: object) -> None:
        link = self._links[number]
        link.owed = []  # it has read what it got
        link.is_to_tell = False
        if link.greeting is not None:
            self._greet(link, data)
            return
        try:
            request = link.codec.decode_plain(data)
        except Exception:  # noqa: BLE001 - it may be somebody's code that raises
            self._lend(link, functools.partial(self._decode, link, data))
        else:
            self._serve(link, request)

    def _decode(self, link: Link, data: bytes) -> None:
        """In a thread: a request of more than plain data."""
        try:
            request = link.codec.decode(data)
        except BaseException:  # noqa: BLE001 - the client is told
            self._reply(link, (TRACEBACK, format_exc()))
            return
        del data
        self._serve(link, request, is_plain=False)

    def _serve(self, link: Link, request: Any, *, is_plain: bool = True) -> None:
        """Answer a request, in this thread or another; it is the loop's if plain."""
        try:
            ident, name, args, kwds = request
            args, kwds = tuple(args), dict(kwds)
            is_one = isinstance(name, str) and (ident is None or isinstance(ident, str))
        except (TypeError, ValueError):
            ident, name, args, kwds, is_one = None, "", (), {}, False
        if not is_one:
            self._reply(link, (TRACEBACK, f"ValueError: no request: {request!r}\n"))
            return
        if not link.is_introduced:
            self._introduce(link, name, args, kwds)
        elif ident is None:
            self._serve_itself(link, name, args, kwds, is_plain=is_plain)
        else:
            self._call(link, ident, name, args, kwds, is_plain=is_plain)

    def _introduce(self, link: Link, name: str, args: Any, kwds: Any) -> None:
        link.is_introduced = True
        if name == "accept_connection":
            try:
                self._server._introduce(link, *args, **kwds)
            except OSError:
                self._over(link)  # it has ended, perhaps before it was known
            except (TypeError, ValueError):
                self._reply(link, (TRACEBACK, format_exc()))
                self._core.finish(link.number)
            return
        # A client of the standard library asks one thing, and then it is done.
        self._lend(link, functools.partial(self._do_once, link, name, args, kwds))

    def _do_once(self, link: Link, name: str, args: Any, kwds: Any) -> None:
        self._do(link, None, name, args, kwds)
        try:
            self._core.finish(link.number)
        except OSError:
            pass  # the client was quicker

    def _serve_itself(
        self, link: Link, name: str, args: Any, kwds: Any, *, is_plain: bool
    ) -> None:
        if name == HAVE:
            self._core.greet(link.number)  # which needs no answer
        elif name == CHANNEL:
            self._lend(link, functools.partial(self._server._open_channel, link, args))
        elif is_plain and (
            name in _QUICK_REQUESTS
            or (name == "create" and self._makes_quickly(*args))
            or (name == "shutdown" and self._server._ends_quickly)
        ):
            self._do(link, None, name, args, kwds, is_loop=True)
        elif is_plain:
            self._lend(link, functools.partial(self._do, link, None, name, args, kwds))
        else:
            self._do(link, None, name, args, kwds)

    def _makes_quickly(self, typeid: Any = None, *args: Any) -> bool:
        entry = self._server.registry.get(typeid) if type(typeid) is str else None
        return entry is not None and entry[0] in QUICK_MAKERS

    def _call(
        self, link: Link, ident: Any, name: str, args: Any, kwds: Any, *, is_plain: bool
    ) -> None:
        entry = self._server.id_to_obj.get(ident)
        kind = kind_of(entry[0]) if entry is not None else None
        do = functools.partial(self._do, link, ident, name, args, kwds)
        if entry is not None and kind is None:
            self._do_alone(link, do)
        elif not is_plain:
            do()
        elif kind is None or name in kind.quick:
            do(is_loop=True)
        elif name in kind.waits and not kind.may_block:
            do(is_loop=True)  # it waits without the thread
        else:
            self._lend(link, do)

    # ---- Threads ----

    def _lend(self, link: Link, task: Callable[[], object]) -> None:
        """Have a thread of the crew do it."""
        try:
            self.crew.do(functools.partial(self._guard, link, task))
        except RuntimeError:
            self._reply(link, (TRACEBACK, format_exc()))

    def _guard(self, link: Link, task: Callable[[], object]) -> None:
        """Do something for a client, who is not to wait for it if it fails."""
        try:
            task()
        except BaseException:  # noqa: BLE001 - of the user's code
            util.info("a call by a client of the manager failed:\n%s", format_exc())
            self.end(link)

    def _do_alone(self, link: Link, task: Callable[[], object]) -> None:
        """Have the client's own thread do it."""
        try:
            if link.worker is None:
                link.worker = Worker("manager's client")
                if link.number not in self._links:
                    link.worker.dismiss()  # it has ended meanwhile
            link.worker.do(functools.partial(self._guard, link, task))
        except RuntimeError:
            self._reply(link, (TRACEBACK, format_exc()))

    def _do(
        self,
        link: Link,
        ident: Any,
        name: str,
        args: Any,
        kwds: Any,
        *,
        is_loop: bool = False,
    ) -> None:
        """Do what was asked for, in this thread, and reply."""
        serving.link, serving.process = link, link.process
        message: tuple[str, Any] | None
        try:
            if ident is None:
                message = self._server._serve_itself(link, name, args, kwds)
            else:
                message = self._server.begin(
                    link, ident, name, args, kwds, self._answer
                )
            if message is not None:
                self._reply(link, message, ident, name, is_loop=is_loop)
        finally:
            serving.link = serving.process = None
            if not is_loop:
                self._server.calls.settle()

    def _answer(self, link: Link, ident: Any, name: str, message: Any) -> None:
        """Reply to a call that has waited; in any thread."""
        self._reply(link, message, ident, name, is_loop=True)

    def _reply(
        self,
        link: Link,
        message: tuple[str, Any],
        ident: Any = None,
        name: str = "",
        *,
        is_loop: bool = False,
    ) -> None:
        carried: list[str] = []
        kind, result = message
        if (
            link.tells
            and kind == RETURN
            and name in TAKING
            and self._server.is_taken(ident, name, result)
        ):
            kind = TAKEN
        try:
            if is_loop:
                data = link.codec.encode_plain((kind, result))
            else:
                with self._server.carrying(link, carried):
                    data = link.codec.encode((kind, result))
        except BaseException:  # noqa: BLE001 - it does not pickle, or not here
            if is_loop:
                again = functools.partial(self._reply_for, link, message, ident, name)
                self._lend(link, again)
                return
            kind = UNSERIALIZABLE
            data = link.codec.encode((kind, format_exc()))
        owed = link.owed = [(ident, name, message)]
        link.carried = carried
        link.is_to_tell = kind == TAKEN
        try:
            is_out = self._core.send(link.number, data)
            if is_out and name not in TAKING and not carried:
                owed.clear()
        except (OSError, ValueError, MemoryError) as error:
            util.info("could not send %r: %r", message, error)
            self._nobody_got(link, owed)

    def _reply_for(self, link: Link, message: Any, ident: Any, name: str) -> None:
        serving.link, serving.process = link, link.process
        try:
            self._reply(link, message, ident, name)
        finally:
            serving.link = serving.process = None

    def _nobody_got(self, link: Link, owed: list[tuple[Any, str, Any]]) -> None:
        try:
            reply = owed.pop()
        except IndexError:
            return  # somebody has seen to it
        serving.link, serving.process = link, link.process
        try:
            self._server._give_back(link, link.carried)
            self._server._take_back(*reply)
        finally:
            serving.link = serving.process = None
