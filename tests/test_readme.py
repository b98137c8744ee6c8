"""What the README says is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from autopeft.request import Request

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_help_is_the_help() -> None:
    block = re.search(r"\$ autopeft --help\n(.*?)```", TEXT, re.DOTALL)
    assert block
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "100", "PATH": "", "TERM": "dumb", "NO_COLOR": "1"},
    )
    assert squeeze(block.group(1)) == squeeze(done.stdout)


def squeeze(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"(?:`|^ +|\$ )autopeft ([a-z]+)", TEXT, re.MULTILINE))
    assert {"run", "plan", "estimate"} <= named
    listed = subprocess.run(
        [sys.executable, "-m", "autopeft", "--help"], capture_output=True, text=True, check=True
    ).stdout
    missing = {name for name in named if not re.search(rf"│ {name} ", listed)}
    assert not missing


def test_its_configuration_file_is_valid() -> None:
    block = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block
    assert Request.build(**yaml.safe_load(block.group(1))).budget.gpu_mem == 16 * 10**9


@pytest.mark.parametrize("line", re.findall(r"^    (autopeft (?:run|estimate)[^\n]*)$", TEXT, re.MULTILINE))
def test_its_flags_exist(line: str) -> None:
    command = line.split("&&", maxsplit=1)[0].split()
    known = subprocess.run(
        [sys.executable, "-m", "autopeft", command[1], "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(flag in known for flag in command if flag.startswith("--"))


def test_its_demo_output_is_filled_in() -> None:
    assert "@@" not in TEXT
