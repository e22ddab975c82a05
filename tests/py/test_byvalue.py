# SPDX-License-Identifier: MIT
"""Functions and classes that pickle cannot name, and the errors that name the culprit."""

import dataclasses
import enum
import functools
import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref

import children
import pytest

import sidestep
from sidestep import _byvalue, _core, _culprit, context, reduction

pytest.importorskip("cloudpickle")
SPAWNING = ["spawn", "forkserver"]


class Thing:
    """Reached by name."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("handler",)

    def __init__(self, handler):
        self.handler = handler


def make_class():
    class Local:
        made = 0

        def __init__(self, value):
            self.value = value

        def doubled(self):
            return Local(self.value * 2)

    return Local


def through(obj):
    queue = sidestep.Queue()
    queue.put(obj)
    return queue.get(timeout=20)


# ---- What arrives ----


@pytest.mark.parametrize("method", SPAWNING)
def test_targets_and_arguments(method):
    ctx = sidestep.get_context(method)
    queue = ctx.SimpleQueue()
    step = 5
    process = ctx.Process(
        target=lambda function: queue.put((function(1), step)),
        args=(lambda x: x + step,),
    )
    process.start()
    assert queue.get() == (6, 5)
    process.join()
    assert process.exitcode == 0


def test_messages(ctx, start):
    requests, replies = ctx.Queue(), ctx.Queue()
    local = make_class()
    worker = start(ctx, children.call_all, requests, replies)
    requests.put((lambda x: x + 1, 1))
    assert replies.get(timeout=20) == 2
    for value in (1, 2):
        requests.put((local.doubled, local(value)))
        answer = replies.get(timeout=20)
        assert type(answer) is local
        assert answer.value == 2 * value
    requests.put(None)
    worker.join()


def test_over_pipes():
    a, b = sidestep.Pipe()
    a.send([lambda: 7])
    assert b.recv()[0]() == 7
    a.send(functools.partial(lambda *args: args, 1))
    assert b.recv()(2) == (1, 2)


def test_closures_are_copies():
    count = 0

    def up():
        nonlocal count
        count += 1
        return count

    copy = through(up)
    assert [copy(), copy(), count] == [1, 2, 0]


class Private:
    def __init__(self):
        self.bound = (lambda self: 2).__get__(self)

    def __hidden(self):
        return 1

    def get_hidden(self):
        return self.__hidden


def test_methods_without_a_name():
    private = Private()
    assert through(private.get_hidden())() == 1
    assert through(private.bound)() == 2
    assert through(private.get_hidden)()() == 1
    assert through(Private.get_hidden)(private)() == 1


def test_local_types(ctx):
    class Color(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Point:
        x: int
        color: Color = Color.RED

    point = through(Point(3))
    assert point == Point(3)
    assert point.color is Color.RED

    class LocalError(Exception):
        pass

    assert isinstance(through(LocalError("text")), LocalError)

    class Worker(ctx.Process):
        def run(self):
            self.answer.put(Point(4))

    worker = Worker()
    worker.answer = ctx.SimpleQueue()
    worker.start()
    assert worker.answer.get() == Point(4)
    worker.join()


def test_recursion():
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    assert through(factorial)(5) == 120


def test_a_class_comes_back_as_itself_and_is_left_alone():
    local = make_class()
    method = local.doubled
    instance = through(local(3))
    assert type(instance) is local
    local.made = 17
    assert type(through(instance.doubled())) is local
    assert local.made == 17
    assert local.doubled is method


def test_what_has_a_name_goes_by_name():
    function, thing = through((lambda: Thing, Thing(a=1)))
    assert function() is Thing
    assert type(thing) is Thing


def test_arrays_beside_functions_go_out_of_band():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    put = []
    data = reduction._dumps((lambda: 1, array), put.append)
    assert len(put) == 1
    assert len(memoryview(data)) < 20_000
    function, copy = through((lambda: 1, array))
    assert function() == 1
    assert (copy == array).all()


def test_names_never_need_cloudpickle():
    code = (
        "import sys, sidestep; q = sidestep.Queue(); import fractions;"
        "q.put([fractions.Fraction(1, 3), print]); print(q.get(),"
        "'cloudpickle' in sys.modules, 'sidestep._byvalue' in sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert out.split()[-2:] == ["False", "False"]


def test_registered_reducers_hold(monkeypatch):
    monkeypatch.setattr(
        reduction.ForkingPickler,
        "_extra_reducers",
        dict(reduction.ForkingPickler._extra_reducers),
    )
    reduction.register(Thing, lambda thing: (Thing, (), {"by": "reducer"}))
    thing, function = through((Thing(by="pickle"), lambda: 1))
    assert thing.by == "reducer"
    assert function() == 1


def test_copyreg_holds(monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg.dispatch_table, Slotted, lambda s: (Slotted, ("copy",)))
    slotted, _ = through((Slotted(1), lambda: 1))
    assert slotted.handler == "copy"


class Marking(reduction.ForkingPickler):
    def reducer_override(self, obj):
        if isinstance(obj, Thing):
            return Thing, (), {"by": "override"}
        return NotImplemented


class Reversing(reduction.ForkingPickler):
    @classmethod
    def dumps(cls, obj, protocol=None):
        return pickle.dumps(obj, protocol)[::-1]

    @classmethod
    def loads(cls, data):
        return pickle.loads(bytes(data)[::-1])


class OldStyle(reduction.ForkingPickler):
    def __init__(self, file, protocol=None):
        super().__init__(file, protocol)
        self.dispatch_table[Thing] = lambda thing: (Thing, (), {"by": "old"})


@pytest.fixture
def replaced(request):
    """The context's reducer, with another pickler."""
    reducer = type("Reducer", (reduction.AbstractReducer,), {})
    reducer.ForkingPickler = request.param
    before = dict(vars(context))
    context._default_context.reducer = reducer
    yield
    if "reduction" in before:
        context._default_context.reducer = before["reduction"]
    else:
        del context.reduction


