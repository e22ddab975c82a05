# SPDX-License-Identifier: MIT
"""Workers that serve a manager on the network: they come, go, are killed."""

import os
import random
import signal
import socket
import sys
import threading
import types
from concurrent import futures
from pathlib import Path

import pytest
import remote_programs as programs
from remote_programs import add

import sidestep
from sidestep.managers import SyncManager
from sidestep.pool import WorkerLost
from sidestep.tasks import ServeError, broker, read_key, service

pytest.importorskip("sidestep._tls", reason="built without OpenSSL")

LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(programs.KEY + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def server():
    """A server without workers of its own, and a manager that is connected to it."""
    with programs.server(LOOPBACK) as (program, address):
        manager = SyncManager(address, programs.KEY)
        manager.connect()
        yield program, manager


def run_of(path, eventually):
    """The process that runs `tell_and_wait`, as soon as it does."""
    return int(eventually(lambda: path.exists() and path.read_text()))


def test_tasks_wait_for_workers_and_go_to_new_ones(server, key_file):
    _, manager = server
    made = [manager.submit(add, number) for number in range(20)]
    assert not futures.wait(made, 0.05).done
    with programs.worker(manager.address, key_file):
        assert [future.result(20) for future in made] == list(range(1, 21))
        first = manager.submit(os.getpid).result(20)
        with programs.worker(manager.address, key_file):
            gate = manager.Barrier(2)
            # Two at a time can only be at two workers.
            both = [manager.submit(_meet, gate) for _ in range(2)]
            pids = {future.result(20) for future in both}
            assert len(pids) == 2
            assert first in pids


def test_tasks_that_wait_for_each_other_go_to_two_workers(server, key_file):
    _, manager = server
    first = programs.worker(manager.address, key_file)
    second = programs.worker(manager.address, key_file)
    with first, second, sidestep.Pool(cluster=manager) as pool:
        for way in (pool.starmap_async, pool.istarmap):
            # As it is when items take no time, and the way to the server some.
            pool._engine._item_seconds, pool._engine._overhead = 1e-6, 1e-2
            gate = manager.Barrier(2)
            result = way(_meet, [(gate,)] * 2, chunksize=1)
            pids = result.get(40) if way == pool.starmap_async else list(result)
            assert len(set(pids)) == 2


def _meet(gate):
    gate.wait(20)
    return os.getpid()


def test_a_pool_of_those_that_serve(server, key_file):
    _, manager = server
    worker = programs.worker(manager.address, key_file, workers=2)
    with worker, sidestep.Pool(cluster=manager) as pool:
        assert pool.map(add, range(300)) == list(range(1, 301))
        assert list(pool.imap(add, range(300))) == list(range(1, 301))
        with pytest.raises(WorkerLost, match=r"worker \d+ was killed by SIGKILL"):
            pool.apply(programs.die)
        late = pool.apply_async(_sleep, timeout=0.2)
        with pytest.raises(sidestep.TimeoutError):
            late.get(20)
        assert pool.apply(add, (1,)) == 2


def _sleep():
    threading.Event().wait(60)


def test_a_killed_worker_program_loses_its_tasks_alone(
    server, key_file, tmp_path, eventually
):
    _, manager = server
    path = tmp_path / "running"
    with programs.worker(manager.address, key_file) as doomed:
        lost = manager.submit(programs.tell_and_wait, path)
        run_of(path, eventually)
        kept = [manager.submit(add, number) for number in range(50)]
        doomed.kill()
        assert isinstance(lost.exception(20), WorkerLost)
        assert "is gone" in str(lost.exception())
        with programs.worker(manager.address, key_file):
            assert [future.result(20) for future in kept] == list(range(1, 51))


@pytest.mark.parametrize("way", ["map", "imap", "apply"])
def test_a_killed_worker_program_is_retried(
    server, key_file, tmp_path, eventually, way
):
    _, manager = server
    path = tmp_path / "running"
    with sidestep.Pool(cluster=manager) as pool:
        with programs.worker(manager.address, key_file) as doomed:
            if way == "map":
                result = pool.map_async(programs.tell_and_wait, [path], retries=1)
            elif way == "imap":
                result = pool.imap(programs.tell_and_wait, [path], retries=1)
            else:
                result = pool.apply_async(programs.tell_and_wait, (path,), retries=1)
            first = run_of(path, eventually)
            path.unlink()
            doomed.kill()
        with programs.worker(manager.address, key_file):
            second = run_of(path, eventually)
            path.with_suffix(".go").touch()
            value = result.next(20) if way == "imap" else result.get(20)
            assert value in (second, [second])
            assert second != first


def test_a_worker_leaves_when_its_task_is_done(server, key_file, tmp_path, eventually):
    _, manager = server
    path = tmp_path / "running"
    with programs.worker(manager.address, key_file) as worker:
        running = manager.submit(programs.tell_and_wait, path)
        pid = run_of(path, eventually)
        waiting = manager.submit(add, 1)
        worker.send_signal(signal.SIGINT)
        programs.read_until(worker, "leaving")
        path.with_suffix(".go").touch()
        assert running.result(20) == pid
        assert worker.wait(20) == 0
    assert not waiting.done()
    with programs.worker(manager.address, key_file):
        assert waiting.result(20) == 2


def test_a_second_interrupt_ends_at_once(server, key_file, tmp_path, eventually):
    _, manager = server
    path = tmp_path / "running"
    with programs.worker(manager.address, key_file) as worker:
        running = manager.submit(programs.tell_and_wait, path)
        pid = run_of(path, eventually)
        worker.send_signal(signal.SIGTERM)
        programs.read_until(worker, "leaving")
        worker.send_signal(signal.SIGINT)
        assert worker.wait(20) == 130
        assert isinstance(running.exception(20), WorkerLost)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_who_serves_and_goes_on_after_a_second_interrupt_is_given_up(
    server, tmp_path, eventually
):
    _, manager = server
    path = tmp_path / "running"
    running = manager.submit(programs.tell_and_wait, path)
    leaves = threading.Event()

    def interrupt_twice():
        run_of(path, eventually)
        os.kill(os.getpid(), signal.SIGINT)
        leaves.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    def say(text):
        if text.startswith("leaving"):
            leaves.set()

    helper = threading.Thread(target=interrupt_twice)
    helper.start()
    assert not service.serve(manager.address, programs.KEY, workers=1, say=say)
    helper.join()
    assert isinstance(running.exception(20), WorkerLost)


def test_a_signal_may_come_at_any_line_of_a_pause(tmp_path):
    quiet = service._Service(str(tmp_path / "no/server"), b"k", 1, {}, print)
    quiet._delay = 60

    def at_every_line(frame, event, _):
        if frame.f_code.co_filename != service.__file__:
            quiet.signalled()
        return at_every_line

    def say(_):
        sys.settrace(at_every_line)

    quiet._say = say
    program = threading.Thread(
        target=quiet.run, kwargs={"reconnect": True}, daemon=True
    )
    program.start()
    program.join(20)
    assert not program.is_alive()


def test_a_killed_server_ends_its_workers(server, key_file, tmp_path, eventually):
    program, manager = server
    path = tmp_path / "running"
    with programs.worker(manager.address, key_file) as worker:
        future = manager.submit(programs.tell_and_wait, path)
        pid = run_of(path, eventually)
        program.kill()
        assert isinstance(future.exception(20), WorkerLost)
        assert "is gone" in programs.read_until(worker, "is gone")
        assert worker.wait(20) == 1
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_killed_client_frees_the_worker(server, key_file, tmp_path, eventually):
    _, manager = server
    path = tmp_path / "running"
    where = ",".join(map(str, manager.address))
    client = programs.start(programs.__file__, "client", where, "attached", path)
    with programs.worker(manager.address, key_file):
        try:
            pid = run_of(path, eventually)
        finally:
            programs.end(client)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())
        assert manager.submit(add, 1).result(20) == 2


