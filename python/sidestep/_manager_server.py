# SPDX-License-Identifier: MIT
"""The server of a manager: the objects, who refers to them, and who asks for what.

Clients on sockets are in the loop (``_manager_loop``). Here are the threads of those
that cost one each, because that is faster: the process that started the server, pipes in
shared memory, and encrypted connections, as long as there are not too many.

A client *process* is known by the session that its connections name. When the control
connection of a session ends, so do the process's references, and the locks it held are
owned by nobody that lives.

What a client was to be given, and could not be because it has gone, is taken back: an
item goes to the head of its queue again, a lock or a unit of a semaphore is released.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import sys
import threading
import time
from traceback import format_exc

from . import (
    _core,
    _manager_loop,
    _remote,
    connection,
    process,
    util,
)
from ._manager_calls import Call, Calls
from ._manager_channels import Channels, Company, ThreadLink
from ._manager_kinds import NAMES, TAKING, is_taken, kind_of, take_back
from ._manager_session import key_beside, listener_client
from ._manager_wire import (
    ERROR,
    GETVALUE,
    HAVE,
    LINK,
    OFFICE_METHODS,
    PLAIN,
    PROXY,
    RETURN,
    TAKEN,
    TRACEBACK,
    UNSERIALIZABLE,
    VERSION,
    Token,
    is_small,
    public_methods,
    serving,
)
from .context import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar, NoReturn

__all__ = ["Server"]

#: Encrypted connections with a thread; others are in the loop.
ENCRYPTED_MAX = 64
#: Seconds to wait when there are no descriptors left for a peer that connects.
NO_DESCRIPTOR_SECONDS = 0.05


class _Client:
    """A process that uses the server."""

    def __init__(self, session: str, control: Any, name: str) -> None:
        self.session = session
        self.name = name.partition("|")[0]  # as the client says, to be shown
        self.references: collections.Counter[str] = collections.Counter()
        self.held: set[Any] = set()  # locks
        self.control = control  # the link
        self.has_ended = False  # guarded by the server's mutex


def _check_is_there(link: Any) -> None:
    """Raise EOFError when the client has gone: its references would stay for ever."""
    if link is not None and link.process is not None and link.process.has_ended:
        raise EOFError("the client has gone")


class _StopEvent(threading.Event):
    """Tells a server to end, whoever sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: _manager_loop.Loop | None = None  # while there is one to wake

    def set(self) -> None:
        super().set()
        if self.loop is not None:
            self.loop.close()


