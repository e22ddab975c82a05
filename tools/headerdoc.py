#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Turn the comments of sidestep.h into docs/reference/c/functions.rst.

A comment `---- Title ---- text` opens a section; any other comment belongs to the
declarations that follow it directly. The header is the manual: nothing is added here.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine

HEADER = "core/include/sidestep/sidestep.h"
SECTION = re.compile(r"^---- (?P<title>.+?) -{4,}\s*(?P<text>.*)$", re.DOTALL)
TOKEN = re.compile(
    r"/\*(?P<comment>.*?)\*/(?P<gap>[ \t]*\n?)|(?P<code>[^/]+|/)", re.DOTALL
)
TRAILING = re.compile(r"[ \t]*/\*[^\n]*?\*/[ \t]*(?=\n|$)")
STATUS = re.compile(r'X\((\w+), (-\d+), (\w+), "(\w+)", "([^"]+)"\)')


@dataclass
class Entry:
    """Declarations under one comment."""

    text: str
    declarations: list[str] = field(default_factory=list)


@dataclass
class Section:
    """A titled part of the header."""

    title: str
    text: str
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Manual:
    """The header, taken apart."""

    preamble: str
    statuses: list[tuple[str, ...]]
    sections: list[Section]


def comment_text(raw: str) -> str:
    """The words of a comment without its stars."""
    lines = [
        re.sub(r"^\s*\* ?", "", line).rstrip() for line in raw.strip("\n").splitlines()
    ]
    return "\n".join(lines).strip()


def split_declarations(code: str) -> list[str]:
    """The declarations in a stretch of code that ends outside any braces."""
    found, begin, depth = [], 0, 0
    for index, letter in enumerate(code):
        depth += (letter == "{") - (letter == "}")
        if letter == ";" and depth == 0 and index >= begin:
            end = TRAILING.match(code, index + 1)
            found.append(code[begin : end.end() if end else index + 1])
            begin = end.end() if end else index + 1
    return [re.sub(r"^\s*\n", "", item).strip() for item in found if item.strip()]


def chunks(source: str) -> list[tuple[str, str]]:
    """Pairs of a top-level comment and the code after it, comments inside code kept."""
    pairs = [("", "")]
    depth = 0
    for match in TOKEN.finditer(source):
        comment = match.group("comment")
        if comment is None:
            depth += match.group("code").count("{") - match.group("code").count("}")
            pairs[-1] = pairs[-1][0], pairs[-1][1] + match.group("code")
            continue
        begins_line = not pairs[-1][1].rpartition("\n")[2].strip()
        if depth == 0 and begins_line:
            pairs.append((comment_text(comment), ""))
        else:
            pairs[-1] = pairs[-1][0], pairs[-1][1] + match.group()
    return pairs


def parse(source: str) -> Manual:
    """Take the header apart."""
    statuses = STATUS.findall(source)
    source = re.sub(
        r"^#\s*define(?:[^\n]*\\\n)*[^\n]*\n", "", source, flags=re.MULTILINE
    )
    source = re.sub(r'^extern "C" \{\n|^#[^\n]*\n', "", source, flags=re.MULTILINE)
    source = re.sub(r"^\}\s*$", "", source, flags=re.MULTILINE)
    manual = Manual("", statuses, [])
    for text, code in chunks(source):
        title = SECTION.match(text)
        if title:
            manual.sections.append(
                Section(title["title"].strip(" -"), title["text"].strip())
            )
        elif text.startswith("sidestep:"):
            manual.preamble = text
        if manual.sections:
            shown = "" if title else text
            entry = Entry(shown, split_declarations(code))
            if entry.text or entry.declarations:
                manual.sections[-1].entries.append(entry)
    return manual


def escape(text: str) -> str:
    """Plain words as ReST; `code` becomes a literal."""
    parts = re.split(r"`([^`\n]+)`", text)
    for index in range(0, len(parts), 2):
        words = re.split(r"(?<!\w)(\*\w+\*)(?!\w)", parts[index])
        words[::2] = [re.sub(r"([\\*|])", r"\\\1", word) for word in words[::2]]
        parts[index] = "".join(words)
        parts[index] = re.sub(r"(\w)_(?=\W|$)", r"\1\\_", parts[index])
    return "".join(
        f"``{part}``" if index % 2 else part for index, part in enumerate(parts)
    )


