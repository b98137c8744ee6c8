from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autopeft.cli import screen
from autopeft.cli.app import main

# The linear cost model is the journey's.
sys.path.insert(0, str(Path(__file__).parents[1] / "journey"))


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def autopeft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Call the command line in an empty directory, as a terminal of 100 columns would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(screen, "LOG_SECONDS", 600.0)  # a busy machine is slow, and then says what it does
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = capfd.readouterr()
        return Answer(int(left.value.code or 0), captured.out, captured.err)

    return call