@pytest.mark.parametrize(
    ("replaced", "by"),
    [(Marking, "override"), (OldStyle, "old")],
    indirect=["replaced"],
)
def test_subclasses_of_the_pickler(replaced, by):
    assert through(Thing(by="pickle")).by == by
    thing, function = through((Thing(by="pickle"), lambda: 1))
    assert (thing.by, function()) == (by, 1)


@pytest.mark.parametrize("replaced", [Reversing], indirect=True)
def test_a_pickler_with_a_format_of_its_own(replaced):
    assert through(Thing(by="pickle")).by == "pickle"


def test_forking_pickler_itself_is_the_stdlibs():
    with pytest.raises((AttributeError, pickle.PicklingError)):
        reduction.ForkingPickler.dumps(lambda: 1)
    data = reduction.ForkingPickler.dumps([1, Thing])
    assert reduction.ForkingPickler.loads(data) == [1, Thing]


# ---- __main__ ----

MAIN = """if 1:
    import sidestep as mp
    class Foo:
        def __init__(self, x): self.x = x
        def doubled(self): return Foo(self.x * 2)
    factor = 3
    def work(requests, replies):
        for function, argument in iter(requests.get, None):
            replies.put((function(argument), type(argument) is globals().get("Foo")))
    def multiply(foo): return Foo(foo.x * factor)
    def run(method):
        ctx = mp.get_context(method)
        requests, replies = ctx.Queue(), ctx.Queue()
        worker = ctx.Process(target=work, args=(requests, replies))
        worker.start()
        for function in (multiply, Foo.doubled, lambda foo: multiply(foo)):
            requests.put((function, Foo(2)))
            answer, same = replies.get(timeout=20)
            print(type(answer) is Foo, answer.x, same, Foo.doubled.__globals__ is globals())
        requests.put(None)
        worker.join()
    if __name__ == "__main__":
        import sys
        for method in sys.argv[1:]:
            run(method)
"""


def run_main(tmp_path, how, *methods):
    script = tmp_path / "program.py"
    script.write_text(MAIN)
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(MAIN)
    command, text = {
        "script": ([str(script)], None),
        "-m": (["-m", "program"], None),
        "package": (["-m", "pack"], None),
        "-c": (["-c", MAIN], None),
        "stdin": (["-"], MAIN),
    }[how]
    out = subprocess.run(
        [sys.executable, *command, *methods],
        check=True,
        capture_output=True,
        text=True,
        input=text,
        timeout=60,
        cwd=tmp_path,
    )
    return [line.split() for line in out.stdout.splitlines()]


@pytest.mark.parametrize("how", ["script", "-m", "package", "-c", "stdin"])
def test_functions_and_classes_of_main(tmp_path, how):
    lines = run_main(tmp_path, how, "fork", "forkserver", "spawn")
    assert [line[:2] for line in lines] == [
        ["True", "6"],
        ["True", "4"],
        ["True", "6"],
    ] * 3
    assert all(line[3] == "True" for line in lines)
    by_name = how in {"script", "-m"}
    assert [line[2] for line in lines] == ["True"] * 3 + [str(by_name)] * 6


