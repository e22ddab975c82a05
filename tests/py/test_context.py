# SPDX-License-Identifier: MIT
"""Contexts and start methods, on both packages."""

import inspect
import os
import subprocess
import sys

import pytest

import sidestep
from sidestep import _compat, context

METHODS = ["fork", "spawn", "forkserver"]
DEFAULT = "forkserver" if sys.version_info >= (3, 14) else "fork"


@pytest.fixture
def fresh(mp):
    """The package with its start method unset, as in a new program."""
    before = mp.get_start_method(allow_none=True)
    mp.set_start_method(None, force=True)
    yield mp
    mp.set_start_method(None, force=True)
    if before is not None:
        mp.set_start_method(before)


def test_methods(mp):
    names = mp.get_all_start_methods()
    assert names[0] == DEFAULT
    assert sorted(names) == sorted(METHODS)
    for method in METHODS:
        ctx = mp.get_context(method)
        assert ctx.get_start_method() == method
        assert ctx.get_context() is ctx
        assert ctx is mp.get_context(method)
        assert ctx.Process._start_method == method
        assert type(ctx).__name__.lower() == method + "context"
        assert ctx.Process.__name__.lower() == method + "process"
        with pytest.raises(ValueError, match="cannot set start method of concrete"):
            ctx.set_start_method(method)
    with pytest.raises(ValueError, match="cannot find context for 'thread'"):
        mp.get_context("thread")


def test_setting(fresh):
    assert fresh.get_start_method(allow_none=True) is None
    fresh.set_start_method("spawn")
    assert fresh.get_start_method() == "spawn"
    with pytest.raises(RuntimeError, match="context has already been set"):
        fresh.set_start_method("fork")
    assert fresh.get_context().get_start_method() == "spawn"
    fresh.set_start_method("forkserver", force=True)
    assert fresh.get_start_method() == "forkserver"


def test_asking_settles_it(fresh):
    assert fresh.get_start_method() == DEFAULT
    with pytest.raises(RuntimeError, match="context has already been set"):
        fresh.set_start_method("spawn")


_BY_NAME = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}


def test_the_same_methods_as_in_the_stdlib():
    import multiprocessing.context as stdlib

    ours = {name for name in dir(context.BaseContext) if not name.startswith("_")}
    theirs = {name for name in dir(stdlib.BaseContext) if not name.startswith("_")}
    assert theirs <= ours
    for name in theirs:
        their = getattr(stdlib.BaseContext, name)
        our = getattr(context.BaseContext, name)
        if inspect.isfunction(their):
            parameters = inspect.signature(our).parameters
            common = list(inspect.signature(their).parameters)
            assert list(parameters)[: len(common)] == common, name
            for ours_alone in list(parameters)[len(common) :]:
                assert parameters[ours_alone].kind in _BY_NAME, name


def test_names_that_third_parties_use():
    for name in (
        "_concrete_contexts",
        "_default_context",
        "_force_start_method",
        "assert_spawning",
        "get_spawning_popen",
        "set_spawning_popen",
        "BaseContext",
        "DefaultContext",
        "reduction",
    ):
        assert hasattr(context, name)
    assert context.reduction is sidestep.reduction
    with pytest.raises(AttributeError):
        _ = context.nothing


def test_reducer():
    ctx = sidestep.get_context("spawn")
    assert ctx.reducer is sidestep.reduction
    ctx.reducer = sidestep.reduction
    assert ctx.reducer is sidestep.reduction
    del context.__dict__["reduction"]


def test_assert_spawning(mp):
    with pytest.raises(RuntimeError, match="should only be shared between processes"):
        mp.context.assert_spawning(mp)


def test_preload_wants_strings(mp):
    with pytest.raises(TypeError, match="module_names must be a list of strings"):
        mp.set_forkserver_preload([1])


def test_cpu_count(mp):
    count = mp.cpu_count()
    assert isinstance(count, int)
    assert 1 <= count <= (os.cpu_count() or 1)


def test_cpu_count_respects_affinity():
    code = """if 1:
        import os, sidestep
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(sidestep.cpu_count())
    """
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert int(out.stdout) == 1


def test_cpu_count_can_be_told(monkeypatch):
    monkeypatch.setenv("PYTHON_CPU_COUNT", "7")
    assert sidestep.cpu_count() == 7
    monkeypatch.setenv("PYTHON_CPU_COUNT", "default")
    assert _compat.cpu_count_override() is None
    monkeypatch.setitem(sys._xoptions, "cpu_count", "5")
    assert sidestep.cpu_count() == 5
