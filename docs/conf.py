# SPDX-License-Identifier: MIT
"""Settings of the documentation; built with -n -W, so every warning is an error."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import tomllib  # noqa: E402

import headerdoc  # noqa: E402

project = "sidestep"
author = "The sidestep authors"
copyright = "2026, " + author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
version = release

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "python3"
html_theme = "alabaster"
html_theme_options = {
    "description": "multiprocessing with an engine in C",
    "fixed_sidebar": True,
    "page_width": "64em",
}
html_static_path: list[str] = []
autodoc_typehints = "description"
autodoc_member_order = "bysource"

# Names of the standard library and of typing that annotations mention; there is no
# network in which to look up their pages.
nitpick_ignore_regex = [
    ("c:identifier", r"u?int\d+_t|size_t|bool"),
    (
        "py:.*",
        r"(typing|collections|ctypes|types|queue|socket|logging|threading|array)\..*",
    ),
    ("py:mod", r"subprocess|random"),
    ("py:.*", r"(multiprocessing|concurrent|asyncio|os|io|pickle|_?_future__|sys)\..*"),
    (
        "py:class",
        r"(BaseContext|sidestep\.process\.AuthenticationString|_\w+|sidestep\._\w+\._\w+|PoolOptions|AllowList|Future|Path|Say|Callback|Progress|Sized|Any|Callable|Iterable|Iterator|Sequence|Mapping|Self|_T|_.*\._T\w*)",
    ),
    ("py:class", r"(sidestep\._manager_channels\.)?ThreadLink"),
    ("py:class", r"(optional|function|callable|context manager|bytes-like object)"),
]


def write_reference_c(app: object) -> None:
    """The C reference is made from the header's comments at each build."""
    header = ROOT / headerdoc.HEADER
    target = Path(__file__).parent / "reference" / "c" / "functions.rst"
    text = headerdoc.render(headerdoc.parse(header.read_text()))
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def write_changelog(app: object) -> None:
    """CHANGELOG.md as a page; it uses titles, lists and single backticks only."""
    lines = []
    for line in (ROOT / "CHANGELOG.md").read_text().splitlines():
        marks, _, title = line.partition(" ")
        if marks in {"#", "##"}:
            lines += [title, ("=" if marks == "#" else "-") * len(title)]
        else:
            lines.append(line.replace("`", "``"))
    target = Path(__file__).parent / "changelog.rst"
    text = "\n".join(lines) + "\n"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def setup(app: object) -> None:
    for write in (write_reference_c, write_changelog):
        app.connect("builder-inited", write)  # type: ignore[attr-defined]