def test_forked_children_know_what_they_have(tmp_path):
    """Also when messages are prepared for others, and what came later goes by value."""
    code = """if 1:
        import sidestep as mp
        class Foo: pass
        def work(requests, replies):
            for function, argument in iter(requests.get, None):
                mine = function is globals().get(function.__name__)
                replies.put((function(argument), type(argument) is Foo, mine))
        def early(foo): return foo
        ctx = mp.get_context("fork")
        requests, replies = ctx.Queue(), ctx.Queue()
        worker = ctx.Process(target=work, args=(requests, replies))
        worker.start()
        other = mp.get_context("forkserver").Queue()
        def late(foo): return foo
        for function in (early, late):
            requests.put((function, Foo()))
            answer, same, mine = replies.get(timeout=20)
            print(type(answer) is Foo, same, mine)
        requests.put(None)
        worker.join()
    """
    out = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert out.split() == ["True", "True", "True", "True", "True", "False"]


def test_what_a_session_defines_after_a_fork(tmp_path):
    """It goes by value; what the child has, by name. A third definition may well have
    the address of the first."""
    code = """if 1:
        import sidestep as mp
        def work(requests, replies):
            for function, argument in iter(requests.get, None):
                mine = function is globals().get(function.__name__)
                replies.put((function(argument), type(argument) is Foo, mine))
        class Foo: pass
        def version(foo): return 1
        requests, replies = mp.Queue(), mp.Queue()
        worker = mp.get_context("fork").Process(target=work, args=(requests, replies))
        worker.start()
        class Bar: pass
        def show(function, argument):
            requests.put((function, argument))
            print(*replies.get(timeout=20))
        show(version, Foo())
        for number in range(2, 8):
            exec(f"def version(foo): return {number}", globals())
            show(version, Foo())
        show(version, Bar())
        requests.put(None)
        worker.join()
    """
    out = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert out.splitlines() == [
        "1 True True",
        *(f"{number} True False" for number in range(2, 8)),
        "7 False False",
    ]


# ---- What does not arrive ----


def culprit_of(obj):
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as info:
        sidestep.Queue().put(obj)
    return str(info.value)


def local_class():
    class Local:
        pass

    return Local


def with_lock(lock):
    instance = local_class()()
    instance.lock = lock
    return instance


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: [1, Thing(handler=Thing(lock=lock))], "obj[1].handler.lock"),
        (lambda lock: {"a": (Slotted(lock),)}, "obj['a'][0].handler"),
        (lambda lock: functools.partial(print, sep=lock), "obj.keywords['sep']"),
        (lambda lock: functools.partial(print, Thing(x=lock)), "obj.args[0].x"),
        (lambda lock: Thing(x=lock).__init__, "obj.__self__.x"),
        (lambda lock: lambda: lock, "obj.__closure__['lock']"),
        (lambda lock: lambda a=lock: a, "obj.__defaults__[0]"),
        (lambda lock: [lambda: LOCK], "obj[0].__globals__['LOCK']"),
        (lambda lock: type("Local", (), {"lock": lock}), "obj.lock"),
        (with_lock, "obj.lock"),
    ],
)
def test_errors_name_the_path(make, path):
    text = culprit_of(make(threading.Lock()))
    assert "cannot pickle '_thread.lock' object" in text
    assert text.endswith(f"at {path}, a _thread.lock")


LOCK = threading.Lock()


def test_the_type_is_that_of_the_first_error():
    with pytest.raises(TypeError) as info:
        sidestep.Queue().put([threading.Lock()])
    assert type(info.value.__cause__) is TypeError
    lock = threading.Lock()
    with pytest.raises((AttributeError, pickle.PicklingError), match="nor by value"):
        sidestep.Queue().put(lambda: lock)


def test_the_object_itself_needs_no_path():
    assert culprit_of(i for i in ()) == "cannot pickle 'generator' object"


@pytest.mark.parametrize("method", SPAWNING)
def test_errors_at_start(method):
    ctx = sidestep.get_context(method)
    thing = Thing(handler=Thing(lock=threading.Lock()))
    with pytest.raises(TypeError, match=r"at args\[1\].handler.lock, a _thread.lock"):
        ctx.Process(target=print, args=(1, thing)).start()
    with pytest.raises(TypeError, match=r"at kwargs\['key'\], a _thread.lock"):
        ctx.Process(target=print, kwargs={"key": threading.Lock()}).start()
    assert context.get_spawning_popen() is None


class Counting:
    """Raises in its own reducer."""

    reduced = 0

    def __reduce__(self):
        type(self).reduced += 1
        raise ValueError("this is mine")


