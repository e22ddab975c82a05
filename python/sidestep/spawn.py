# SPDX-License-Identifier: MIT
"""What a child that was not forked needs to become like its parent.

The parent writes two pickles down the tether: the preparation data (a dictionary),
then the process object. The child's command line says where the tether is, and which
place in the arena was reserved for it::

    python [options] -c "from sidestep.spawn import spawn_main; spawn_main(...)" \
        --multiprocessing-fork
"""

from __future__ import annotations

import gc
import io
import os
import sys

from . import _core, context, process, util
from . import _main as main_module
from ._main import inheriting, old_main_modules  # noqa: F401 - a name of the stdlib's

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .popen_fork import Popen
    from .process import BaseProcess

__all__ = [
    "_main",
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "set_executable",
]

WINEXE = False
WINSERVICE = False

_python_exe: bytes | None = None


def set_executable(exe: Any) -> None:
    """Set the program that children run; None if there is none."""
    global _python_exe  # noqa: PLW0603
    _python_exe = None if exe is None else os.fsencode(exe)


def get_executable() -> bytes | None:
    """Return the program that children run."""
    return _python_exe


set_executable(sys.executable)


def is_forking(argv: list[str]) -> bool:
    """Tell whether a command line is that of a child."""
    return len(argv) >= 2 and argv[1] == "--multiprocessing-fork"


def freeze_support() -> None:
    """Run the child's part and exit, if this is a child of a frozen executable."""
    if not is_forking(sys.argv):
        return
    kwds: dict[str, int | None] = {}
    for arg in sys.argv[2:]:
        name, value = arg.split("=")
        kwds[name] = None if value == "None" else int(value)
    spawn_main(**kwds)  # type: ignore[arg-type]
    sys.exit()


def get_command_line(**kwds: Any) -> list[Any]:
    """Return the command line of a child, which calls spawn_main(**kwds)."""
    pairs = [f"{name}={value!r}" for name, value in kwds.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *pairs]
    code = import_line("spawn", "spawn_main") + f"; spawn_main({', '.join(pairs)})"
    options = util._args_from_interpreter_flags()
    return [get_executable(), *options, "-c", code, "--multiprocessing-fork"]


