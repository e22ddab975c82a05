# SPDX-License-Identifier: MIT
"""The README's commands and links lead somewhere. CI runs the two commands themselves."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")
SCRIPTS = re.findall(
    r"^\$ python3 (tools/\w+\.py)", (ROOT / "README.md").read_text(), re.MULTILINE
)


def test_the_two_commands_are_on_the_first_screen():
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:24])
    assert "python3 tools/start.py" in first_screen
    assert "python3 tools/check.py" in first_screen


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_explains_itself(script):
    command = [sys.executable, ROOT / script, "--help"]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30
    )
    assert "usage:" in shown.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_stages_that_are_named_exist(page):
    sys.path.insert(0, str(ROOT / "tools"))
    import stages

    named = set(re.findall(r"--only (\w[\w-]*)", (ROOT / page).read_text()))
    assert named <= {stage.name for stage in stages.STAGES}
