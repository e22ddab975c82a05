#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Rules of STYLE that no compiler and no linter checks. Run as a test, too.

Each check reads the tree and yields findings; `python3 tools/tidy.py` prints them and ends
with `N passed, N failed`, counting checks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import headerdoc
import machine
import symbols

FILE_LINES = 800
FUNCTION_LINES = 70
COLUMNS = 88
CODE_BLOCK_LINES = 3

# (check, file, what): why it may stand there. An entry that no longer matches is a finding.
OPT_OUTS: dict[tuple[str, str, str], str] = {
    ("borrowed_references", "binding/args.c", "PyDict_Next"): (
        "the dictionary was made for this call, nobody else can reach it"
    ),
    ("borrowed_references", "binding/nest_encode.c", "PyDict_Next"): (
        "nothing of Python runs while it encodes"
    ),
    ("borrowed_references", "binding/plain.c", "PyDict_Next"): (
        "nothing of Python runs while it looks"
    ),
    ("borrowed_references", "binding/share_build.c", "PyDict_Next"): (
        "it takes references of its own at once"
    ),
    ("file_sizes", "core/include/sidestep/sidestep.h", "lines"): (
        "the one public header is the whole manual"
    ),
    ("raw_atomics", "binding/block_atomic.c", "__atomic_"): (
        "numbers of the user's widths in the user's memory, no state of the engine"
    ),
    ("raw_atomics", "binding/copy.c", "__atomic_"): (
        "a counter between a copy and its helper, in this process alone"
    ),
}
SHOWN = 10  # findings of a check that are printed

BANNED_EVERYWHERE = (
    "sprintf", "vsprintf", "strcpy", "strcat", "gets", "alloca", "system", "signal",
    "usleep", "sleep", "strtok", "tmpnam", "mktemp", "setjmp", "longjmp",
)  # fmt: skip
BANNED_IN_CORE = (
    "atoi",
    "atol",
    "malloc",
    "calloc",
    "realloc",
    "free",
    "printf",
    "puts",
)
LIBC_LOCKS = re.compile(
    r"\b(pthread_(?:mutex|cond|rwlock|spin|barrier)_\w+|sem_\w+)\s*\("
)
# They return references nobody owns, which another thread may take away.
BORROWED = (
    "PyList_GetItem", "PyDict_GetItem", "PyDict_GetItemWithError", "PyDict_GetItemString",
    "PyDict_Next", "PyDict_SetDefault", "PySequence_Fast", "PyImport_AddModule",
    "PyWeakref_GetObject", "PyModule_AddObject",
)  # fmt: skip
RAW_ATOMICS = re.compile(
    r"\batomic_(?:load|store|exchange|compare_exchange|fetch|thread_fence|signal_fence|init)"
    r"\w*\s*\(|__atomic_\w+|__sync_\w+"
)
SHARED_WRITES = re.compile(r"\bssti_(store_r|cas|xchg|fetch_|copy_in)\w*\s*\(")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEXT_SUFFIXES = {
    ".c",
    ".h",
    ".py",
    ".pyi",
    ".build",
    ".options",
    ".map",
    ".rst",
    ".md",
    ".toml",
}
SPDX_SUFFIXES = {".c", ".h", ".py", ".pyi", ".build", ".options", ".map"}
C_DEFINITION = re.compile(r"^(?P<name>\w+)\(")


