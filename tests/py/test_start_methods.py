# SPDX-License-Identifier: MIT
"""What spawn and forkserver do on the way to the child's first line."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import process_children as children
import pytest

import sidestep
from sidestep import context, forkserver, spawn
from sidestep.popen_fork import Popen

SPAWNING = ["spawn", "forkserver"]


def run_script(tmp_path, text, *args, options=(), name="script.py", check=True):
    script = tmp_path / name
    script.write_text(text)
    return subprocess.run(
        [sys.executable, *options, str(script), *args],
        check=check,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_line():
    command = spawn.get_command_line(pipe_handle=5, parent_pid=7)
    assert command[0] == os.fsencode(sys.executable)
    assert command[-1] == "--multiprocessing-fork"
    assert "spawn_main(pipe_handle=5, parent_pid=7)" in command[-2]
    assert spawn.is_forking(["x", "--multiprocessing-fork"])
    assert not spawn.is_forking(["x"])


def test_command_line_of_a_frozen_program(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    command = spawn.get_command_line(pipe_handle=5, arena_fd=6)
    assert command == [
        sys.executable,
        "--multiprocessing-fork",
        "pipe_handle=5",
        "arena_fd=6",
    ]


def test_freeze_support_reads_the_command_line(monkeypatch):
    seen = {}
    monkeypatch.setattr(spawn, "spawn_main", lambda **kwds: seen.update(kwds))
    monkeypatch.setattr(
        sys, "argv", ["x", "--multiprocessing-fork", "pipe_handle=5", "parent_pid=None"]
    )
    with pytest.raises(SystemExit):
        spawn.freeze_support()
    assert seen == {"pipe_handle": 5, "parent_pid": None}


def test_preparation_data():
    data = spawn.get_preparation_data("name")
    assert data["name"] == "name"
    assert data["authkey"] == sidestep.current_process().authkey
    assert data["sys_argv"] == sys.argv
    assert "" not in data["sys_path"]
    assert data["dir"] == os.getcwd()


@pytest.mark.parametrize("method", SPAWNING)
def test_an_error_in_main_is_told(tmp_path, method):
    text = """if 1:
        import sidestep as mp
        def work():
            print("child")
        if __name__ != "__main__":
            raise RuntimeError("not in children")
        mp.set_start_method("%s")
        child = mp.Process(target=work)
        child.start()
        child.join()
        print(child.exitcode)
    """
    done = run_script(tmp_path, text % method)
    assert done.stdout == "1\n"
    assert "RuntimeError: not in children" in done.stderr


@pytest.mark.parametrize("method", SPAWNING)
def test_missing_guard(tmp_path, method):
    text = """if 1:
        import sidestep as mp, sys
        def work():
            print("child")
        mp.set_start_method("%s", force=True)
        child = mp.Process(target=work)
        child.start()
        child.join()
        sys.exit(child.exitcode)
    """
    done = run_script(tmp_path, text % method, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "has finished its bootstrapping phase" in done.stderr


@pytest.mark.parametrize("method", SPAWNING)
def test_main_is_not_imported_for_nothing(tmp_path, method):
    """A target and arguments of other modules need no guard either."""
    text = """if 1:
        import sidestep as mp
        print("main", flush=True)
        child = mp.get_context("%s").Process(target=print, args=("child",))
        child.start()
        child.join()
    """
    assert run_script(tmp_path, text % method).stdout == "main\nchild\n"


@pytest.mark.parametrize("method", SPAWNING)
def test_main_is_imported_when_asked(tmp_path, method):
    text = """if 1:
        import sidestep as mp
        print(__name__, flush=True)
        if __name__ == "__main__":
            context = mp.get_context("%s")
            context.import_main = True
            for _ in range(2):
                child = context.Process(target=print, args=("child",))
                child.start()
                child.join()
    """
    done = run_script(tmp_path, text % method)
    assert done.stdout == "__main__\n" + 2 * "__mp_main__\nchild\n"


@pytest.mark.parametrize("method", SPAWNING)
@pytest.mark.parametrize(
    "look",
    ["__main__.work()", "print(vars(__main__)['x'])", "print(dir(__main__)[-1])"],
)
def test_main_is_imported_for_who_looks(tmp_path, method, look):
    """Once, whichever way; in the child it is called as the standard library does."""
    (tmp_path / "other.py").write_text(
        "def target():\n"
        "    import __main__, sys\n"
        "    print(__main__.__file__.rpartition('/')[2])\n"
        f"    {look}\n"
        "    assert sys.modules['__mp_main__'] is __main__\n"
        "    __main__.work()\n"
    )
    text = """if 1:
        import sidestep as mp, other
        print(__name__, flush=True)
        x = "x"
        def work():
            print("work")
        if __name__ == "__main__":
            child = mp.get_context("%s").Process(target=other.target)
            child.start()
            child.join()
    """
    done = run_script(tmp_path, text % method)
    seen = "work" if "work" in look else "x"
    assert done.stdout == f"__main__\nscript.py\n__mp_main__\n{seen}\nwork\n"


@pytest.mark.parametrize("method", SPAWNING)
def test_main_is_run_by_one_thread(tmp_path, method):
    """The others wait until it is complete."""
    (tmp_path / "other.py").write_text(
        "import threading\n"
        "def look(barrier, seen):\n"
        "    import __main__\n"
        "    barrier.wait()\n"
        "    seen.append(__main__.last)\n"
        "def target():\n"
        "    barrier, seen = threading.Barrier(4), []\n"
        "    threads = [threading.Thread(target=look, args=(barrier, seen))\n"
        "               for _ in range(4)]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "    print(seen)\n"
    )
    text = """if 1:
        import sidestep as mp, other
        print(__name__, flush=True)
        last = 1
        if __name__ == "__main__":
            child = mp.get_context("%s").Process(target=other.target)
            child.start()
            child.join()
    """
    done = run_script(tmp_path, text % method)
    assert done.stdout == "__main__\n__mp_main__\n[1, 1, 1, 1]\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_program_from_standard_input(method):
    text = f"""import sidestep, sys
