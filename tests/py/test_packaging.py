# SPDX-License-Identifier: MIT
"""What is in the wheel: the package as it stands in the tree, the extension, no more."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "sidestep"


#: All of the C code is compiled, perhaps beside other work.
pytestmark = pytest.mark.timeout(330)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("mesonpy")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "--wheel-dir", folder, ROOT]  # fmt: skip
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("sidestep-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT / "python"))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    left = names - wanted
    assert wanted <= names, wanted - names
    # _tls is there where OpenSSL's headers are.
    extensions = [
        name for name in left if re.fullmatch(r"sidestep/_(core|tls)\..*\.so", name)
    ]
    assert any("_core" in name for name in extensions)
    assert len(extensions) <= 2
    assert all(".dist-info/" in name for name in left - set(extensions)), left


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License: MIT" in metadata or "License-Expression: MIT" in metadata


def test_the_versions_agree():
    import sidestep

    assert sidestep.__version__ == importlib.metadata.version("sidestep")
