"""A directory is replaced whole: killed at any moment, the old one or the new one is there."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autopeft.errors import ExportError
from autopeft.export import swap
from autopeft.export.names import TRAIN
from autopeft.export.recipes.subject import FORMATS, Format, Subject
from autopeft.export.recipes.writing import WRITERS
from autopeft.export.swap import recover, replacing, require_free
from autopeft.journey.reciting import recipe_of_candidate
from autopeft.methods.registry import complete
from autopeft.request import Request
from autopeft.space.candidate import Candidate

FILES = ["0.txt", "1.txt", "2.txt", "autopeft.json"]
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
    for name in ("0.txt", "1.txt", "2.txt", "autopeft.json"):
        (staging / name).write_text(version)
"""


def write(target: Path, version: str, last: int = 0, *, exchanges: bool = True) -> int:
    """Write a version in a process of its own; return how it ended."""
    arguments = [str(target), version, str(last), "yes" if exchanges else "no"]
    return subprocess.run([sys.executable, "-c", WRITER, *arguments], check=False).returncode


def version_of(target: Path) -> str:
    """Return what a whole directory holds; files of two versions, or too few, are a failure."""
    texts = {each.name: each.read_text() for each in target.iterdir()}
    assert sorted(texts) == FILES
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


def test_force_replaces_an_empty_directory_and_a_bundle_that_was_added_to(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    for version in ("old", "new"):
        with replacing(tmp_path / "bundle", force=True) as staging:
            (staging / "autopeft.json").write_text(version)
        (tmp_path / "bundle" / "Modelfile").write_text("FROM .")
    assert (tmp_path / "bundle" / "autopeft.json").read_text() == "new"


@pytest.mark.parametrize("wanted", FORMATS)
def test_force_replaces_a_recipe_of_each_format(wanted: Format, tmp_path: Path) -> None:
    subject = Subject.build(
        model="base",
        name="Llama-3.2-1B",
        model_type="llama",
        family="decoder",
        task="sft",
        candidate=complete(Candidate(method="lora")),
        adapter={"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]},
    )
    for _ in range(2):
        with replacing(tmp_path / "recipe", force=True) as staging:
            for name, text in WRITERS[wanted](subject).files.items():
                (staging / name).write_text(text)
            (staging / TRAIN).write_text("{}")
    (tmp_path / "recipe" / "trained").mkdir()
    with pytest.raises(ExportError, match="holds trained, which autopeft did not write there"):
        require_free(tmp_path / "recipe", force=True)


def test_rows_beside_a_recipe_stay_when_it_is_replaced_by_one_without(tmp_path: Path) -> None:
    request, place = Request(model="Llama-3.2-1B", task="sft"), tmp_path / "recipe"
    for rank in (8, 4):
        lora = Candidate(method="lora", rank=rank)
        recipe_of_candidate(request, lora, "trl", place, force=True)
        if rank == 8:
            (place / TRAIN).write_text("mine")
    assert (place / TRAIN).read_text() == "mine"
    assert "lora_r: 4" in (place / "sft.yaml").read_text()


def test_a_directory_with_notes_about_autopeft_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / TRAIN).write_text("mine")
    (tmp_path / "notes.md").write_text("# what lies here was written by autopeft, see below\n")
    with pytest.raises(ExportError, match=re.escape("holds notes.md, which autopeft did not write")):
        require_free(tmp_path, force=True)


def test_what_is_written_is_as_open_as_the_user_s_files_and_a_directory_stays_as_it_was(
    tmp_path: Path,
) -> None:
    before = os.umask(0o077)
    try:
        for mode in (0o700, 0o750):
            with replacing(tmp_path / "bundle", force=True) as staging:
                (staging / "autopeft.json").write_text("{}")
            assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == mode
            assert stat.S_IMODE((tmp_path / "bundle" / "autopeft.json").stat().st_mode) == 0o600
            (tmp_path / "bundle").chmod(0o750)
    finally:
        os.umask(before)


def _work(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("mine")


def _data(place: Path) -> None:
    place.mkdir()
    (place / TRAIN).write_text("mine")


def _clone(place: Path) -> None:
    (place / ".git").mkdir(parents=True)
    (place / "autopeft.json").touch()


def _file(place: Path) -> None:
    place.write_text("mine")


def _link(place: Path) -> None:
    (place.parent / "real").mkdir()
    place.symlink_to("real")


def _dangling(place: Path) -> None:
    place.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_work, "holds thesis.tex, which autopeft did not write there"),
        (_data, f"holds {TRAIN}, which autopeft did not write there"),
        (_clone, "is a git repository"),
        (_file, "is a file"),
        (_link, "is a link"),
        (_dangling, "is a link"),
    ],
)
def test_force_replaces_nothing_else(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    make(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=words), replacing(target, force=True) as staging:
        (staging / "train.py").touch()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_came_meanwhile_and_is_not_ours_is_not_replaced_by_force(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="thesis"), replacing(tmp_path / "bundle", force=True):
        _work(tmp_path / "bundle")
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("named", [".", "..", "../bundle"])
def test_the_working_directory_and_what_holds_it_are_not_replaced(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    with pytest.raises(ExportError, match="is the working directory"), replacing(Path(named), force=True):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_the_working_directory_and_the_root_have_nothing_to_recover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", "/"):
        recover(Path(place))


def test_everyone_may_read_what_a_library_writes_for_its_user_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "bundle") as staging:
        (staging / "more").mkdir(mode=0o700)
        save_file({"a": torch.zeros(1)}, staging / "more" / "a.safetensors")
        (staging / "b").touch(mode=0o600)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.rglob("*")}
    assert modes == {"bundle": 0o755, "more": 0o755, "a.safetensors": 0o644, "b": 0o644}