def encode_command(command: list[Any]) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the program and the arguments of a command line as the core takes them."""
    if command[0] is None:
        raise RuntimeError("there is no Python to start: sys.executable is None")
    argv = tuple(os.fsencode(word) for word in command)
    return argv[0], argv


def import_line(module: str, name: str) -> str:
    """Return code that imports a name of this package in a fresh interpreter.

    With -S or -I it may not find the package where this one did; its path is
    replaced by ours soon after.
    """
    folder = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    return (
        f"import sys; sys.path.append({folder!r}); "
        f"from {__package__}.{module} import {name}"
    )


def dump_job(popen: Popen, process_obj: BaseProcess) -> io.BytesIO:
    """Pickle what the child needs, with ``popen`` as the child it is for."""
    data = get_preparation_data(process_obj._name)
    data["import_main"] = context.imports_main(popen.method)
    file = io.BytesIO()
    reduction = context.reduction
    context.set_spawning_popen(popen)
    try:
        reduction.dump(data, file)
        reduction.dump(process_obj, file)
    finally:
        context.set_spawning_popen(None)
    return file


def send_job(child: _core.Child, job: io.BytesIO) -> None:
    """Send a started child its job, unless it has ended already: its code will tell."""
    with job.getbuffer() as data:
        child.send(data)


def spawn_main(
    pipe_handle: int,
    parent_pid: int | None = None,
    tracker_fd: int | None = None,
    arena_fd: int = -1,
    process_id: int = 0,
    die_with_parent: int = 0,
) -> None:
    """Be a spawned child: join the tree, read the job, run it, exit."""
    assert is_forking(sys.argv), "Not forking"
    # Nothing of what is loaded by now is ever garbage: the collections at this
    # interpreter's end, a tenth of its life, need not go through it.
    gc.freeze()
    adopt(arena_fd, process_id, pipe_handle, parent_pid, die_with_parent)
    sys.exit(_main(os.dup(pipe_handle)))


def adopt(
    arena_fd: int, process_id: int, tether: int, parent_pid: int | None, die: int
) -> None:
    """Join the arena in the place that was reserved for this interpreter."""
    os.set_inheritable(tether, False)  # noqa: FBT003
    _core.process_adopt(arena_fd, process_id, tether, parent_pid or os.getppid(), die)
    os.close(arena_fd)


def _main(fd: int, parent_sentinel: int | None = None) -> int:
    """Read the job from a descriptor, which is closed, and run it."""
    with os.fdopen(fd, "rb", closefd=True) as from_parent:
        if not from_parent.peek(1):
            return 1  # the parent has died before it said what to do
        process_obj = _load_job(from_parent)
    _core.process_settle()
    return process_obj._bootstrap(parent_sentinel)


def _load_job(file: Any) -> BaseProcess:
    """Become what the job says, and return its process object."""
    # What loads is in C; importing the rest of pickle takes a tenth of the whole start.
    from _pickle import load

    with inheriting():
        prepare(load(file))
        process_obj: BaseProcess = load(file)
    return process_obj


def load_setup(setup: bytes) -> None:
    """Become what all children of our owner are, before there is a task."""
    from _pickle import loads

    with inheriting():
        prepare(loads(setup))


def load_task(data: bytes) -> BaseProcess:
    """Return the process object of a task, in the place and under the name it says."""
    from _pickle import load

    file = io.BytesIO(data)
    with inheriting():
        process.current_process().name, where, with_main = load(file)
        _go_to(where)
        if with_main:
            main_module.load()
        process_obj: BaseProcess = load(file)
    return process_obj


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError("""
        An attempt has been made to start a new process before the
        current process has finished its bootstrapping phase.

        This probably means that you are not using fork to start your
        child processes and you have forgotten to use the proper idiom
        in the main module:

            if __name__ == '__main__':
                freeze_support()
                ...

        The "freeze_support()" line can be omitted if the program
        is not going to be frozen to produce an executable.

        To fix this issue, refer to the "Safe importing of main module"
        section in https://docs.python.org/3/library/multiprocessing.html
        """)


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a child needs to know before it can unpickle its process object."""
    from . import _alias

    _check_not_importing_main()
    data: dict[str, Any] = {
        "log_to_stderr": util._log_to_stderr,
        "authkey": process.current_process().authkey,
        "name": name,
        "sys_path": [process.ORIGINAL_DIR if p == "" else p for p in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "dir": os.getcwd(),  # noqa: PTH109
        "start_method": context._default_context.get_start_method(),
        "alias": _alias.is_installed(),
    }
    if util._logger is not None:
        data["log_level"] = util._logger.getEffectiveLevel()
    data.update(main_module.describe())
    return data


def dump_setup(popen: Popen, changed_environment: dict[bytes, bytes | None]) -> bytes:
    """Pickle the part of the preparation data that the next child needs as well.

    It seldom changes, and neither does its pickle then.
    """
    global _last_setup  # noqa: PLW0603
    data = get_preparation_data("")
    del data["name"], data["dir"]
    data["environ"] = changed_environment
    if _wanted_modules:
        data["modules"] = sorted(_wanted_modules)
    if data != _last_setup[0]:
        file = io.BytesIO()
        reduction = context.reduction
        context.set_spawning_popen(popen)
        try:
            reduction.dump(data, file)
        finally:
            context.set_spawning_popen(None)
        # Copies: the lists are the program's.
        kept = {
            **data,
            "sys_path": data["sys_path"][:],
            "sys_argv": data["sys_argv"][:],
        }
        _last_setup = kept, file.getvalue()
    return _last_setup[1]


_last_setup: tuple[dict[str, Any], bytes] = {}, b""
_wanted_modules: set[str] = set()


def want_module(name: str) -> None:
    """Have the children of the fork server find one of our modules imported.

    The zygote imports it once for all that it makes from the next start on.
    """
    _wanted_modules.add(name)


def dump_task(popen: Popen, process_obj: BaseProcess) -> io.BytesIO:
    """Pickle what only this child needs: its name, where it is, its process object."""
    file = io.BytesIO()
    pickle = context.reduction.pickle
    where = os.getcwd()  # noqa: PTH109
    with_main = context.imports_main("forkserver")
    pickle.dump((process_obj._name, where, with_main), file)
    context.set_spawning_popen(popen)
    try:
        context.reduction.dump(process_obj, file)
    finally:
        context.set_spawning_popen(None)
    return file


def prepare(data: dict[str, Any]) -> None:
    """Make this process what the preparation data says."""
    if data.get("alias"):
        from . import _alias

        _alias.install()
    _prepare_identity(data)
    _prepare_logging(data)
    _prepare_interpreter(data)
    if "start_method" in data:
        context._default_context.set_start_method(data["start_method"], force=True)
    for name in data.get("modules", ()):
        __import__(name)
    main_module.stand_in(data)
    if data.get("import_main"):
        main_module.load()


def _prepare_identity(data: dict[str, Any]) -> None:
    if "name" in data:
        process.current_process().name = data["name"]
    if "authkey" in data:
        process.current_process().authkey = data["authkey"]


def _prepare_logging(data: dict[str, Any]) -> None:
    if data.get("log_to_stderr") and not util._log_to_stderr:
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])


def _prepare_interpreter(data: dict[str, Any]) -> None:
    if "environ" in data:
        _prepare_environment(data["environ"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        _go_to(data["dir"])
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]


def _go_to(where: str) -> None:
    """Change the directory, unless we are there: we might not be let in again."""
    if process._original_dir() != where:
        os.chdir(where)


_own_environment: dict[bytes, bytes | None] = {}


def _prepare_environment(changed: dict[bytes, bytes | None]) -> None:
    """Change the variables that are not what they were when our zygote started.

    What an earlier setup has changed is undone first.
    """
    _set_variables(_own_environment)
    _own_environment.clear()
    _own_environment.update((name, os.environb.get(name)) for name in changed)
    _set_variables(changed)


def _set_variables(values: dict[bytes, bytes | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = value
    if b"TZ" in values:
        import time

        time.tzset()


def import_main_path(main_path: str) -> None:
    """Make the script at a path the ``__main__`` of this process."""
    main_module.stand_in({"init_main_from_path": main_path})
    main_module.load()