@dataclass(frozen=True)
class Finding:
    """What is wrong, and where."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class Tree:
    """The files of the project, read once."""

    def __init__(self, root: Path = machine.ROOT) -> None:
        self.root = root
        self.names = machine.tree_files(root)
        self._texts: dict[str, str] = {}

    def text(self, name: str) -> str:
        if name not in self._texts:
            self._texts[name] = (self.root / name).read_text(encoding="utf-8")
        return self._texts[name]

    def lines(self, name: str) -> list[str]:
        return self.text(name).splitlines()

    def under(self, folder: str, *suffixes: str) -> list[str]:
        return [
            name
            for name in self.names
            if name.startswith(folder) and (not suffixes or name.endswith(suffixes))
        ]

    def code(self, name: str) -> list[str]:
        """The lines of a C file with comments and strings blanked."""
        return blank_comments(self.text(name)).splitlines()


def blank_comments(text: str) -> str:
    pattern = re.compile(
        r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
    )

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    return pattern.sub(blank, text)


Check = Callable[[Tree], Iterator[Finding]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def scan(
    tree: Tree, names: list[str], pattern: re.Pattern[str], why: str
) -> Iterator[Finding]:
    """Findings for each match of a pattern in the code of C files."""
    for name in names:
        for number, line in enumerate(tree.code(name), 1):
            match = pattern.search(line)
            if match:
                yield Finding(name, number, f"{match.group().rstrip('( ')}: {why}")


# -- Structure --------------------------------------------------------------------------


@check
def layers(tree: Tree) -> Iterator[Finding]:
    """A directory of the core includes only from itself and the ones before it."""
    order = re.findall(
        r"^subdir\('(\w+)'\)", tree.text("core/src/meson.build"), re.MULTILINE
    )
    for name in tree.under("core/src/", ".c", ".h"):
        own = name.split("/")[2]
        height = (
            order.index(own) if own in order else len(order)
        )  # src itself is on top
        for number, line in enumerate(tree.lines(name), 1):
            match = re.match(r'#\s*include\s+"(\w+)/', line)
            if not match or match.group(1) == "sidestep":
                continue
            other = match.group(1)
            if other not in order or order.index(other) > height:
                yield Finding(name, number, f"{own} must not include from {other}")


@check
def binding_uses_the_public_header(tree: Tree) -> Iterator[Finding]:
    """The binding knows nothing of core/src."""
    for name in tree.under("binding/", ".c", ".h"):
        for number, line in enumerate(tree.lines(name), 1):
            match = re.match(r'#\s*include\s+"([^"]+)"', line)
            if (
                match
                and "/" in match.group(1)
                and match.group(1) != "sidestep/sidestep.h"
            ):
                yield Finding(
                    name, number, f"includes {match.group(1)} of the core's inside"
                )


@check
def core_is_free_of_python(tree: Tree) -> Iterator[Finding]:
    for name in tree.under("core/", ".c", ".h"):
        for number, line in enumerate(tree.lines(name), 1):
            if re.match(r"#\s*include\s+[<\"]Python\.h", line):
                yield Finding(name, number, "the core must not know Python")


@check
def sources_are_listed(tree: Tree) -> Iterator[Finding]:
    """Every source is named in the meson.build of its folder."""
    for name in [*tree.under("core/src/", ".c"), *tree.under("binding/", ".c")]:
        path = Path(name)
        build = str(path.parent / "meson.build")
        if build not in tree.names or f"'{path.name}'" not in tree.text(build):
            yield Finding(name, 1, f"is not listed in {build}")
    for name in tree.under("tests/c/test_", ".c"):
        word = Path(name).stem.removeprefix("test_")
        if f"'{word}'" not in tree.text("tests/c/meson.build"):
            yield Finding(name, 1, "is not listed in tests/c/meson.build")
    listed = tree.text("python/meson.build")
    for name in tree.under("python/sidestep/"):
        if f"'{name.removeprefix('python/')}'" not in listed:
            yield Finding(name, 1, "is not listed in python/meson.build")


@check
def exported_symbols(tree: Tree) -> Iterator[Finding]:
    """The version script names the header's functions, and each has a definition."""
    header = symbols.header_functions(tree.text(symbols.HEADER))
    mapped = symbols.mapped_functions(tree.text(symbols.MAP))
    for name in sorted(header ^ mapped):
        where = "header" if name in header else "version script"
        yield Finding(
            symbols.MAP, 1, f"{name} is in the {where} only: tools/symbols.py --write"
        )
    defined = set()
    for source in tree.under("core/src/", ".c"):
        defined |= set(re.findall(r"^(sst_\w+)\(", tree.text(source), re.MULTILINE))
    for name in sorted(header - defined):
        yield Finding(symbols.HEADER, 1, f"{name} is declared and not defined")
    page = headerdoc.render(headerdoc.parse(tree.text(symbols.HEADER)))
    for name in sorted(header - set(re.findall(r"\b(sst_\w+)\(", page))):
        yield Finding(
            symbols.HEADER, 1, f"{name} is not on the page of the C reference"
        )


