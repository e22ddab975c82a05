#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run CPython's own multiprocessing tests on sidestep and judge what fails.

The harness that routes them is not part of this repository: SST_CPYTHON_SUITE names its
folder, else ../shared/cpython_suite beside the checkout is looked for. A failure is
excused when known.toml has it with a reason. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BAD = {"failed", "error", "timeout"}


@dataclass
class Known:
    """An entry of known.toml, and what became of its tests in this run."""

    tests: list[str]
    reason: str
    methods: list[str] = field(default_factory=list)
    but: list[str] = field(default_factory=list)
    passed: int = 0
    failed: int = 0

    def covers(self, method: str, name: str) -> bool:
        return (
            (not self.methods or method in self.methods)
            and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.tests)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.but)
        )


@dataclass
class Verdict:
    """What a run showed."""

    passed: int = 0
    excused: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def find_harness() -> Path | None:
    named = os.environ.get("SST_CPYTHON_SUITE")
    places = [Path(named)] if named else []
    places += [parent / "shared" / "cpython_suite" for parent in HERE.parents]
    return next((place for place in places if (place / "run_suite.py").exists()), None)


def load_known(path: Path) -> list[Known]:
    entries = tomllib.loads(path.read_text())["known"]
    return [
        Known(
            entry["tests"],
            entry["reason"],
            entry.get("methods", []),
            entry.get("except", []),
        )
        for entry in entries
    ]


def gist(detail: Any) -> str:
    """The last line of a traceback that says something."""
    lines = [line.strip() for line in str(detail or "").splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def judge_class(record: dict[str, Any], known: list[Known], verdict: Verdict) -> None:
    method = record["start_method"]
    excused_here = False
    for test, result in record["tests"].items():
        name = f"{record['cls']}.{test}"
        entry = next((entry for entry in known if entry.covers(method, name)), None)
        if result["outcome"] == "passed":
            verdict.passed += 1
            if entry:
                entry.passed += 1
        elif result["outcome"] not in BAD:
            verdict.skipped += 1
        elif entry:
            verdict.excused += 1
            excused_here = True
            entry.failed += 1
        else:
            text = f"{result['outcome']}: {method} {name}: {gist(result.get('detail'))}"
            verdict.failed.append(text)
    for error in record["fixture_errors"]:
        covered = any(entry.covers(method, f"{record['cls']}.*") for entry in known)
        if not covered and not excused_here:
            text = f"{method} {record['cls']} {error['what']}: {gist(error['detail'])}"
            verdict.failed.append(text)
    if record["leftover_processes"] and not excused_here:
        verdict.failed.append(f"{method} {record['cls']} left processes behind")


def judge(report: dict[str, Any], known: list[Known]) -> Verdict:
    verdict = Verdict()
    for record in report["classes"]:
        judge_class(record, known, verdict)
    if not report["complete"]:
        verdict.failed.append("the run did not finish")
    verdict.failed += [
        f"answered elsewhere: {name}" for name in report["unrouted_modules"]
    ]
    return verdict


def run_suite(
    harness: Path, suite: str, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The harness's report, or None when it made none."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [
            sys.executable, harness / "run_suite.py", "sidestep", "--suite", suite,
            "--python", options.python, "--json", out, "--timeout", str(options.timeout),
        ]  # fmt: skip
        if options.start_method:
            command += ["--start-method", options.start_method]
        for pattern in options.k or []:
            command += ["-k", pattern]
        result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        print(result.stdout, flush=True)
        return json.loads(out.read_text()) if out.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", action="append",
                        help="multiprocessing (default), concurrent_futures")  # fmt: skip
    parser.add_argument(
        "--python", default=sys.executable, help="that has sidestep installed"
    )
    parser.add_argument("--start-method", help="only this one")
    parser.add_argument("--timeout", type=int, default=120, help="seconds per class")
    parser.add_argument("-k", action="append", help="only tests with this in the name")
    options = parser.parse_args()

    harness = find_harness()
    if harness is None:
        print(
            "skipped: no harness (SST_CPYTHON_SUITE, or shared/cpython_suite beside us)"
        )
        print("0 passed, 0 failed")
        return 0
    known = load_known(HERE / "known.toml")
    passed, failed = 0, []
    for suite in options.suite or ["multiprocessing"]:
        report = run_suite(harness, suite, options)
        if report is None:
            failed.append(f"{suite}: the harness made no report")
            continue
        verdict = judge(report, known)
        print(f"{suite}: {verdict.excused} failures excused, {verdict.skipped} skipped")
        passed += verdict.passed
        failed += verdict.failed
    for entry in known:
        if entry.passed and not entry.failed:
            print(
                f"known.toml: {' '.join(entry.tests)} all pass ({entry.passed}): remove"
            )
    for text in failed:
        print("unexpected", text)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
