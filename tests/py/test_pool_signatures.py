# SPDX-License-Identifier: MIT
"""The calls that a program may write are those of the running Python's own pools."""

import inspect
import multiprocessing.pool as theirs
from concurrent import futures

import pytest

import sidestep
from sidestep import pool as ours

KINDS = inspect.Parameter

#: What Python 3.14 has in its executor, and so have we on every Python.
NEWER = {
    "map": "(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None)",
    "terminate_workers": "(self)",
    "kill_workers": "(self)",
}

#: Ours are types of C, made by their pool alone: nobody calls these.
MADE_BY_POOLS = {
    "ApplyResult", "AsyncResult", "MapResult", "IMapIterator", "IMapUnorderedIterator",
}  # fmt: skip

#: Parameters that we have after the standard library's, for all to see.
MORE = {("Pool", "join"): ["timeout"], ("ThreadPool", "join"): ["timeout"]}

PAIRS = [
    *(
        (name, getattr(theirs, name), getattr(ours, name))
        for name in ["Pool", "ThreadPool", *sorted(MADE_BY_POOLS)]
    ),
    (
        "ProcessPoolExecutor",
        futures.ProcessPoolExecutor,
        sidestep.ProcessPoolExecutor,
    ),
]


def methods():
    for name, their_class, our_class in PAIRS:
        for method in sorted(dir(their_class)):
            is_public = not method.startswith("_")
            is_special = method in {"__init__", "__enter__", "__exit__", "__iter__"}
            if (is_public or is_special) and callable(getattr(their_class, method)):
                if method == "__init__" and name in MADE_BY_POOLS:
                    continue
                yield pytest.param(
                    name, method, their_class, our_class, id=f"{name}.{method}"
                )


def shape(parameters):
    """Return what a caller sees: names, how they may be given, defaults."""
    return [(p.name, p.kind, p.default) for p in parameters]


def split(signature):
    """Return the parameters that all know, and those that are by keyword alone.

    The ``self`` of a method in C is positional, and nobody names it.
    """
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    by_keyword = {p.name: p.default for p in parameters if p.kind is KINDS.KEYWORD_ONLY}
    free = {KINDS.KEYWORD_ONLY, KINDS.VAR_KEYWORD}
    return [p for p in parameters if p.kind not in free], by_keyword


@pytest.mark.parametrize(
    ("name", "method", "their_class", "our_class"), list(methods())
)
def test_signature(name, method, their_class, our_class):
    their, our = (
        inspect.signature(getattr(cls, method)) for cls in (their_class, our_class)
    )
    if name == "ProcessPoolExecutor" and method in NEWER:
        newer = our.parameters.keys() - their.parameters.keys()
        known = [p for p in our.parameters.values() if p.name not in newer]
        our = our.replace(parameters=known)
    their_all, their_keywords = split(their)
    our_all, our_keywords = split(our)
    more = MORE.get((name, method), [])
    if more:
        assert [p.name for p in our_all[len(their_all) :]] == more
        our_all = our_all[: len(their_all)]
    assert shape(our_all) == shape(their_all)
    assert their_keywords.items() <= our_keywords.items()
    takes_any = [p for p in their.parameters.values() if p.kind is KINDS.VAR_KEYWORD]
    if takes_any:
        assert takes_any[0].name in our.parameters


def without_types(signature):
    empty = inspect.Parameter.empty
    return str(
        signature.replace(
            parameters=[
                p.replace(annotation=empty) for p in signature.parameters.values()
            ],
            return_annotation=inspect.Signature.empty,
        )
    )


@pytest.mark.parametrize("method", sorted(NEWER))
def test_what_newer_executors_have(method):
    found = inspect.signature(getattr(sidestep.ProcessPoolExecutor, method))
    assert without_types(found) == NEWER[method]


def test_there_is_something_to_compare():
    names = {param.id for param in methods()}
    assert {"Pool.starmap_async", "IMapIterator.next", "Pool.__init__"} <= names
    assert "ProcessPoolExecutor.submit" in names
    assert len(names) > 40


@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_contexts_make_pools_alike(name):
    import multiprocessing

    makers = {"Pool": multiprocessing.Pool, "ThreadPool": theirs.ThreadPool}
    mine = {"Pool": sidestep.Pool, "ThreadPool": ours.ThreadPool}
    their_all, _ = split(inspect.signature(makers[name]))
    our_all, _ = split(inspect.signature(mine[name]))
    assert shape(our_all) == shape(their_all)
