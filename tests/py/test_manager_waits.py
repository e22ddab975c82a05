# SPDX-License-Identifier: MIT
"""Calls that wait in a manager's server: how they end, and what a death leaves."""

import gc
import os
import queue
import signal
import threading
import time

import loop_children
import pytest
import wait_children as children

import sidestep
from sidestep import _manager_crew, _manager_server, _manager_session

KEY = b"a key of thirty-two bytes at the least"


@pytest.fixture(params=["memory", "sockets", "network", "relayed"])
def manager(request, monkeypatch):
    """A manager, reached in each way that there is."""
    is_far = request.param in {"network", "relayed"}
    if request.param == "sockets":
        monkeypatch.setattr(_manager_session, "_arena_id", lambda: -1)
    if request.param == "relayed":
        monkeypatch.setattr(_manager_server, "ENCRYPTED_MAX", 0)
    forking = sidestep.get_context("fork")  # for what was patched to be so there
    address = ("127.0.0.1", 0) if is_far else None
    with children.WaitManager(address, KEY, ctx=forking) as manager:
        yield manager


@pytest.fixture
def look(manager):
    return manager.Look()


@pytest.fixture
def waits(start, look, eventually):
    """Start a child that waits in a call; it has begun to, and is killed."""

    def start_one(method, proxy, name, *args):
        told = sidestep.Event()
        before = look.waiting()
        child = start(
            sidestep.get_context(method), children.call, proxy, name, args, told
        )
        told.wait()
        eventually(lambda: look.waiting() == before + 1)
        return child

    return start_one


def kill(child):
    child.kill()
    child.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_item_is_not_taken_for_the_dead(manager, look, waits, eventually, method):
    items = manager.Queue()
    child = waits(method, items, "get")
    kill(child)
    eventually(lambda: look.waiting() == 0)
    for item in range(3):
        items.put(item)
    assert items.qsize() == 3
    assert [items.get() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_lock_is_not_taken_for_the_dead(manager, look, waits, eventually, method):
    for lock in (manager.Lock(), manager.RLock(), manager.Semaphore(1)):
        lock.acquire()
        kill(waits(method, lock, "acquire"))
        eventually(lambda: look.waiting() == 0)
        lock.release()
        assert lock.acquire(timeout=0)
        lock.release()


@pytest.mark.parametrize("is_there", [False, True])
def test_what_was_not_read_goes_back(manager, look, start, eventually, is_there):
    items, told = manager.Queue(), sidestep.Event()
    if is_there:
        items.put("kept")
    child = start(sidestep.get_context("fork"), children.ask, items, "get", told)
    told.wait()
    if not is_there:
        eventually(lambda: look.waiting() == 1)
        items.put("kept")
    eventually(items.empty)
    kill(child)
    assert items.get(timeout=20) == "kept"
    assert items.empty()


def test_what_was_read_is_gone_with_its_reader(manager, look, start, eventually):
    items, told = manager.Queue(), sidestep.Event()
    child = start(sidestep.get_context("fork"), children.take_and_linger, items, told)
    eventually(lambda: look.waiting() == 1)
    items.put("read")
    told.wait()
    kill(child)
    with pytest.raises(queue.Empty):
        items.get(timeout=0.1)


@pytest.mark.parametrize("is_killed", [True, False])
@pytest.mark.parametrize(
    "kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"]
)
def test_what_nobody_knows_that_he_has_is_free(
    manager, look, start, eventually, kind, is_killed
):
    lock, told, go = getattr(manager, kind)(), sidestep.Event(), sidestep.Event()
    target = children.ask if is_killed else children.ask_and_drop
    args = (lock, "acquire", told) if is_killed else (lock, "acquire", told, go)
    child = start(sidestep.get_context("fork"), target, *args)
    told.wait()
    eventually(lambda: look.is_held(lock._id))
    if is_killed:
        kill(child)
    go.set()
    eventually(lambda: not look.is_held(lock._id))
    assert lock.acquire(timeout=0)
    lock.release()
    assert not look.is_held(lock._id)


def test_a_lock_says_who_holds_it(manager, start, eventually):
    lock, told = manager.Lock(), sidestep.Event()
    assert str(lock) == "<Lock, free>"
    child = start(sidestep.get_context("fork"), children.hold, lock, told)
    told.wait()
    for text in (str(lock), manager._debug_info()):
        assert f"<Lock held by {child.name} (pid {child.pid} on " in text
    kill(child)
    eventually(
        lambda: f"<Lock of the dead {child.name} (pid {child.pid} on " in str(lock)
    )
    assert lock.recover()
    assert str(lock) == "<Lock, free>"


