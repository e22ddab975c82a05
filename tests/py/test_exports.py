# SPDX-License-Identifier: MIT
"""The names and signatures of the running Python's package, module by module."""

import importlib
import inspect
import multiprocessing
import pkgutil
import sys
import types

import pytest

import sidestep

MODULES = [
    "connection",
    "context",
    "dummy",
    "dummy.connection",
    "managers",
    "pool",
    "process",
    "queues",
    "reduction",
    "sharedctypes",
    "shared_memory",
    "synchronize",
    "util",
    "forkserver",
    "heap",
    "popen_fork",
    "popen_forkserver",
    "popen_spawn_posix",
    "resource_sharer",
    "resource_tracker",
    "spawn",
]

# Not documented, of no use without the stdlib's inside, and used by nobody seen.
NOT_HERE = {
    "reduction": {"ACKNOWLEDGE"},
    "heap": {"Heap", "reduce_arena", "rebuild_arena"},
    "resource_tracker": {"main", "cleanup_noop", "ReentrantCallError"},
    "managers": {
        "HAS_SHMEM",
        "ProcessLocalSet",
        "rebuild_as_list",
        "reduce_array",
        "view_types",
        "BaseDictProxy",
    },
    "pool": {"worker"},
    "connection": {"rebuild_pipe_connection", "reduce_pipe_connection"},
    "sharedctypes": {"template"},
    "forkserver": {
        "read_signed",
        "write_signed",
        "main",
        "ForkServer",
        "SIGNED_STRUCT",
    },
    "popen_forkserver": {"_DupFd"},
    "spawn": {"is_forking"},
}


def public_names(module):
    """What a module defines itself: not what it imported."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def test_all_documented_names():
    assert set(multiprocessing.__all__) <= set(sidestep.__all__)
    for name in multiprocessing.__all__:
        assert hasattr(sidestep, name)


def test_what_is_new_is_listed():
    assert set(sidestep.__all__) - set(multiprocessing.__all__) == {
        "OwnerDied",
        "SharedArray",
        "SharedBytes",
        "SharedDict",
        "SharedFrozenSet",
        "SharedList",
        "SharedSet",
        "SharedTuple",
        "serve",
        "share",
        "start_all",
    }


def test_no_other_name_is_public():
    ours = public_names(sidestep) - set(sidestep.__all__)
    assert ours <= public_names(multiprocessing)


def test_star_import():
    namespace = {}
    exec("from sidestep import *", namespace)
    assert set(sidestep.__all__) <= set(namespace)


def test_no_module_of_the_stdlib_on_linux_is_missing():
    for info in pkgutil.walk_packages(multiprocessing.__path__, ""):
        if not info.name.endswith("win32"):
            assert importlib.import_module(f"sidestep.{info.name}")


@pytest.mark.parametrize("name", MODULES)
def test_names_of_modules(name):
    theirs = importlib.import_module(f"multiprocessing.{name}")
    ours = importlib.import_module(f"sidestep.{name}")
    missing = {n for n in public_names(theirs) if not hasattr(ours, n)}
    assert missing - NOT_HERE.get(name, set()) == set()


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_what_is_there(name):
    ours = importlib.import_module(f"sidestep.{name}")
    for exported in ours.__all__:
        assert hasattr(ours, exported)
    theirs = getattr(importlib.import_module(f"multiprocessing.{name}"), "__all__", ())
    assert {n for n in theirs if not hasattr(ours, n)} == set()


def parameters(function):
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def assert_takes_what_the_other_takes(ours, theirs):
    """Each parameter is there, in its place, of its kind, and optional if it was."""
    mine, wanted = parameters(ours), parameters(theirs)
    if mine is None or wanted is None:
        return
    if any(p.kind is p.VAR_KEYWORD for p in mine.values()):
        return
    for position, (name, parameter) in enumerate(wanted.items()):
        assert name in mine, f"{ours} lacks {name}"
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert list(mine)[position] == name
        if parameter.default is not parameter.empty:
            assert mine[name].default is not parameter.empty
    for name, parameter in mine.items():
        if name not in wanted:
            assert parameter.default is not parameter.empty


@pytest.mark.parametrize("name", sorted(multiprocessing.__all__))
def test_signatures_of_documented_functions(name):
    assert_takes_what_the_other_takes(
        getattr(sidestep, name), getattr(multiprocessing, name)
    )


CLASSES = [
    ("queues", "Queue"),
    ("queues", "JoinableQueue"),
    ("queues", "SimpleQueue"),
    ("synchronize", "Lock"),
    ("synchronize", "RLock"),
    ("synchronize", "Semaphore"),
    ("synchronize", "BoundedSemaphore"),
    ("synchronize", "Condition"),
    ("synchronize", "Event"),
    ("synchronize", "Barrier"),
    ("connection", "Connection"),
    ("connection", "Listener"),
    ("process", "BaseProcess"),
    ("pool", "Pool"),
    ("pool", "ThreadPool"),
    ("pool", "ApplyResult"),
    ("pool", "MapResult"),
    ("pool", "IMapIterator"),
    ("managers", "BaseManager"),
    ("util", "Finalize"),
    ("sharedctypes", "Synchronized"),
    ("sharedctypes", "SynchronizedArray"),
    ("sharedctypes", "SynchronizedString"),
    ("reduction", "ForkingPickler"),
    ("reduction", "AbstractReducer"),
]


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_methods_of_classes(module, name):
    theirs = getattr(importlib.import_module(f"multiprocessing.{module}"), name)
    ours = getattr(importlib.import_module(f"sidestep.{module}"), name)
    for method in dir(theirs):
        if method.startswith("_"):
            continue
        assert hasattr(ours, method), f"{name}.{method}"
        function = getattr(theirs, method)
        if inspect.isfunction(function):
            assert_takes_what_the_other_takes(getattr(ours, method), function)


def test_constructors_take_the_context_by_name():
    ctx = sidestep.get_context()
    sync, queues = sidestep.synchronize, sidestep.queues
    for make in (sync.Lock, sync.RLock, sync.Semaphore, sync.Condition, sync.Event):
        make(ctx=ctx)
    sync.Barrier(2, ctx=ctx)
    queues.Queue(3, ctx=ctx)
    queues.JoinableQueue(ctx=ctx)
    queues.SimpleQueue(ctx=ctx)


def test_exceptions():
    for name in (
        "ProcessError",
        "BufferTooShort",
        "TimeoutError",
        "AuthenticationError",
    ):
        ours = getattr(sidestep, name)
        assert [c.__name__ for c in ours.__mro__] == [
            c.__name__ for c in getattr(multiprocessing, name).__mro__
        ]
    assert issubclass(sidestep.OwnerDied, RuntimeError)


def test_the_stdlib_is_not_imported():
    import subprocess

    code = (
        "import sys, importlib, sidestep\n"
        f"for name in {MODULES!r}: importlib.import_module('sidestep.' + name)\n"
        "sidestep.Queue().put({}); sidestep.Lock(); sidestep.Value('i')\n"
        "found = [n for n in sys.modules if n.partition('.')[0] == 'multiprocessing']\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_lazy():
    import subprocess

    code = (
        "import sys; before = set(sys.modules)\n"
        "from sidestep import Pool, Queue, Process\n"
        "slow = {'ctypes', 'tempfile', 'subprocess', 'logging', 'socket', 'pickle'}\n"
        "print(*sorted(slow & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": sidestep.__path__[0].rpartition("/")[0]},
    )
    assert done.stdout == "\n"