def test_it_reconnects(key_file, tmp_path):
    # A port that the kernel gives to nobody else meanwhile: it is bound, but nobody
    # listens there until a server binds it again, by name.
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(LOOPBACK)
    address = holder.getsockname()
    command = ("-m", "sidestep", "serve", f"{address[0]}:{address[1]}", "-k", key_file)
    worker = programs.start(*command, "-n", 1, "--reconnect")
    try:
        assert "next attempt" in programs.read_until(worker, "nothing listens")
        for _ in range(2):
            with programs.server(address) as (_, again):
                manager = SyncManager(again, programs.KEY)
                manager.connect()
                programs.read_until(worker, "serving")
                assert manager.submit(add, 1).result(20) == 2
        worker.send_signal(signal.SIGINT)
        assert worker.wait(40) == 0
    finally:
        programs.end(worker)
        holder.close()


# ---- What goes wrong is said ----


def serve(*options):
    program = programs.start("-m", "sidestep", "serve", *options)
    try:
        _, errors = program.communicate(timeout=40)
    finally:
        programs.end(program)
    return program.returncode, errors


def test_clear_errors(server, key_file, tmp_path):
    _, manager = server
    host, port = manager.address
    code, text = serve("no.such.name.invalid:5000", "-k", key_file)
    assert code == 1
    assert "the name 'no.such.name.invalid' does not resolve" in text
    code, text = serve("127.0.0.1:1", "-k", key_file)
    assert code == 1
    assert "nothing listens at 127.0.0.1:1" in text
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"another key, of thirty-two bytes at least")
    wrong.chmod(0o644)
    code, text = serve(f"{host}:{port}", "-k", wrong)
    assert code == 1
    assert "another key" in text
    assert f"chmod 600 {wrong}" in text
    assert "Traceback" not in text
    for options in ((f"{host}:{port}",), ("nowhere", "-k", key_file),
                    (f"{host}:{port}", "-k", tmp_path / "none"),
                    (f"{host}:{port}", "-k", key_file, "-n", "0")):  # fmt: skip
        code, text = serve(*options)
        assert code == 2
        assert "Traceback" not in text
    program = programs.start("-m", "sidestep", "serve", "--help")
    text, _ = program.communicate(timeout=20)
    assert "--key-file" in text


