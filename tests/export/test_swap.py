"""A directory is replaced whole: killed at any moment, the old one or the new one is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.errors import ExportError
from autopeft.export import swap
from autopeft.export.swap import recover, replacing

FILES = 4
# Writes a directory, and kills itself when it touches the file system for the n-th time.
WRITER = """
import os, signal, sys
from pathlib import Path
from autopeft.export import swap
target, version, last, exchanges = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "yes"
if not exchanges:
    swap.exchange = lambda one, other: False
TOUCHES = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree",
           "tempfile.mkdtemp", "os.scandir", "ctypes.dlsym")
touched = 0
def count(event, arguments):
    global touched
    if event in TOUCHES:
        touched += 1
        if touched == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
with swap.replacing(target, force=True) as staging:
    for index in range(4):
        (staging / f"{index}.txt").write_text(version)
"""


def write(target: Path, version: str, last: int = 0, *, exchanges: bool = True) -> int:
    """Write a version in a process of its own; return how it ended."""
    arguments = [str(target), version, str(last), "yes" if exchanges else "no"]
    return subprocess.run([sys.executable, "-c", WRITER, *arguments], check=False).returncode


def version_of(target: Path) -> str:
    """Return what a whole directory holds; files of two versions, or too few, are a failure."""
    texts = {each.name: each.read_text() for each in target.iterdir()}
    assert sorted(texts) == [f"{index}.txt" for index in range(FILES)]
    (version,) = set(texts.values())
    return version


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanging", "setting aside"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, *, exchanges: bool) -> None:
    target, seen, last = tmp_path / "bundle", set[str](), 0
    assert write(target, "old") == 0
    while True:
        last += 1
        ended = write(target, "new", last, exchanges=exchanges)
        if exchanges:
            assert target.is_dir()
        recover(target)
        seen.add(version_of(target))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        if version_of(target) == "new":
            assert write(target, "old") == 0
    assert seen == {"old", "new"}
    assert last > 15
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_the_first_of_its_name_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target, last = tmp_path / "bundle", 0
    while not target.exists():
        last += 1
        write(target, "new", last)
    assert version_of(target) == "new"


def test_what_is_there_is_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ExportError, match="exists already"), replacing(tmp_path / "bundle"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    assert write(tmp_path / "bundle", "old") == 0
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "bundle", force=True) as staging:
        (staging / "no folder" / "0.txt").write_text("new")
    assert version_of(tmp_path / "bundle") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="came into being"), replacing(tmp_path / "bundle"):
        assert write(tmp_path / "bundle", "theirs") == 0
    assert version_of(tmp_path / "bundle") == "theirs"


def test_a_living_export_is_not_swept_away(tmp_path: Path) -> None:
    with replacing(tmp_path / "bundle", force=True) as staging:
        assert write(tmp_path / "bundle", "theirs") == 0
        (staging / "0.txt").write_text("ours")
    assert (tmp_path / "bundle" / "0.txt").read_text() == "ours"


def test_this_file_system_exchanges_directories(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not swap.exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "one" / "other").exists()
