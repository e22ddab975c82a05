# SPDX-License-Identifier: MIT
"""Exceptions on their way from a worker to the caller.

What pickle keeps of an exception is its class, its arguments and its attributes, notes
among them. What it drops travels beside it: the traceback as text, the cause, the
context, and the same of these and of the members of groups. The traceback's text
arrives as a `RemoteTraceback`, the cause of the exception, or of its cause if it has one
of its own, and so on: so no cause is lost, and whoever prints the exception sees where
it came from.

The exception is a pickle inside the message. So one that cannot be pickled, or not be
rebuilt, costs its class and no more: the caller gets a `MaybeEncodingError` with the
exception's repr and its traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: Where cause and context of an exception are in the list, and __suppress_context__.
    Links = tuple[int | None, int | None, bool]

__all__ = ["MaybeEncodingError", "RemoteTraceback", "pack", "shorten"]

#: Exceptions that travel with one at most: a chain can be longer than is of use.
CARRIED_MAX = 100


class RemoteTraceback(Exception):  # noqa: N818 - the stdlib's name
    """The cause of an exception that came from a worker: its traceback as text."""

    def __init__(self, tb: str) -> None:
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class MaybeEncodingError(Exception):
    """A result, or an exception, could not be pickled or not be rebuilt."""

    def __init__(self, exc: object, value: object) -> None:
        self.exc = repr(exc)
        self.value = repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class Quoted:
    """Stands for something that is known by its repr only."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def shorten(value: object, limit: int = 200) -> str:
    """Return the repr of anything, cut to about ``limit`` characters; never raises."""
    import reprlib

    short = reprlib.Repr()
    short.maxstring = short.maxother = limit // 2
    try:
        text = short.repr(value)
    except Exception:  # noqa: BLE001 - a repr is code of the user's
        text = object.__repr__(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def text_of(error: BaseException, limit: int | None = None) -> str:
    """Return what the stdlib puts into a `RemoteTraceback`."""
    import traceback  # a pool in which nothing goes wrong does without

    lines = traceback.format_exception(type(error), error, error.__traceback__, limit)
    return f'\n"""\n{"".join(lines)}"""'


def pack(
    error: BaseException,
    text: str | None = None,
    dumps: Callable[[object], bytes] | None = None,
) -> Any:
    """Return an object that unpickles as the exception, with its traceback as text.

    ``dumps`` is what pickles the exception, by default the pickler of messages.
    """
    return _Packed(error, text_of(error) if text is None else text, dumps or _dumps)


class _Packed:
    def __init__(
        self, error: BaseException, text: str, dumps: Callable[[object], bytes]
    ) -> None:
        self.error = error
        self.text = text
        self.dumps = dumps

    def __reduce__(self) -> tuple[Any, ...]:
        value = shorten(self.error, 1000)
        try:
            data = self.dumps(_carry(self.error))
        except Exception as error:  # noqa: BLE001 - the caller is told
            return _unpack, (self.text, value, None, repr(error))
        return _unpack, (self.text, value, data, "")


def _dumps(obj: object) -> bytes:
    # Inside the message that is being made, so that what it refers to lives as long.
    from . import context

    reduction: Any = context.reduction
    return bytes(reduction.ForkingPickler.dumps(obj))


def _unpack(
    text: str,
    value: str,
    data: bytes | None,
    reason: str,
    loads: Callable[[bytes], Any] | None = None,
) -> BaseException:
    """Rebuild an exception; whatever goes wrong, return one."""
    if data is None:
        return _with_traceback(MaybeEncodingError(Quoted(reason), Quoted(value)), text)
    from . import context

    reduction: Any = context.reduction
    try:
        error = _restore(*(loads or reduction.ForkingPickler.loads)(data))
    except Exception as why:  # noqa: BLE001 - the caller is told
        return _with_traceback(MaybeEncodingError(why, Quoted(value)), text)
    return _with_traceback(error, text)


def _with_traceback(error: BaseException, text: str) -> BaseException:
    """Make the remote traceback the cause of the last exception that has none."""
    last = error
    seen = {id(last)}
    while last.__cause__ is not None and id(last.__cause__) not in seen:
        last = last.__cause__
        seen.add(id(last))
    last.__cause__ = RemoteTraceback(text)
    return error


def _carry(error: BaseException) -> tuple[list[BaseException], list[Links]]:
    """List an exception and all that it leads to, and how they are tied together."""
    errors = [error]
    index = {id(error): 0}

    def number(other: BaseException | None) -> int | None:
        if other is None or (id(other) not in index and len(errors) >= CARRIED_MAX):
            return None
        if id(other) not in index:
            index[id(other)] = len(errors)
            errors.append(other)
        return index[id(other)]

    links: list[Links] = []
    for one in errors:  # it grows meanwhile
        links.append(
            (number(one.__cause__), number(one.__context__), one.__suppress_context__)
        )
        if isinstance(one, BaseExceptionGroup):
            for member in one.exceptions:
                number(member)
    return errors, links


def _restore(errors: list[BaseException], links: list[Links]) -> BaseException:
    for error, (cause, context, suppress) in zip(errors, links, strict=True):
        if cause is not None:
            error.__cause__ = errors[cause]
        if context is not None:
            error.__context__ = errors[context]
        error.__suppress_context__ = suppress
    if not isinstance(errors[0], BaseException):
        raise TypeError(f"{errors[0]!r} is no exception")
    return errors[0]