class Server:
    """The objects of a manager, and the loop that serves them."""

    #: Processes for tasks, None: one for each CPU.
    task_processes: int | None = None

    #: What may be asked of the server itself.
    public: ClassVar[list[str]] = [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
        "decref_all",
    ]

    def __init__(
        self,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        **options: Any,
    ) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        self.serializer = serializer
        # Peers show that they know the key in a thread of their own.
        self.listener = listener_client[serializer][0](
            address=address,
            backlog=128,
            authkey=key_beside(options, self.authkey),
            **options,
        )
        self._is_stdlib = options.get("security") == "stdlib"
        self.listener._challenges_later = True
        self.address = self.listener.address
        # ident -> (object, names of its methods, types of their results)
        self.id_to_obj: dict[str, tuple[Any, set[str], dict[str, str] | None]] = {}
        self.id_to_refcount: dict[str, int] = {}
        self.mutex = threading.RLock()
        self.stop_event: threading.Event = _StopEvent()
        # That calls nothing that may wait.
        self._ends_quickly = type(self).shutdown is Server.shutdown
        self._idents: dict[int, str] = {}  # by the object's address
        self._serial = 0
        # What every server knows besides the registry, in the same form.
        self._own = {"TaskOffice": (self._task_office, OFFICE_METHODS, None, None)}
        self._clients: dict[str, _Client] = {}
        self.calls = Calls()
        self._channels = Channels()
        self._encrypted = 0
        self._loop: _manager_loop.Loop  # while it serves
        self._starter: Any = None  # the pipe of who started this process

    # ---- Connections ----

    def serve_forever(self) -> NoReturn:
        """Serve until a client asks for the end, then exit the process."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        try:
            self._serve()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
        sys.exit(0)

    def _serve(self) -> None:
        loop = self._loop = _manager_loop.Loop(self)
        try:
            if isinstance(self.stop_event, _StopEvent):
                self.stop_event.loop = loop
            starter, self._starter = self._starter, None
            if starter is not None:
                loop.serve_starter(starter._detach())
            if self.listener._security == "tls":
                threading.Thread(target=self.accepter, daemon=True).start()
            else:
                loop.listen(self.listener._listener._raw.fileno())
            # It may have been set before there was a loop to end.
            if not self.stop_event.is_set():
                (loop.run_beside if starter is None else loop.run)()
        finally:
            loop.close()

    def accepter(self) -> None:
        """Let peers connect at a network address, where they have shown the key."""
        while not self.stop_event.is_set():
            try:
                conn = self.listener.accept()
            except AuthenticationError as error:
                util.info("a peer was turned away: %s", error)
                continue
            except OSError as error:
                if self.stop_event.is_set() or error.errno == errno.EBADF:
                    return
                time.sleep(NO_DESCRIPTOR_SECONDS)
                continue
            try:
                self._accept_encrypted(conn)
            except Exception as error:  # noqa: BLE001 - that one is lost
                util.info("a peer could not be served: %r", error)
                conn.close()

    def _accept_encrypted(self, conn: Any) -> None:
        from ._silence import be_prompt

        with self.mutex:
            has_thread = self._encrypted < ENCRYPTED_MAX
            self._encrypted += has_thread
        if not has_thread:
            self._loop.adopt(getattr(conn, "_conn", conn)._detach())
            return
        be_prompt(conn)
        try:
            self._loop.crew.do(
                functools.partial(self._serve_encrypted, ThreadLink(conn))
            )
        except BaseException:
            with self.mutex:
                self._encrypted -= 1
            raise

    def _serve_encrypted(self, link: ThreadLink) -> None:
        try:
            self.handle_request(link)
        finally:
            with self.mutex:
                self._encrypted -= 1

    def handle_request(self, link: ThreadLink) -> None:
        """Serve a new connection, whose peer is known, until it ends."""
        try:
            _, name, args, kwds = link.conn.recv()
            if name == "accept_connection":
                self.accept_connection(link, *args, **kwds)
            else:
                self._reply(link, self._serve_itself(link, name, args, kwds))
        except (EOFError, OSError) as error:
            util.debug("connection to manager ended: %r", error)
        except Exception:  # noqa: BLE001 - the peer is told, the server goes on
            self._reply(link, (TRACEBACK, format_exc()))
        finally:
            link.close()

    def accept_connection(self, c: ThreadLink, name: str, *who: Any) -> None:
        """Serve one thread of a client; the first of a session is its control."""
        threading.current_thread().name = name
        self._introduce(c, name, *who)
        self._serve_thread(c)

    def _serve_thread(self, link: ThreadLink) -> None:
        serving.link, serving.process = link, link.process
        try:
            self.serve_client(link)
        finally:
            self._give_up_call(link)
            with link.lock:
                self._take_back_unread(link)
            serving.link = serving.process = None
            self._link_ended(link)
            if link.process is not None and link.process.control is link:
                self._client_ended(link)
            link.close()

    def _introduce(
        self,
        link: Any,
        name: str,
        session: str | None = None,
        version: int = VERSION,
        tells: bool = False,
        is_control: bool = False,
    ) -> None:
        """Note whose link it is, and tell the client what can be done here."""
        if version != VERSION:
            raise ValueError(
                f"the client speaks version {version!r} of the manager's protocol, "
                f"this server version {VERSION}: use one sidestep on both sides"
            )
        if session is not None:
            with self.mutex:
                client = self._clients.get(session)
                if client is None:
                    client = self._clients[session] = _Client(session, link, name)
                elif is_control:
                    client.control = link  # in place of one that was interrupted
                link.process = client
        link.tells = tells
        util.debug("a client of the manager: %s", name)
        link.send((RETURN, self._abilities(link)))

    def _abilities(self, link: Any) -> dict[str, Any]:
        in_memory = link.is_starter or (
            self.serializer == "pickle" and isinstance(self.address, str)
        )
        return {"arena": _core.arena_id() if in_memory else 0}

    @staticmethod
    def _give_up_call(link: Any) -> None:
        """End what a client waits for that has gone."""
        link.is_over = True
        call = link.call
        if call is not None:
            call.give_up()

    def _link_ended(self, link: Any) -> None:
        if link.process is not None:
            for lock in [*link.process.held]:
                lock.owner_gone(link)
                if link.process.control is link:
                    lock.owner_gone(link.process)

    def _client_ended(self, link: Any) -> None:
        """Take back the references of a client whose control connection has gone."""
        client: _Client = link.process
        with self.mutex:
            if self._clients.get(client.session) is client:
                del self._clients[client.session]
            references, client.references = client.references, collections.Counter()
            client.has_ended = True
        for lock in [*client.held]:
            lock.owner_gone(client)
        for ident, count in references.items():
            for _ in range(count):
                self._forget(ident)

    def serve_client(self, link: ThreadLink) -> None:
        """Answer the requests that come over a connection."""
        util.debug(
            "starting server thread to service %r", threading.current_thread().name
        )
        while not self.stop_event.is_set():
            if link.company is not None:
                link.company.count_request()
            message: tuple[str, Any] | None
            try:
                ident, name, args, kwds = link.conn.recv()
                hash((ident, name))  # they are looked up
            except (EOFError, OSError):
                util.debug("got EOF -- exiting thread")
                return
            except BaseException:  # noqa: BLE001 - the message was read to its end
                self._reply(link, (TRACEBACK, format_exc()))
                continue
            if link.owed:
                link.owed = []
            link.is_to_tell = False
            if name == HAVE and ident is None:
                continue
            if link.call is not None:
                util.info("a client asks for more before it has its answer")
                return
            if name == LINK and link.courier is not None:
                message = self._open_link(link, *args)
            elif ident is None:
                message = self._serve_itself(link, name, args, kwds)
            elif name in NAMES:
                message = self.begin(link, ident, name, args, kwds, self._answer)
            else:
                message = self.call(ident, name, args, kwds)
            if message is not None and not self._reply(link, message, ident, name):
                return
            self.calls.settle()
            del args, kwds, message

    def _open_channel(self, link: _manager_loop.Link, args: Any) -> None:
        """In a thread: a client in the loop wants to go on over a pipe in memory."""
        try:
            conn = connection.Connection(self._loop.release(link))
        except OSError:
            return  # it has gone
        channel = None
        try:
            channel = self._receive_channel(conn, link, *args)
        except Exception as error:  # noqa: BLE001 - of a client
            util.info("a client's pipe did not come: %r", error)
            conn.close()
            self._loop._over(link)
        if channel is not None:
            self._loop._over(link)
            self._serve_channel(channel)
        elif not conn.closed:
            self._loop.adopt(conn._detach(), link)

    def _receive_channel(
        self,
        conn: Any,
        before: _manager_loop.Link,
        handle: bytes,
        end: int,
        pid: int,
        tid: int,
    ) -> ThreadLink | None:
        """Return a link over the pipe, None when there are too many of them."""
        pipe = self._channels.receive(conn, handle, end)
        if pipe is None:
            conn.send((TRACEBACK, "there are too many pipes\n"))
            return None
        try:
            conn.send((RETURN, None))
        except BaseException:
            self._channels.leave()
            raise
        link = self._link_over(pipe, before.process, pid, tid)
        if before.is_starter:
            conn._keep_private()
            link.courier = conn
        else:
            conn.close()
        if link.process is not None and link.process.control is before:
            link.process.control = link
        return link

    def _link_over(self, pipe: Any, client: Any, pid: int, tid: int) -> ThreadLink:
        link = ThreadLink(self.listener._restrict(pipe))
        link.process = client
        link.company = Company(pid, tid)
        return link

    def _open_link(
        self, control: ThreadLink, handle: bytes, end: int, pid: int, tid: int
    ) -> tuple[str, Any]:
        """Serve another thread of the starter's, over a pipe that comes by courier."""
        pipe = None
        try:
            pipe = self._channels.receive(control.courier, handle, end)
            if pipe is None:
                return TRACEBACK, "there are too many pipes\n"
            link = self._link_over(pipe, control.process, pid, tid)
            self._loop.crew.do(functools.partial(self._serve_channel, link))
        except Exception:  # noqa: BLE001 - the client is told, and connects instead
            if pipe is not None:
                self._channels.leave()
                pipe.close()
            return TRACEBACK, format_exc()
        return RETURN, None

    def _serve_channel(self, link: ThreadLink) -> None:
        try:
            self._serve_thread(link)
        finally:
            self._channels.leave()

    def _reply(
        self,
        link: ThreadLink,
        message: tuple[str, Any],
        ident: str | None = None,
        name: str = "",
    ) -> bool:
        """Send a reply, or why it cannot be sent; False when nobody gets it."""
        if name in TAKING and ident is not None:
            link.owed = [(ident, name, message)]
            if link.tells and message[0] == RETURN:
                link.is_to_tell = self.is_taken(ident, name, message[1])
        carried: list[str] = []
        try:
            try:
                reply = (TAKEN, message[1]) if link.is_to_tell else message
                if type(message[1]) in PLAIN:
                    link.send(reply)
                else:
                    with self.carrying(link, carried):
                        link.send(reply)
            except OSError:
                raise
            except BaseException:  # noqa: BLE001 - it does not pickle
                link.is_to_tell = False
                link.send((UNSERIALIZABLE, format_exc()))
        except (EOFError, OSError, ValueError) as error:
            util.info("could not send %r: %r", message, error)
            link.owed = []
            self._give_back(link, carried)
            self._take_back(ident, name, message)
            return False
        link.carried = carried
        return True

    @contextlib.contextmanager
    def carrying(self, link: Any, carried: list[str]) -> Iterator[None]:
        """Have what is pickled carry references, the client's, to these idents."""
        serving.carried = carried
        try:
            yield
        except BaseException:
            self._give_back(link, carried)
            raise
        finally:
            serving.carried = None

    def _give_back(self, link: Any, carried: list[str]) -> None:
        """Give back the references that a reply carried and nobody got."""
        while carried:
            try:
                self.decref(link, carried.pop())
            except (AssertionError, KeyError):
                pass  # they went with the client

    def is_taken(self, ident: str | None, name: str, result: Any) -> bool:
        """Tell whether what a method returned was taken: an item, a lock, a unit."""
        entry = None if ident is None else self.id_to_obj.get(ident)
        return entry is not None and is_taken(entry[0], name, result)

    def _take_back_unread(self, link: ThreadLink) -> None:
        """Take back what a client did not read that has gone."""
        if (link.owed or link.carried) and not link.has_read():
            self._give_back(link, link.carried)
            if link.owed:
                self._take_back(*link.owed.pop())

    def _take_back(
        self, ident: str | None, name: str, message: tuple[str, Any]
    ) -> None:
        """Undo what a client asked for that did not live to have it."""
        kind, result = message
        entry = self.id_to_obj.get(ident) if ident is not None else None
        if entry is not None and kind == RETURN:
            take_back(entry[0], name, result)

    # ---- Calls ----

    def begin(
        self,
        link: Any,
        ident: str,
        name: str,
        args: Any,
        kwds: Any,
        answer: Callable[[Any, str, str, tuple[str, Any]], object],
    ) -> tuple[str, Any] | None:
        """Call a method for a client: the reply, or None when that is to come.

        A method of a common type waits without the thread: then ``answer(link, ident,
        name, reply)`` is called when it is done, unless the client goes before. Who
        calls this goes on with what it has notified (`Calls.settle`).
        """
        entry = self.id_to_obj.get(ident)
        kind = None if entry is None else kind_of(entry[0])
        if entry is None or kind is None:
            return self.call(ident, name, args, kwds)
        obj, exposed, result_types = entry
        settles, serving.settles = serving.settles, True
        try:
            if name not in kind.waits or name not in exposed:
                return self.call(ident, name, args, kwds)
            is_done, result = kind.attempt(name, obj, args, kwds)
            if is_done:
                return self._returned(name, result_types, result)
            deliver = functools.partial(
                self._deliver,
                name,
                result_types,
                functools.partial(answer, link, ident),
            )
            try:
                wait = Call(self.calls, link, kind, name, (obj, *args), kwds, deliver)
            except TypeError:  # of the arguments: the method says it best
                return self.call(ident, name, args, kwds)
            wait.begin()
        finally:
            serving.settles = settles
        return None

    def _deliver(
        self,
        name: str,
        result_types: dict[str, str] | None,
        answer: Callable[[str, tuple[str, Any]], object],
        is_done: bool,
        result: Any,
    ) -> None:
        """Have a call answered that has waited."""
        if is_done:
            answer(name, self._returned(name, result_types, result))
        else:
            answer(name, (ERROR, self._pack(result)))

    def _answer(
        self, link: ThreadLink, ident: str, name: str, message: tuple[str, Any]
    ) -> None:
        """Reply to a call that has waited; in any thread, which is not to wait."""
        if is_small(message):
            self._answer_now(link, ident, name, message)
            return
        self._loop.crew.do(
            functools.partial(self._answer_now, link, ident, name, message)
        )

    def _answer_now(
        self, link: ThreadLink, ident: str, name: str, message: tuple[str, Any]
    ) -> None:
        before = serving.link, serving.process
        serving.link, serving.process = link, link.process
        try:
            with link.lock:
                if self._reply(link, message, ident, name) and link.is_over:
                    self._take_back_unread(link)
        finally:
            serving.link, serving.process = before

    def call(self, ident: str, name: str, args: Any, kwds: Any) -> tuple[str, Any]:
        """Call a method of an object; the reply."""
        try:
            obj, exposed, result_types = self.id_to_obj[ident]
        except KeyError:
            return TRACEBACK, format_exc()
        if name not in exposed:
            return self._fall_back(obj, exposed, name)
        try:
            function = getattr(obj, name)
        except AttributeError:
            return self._fall_back(obj, exposed, name)
        except BaseException:  # noqa: BLE001 - a property is code, too
            return TRACEBACK, format_exc()
        try:
            result = function(*args, **kwds)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            return ERROR, self._pack(error)
        except BaseException:  # noqa: BLE001 - to exit is for neither side
            return TRACEBACK, format_exc()
        return self._returned(name, result_types, result)

    def _returned(
        self, name: str, result_types: dict[str, str] | None, result: Any
    ) -> tuple[str, Any]:
        """Return the reply to a call that has returned: the result, or a proxy of it."""
        typeid = result_types.get(name) if result_types else None
        if not typeid:
            return RETURN, result
        try:
            new_ident, new_exposed = self.create(serving.link, typeid, result)
        except Exception:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()
        token: Any = Token
        if self._is_stdlib:  # what the other side can unpickle
            from multiprocessing import managers

            token = managers.Token
        return PROXY, (new_exposed, token(typeid, self.address, new_ident))

    def _pack(self, error: Exception) -> Any:
        """Return an exception, such that its traceback goes with it."""
        if self.serializer != "pickle" or self._is_stdlib:
            return error
        # What is above the method itself is of no interest.
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        return _remote.pack(error.with_traceback(inner or error.__traceback__))

    def _fall_back(self, obj: Any, exposed: set[str], name: str) -> tuple[str, Any]:
        fallback = self.fallback_mapping.get(name)
        if fallback is None:
            return TRACEBACK, (
                f"AttributeError: method {name!r} of {type(obj)!r} object is not in "
                f"exposed={exposed!r}\n"
            )
        try:
            return RETURN, fallback(obj)
        except BaseException:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()

    fallback_mapping: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "__str__": str,
        "__repr__": repr,
        GETVALUE: lambda obj: obj,
    }

    # ---- What clients ask of the server itself ----

    def _serve_itself(
        self, link: Any, name: str, args: Any, kwds: Any
    ) -> tuple[str, Any]:
        if name not in self.public:
            return TRACEBACK, f"AssertionError: {name!r} unrecognized\n"
        try:
            return RETURN, getattr(self, name)(link, *args, **kwds)
        except BaseException:  # noqa: BLE001 - the caller is told
            return TRACEBACK, format_exc()

    def dummy(self, c: ThreadLink | None) -> None:
        """Do nothing: the caller wants to know whether anybody is here."""

    def debug_info(self, c: ThreadLink | None) -> str:
        """Return the objects and how often each is referred to."""
        with self.mutex:
            counts = sorted(self.id_to_refcount.items())
            objects = {ident: self.id_to_obj[ident][0] for ident, _ in counts}
        # Out here: it is the objects' own code.
        return "\n".join(
            f"  {ident}:       refcount={count}\n    {str(objects[ident])[:75]}"
            for ident, count in counts
        )

    def number_of_objects(self, c: ThreadLink | None) -> int:
        """Return how many objects are referred to."""
        return len(self.id_to_refcount)

    def shutdown(self, c: ThreadLink) -> None:
        """End the process, as soon as the reply is out."""
        util.debug("manager received shutdown message")
        try:
            c.send((RETURN, None))
        finally:
            self.stop_event.set()

    def create(
        self, c: ThreadLink | None, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Make an object that the caller refers to; its ident and methods."""
        make, exposed, result_types, _ = self.registry.get(typeid) or self._own[typeid]
        if make is not None:
            obj = make(*args, **kwds)
        elif kwds or len(args) != 1:
            raise ValueError("Without callable, must have one non-keyword argument")
        else:
            obj = args[0]
        names = set(public_methods(obj) if exposed is None else exposed)
        if result_types is not None:
            if not isinstance(result_types, dict):
                raise TypeError(
                    f"Method_to_typeid {result_types!r}: type {type(result_types)!s}, "
                    "not dict"
                )
            names.update(result_types)
        with self.mutex:
            _check_is_there(c)
            ident = self._ident_of(obj)
            self.id_to_obj[ident] = obj, names, result_types
            self.id_to_refcount.setdefault(ident, 0)
            self.incref(c, ident)
        util.debug("%r callable returned object with id %r", typeid, ident)
        return ident, tuple(names)

    def _task_office(self) -> Any:
        from .tasks.broker import office_of

        return office_of(self)

    def _ident_of(self, obj: Any) -> str:
        """Return the ident that an object has, or a new one, never used before."""
        known = self._idents.get(id(obj))
        if known is not None:
            return known
        self._serial += 1
        ident = self._idents[id(obj)] = f"{id(obj):x}.{self._serial:x}"
        return ident

    def get_methods(self, c: ThreadLink | None, token: Token) -> tuple[str, ...]:
        """Return the names of an object's methods."""
        return tuple(self.id_to_obj[token.id][1])

    def incref(self, c: ThreadLink | None, ident: str) -> None:
        """Note that the caller refers to an object once more."""
        with self.mutex:
            _check_is_there(c)
            self.id_to_refcount[ident] += 1
            if c is not None and c.process is not None:
                c.process.references[ident] += 1

    def decref(self, c: ThreadLink | None, ident: str) -> None:
        """Note that the caller refers to an object once less."""
        with self.mutex:
            if c is not None and c.process is not None:
                if c.process.references[ident] <= 0:
                    raise AssertionError(f"{ident} is not the caller's to give back")
                c.process.references[ident] -= 1
        self._forget(ident)

    def decref_all(self, c: ThreadLink | None, idents: list[str]) -> None:
        """Note that the caller gives back these references."""
        for ident in idents:
            self.decref(c, ident)

    def _forget(self, ident: str) -> None:
        with self.mutex:
            count = self.id_to_refcount[ident] = self.id_to_refcount[ident] - 1
            if count > 0:
                return
            del self.id_to_refcount[ident]
            entry = self.id_to_obj.pop(ident)
            self._idents.pop(id(entry[0]), None)
        util.debug("disposing of obj with id %r", ident)
        # Out here: it may be the last of a container of other managed objects.
        del entry
