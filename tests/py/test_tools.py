# SPDX-License-Identifier: MIT
"""The tools count right, find what is missing, and take the header apart."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "tests" / "conformance"))

import run as conformance  # noqa: E402

import headerdoc  # noqa: E402
import machine  # noqa: E402
import symbols  # noqa: E402
import workshop  # noqa: E402


@pytest.mark.parametrize(
    ("record", "passed", "failed"),
    [
        ({"result": "OK", "stdout": "a ... ok\n12 passed, 0 failed\n"}, 12, 0),
        ({"result": "FAIL", "stdout": "3 passed, 2 failed\n"}, 3, 2),
        ({"result": "FAIL", "stdout": "3 passed, 0 failed\n"}, 3, 1),
        ({"result": "TIMEOUT", "stdout": "a ... ok\n"}, 0, 1),
        ({"result": "OK", "stdout": ""}, 1, 0),
        ({"result": "OK"}, 1, 0),
    ],
)
def test_meson_records_are_counted(record, passed, failed):
    outcome = workshop.count_meson_test(record)
    assert (outcome.passed, outcome.failed) == (passed, failed)


def test_a_pytest_run_that_did_not_finish_is_a_failure(tmp_path):
    assert workshop.count_junit(tmp_path / "missing.xml").failed == 1


def test_a_pytest_report_is_counted(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>'
    )
    outcome = workshop.count_junit(report)
    assert (outcome.passed, outcome.failed) == (3, 2)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(machine, "find_compiler", lambda: None)
    assert "a C compiler" in machine.missing_on(machine.Python(sys.executable))
    assert "Python 3.11 or newer" in machine.missing_on(None)


def test_the_running_python_is_found_first():
    found = machine.find_pythons()
    assert found[0].version == "{}.{}".format(*sys.version_info)
    assert len({python.version for python in found}) == len(found)


HEADER = """\
/* ---- Things ---------------
 *
 * A thing is *this* and not `that`.
 */
struct sst_thing;
/* Makes one. 0; SST_ENOMEM. */
SST_API SST_MUST_CHECK int sst_thing_create(struct sst_thing **out,
                                            struct sst_error *err);
SST_API int sst_thing_count(const struct sst_thing *thing); /* how many */
"""


def test_the_header_becomes_a_page():
    page = headerdoc.render(headerdoc.parse(HEADER))
    assert "Things\n------\n" in page
    assert "A thing is *this* and not ``that``." in page
    assert ".. c:struct:: sst_thing" in page
    wanted = "int sst_thing_create(struct sst_thing **out, struct sst_error *err)\n"
    assert ".. c:function:: " + wanted in page
    assert "``sst_thing_count``: how many" in page
    assert symbols.header_functions(HEADER) == {"sst_thing_create", "sst_thing_count"}


def report(outcome, cls="WithProcessesTestPool", detail=None):
    result = {"outcome": outcome, "detail": "Error: why"}
    if detail:
        result["implementation_detail"] = detail
    record = {
        "cls": cls, "start_method": "fork", "tests": {"test_map": result},
        "fixture_errors": [], "leftover_processes": [],
    }  # fmt: skip
    return {"complete": True, "unrouted_modules": [], "classes": [record]}


KNOWN = conformance.Known(["With*TestPool.*"], "later", but=["WithThreads*.*"])


@pytest.mark.parametrize(
    ("data", "passed", "excused", "failed"),
    [
        (report("passed"), 1, 0, 0),
        (report("failed"), 0, 1, 0),
        (report("timeout"), 0, 1, 0),
        (report("failed", "WithThreadsTestPool"), 0, 0, 1),
        (report("error", "WithProcessesTestLock"), 0, 0, 1),
        (report("error", "WithProcessesTestLock", ["a detail"]), 0, 0, 1),
    ],
)
def test_conformance_is_judged(data, passed, excused, failed):
    verdict = conformance.judge(data, [KNOWN])
    assert (verdict.passed, verdict.excused, len(verdict.failed)) == (
        passed,
        excused,
        failed,
    )


def test_every_known_failure_has_a_reason():
    known = conformance.load_known(ROOT / "tests" / "conformance" / "known.toml")
    assert known
    assert all(entry.reason and entry.tests for entry in known)