child = sidestep.get_context({method!r}).Process(target=print, args=("hello",))
child.start()
child.join()
sys.exit(child.exitcode)
"""
    done = subprocess.run(
        [sys.executable], input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("method", SPAWNING)
def test_functions_of_main(tmp_path, method):
    text = """if 1:
        import sidestep as mp, sys
        def work(conn):
            conn.send((__name__, sys.argv[1:], sys.flags.optimize))
        if __name__ == "__main__":
            mp.set_start_method("%s")
            ours, theirs = mp.Pipe()
            child = mp.Process(target=work, args=(theirs,))
            child.start()
            print(ours.recv())
            child.join()
    """
    done = run_script(tmp_path, text % method, "a", "b", options=["-O"])
    assert done.stdout == "('__mp_main__', ['a', 'b'], 1)\n"
    assert done.stderr == ""


@pytest.mark.parametrize("method", SPAWNING)
def test_unmodified_programs(tmp_path, method):
    """In every child interpreter multiprocessing is sidestep again."""
    text = """if 1:
        import multiprocessing as mp, sys
        def work(conn, depth):
            import multiprocessing.queues
            conn.send(multiprocessing.queues.__name__)
            if depth:
                child = mp.Process(target=work, args=(conn, depth - 1))
                child.start()
                child.join()
        if __name__ == "__main__":
            mp.set_start_method("%s")
            ours, theirs = mp.Pipe()
            child = mp.Process(target=work, args=(theirs, 1))
            child.start()
            child.join()
            print(ours.recv(), ours.recv())
    """
    done = run_script(
        tmp_path, text % method, name="program.py", options=["-m", "sidestep"]
    )
    assert done.stdout == "sidestep.queues sidestep.queues\n"
    assert done.stderr == ""


@pytest.mark.parametrize("method", ["fork", *SPAWNING])
@pytest.mark.parametrize("options", [["-E"], ["-s"], ["-X", "dev"], ["-W", "error"]])
def test_interpreter_options_are_inherited(tmp_path, method, options):
    text = """if 1:
        import sys
        sys.path[:0] = %r
        import sidestep as mp
        def work(conn):
            conn.send(tuple(sys.flags))
        if __name__ == "__main__":
            ctx = mp.get_context("%s")
            ours, theirs = ctx.Pipe()
            child = ctx.Process(target=work, args=(theirs,))
            child.start()
            assert ours.recv() == tuple(sys.flags)
            child.join()
            print(child.exitcode)
    """
    path = [str(Path(sidestep.__file__).parent.parent)]
    done = run_script(tmp_path, text % (path, method), options=options)
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_children_get_no_other_descriptors(ctx):
    if ctx.get_start_method() == "fork":
        pytest.skip("a fork has them all")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    child = ctx.Process(target=children.wait_for_ever)
    child.start()
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # end of file: nobody else has it
    os.close(read_end)
    child.kill()
    child.join()


def test_descriptors_are_given_to_children(ctx):
    ours, theirs = ctx.Pipe()
    inode = os.fstat(theirs.fileno()).st_ino
    child = ctx.Process(target=children.echo_descriptor, args=(theirs,))
    child.start()
    theirs.close()
    assert ours.recv() == inode
    with pytest.raises(EOFError):
        ours.recv()
    child.join()


def test_objects_are_held_for_the_child(ctx):
    """The starter lets go at once; the child finds it all the same."""
    for _ in range(5):
        ours, theirs = ctx.Pipe()
        event = ctx.Event()
        waiter = ctx.Process(target=children.set_event, args=(event,))
        waiter.start()
        child = ctx.Process(target=children.set_event, args=(ctx.Event(),))
        child.start()
        assert event.wait(20)
        for process in (waiter, child):
            process.join()
            assert process.exitcode == 0
        ours.close()
        theirs.close()


def test_a_large_job(ctx):
    ours, theirs = ctx.Pipe()
    data = os.urandom(1 << 20) * 5
    child = ctx.Process(target=children.send_modules, args=(theirs,), kwargs={})
    child.data = data
    child.start()
    assert "sidestep" in ours.recv()
    child.join()
    assert child.exitcode == 0


def test_a_child_that_dies_while_it_is_sent_its_job():
    popen = Popen.__new__(Popen)
    popen.returncode = None
    ctx = sidestep.get_context("spawn")
    ctx.set_executable("/bin/false")
    try:
        child = ctx.Process(target=print, args=(b"x" * (1 << 22),))
        child.start()
        child.join()
    finally:
        ctx.set_executable(sys.executable)
    assert child.exitcode == 1


def test_no_executable():
    ctx = sidestep.get_context("spawn")
    ctx.set_executable(None)
    try:
        with pytest.raises(RuntimeError, match="there is no Python to start"):
            ctx.Process(target=print).start()
    finally:
        ctx.set_executable(sys.executable)


def test_unpicklable_target():
    for method in SPAWNING:
        child = sidestep.get_context(method).Process(target=(i for i in ()))
        with pytest.raises(
            TypeError, match="cannot pickle 'generator' object; at target"
        ):
            child.start()
        assert context.get_spawning_popen() is None
        assert child.pid is None


# ---- The fork server ----


@pytest.fixture
def server():
    """The fork server of this process, stopped before and after."""
    forkserver._forkserver._stop()
    yield forkserver._forkserver
    forkserver.set_forkserver_preload([])
    forkserver._forkserver._stop()


def modules_of_child():
    ctx = sidestep.get_context("forkserver")
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=children.send_modules, args=(theirs,))
    child.start()
    names = ours.recv()
    child.join()
    return names


def test_preload(server):
    assert "colorsys" not in modules_of_child()
    server._stop()
    sidestep.set_forkserver_preload(["colorsys", "no_such_module"])
    assert "colorsys" in modules_of_child()


@pytest.mark.parametrize(
    ("on_error", "code", "text"),
    [
        ("ignore", 0, ""),
        ("warn", 0, "ImportWarning: Failed to preload module 'broken': no reason"),
        ("fail", 1, "ValueError: no reason"),
    ],
)
def test_preload_of_what_raises(tmp_path, on_error, code, text):
    """In the standard library the option came with 3.15."""
    (tmp_path / "broken.py").write_text("raise ValueError('no reason')")
    program = f"""if 1:
        import sidestep as mp
        ctx = mp.get_context("forkserver")
        ctx.set_forkserver_preload(["broken"], on_error={on_error!r})
        child = ctx.Process(target=print, args=("child",))
        child.start()
        child.join()
    """
    done = run_script(tmp_path, program, options=["-Wd"], check=False)
    assert done.returncode == code
    assert done.stdout == ("child\n" if code == 0 else "")
    assert text in done.stderr
    assert bool(done.stderr) == bool(text)
    assert ("a preloaded module cannot be imported" in done.stderr) == (code == 1)


def test_preload_knows_three_ways():
    with pytest.raises(ValueError, match="'ignore', 'warn' or 'fail', not 'raise'"):
        sidestep.set_forkserver_preload([], on_error="raise")


def test_preloaded_main_runs_once(tmp_path):
    text = """if 1:
        import sidestep as mp, sys
        sys.stderr.write("top\\n")
        def work():
            pass
        if __name__ == "__main__":
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["__main__"])
            for _ in range(3):
                child = ctx.Process(target=work)
                child.start()
                child.join()
                print(child.exitcode)
    """
    done = run_script(tmp_path, text)
    assert done.stdout == "0\n0\n0\n"
    assert done.stderr == "top\ntop\n"


def test_objects_made_while_preloading_are_shared(tmp_path):
    (tmp_path / "shared.py").write_text(
        "import sidestep\n"
        "value = sidestep.Value('i', 0)\n"
        "def add():\n"
        "    with value.get_lock():\n"
        "        value.value += 1\n"
        "def tell(conn):\n"
        "    conn.send(value.value)\n"
    )
    text = """if 1:
        import sidestep as mp
        if __name__ == "__main__":
            import shared
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["shared"])
            ours, theirs = ctx.Pipe()
            for _ in range(3):
                child = ctx.Process(target=shared.add)
                child.start()
                child.join()
                assert child.exitcode == 0
            child = ctx.Process(target=shared.tell, args=(theirs,))
            child.start()
            print(ours.recv(), shared.value.value)
            child.join()
    """
    done = run_script(tmp_path, text)
    assert done.stdout == "3 0\n", done.stderr


def test_owner_is_the_parent(server):
    ctx = sidestep.get_context("forkserver")
    ours, theirs = ctx.Pipe()
    child = ctx.Process(target=children.tell, args=(theirs, "sidestep"))
    child.start()
    assert ours.recv()["getppid"] == os.getpid()
    child.join()
    assert server._forkserver_pid not in {None, child.pid}


def test_threads_in_the_zygote_make_it_the_parent(tmp_path):
    (tmp_path / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    text = """if 1:
        import sidestep as mp, os, signal, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        def work(how):
            if how < 0:
                os.kill(os.getpid(), -how)
            sys.exit(how)
        if __name__ == "__main__":
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["threaded"])
            for code in (0, 3, -9, -15):
                child = ctx.Process(target=work, args=(code,))
                child.start()
                child.join(20)
                print(child.exitcode)
            child = ctx.Process(target=work, args=(4,))
            child.start()
            child.join(gone=True)
            print(child.exitcode)
    """
    done = run_script(tmp_path, text)
    assert done.stdout.split() == ["0", "3", "-9", "-15", "4"], done.stderr


def test_too_many_descriptors(server):
    child = sidestep._core.Child()
    with pytest.raises(ValueError, match="too many fds"):
        server.start(child, b"", b"", [0] * forkserver.MAXFDS_TO_SEND)
    child.close()


def test_connecting_by_hand_is_refused(server):
    with pytest.raises(RuntimeError, match="use Process"):
        forkserver.connect_to_new_process([])
    assert forkserver.get_inherited_fds() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="every reference is counted")
def test_what_the_server_has_loaded_is_not_counted(start):
    ctx = sidestep.get_context("forkserver")
    ours, theirs = ctx.Pipe()
    child = start(ctx, children.tell_references, theirs)
    counts = ours.recv()
    child.join()
    assert min(counts) > 1 << 28


def test_objects_of_preloaded_modules_still_end(tmp_path):
    (tmp_path / "mortal.py").write_text(
        "import sidestep\n"
        "class Noisy:\n"
        "    def __del__(self, process=sidestep.current_process):\n"
        "        if process().name != 'MainProcess':\n"  # the server ends, too
        "            print('ended', flush=True)\n"
        "noisy = Noisy()\n"
        "def forget():\n"
        "    global noisy\n"
        "    del noisy\n"
    )
    text = """if 1:
        import sidestep as mp
        if __name__ == "__main__":
            import mortal
            ctx = mp.get_context("forkserver")
            ctx.set_forkserver_preload(["mortal"])
            for _ in range(2):
                child = ctx.Process(target=mortal.forget)
                child.start()
                child.join()
            import os
            os._exit(0)
    """
    done = run_script(tmp_path, text)
    assert done.stdout == "ended\nended\n", done.stderr


@pytest.mark.parametrize("method", SPAWNING)
def test_a_setup_that_cannot_be_loaded_is_the_childs_error(method, tmp_path):
    text = f"""if 1:
        import sys
        import sidestep as mp
        class Path(str):
            def __reduce__(self):
                return int, ("not to be loaded",)
        if __name__ == "__main__":
            ctx = mp.get_context({method!r})
            sys.path.append(Path("somewhere"))
            for _ in range(3):
                child = ctx.Process(target=print)
                child.start()
                child.join()
                print(child.exitcode)
            sys.path.pop()
            child = ctx.Process(target=print, args=("fine",))
            child.start()
            child.join()
    """
    done = run_script(tmp_path, text)
    assert done.stdout == "1\n1\n1\nfine\n", done.stderr
    assert done.stderr.count("not to be loaded") == 3


def test_nested_forkservers(start):
    ctx = sidestep.get_context("forkserver")
    ours, theirs = ctx.Pipe()
    child = start(ctx, children.have_grandchildren, "forkserver", theirs, 1)
    assert [ours.recv(), ours.recv()] == [0, 1]
    child.join()
    assert child.exitcode == 0


def test_after_a_fork_the_child_has_a_zygote_of_its_own(server, start):
    sidestep.get_context("forkserver").Process(target=children.nothing).start()
    fork = sidestep.get_context("fork")
    ours, theirs = fork.Pipe()
    child = start(fork, children.have_grandchildren, "forkserver", theirs, 1)
    assert [ours.recv(), ours.recv()] == [0, 1]
    child.join()
    assert child.exitcode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_changes_its_identity_gets_another_zygote(tmp_path):
    text = """if 1:
        import os, sidestep as mp
        def work(conn):
            conn.send(os.getgroups())
        if __name__ == "__main__":
            ctx = mp.get_context("forkserver")
            ours, theirs = ctx.Pipe()
            for groups in ([], [1234]):
                os.setgroups(groups)
                child = ctx.Process(target=work, args=(theirs,))
                child.start()
                print(ours.recv())
                child.join()
    """
    done = run_script(tmp_path, text)
    assert done.stdout == "[]\n[1234]\n", done.stderr


def test_start_all(ctx):
    processes = [ctx.Process(target=children.exit_with, args=(i,)) for i in range(6)]
    sidestep.start_all(processes)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 1, 2, 3, 4, 5]
    assert len({process.pid for process in processes}) == 6
    ctx.start_all([])


@pytest.mark.parametrize("method", SPAWNING)
def test_start_all_stops_at_who_cannot_start(method):
    ctx = sidestep.get_context(method)
    first, bad, last = (
        ctx.Process(target=children.exit_with, args=(arg,))
        for arg in (3, threading.Lock(), 4)
    )
    with pytest.raises(TypeError, match="lock"):
        ctx.start_all(iter([first, bad, last]))
    first.join()
    assert first.exitcode == 3
    assert bad.pid is None
    last.start()
    last.join()
    assert last.exitcode == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_program_without_a_guard_is_told_of_it(method, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sidestep\n"
        f"sidestep.set_start_method({method!r})\n"
        "def of_the_program():\n"
        "    return 1\n"
        "with sidestep.Pool(1) as pool:\n"
        "    pool.apply(of_the_program)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr.splitlines()[-1]