def test_who_was_sent_an_item_needs_the_server_no_more(manager, start):
    items, told = manager.Queue(), sidestep.Event()
    items.put("taken")
    pid = manager._process.pid
    child = start(
        sidestep.get_context("fork"), children.take_from_the_stopped, items, pid, told
    )
    try:
        assert told.wait(20)
    finally:
        os.kill(pid, signal.SIGCONT)
    kill(child)
    with pytest.raises(queue.Empty):
        items.get(timeout=0.1)


def test_a_call_of_the_dead_that_blocks_leaves_nothing(
    manager, look, start, eventually
):
    gate = manager.Gate()
    before, objects = look.threads(), manager._number_of_objects()
    for count in (12, 12):
        callers = [
            start(sidestep.get_context("fork"), children.enter, gate)
            for _ in range(count)
        ]
        eventually(lambda count=count: gate.inside() == count)
        for caller in callers:
            kill(caller)
        assert gate.inside() == count  # nobody can stop them
        gate.open(count)
        eventually(lambda: gate.inside() == 0)
        most = before + _manager_crew.IDLE_MAX + 1  # who serves us, and janitor
        eventually(lambda most=most: look.threads() <= most)
        eventually(lambda: manager._number_of_objects() == objects)


def test_who_waits_behind_the_dead_has_it_next(manager, look, waits, eventually):
    items, lock = manager.Queue(), manager.Lock()
    lock.acquire()
    for proxy, name in ((items, "get"), (lock, "acquire")):
        first = waits("fork", proxy, name)
        second = waits("fork", proxy, name)
        kill(first)
        eventually(lambda: look.waiting() == 1)
        (items.put if proxy is items else lambda _: lock.release())(1)
        second.join(20)
        assert second.exitcode == 0


def test_what_was_not_put_is_not_put_for_the_dead(manager, look, waits, eventually):
    items = manager.Queue(1)
    items.put("first")
    kill(waits("fork", items, "put", "of the dead"))
    eventually(lambda: look.waiting() == 0)
    assert items.get() == "first"
    assert items.empty()
    items.put("second")
    assert items.get() == "second"


def test_a_barrier_with_a_dead_party_breaks(manager, waits):
    barrier = manager.Barrier(3)
    child = waits("fork", barrier, "wait")
    with pytest.raises(threading.BrokenBarrierError):
        timer = threading.Timer(0, kill, (child,))
        timer.start()
        try:
            barrier.wait()
        finally:
            timer.join()
    assert barrier.broken
    barrier.reset()
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_a_notification_is_not_spent_on_the_dead(manager, look, start, eventually):
    condition = manager.Condition()
    told = [sidestep.Event(), sidestep.Event()]
    waiting = []
    for event in told:
        waiting.append(
            start(sidestep.get_context("fork"), children.wait_holding, condition, event)
        )
        event.wait()
        eventually(lambda: look.waiting() == len(waiting))
    kill(waiting[0])
    eventually(lambda: look.waiting() == 1)
    with condition:
        condition.notify()
    waiting[1].join(20)
    assert waiting[1].exitcode == 0


def test_an_event_and_a_join_forget_the_dead(manager, look, waits, eventually):
    event, items = manager.Event(), manager.JoinableQueue()
    items.put(1)
    children = [waits("fork", event, "wait"), waits("fork", items, "join")]
    for child in children:
        kill(child)
    eventually(lambda: look.waiting() == 0)
    event.set()
    items.get()
    items.task_done()
    assert event.wait(timeout=20)
    items.join()