# -- Calls ------------------------------------------------------------------------------


def calls(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(?<![\w.>])(?:" + "|".join(names) + r")\s*\(")


@check
def banned_calls(tree: Tree) -> Iterator[Finding]:
    everywhere = tree.under("core/", ".c", ".h") + tree.under("binding/", ".c", ".h")
    yield from scan(tree, everywhere, calls(BANNED_EVERYWHERE), "is banned")
    core = [name for name in tree.under("core/src/", ".c") if "/base/" not in name]
    yield from scan(
        tree, core, calls(BANNED_IN_CORE), "use base/alloc.h, or the caller's memory"
    )


@check
def libc_locks(tree: Tree) -> Iterator[Finding]:
    """Locks of libc do not survive a death; process-local ones stand in os/."""
    names = [
        name
        for name in tree.under("core/src/", ".c", ".h")
        if name.split("/")[2] not in {"base", "os"}
    ]
    yield from scan(tree, names, LIBC_LOCKS, "libc's locks stay in os/")


@check
def borrowed_references(tree: Tree) -> Iterator[Finding]:
    names = tree.under("binding/", ".c", ".h")
    yield from scan(tree, names, calls(BORROWED), "returns a borrowed reference")


@check
def raw_atomics(tree: Tree) -> Iterator[Finding]:
    """Shared memory is touched through base/atomic.h, or the simulation cannot see it."""
    names = [
        name
        for name in tree.under("core/src/", ".c", ".h")
        + tree.under("binding/", ".c", ".h")
        if not name.startswith("core/src/base/")
    ]
    yield from scan(tree, names, RAW_ATOMICS, "use base/atomic.h")
    above = [name for name in names if not name.startswith("core/src/os/")]
    yield from scan(tree, above, re.compile(r"\bvolatile\b"), "use base/atomic.h")


# -- Size and form ----------------------------------------------------------------------


@check
def file_sizes(tree: Tree) -> Iterator[Finding]:
    for name in tree.names:
        if (
            Path(name).suffix in {".c", ".h", ".py"}
            and len(tree.lines(name)) > FILE_LINES
        ):
            yield Finding(name, FILE_LINES, f"has {len(tree.lines(name))} lines")


def c_functions(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of every function body that begins in column 0."""
    begin = 0
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            begin = number
        elif line.startswith("}") and begin:
            header = lines[max(0, begin - 8) : begin - 1]
            names = [
                match["name"] for text in header if (match := C_DEFINITION.match(text))
            ]
            yield (names[-1] if names else "?"), begin, number
            begin = 0


@check
def function_sizes(tree: Tree) -> Iterator[Finding]:
    for name in tree.under("", ".c"):
        for function, begin, end in c_functions(tree.code(name)):
            if end - begin - 1 > FUNCTION_LINES:
                yield Finding(name, begin, f"{function} has {end - begin - 1} lines")
    for name in tree.under("", ".py"):
        for node in ast.walk(ast.parse(tree.text(name))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno
                if size > FUNCTION_LINES:
                    yield Finding(name, node.lineno, f"{node.name} has {size} lines")


@check
def no_conditionals_in_bodies(tree: Tree) -> Iterator[Finding]:
    """What differs between systems and builds is a function or a file, not a branch."""
    for name in tree.under("", ".c"):
        lines = tree.code(name)
        for function, begin, end in c_functions(lines):
            for number in range(begin, end):
                if re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b", lines[number - 1]):
                    yield Finding(
                        name, number, f"preprocessor conditional in {function}"
                    )


@check
def line_lengths(tree: Tree) -> Iterator[Finding]:
    for name in tree.under("", ".c", ".h"):
        for number, line in enumerate(tree.lines(name), 1):
            if len(line) > COLUMNS:
                yield Finding(name, number, f"{len(line)} columns")


@check
def license_lines(tree: Tree) -> Iterator[Finding]:
    for name in tree.names:
        path = Path(name)
        if path.suffix in SPDX_SUFFIXES or name == "meson.options":
            top = "\n".join(tree.lines(name)[:3])
            if "SPDX-License-Identifier: MIT" not in top:
                yield Finding(name, 1, "has no SPDX line on top")


@check
def leftovers(tree: Tree) -> Iterator[Finding]:
    """Nothing unfinished is marked in the text, and no path of one machine stands in it."""
    for name in tree.names:
        if Path(name).suffix not in TEXT_SUFFIXES or name == "tools/tidy.py":
            continue
        for number, line in enumerate(tree.lines(name), 1):
            for pattern in (UNFINISHED, MACHINE_PATHS):
                match = pattern.search(line)
                if match:
                    yield Finding(name, number, f"leftover {match.group()!r}")


@check
def death_tables(tree: Tree) -> Iterator[Finding]:
    """A file that writes shared memory says on top what a death leaves, and who repairs it."""
    for name in tree.under("core/src/", ".c"):
        if name.split("/")[2] in {"base", "os"}:
            continue
        if not any(SHARED_WRITES.search(line) for line in tree.code(name)):
            continue
        essay = re.match(r"/\*[^*]*\*/\s*/\*(.*?)\*/", tree.text(name), re.DOTALL)
        if not essay or "death" not in essay.group(1).lower():
            yield Finding(
                name, 1, "writes shared memory and has no death table in its essay"
            )


@check
def code_blocks_come_from_examples(tree: Tree) -> Iterator[Finding]:
    """A block of code longer than three lines is quoted from a file that runs as a test."""
    for name in tree.under("docs/", ".rst"):
        if name == "docs/reference/c/functions.rst":
            continue
        blocks = re.finditer(
            r"^( *)\.\. code-block:: (\w+)\n((?:\1   .*\n|\s*\n)*)",
            tree.text(name) + "\n",
            re.MULTILINE,
        )
        for block in blocks:
            lines = [line for line in block.group(3).splitlines() if line.strip()]
            options = sum(line.strip().startswith(":") for line in lines)
            is_code = block.group(2) not in {"none", "text"}  # these are diagrams
            if is_code and len(lines) - options > CODE_BLOCK_LINES:
                line = tree.text(name)[: block.start()].count("\n") + 1
                yield Finding(name, line, f"a block of {len(lines)} lines of its own")


@check
def one_version(tree: Tree) -> Iterator[Finding]:
    """The version stands in several places and must be the same in all."""
    found = re.search(r"version: '([^']+)'", tree.text("meson.build"))
    version = found.group(1) if found else "?"
    words = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=False)
    wanted = [
        (symbols.HEADER, f"#define SST_VERSION_{word} {part}") for word, part in words
    ]
    wanted += [
        ("pyproject.toml", f'version = "{version}"'),
        ("CHANGELOG.md", f"## {version}"),
    ]
    for name, text in wanted:
        if name not in tree.names or text not in tree.text(name):
            yield Finding(name, 1, f"does not say {text!r}")


def findings_of(name: str, tree: Tree) -> list[Finding]:
    """What a check finds, less the opt-outs, plus opt-outs it did not need."""
    left = []
    unused = {key for key in OPT_OUTS if key[0] == name}
    for finding in CHECKS[name](tree):
        excused = {
            key
            for key in OPT_OUTS
            if key[:2] == (name, finding.path) and key[2] in finding.text
        }
        unused -= excused
        if not excused:
            left.append(finding)
    left += [Finding(key[1], 1, f"needs no opt-out for {key[2]}") for key in unused]
    return left


def main() -> int:
    tree = Tree()
    failed = 0
    for name in CHECKS:
        findings = findings_of(name, tree)
        failed += bool(findings)
        for finding in findings[:SHOWN]:
            print(f"{finding} [{name}]")
        if len(findings) > SHOWN:
            print(f"... {len(findings) - SHOWN} more [{name}]")
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