def prose(text: str, indent: str = "") -> list[str]:
    """Paragraphs; those with an indented line are kept as they stand."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.strip():
            continue
        if re.search(r"^ +\S", paragraph, re.MULTILINE):
            lines += [indent + ".. code-block:: text", ""]
            lines += [
                (indent + "   " + line).rstrip() for line in paragraph.splitlines()
            ]
        else:
            lines += [indent + line for line in escape(paragraph).splitlines()]
        lines.append("")
    return lines


def is_function(declaration: str) -> bool:
    return "SST_API" in declaration


def signature(declaration: str) -> str:
    """A function's prototype in one line, without our macros."""
    declaration = declaration[: declaration.rindex(";")]
    plain = re.sub(r"/\*.*?\*/", "", declaration, flags=re.DOTALL)
    plain = re.sub(r"\b(SST_API|SST_MUST_CHECK|SST_NORETURN)\b", "", plain)
    return re.sub(r"\s+", " ", plain).strip(" ;")


def remark(declaration: str) -> str:
    """What the comment behind a declaration says of it."""
    name = re.search(r"\b(sst_\w+)\s*\(", declaration)
    words = re.search(r";\s*/\*(.*?)\*/\s*$", declaration, re.DOTALL)
    return f"`{name.group(1)}`: {words.group(1).strip()}" if name and words else ""


def render_type(declaration: str, functions: set[str]) -> list[str]:
    """A struct, an enum or a typedef: a target to link to, and its text."""
    tag = re.match(r"(struct|enum) (\w+)", declaration)
    text = ["   " + line if line else "" for line in declaration.splitlines()]
    if tag and re.fullmatch(r"struct \w+;", declaration):
        return [f".. c:struct:: {tag.group(2)}", "", "   Opaque.", ""]
    if tag and tag.group(2) not in functions:  # C keeps the two apart, Sphinx does not
        head = [f".. c:{tag.group(1)}:: {tag.group(2)}", "", "   .. code-block:: c", ""]
        return [*head, *["   " + line if line else "" for line in text], ""]
    name = re.match(r"typedef [^(]*\(\*(\w+)\)", declaration)
    head = [f".. c:type:: {name.group(1)}", ""] if name else []
    indent = "   " if name else ""
    code = [indent + line if line else "" for line in text]
    return [*head, indent + ".. code-block:: c", "", *code, ""]


def render_entry(entry: Entry, names: set[str]) -> list[str]:
    declared = [item for item in entry.declarations if is_function(item)]
    functions = [signature(item) for item in declared]
    remarks = [text for text in map(remark, declared) if text]
    others = [item for item in entry.declarations if not is_function(item)]
    lines: list[str] = []
    if others and not functions:
        lines += prose(entry.text)
    for item in others:
        lines += render_type(item, names)
    if functions:
        lines.append(".. c:function:: " + functions[0])
        lines += ["                " + item for item in functions[1:]]
        lines.append("")
        lines += prose(entry.text, "   ")
        for text in remarks:
            lines += prose(text, "   ")
    elif not others:
        lines += prose(entry.text)
    return lines


def render(manual: Manual) -> str:
    """The whole page."""
    entries = [entry for section in manual.sections for entry in section.entries]
    declared = "".join(text for entry in entries for text in entry.declarations)
    names = set(re.findall(r"\b(sst_\w+)\(", declared))
    lines = [
        ".. Made from sidestep.h by tools/headerdoc.py; change the header instead.",
        "",
        "Functions",
        "=========",
        "",
        *prose(manual.preamble),
    ]
    for section in manual.sections:
        lines += [section.title, "-" * len(section.title), "", *prose(section.text)]
        if section.title == "Statuses":
            lines += [".. list-table::", "   :header-rows: 1", ""]
            lines += ["   * - Status", "     - Value", "     - Category", "     - Python",
                      "     - Text"]  # fmt: skip
            for name, *cells in manual.statuses:
                lines += [
                    f"   * - ``SST_{name}``",
                    *(f"     - {cell}" for cell in cells),
                ]
            lines.append("")
        for entry in section.entries:
            lines += render_entry(entry, names)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    print(render(parse((machine.ROOT / HEADER).read_text())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