def test_another_version_is_refused(server, monkeypatch):
    _, manager = server
    other = (broker.PROTOCOL[0] + 1, broker.PROTOCOL[1])
    monkeypatch.setattr(service, "PROTOCOL", other)
    with pytest.raises(ServeError, match="version 2 of Python"):
        sidestep.serve(manager.address, programs.KEY, workers=1)
    from sidestep.tasks import remote

    monkeypatch.setattr(remote, "PROTOCOL", (1, ("2", "7")))
    with pytest.raises(broker.VersionMismatchError, match=r"Python 2\.7"):
        manager.submit(add, 1)


def test_keys_from_files(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"text of the key\r\n")
    assert read_key(path) == b"text of the key"
    raw = bytes(range(128, 160)) + b"\n"
    path.write_bytes(raw)
    assert read_key(path) == raw
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match="is empty"):
        read_key(path)


def test_addresses():
    assert service.parse_address("a.b:5000") == ("a.b", 5000)
    assert service.parse_address("[::1]:5000") == ("::1", 5000)
    assert service.parse_address("/run/socket") == "/run/socket"
    for text in ("a", "a:", ":5000", "a:b", "a:70000"):
        with pytest.raises(ValueError, match="is no address"):
            service.parse_address(text)


def test_a_silent_party_is_given_up(monkeypatch, eventually):
    monkeypatch.setattr(broker, "PATIENCE_SECONDS", 0.2)
    lost = broker.Broker(types.SimpleNamespace(address=("server.example", 5000)))
    lost.enter("client", broker.PROTOCOL)

    class Batch:
        tasks = (None,)

    lost.submit("client", 0, Batch())
    assert eventually(lambda: lost.statistics()["clients"] == 0)
    with pytest.raises(ConnectionResetError, match="given this client up"):
        lost.collect("client", 0)


@pytest.mark.stress
def test_workers_killed_at_random(server, key_file):
    """Nothing is lost and nothing hangs while workers come, leave and are killed."""
    _, manager = server
    dice = random.Random(os.urandom(8).hex())
    is_over = threading.Event()
    ended = []

    def one_after_the_other():
        while not is_over.is_set():
            with programs.worker(manager.address, key_file, workers=2) as worker:
                is_over.wait(dice.uniform(0.2, 1.5))
                if dice.random() < 0.3:
                    worker.terminate()
                    worker.wait(30)
                else:
                    worker.kill()
                ended.append(worker.wait(30))

    keepers = [threading.Thread(target=one_after_the_other) for _ in range(2)]
    for keeper in keepers:
        keeper.start()
    try:
        with sidestep.Pool(cluster=manager) as pool:
            while len(ended) < 20:
                expected = list(range(1, 201))
                assert pool.map_async(add, range(200), retries=99).get(120) == expected
                results = pool.imap(programs.pause, range(40), retries=99)
                assert [results.next(120) for _ in range(40)] == list(range(40))
                made = [manager.submit(programs.pause, number) for number in range(20)]
                done, rest = futures.wait(made, 120)
                assert not rest
                kinds = {type(one.exception()).__name__ for one in done}
                assert kinds <= {"NoneType", "WorkerLost"}
    finally:
        is_over.set()
        for keeper in keepers:
            keeper.join()


class _Busy:
    """A node that does one batch at a time, when it is told to."""

    name, slots, is_leaving = "busy", 1, False

    def __init__(self):
        self.flights = {}
        self.started = []

    def start(self, flight):
        self.started.append((flight.stream.name, flight.number))


def test_a_client_that_withdraws_has_one_turn_like_others():
    office = broker.Broker(types.SimpleNamespace(address="a path"))
    node = _Busy()
    office.add(node)
    batch = types.SimpleNamespace(tasks=[0])
    for name in ("one", "other"):
        office.enter(name, broker.PROTOCOL)
        office._streams[name].name = name
    office.submit("one", 0, batch)
    for number in range(3):
        office.submit("other", number, batch)
    for number in range(1, 4):
        office.submit("one", number, batch)
        assert office.withdraw("one", number)
    for number in range(4, 7):
        office.submit("one", number, batch)
    while node.flights:
        office.finish_here(next(iter(node.flights)), None)
    assert [name for name, _ in node.started] == ["one"] + ["other", "one"] * 3
