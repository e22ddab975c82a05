# SPDX-License-Identifier: MIT
"""What a child that was not forked needs to become like its parent.

The parent writes two pickles down the tether: the preparation data (a dictionary),
then the process object. The child's command line says where the tether is, and which
place in the arena was reserved for it::

    python [options] -c "from sidestep.spawn import spawn_main; spawn_main(...)" \
        --multiprocessing-fork
"""

from __future__ import annotations

import io
import os
import sys
import types

from . import _core, context, process, util

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
    process.current_process()._inheriting = True  # type: ignore[attr-defined]
    try:
        pickle = context.reduction.pickle
        prepare(pickle.load(file))
        process_obj: BaseProcess = pickle.load(file)
    finally:
        del process.current_process()._inheriting  # type: ignore[attr-defined]
    return process_obj


def _run_job(data: bytes) -> int:
    """Run a job that is there already."""
    process_obj = _load_job(io.BytesIO(data))
    _core.process_settle()
    return process_obj._bootstrap()


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
    data.update(_main_module_data())
    return data


def _main_module_data() -> dict[str, str]:
    """Say how a child gets the names of ``__main__``: by module name, path, or not."""
    main_module = sys.modules["__main__"]
    name = getattr(main_module.__spec__, "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(main_module, "__file__", None)
    if path is None or path == "<stdin>":
        return {}
    if process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)  # noqa: PTH118
    return {"init_main_from_path": os.path.normpath(path)}


old_main_modules: list[types.ModuleType] = []


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
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"])


def _prepare_identity(data: dict[str, Any]) -> None:
    if "name" in data:
        process.current_process().name = data["name"]
    if "authkey" in data:
        process.current_process().authkey = data["authkey"]


def _prepare_logging(data: dict[str, Any]) -> None:
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])


def _prepare_interpreter(data: dict[str, Any]) -> None:
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]


def _become_main(content: dict[str, Any]) -> None:
    """Make what a main module has defined the ``__main__`` that pickles mean."""
    main_module = types.ModuleType("__mp_main__")
    main_module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main_module


def _fixup_main_from_name(mod_name: str) -> None:
    """Run the module that is the parent's ``__main__``, as ``__mp_main__``."""
    current = sys.modules["__main__"]
    # __main__.py of packages, folders and archives is all "main only" code.
    if mod_name == "__main__" or mod_name.endswith(".__main__"):
        return
    # A child of the fork server may have it already.
    if getattr(current.__spec__, "name", None) == mod_name:
        return
    old_main_modules.append(current)
    import runpy

    _become_main(runpy.run_module(mod_name, run_name="__mp_main__", alter_sys=True))


def _fixup_main_from_path(main_path: str) -> None:
    """Run the script that is the parent's ``__main__``, as ``__mp_main__``."""
    current = sys.modules["__main__"]
    # IPython's launcher had no "if __name__ == '__main__'" for long.
    if os.path.splitext(os.path.basename(main_path))[0] == "ipython":  # noqa: PTH119, PTH122
        return
    if getattr(current, "__file__", None) == main_path:
        return
    old_main_modules.append(current)
    _become_main(_run_path(main_path))


def _run_path(main_path: str) -> dict[str, Any]:
    """Do what ``runpy.run_path`` does; a plain script needs no runpy, which is slow."""
    if not (main_path.endswith(".py") and os.path.isfile(main_path)):  # noqa: PTH113
        import runpy

        return runpy.run_path(main_path, run_name="__mp_main__")
    with io.open_code(main_path) as source:
        code = compile(source.read(), main_path, "exec")
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(__file__=main_path, __cached__=None, __package__="")
    argv0, sys.argv[0] = sys.argv[0], main_path
    sys.modules["__mp_main__"] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - it is the program
    finally:
        sys.argv[0] = argv0
    return module.__dict__


def import_main_path(main_path: str) -> None:
    """Make the script at a path the ``__main__`` of this process."""
    _fixup_main_from_path(main_path)