def test_errors_of_reducers_are_theirs():
    Counting.reduced = 0
    with pytest.raises(ValueError) as info:
        sidestep.Queue().put([Counting()])
    assert str(info.value) == "this is mine"
    assert Counting.reduced == 1


class OwnTypeError(TypeError):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class RaisesItsOwn:
    def __reduce__(self):
        raise OwnTypeError(1, 2)


def test_exceptions_of_other_types_get_a_note():
    with pytest.raises(OwnTypeError) as info:
        sidestep.Queue().put({"x": RaisesItsOwn()})
    # Python 3.14 has notes of its own.
    assert any("at obj['x']" in note for note in info.value.__notes__)


def test_the_search_ends():
    nested = threading.Lock()
    for _ in range(300):
        nested = [nested]
    wide = [{str(i): [i] * 50 for i in range(20_000)} for _ in range(20)]
    begin = time.monotonic()
    assert "cannot pickle '_thread.lock' object" in culprit_of(nested)
    assert "cannot pickle '_thread.lock' object" in culprit_of([wide, [nested]])
    loop = Thing()
    loop.me = loop
    loop.lock = threading.Lock()
    assert culprit_of(loop).endswith("at obj.lock, a _thread.lock")
    assert time.monotonic() - begin < 20  # an unbounded search takes minutes


def test_a_failed_try_leaves_nothing(no_leaked_descriptors):
    before = _core.arena_statistics()["slots"]
    lock, event = sidestep.Lock(), sidestep.Event()
    alive = weakref.ref(event)
    conn, other = sidestep.Pipe()
    for bad in (threading.Lock(), lambda: LOCK):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            sidestep.Queue().put([lock, event, conn, bad])
    conn.close()
    other.close()
    del lock, event
    gc.collect()
    assert alive() is None
    assert _core.arena_statistics()["slots"] <= before
    sidestep.resource_sharer.stop()


def test_a_failed_put_lets_go_of_buffers():
    class Data:
        def __init__(self):
            self.bytes = bytearray(100_000)

        def __reduce_ex__(self, protocol):
            return bytearray, (pickle.PickleBuffer(self.bytes),)

    class Broken:
        def __reduce__(self):
            raise ValueError("broken")

    data = Data()
    with pytest.raises(ValueError, match="broken") as info:
        sidestep.Queue().put([data, Broken()])
    data.bytes.append(1)  # although there is a traceback
    del info


class StartsAChild:
    def __reduce__(self):
        process = sidestep.get_context("spawn").Process(target=lambda: None)
        process.start()
        process.join()
        return int, (process.exitcode,)


def test_a_child_started_by_a_reducer_leaves_the_message_alone():
    data = pickle.PickleBuffer(b"d" * 10_000)
    received, lock, exitcode = through([data, sidestep.Lock(), StartsAChild()])
    assert (bytes(received), exitcode) == (b"d" * 10_000, 0)
    with lock:
        pass


def test_pipes_of_a_session(tmp_path):
    program = """
import sidestep
ctx = sidestep.get_context("spawn")
def double(x):
    return 2 * x
def call(conn):
    conn.send(conn.recv()(21))
here, there = ctx.Pipe()
here.send(double)
process = ctx.Process(target=call, args=(there,))
process.start()
there.close()
print(here.recv())
process.join()
"""
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == "42\n"


def test_objects_held_by_a_second_try_travel():
    lock, function = through((sidestep.Lock(), lambda: 1))
    assert lock.acquire(timeout=5)
    assert function() == 1


# ---- Without cloudpickle ----


def test_without_cloudpickle(tmp_path):
    code = """if 1:
        import sys
        sys.modules["cloudpickle"] = None
        import sidestep as mp
        q = mp.Queue()
        q.put([1, print])
        print(q.get()[0])
        try:
            q.put([lambda: 1])
        except Exception as error:
            print(type(error).__name__, error)
        import threading
        try:
            q.put([threading.Lock()])
        except Exception as error:
            print(type(error).__name__, error)
        ctx = mp.get_context("spawn")
        process = ctx.Process(target=print, args=("from the child",), kwargs={"flush": True})
        process.start()
        process.join()
    """
    out = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    first, missing, lock, child = out.splitlines()
    assert first == "1"
    assert "<lambda>" in missing
    assert "install cloudpickle" in missing
    assert "obj[0]" in missing
    assert lock == (
        "TypeError cannot pickle '_thread.lock' object; at obj[0], a _thread.lock"
    )
    assert child == "from the child"


def test_descriptions():
    assert _culprit.describe(1) == "a int"
    assert _culprit.describe(Thing()) == f"a {__name__}.Thing"
    assert _byvalue.install_hint() == ""
