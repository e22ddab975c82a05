# SPDX-License-Identifier: MIT
"""What the two commands share: finding Pythons, what they need, and making environments.

This file is read by whatever `python3` is there, so its syntax stays at Python 3.7.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
DEBIAN_PACKAGES = ("gcc", "libc6-dev", "libssl-dev", "python3-dev", "python3-venv")
# Without it everything works but connections over networks.
OPENSSL_HEADER = Path("/usr/include/openssl/ssl.h")

IGNORED = {"build", "__pycache__", ".venv", "_build", ".hypothesis"}

# Asked of an interpreter: its version, whether it can be built for, whether venv works,
# and where it is.
PROBE = """
import importlib.util, os, sys, sysconfig
print("%d.%d" % sys.version_info[:2])
print(int(os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))
print(int(importlib.util.find_spec("ensurepip") is not None))
print(sys.executable)
"""


class Python:
    """An interpreter and what it has."""

    def __init__(self, path: str) -> None:
        answer = subprocess.run([path, "-c", PROBE], capture_output=True, check=False)
        words = answer.stdout.decode().splitlines()
        self.works = answer.returncode == 0 and len(words) == 4
        self.path = words[3] if self.works else path  # not the shim in front of it
        self.version = words[0] if self.works else ""
        self.has_headers = self.works and words[1] == "1"
        self.has_venv = self.works and words[2] == "1"

    @property
    def is_new_enough(self) -> bool:
        return self.works and tuple(map(int, self.version.split("."))) >= OLDEST

    @property
    def is_complete(self) -> bool:
        return self.has_headers and self.has_venv


def candidates() -> list[str]:
    """Paths of interpreters to try, the running one first."""
    paths = [sys.executable]
    for version in VERSIONS:
        found = shutil.which("python" + version)
        if found:
            paths.append(found)
        pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")))
        installed = sorted((pyenv / "versions").glob(version + ".*/bin/python3"))
        paths += [str(path) for path in reversed(installed)]
    return paths


def find_pythons() -> list[Python]:
    """One working interpreter of each version from 3.11 on, the running one's first."""
    found: dict[str, Python] = {}
    for path in candidates():
        python = Python(path)
        if python.is_new_enough and python.version not in found:
            found[python.version] = python
    return list(found.values())


def find_compiler() -> str | None:
    named = os.environ.get("CC", "").split()
    for name in [*named[:1], "cc", "gcc", "clang"]:
        path = shutil.which(name)
        if path:
            return path
    return None


def missing_on(python: Python | None) -> list[str]:
    """What this machine lacks to build sidestep, in words."""
    missing = []
    if not sys.platform.startswith("linux"):
        missing.append("Linux")
    if find_compiler() is None:
        missing.append("a C compiler")
    if python is None:
        missing.append("Python 3.11 or newer")
        return missing
    if not python.has_headers:
        missing.append("the C headers of " + python.path)
    if not python.has_venv:
        missing.append("the venv module of " + python.path)
    return missing


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def require_python() -> Python:
    """The interpreter to use; installs Debian's packages as root, or says what to install."""
    missing: list[str] = []
    for attempt in range(2):
        pythons = find_pythons()
        complete = [python for python in pythons if python.is_complete]
        python = next(iter(complete + pythons), None)
        missing = missing_on(python)
        if attempt == 0 and can_install() and not OPENSSL_HEADER.exists():
            missing.append("the C headers of OpenSSL")
        if not missing and python is not None:
            return python
        if attempt == 0 and can_install():
            print("installing what is missing:", ", ".join(missing), flush=True)
            subprocess.run(["apt-get", "update", "-q"], check=False)
            subprocess.run(
                ["apt-get", "install", "-y", "-q", *DEBIAN_PACKAGES], check=False
            )
        else:
            break
    raise SystemExit(
        "sidestep needs "
        + ", ".join(missing)
        + ". On Debian and Ubuntu: sudo apt-get install "
        + " ".join(DEBIAN_PACKAGES)
    )


def has_pip(path: Path) -> bool:
    """Whether the interpreter is there and has pip, the last that an environment gets."""
    command = [str(path), "-c", "import pip"]
    return (
        path.exists()
        and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    )


def make_venv(folder: Path, python: Python) -> Path:
    """The interpreter of the virtual environment in `folder`, made when it is not there,
    and made anew when whoever made it was interrupted."""
    inner = folder / "bin" / "python3"
    if not has_pip(inner):
        shutil.rmtree(str(folder), ignore_errors=True)
        subprocess.run([python.path, "-m", "venv", str(folder)], check=True)
    return inner


def tree_files(root: Path = ROOT) -> list[str]:
    """The files of the checkout: git's and new ones; in a copy without git, all there are."""
    if (root / ".git").exists():
        command = [
            "git",
            "-C",
            str(root),
            "ls-files",
            "-co",
            "--exclude-standard",
            "-z",
        ]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        names = output.decode().split("\0")
    else:
        names = [
            str(path.relative_to(root))
            for path in root.rglob("*")
            if not IGNORED & set(path.relative_to(root).parts)
        ]
    return sorted(name for name in names if name and (root / name).is_file())


def copy_tree(target: Path, root: Path = ROOT) -> None:
    """Copy what a clean clone would have, as it stands now."""
    shutil.rmtree(str(target), ignore_errors=True)
    for name in tree_files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(root / name), str(target / name))


def build_inputs_hash(root: Path = ROOT) -> str:
    """Changes whenever an installed sidestep is out of date."""
    digest = hashlib.sha256()
    paths = [root / name for name in ("meson.build", "meson.options", "pyproject.toml")]
    for folder in ("core", "binding", "python"):
        paths += sorted(path for path in (root / folder).rglob("*") if path.is_file())
    for path in paths:
        if "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