def test_a_call_that_is_interrupted_is_given_up(manager, look, eventually):
    items = manager.Queue()
    before = signal.signal(signal.SIGUSR1, _interrupt)
    main = threading.main_thread().ident

    def interrupt():
        eventually(lambda: look.waiting() == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            items.get()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    eventually(lambda: look.waiting() == 0)
    items.put("kept")
    assert items.get() == "kept"


def _interrupt(*_):
    raise KeyboardInterrupt


def test_many_clients_wait_in_a_few_threads(manager, look, eventually):
    count = 40
    items = manager.Queue()
    clients = [loop_children.Raw(manager.address, KEY) for _ in range(count)]
    before = look.threads()
    for client in clients:
        client.send(items._token.id, "get")
    eventually(lambda: look.waiting() == count)
    assert look.threads() <= before
    for client in clients[::2]:
        client.close()
    eventually(lambda: look.waiting() == count / 2)
    for number in range(count):
        items.put(number)
    got = sorted(client.conn.recv()[1] for client in clients[1::2])
    rest = [items.get() for _ in range(count // 2)]
    assert got + rest == list(range(count))  # in the order in which they were put
    for client in clients:
        client.close()


def test_time_outs_end_and_leave_nothing(manager, look):
    items = manager.Queue(1)
    for _ in range(200):
        with pytest.raises(queue.Empty):
            items.get(timeout=0.001)
    assert look.deadlines() == 0
    for _ in range(300):
        thread = threading.Thread(target=items.put, args=(1,))
        thread.start()
        items.get(timeout=3600)
        thread.join()
    assert look.waiting() == 0
    assert look.deadlines() < 150


def test_other_queues_wait_as_well(manager, look, waits, eventually):
    for items in (manager.Priorities(), manager.Stack()):
        kill(waits("fork", items, "get"))
        eventually(lambda: look.waiting() == 0)
        child = waits("fork", items, "get")
        items.put((2, "b"))
        child.join(20)
        items.put((2, "b"))
        items.put((1, "a"))
        assert items.get() == (1, "a")
        assert items.get(timeout=20) == (2, "b")


# Proxies on their way.


def _read_late(proxy, name, args):
    """Call a method; when the server has done it, and forgotten it, read the answer."""
    conn = proxy._session.conn()
    conn.send((proxy._id, name, args, {}))
    thread = threading.Thread(target=_ask_often, args=(proxy,))
    thread.start()
    thread.join()
    return conn.recv()[1]


def test_what_is_taken_lives_until_it_is_there(manager, eventually):
    items, table, row = manager.Queue(), manager.dict(), manager.list([0])
    before = manager._number_of_objects()
    row.append(manager.list([1]))
    items.put(manager.list([2]))
    table["k"] = manager.list([3])
    gc.collect()
    assert manager._number_of_objects() == before + 3
    for proxy, name, args, number in (
        (items, "get", (), 2),
        (table, "pop", ("k",), 3),
        (row, "pop", (), 1),
    ):
        count = manager._number_of_objects()
        taken = _read_late(proxy, name, args)
        assert taken[:] == [number]
        assert manager._number_of_objects() == count
        del taken
        gc.collect()
        eventually(lambda count=count: manager._number_of_objects() == count - 1)
    assert manager._number_of_objects() == before


def _ask_often(proxy):
    # Over a link of its own: when that has all its answers, the other has its one.
    for _ in range(50):
        str(proxy)


def test_a_proxy_outlives_a_putter_that_is_killed(manager, start, eventually):
    items, told = manager.Queue(), sidestep.Event()
    before = manager._number_of_objects()
    child = start(
        sidestep.get_context("fork"), children.put_and_linger, manager, items, told
    )
    told.wait()
    kill(child)
    eventually(lambda: manager._number_of_objects() == before + 2)
    outer = items.get()
    assert outer[1][:] == ["inner"]
    del outer
    gc.collect()
    eventually(lambda: manager._number_of_objects() == before)


@pytest.mark.parametrize("reads", [False, True])
def test_a_taker_that_is_killed_keeps_nothing(manager, start, eventually, reads):
    items, told = manager.Queue(), sidestep.Event()
    before = manager._number_of_objects()
    items.put(manager.list(["kept"]))
    gc.collect()
    target = children.take_and_linger if reads else children.ask
    args = (items, told) if reads else (items, "get", told)
    child = start(sidestep.get_context("fork"), target, *args)
    told.wait()
    eventually(items.empty)
    kill(child)
    if not reads:
        assert items.get(timeout=20)[:] == ["kept"]
    gc.collect()
    eventually(lambda: manager._number_of_objects() == before)


def test_proxies_in_a_batch_and_in_nests(manager, eventually):
    table = manager.dict()
    before = manager._number_of_objects()
    table["k"] = {"deep": [manager.list([1]), manager.Queue()]}
    gc.collect()
    assert manager._number_of_objects() == before + 2
    with manager.batch() as batch:
        reply = batch(table).pop("k")
    ((row, items),) = reply.result().values()
    items.put(row)
    assert items.get()[:] == [1]
    del row, items, reply, batch
    gc.collect()
    eventually(lambda: manager._number_of_objects() <= before + 1)  # with the office
    assert len(table) == 0


# What the standard library defines.


@pytest.fixture
def of(mp):
    with mp.Manager() as manager:
        yield manager


def test_time_outs_are_those_of_the_methods(of):
    items, full = of.Queue(), of.Queue(1)
    full.put(1)
    lock, rlock, semaphore = of.Lock(), of.RLock(), of.Semaphore(0)
    event, condition, barrier = of.Event(), of.Condition(), of.Barrier(2)
    lock.acquire()
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        items.get(True, 0.1)
    with pytest.raises(queue.Full):
        full.put(2, True, 0.1)
    assert lock.acquire(True, 0.1) is False
    assert semaphore.acquire(True, 0.1) is False
    assert event.wait(0.1) is False
    with condition:
        assert condition.wait(0.1) is False
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.1)
    assert 0.7 <= time.monotonic() - began < 20
    for call in (
        lambda: items.get(block=False),
        lambda: items.get(timeout=0),
        lambda: full.put(2, block=False),
    ):
        with pytest.raises((queue.Empty, queue.Full)):
            call()
    for timeout in (-1, -0.5):
        with pytest.raises(ValueError, match="non-negative"):
            items.get(timeout=timeout)
        with pytest.raises(ValueError, match="non-negative"):
            full.put(1, timeout=timeout)
    assert lock.acquire(False) is False
    assert rlock.acquire() is True
    assert rlock.acquire() is True
    assert event.wait(0) is False
    with pytest.raises(RuntimeError):
        condition.wait(1)
    with pytest.raises(TypeError):
        items.get(1, 2, 3)
    with pytest.raises((threading.BrokenBarrierError, RuntimeError)):
        barrier.wait()


def test_a_barrier_is_used_again_and_again(of):
    barrier = of.Barrier(4)
    places = []

    def pass_it():
        places.extend(barrier.wait() for _ in range(20))

    threads = [threading.Thread(target=pass_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(places) == sorted([0, 1, 2, 3] * 20)
    assert barrier.n_waiting == 0


def test_a_barrier_is_reset_and_aborted(of, eventually):
    barrier = of.Barrier(2)
    for end in (barrier.reset, barrier.abort):
        broken = []

        def wait(broken=broken):
            try:
                barrier.wait()
            except threading.BrokenBarrierError:
                broken.append(1)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: barrier.n_waiting == 1)
        end()
        thread.join(20)
        assert broken == [1]
    assert barrier.broken


def test_a_recursive_lock_comes_back_as_deep_from_a_wait(of, eventually):
    condition = of.Condition()
    woken = []

    def wait():
        with condition, condition:
            woken.append(condition.wait(20))
            woken.append("still mine")

    thread = threading.Thread(target=wait)
    thread.start()

    def notify():
        with condition:
            condition.notify_all()
        return woken

    eventually(notify)
    thread.join(20)
    assert woken == [True, "still mine"]
    assert condition.acquire(False)


def test_wait_for(of):
    condition = of.Condition()
    seen = []

    def change():
        for number in range(3):
            with condition:
                seen.append(number)
                condition.notify()

    with condition:
        assert condition.wait_for(lambda: len(seen) > 99, 0.05) is False
        thread = threading.Thread(target=change)
        thread.start()
        assert condition.wait_for(lambda: len(seen) == 3, 20) is True
    thread.join(20)


def test_putters_and_getters_pass_everything(of):
    items = of.JoinableQueue(3)
    got = []

    def put(start):
        for number in range(start, start + 50):
            items.put(number)

    def get():
        while (item := items.get()) is not None:
            got.append(item)
            items.task_done()
        items.task_done()

    putters = [threading.Thread(target=put, args=(i * 50,)) for i in range(3)]
    getters = [threading.Thread(target=get) for _ in range(3)]
    for thread in (*putters, *getters):
        thread.start()
    for thread in putters:
        thread.join(60)
    items.join()
    for _ in getters:
        items.put(None)
    for thread in getters:
        thread.join(60)
    assert sorted(got) == list(range(150))


@pytest.mark.skipif(
    not hasattr(queue.Queue, "shutdown"), reason="queues of 3.13 can be shut down"
)
def test_who_waits_at_a_queue_that_is_shut_down_is_told(of, eventually):
    items, full = of.Queue(), of.Queue(1)
    full.put(1)
    told = []

    def call(method, *args):
        try:
            method(*args)
        except queue.ShutDown:
            told.append(1)

    threads = [
        threading.Thread(target=call, args=(items.get,)),
        threading.Thread(target=call, args=(full.put, 2)),
    ]
    for thread in threads:
        thread.start()
    items.shutdown()
    full.shutdown()
    for thread in threads:
        thread.join(20)
    assert told == [1, 1]
