# SPDX-License-Identifier: MIT
"""The tree keeps the rules of tools/tidy.py, and each rule finds what breaks it."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import tidy  # noqa: E402

COPIED = ("core", "binding", "python", "tests/c", "tools", "docs", "examples")
SINGLE = ("meson.build", "meson.options", "pyproject.toml", "CHANGELOG.md", "README.md")


@pytest.mark.parametrize("name", tidy.CHECKS)
def test_the_tree_is_tidy(name):
    findings = tidy.findings_of(name, tidy.Tree(ROOT))
    assert not findings, "\n".join(map(str, findings[:20]))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A copy of the tree without its repository."""
    target = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "_build", "build")
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in SINGLE:
        shutil.copy(ROOT / name, target / name)
    return target


# check -> (file, text appended to it; a file that is not there is made with it)
BREACHES = {
    "layers": ("core/src/base/alloc.c", '#include "shm/leaf.h"\n'),
    "binding_uses_the_public_header": ("binding/errors.c", '#include "shm/leaf.h"\n'),
    "core_is_free_of_python": ("core/src/base/alloc.c", "#include <Python.h>\n"),
    "sources_are_listed": ("core/src/base/newcomer.c", "\n"),
    "exported_symbols": (
        "core/include/sidestep/sidestep.h",
        "SST_API int sst_new_function(void);\n",
    ),
    "banned_calls": ("core/src/shm/leaf.c", "static void f(char *a) { gets(a); }\n"),
    "libc_locks": ("core/src/shm/leaf.c", "void g(void) { pthread_mutex_lock(0); }\n"),
    "borrowed_references": (
        "binding/errors.c",
        "void h(void) { PyList_GetItem(0, 0); }\n",
    ),
    "raw_atomics": ("core/src/shm/leaf.c", "void i(int *p) { atomic_load(p); }\n"),
    "file_sizes": ("tools/long.py", "\n" * 801),
    "function_sizes": (
        "binding/errors.c",
        "int\nj(void)\n{\n" + "    k();\n" * 71 + "}\n",
    ),
    "no_conditionals_in_bodies": (
        "binding/errors.c",
        "int\nl(void)\n{\n#if A\n#endif\n}\n",
    ),
    "line_lengths": ("binding/errors.c", "/* " + "x" * 90 + " */\n"),
    "license_lines": ("tools/bare.py", "print()\n"),
    "leftovers": ("tools/left.py", "# FIX" + "ME later\n"),
    "death_tables": (
        "core/src/shm/bare.c",
        "/* SPDX-License-Identifier: MIT */\nvoid m(void *p) { ssti_store_rel(p, 1); }\n",
    ),
    "one_version": ("meson.build", None),
    "code_blocks_come_from_examples": (
        "docs/index.rst",
        "\n.. code-block:: python\n\n   a\n   b\n   c\n   d\n",
    ),
}


def test_each_check_has_a_breach():
    assert set(BREACHES) == set(tidy.CHECKS)


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_found(name, pristine):
    where, text = BREACHES[name]
    path = pristine / where
    before = path.read_text() if path.exists() else None
    known = set(tidy.findings_of(name, tidy.Tree(pristine)))
    try:
        if text is None:
            path.write_text((before or "").replace("version: '0", "version: '9"))
        else:
            path.write_text((before or "") + text)
        assert set(tidy.findings_of(name, tidy.Tree(pristine))) - known
    finally:
        path.unlink() if before is None else path.write_text(before)
